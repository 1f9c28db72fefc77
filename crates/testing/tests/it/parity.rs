//! Offline parity: what `materialize --as-of T` puts online equals the training
//! set's value of a spine row at T, for every key.
//!
//! Made-up definitions over made-up events, and on the public data sets the
//! lender's timestamped views and windowed ones over its canonical schema. Keys
//! that nothing ever happened to, and NULL, are asked for as well.

pub(crate) mod compare;
mod random;
mod requests;
mod restarts;

use std::path::Path;
use std::sync::Arc;

use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::{FeatureView, ManualClock, UtcMicros, ViewKind};
use granary_serving::ServingSettings;
use granary_testing::TestProject;
use proptest::prelude::*;

use crate::lender::project::{adapter, definitions};
use crate::lender::raw;
use compare::{Counts, Parity, tiled};

/// A project whose clock stands beyond every T.
fn project(folder: &Path) -> TestProject {
    let clock = Arc::new(ManualClock::new("2040-01-01".parse().unwrap()));
    TestProject::open(folder, EngineSettings::default(), clock).unwrap()
}

/// Materialises the views as of each T in turn and compares every key of each;
/// `keys_of` gives a query for the keys of a view.
async fn verify(
    project: &TestProject,
    views: &[FeatureView],
    times: &[UtcMicros],
    keys_of: impl Fn(&FeatureView) -> String,
) -> Counts {
    let mut counts = Counts::default();
    for t in times {
        let run = MaterializeRequest {
            views: views.iter().map(|view| view.name.clone()).collect(),
            as_of: Some(*t),
            ..MaterializeRequest::default()
        };
        project.materialize(run).await.unwrap();
        let parity = Parity::as_of(project, *t).await;
        for view in views {
            parity.compare(view, &keys_of(view), &mut counts).await;
        }
    }
    counts
}

fn agree(what: &str, counts: &Counts) {
    let some = &counts.differences[..counts.differences.len().min(10)];
    assert!(
        some.is_empty(),
        "{what}: {} differences: {some:#?}",
        counts.differences.len()
    );
}

/// Windowed views over the canonical schema, one an entity that has events.
const WINDOWED: &str = include_str!("parity/windowed.sql");

/// Every key that a data set knows, one that it does not, and NULL.
fn keys_of_lender(view: &FeatureView) -> String {
    let from = |key: &str, sources: &[&str]| {
        let known = sources.iter().map(|source| match source.split_once('.') {
            Some((table, column)) => format!("SELECT {column} AS {key} FROM {table}"),
            None => format!("SELECT {key} FROM {source}"),
        });
        let known: Vec<String> = known.collect();
        let (unknown, data_type) = match key {
            "phone_number" | "device_id" => ("'nobody'", "VARCHAR"),
            _ => ("-1", "BIGINT"),
        };
        format!(
            "{} UNION SELECT CAST({unknown} AS {data_type}) UNION SELECT CAST(NULL AS {data_type})",
            known.join(" UNION ")
        )
    };
    match view.entities[0].as_str() {
        "customer" => from(
            "customer_id",
            &["customers", "applications", "purchases", "places", "loans"],
        ),
        "account" => from("account_id", &["accounts", "transactions"]),
        "loan" => from("loan_id", &["loans", "repayments"]),
        "phone" => from("phone_number", &["phone_events"]),
        "device" => from("device_id", &["devices"]),
        other => panic!("{} is of the entity {other}", view.name),
    }
}

/// The lender's timestamped and windowed views over one data set.
/// At least so many values must be there to be compared.
async fn verify_lender(adapter_name: &str, data: &str, times: [&str; 2], present_min: usize) {
    let Some(data) = raw::folder(data) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = data.canonicalize().unwrap();
    std::os::unix::fs::symlink(data, folder.path().join("data")).unwrap();
    let project = project(folder.path());
    let mut files = definitions(adapter(adapter_name));
    files.push(("sql/windowed.sql".into(), WINDOWED.into()));
    let files = files
        .iter()
        .map(|(path, sql)| (path.as_str(), sql.as_str()));
    let files: Vec<(&str, &str)> = files.collect();
    let snapshot = project.apply(&files).await.unwrap();
    let views = snapshot.definitions.feature_views.values();
    // Live views have no runs: `live` holds them to the training set.
    let views = views.filter(|view| view.kind != ViewKind::Snapshot && !view.is_live());
    let views: Vec<FeatureView> = views.cloned().collect();
    let of_kind = |kind| views.iter().filter(|view| view.kind == kind).count();
    assert_eq!(of_kind(ViewKind::Windowed), 4);
    assert!(of_kind(ViewKind::Timestamped) >= 10);

    let times = times.map(|t| t.parse().unwrap());
    let counts = verify(&project, &views, &times, keys_of_lender).await;
    agree(adapter_name, &counts);
    assert!(
        counts.present >= present_min,
        "only {} values of {} keys",
        counts.present,
        counts.keys
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bank() {
    let times = ["1993-12-31T12:00:00Z", "1994-04-01T00:00:00Z"];
    verify_lender("berka", "berka", times, 100_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shop() {
    let times = ["2010-06-30T12:00:00Z", "2010-12-10T00:00:00Z"];
    verify_lender("online_retail", "online_retail_ii", times, 90_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn phones() {
    let times = ["2015-01-15T00:00:00Z", "2015-01-29T00:00:00Z"];
    verify_lender("copenhagen", "cns_phone", times, 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkins() {
    let times = ["2010-09-15T00:00:00Z", "2010-10-20T00:00:00Z"];
    verify_lender("gowalla", "gowalla", times, 500).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn made_up_definitions(case in random::case()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            random::write(folder.path(), &case.events);
            let project = project(folder.path());
            let sql = case.sql();
            let snapshot = project.apply(&[("sql/all.sql", &sql)]).await;
            let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}\n{sql}"));
            let views = snapshot.definitions.feature_views.values().cloned();
            let views: Vec<FeatureView> = views.collect();
            let counts = verify(&project, &views, &case.times(), random::keys).await;
            agree(&sql, &counts);
            assert!(counts.keys >= views.len() * 2 * case.times().len());
        });
    }

    /// The same views over a stream: what is pushed is read at once.
    #[test]
    fn made_up_live_views(case in random::case()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let project = project(folder.path());
            let sql = case.live_sql();
            let snapshot = project.apply(&[("sql/all.sql", &sql)]).await;
            let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}\n{sql}"));
            let mut counts = Counts::default();
            for batch in random::batches(&case.events) {
                project.streams.push("events", &batch).await.unwrap();
                for t in case.times() {
                    for settings in [ServingSettings::default(), tiled()] {
                        let parity = Parity::with(&project, t, settings).await;
                        for view in snapshot.definitions.feature_views.values() {
                            assert!(view.live);
                            parity.compare(view, &random::keys(view), &mut counts).await;
                        }
                    }
                }
            }
            agree(&sql, &counts);
            assert!(counts.keys > 0);
        });
    }
}
