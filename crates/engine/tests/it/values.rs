//! The values of a feature view as of a time, as whoever reads it sees them.

use granary_engine::{EngineError, OfflineTable, RunMode};
use granary_model::ErrorKind;

use crate::project::{Project, at};
use crate::runs::{EVENTS, snapshot, timestamped};

/// What `as_of()` lets through changes with T, for old rows too.
#[tokio::test]
async fn a_view_that_calls_as_of_is_computed_whole_by_every_run() {
    let mut project = Project::new();
    let rows = "SELECT * FROM (VALUES
        (1, to_timestamp('2025-01-05T00:00:00'), to_timestamp('2025-02-15T00:00:00')),
        (1, to_timestamp('2025-01-06T00:00:00'), to_timestamp('2025-01-20T00:00:00')),
        (2, to_timestamp('2025-02-01T00:00:00'), to_timestamp('2025-02-10T00:00:00'))
        ) AS t(id, at, due)";
    project.table_from_sql("bill", rows, Some("at")).await;
    let query = "SELECT id, at, due FROM bill WHERE due <= as_of()";
    let mut view = project.feature_view("due", &["id"], &["at"], query).await;
    view.calls_as_of = true;
    project
        .definitions
        .feature_views
        .insert("due".into(), view.clone());
    let (first, second, third) = (
        "1|2025-01-05T00:00:00Z|2025-02-15T00:00:00Z",
        "1|2025-01-06T00:00:00Z|2025-01-20T00:00:00Z",
        "2|2025-02-01T00:00:00Z|2025-02-10T00:00:00Z",
    );
    for (as_of, rows) in [
        ("2025-01-10", 0),
        ("2025-01-31", 1),
        ("2025-03-01", 3),
        ("2025-02-12", 2),
    ] {
        let record = project.run(&view, as_of, RunMode::Append).await.unwrap();
        assert_eq!((record.rows, record.from), (rows, None), "{as_of}");
    }
    let again = project.run(&view, "2025-01-31", RunMode::Append).await;
    assert!(
        matches!(again, Err(EngineError::AlreadyRun { .. })),
        "{again:?}"
    );
    // The newest run alone is online, and each time is answered by its own run.
    let newest = [first, second, third];
    assert_eq!(project.online(&view, None, None).await, newest);
    assert_eq!(project.online(&view, Some(0), None).await, newest);
    let table = project.open(&view).await;
    assert_eq!(table.watermark(), at("2025-03-01"));
    let times = ["2025-01-10", "2025-01-31", "2025-02-12", "2025-03-01"];
    assert_eq!(table.run_times().await.unwrap(), times.map(at));
    for (as_of, expected) in [
        ("2025-01-09", vec![]),
        ("2025-01-12", vec![]),
        ("2025-01-31", vec![second]),
        ("2025-02-20", vec![second, third]),
        ("2025-12-31", vec![second, third]),
    ] {
        let seen = project.sql(Some(as_of), "SELECT * FROM due ORDER BY id");
        assert_eq!(seen.await, expected, "as of {as_of}");
    }
    project
        .run(&view, "2025-03-01", RunMode::Replace)
        .await
        .unwrap();
    assert_eq!(project.online(&view, None, None).await, newest);
}

/// Whoever reads a feature view sees no value that a service would call too old.
#[tokio::test]
async fn the_ttl_holds_for_what_reads_a_view() {
    let ttl = granary_model::Interval {
        days: 30,
        ..granary_model::Interval::ZERO
    };
    let (mut project, mut view) = timestamped(EVENTS).await;
    view.ttl = Some(ttl);
    project
        .definitions
        .feature_views
        .insert("spend".into(), view.clone());
    project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    let sql = "SELECT customer_id, amount FROM spend ORDER BY 1";
    for (as_of, expected) in [
        ("2025-02-04T00:00:00Z", vec!["1|10.0", "2|20.0"]),
        ("2025-02-05T00:00:00Z", vec!["1|11.0", "2|20.0"]),
        ("2025-02-05T00:00:00.000001Z", vec!["1|11.0"]),
        ("2025-03-07T00:00:00Z", vec!["1|11.0", "3|30.0"]),
        ("2025-12-31T00:00:00Z", vec![]),
    ] {
        assert_eq!(project.sql(Some(as_of), sql).await, expected, "{as_of}");
    }
    let (mut project, mut view) = snapshot(EVENTS).await;
    view.ttl = Some(ttl);
    project
        .definitions
        .feature_views
        .insert("total".into(), view.clone());
    project
        .run(&view, "2025-01-31", RunMode::Append)
        .await
        .unwrap();
    let sql = "SELECT count(*) FROM total";
    for (as_of, rows) in [
        ("2025-01-30T00:00:00Z", "0"),
        ("2025-01-31T00:00:00Z", "2"),
        ("2025-03-02T00:00:00Z", "2"),
        ("2025-03-02T00:00:00.000001Z", "0"),
    ] {
        assert_eq!(project.sql(Some(as_of), sql).await, [rows], "{as_of}");
    }
}

/// Ties as the online store decides them.
#[tokio::test]
async fn every_nan_is_alike_and_a_null_created_time_is_the_event_time() {
    let mut project = Project::new();
    let row = |id, written: &str, x: &str, note: &str| {
        format!(
            "({id}, to_timestamp('2025-01-05T00:00:00'), {written}, CAST('{x}' AS DOUBLE), '{note}')"
        )
    };
    let day = |day: u8| format!("to_timestamp('2025-01-{day:02}T00:00:00')");
    let rows = [
        row(1, "NULL", "1", "of the event time"),
        row(1, &day(4), "2", "written before"),
        row(2, &day(6), "NaN", "a"),
        row(2, &day(6), "-NaN", "b"),
        row(2, &day(6), "inf", "c"),
        row(3, &day(5), "-0.0", "x"),
        row(3, "NULL", "0.0", "greater"),
    ]
    .join(",");
    let values = format!("SELECT * FROM (VALUES {rows}) AS t(id, at, written, x, note)");
    let signed = "SELECT id, at, written, CASE WHEN note = 'b' THEN -x ELSE x END AS x, note FROM";
    let values = values.replace("'-NaN'", "'NaN'");
    project
        .table_from_sql("raw", &format!("{signed} ({values})"), None)
        .await;
    let times = ["at", "written"];
    let mut view = project
        .feature_view("v", &["id"], &times, "SELECT * FROM raw")
        .await;
    view.depends_on = vec!["raw".into()];
    project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    let expected = ["1|of the event time", "2|b", "3|greater"];
    let offline = project.sql(Some("2025-12-31"), "SELECT id, note FROM v ORDER BY id");
    assert_eq!(offline.await, expected);
    let look = granary_engine::QueryLookup::new(&project.engine, &project.definitions, &view)
        .await
        .unwrap();
    let ids = arrow::array::Int64Array::from(vec![1, 2, 3]);
    let ids: arrow::array::ArrayRef = std::sync::Arc::new(ids);
    let keys = arrow::array::RecordBatch::try_from_iter([("id", ids)]).unwrap();
    let found = look.rows(&keys, at("2025-12-31")).await.unwrap();
    let found = found.project(&[0, 4]).unwrap();
    let mut found = crate::project::lines(&[found]);
    found.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn what_was_never_run_is_no_empty_table() {
    let (project, view) = timestamped(EVENTS).await;
    for as_of in [None, Some(at("2025-12-31"))] {
        let context = project.engine.session(&project.definitions, as_of).await;
        let frame = context.unwrap().sql("SELECT * FROM spend").await.unwrap();
        let error = EngineError::from_query("query", frame.collect().await.unwrap_err());
        assert_eq!(
            error.to_string(),
            "spend: version 1 was never materialised: run `granary materialize spend`"
        );
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    }
    let exists = async || OfflineTable::exists(&project.engine, &view).await.unwrap();
    assert!(!exists().await);
    project
        .run(&view, "2024-12-31", RunMode::Append)
        .await
        .unwrap();
    assert!(exists().await);
    assert_eq!(project.sql(None, "SELECT * FROM spend").await, [""; 0]);
}
