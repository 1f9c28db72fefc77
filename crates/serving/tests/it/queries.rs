//! SERVE QUERY views: computed from files at request time, cached, shared.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch};
use futures::future::join_all;
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::{ErrorKind, ManualClock, UtcMicros};
use granary_serving::{AsOf, ReadRequest, Reader, ReaderCounts, ServingSettings};
use granary_testing::TestProject;
use granary_testing::memory::*;

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE payments (customer_id BIGINT, at TIMESTAMP, amount DOUBLE)
  STORED AS CSV LOCATION 'payments.csv' OPTIONS ('format.has_header' 'true');
EVENT TIME OF payments IS at;
CREATE FEATURE VIEW last_payment ENTITY customer EVENT TIME at TTL INTERVAL '10 days' SERVE QUERY
AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE VIEW cached ENTITY customer SERVE QUERY CACHE FOR INTERVAL '1 minute'
AS SELECT customer_id, count(*) AS payments, sum(amount) AS paid FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW stored ENTITY customer
AS SELECT customer_id, max(amount) AS greatest FROM payments GROUP BY customer_id;
CREATE FEATURE SERVICE mixed AS
  SELECT stored.greatest, last_payment.amount, guarantor.paid AS guarantor_paid
  FROM last_payment, stored, cached AS guarantor KEY (customer_id => guarantor_id);
";

/// Payments of customers 1 to 3 on days 90 to 99; that of day 99 is 1's alone.
fn write_payments(folder: &Path, rows: &[(i64, i64, f64)]) {
    let mut text = "customer_id,at,amount\n".to_owned();
    for (customer, at, amount) in rows {
        text += &format!("{customer},{},{amount}\n", day(*at));
    }
    std::fs::write(folder.join("payments.csv"), text).unwrap();
}

const PAYMENTS: [(i64, i64, f64); 5] = [
    (1, 90, 1.0),
    (1, 99, 2.0),
    (2, 95, 4.0),
    (3, 80, 8.0),
    (1, 99, 1.5),
];

struct Fixture {
    clock: Arc<ManualClock>,
    project: TestProject,
    folder: tempfile::TempDir,
}

impl Fixture {
    /// On day 100, with `stored` materialised.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_payments(folder.path(), &PAYMENTS);
        let clock = Arc::new(ManualClock::new(day(100)));
        let settings = EngineSettings::default();
        let project = TestProject::open(folder.path(), settings, clock.clone()).unwrap();
        project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
        let stored = MaterializeRequest {
            views: vec!["stored".into()],
            ..MaterializeRequest::default()
        };
        project.materialize(stored).await.unwrap();
        Self {
            clock,
            project,
            folder,
        }
    }

    async fn reader(&self) -> Reader {
        let settings = ServingSettings::default();
        self.project.reader(settings).await.unwrap()
    }
}

fn keys(ids: &[i64]) -> RecordBatch {
    customers(&ids.iter().copied().map(Some).collect::<Vec<_>>())
}

fn computed(counts: ReaderCounts) -> (u64, u64) {
    (counts.query_keys_computed, counts.query_cache_hits)
}

#[tokio::test]
async fn rows_are_those_of_the_files_as_of_the_read() {
    let fixture = Fixture::new().await;
    let reader = fixture.reader().await;
    let ids = [Some(3), Some(1), None, Some(7), Some(2), Some(1)];
    let asked = || from_list(&["last_payment.amount"], customers(&ids));
    let answer = reader.read(asked()).await.unwrap();
    let column = &answer.features[0];
    assert_eq!(statuses(column), "OPMMPP");
    let expected = [None, Some(2.0), None, None, Some(4.0), Some(2.0)];
    assert_eq!(column.values.as_ref(), doubles(&expected).as_ref());
    assert_eq!(column.as_of, AsOf::All(day(100)));
    let times = column.event_times.as_ref().unwrap();
    assert_eq!(times[..3], [Some(day(80)), Some(day(99)), None]);

    for (at, strictly, statuses_of, first) in [
        (day(99), false, "OPMMPP", Some(2.0)),
        (day(99), true, "OPMMPP", Some(1.0)),
        (UtcMicros(day(99).0 - 1), false, "OPMMPP", Some(1.0)),
        (day(90), false, "PPMMMP", Some(1.0)),
        (day(79), false, "MMMMMM", None),
    ] {
        let mut asked = asked();
        (asked.as_of, asked.strictly_before) = (Some(at), strictly);
        let answer = reader.read(asked).await.unwrap();
        let column = &answer.features[0];
        assert_eq!(statuses(column), statuses_of, "{at} {strictly}");
        assert_eq!(
            column.values.slice(1, 1).as_ref(),
            doubles(&[first]).as_ref()
        );
        assert_eq!(column.as_of, AsOf::All(at));
    }
}

#[tokio::test]
async fn a_service_mixes_stored_and_computed_views() {
    let fixture = Fixture::new().await;
    let reader = fixture.reader().await;
    let keys = batch(&[
        ("customer_id", ints(&[Some(1), Some(2), Some(9)])),
        ("guarantor_id", ints(&[Some(3), None, Some(1)])),
    ]);
    let answer = reader.read(from_service("mixed", keys)).await.unwrap();
    assert_eq!(names(&answer), ["greatest", "amount", "guarantor_paid"]);
    let expected = [
        doubles(&[Some(2.0), Some(4.0), None]),
        doubles(&[Some(2.0), Some(4.0), None]),
        doubles(&[Some(8.0), None, Some(4.5)]),
    ];
    for (column, expected) in answer.features.iter().zip(&expected) {
        assert_eq!(column.values.as_ref(), expected.as_ref(), "{}", column.name);
    }
}

#[tokio::test]
async fn cached_rows_keep_their_time_until_cache_for_is_over() {
    let fixture = Fixture::new().await;
    let reader = fixture.reader().await;
    let read = async |ids: &[i64]| {
        let asked = from_list(&["cached.paid"], keys(ids));
        reader.read(asked).await.unwrap().features.remove(0)
    };
    let first = read(&[1, 9]).await;
    assert_eq!(first.values.as_ref(), doubles(&[Some(4.5), None]).as_ref());
    assert_eq!(computed(reader.counts()), (2, 0));
    write_payments(fixture.folder.path(), &[(1, 98, 100.0)]);

    let later = UtcMicros(day(100).0 + 60_000_000);
    fixture.clock.set(later);
    let second = read(&[9, 2, 1]).await;
    assert_eq!(computed(reader.counts()), (3, 2));
    assert_eq!(statuses(&second), "MMP");
    let times = [day(100), later, day(100)];
    assert_eq!(second.as_of, AsOf::Rows(Arc::new(times.to_vec())));

    fixture.clock.set(UtcMicros(later.0 + 1));
    let third = read(&[1]).await;
    assert_eq!(third.values.as_ref(), doubles(&[Some(100.0)]).as_ref());
    assert_eq!(third.as_of, AsOf::All(UtcMicros(later.0 + 1)));
    assert_eq!(computed(reader.counts()), (4, 2));
}

#[tokio::test]
async fn readers_at_the_same_moment_compute_each_key_once() {
    let fixture = Fixture::new().await;
    let reader = fixture.reader().await;
    let lists = [vec![1, 2], vec![2, 3], vec![3, 1, 2], vec![2, 2, 2]];
    let reads = lists.iter().map(|ids| {
        let asked = from_list(&["last_payment.amount"], keys(ids));
        reader.read(asked)
    });
    let answers = join_all(reads).await;
    for (ids, answer) in lists.iter().zip(answers) {
        let expected: Vec<Option<f64>> = ids
            .iter()
            .map(|id| [Some(2.0), Some(4.0), None][*id as usize - 1])
            .collect();
        let column = &answer.unwrap().features[0];
        assert_eq!(column.values.as_ref(), doubles(&expected).as_ref());
    }
    let counts = reader.counts();
    assert_eq!(counts.query_keys_computed, 3);
    assert_eq!(counts.query_keys_shared, 5);
    assert_eq!(counts.query_cache_hits, 0);
}

#[tokio::test]
async fn a_source_that_is_gone_fails_the_reads_that_need_it() {
    let fixture = Fixture::new().await;
    let reader = fixture.reader().await;
    std::fs::remove_file(fixture.folder.path().join("payments.csv")).unwrap();
    let asked: ReadRequest = from_list(&["last_payment.amount"], keys(&[1]));
    let error = refusal(&reader, asked).await;
    assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(
        error.to_string().contains("last_payment") || error.to_string().contains("payments"),
        "{error}"
    );
    let stored = from_list(&["stored.greatest"], keys(&[1]));
    assert!(reader.read(stored).await.is_ok());
}

const OVER_RUNS: &str = "
CREATE FEATURE VIEW above ENTITY customer SERVE QUERY
AS SELECT customer_id, greatest AS of_run FROM stored;
CREATE FEATURE VIEW hidden ENTITY customer SERVE OFFLINE
AS SELECT customer_id, min(amount) AS least FROM payments GROUP BY customer_id;
CREATE FEATURE VIEW above_hidden ENTITY customer SERVE QUERY
AS SELECT customer_id, least AS of_run FROM hidden;
";

/// A changed view answers as it was until it has run, through what reads it too.
#[tokio::test]
async fn a_computed_view_reads_the_version_that_has_run() {
    let fixture = Fixture::new().await;
    let with = |greatest: &str| format!("{}{OVER_RUNS}", SQL.replace("max(amount)", greatest));
    fixture
        .project
        .apply(&[("sql/all.sql", &with("max(amount)"))])
        .await
        .unwrap();
    let reader = fixture.reader().await;
    let asked = || from_list(&["above.of_run"], customers(&[Some(1)]));
    let answered = async || {
        let answer = reader.read(asked()).await.unwrap();
        let column = &answer.features[0];
        (answer.snapshot, column.view_version, column.values.clone())
    };
    assert_eq!(answered().await, (2, 1, doubles(&[Some(2.0)])));

    fixture
        .project
        .apply(&[("sql/all.sql", &with("min(amount)"))])
        .await
        .unwrap();
    reader.refresh().await.unwrap();
    assert_eq!(answered().await, (2, 1, doubles(&[Some(2.0)])));

    let stored = MaterializeRequest {
        views: vec!["stored".into()],
        ..MaterializeRequest::default()
    };
    fixture.project.materialize(stored).await.unwrap();
    reader.refresh().await.unwrap();
    assert_eq!(answered().await, (3, 2, doubles(&[Some(1.0)])));
}

#[tokio::test]
async fn a_computed_view_over_a_view_that_never_ran_says_so() {
    let fixture = Fixture::new().await;
    let fresh = SQL.replace("VIEW stored", "VIEW stored_anew");
    let fresh = fresh.replace("stored.greatest", "stored_anew.greatest");
    let fresh = fresh.replace("last_payment, stored,", "last_payment, stored_anew,");
    let sql = format!(
        "{fresh}{}",
        OVER_RUNS.replace("FROM stored", "FROM stored_anew")
    );
    fixture
        .project
        .apply(&[("sql/all.sql", &sql)])
        .await
        .unwrap();
    let reader = fixture.reader().await;
    for (feature, view) in [
        ("above.of_run", "stored_anew"),
        ("above_hidden.of_run", "hidden"),
    ] {
        let error = refusal(&reader, from_list(&[feature], customers(&[Some(1)]))).await;
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error}");
        assert!(
            error.to_string().contains(&format!("materialize {view}`")),
            "{error}"
        );
    }
}

const CHAIN: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device_id VARCHAR);
CREATE EXTERNAL TABLE uses (customer_id INT, at TIMESTAMP, device_id VARCHAR)
  STORED AS CSV LOCATION 'uses.csv' OPTIONS ('format.has_header' 'true');
EVENT TIME OF uses IS at;
CREATE FEATURE VIEW latest ENTITY customer EVENT TIME at SERVE QUERY CACHE FOR INTERVAL '1 hour'
AS SELECT customer_id, at, device_id AS last_device FROM uses;
CREATE FEATURE VIEW device_owner ENTITY device
AS SELECT device_id, min(customer_id) AS owner FROM uses GROUP BY device_id;
CREATE FEATURE SERVICE chain AS
  SELECT owner_latest.last_device AS owner_device, device_owner.owner
  FROM latest AS owner_latest KEY (customer_id => device_owner.owner),
       device_owner KEY (device_id => latest.last_device),
       latest;
";

#[tokio::test]
async fn keys_go_from_computed_views_to_stored_ones_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let uses = [(1, 90, "a"), (1, 99, "b"), (2, 80, "b"), (3, 92, "a")];
    let mut text = "customer_id,at,device_id\n".to_owned();
    for (customer, at, device) in uses {
        text += &format!("{customer},{},{device}\n", day(at));
    }
    std::fs::write(folder.path().join("uses.csv"), text).unwrap();
    let clock = Arc::new(ManualClock::new(day(100)));
    let settings = EngineSettings::default();
    let project = TestProject::open(folder.path(), settings, clock).unwrap();
    project.apply(&[("sql/all.sql", CHAIN)]).await.unwrap();
    let run = MaterializeRequest {
        as_of: Some(day(95)),
        ..MaterializeRequest::default()
    };
    project.materialize(run).await.unwrap();
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let ids = customers(&[Some(3), Some(1), None, Some(9)]);

    // As of day 95 device a is 1's and device b is 2's.
    for (at, strictly, owners, devices) in [
        (None, false, [Some(1), Some(2)], [Some("b"), Some("b")]),
        (
            Some(day(99)),
            false,
            [Some(1), Some(2)],
            [Some("b"), Some("b")],
        ),
        (
            Some(day(99)),
            true,
            [Some(1), Some(1)],
            [Some("a"), Some("a")],
        ),
        (
            Some(day(95)),
            false,
            [Some(1), Some(1)],
            [Some("a"), Some("a")],
        ),
    ] {
        let mut asked = from_service("chain", ids.clone());
        (asked.as_of, asked.strictly_before) = (at, strictly);
        let answer = reader.read(asked).await.unwrap();
        let [device, owner] = &answer.features[..] else {
            panic!("two columns");
        };
        assert_eq!(
            (statuses(device), statuses(owner)),
            ("PPMM".into(), "PPMM".into())
        );
        let expected = texts(&[devices[0], devices[1], None, None]);
        assert_eq!(
            device.values.as_ref(),
            expected.as_ref(),
            "{at:?} {strictly}"
        );
        let expected = [owners[0], owners[1], None, None];
        let expected: ArrayRef = Arc::new(Int32Array::from(expected.to_vec()));
        assert_eq!(
            owner.values.as_ref(),
            expected.as_ref(),
            "{at:?} {strictly}"
        );
        assert_eq!(owner.as_of, AsOf::All(day(95)));
        assert_eq!(device.as_of, AsOf::All(at.unwrap_or(day(100))));
    }
    let mut asked = from_service("chain", ids);
    asked.as_of = Some(day(94));
    let error = refusal(&reader, asked).await;
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    assert!(error.to_string().starts_with("device_owner: "), "{error}");
}
