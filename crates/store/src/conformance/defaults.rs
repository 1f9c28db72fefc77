//! Default rows: what answers keys that have no row of their own.

use std::sync::Arc;

use super::fixture::{
    Outcome, Store, UPSERT, VERSION, VIEW, amounts, amounts_in, coverage, fact, keys, layout,
    nullable_keys, pinned, publish, read, read_all, rows, upsert, write, writer,
};
use crate::error::StoreError;
use crate::online::{GenerationState, WriteMode};

/// The amount of the default row.
const DEFAULT: f64 = -7.5;

async fn publish_with_default(
    store: &Store,
    facts: &[(i64, super::fixture::Fact)],
) -> Result<GenerationState, StoreError> {
    let mut created = writer(store, WriteMode::Create).await?;
    write(&mut created, facts).await?;
    let default = rows(&[fact(0, DEFAULT)])?;
    created.write_default(default.get(0)).await?;
    created.publish(coverage(1)).await
}

pub(super) async fn a_default_row_answers_keys_without_one(store: Store) -> Outcome {
    let state = publish_with_default(&store, &[(1, fact(1, 1.0)), (3, fact(1, 3.0))]).await?;
    assert_eq!(state.rows, 2, "the default row is nobody's");
    let found = amounts(&store, &[3, 2, 1, i64::MAX, 2]).await?;
    let default = Some(DEFAULT);
    assert_eq!(found, vec![Some(3.0), default, Some(1.0), default, default]);

    let generation = pinned(&store).await?;
    let asked = nullable_keys(&[None, Some(2), Some(1)]);
    // Twice: what a cache has kept is the same.
    for _ in 0..2 {
        let found = read(&store, &asked, &generation).await?;
        let expected = rows(&[fact(0, DEFAULT), fact(1, 1.0)])?;
        assert_eq!(found[0], None, "a NULL key has no row");
        assert_eq!(found[1].as_deref(), Some(expected.get(0)));
        assert_eq!(found[2].as_deref(), Some(expected.get(1)));
    }
    // Of nobody at all, too.
    publish_with_default(&store, &[]).await?;
    assert_eq!(amounts(&store, &[1]).await?, vec![default]);
    assert_eq!(pinned(&store).await?.state().rows, 0);
    Ok(())
}

pub(super) async fn a_default_row_is_its_generation_s_own(store: Store) -> Outcome {
    publish_with_default(&store, &[(1, fact(1, 1.0))]).await?;
    let first = pinned(&store).await?;
    // One that is not published changes nothing.
    let mut dropped = writer(&store, WriteMode::Create).await?;
    let other = rows(&[fact(0, 99.0)])?;
    dropped.write_default(other.get(0)).await?;
    drop(dropped);
    assert_eq!(amounts(&store, &[2]).await?, vec![Some(DEFAULT)]);

    publish(&store, &[(1, fact(1, 10.0))]).await?;
    assert_eq!(amounts(&store, &[1, 2]).await?, vec![Some(10.0), None]);
    let old = amounts_in(&store, &[1, 2], &first).await?;
    assert_eq!(old, vec![Some(1.0), Some(DEFAULT)], "pinned");

    let mut beside = store
        .writer("beside", VERSION, layout(), WriteMode::Create)
        .await?;
    // The last word holds.
    beside.write_default(other.get(0)).await?;
    let default = rows(&[fact(0, DEFAULT)])?;
    beside.write_default(default.get(0)).await?;
    beside.publish(coverage(1)).await?;
    let Some(beside) = store.generation("beside", VERSION).await? else {
        panic!("it was published");
    };
    let generations = [pinned(&store).await?, Arc::clone(&beside), first, beside];
    let found = read_all(&store, &keys(&[2]), &generations).await?;
    let default = Some(default.get(0).to_vec());
    let expected = [None, default.clone(), default.clone(), default];
    assert_eq!(found.concat(), expected);
    Ok(())
}

pub(super) async fn an_upsert_keeps_the_default_row(store: Store) -> Outcome {
    publish_with_default(&store, &[(1, fact(1, 1.0))]).await?;
    let held = pinned(&store).await?;
    let mut upserted = writer(&store, UPSERT).await?;
    write(&mut upserted, &[(2, fact(2, 2.0))]).await?;
    let found = amounts_in(&store, &[1, 2, 3], &held).await?;
    assert_eq!(found, vec![Some(1.0), Some(2.0), Some(DEFAULT)]);
    upserted.publish(coverage(2)).await?;
    store.refresh().await?;
    for generation in [held, pinned(&store).await?] {
        let found = amounts_in(&store, &[1, 2, 3], &generation).await?;
        assert_eq!(found, vec![Some(1.0), Some(2.0), Some(DEFAULT)]);
    }
    upsert(&store, &[(3, fact(1, 3.0))]).await?;
    let found = amounts(&store, &[2, 3, 4]).await?;
    assert_eq!(found, vec![Some(2.0), Some(3.0), Some(DEFAULT)]);
    Ok(())
}

pub(super) async fn a_foreign_default_row_is_refused(store: Store) -> Outcome {
    let mut created = writer(&store, WriteMode::Create).await?;
    let row = rows(&[fact(0, DEFAULT)])?;
    let short = &row.get(0)[..3];
    assert!(created.write_default(short).await.is_err(), "cut short");
    created.publish(coverage(1)).await?;
    assert_eq!(amounts(&store, &[1]).await?, vec![None]);

    let mut upserted = writer(&store, UPSERT).await?;
    assert!(
        upserted.write_default(row.get(0)).await.is_err(),
        "an upsert may not set it"
    );
    upserted.publish(coverage(2)).await?;
    assert_eq!(amounts(&store, &[1]).await?, vec![None]);
    assert_eq!(pinned(&store).await?.state().id.view, VIEW);
    Ok(())
}
