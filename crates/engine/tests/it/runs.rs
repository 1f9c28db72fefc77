//! Runs: what they commit, once, and what they refuse.

use granary_engine::{EngineError, RunMode};

use crate::project::{Project, at};

const EVENTS: &str = "SELECT * FROM (VALUES
    (1, to_timestamp('2025-01-05T00:00:00'), 10.0),
    (2, to_timestamp('2025-01-06T00:00:00'), 20.0),
    (1, to_timestamp('2025-02-05T00:00:00'), 11.0),
    (3, to_timestamp('2025-03-01T00:00:00'), 30.0)) AS t(customer_id, at, amount)";

async fn timestamped() -> (Project, granary_model::FeatureView) {
    let mut project = Project::new();
    project.table_from_sql("event", EVENTS, Some("at")).await;
    let view = project
        .feature_view("spend", &["customer_id"], &["at"], "SELECT * FROM event")
        .await;
    (project, view)
}

#[tokio::test]
async fn an_appending_run_adds_what_is_new_and_a_repeated_one_is_refused() {
    let (project, view) = timestamped().await;
    let first = project
        .run(&view, "2025-01-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(
        (first.rows, first.offline_version, first.from),
        (2, 0, None)
    );
    let second = project
        .run(&view, "2025-03-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!((second.rows, second.offline_version), (2, 1));
    assert_eq!(second.from, Some(at("2025-01-31")));
    for earlier in ["2025-03-31", "2025-02-01"] {
        let again = project.run(&view, earlier, RunMode::Append).await;
        assert!(
            matches!(again, Err(EngineError::AlreadyRun { .. })),
            "{again:?}"
        );
    }
    let table = project.open(&view).await;
    assert_eq!(table.watermark(), at("2025-03-31"));
    assert_eq!(table.runs(5).await.unwrap(), vec![second, first]);
    assert_eq!(
        project.online(&view, None, None).await,
        [
            "1|2025-01-05T00:00:00Z|10.0",
            "1|2025-02-05T00:00:00Z|11.0",
            "2|2025-01-06T00:00:00Z|20.0",
            "3|2025-03-01T00:00:00Z|30.0",
        ]
    );
    assert_eq!(
        project.online(&view, Some(0), None).await,
        ["1|2025-02-05T00:00:00Z|11.0", "3|2025-03-01T00:00:00Z|30.0"]
    );
}
