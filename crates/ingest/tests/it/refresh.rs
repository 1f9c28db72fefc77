//! REFRESH EVERY: what is due is run, once.

use std::sync::Arc;

use granary_ingest::{DueRun, Progress, Silent, due_runs};
use granary_model::Interval;

use crate::project::{Project, at, event, lines, spend};

#[tokio::test]
async fn what_is_due_is_run_once() {
    let events = [
        event(1, "2025-12-31", 1.0),
        event(2, "2026-01-01T05:00:00Z", 2.0),
    ];
    let mut project = Project::new();
    project.write(&events);
    project.write_grades(&[(1, 7)]);
    let hours = |hours: i64| Some(Interval::from_micros(hours * 3_600_000_000));
    project.change("spend", |v| v.refresh_every = hours(6));
    project.change("grade", |v| v.refresh_every = hours(24));
    project.clock.set(at("2026-01-01T07:30:00Z"));
    let due = |project: &Project, now: &str| {
        let (engine, snapshot, now) = (project.engine.clone(), project.snapshot.clone(), at(now));
        async move { due_runs(&engine, &snapshot, now).await.unwrap() }
    };
    let run = |view: &str, as_of: &str| DueRun {
        view: view.into(),
        as_of: at(as_of),
    };
    assert_eq!(
        due(&project, "2026-01-01T07:30:00Z").await,
        [
            run("grade", "2026-01-01"),
            run("spend", "2026-01-01T06:00:00Z")
        ]
    );
    let silent: Arc<dyn Progress> = Arc::new(Silent);
    let materializer = project.materializer();
    let outcomes = materializer.refresh(&project.snapshot, &silent);
    assert_eq!(
        lines(outcomes.await.unwrap()),
        [
            "spend 2026-01-01T06:00:00Z: 2 rows",
            // It reads accounts as they are now.
            "grade 2026-01-01T07:30:00Z: 1 rows",
        ]
    );
    assert_eq!(
        project.online("spend").await,
        spend(&events, "2026-01-01T06:00:00Z")
    );
    assert_eq!(due(&project, "2026-01-01T11:59:59Z").await, []);
    assert_eq!(
        due(&project, "2026-01-01T12:00:00Z").await,
        [run("spend", "2026-01-01T12:00:00Z")]
    );
    let nothing = materializer.refresh(&project.snapshot, &silent);
    assert!(nothing.await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_refresh_reads_of_other_views_is_run_with_it() {
    let events = [
        event(1, "2025-12-31", 1.0),
        event(2, "2026-01-01T05:00:00Z", 2.0),
    ];
    let mut project = Project::new();
    project.write(&events);
    project.write_grades(&[(1, 7)]);
    // Timestamped, snapshot, and a view over a source without an event time.
    for (reader, read, query) in [
        (
            "doubled",
            "spend",
            "SELECT customer_id, amount * 2 AS doubled FROM spend",
        ),
        (
            "above_twice",
            "total",
            "SELECT customer_id, total AS y FROM total",
        ),
        (
            "twice",
            "grade",
            "SELECT customer_id, CAST(grade AS DOUBLE) AS x FROM grade",
        ),
    ] {
        project.change(reader, |v| {
            v.refresh_every = Some(Interval::from_micros(6 * 3_600_000_000));
            v.depends_on = vec![read.into()];
            v.query = query.into();
        });
    }
    let silent: Arc<dyn Progress> = Arc::new(Silent);
    let refresh = async |project: &Project, now: &str| {
        project.clock.set(at(now));
        let materializer = project.materializer();
        lines(
            materializer
                .refresh(&project.snapshot, &silent)
                .await
                .unwrap(),
        )
    };
    assert_eq!(
        refresh(&project, "2026-01-01T07:30:00Z").await,
        [
            "total 2026-01-01T06:00:00Z: 2 rows",
            "above_twice 2026-01-01T06:00:00Z: 2 rows",
            "spend 2026-01-01T06:00:00Z: 2 rows",
            "doubled 2026-01-01T06:00:00Z: 2 rows",
            "grade 2026-01-01T07:30:00Z: 1 rows",
            "twice 2026-01-01T07:30:00Z: 1 rows",
        ]
    );
    // A snapshot view that has run keeps its own pace.
    assert_eq!(
        refresh(&project, "2026-01-01T12:00:01Z").await,
        [
            "above_twice 2026-01-01T12:00:00Z: 2 rows",
            "spend 2026-01-01T12:00:00Z: 0 rows",
            "doubled 2026-01-01T12:00:00Z: 2 rows",
            "twice 2026-01-01T12:00:01Z: 1 rows",
        ]
    );
}
