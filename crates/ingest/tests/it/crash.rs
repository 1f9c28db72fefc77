//! A materialisation that ends at any point and is run again comes to what one
//! comes to that did not end.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use granary_ingest::{MaterializeRequest, Progress, RunOutcome, Silent, Stage, WhenClaimed};
use granary_model::UtcMicros;
use tokio::sync::Notify;

use crate::project::{Event, Project, Values, doubled, embedded, event, request, spend, total};

const VIEWS: [&str; 3] = ["spend", "total", "doubled"];

fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for n in 0..300_i64 {
        let mut e = event(n * 11 % 17, "2025-01-01", (n % 7) as f64);
        e.at.0 += (n * 29 % 80) * 86_400_000_000;
        e.written = e.at;
        events.push(e);
    }
    events
}

async fn online(project: &Project) -> Vec<Values> {
    let mut all = Vec::new();
    for view in VIEWS {
        all.push(project.online(view).await);
    }
    all
}

/// Everything that was committed, of all runs, without when.
async fn offline(project: &Project) -> Vec<String> {
    let session = project.engine.session(&project.snapshot.definitions, None);
    let session = session.await.unwrap();
    let mut rows = Vec::new();
    for view in VIEWS {
        let sql = format!("SELECT * EXCEPT (_created) FROM {view}");
        let batches = session.sql(&sql).await.unwrap().collect().await.unwrap();
        for batch in batches {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter().map(|column| {
                    let text = arrow::util::display::array_value_to_string(column, row);
                    text.unwrap()
                });
                rows.push(format!("{view} {}", values.collect::<Vec<_>>().join("|")));
            }
        }
    }
    rows.sort();
    rows
}

/// Ends the materialisation at its n-th step.
struct Fuse {
    steps: AtomicUsize,
    burnt: Notify,
}

impl Progress for Fuse {
    fn stage(&self, _: &str, _: UtcMicros, _: Stage) {
        if self.steps.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.burnt.notify_one();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_at_any_step_it_is_finished_by_the_next_run() {
    for steps in (1..200).step_by(2) {
        let project = Project::new();
        project.write(&events());
        project.run(&VIEWS, "2025-01-20").await;
        let fuse = Arc::new(Fuse {
            steps: AtomicUsize::new(steps),
            burnt: Notify::new(),
        });
        let materializer = project.materializer();
        let request = |as_of| MaterializeRequest {
            when_claimed: WhenClaimed::Wait,
            ..request(&VIEWS, as_of)
        };
        let run = materializer.materialize(&project.snapshot, request("2025-02-10"), fuse.clone());
        let ended = tokio::select! {
            biased;
            () = fuse.burnt.notified() => None,
            outcomes = run => Some(outcomes.unwrap()),
        };
        let silent = Arc::new(Silent);
        let again = materializer.materialize(&project.snapshot, request("2025-02-10"), silent);
        let again = again.await.unwrap();
        assert!(again.iter().all(RunOutcome::is_good), "{steps}: {again:?}");
        let expected = [spend, total, doubled].map(|view| view(&events(), "2025-02-10"));
        assert_eq!(online(&project).await, expected, "after {steps} steps");
        if ended.is_some() {
            assert!(steps > 10, "it ended on its own after {steps} steps");
            return;
        }
    }
    panic!("the materialisation never ended on its own");
}

/// Names the folder of a project to the process that is to be killed in it.
const FOLDER: &str = "GRANARY_TEST_FOLDER";
const TIMES: [&str; 4] = ["2025-01-10", "2025-01-25", "2025-02-15", "2025-03-31"];

async fn materialize_all(folder: &Path) -> Project {
    let project = Project::at(folder, embedded(folder));
    for as_of in TIMES {
        let request = MaterializeRequest {
            when_claimed: WhenClaimed::Wait,
            ..request(&VIEWS, as_of)
        };
        let outcomes = project.materialize(request).await.unwrap();
        assert!(outcomes.iter().all(RunOutcome::is_good), "{outcomes:?}");
    }
    project
}

/// Not a test of its own: the process that `killed_at_any_time` kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "how the test talks to its child")]
async fn child() {
    if let Ok(folder) = std::env::var(FOLDER) {
        materialize_all(Path::new(&folder)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_time_it_is_finished_by_the_next_run() {
    let (killed, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for folder in [&killed, &whole] {
        Project::at(folder.path(), embedded(folder.path())).write(&events());
    }
    let mut kills = 0;
    for round in 1..=10 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::child", "--exact", "--test-threads=1"])
            .env(FOLDER, killed.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(60 * round)).await;
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        kills += usize::from(running);
    }
    assert!(kills > 0, "no process lived long enough to be killed");
    let killed = materialize_all(killed.path()).await;
    let whole = materialize_all(whole.path()).await;
    assert_eq!(offline(&killed).await, offline(&whole).await);
    assert_eq!(online(&killed).await, online(&whole).await);
    let expected = [spend, total, doubled].map(|view| view(&events(), TIMES[3]));
    assert_eq!(online(&killed).await, expected);
}
