//! What a server does by itself: runs that are due, sweeping, catching up.

use std::path::Path;
use std::sync::Arc;

use granary_client::{GetFeatures, Target};
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::{FeatureStatus, ManualClock};
use granary_server::ServerSettings;
use granary_store::{MemoryStore, OnlineStore};
use granary_testing::TestProject;
use granary_testing::memory::customers;

use crate::server::*;

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE payments (customer_id BIGINT, at TIMESTAMP, amount DOUBLE)
  STORED AS CSV LOCATION 'payments.csv' OPTIONS ('format.has_header' 'true');
CREATE FEATURE VIEW last_payment ENTITY customer EVENT TIME at
  TTL INTERVAL '5 days' REFRESH EVERY INTERVAL '1 day'
AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE SERVICE collections AS SELECT last_payment.amount FROM last_payment;
";

const PAYMENTS: &str = "customer_id,at,amount
1,2026-01-03T00:00:00Z,10.0
2,2026-01-09T00:00:00Z,20.0
";

/// It is noon of 2026-01-10; the payment of customer 1 is over its age.
async fn project(folder: &Path) -> TestProject {
    std::fs::write(folder.join("payments.csv"), PAYMENTS).unwrap();
    let noon = "2026-01-10T12:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(noon));
    let project = TestProject::open(folder, EngineSettings::default(), clock).unwrap();
    project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
    project
}

/// Statuses of customers 1 and 2; `None` where the read is refused.
async fn statuses(server: &TestServer) -> Option<Vec<FeatureStatus>> {
    let keys = customers(&[Some(1), Some(2)]);
    let asked = GetFeatures::new(Target::Service("collections".into()), keys);
    let answer = server.client().await.get_features(&asked).await.ok()?;
    Some(answer.features[0].statuses.to_vec())
}

use FeatureStatus::{NotFound, OutsideMaxAge, Present};

#[tokio::test]
async fn what_refresh_every_says_is_due_is_run() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path()).await;
    let settings = ServerSettings {
        refresh_views: true,
        refresh_views_seconds: 1,
        sweep_seconds: 0,
        ..quick()
    };
    let server = TestServer::start(components_of(&project).await, settings).await;
    eventually(async || statuses(&server).await == Some(vec![OutsideMaxAge, Present])).await;
    let published = project.store.generations().await.unwrap();
    let midnight = "2026-01-10T00:00:00Z".parse().unwrap();
    assert_eq!(published[0].coverage.as_of, midnight);
}

#[tokio::test]
async fn expired_rows_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path()).await;
    let all = MaterializeRequest::default();
    project.materialize(all).await.unwrap();
    let settings = ServerSettings {
        sweep_seconds: 1,
        ..quick()
    };
    let server = TestServer::start(components_of(&project).await, settings).await;
    eventually(async || statuses(&server).await == Some(vec![NotFound, Present])).await;
}

/// Another replica has committed; this one's store is empty.
#[tokio::test]
async fn an_empty_store_is_filled_before_the_server_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let mut project = project(folder.path()).await;
    let all = MaterializeRequest::default();
    project.materialize(all).await.unwrap();
    project.store = Arc::new(MemoryStore::new());
    let settings = ServerSettings {
        sweep_seconds: 0,
        ..quick()
    };
    let server = TestServer::start(components_of(&project).await, settings).await;
    let server = server.ready().await;
    assert_eq!(statuses(&server).await, Some(vec![OutsideMaxAge, Present]));
}
