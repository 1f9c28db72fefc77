//! Generations from their publication to their end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use granary_model::UtcMicros;
use granary_model::definitions::Column;

use super::fixture::{
    Outcome, Store, UPSERT, VERSION, VIEW, amounts, amounts_in, coverage, fact, keys, layout,
    pinned, publish, read, rows, upsert, write, writer,
};
use crate::codec::{RowLayout, RowOrder};
use crate::error::StoreError;
use crate::online::WriteMode;

pub(super) async fn nothing_is_seen_before_publication(store: Store) -> Outcome {
    let mut created = writer(&store, WriteMode::Create).await?;
    write(&mut created, &[(1, fact(1, 1.0))]).await?;
    assert!(store.generation(VIEW, VERSION).await?.is_none());
    assert!(store.generations().await?.is_empty());
    created.publish(coverage(1)).await?;
    assert_eq!(amounts(&store, &[1]).await?, vec![Some(1.0)]);
    Ok(())
}

pub(super) async fn a_pinned_generation_stays_readable(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0)), (2, fact(1, 2.0))]).await?;
    let first = pinned(&store).await?;
    publish(&store, &[(1, fact(1, 10.0))]).await?;
    let second = pinned(&store).await?;
    publish(&store, &[]).await?;
    for _ in 0..2 {
        let old = amounts_in(&store, &[1, 2], &first).await?;
        assert_eq!(old, vec![Some(1.0), Some(2.0)]);
        let newer = amounts_in(&store, &[1, 2], &second).await?;
        assert_eq!(newer, vec![Some(10.0), None]);
        store.refresh().await?;
    }
    // Writes go to what is published, not to what is pinned.
    upsert(&store, &[(1, fact(9, 9.0))]).await?;
    let old = amounts_in(&store, &[1, 2], &first).await?;
    assert_eq!(old, vec![Some(1.0), Some(2.0)]);
    assert_eq!(amounts(&store, &[1, 2]).await?, vec![Some(9.0), None]);
    Ok(())
}

pub(super) async fn a_pinned_generation_survives_its_version(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    let held = pinned(&store).await?;
    store.drop_version(VIEW, VERSION).await?;
    store.refresh().await?;
    assert_eq!(amounts_in(&store, &[1], &held).await?, vec![Some(1.0)]);
    // The same version, anew, beside the pinned one.
    let state = publish(&store, &[(1, fact(2, 2.0))]).await?;
    assert_ne!(
        state.id,
        held.state().id,
        "caches know a generation by its id"
    );
    assert_eq!(amounts_in(&store, &[1], &held).await?, vec![Some(1.0)]);
    assert_eq!(amounts(&store, &[1]).await?, vec![Some(2.0)]);
    Ok(())
}

pub(super) async fn publication_replaces_the_generation(store: Store) -> Outcome {
    let first = publish(&store, &[(1, fact(9, 1.0)), (2, fact(9, 2.0))]).await?;
    let second = publish(&store, &[(2, fact(1, 20.0)), (3, fact(1, 30.0))]).await?;
    assert!(second.id.number > first.id.number);
    assert_eq!(store.generations().await?, vec![second]);
    let found = amounts(&store, &[1, 2, 3]).await?;
    assert_eq!(
        found,
        vec![None, Some(20.0), Some(30.0)],
        "nothing is carried over"
    );
    Ok(())
}

pub(super) async fn coverage_and_counter_follow_writes(store: Store) -> Outcome {
    let created = publish(&store, &[(1, fact(1, 1.0))]).await?;
    let mut upserted = writer(&store, UPSERT).await?;
    write(&mut upserted, &[(1, fact(0, 0.0))]).await?;
    let counter = pinned(&store).await?.state().write_counter;
    assert_eq!(counter, created.write_counter, "no row changed");
    write(&mut upserted, &[(1, fact(2, 2.0)), (2, fact(2, 2.0))]).await?;
    let live = pinned(&store).await?.state();
    assert!(
        live.write_counter > created.write_counter,
        "raised as it is seen"
    );
    assert_eq!(live.coverage, coverage(1), "not said yet");
    assert_eq!(live.rows, 2);
    let state = upserted.publish(coverage(2)).await?;
    assert!(state.id >= created.id, "the same, or what took its place");
    assert_eq!(
        (&state.id.view, state.id.version),
        (&created.id.view, created.id.version)
    );
    assert_eq!(state.coverage, coverage(2));
    assert_eq!(pinned(&store).await?.state(), state);
    assert_eq!(store.generations().await?, vec![state.clone()]);
    let swept = store.sweep(VIEW, VERSION, UtcMicros(100)).await?;
    assert_eq!(swept, 2);
    let after = pinned(&store).await?.state();
    assert!(after.write_counter > state.write_counter);
    assert_eq!(after.rows, 0);
    Ok(())
}

pub(super) async fn refresh_tells_of_changes(store: Store) -> Outcome {
    assert!(!store.refresh().await?);
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    assert!(store.refresh().await?, "published");
    assert!(!store.refresh().await?);
    pinned(&store).await?;
    assert!(!store.refresh().await?, "reading is no change");
    upsert(&store, &[(1, fact(2, 2.0))]).await?;
    assert!(store.refresh().await?, "upserted");
    assert!(!store.refresh().await?);
    store.sweep(VIEW, VERSION, UtcMicros(100)).await?;
    assert!(store.refresh().await?, "swept");
    assert!(!store.refresh().await?);
    store.drop_version(VIEW, VERSION).await?;
    assert!(store.refresh().await?, "dropped");
    assert!(!store.refresh().await?);
    Ok(())
}

pub(super) async fn upserts_are_seen_by_those_who_pinned(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    let held = pinned(&store).await?;
    assert_eq!(
        amounts_in(&store, &[1, 2], &held).await?,
        vec![Some(1.0), None]
    );
    let mut upserted = writer(&store, UPSERT).await?;
    write(&mut upserted, &[(2, fact(2, 2.0)), (1, fact(2, 1.5))]).await?;
    let seen = amounts_in(&store, &[1, 2], &held).await?;
    assert_eq!(
        seen,
        vec![Some(1.5), Some(2.0)],
        "before publication as well"
    );
    // Dropped without publication: the rows stay, they are joins.
    drop(upserted);
    let seen = amounts_in(&store, &[1, 2], &held).await?;
    assert_eq!(seen, vec![Some(1.5), Some(2.0)]);
    Ok(())
}

/// A row of a later run is never taken for one of the run before it.
pub(super) async fn an_upsert_tells_how_far_it_reaches(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    let (first, second) = (coverage(1).as_of, coverage(2).as_of);
    let held = pinned(&store).await?;
    assert_eq!(held.reaches(), first);
    drop(writer(&store, UPSERT).await?);
    assert_eq!(held.reaches(), first, "nothing was written");

    let mut upserted = writer(&store, UPSERT).await?;
    write(&mut upserted, &[(2, fact(2, 2.0))]).await?;
    amounts_in(&store, &[2], &held).await?;
    assert_eq!(held.reaches(), second);
    drop(upserted);
    for generation in [held, pinned(&store).await?] {
        amounts_in(&store, &[2], &generation).await?;
        assert_eq!(generation.reaches(), second, "its row is there");
        assert_eq!(generation.state().coverage, coverage(1));
    }

    // A publication of the older run does not take the row away.
    let mut older = writer(&store, WriteMode::Upsert { up_to: first }).await?;
    write(&mut older, &[(3, fact(1, 3.0))]).await?;
    older.publish(coverage(1)).await?;
    assert_eq!(pinned(&store).await?.reaches(), second);
    upsert(&store, &[]).await?;
    assert_eq!(pinned(&store).await?.reaches(), second);
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    assert_eq!(pinned(&store).await?.reaches(), first, "a new generation");
    Ok(())
}

pub(super) async fn sweep_removes_what_is_older(store: Store) -> Outcome {
    assert_eq!(store.sweep(VIEW, VERSION, UtcMicros(100)).await?, 0);
    let facts: Vec<_> = (0..1_000).map(|i| (i, fact(i % 10, i as f64))).collect();
    publish(&store, &facts).await?;
    assert_eq!(store.sweep(VIEW, VERSION, UtcMicros(0)).await?, 0);
    assert_eq!(store.sweep(VIEW, VERSION, UtcMicros(7)).await?, 700);
    assert_eq!(store.sweep(VIEW, VERSION, UtcMicros(7)).await?, 0);
    assert_eq!(store.sweep(VIEW, VERSION, UtcMicros(8)).await?, 100);
    let ids: Vec<i64> = (0..1_000).collect();
    for (id, amount) in amounts(&store, &ids).await?.into_iter().enumerate() {
        assert_eq!(amount.is_some(), id % 10 >= 8, "key {id}");
    }
    // Rows without an event time do not age.
    let timeless = Arc::new(RowLayout {
        event_time: false,
        created_time: false,
        features: vec![Column::new("n", granary_model::FeatureType::Int)],
    });
    let array: arrow::array::ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1]));
    let batch = super::fixture::batch(vec![("n", array)])?;
    let mut created = store
        .writer("timeless", 1, Arc::clone(&timeless), WriteMode::Create)
        .await?;
    created
        .write(&keys(&[1]), &timeless.encode(&batch, None, None)?)
        .await?;
    created.publish(coverage(1)).await?;
    assert_eq!(store.sweep("timeless", 1, UtcMicros::MAX).await?, 0);
    Ok(())
}

pub(super) async fn sweep_beside_a_writer_is_busy(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    let held = writer(&store, UPSERT).await?;
    let refused = store.sweep(VIEW, VERSION, UtcMicros(100)).await;
    assert!(
        matches!(refused, Err(StoreError::Busy { .. })),
        "{refused:?}"
    );
    drop(held);
    assert_eq!(store.sweep(VIEW, VERSION, UtcMicros(100)).await?, 1);
    Ok(())
}

pub(super) async fn dropped_versions_are_gone(store: Store) -> Outcome {
    store.drop_version(VIEW, VERSION).await?;
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    store.drop_version(VIEW, VERSION).await?;
    store.drop_version(VIEW, VERSION).await?;
    assert!(store.generation(VIEW, VERSION).await?.is_none());
    assert!(store.generations().await?.is_empty());
    let refused = writer(&store, UPSERT).await;
    assert!(matches!(
        refused.map(drop),
        Err(StoreError::NotPublished { .. })
    ));
    Ok(())
}

pub(super) async fn versions_and_views_stay_apart(store: Store) -> Outcome {
    let views = [
        ("a", 1),
        ("a", 2),
        ("a", 11),
        ("b", 1),
        ("A", 1),
        ("a/b", 1),
        ("..", 1),
    ];
    for (index, (view, version)) in views.into_iter().enumerate() {
        let mut created = store
            .writer(view, version, layout(), WriteMode::Create)
            .await?;
        created
            .write(&keys(&[1]), &rows(&[fact(1, index as f64)])?)
            .await?;
        created.publish(coverage(index as u64)).await?;
    }
    store.drop_version("a", 2).await?;
    let mut left = Vec::new();
    for (index, (view, version)) in views.into_iter().enumerate() {
        let generation = store.generation(view, version).await?;
        assert_eq!(generation.is_some(), (view, version) != ("a", 2));
        if let Some(generation) = generation {
            let found = amounts_in(&store, &[1], &generation).await?;
            assert_eq!(found, vec![Some(index as f64)], "{view} version {version}");
            left.push(generation.state());
        }
    }
    left.sort_by(|a, b| a.id.cmp(&b.id));
    let mut listed = store.generations().await?;
    listed.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(listed, left);
    Ok(())
}

/// Rounds of upserts, each raising every key's event time, beside readers: a
/// row is whole (its amount is its event time) and a key's time never falls.
pub(super) async fn readers_beside_a_writer_see_whole_rows(store: Store) -> Outcome {
    const KEYS: i64 = 50;
    const ROUNDS: i64 = 40;
    let ids: Vec<i64> = (0..KEYS).collect();
    let round = |at: i64| -> Vec<_> { (0..KEYS).map(|id| (id, fact(at, at as f64))).collect() };
    publish(&store, &round(0)).await?;
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, done, ids) = (Arc::clone(&store), Arc::clone(&done), ids.clone());
            tokio::spawn(async move {
                let order = RowOrder::new(&layout());
                let mut seen = vec![0; ids.len()];
                let mut reads = 0;
                while !done.load(Ordering::Acquire) || reads == 0 {
                    let generation = pinned(&store).await?;
                    let found = read(&store, &keys(&ids), &generation).await?;
                    for (id, row) in found.iter().enumerate() {
                        let Some(row) = row else {
                            panic!("key {id} is gone");
                        };
                        let at = order.event_time(row)?.map_or(-1, |time| time.0);
                        assert_eq!(*row, rows(&[fact(at, at as f64)])?.get(0), "torn");
                        assert!(at >= seen[id], "key {id} went from {} to {at}", seen[id]);
                        seen[id] = at;
                    }
                    reads += 1;
                    tokio::task::yield_now().await;
                }
                Ok::<_, StoreError>(seen)
            })
        })
        .collect();
    for at in 1..=ROUNDS {
        if at % 10 == 0 {
            publish(&store, &round(at)).await?;
        } else {
            upsert(&store, &round(at)).await?;
        }
        tokio::task::yield_now().await;
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        match reader.await {
            Ok(outcome) => drop(outcome?),
            Err(error) => panic!("a reader: {error}"),
        }
    }
    let last = amounts(&store, &ids).await?;
    assert!(last.iter().all(|amount| *amount == Some(ROUNDS as f64)));
    Ok(())
}
