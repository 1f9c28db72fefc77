//! After runs, online rows of views of one entity are laid together.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use granary_ingest::{MaterializeRequest, Progress, RunOutcome, Silent};
use granary_model::definitions::{Column, ServeMode};
use granary_model::{FeatureType, Interval};
use granary_store::MemoryStore;

use crate::full::FullStore;
use crate::project::{Event, Project, at, embedded, event, request, spend, total};

/// Of so many customers that a store has something to lay together.
fn events() -> Vec<Event> {
    { 0..1_200_u32 }
        .map(|n| event(i64::from(n) % 600, "2025-01-05", f64::from(n)))
        .collect()
}

fn full(folder: &Path) -> (Project, FullStore) {
    let store = FullStore {
        inner: Arc::new(MemoryStore::new()),
        steps_left: Arc::new(AtomicUsize::new(0)),
        bundled: Arc::default(),
    };
    let project = Project::at(folder, Arc::new(store.clone()));
    project.write(&events());
    (project, store)
}

#[tokio::test]
async fn views_of_the_same_keys_are_bundled_whichever_ran() {
    let folder = tempfile::tempdir().unwrap();
    let (mut project, store) = full(folder.path());
    let customer = |name: &str, data_type| vec![Column::new(name, data_type)];
    project.change("grade", |v| {
        v.keys = customer("client_id", FeatureType::BigInt);
    });
    project.change("twice", |v| {
        v.keys = customer("customer_id", FeatureType::Int);
    });
    project.change("above_twice", |v| {
        v.keys = customer("customer_id", FeatureType::Int);
    });
    project.change("doubled", |v| v.serve = ServeMode::Offline);
    project.run(&["spend"], "2025-01-10").await;
    let names = |names: [&str; 2]| names.map(|name| (name.to_owned(), project.view(name).version));
    let expected = [names(["above_twice", "twice"]), names(["spend", "total"])];
    assert_eq!(*store.bundled.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_bundle_that_fails_fails_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let (project, store) = full(folder.path());
    let run = async |steps| {
        store.steps_left.store(steps, Ordering::SeqCst);
        let forced = MaterializeRequest {
            force: true,
            ..request(&["spend", "total"], "2025-01-10")
        };
        let outcomes = project.materialize(forced).await.unwrap();
        assert!(outcomes.iter().all(RunOutcome::is_good), "{outcomes:?}");
        store.steps_left.load(Ordering::SeqCst)
    };
    let all = 1_000;
    let left = run(all).await;
    assert!(left < all - 2, "steps of two views and of a bundle");
    // The last one is that of the bundle.
    assert_eq!(run(all - left).await, 0);
    assert_eq!(store.bundled.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_refreshes_and_new_stores_are_bundled() {
    let mut project = Project::embedded();
    project.write(&events());
    let bundled = |folder: &str, number: u64| {
        let file = format!("{folder}/.bundles/b{number}.rows");
        project.folder.join(file).exists()
    };
    project.run(&["spend"], "2025-01-10").await;
    assert!(!bundled("online", 1), "one view");
    project.run(&["total"], "2025-01-10").await;
    assert!(bundled("online", 1));
    assert_eq!(project.online("spend").await.len(), 20);

    let day = Some(Interval::from_micros(86_400_000_000));
    let mut later = Project::at(&project.folder, Arc::clone(&project.store));
    later.change("total", |view| view.refresh_every = day);
    later.clock.set(at("2025-01-20T01:00:00Z"));
    let silent: Arc<dyn Progress> = Arc::new(Silent);
    let materializer = later.materializer();
    let refreshed = materializer.refresh(&later.snapshot, &silent).await;
    assert_eq!(refreshed.unwrap().len(), 1);
    assert!(bundled("online", 2), "half of the rows are others");

    // Another server's store, from the offline tables alone.
    let other = project.folder.join("other");
    std::fs::create_dir(&other).unwrap();
    project.store = embedded(&other);
    let caught_up = project.materializer().catch_up(&project.snapshot).await;
    assert!(caught_up.iter().all(|(_, filled)| filled.is_ok()));
    assert!(other.join("online/.bundles/b1.rows").exists());
    let first_20 = |mut values: crate::project::Values| {
        values.retain(|customer, _| *customer < 20);
        values
    };
    let (spent, totals) = (
        spend(&events(), "2025-01-20"),
        total(&events(), "2025-01-20"),
    );
    assert_eq!(project.online("spend").await, first_20(spent));
    assert_eq!(project.online("total").await, first_20(totals));
}
