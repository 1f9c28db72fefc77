//! What a writer does with rows.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use granary_model::FeatureType;
use granary_model::definitions::Column;

use super::fixture::{
    Fact, Outcome, Store, UPSERT, VERSION, VIEW, amounts, coverage, fact, keys, layout,
    nullable_keys, pinned, publish, read, rows, shuffled, upsert, write, writer,
};
use crate::codec::RowLayout;
use crate::error::StoreError;
use crate::online::{UpsertSummary, WriteMode};
use crate::rows::EncodedRows;

/// The order of facts, as the contract words it.
fn by_contract(a: &Fact, b: &Fact) -> Ordering {
    let number = |x: Option<f64>| match x {
        None => (0, 0.0),
        Some(x) if x.is_nan() => (2, 0.0),
        Some(x) => (1, x),
    };
    a.at.cmp(&b.at)
        .then(
            a.written_at
                .unwrap_or(a.at)
                .cmp(&b.written_at.unwrap_or(b.at)),
        )
        .then_with(|| {
            let ((kind_a, x), (kind_b, y)) = (number(a.amount), number(b.amount));
            kind_a.cmp(&kind_b).then(x.total_cmp(&y))
        })
        .then_with(|| a.note.cmp(&b.note))
}

/// Facts of five keys with every sort of tie.
fn tied_facts() -> Vec<(i64, Fact)> {
    let amounts = [
        None,
        Some(f64::NEG_INFINITY),
        Some(-0.0),
        Some(0.0),
        Some(1e17),
        Some(f64::NAN),
    ];
    let mut facts = Vec::new();
    for (index, amount) in amounts.into_iter().enumerate() {
        for written_at in [None, Some(5), Some(10), Some(11)] {
            for note in [None, Some(""), Some("a"), Some("b")] {
                let at = if index % 2 == 0 { 10 } else { 9 };
                let fact = Fact {
                    at,
                    written_at,
                    amount,
                    note,
                };
                facts.push((1, fact));
                facts.push((2 + index as i64 % 2, fact));
                if written_at.is_none() {
                    facts.push((4, Fact { at: 3, ..fact }));
                }
                if note.is_none() {
                    facts.push((5, fact));
                }
            }
        }
    }
    facts
}

pub(super) async fn writes_are_joins_in_any_order(store: Store) -> Outcome {
    let facts = tied_facts();
    let mut expected: BTreeMap<i64, Fact> = BTreeMap::new();
    for (key, fact) in &facts {
        let held = expected.entry(*key).or_insert(*fact);
        if by_contract(held, fact).is_lt() {
            *held = *fact;
        }
    }
    let ids: Vec<i64> = expected.keys().copied().collect();
    let winners: Vec<Fact> = expected.values().copied().collect();
    let winners = rows(&winners)?;
    for seed in 0..8 {
        let order = shuffled(facts.len(), seed);
        let mixed: Vec<(i64, Fact)> = order.into_iter().map(|i| facts[i]).collect();
        // Some at creation, some by upserts of several sizes, some twice.
        let (first, rest) = mixed.split_at(mixed.len() * seed / 8);
        publish(&store, first).await?;
        for batch in rest.chunks(1 + seed * 7) {
            upsert(&store, batch).await?;
        }
        upsert(&store, &mixed[mixed.len() / 2..]).await?;
        let generation = pinned(&store).await?;
        let found = read(&store, &keys(&ids), &generation).await?;
        for (index, row) in found.iter().enumerate() {
            assert_eq!(
                row.as_deref(),
                Some(winners.get(index)),
                "seed {seed}, key {}",
                ids[index]
            );
        }
        assert_eq!(generation.state().rows, ids.len() as u64);
    }
    Ok(())
}

pub(super) async fn duplicates_in_one_batch_are_joined(store: Store) -> Outcome {
    let facts = [
        (2, fact(1, 1.0)),
        (1, fact(3, 3.0)),
        (2, fact(9, 9.0)),
        (1, fact(2, 2.0)),
        (2, fact(5, 5.0)),
    ];
    let state = publish(&store, &facts).await?;
    assert_eq!(state.rows, 2);
    assert_eq!(amounts(&store, &[1, 2]).await?, vec![Some(3.0), Some(9.0)]);
    upsert(
        &store,
        &[(1, fact(4, 4.0)), (1, fact(6, 6.0)), (2, fact(8, 8.0))],
    )
    .await?;
    assert_eq!(amounts(&store, &[1, 2]).await?, vec![Some(6.0), Some(9.0)]);
    Ok(())
}

pub(super) async fn keys_out_of_order(store: Store) -> Outcome {
    let mut created = writer(&store, WriteMode::Create).await?;
    // Later batches below, between and above the earlier ones, and across them.
    for ids in [
        vec![50, 51],
        vec![10, 60],
        vec![55, 5, 50],
        vec![61, 60, 62],
    ] {
        let facts: Vec<_> = ids.iter().map(|id| (*id, fact(*id, *id as f64))).collect();
        write(&mut created, &facts).await?;
    }
    let state = created.publish(coverage(1)).await?;
    let ids = [5, 10, 50, 51, 55, 60, 61, 62];
    assert_eq!(state.rows, ids.len() as u64);
    let expected: Vec<_> = ids.iter().map(|id| Some(*id as f64)).collect();
    assert_eq!(amounts(&store, &ids).await?, expected);
    Ok(())
}

pub(super) async fn summaries_count_every_row(store: Store) -> Outcome {
    let mut created = writer(&store, WriteMode::Create).await?;
    let first = write(&mut created, &[(1, fact(1, 1.0)), (2, fact(1, 1.0))]).await?;
    assert_eq!(first, summary(2, 0, 0));
    let again = write(
        &mut created,
        &[(1, fact(1, 1.0)), (2, fact(2, 1.0)), (3, fact(0, 0.0))],
    )
    .await?;
    assert_eq!(again, summary(1, 1, 1));
    created.publish(coverage(1)).await?;
    let mut upserted = writer(&store, UPSERT).await?;
    let third = write(
        &mut upserted,
        &[(1, fact(0, 9.0)), (2, fact(3, 0.0)), (9, fact(1, 1.0))],
    )
    .await?;
    assert_eq!(third, summary(1, 1, 1));
    let nothing = write(&mut upserted, &[]).await?;
    assert_eq!(nothing, summary(0, 0, 0));
    Ok(())
}

fn summary(inserted: u64, replaced: u64, kept: u64) -> UpsertSummary {
    UpsertSummary {
        inserted,
        replaced,
        kept,
    }
}

pub(super) async fn a_null_key_is_refused_whole(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    let mut upserted = writer(&store, UPSERT).await?;
    let batch = rows(&[fact(2, 2.0), fact(2, 2.0)])?;
    let refused = upserted
        .write(&nullable_keys(&[Some(1), None]), &batch)
        .await;
    assert!(
        matches!(refused, Err(StoreError::NullKey { row: 1 })),
        "{refused:?}"
    );
    let refused = upserted.write(&keys(&[1]), &batch).await;
    assert!(refused.is_err(), "one key, two rows");
    upserted.publish(coverage(2)).await?;
    assert_eq!(amounts(&store, &[1]).await?, vec![Some(1.0)]);
    Ok(())
}

pub(super) async fn a_foreign_row_is_refused_whole(store: Store) -> Outcome {
    let mut created = writer(&store, WriteMode::Create).await?;
    let good = rows(&[fact(2, 2.0)])?;
    for bad in [
        &b""[..],
        b"\x01",
        &good.get(0)[..20],
        b"not a row of this layout at all ...",
    ] {
        let batch: EncodedRows = [good.get(0), bad].into_iter().collect();
        let refused = created.write(&keys(&[1, 2]), &batch).await;
        assert!(refused.is_err(), "{bad:?}");
    }
    assert_eq!(created.publish(coverage(1)).await?.rows, 0);
    Ok(())
}

pub(super) async fn a_second_writer_is_busy(store: Store) -> Outcome {
    let busy = |opened: Result<_, StoreError>| {
        matches!(opened.map(drop), Err(StoreError::Busy { ref view, version })
            if view == VIEW && version == VERSION)
    };
    let first = writer(&store, WriteMode::Create).await?;
    assert!(busy(writer(&store, WriteMode::Create).await));
    // Another version, or another view, is free.
    for (view, version) in [(VIEW, 2), ("other", VERSION)] {
        let other = store
            .writer(view, version, layout(), WriteMode::Create)
            .await?;
        drop(other);
    }
    first.publish(coverage(1)).await?;
    let second = writer(&store, UPSERT).await?;
    assert!(busy(writer(&store, UPSERT).await));
    assert!(busy(writer(&store, WriteMode::Create).await));
    assert!(matches!(
        store.drop_version(VIEW, VERSION).await,
        Err(StoreError::Busy { .. })
    ));
    drop(second);
    drop(writer(&store, UPSERT).await?);
    Ok(())
}

pub(super) async fn upsert_wants_a_publication(store: Store) -> Outcome {
    let refused = |opened: Result<_, StoreError>| {
        matches!(opened.map(drop), Err(StoreError::NotPublished { .. }))
    };
    assert!(refused(writer(&store, UPSERT).await));
    // A created generation that was not published is none.
    let mut created = writer(&store, WriteMode::Create).await?;
    write(&mut created, &[(1, fact(1, 1.0))]).await?;
    drop(created);
    assert!(refused(writer(&store, UPSERT).await));
    assert!(store.generations().await?.is_empty());
    // A refusal holds no lock.
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    drop(writer(&store, UPSERT).await?);
    Ok(())
}

pub(super) async fn upsert_wants_the_same_layout(store: Store) -> Outcome {
    publish(&store, &[(1, fact(1, 1.0))]).await?;
    let mut other = RowLayout::clone(&layout());
    other.features.push(Column::new("more", FeatureType::Int));
    let other = Arc::new(other);
    let refused = store
        .writer(VIEW, VERSION, Arc::clone(&other), UPSERT)
        .await;
    assert!(matches!(
        refused.map(drop),
        Err(StoreError::LayoutChanged { .. })
    ));
    // A new generation may have another layout; who pinned the old keeps the old.
    let old = pinned(&store).await?;
    let created = store
        .writer(VIEW, VERSION, Arc::clone(&other), WriteMode::Create)
        .await?;
    created.publish(coverage(2)).await?;
    assert_eq!(old.layout(), &layout());
    assert_eq!(pinned(&store).await?.layout(), &other);
    Ok(())
}

pub(super) async fn a_dropped_writer_leaves_nothing(store: Store) -> Outcome {
    for _ in 0..2 {
        let mut created = writer(&store, WriteMode::Create).await?;
        write(&mut created, &[(1, fact(1, 1.0))]).await?;
        drop(created);
        assert!(store.generation(VIEW, VERSION).await?.is_none());
    }
    let state = publish(&store, &[(2, fact(2, 2.0))]).await?;
    assert_eq!(state.rows, 1);
    let mut created = writer(&store, WriteMode::Create).await?;
    write(&mut created, &[(3, fact(3, 3.0))]).await?;
    drop(created);
    assert_eq!(store.generations().await?, vec![state]);
    assert_eq!(
        amounts(&store, &[1, 2, 3]).await?,
        vec![None, Some(2.0), None]
    );
    Ok(())
}
