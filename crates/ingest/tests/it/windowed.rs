//! Windowed views online: each run is a whole generation with an empty row.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_ingest::{Filled, MaterializeRequest};
use granary_model::definitions::{Column, FeatureView};
use granary_model::fingerprint::Fingerprint;
use granary_model::{FeatureType, ViewKind};
use granary_store::MemoryStore;

use crate::project::{CUSTOMERS, Event, Project, Values, at, embedded, event, lines, request};

const RECENT: &str = "
SELECT customer_id, count(*) OVER d30 AS n, coalesce(sum(amount) OVER d30, 0) AS total,
       count(*) OVER d30 * 100 + CAST(extract(day FROM as_of()) AS BIGINT) AS n_and_day
FROM event
WINDOW d30 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW)";

fn recent() -> FeatureView {
    let features = [
        ("n", FeatureType::BigInt),
        ("total", FeatureType::Double),
        ("n_and_day", FeatureType::BigInt),
    ];
    let features = features.map(|(name, data_type)| Column::new(name, data_type));
    FeatureView {
        name: "recent".into(),
        version: 1,
        fingerprint: Fingerprint::of([RECENT]),
        kind: ViewKind::Windowed,
        event_time: Some("at".into()),
        query: RECENT.into(),
        features: features.into(),
        depends_on: vec!["event".into()],
        ..Project::new().view("total").clone()
    }
}

fn with_recent(mut project: Project) -> Project {
    let views = &mut project.snapshot.definitions.feature_views;
    views.insert("recent".into(), recent());
    project
}

/// What every customer must be told as of T, whoever it is.
fn expected(events: &[Event], as_of: &str, day: i64) -> Values {
    let since = at(as_of).0 - 30 * 86_400_000_000;
    let of_customer = |customer: i64| {
        let in_window = events
            .iter()
            .filter(|e| e.customer == customer && e.at <= at(as_of) && e.at.0 >= since);
        let amounts: Vec<f64> = in_window.map(|e| e.amount).collect();
        let n = amounts.len() as i64;
        let total = amounts.iter().sum();
        let values = vec![n as f64, total, (n * 100 + day) as f64];
        (customer, (None, values))
    };
    (0..CUSTOMERS).map(of_customer).collect()
}

fn events() -> Vec<Event> {
    vec![
        event(1, "2025-01-01", 1.0),
        event(2, "2025-01-01", 2.0),
        event(2, "2025-01-20", 4.0),
        event(3, "2025-02-10", 8.0),
        event(4, "2024-11-01", 16.0),
    ]
}

#[tokio::test]
async fn each_run_replaces_all_rows_and_the_empty_one() {
    for project in [Project::new(), Project::embedded()] {
        let project = with_recent(project);
        project.write(&events());
        // Both ends of the window belong to it: 30 days back is the 1st.
        for (as_of, day, rows) in [
            ("2025-01-31", 31, 2),
            ("2025-02-01", 1, 1),
            ("2025-02-19", 19, 2),
            ("2025-02-20", 20, 1),
            ("2025-06-01", 1, 0),
        ] {
            let outcomes = project.run(&["recent"], as_of).await;
            assert_eq!(outcomes, [format!("recent {as_of}: {rows} rows")]);
            let online = project.online("recent").await;
            assert_eq!(online, expected(&events(), as_of, day), "{as_of}");
            let published = project.published("recent").await.unwrap();
            assert_eq!(
                (published.rows, published.coverage.as_of),
                (rows, at(as_of))
            );
        }
        let again = project.run(&["recent"], "2025-06-01").await;
        assert!(again[0].contains("skipped"), "{again:?}");
    }
}

#[tokio::test]
async fn a_run_for_the_past_leaves_the_newest_online() {
    let project = with_recent(Project::new());
    project.write(&events());
    project.run(&["recent"], "2025-02-19").await;
    let before = project.published("recent").await.unwrap();
    let outcomes = project.run(&["recent"], "2025-01-31").await;
    assert_eq!(outcomes, ["recent 2025-01-31: 2 rows"]);
    let after = project.published("recent").await.unwrap();
    assert_eq!(after.id, before.id);
    assert!(after.coverage.offline_version > before.coverage.offline_version);
    let online = project.online("recent").await;
    assert_eq!(online, expected(&events(), "2025-02-19", 19));

    // The same T anew: late events are in.
    let mut late = events();
    late.push(event(5, "2025-02-18", 32.0));
    project.write(&late);
    let forced = MaterializeRequest {
        force: true,
        ..request(&["recent"], "2025-02-19")
    };
    let outcomes = lines(project.materialize(forced).await.unwrap());
    assert_eq!(outcomes, ["recent 2025-02-19: 3 rows"]);
    let online = project.online("recent").await;
    assert_eq!(online, expected(&late, "2025-02-19", 19));
}

#[tokio::test]
async fn another_store_is_filled_with_the_empty_row_of_the_newest_run() {
    let mut project = with_recent(Project::embedded());
    project.write(&events());
    for as_of in ["2025-01-31", "2025-02-19"] {
        project.run(&["recent"], as_of).await;
    }
    let expected = expected(&events(), "2025-02-19", 19);
    // The same folder, opened by somebody else; then a store that has nothing.
    project.store = embedded(&project.folder);
    assert_eq!(project.online("recent").await, expected);
    project.store = Arc::new(MemoryStore::new());
    let filled = project.materializer().catch_up(&project.snapshot).await;
    let filled: BTreeMap<_, _> = filled.into_iter().collect();
    let recent = filled["recent"].as_ref().unwrap();
    assert!(
        matches!(recent, Filled::Written { rows: 2, .. }),
        "{recent:?}"
    );
    assert_eq!(project.online("recent").await, expected);
}
