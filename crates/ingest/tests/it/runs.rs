//! Which runs are made, in which order, and how they end.

use std::sync::Arc;

use granary_ingest::{
    Backfill, Claims, IngestError, MaterializeRequest, RunOutcome, Silent, Stage, WhenClaimed,
};
use granary_model::definitions::ServeMode;
use granary_model::{ErrorKind, Interval};

use crate::project::{Event, Log, Project, at, doubled, event, lines, request, spend, total};

fn days(days: i32) -> Interval {
    Interval {
        days,
        ..Interval::ZERO
    }
}

fn events() -> Vec<Event> {
    vec![
        event(1, "2025-01-05", 10.0),
        event(2, "2025-01-20", 20.5),
        event(1, "2025-02-05", 11.0),
        event(3, "2025-02-07", -3.0),
        event(2, "2025-03-01", 0.5),
    ]
}

fn project() -> Project {
    let project = Project::new();
    project.write(&events());
    project
}

#[tokio::test]
async fn views_are_run_after_what_they_read_and_told_of_step_by_step() {
    let project = project();
    let log = Arc::new(Log::default());
    let request = request(&["spend", "doubled", "total"], "2025-01-31");
    let materializer = project.materializer();
    let outcomes = materializer.materialize(&project.snapshot, request, log.clone());
    assert_eq!(
        lines(outcomes.await.unwrap()),
        [
            "total 2025-01-31: 2 rows",
            "doubled 2025-01-31: 2 rows",
            "spend 2025-01-31: 2 rows"
        ]
    );
    for (view, expected) in [
        ("spend", spend(&events(), "2025-01-31")),
        ("total", total(&events(), "2025-01-31")),
        ("doubled", doubled(&events(), "2025-01-31")),
    ] {
        assert_eq!(project.online(view).await, expected, "{view}");
        let state = project.published(view).await.unwrap();
        assert_eq!(state.coverage.as_of, at("2025-01-31"));
    }
    let told = log.0.lock().unwrap();
    let position = |view: &str, stage: &Stage| {
        let found = told.iter().position(|(v, _, s)| v == view && s == stage);
        found.unwrap_or_else(|| panic!("{view} {stage:?} in {told:?}"))
    };
    for view in ["spend", "total", "doubled"] {
        let stages = [
            Stage::Queued,
            Stage::Computing { rows: 0 },
            Stage::Committed { rows: 2 },
            Stage::Publishing { rows: 2 },
            Stage::Done { rows: 2 },
        ];
        let positions: Vec<usize> = stages.iter().map(|s| position(view, s)).collect();
        assert!(positions.is_sorted(), "{view}: {positions:?}");
    }
    let read = position("total", &Stage::Done { rows: 2 });
    assert!(read < position("doubled", &Stage::Computing { rows: 0 }));
}

#[tokio::test]
async fn a_committed_run_is_skipped_with_the_reason() {
    let project = project();
    project.run(&["spend", "total"], "2025-01-31").await;
    assert_eq!(
        project.run(&["spend", "total"], "2025-01-31").await,
        [
            "spend 2025-01-31: skipped (materialised up to 2025-01-31T00:00:00Z already)",
            "total 2025-01-31: skipped (the run as of 2025-01-31T00:00:00Z is committed already)",
        ]
    );
    assert_eq!(
        project.run(&["spend", "total"], "2025-01-10").await,
        [
            "spend 2025-01-10: skipped (materialised up to 2025-01-31T00:00:00Z already)",
            "total 2025-01-10: 1 rows",
        ]
    );
    // The older run of the snapshot view is offline only.
    assert_eq!(
        project.online("total").await,
        total(&events(), "2025-01-31")
    );
    let state = project.published("total").await.unwrap();
    assert_eq!(state.coverage.as_of, at("2025-01-31"));
    assert_eq!(
        project.run(&["spend"], "2025-02-28").await,
        ["spend 2025-02-28: 2 rows"]
    );
    assert_eq!(
        project.online("spend").await,
        spend(&events(), "2025-02-28")
    );
}

#[tokio::test]
async fn force_computes_again_and_online_forgets_what_is_gone() {
    let project = project();
    let views = ["spend", "total"];
    project.run(&views, "2025-03-31").await;
    let mut corrected = events();
    corrected.retain(|e| e.customer != 3);
    corrected[3].amount = -7.0;
    project.write(&corrected);
    project.run(&views, "2025-03-31").await;
    assert_eq!(
        project.online("spend").await,
        spend(&events(), "2025-03-31")
    );
    let forced = MaterializeRequest {
        force: true,
        ..request(&views, "2025-03-31")
    };
    let outcomes = lines(project.materialize(forced).await.unwrap());
    assert_eq!(
        outcomes,
        ["spend 2025-03-31: 4 rows", "total 2025-03-31: 2 rows"]
    );
    assert_eq!(
        project.online("spend").await,
        spend(&corrected, "2025-03-31")
    );
    assert_eq!(
        project.online("total").await,
        total(&corrected, "2025-03-31")
    );
}

#[tokio::test]
async fn lookback_picks_up_rows_that_came_late() {
    let project = project();
    project.run(&["spend"], "2025-02-10").await;
    let mut late = events();
    late.push(event(5, "2025-02-06", 1.0));
    late.push(event(6, "2025-01-01", 1.0));
    project.write(&late);
    let lookback = MaterializeRequest {
        lookback: Some(days(7)),
        ..request(&["spend"], "2025-02-20")
    };
    let outcomes = project.materialize(lookback.clone()).await.unwrap();
    assert_eq!(lines(outcomes), ["spend 2025-02-20: 3 rows"]);
    let mut seen = late.clone();
    seen.pop();
    assert_eq!(project.online("spend").await, spend(&seen, "2025-02-20"));
    // Repeated, it comes to the same.
    project.materialize(lookback).await.unwrap();
    assert_eq!(project.online("spend").await, spend(&seen, "2025-02-20"));
}

#[tokio::test]
async fn a_backfill_makes_one_run_a_step() {
    let project = project();
    let backfill = MaterializeRequest {
        as_of: None,
        backfill: Some(Backfill {
            from: at("2025-01-31"),
            to: at("2025-03-31"),
            every: Interval {
                months: 1,
                ..Interval::ZERO
            },
        }),
        ..request(&["spend", "doubled", "total"], "2025-01-01")
    };
    let expected = [
        "total 2025-01-31: 2 rows",
        "total 2025-02-28: 3 rows",
        "total 2025-03-31: 3 rows",
        "doubled 2025-01-31: 2 rows",
        "doubled 2025-02-28: 3 rows",
        "doubled 2025-03-31: 3 rows",
        "spend 2025-01-31: 2 rows",
        "spend 2025-02-28: 2 rows",
        "spend 2025-03-31: 1 rows",
    ];
    let outcomes = project.materialize(backfill.clone()).await.unwrap();
    assert_eq!(lines(outcomes), expected);
    let again = project.materialize(backfill.clone()).await.unwrap();
    assert!(
        again
            .iter()
            .all(|o| matches!(o, RunOutcome::Skipped { .. }))
    );
    let forced = MaterializeRequest {
        force: true,
        ..backfill
    };
    assert_eq!(lines(project.materialize(forced).await.unwrap()), expected);
    for (view, expected) in [
        ("spend", spend(&events(), "2025-03-31")),
        ("total", total(&events(), "2025-03-31")),
        ("doubled", doubled(&events(), "2025-03-31")),
    ] {
        assert_eq!(project.online(view).await, expected, "{view}");
    }
}

#[tokio::test]
async fn without_a_time_a_run_is_as_of_now() {
    let project = project();
    project.write_grades(&[(1, 3), (2, 5)]);
    let now = MaterializeRequest {
        views: vec!["grade".into(), "spend".into()],
        ..MaterializeRequest::default()
    };
    let outcomes = lines(project.materialize(now).await.unwrap());
    assert_eq!(
        outcomes,
        ["grade 2026-01-01: 2 rows", "spend 2026-01-01: 5 rows"]
    );
}

#[tokio::test]
async fn the_present_is_not_passed_off_as_the_past() {
    let project = project();
    project.write_grades(&[(1, 3)]);
    let refused = project.run(&["grade"], "2025-01-31").await;
    assert_eq!(
        refused,
        [
            "grade 2025-01-31: failed (grade reads account as it is now, not as of 2025-01-31T00:00:00Z; --current-state allows that)"
        ]
    );
    let allowed = MaterializeRequest {
        current_state: true,
        ..request(&["grade"], "2025-01-31")
    };
    let outcomes = project.materialize(allowed).await.unwrap();
    let RunOutcome::Committed(record) = &outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(record.current_state, ["account"]);
}

#[tokio::test]
async fn a_failed_view_fails_what_reads_it_and_nothing_else() {
    let project = project();
    let views = ["twice", "above_twice", "spend"];
    for (as_of, keys, rows) in [
        ("2025-02-05", "1 key has", 3),
        ("2025-03-31", "2 keys have", 2),
    ] {
        let outcomes = project.run(&views, as_of).await;
        assert_eq!(outcomes.len(), 3, "{outcomes:?}");
        let failed = format!("twice {as_of}: failed (twice: {keys} more than one row");
        assert!(outcomes[0].starts_with(&failed), "{outcomes:?}");
        assert_eq!(
            outcomes[1..],
            [
                "above_twice: not started (twice)".to_owned(),
                format!("spend {as_of}: {rows} rows")
            ]
        );
    }
}

/// Rows that a view would read and that are not there yet are not read as none.
#[tokio::test]
async fn a_view_waits_for_the_runs_that_it_reads() {
    let mut project = project();
    project.change("above_twice", |v| {
        v.depends_on = vec!["spend".into()];
        v.query = "SELECT customer_id, amount AS y FROM spend".into();
    });
    let refused = async |project: &Project, request: MaterializeRequest| {
        let outcomes = project.materialize(request).await.unwrap();
        let [RunOutcome::Failed { error, .. }] = outcomes.as_slice() else {
            panic!("it ran: {:?}", lines(outcomes));
        };
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        error.to_string()
    };
    assert_eq!(
        refused(&project, request(&["doubled"], "2025-03-31")).await,
        "doubled as of 2025-03-31T00:00:00Z reads total, which was never materialised; \
         run both: `granary materialize total doubled --as-of 2025-03-31T00:00:00Z`"
    );
    project.run(&["total", "spend"], "2025-02-28").await;
    assert_eq!(
        refused(&project, request(&["doubled"], "2025-01-31")).await,
        "doubled as of 2025-01-31T00:00:00Z reads total, which has no run at or before that \
         (the first is as of 2025-02-28T00:00:00Z); \
         run both: `granary materialize total doubled --as-of 2025-01-31T00:00:00Z`"
    );
    let now = MaterializeRequest {
        as_of: None,
        ..request(&["above_twice"], "2025-01-31")
    };
    assert_eq!(
        refused(&project, now).await,
        "above_twice as of 2026-01-01T00:00:00Z reads spend, which is materialised up to \
         2025-02-28T00:00:00Z only; run both: `granary materialize spend above_twice`"
    );
    let monthly = |views: &[&str]| MaterializeRequest {
        as_of: None,
        backfill: Some(Backfill {
            from: at("2025-02-28"),
            to: at("2025-03-31"),
            every: days(31),
        }),
        ..request(views, "2025-01-31")
    };
    let message = refused(&project, monthly(&["above_twice"])).await;
    assert!(
        message.starts_with("above_twice as of 2025-03-31T00:00:00Z reads spend")
            && message.ends_with("with the same --from, --to and --every"),
        "{message}"
    );
    // Nothing was committed on the way, and both together do.
    let outcomes = project.materialize(monthly(&["above_twice", "spend"]));
    assert_eq!(
        lines(outcomes.await.unwrap()),
        [
            "spend 2025-02-28: skipped (materialised up to 2025-02-28T00:00:00Z already)",
            "spend 2025-03-31: 1 rows",
            "above_twice 2025-02-28: 3 rows",
            "above_twice 2025-03-31: 3 rows",
        ]
    );
    let newest = spend(&events(), "2025-03-31");
    let newest = newest
        .into_iter()
        .map(|(customer, (_, v))| (customer, (None, v)));
    assert_eq!(project.online("above_twice").await, newest.collect());
    // The newest run at or before T will do.
    assert_eq!(
        project.run(&["doubled"], "2025-03-31").await,
        ["doubled 2025-03-31: 3 rows"]
    );
}

#[tokio::test]
async fn what_cannot_be_materialised_is_refused_before_anything_runs() {
    let mut project = project();
    project.change("total", |v| v.serve = ServeMode::Query { cache_for: None });
    for (views, as_of, kind, words) in [
        (
            ["spend", "spent"],
            "2025-01-31",
            ErrorKind::NotFound,
            "did you mean \"spend\"?",
        ),
        (
            ["spend", "total"],
            "2025-01-31",
            ErrorKind::InvalidArgument,
            "SERVE QUERY",
        ),
        (
            ["spend", "event"],
            "2025-01-31",
            ErrorKind::InvalidArgument,
            "event is a source",
        ),
        (
            ["spend", "grade"],
            "2026-01-02",
            ErrorKind::InvalidArgument,
            "lies in the future",
        ),
    ] {
        let refused = project
            .materialize(request(&views, as_of))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(refused.to_string().contains(words), "{refused}");
    }
    assert_eq!(project.published("spend").await, None);
}

#[tokio::test]
async fn all_views_are_those_that_can_be_materialised() {
    let mut project = project();
    project.write_grades(&[]);
    project.change("twice", |v| v.serve = ServeMode::Query { cache_for: None });
    project.change("grade", |v| v.serve = ServeMode::Offline);
    project
        .snapshot
        .definitions
        .feature_views
        .remove("above_twice");
    let outcomes = project
        .materialize(MaterializeRequest::default())
        .await
        .unwrap();
    let views: Vec<&str> = outcomes.iter().map(RunOutcome::view).collect();
    assert_eq!(views, ["total", "doubled", "grade", "spend"]);
    assert!(outcomes.iter().all(RunOutcome::is_good), "{outcomes:?}");
    assert_eq!(project.published("grade").await, None, "SERVE OFFLINE");
    assert!(project.published("spend").await.is_some());
}

#[tokio::test]
async fn of_two_materialisations_one_is_refused_or_waits() {
    let project = project();
    let lease = std::time::Duration::from_secs(30);
    let claims = Claims::new(&project.catalog, project.clock.clone(), lease);
    let held = claims.take("spend", WhenClaimed::Refuse).await.unwrap();
    let outcomes = project.materialize(request(&["spend", "total"], "2025-01-31"));
    let outcomes = outcomes.await.unwrap();
    let RunOutcome::Failed { error, .. } = &outcomes[0] else {
        panic!("{outcomes:?}");
    };
    assert!(matches!(**error, IngestError::Claimed { .. }), "{error}");
    assert!(outcomes[1].is_good());

    let waiting = MaterializeRequest {
        when_claimed: WhenClaimed::Wait,
        ..request(&["spend"], "2025-01-31")
    };
    let materializer = project.materializer();
    let waiting = materializer.materialize(&project.snapshot, waiting, Arc::new(Silent));
    let (outcomes, ()) = tokio::join!(waiting, held.release());
    assert_eq!(lines(outcomes.unwrap()), ["spend 2025-01-31: 2 rows"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn materialisations_at_once_come_to_what_one_comes_to() {
    let project = project();
    let request = |as_of| MaterializeRequest {
        when_claimed: WhenClaimed::Wait,
        ..request(&["spend", "total", "doubled"], as_of)
    };
    let (first, second) = (project.materializer(), project.materializer());
    let (first, second) = tokio::join!(
        first.materialize(&project.snapshot, request("2025-02-28"), Arc::new(Silent)),
        second.materialize(&project.snapshot, request("2025-03-31"), Arc::new(Silent)),
    );
    let mut all = first.unwrap();
    all.extend(second.unwrap());
    assert!(all.iter().all(RunOutcome::is_good), "{all:?}");
    assert_eq!(
        project.online("spend").await,
        spend(&events(), "2025-03-31")
    );
    assert_eq!(
        project.online("total").await,
        total(&events(), "2025-03-31")
    );
}

/// A computed view has no runs of its own: those that it reads count.
#[tokio::test]
async fn runs_are_waited_for_through_a_computed_view() {
    let mut project = project();
    project.change("doubled", |v| {
        v.serve = ServeMode::Query { cache_for: None }
    });
    project.change("above_twice", |v| {
        v.depends_on = vec!["doubled".into()];
        v.query = "SELECT customer_id, doubled AS y FROM doubled".into();
    });
    let refused = project.run(&["above_twice"], "2025-01-31").await;
    let [refused] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert!(
        refused.contains("above_twice as of 2025-01-31T00:00:00Z reads total, which was never"),
        "{refused}"
    );
    assert_eq!(
        project.run(&["above_twice", "total"], "2025-01-31").await,
        ["total 2025-01-31: 2 rows", "above_twice 2025-01-31: 2 rows"]
    );
    let expected = doubled(&events(), "2025-01-31");
    assert_eq!(project.online("above_twice").await, expected);
}

/// Each run is whole, so the newest alone is online.
#[tokio::test]
async fn a_view_that_calls_as_of_is_run_whole() {
    let mut project = project();
    project.change("spend", |v| {
        v.calls_as_of = true;
        v.query = "SELECT customer_id, at, written_at, amount FROM event \
                   WHERE at > as_of() - INTERVAL '20 days'"
            .into();
    });
    let recent = |as_of: &str| {
        let from = at(as_of).0 - 20 * 86_400_000_000;
        let mut recent = events();
        recent.retain(|e| e.at.0 > from);
        spend(&recent, as_of)
    };
    for (as_of, rows) in [("2025-01-31", 1), ("2025-02-20", 2), ("2025-03-05", 1)] {
        assert_eq!(
            project.run(&["spend"], as_of).await,
            [format!("spend {as_of}: {rows} rows")]
        );
        assert_eq!(project.online("spend").await, recent(as_of), "{as_of}");
    }
    // An older time is run beside them and stays offline.
    let lookback = MaterializeRequest {
        lookback: Some(days(30)),
        ..request(&["spend"], "2025-02-10")
    };
    let outcomes = lines(project.materialize(lookback).await.unwrap());
    assert_eq!(outcomes, ["spend 2025-02-10: 2 rows"]);
    assert_eq!(project.online("spend").await, recent("2025-03-05"));
    assert_eq!(
        project.run(&["spend"], "2025-02-10").await,
        ["spend 2025-02-10: skipped (the run as of 2025-02-10T00:00:00Z is committed already)"]
    );
}
