//! Windowed views, from SQL files to an answer over the wire.

use std::sync::Arc;

use granary_client::{AsOf, GetFeatures, Target};
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::{FeatureStatus, ManualClock};
use granary_testing::TestProject;
use granary_testing::memory::{customers, day, doubles, ints};

use crate::server::*;

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE payments (customer_id BIGINT, at TIMESTAMP, amount DOUBLE)
  STORED AS CSV LOCATION 'payments.csv' OPTIONS ('format.has_header' 'true');
CREATE FEATURE VIEW spend ENTITY customer EVENT TIME at TTL INTERVAL '2 days'
AS SELECT customer_id, count(*) OVER d5 AS payments,
          coalesce(sum(amount) OVER d5, 0) AS paid, max(amount) OVER d5 AS largest
   FROM payments
   WINDOW d5 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '5 days' PRECEDING AND CURRENT ROW);
CREATE FEATURE SERVICE limits AS SELECT spend.* FROM spend;
";

const PAYMENTS: &str = "customer_id,at,amount
1,1970-04-06T00:00:00Z,10.0
1,1970-04-09T00:00:00Z,30.0
2,1970-04-05T23:59:59Z,20.0
3,1970-04-10T00:00:00Z,
";

#[tokio::test]
async fn everybody_is_answered_until_the_run_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("payments.csv"), PAYMENTS).unwrap();
    // The 11th of April 1970: the window begins with the 6th.
    let clock = Arc::new(ManualClock::new(day(100)));
    let settings = EngineSettings::default();
    let project = TestProject::open(folder.path(), settings, clock.clone()).unwrap();
    project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
    let all = MaterializeRequest::default();
    project.materialize(all).await.unwrap();
    let server = TestServer::start(components_of(&project).await, quick()).await;
    let server = server.ready().await;
    let client = server.client().await;

    let ids = [Some(1), Some(2), Some(3), Some(4), None];
    let mut asked = GetFeatures::new(Target::Service("limits".into()), customers(&ids));
    asked.as_ofs = true;
    let answer = client.get_features(&asked).await.unwrap();
    let [payments, paid, largest] = &answer.features[..] else {
        panic!("three features: {answer:?}");
    };
    use FeatureStatus::{NotFound as M, NullValue as N, OutsideMaxAge as O, Present as P};
    assert_eq!(*payments.statuses, [P, P, P, P, M]);
    let expected = ints(&[Some(2), Some(0), Some(1), Some(0), None]);
    assert_eq!(payments.values.as_ref(), expected.as_ref());
    assert_eq!(*paid.statuses, [P, P, P, P, M]);
    let expected = doubles(&[Some(40.0), Some(0.0), Some(0.0), Some(0.0), None]);
    assert_eq!(paid.values.as_ref(), expected.as_ref());
    assert_eq!(*largest.statuses, [P, N, N, N, M]);
    assert_eq!(payments.as_of, AsOf::All(day(100)));

    clock.set(day(103));
    let answer = client.get_features(&asked).await.unwrap();
    for column in &answer.features {
        assert_eq!(*column.statuses, [O, O, O, O, M], "{}", column.name);
        assert_eq!(column.values.null_count(), 5, "{}", column.name);
    }
    // A new run sees another window: customer 1's first payment has left it.
    let again = MaterializeRequest::default();
    project.materialize(again).await.unwrap();
    eventually(async || {
        let answer = client.get_features(&asked).await.unwrap();
        let expected = ints(&[Some(1), Some(0), Some(1), Some(0), None]);
        answer.features[0].values.as_ref() == expected.as_ref()
    })
    .await;

    let spend = client.describe("spend").await.unwrap();
    assert_eq!(spend.properties["kind"], "windowed");
    assert_eq!(spend.properties["values"], "run: as of the last run");
    assert_eq!(spend.runs.len(), 2);
    assert_eq!(spend.runs[0].rows, 2);
}
