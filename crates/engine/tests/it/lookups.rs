//! Look-ups at request time: the right rows, and few read for them.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use granary_engine::{EngineError, QueryLookup};
use granary_model::FeatureView;

use crate::project::{Project, at, lines};

fn keys(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

fn ids(ids: &[i64]) -> RecordBatch {
    keys(vec![("id", Arc::new(Int64Array::from(ids.to_vec())))])
}

async fn lookup(project: &Project, view: &FeatureView) -> QueryLookup {
    QueryLookup::new(&project.engine, &project.definitions, view)
        .await
        .unwrap()
}

async fn found(lookup: &QueryLookup, keys: &RecordBatch, as_of: &str) -> Vec<String> {
    let mut rows = lines(&[lookup.rows(keys, at(as_of)).await.unwrap()]);
    rows.sort();
    rows
}

async fn events() -> (Project, FeatureView) {
    let mut project = Project::new();
    let rows = "SELECT * FROM (VALUES
        (1, to_timestamp('2025-01-05T00:00:00'), 10.0), (1, to_timestamp('2025-02-05T00:00:00'), 11.0),
        (1, to_timestamp('2025-02-05T00:00:00'), NULL), (2, to_timestamp('2025-01-06T00:00:00'), 20.0),
        (3, NULL, 30.0), (NULL, to_timestamp('2025-01-06T00:00:00'), 40.0)) AS t(id, at, x)";
    project.table_from_sql("event", rows, Some("at")).await;
    let mut view = project
        .feature_view("v", &["id"], &["at"], "SELECT * FROM event")
        .await;
    view.depends_on = vec!["event".into()];
    (project, view)
}

#[tokio::test]
async fn a_timestamped_look_up_gives_the_greatest_row_as_of_t() {
    let (project, view) = events().await;
    let lookup = lookup(&project, &view).await;
    let asked = ids(&[3, 2, 1, 99]);
    let january = ["1|2025-01-05T00:00:00Z|10.0", "2|2025-01-06T00:00:00Z|20.0"];
    assert_eq!(found(&lookup, &asked, "2025-01-31").await, january);
    let december = ["1|2025-02-05T00:00:00Z|11.0", "2|2025-01-06T00:00:00Z|20.0"];
    assert_eq!(found(&lookup, &asked, "2025-12-31").await, december);
    assert_eq!(found(&lookup, &asked, "2024-12-31").await, [""; 0]);
    assert_eq!(found(&lookup, &ids(&[]), "2025-12-31").await, [""; 0]);
}

/// The view's own event time cuts inside its query too, as in a run: of a source
/// without one, rows after t must not take a rank from those before it.
#[tokio::test]
async fn a_look_up_sees_nothing_later_inside_the_query() {
    let mut project = Project::new();
    let rows = "SELECT * FROM (VALUES
        (1, to_timestamp('2025-01-05T00:00:00'), 10.0), (1, to_timestamp('2025-02-05T00:00:00'), 11.0)
        ) AS t(id, at, x)";
    project.table_from_sql("event", rows, None).await;
    let query = "SELECT id, at, x FROM (SELECT id, at, x,
        row_number() OVER (PARTITION BY id ORDER BY at DESC) AS place FROM event) WHERE place = 1";
    let mut view = project.feature_view("v", &["id"], &["at"], query).await;
    view.depends_on = vec!["event".into()];
    let lookup = lookup(&project, &view).await;
    let january = found(&lookup, &ids(&[1]), "2025-01-31").await;
    assert_eq!(january, ["1|2025-01-05T00:00:00Z|10.0"]);
}

#[tokio::test]
async fn a_snapshot_look_up_is_computed_as_of_t_and_names_a_key_that_comes_twice() {
    let (mut project, _) = events().await;
    let query = "SELECT id, count(*) AS n, sum(x) AS total FROM event GROUP BY id";
    let mut view = project.feature_view("total", &["id"], &[], query).await;
    view.depends_on = vec!["event".into()];
    let look = lookup(&project, &view).await;
    assert_eq!(
        found(&look, &ids(&[1, 2]), "2025-01-31").await,
        ["1|1|10.0", "2|1|20.0"]
    );
    assert_eq!(found(&look, &ids(&[1]), "2025-12-31").await, ["1|3|21.0"]);
    let mut view = project
        .feature_view("twice", &["id"], &[], "SELECT id, x FROM event")
        .await;
    view.depends_on = vec!["event".into()];
    let look = lookup(&project, &view).await;
    assert_eq!(found(&look, &ids(&[2]), "2025-12-31").await, ["2|20.0"]);
    let twice = look
        .rows(&ids(&[1, 2]), at("2025-12-31"))
        .await
        .unwrap_err();
    assert!(matches!(&twice, EngineError::DuplicateKeys { examples, .. } if examples == "id = 1"));
}

#[tokio::test]
async fn composite_keys_are_asked_for_in_pairs() {
    let mut project = Project::new();
    let rows = "SELECT * FROM (VALUES ('a', 1, 11), ('a', 2, 12), ('b', 1, 21), ('b', 2, 22)) AS t(b, id, x)";
    project.table_from_sql("raw", rows, None).await;
    let mut view = project
        .feature_view("v", &["b", "id"], &[], "SELECT * FROM raw")
        .await;
    view.depends_on = vec!["raw".into()];
    let asked = keys(vec![
        ("b", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("id", Arc::new(Int64Array::from(vec![2, 1]))),
    ]);
    let look = lookup(&project, &view).await;
    assert_eq!(
        found(&look, &asked, "2026-01-01").await,
        ["a|2|12", "b|1|21"]
    );
}

#[tokio::test]
async fn few_row_groups_are_read_for_few_keys() {
    let mut project = Project::new();
    let context = project
        .engine
        .session(&project.definitions, None)
        .await
        .unwrap();
    let sql = "SELECT value AS id, to_timestamp('2025-01-01T00:00:00') AS at, value * 2 AS x
               FROM generate_series(0, 9999)";
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    project.table_in_groups("event", &rows, Some("at"), 1000);
    let queries = [
        ("plain", "SELECT * FROM event", ["at"].as_slice()),
        (
            "grouped",
            "SELECT id, sum(x) AS x FROM event GROUP BY id",
            &[],
        ),
        (
            "filtered",
            "SELECT id, x + 1 AS x FROM (SELECT * FROM event WHERE x >= 0) AS e",
            &[],
        ),
    ];
    let asked: Vec<i64> = (0..100).map(|i| 3000 + i * 7).collect();
    for (name, query, times) in queries {
        let mut view = project.feature_view(name, &["id"], times, query).await;
        view.depends_on = vec!["event".into()];
        let look = lookup(&project, &view).await;
        assert_eq!(
            found(&look, &ids(&asked), "2025-12-31").await.len(),
            100,
            "{name}"
        );
        let plan = look.explain(&ids(&asked), at("2025-12-31")).await.unwrap();
        assert!(
            plan.contains("row_groups_pruned_statistics=10 total → 1 matched"),
            "{name}: {plan}"
        );
    }
}

/// A view that is computed at request time has no runs: whoever reads it computes it.
#[tokio::test]
async fn a_view_over_computed_views_computes_them_as_of_t() {
    use granary_model::definitions::ServeMode;
    let (mut project, mut last) = events().await;
    let computed = ServeMode::Query { cache_for: None };
    last.serve = computed;
    let query = "SELECT id, count(*) AS n FROM event GROUP BY id";
    let mut count = project.feature_view("n", &["id"], &[], query).await;
    count.serve = computed;
    count.depends_on = vec!["event".into()];
    for view in [&last, &count] {
        let views = &mut project.definitions.feature_views;
        views.insert(view.name.clone(), view.clone());
    }
    let query = "SELECT v.id, v.x, n.n FROM v JOIN n ON n.id = v.id";
    let mut both = project.feature_view("both", &["id"], &[], query).await;
    both.depends_on = vec!["n".into(), "v".into()];
    for (as_of, expected) in [
        ("2025-01-31", ["1|10.0|1", "2|20.0|1"]),
        ("2025-12-31", ["1|11.0|3", "2|20.0|1"]),
    ] {
        project
            .run(&both, as_of, granary_engine::RunMode::Append)
            .await
            .unwrap();
        assert_eq!(project.online(&both, None, None).await, expected, "{as_of}");
        let look = lookup(&project, &both).await;
        assert_eq!(
            found(&look, &ids(&[1, 2]), as_of).await,
            expected,
            "{as_of}"
        );
    }
    let seen = project.sql(None, "SELECT id, x FROM v ORDER BY id").await;
    assert_eq!(seen, ["1|11.0", "2|20.0"], "as of now");

    let views = &mut project.definitions.feature_views;
    let twice = views.get_mut("n").unwrap();
    twice.query = "SELECT id, CAST(1 AS BIGINT) AS n FROM event".into();
    let mut all = both.clone();
    all.query = "SELECT id, CAST(n AS DOUBLE) AS x, n FROM n".into();
    let failed = project
        .run(&all, "2025-11-30", granary_engine::RunMode::Append)
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, EngineError::DuplicateKeys { view, examples, .. } if view == "n" && examples == "id = 1"),
        "{failed}"
    );
}

/// Keys reach the files through a computed view.
#[tokio::test]
async fn few_row_groups_are_read_through_a_computed_view() {
    use granary_model::definitions::ServeMode;
    let mut project = Project::new();
    let context = project
        .engine
        .session(&project.definitions, None)
        .await
        .unwrap();
    let sql = "SELECT value AS id, value * 2 AS x FROM generate_series(0, 9999)";
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    project.table_in_groups("event", &rows, None, 1000);
    let mut inner = project
        .feature_view("inner_view", &["id"], &[], "SELECT id, x FROM event")
        .await;
    inner.serve = ServeMode::Query { cache_for: None };
    inner.depends_on = vec!["event".into()];
    project
        .definitions
        .feature_views
        .insert("inner_view".into(), inner);
    let query = "SELECT id, x + 1 AS x FROM inner_view";
    let mut outer = project
        .feature_view("outer_view", &["id"], &[], query)
        .await;
    outer.depends_on = vec!["inner_view".into()];
    let look = lookup(&project, &outer).await;
    let asked = ids(&[3001, 3500]);
    assert_eq!(
        found(&look, &asked, "2025-12-31").await,
        ["3001|6003", "3500|7001"]
    );
    let plan = look.explain(&asked, at("2025-12-31")).await.unwrap();
    assert!(
        plan.contains("row_groups_pruned_statistics=10 total → 1 matched"),
        "{plan}"
    );
}
