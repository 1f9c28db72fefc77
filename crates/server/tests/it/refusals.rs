//! Bad input over the wire: its code and its words.

use std::sync::Arc;

use granary_client::{Client, ClientError, GetFeatures, Target};
use granary_model::ErrorKind;
use granary_model::definitions::Grant;
use granary_proto as pb;
use granary_proto::columns::{encode_columns, encode_ipc};
use granary_proto::get_features_request::Target as WireTarget;
use granary_serving::ServingSettings;
use granary_testing::memory::*;
use tonic::Code;

use crate::server::*;

fn good() -> pb::GetFeaturesRequest {
    pb::GetFeaturesRequest {
        target: Some(WireTarget::Service("admission".into())),
        keys: encode_columns(&customers(&[Some(1)])).unwrap(),
        ..pb::GetFeaturesRequest::default()
    }
}

/// What is changed in a good request, and what that gives.
fn cases() -> Vec<(pb::GetFeaturesRequest, Code, &'static str)> {
    let ipc = encode_ipc(&customers(&[Some(1)])).unwrap();
    let text = batch(&[("customer_id", texts(&[Some("1")]))]);
    let two = encode_columns(&customers(&[Some(1), Some(2)])).unwrap();
    let short = batch(&[("other", ints(&[Some(1)]))]);
    let uneven = [two, encode_columns(&short).unwrap()].concat();
    let input = encode_columns(&customers(&[Some(1)])).unwrap();
    let many = customers(&vec![Some(1); 100_000]);
    let unknown = Some(WireTarget::Service("nothing".into()));
    let invalid = Code::InvalidArgument;
    let with = |change: &dyn Fn(&mut pb::GetFeaturesRequest)| {
        let mut request = good();
        change(&mut request);
        request
    };
    vec![
        (
            with(&|r| r.target = None),
            invalid,
            "name a feature service or a list of features",
        ),
        (
            with(&|r| r.target = unknown.clone()),
            Code::NotFound,
            "unknown feature service \"nothing\"",
        ),
        (
            with(&|r| r.keys = vec![]),
            invalid,
            "the key column customer_id (BIGINT) is missing",
        ),
        (
            with(&|r| r.keys = uneven.clone()),
            invalid,
            "other has 1 rows, not 2",
        ),
        (
            with(&|r| r.keys = encode_columns(&text).unwrap()),
            invalid,
            "customer_id expects BIGINT, got VARCHAR",
        ),
        (
            with(&|r| r.keys_arrow_ipc = ipc.clone()),
            invalid,
            "give keys or keys_arrow_ipc, not both",
        ),
        (
            with(&|r| (r.keys, r.keys_arrow_ipc) = (vec![], ipc.slice(..40))),
            invalid,
            "keys_arrow_ipc: ",
        ),
        (
            with(&|r| r.keys = encode_columns(&many).unwrap()),
            invalid,
            "the number of entities 100000 is over the bound of 10000",
        ),
        (with(&|r| r.encoding = 9), invalid, "unknown encoding"),
        (
            with(&|r| r.inputs = input.clone()),
            invalid,
            "unknown input \"customer_id\" (this read takes no inputs)",
        ),
        (
            with(&|r| r.request_events = vec![pb::RequestEvents::default()]),
            invalid,
            "request events of : there is no such stream",
        ),
        (with(&|r| r.as_of = Some(0)), Code::OutOfRange, "account: "),
    ]
}

#[tokio::test]
async fn bad_requests_get_their_code_and_the_name_of_what_is_wrong() {
    let server = small_server().await;
    let mut bare = server.bare().await;
    for (request, code, message) in cases() {
        let status = bare.get_features(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(message), "{status:?}");
    }
    assert!(bare.get_features(good()).await.is_ok());
}

#[tokio::test]
async fn a_request_over_the_size_is_refused_and_the_connection_lives() {
    let project = small_project().await;
    let store = Arc::new(project.store.clone());
    let mut settings = quick();
    settings.request_bytes_max = 10_000;
    let server = TestServer::start(components(&project, store).await, settings).await;
    let mut bare = server.bare().await;
    let mut large = good();
    large.keys = encode_columns(&customers(&vec![Some(i64::MAX); 5_000])).unwrap();
    assert!(bare.get_features(large).await.is_err());
    assert!(bare.get_features(good()).await.is_ok());
}

#[tokio::test]
async fn a_caller_s_name_gives_its_roles() {
    let project = small_project().await;
    let mut granted = small_definitions();
    granted.grants.insert(Grant {
        object: "admission".into(),
        role: "risk".into(),
    });
    project.commit(granted).await;
    let store = Arc::new(project.store.clone());
    let enforced = ServingSettings {
        enforce_grants: true,
        ..ServingSettings::default()
    };
    let components = components_with(&project, store, enforced).await;
    let mut settings = quick();
    settings.roles.insert("limits".into(), vec!["risk".into()]);
    settings
        .roles
        .insert("ads".into(), vec!["marketing".into()]);
    let server = TestServer::start(components, settings).await;
    let client = server.client().await;
    let read = async |client: Client| {
        let target = Target::Service("admission".into());
        client
            .get_features(&GetFeatures::new(target, customers(&[Some(1)])))
            .await
    };
    assert!(read(client.clone().with_name("limits")).await.is_ok());
    for (client, name) in [
        (client.clone().with_name("ads"), "ads"),
        (client, "127.0.0.1"),
    ] {
        let error = read(client).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(
            error
                .to_string()
                .starts_with(&format!("{name} may not read admission"))
        );
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_by_its_address() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for endpoint in [address.as_str(), "ftp://x", "no address"] {
        let error = Client::connect(endpoint).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }));
        assert!(error.to_string().starts_with(endpoint), "{error}");
    }
}
