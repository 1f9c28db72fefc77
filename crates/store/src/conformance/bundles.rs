//! Bundling: reads are the same after it, whatever comes later.

use std::sync::Arc;

use super::fixture::{
    Outcome, Store, UPSERT, coverage, fact, keys, layout, nullable_keys, read_all, rows,
};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{Generation, WriteMode};

const VIEWS: [&str; 3] = ["balance", "spending", "visits"];
/// Its amount tells whose default row it is.
const DEFAULTS: [Option<f64>; 3] = [None, Some(-1.0), Some(-2.0)];
/// Of all views together: enough for any store to lay together.
const ROWS: i64 = 900;

fn asked() -> EntityKeys {
    let some = (0..ROWS + 20).step_by(7).map(Some);
    let twice = [Some(3), None, Some(3), Some(-5), None];
    nullable_keys(&some.chain(twice).collect::<Vec<_>>())
}

/// Every view has every third key, `from` on, with the key as the amount.
async fn create(store: &Store, view: usize, from: i64) -> Outcome {
    let mut writer = { store }
        .writer(VIEWS[view], 1, layout(), WriteMode::Create)
        .await?;
    let ids: Vec<i64> = (from..ROWS).filter(|id| id % 3 != view as i64).collect();
    let facts: Vec<_> = ids.iter().map(|id| fact(1, *id as f64)).collect();
    writer.write(&keys(&ids), &rows(&facts)?).await?;
    if let Some(amount) = DEFAULTS[view] {
        let default = rows(&[fact(0, amount)])?;
        writer.write_default(default.get(0)).await?;
    }
    writer.publish(coverage(1)).await.map(drop)
}

async fn pinned(store: &Store) -> Result<Vec<Arc<dyn Generation>>, StoreError> {
    let mut all = Vec::new();
    for view in VIEWS {
        all.extend(store.generation(view, 1).await?);
    }
    Ok(all)
}

async fn bundle(store: &Store) -> Outcome {
    let views = VIEWS.map(|view| (view.to_owned(), 1));
    let unknown = [("unknown".to_owned(), 1), ("balance".to_owned(), 2)];
    store.bundle(&[&views[..], &unknown].concat()).await?;
    // Bundled already, and too little to be.
    store.bundle(&views).await?;
    store.bundle(&views[..1]).await?;
    store.bundle(&[]).await.map(drop)
}

pub(super) async fn bundled_views_read_the_same(store: Store) -> Outcome {
    for view in 0..VIEWS.len() {
        create(&store, view, 0).await?;
    }
    let generations = pinned(&store).await?;
    let before = read_all(&store, &asked(), &generations).await?;
    let there = before.iter().map(|rows| rows.iter().flatten().count());
    assert_eq!(there.collect::<Vec<_>>(), [86, 135, 135]);
    let states = store.generations().await?;
    bundle(&store).await?;
    assert_eq!(store.generations().await?, states);
    store.refresh().await?;
    assert!(!store.refresh().await?);
    for generations in [generations, pinned(&store).await?] {
        assert_eq!(read_all(&store, &asked(), &generations).await?, before);
        for (at, generation) in generations.iter().enumerate() {
            let alone = std::slice::from_ref(generation);
            let found = read_all(&store, &asked(), alone).await?;
            assert_eq!(found[0], before[at]);
            let beside = [&generations[2], generation, &generations[0], generation];
            let found = read_all(&store, &asked(), &beside.map(Arc::clone)).await?;
            let expected = [&before[2], &before[at], &before[0], &before[at]];
            assert_eq!(found, expected.map(Vec::clone));
        }
    }
    Ok(())
}

pub(super) async fn views_change_after_they_were_bundled(store: Store) -> Outcome {
    for view in 0..VIEWS.len() {
        create(&store, view, 0).await?;
    }
    bundle(&store).await?;
    let old = pinned(&store).await?;
    let before = read_all(&store, &asked(), &old).await?;
    create(&store, 0, 450).await?;
    let mut writer = store.writer(VIEWS[1], 1, layout(), UPSERT).await?;
    let written = rows(&[fact(9, 99.0)])?;
    writer.write(&keys(&[7]), &written).await?;
    writer.publish(coverage(2)).await?;
    store.refresh().await?;

    let now = pinned(&store).await?;
    let found = read_all(&store, &asked(), &now).await?;
    let without: Vec<_> = { before[0].iter().enumerate() }
        // Keys 0, 7, .. 448, and 3 twice.
        .map(|(at, row)| row.clone().filter(|_| (65..132).contains(&at)))
        .collect();
    assert_eq!(found[0], without, "replaced");
    let mut changed = before[1].clone();
    changed[1] = Some(written.get(0).to_vec());
    assert_eq!(found[1], changed, "upserted");
    assert_eq!(found[2], before[2]);
    let found = read_all(&store, &asked(), &old[..1]).await?;
    assert_eq!(found[0], before[0], "pinned");

    // Whatever is bundled now, again, or not any more.
    bundle(&store).await?;
    let after = read_all(&store, &asked(), &now).await?;
    assert_eq!(after, [without, changed, before[2].clone()]);
    store.drop_version(VIEWS[2], 1).await?;
    bundle(&store).await?;
    assert_eq!(pinned(&store).await?.len(), 2);
    assert_eq!(read_all(&store, &asked(), &now).await?, after);
    Ok(())
}
