//! Materialisations over the wire, of a project on disk.

use std::sync::Arc;

use futures::StreamExt;
use granary_client::{GetFeatures, MaterializeOptions, MaterializeStage, Target};
use granary_engine::EngineSettings;
use granary_model::{ErrorKind, SystemClock};
use granary_testing::TestProject;
use granary_testing::memory::{customers, doubles};

use crate::server::*;

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE payments (customer_id BIGINT, at TIMESTAMP, amount DOUBLE)
  STORED AS CSV LOCATION 'payments.csv' OPTIONS ('format.has_header' 'true');
CREATE FEATURE VIEW last_payment ENTITY customer EVENT TIME at
AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE SERVICE collections AS SELECT last_payment.amount FROM last_payment;
";

const PAYMENTS: &str = "customer_id,at,amount
1,2026-01-01T00:00:00Z,10.0
1,2026-01-03T00:00:00Z,30.0
2,2026-01-02T00:00:00Z,20.0
";

async fn server(folder: &std::path::Path) -> TestServer {
    std::fs::write(folder.join("payments.csv"), PAYMENTS).unwrap();
    let clock = Arc::new(SystemClock);
    let project = TestProject::open(folder, EngineSettings::default(), clock).unwrap();
    project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
    TestServer::start(components_of(&project).await, quick()).await
}

#[tokio::test]
async fn a_run_is_started_followed_and_read() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let client = server.client().await;
    let asked = GetFeatures::new(
        Target::Service("collections".into()),
        customers(&[Some(1), Some(2), Some(3)]),
    );
    let early = client.get_features(&asked).await.unwrap_err();
    assert_eq!(early.kind(), ErrorKind::FailedPrecondition);
    assert!(early.to_string().contains("last_payment"), "{early}");

    let events = client
        .materialize(MaterializeOptions::default())
        .await
        .unwrap();
    let events: Vec<_> = events.map(Result::unwrap).collect().await;
    let [.., done, finished] = &events[..] else {
        panic!("at least two events: {events:?}");
    };
    assert_eq!(done.view, "last_payment");
    assert!(
        matches!(done.stage, MaterializeStage::Done { .. }),
        "{events:?}"
    );
    let message = String::new();
    assert_eq!(finished.stage, MaterializeStage::Finished { message });

    // The end is told when reads see it.
    let answer = client.get_features(&asked).await.unwrap();
    let expected = doubles(&[Some(30.0), Some(20.0), None]);
    assert_eq!(answer.features[0].values.as_ref(), expected.as_ref());
    let again = client.follow_materialization(&finished.id).await.unwrap();
    let again: Vec<_> = again.map(Result::unwrap).collect().await;
    assert_eq!(again, [done.clone(), finished.clone()]);
    let described = client.describe("last_payment").await.unwrap();
    assert_eq!(described.runs.len(), 1);
    assert_eq!(described.runs[0].rows, 3);
}

#[tokio::test]
async fn what_cannot_begin_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let client = server.client().await;
    let options = MaterializeOptions {
        views: vec!["last_paymen".into()],
        ..MaterializeOptions::default()
    };
    let error = client.materialize(options).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("last_payment"), "{error}");
    let error = client.follow_materialization("none").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_run_goes_on_when_its_client_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path()).await;
    let client = server.client().await;
    let events = client
        .materialize(MaterializeOptions::default())
        .await
        .unwrap();
    drop(events);
    let asked = GetFeatures::new(Target::Service("collections".into()), customers(&[Some(1)]));
    eventually(async || client.get_features(&asked).await.is_ok()).await;
}
