//! Who wins, and what a reader sees.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_catalog::{Catalog, CatalogError, DurableLocal, Plan};
use granary_model::ErrorKind;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::fixtures::{Flaky, NOW, Outcome, catalog, definitions, view};

fn plan(name: &str) -> Plan {
    Plan::new(None, definitions([view(name, "SELECT 1", &["a"])]))
}

#[tokio::test]
async fn commits_are_numbered_and_read_back() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = catalog(Arc::clone(&store));
    assert_eq!(catalog.latest().await.unwrap(), None);
    assert_eq!(catalog.newer_than(0).await.unwrap(), None);

    let first = catalog.commit(&plan("spend"), "ann").await.unwrap();
    assert_eq!((first.number, first.committed_by.as_str()), (1, "ann"));
    assert_eq!(first.versions["spend"][0].since, NOW);
    let next = definitions([view("spend", "SELECT 2", &["a"])]);
    let second = Plan::new(Some(&first), next);
    let second = catalog.commit(&second, "bob").await.unwrap();

    // Another process, with nothing in memory.
    let other = crate::fixtures::catalog(store);
    assert_eq!(other.latest().await.unwrap().as_ref(), Some(&second));
    assert_eq!(other.newer_than(0).await.unwrap().as_ref(), Some(&second));
    assert_eq!(other.newer_than(1).await.unwrap().as_ref(), Some(&second));
    assert_eq!(other.newer_than(2).await.unwrap(), None);
    assert_eq!(other.at(1).await.unwrap(), first);
    assert_eq!(other.numbers().await.unwrap(), [1, 2]);
    let missing = other.at(3).await.unwrap_err();
    assert!(matches!(missing, CatalogError::NoSnapshot(3)), "{missing}");
}

#[tokio::test]
async fn a_reader_that_has_read_sees_what_others_commit() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (writer, reader) = (catalog(Arc::clone(&store)), catalog(store));
    let mut last = writer.commit(&plan("v"), "a").await.unwrap();
    assert_eq!(reader.latest().await.unwrap().unwrap().number, 1);
    for number in 2..=40 {
        let query = format!("SELECT {number}");
        let next = Plan::new(Some(&last), definitions([view("v", &query, &["a"])]));
        last = writer.commit(&next, "a").await.unwrap();
        if number % 7 == 0 {
            assert_eq!(reader.latest().await.unwrap().unwrap(), last);
        }
    }
    assert_eq!(reader.newer_than(3).await.unwrap().unwrap(), last);
    assert_eq!(last.definitions.feature_views["v"].version, 40);
}

#[tokio::test]
async fn of_two_commits_on_one_base_one_wins() {
    let catalog = catalog(Arc::new(InMemory::new()));
    let won = catalog.commit(&plan("a"), "ann").await.unwrap();
    let lost = catalog.commit(&plan("b"), "bob").await.unwrap_err();
    assert!(
        matches!(lost, CatalogError::Lost { base: 0, now: 1 }),
        "{lost}"
    );
    assert_eq!(lost.kind(), ErrorKind::Conflict);
    assert_eq!(catalog.latest().await.unwrap().unwrap(), won);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_racing_commits_each_number_goes_to_one() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> =
        Arc::new(DurableLocal::new_with_prefix(folder.path()).unwrap());
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..8 {
        let catalog = catalog(Arc::clone(&store));
        racers.spawn(async move {
            let mut won = Vec::new();
            while won.len() < 3 {
                let base = catalog.latest().await.unwrap();
                let query = format!("SELECT {racer}, {}", won.len());
                let next = Plan::new(base.as_deref(), definitions([view("v", &query, &["a"])]));
                match catalog.commit(&next, &racer.to_string()).await {
                    Ok(snapshot) => won.push((snapshot.number, snapshot.commit_id)),
                    Err(CatalogError::Lost { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
            won
        });
    }
    let mut all = racers.join_all().await.concat();
    all.sort_unstable();
    let numbers: Vec<u64> = all.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=24).collect::<Vec<_>>());
    let reader = catalog(store);
    for (number, id) in all {
        assert_eq!(reader.at(number).await.unwrap().commit_id, id);
    }
    let versions = &reader.latest().await.unwrap().unwrap().versions["v"];
    assert_eq!(versions.len(), 24, "no commit's version was lost");
}

#[tokio::test]
async fn an_uncertain_put_is_read_back() {
    for (outcome, puts) in [(Outcome::Written, 1), (Outcome::NotWritten, 3)] {
        let store = Arc::new(Flaky::new(Arc::new(InMemory::new()), outcome, 2));
        let catalog = catalog(store.clone());
        let won = catalog.commit(&plan("a"), "ann").await.unwrap();
        assert_eq!(store.puts.load(Ordering::SeqCst), puts, "{outcome:?}");
        assert_eq!(catalog.latest().await.unwrap().unwrap(), won);
    }
}

#[tokio::test]
async fn an_uncertain_put_that_another_won_is_lost() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let winner = catalog(Arc::clone(&inner));
    winner.commit(&plan("a"), "ann").await.unwrap();
    for outcome in [Outcome::Written, Outcome::NotWritten] {
        let late = catalog(Arc::new(Flaky::new(Arc::clone(&inner), outcome, 1)));
        let lost = late.commit(&plan("b"), "bob").await.unwrap_err();
        assert!(matches!(lost, CatalogError::Lost { .. }), "{lost}");
    }
}

#[tokio::test]
async fn a_store_that_keeps_failing_is_told_and_nothing_is_there() {
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let store = Flaky::new(Arc::clone(&inner), Outcome::NotWritten, 100);
    let failed = catalog(Arc::new(store)).commit(&plan("a"), "ann").await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(catalog(inner).latest().await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_a_snapshot_is_named() {
    let path = "root/catalog/00000000000000000001.json";
    for (content, kind, words) in [
        ("", ErrorKind::DataLoss, "damaged"),
        ("{\"format\": 1}", ErrorKind::DataLoss, "damaged"),
        ("\u{fffd}garbage", ErrorKind::DataLoss, "damaged"),
        (
            "{\"format\": 2, \"anything\": []}",
            ErrorKind::FailedPrecondition,
            "newer version",
        ),
    ] {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let body = content.to_owned().into();
        store.put(&Path::from(path), body).await.unwrap();
        let catalog: Catalog = catalog(store);
        for failed in [
            catalog.latest().await.unwrap_err(),
            catalog.at(1).await.unwrap_err(),
            catalog.commit(&plan("a"), "ann").await.unwrap_err(),
        ] {
            assert_eq!(failed.kind(), kind, "{content}: {failed}");
            let message = failed.to_string();
            assert!(
                message.contains(path) && message.contains(words),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn files_of_others_are_not_snapshots() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    for name in ["README.md", "1.json", "0000000000000000000x.json"] {
        let path = Path::from(format!("root/catalog/{name}"));
        store.put(&path, "x".into()).await.unwrap();
    }
    let catalog = catalog(store);
    assert_eq!(catalog.latest().await.unwrap(), None);
    assert!(catalog.numbers().await.unwrap().is_empty());
}
