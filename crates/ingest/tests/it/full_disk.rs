//! A full disk is told as one, and nothing is lost by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use granary_catalog::DurableLocal;
use granary_ingest::RunOutcome;
use granary_model::ErrorKind;
use granary_store::MemoryStore;

use crate::full::{FullFiles, FullStore};
use crate::project::{Event, Project, event, request, spend, total};

fn events() -> Vec<Event> {
    (0..50)
        .map(|n| event(n % 7, &format!("2025-01-{:02}", n % 28 + 1), n as f64))
        .collect()
}

const VIEWS: [&str; 2] = ["spend", "total"];

async fn check(project: &Project, as_of: &str) {
    assert_eq!(project.online("spend").await, spend(&events(), as_of));
    assert_eq!(project.online("total").await, total(&events(), as_of));
}

/// Every outcome is a failure that says that a disk is full.
fn refused(outcomes: &[RunOutcome]) {
    for outcome in outcomes {
        let RunOutcome::Failed { error, .. } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
        let message = error.to_string();
        assert!(
            message.contains("no space") || message.contains("no storage space"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_written_leaves_everything_as_it_was() {
    for part in ["offline", "claims", "_delta_log"] {
        let folder = tempfile::tempdir().unwrap();
        let files = Arc::new(FullFiles {
            inner: Arc::new(DurableLocal::new()),
            folder: part,
            full: AtomicBool::new(false),
        });
        let store = Arc::new(MemoryStore::new());
        let project = Project::over(folder.path(), files.clone(), store);
        project.write(&events());
        project.run(&VIEWS, "2025-01-10").await;
        files.full.store(true, Ordering::SeqCst);
        let outcomes = project.materialize(request(&VIEWS, "2025-01-20")).await;
        refused(&outcomes.unwrap());
        check(&project, "2025-01-10").await;
        files.full.store(false, Ordering::SeqCst);
        let outcomes = project.materialize(request(&VIEWS, "2025-01-20")).await;
        assert!(outcomes.unwrap().iter().all(RunOutcome::is_good));
        check(&project, "2025-01-20").await;
    }
}

#[tokio::test]
async fn rows_that_do_not_fit_online_are_caught_up() {
    for step in 1..=3 {
        let steps_left = Arc::new(AtomicUsize::new(0));
        let folder = tempfile::tempdir().unwrap();
        let store = FullStore {
            inner: Arc::new(MemoryStore::new()),
            steps_left: Arc::clone(&steps_left),
            bundled: Arc::default(),
        };
        let project = Project::at(folder.path(), Arc::new(store));
        project.write(&events());
        project.run(&VIEWS, "2025-01-10").await;
        steps_left.store(step, Ordering::SeqCst);
        let outcomes = project
            .materialize(request(&VIEWS, "2025-01-20"))
            .await
            .unwrap();
        let failed: Vec<_> = outcomes.into_iter().filter(|o| !o.is_good()).collect();
        assert_eq!(failed.len(), 1, "step {step}");
        refused(&failed);
        let again = project
            .materialize(request(&VIEWS, "2025-01-20"))
            .await
            .unwrap();
        for outcome in &again {
            assert!(matches!(outcome, RunOutcome::Skipped { .. }), "{outcome:?}");
        }
        check(&project, "2025-01-20").await;
    }
}
