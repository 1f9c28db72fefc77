//! Training sets over definitions as a user writes them.

use arrow::util::pretty::pretty_format_batches;
use datafusion::physical_plan::displayable;
use futures::TryStreamExt;
use granary_engine::training::TrainingSet;
use granary_engine::{Spine, TrainingOptions, TrainingReport, TrainingRequest};
use granary_model::definitions::{BoundView, KeyBinding, KeySource, ServiceFeature};
use granary_model::{Definitions, SourceFile, parse_file};

use crate::project::Project;

/// Checks a text of statements; versions are 1.
pub(crate) async fn define(project: &mut Project, sql: &str) {
    let file = std::sync::Arc::new(SourceFile {
        path: "sql/test.sql".into(),
        text: sql.into(),
    });
    let (statements, wrong) = parse_file(&file);
    assert!(wrong.0.is_empty(), "{wrong}");
    let checked = project.engine.check(&statements).await;
    let checked = checked.unwrap_or_else(|wrong| panic!("{wrong}"));
    project.definitions = checked;
    for view in project.definitions.feature_views.values_mut() {
        view.version = 1;
    }
}

/// `view.feature` each, keys by their own names.
pub(crate) fn listed(
    definitions: &Definitions,
    list: &[&str],
) -> (Vec<BoundView>, Vec<ServiceFeature>) {
    let mut from: Vec<BoundView> = Vec::new();
    let mut features = Vec::new();
    for item in list {
        let (view, feature) = item.split_once('.').unwrap();
        if !from.iter().any(|bound| bound.view == view) {
            // An on-demand view has none.
            let keys = definitions.feature_views.get(view);
            let keys = keys.into_iter().flat_map(|view| &view.keys);
            from.push(BoundView {
                alias: view.into(),
                view: view.into(),
                keys: keys
                    .map(|key| KeyBinding {
                        key: key.clone(),
                        source: KeySource::Request(key.name.clone()),
                    })
                    .collect(),
            });
        }
        features.push(ServiceFeature {
            name: feature.into(),
            view_alias: view.into(),
            feature: feature.into(),
            aggregate: None,
        });
    }
    (from, features)
}

async fn planned(
    project: &Project,
    spine: &str,
    list: &[&str],
    options: TrainingOptions,
) -> TrainingSet {
    let (from, features) = listed(&project.definitions, list);
    let request = TrainingRequest {
        spine: Spine::Sql(spine.into()),
        time: "event_time".into(),
        from,
        features,
        options,
        request_events: Vec::new(),
    };
    let set = project.engine.training_set(&project.definitions, request);
    set.await.unwrap()
}

pub(crate) async fn training(
    project: &Project,
    spine: &str,
    list: &[&str],
    options: TrainingOptions,
) -> (String, TrainingReport) {
    let set = planned(project, spine, list, options).await;
    let rows: Vec<_> = set.execute().unwrap().try_collect().await.unwrap();
    (
        pretty_format_batches(&rows).unwrap().to_string(),
        set.report(),
    )
}

const EVENTS: &str = "SELECT * FROM (VALUES
    (1, TIMESTAMP '2025-01-01T00:00:00Z', 10.0, 'a'),
    (1, TIMESTAMP '2025-01-03T00:00:00Z', 20.0, 'b'),
    (1, TIMESTAMP '2025-01-05T00:00:00Z', 40.0, 'a'),
    (2, TIMESTAMP '2025-01-02T00:00:00Z', 5.0, NULL)) AS t(customer_id, at, amount, kind)";

const SPINE: &str = "SELECT * FROM (VALUES
    (1, TIMESTAMP '2025-01-05T00:00:00Z', true),
    (2, TIMESTAMP '2025-01-01T00:00:00Z', false),
    (1, TIMESTAMP '2025-01-04T00:00:00Z', true),
    (3, TIMESTAMP '2025-01-04T00:00:00Z', NULL),
    (NULL, TIMESTAMP '2025-01-04T00:00:00Z', true),
    (2, NULL, false)) AS t(customer_id, event_time, label)";

async fn project() -> Project {
    let mut project = Project::new();
    project.table_from_sql("payments", EVENTS, None).await;
    define(
        &mut project,
        "CREATE ENTITY customer KEY (customer_id BIGINT);
         CREATE EXTERNAL TABLE payments STORED AS PARQUET LOCATION 'payments.parquet';
         EVENT TIME OF payments IS at;
         CREATE FEATURE VIEW latest ENTITY customer EVENT TIME at TTL INTERVAL '1 day'
           AS SELECT customer_id, at, amount AS last_amount, kind AS last_kind FROM payments;
         CREATE FEATURE VIEW spend ENTITY customer EVENT TIME at
           AS SELECT customer_id, count(*) OVER d3 AS n, sum(amount) OVER d3 AS total,
                     last_value(kind) OVER ever AS kind,
                     (date_part('epoch', as_of()) - date_part('epoch', max(at) OVER ever)) / 86400 AS days_since
              FROM payments
              WINDOW d3 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW),
                     ever AS (PARTITION BY customer_id ORDER BY at);
         CREATE FEATURE VIEW totals ENTITY customer
           AS SELECT customer_id, count(*) AS payments_total FROM payments GROUP BY customer_id;
         CREATE FEATURE VIEW by_day ENTITY customer EVENT TIME at
           AS SELECT customer_id, at, sum(amount) AS day_total FROM payments GROUP BY customer_id, at;
         CREATE FEATURE VIEW matched ENTITY customer EVENT TIME at
           AS SELECT a.customer_id, a.at, count(b.at) AS later_ones FROM payments a
              LEFT JOIN payments b ON a.customer_id = b.customer_id AND b.at > a.at
              GROUP BY a.customer_id, a.at;",
    )
    .await;
    project
}

#[tokio::test]
async fn every_kind_of_view_gives_its_values_as_of_each_row() {
    let project = project().await;
    let list = [
        "latest.last_amount",
        "spend.n",
        "spend.total",
        "spend.kind",
        "spend.days_since",
        "by_day.day_total",
        "matched.later_ones",
    ];
    let options = TrainingOptions {
        statuses: false,
        ..TrainingOptions::default()
    };
    let (rows, report) = training(&project, SPINE, &list, options).await;
    insta::assert_snapshot!(rows);
    assert_eq!(report.rows, 6);
    assert_eq!(report.null_times, 1);
    assert_eq!(report.null_keys, [("customer_id".to_owned(), 1)]);
}

#[tokio::test]
async fn timestamped_views_over_one_relation_share_a_scan() {
    let mut project = Project::new();
    project.table_from_sql("payments", EVENTS, None).await;
    define(
        &mut project,
        "CREATE ENTITY customer KEY (customer_id BIGINT);
         CREATE EXTERNAL TABLE payments STORED AS PARQUET LOCATION 'payments.parquet';
         EVENT TIME OF payments IS at;
         CREATE FEATURE VIEW newest ENTITY customer EVENT TIME at
           AS SELECT customer_id, at, amount FROM payments;
         CREATE FEATURE VIEW newest_a ENTITY customer EVENT TIME paid TTL INTERVAL '3 days'
           AS SELECT customer_id, at AS paid, 2 * amount AS twice, upper(kind) AS kind FROM payments
              WHERE kind = 'a';",
    )
    .await;
    let list = ["newest.amount", "newest_a.twice", "newest_a.kind"];
    let options = TrainingOptions {
        statuses: true,
        ..TrainingOptions::default()
    };
    let set = planned(&project, SPINE, &list, options).await;
    let plan = displayable(set.plan().as_ref()).indent(false).to_string();
    assert_eq!(plan.matches("AsOfJoinExec").count(), 1, "{plan}");
    let (rows, _) = training(&project, SPINE, &list, options).await;
    insta::assert_snapshot!(rows);
}
