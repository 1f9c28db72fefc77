//! Keys from features, from SQL files to an answer over the wire.

use std::sync::Arc;

use arrow::array::RecordBatch;
use granary_client::{AsOf, GetFeatures, MaterializeOptions, Target};
use granary_engine::EngineSettings;
use granary_model::{ErrorKind, FeatureStatus, ManualClock};
use granary_testing::TestProject;
use granary_testing::memory::{batch, day, ints, texts};

use crate::server::*;

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device_id VARCHAR);
CREATE ENTITY merchant KEY (merchant_id VARCHAR);
CREATE EXTERNAL TABLE payments (customer_id BIGINT, device_id VARCHAR, merchant_id VARCHAR, at TIMESTAMP, amount DOUBLE)
  STORED AS CSV LOCATION 'payments.csv' OPTIONS ('format.has_header' 'true');
EVENT TIME OF payments IS at;
CREATE FEATURE VIEW customer_latest ENTITY customer EVENT TIME at TTL INTERVAL '5 days'
AS SELECT customer_id, at, device_id AS last_device FROM payments;
CREATE FEATURE VIEW device_use ENTITY device
AS SELECT device_id, count(DISTINCT customer_id) AS users, max(customer_id) AS last_user FROM payments GROUP BY device_id;
CREATE FEATURE VIEW device_at_merchant ENTITY device, merchant SERVE QUERY
AS SELECT device_id, merchant_id, count(*) AS payments FROM payments GROUP BY device_id, merchant_id;
CREATE FEATURE SERVICE risk AS
  SELECT device_use.users AS device_users, device_at_merchant.payments, other.last_device AS other_device
  FROM device_at_merchant KEY (device_id => customer_latest.last_device),
       device_use KEY (device_id => customer_latest.last_device),
       customer_latest AS other KEY (customer_id => device_use.last_user),
       customer_latest;
";

const PAYMENTS: &str = "customer_id,device_id,merchant_id,at,amount
1,a,shop,1970-04-08T00:00:00Z,10.0
1,a,shop,1970-04-09T00:00:00Z,30.0
2,a,shop,1970-04-10T00:00:00Z,20.0
2,b,kiosk,1970-04-11T00:00:00Z,20.0
3,c,shop,1970-04-01T00:00:00Z,20.0
4,,shop,1970-04-10T00:00:00Z,20.0
";

fn entities() -> RecordBatch {
    let ids = [Some(1), Some(2), Some(3), Some(4), Some(5), None];
    let merchants = [Some("shop"); 6];
    batch(&[
        ("customer_id", ints(&ids)),
        ("merchant_id", texts(&merchants)),
    ])
}

fn statuses(of: &[FeatureStatus]) -> String {
    let letters = of.iter().map(|status| match status {
        FeatureStatus::Present => 'P',
        FeatureStatus::NullValue => 'N',
        FeatureStatus::NotFound => 'M',
        FeatureStatus::OutsideMaxAge => 'O',
    });
    letters.collect()
}

#[tokio::test]
async fn keys_from_features_are_served_over_the_wire() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("payments.csv"), PAYMENTS).unwrap();
    // The 11th of April 1970.
    let clock = Arc::new(ManualClock::new(day(100)));
    let settings = EngineSettings::default();
    let project = TestProject::open(folder.path(), settings, clock).unwrap();
    project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
    project.materialize(Default::default()).await.unwrap();
    let server = TestServer::start(components_of(&project).await, quick()).await;
    let server = server.ready().await;
    let client = server.client().await;

    let mut asked = GetFeatures::new(Target::Service("risk".into()), entities());
    asked.as_ofs = true;
    let answer = client.get_features(&asked).await.unwrap();
    let [users, payments, other] = &answer.features[..] else {
        panic!("three features: {answer:?}");
    };
    // Customer 1 used device a last, whose last user, 2, used b last. The
    // device of 2 was never seen in the shop, that of 3 is outside the TTL.
    assert_eq!(statuses(&users.statuses), "PPMMMM");
    let expected = ints(&[Some(2), Some(1), None, None, None, None]);
    assert_eq!(users.values.as_ref(), expected.as_ref());
    assert_eq!(statuses(&payments.statuses), "PMMMMM");
    let expected = ints(&[Some(3), None, None, None, None, None]);
    assert_eq!(payments.values.as_ref(), expected.as_ref());
    assert_eq!(statuses(&other.statuses), "PPMMMM");
    let expected = texts(&[Some("b"), Some("b"), None, None, None, None]);
    assert_eq!(other.values.as_ref(), expected.as_ref());
    assert_eq!(users.as_of, AsOf::All(day(100)));

    asked.strictly_before = true;
    asked.as_of = Some(day(100));
    let error = client.get_features(&asked).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
}

#[tokio::test]
async fn a_service_tells_which_keys_it_asks_for_and_where_the_others_come_from() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("payments.csv"), PAYMENTS).unwrap();
    let clock = Arc::new(ManualClock::new(day(100)));
    let settings = EngineSettings::default();
    let project = TestProject::open(folder.path(), settings, clock).unwrap();
    project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
    let server = TestServer::start(components_of(&project).await, quick()).await;
    let client = server.client().await;

    let risk = client.describe("risk").await.unwrap();
    let keys = risk.columns.iter().filter(|c| c.role == "key");
    let mut keys: Vec<_> = keys
        .map(|c| (c.name.as_str(), c.data_type.as_str()))
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [("customer_id", "BIGINT"), ("merchant_id", "VARCHAR")]
    );
    for (from, told) in [
        (
            "from device_at_merchant",
            "KEY (device_id => customer_latest.last_device, merchant_id => merchant_id)",
        ),
        (
            "from device_use",
            "KEY (device_id => customer_latest.last_device)",
        ),
        (
            "from customer_latest as other",
            "KEY (customer_id => device_use.last_user)",
        ),
    ] {
        assert_eq!(risk.properties[from], told);
    }

    // What nobody selects is waited for as well.
    let asked = GetFeatures::new(Target::Service("risk".into()), entities());
    let options = MaterializeOptions {
        views: vec!["device_use".into()],
        ..MaterializeOptions::default()
    };
    drop(client.materialize(options).await.unwrap());
    eventually(async || {
        let error = client.get_features(&asked).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        error
            .to_string()
            .contains("never materialised: customer_latest;")
    })
    .await;
}
