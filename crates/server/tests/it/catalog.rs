//! What a server tells of its catalog.

use granary_client::ObjectKind;
use granary_model::ErrorKind;

use crate::server::*;

#[tokio::test]
async fn objects_are_listed_and_described() {
    let server = small_server().await;
    let client = server.client().await;
    let all = client.list(&[]).await.unwrap();
    let names: Vec<&str> = all.iter().map(|o| o.name.as_str()).collect();
    assert_eq!(names, ["account", "admission", "customer", "profile"]);
    let views = client.list(&[ObjectKind::FeatureView]).await.unwrap();
    let versions: Vec<_> = views.iter().map(|v| (v.name.as_str(), v.version)).collect();
    assert_eq!(versions, [("account", 1), ("profile", 1)]);

    let account = client.describe("account").await.unwrap();
    assert_eq!(account.listing.kind, ObjectKind::FeatureView);
    let columns: Vec<_> = account
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.role.as_str(), c.data_type.as_str()))
        .collect();
    assert_eq!(
        columns,
        [
            ("customer_id", "key", "BIGINT"),
            ("at", "event time", "TIMESTAMP"),
            ("balance", "feature", "DOUBLE"),
        ]
    );
    assert_eq!(account.properties["kind"], "timestamped");
    assert_eq!(account.used_by, ["admission"]);

    let error = client.describe("acount").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        "nothing is named \"acount\"; did you mean \"account\"?"
    );
}
