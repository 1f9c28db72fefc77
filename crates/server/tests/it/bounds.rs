//! Deadlines, load, health and metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use granary_client::{Client, GetFeatures, Target};
use granary_model::ErrorKind;
use granary_testing::memory::*;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::server::*;

fn asked() -> GetFeatures {
    let target = Target::Service("admission".into());
    GetFeatures::new(target, customers(&[Some(1)]))
}

async fn gated(settings: granary_server::ServerSettings) -> (TestServer, Arc<GatedStore>) {
    let project = small_project().await;
    let store = GatedStore::shut(Arc::new(project.store.clone()));
    let components = components(&project, store.clone()).await;
    (
        TestServer::start(components, settings).await.ready().await,
        store,
    )
}

#[tokio::test]
async fn a_read_ends_at_its_deadline_the_caller_s_or_the_server_s() {
    let mut settings = quick();
    settings.request_seconds_max = 1;
    let (server, _store) = gated(settings).await;
    let client = server.client().await;
    let late = async |client: &Client| {
        let error = client.get_features(&asked()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    };
    let metric = async |name: &str| {
        let (_, metrics) = server.get("/metrics").await;
        let mut lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .next()
            .map(|value| value.trim().parse::<u64>().unwrap())
    };
    let counted = "granary_requests_total{code=\"DeadlineExceeded\",rpc=\"GetFeatures\"} ";
    let idle = async || metric("granary_requests_in_flight ").await == Some(0);
    // The caller has a timer as well, and where that is first the request is
    // called off instead.
    let hurried = client.clone().with_deadline(Duration::from_millis(20));
    eventually(async || {
        late(&hurried).await;
        metric(counted).await > Some(0)
    })
    .await;
    eventually(idle).await;
    let before = metric(counted).await;
    late(&client).await;
    eventually(async || metric(counted).await > before).await;
    eventually(idle).await;
}

#[tokio::test]
async fn load_is_shed_and_health_answers_all_the_same() {
    let mut settings = quick();
    settings.concurrent_requests_max = 2;
    settings.caller_share_max = 1.0;
    let (server, store) = gated(settings).await;
    let client = server.client().await;
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get_features(&asked()).await })
        })
        .collect();
    store.wait_for_reads(2).await;
    let error = client.get_features(&asked()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("queue of requests"), "{error}");
    let mut health = HealthClient::new(server.channel().await);
    let check = HealthCheckRequest {
        service: "granary.v1.Features".into(),
    };
    let status = health.check(check).await.unwrap().into_inner().status();
    assert_eq!(status, ServingStatus::Serving);
    let (_, metrics) = server.get("/metrics").await;
    assert!(
        metrics.contains("granary_requests_in_flight 2"),
        "{metrics}"
    );

    store.gate.add_permits(100);
    for read in slow {
        assert!(read.await.unwrap().is_ok());
    }
    assert!(client.get_features(&asked()).await.is_ok());
}

#[tokio::test]
async fn a_panic_fails_its_own_request_and_no_other() {
    let (server, store) = gated(quick()).await;
    let client = server.client().await;
    let slow = {
        let client = client.clone();
        tokio::spawn(async move { client.get_features(&asked()).await })
    };
    store.wait_for_reads(1).await;
    store.broken.store(true, Ordering::SeqCst);
    let error = client.get_features(&asked()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    let streamed = client
        .stream_features(futures::stream::iter([asked()]))
        .await;
    let error = streamed.unwrap().next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    store.gate.add_permits(1);
    assert!(slow.await.unwrap().is_ok());
}

#[tokio::test]
async fn http_answers_beside_grpc() {
    let server = small_server().await;
    server.client().await.get_features(&asked()).await.unwrap();
    assert!(server.get("/healthz").await.0.contains("200"));
    assert!(server.get("/nothing").await.0.contains("404"));
    let (status, metrics) = server.get("/metrics").await;
    assert!(status.contains("200"));
    for line in [
        "granary_requests_total{code=\"Ok\",rpc=\"GetFeatures\"} 1",
        "granary_request_seconds_count{rpc=\"GetFeatures\"} 1",
        "granary_entities_total 1",
        "granary_values_total 2",
        "granary_catalog_snapshot 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn reads_are_counted_by_service_and_callers_make_no_labels() {
    let server = small_server().await;
    let client = server.client().await;
    let read = async |target: Target, ids: &[Option<i64>]| {
        client
            .get_features(&GetFeatures::new(target, customers(ids)))
            .await
    };
    let service = |name: &str| Target::Service(name.into());
    let (_, metrics) = server.get("/metrics").await;
    let unread = "granary_service_entities_total{service=\"admission\"} 0";
    assert!(metrics.lines().any(|l| l == unread), "{metrics}");

    read(service("admission"), &[Some(1), Some(2), None])
        .await
        .unwrap();
    let streamed = [GetFeatures::new(
        service("admission"),
        customers(&[Some(1)]),
    )];
    let streamed = client.stream_features(futures::stream::iter(streamed));
    streamed.await.unwrap().next().await.unwrap().unwrap();
    let mut bad = GetFeatures::new(service("admission"), customers(&[Some(1)]));
    bad.as_of = Some(granary_model::UtcMicros(0));
    let error = client.get_features(&bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    let list = Target::Features(vec!["account.balance".into()]);
    read(list, &[Some(1)]).await.unwrap();
    for name in ["mine", "mine too"] {
        let error = read(service(name), &[Some(1)]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    let (_, metrics) = server.get("/metrics").await;
    for line in [
        "granary_service_reads_total{code=\"Ok\",service=\"admission\"} 2",
        "granary_service_reads_total{code=\"OutOfRange\",service=\"admission\"} 1",
        "granary_service_reads_total{code=\"Ok\",service=\"(features)\"} 1",
        "granary_service_reads_total{code=\"NotFound\",service=\"(unknown)\"} 2",
        "granary_service_read_seconds_count{service=\"admission\"} 3",
        "granary_service_entities_total{service=\"admission\"} 4",
        "granary_service_values_total{service=\"admission\",status=\"PRESENT\"} 4",
        "granary_service_values_total{service=\"admission\",status=\"NOT_FOUND\"} 4",
        "granary_service_values_total{service=\"admission\",status=\"OUTSIDE_MAX_AGE\"} 0",
        "granary_service_values_total{service=\"(features)\",status=\"PRESENT\"} 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
    let age = "granary_service_data_age_seconds{service=\"admission\"} ";
    let age = metrics.lines().find_map(|line| line.strip_prefix(age));
    assert!(age.unwrap().parse::<f64>().unwrap() >= 0.0);
    assert!(!metrics.contains("mine"), "{metrics}");
}

#[tokio::test]
async fn reflection_tells_of_every_service() {
    let server = small_server().await;
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(futures::stream::iter([list]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("a list of services");
    };
    let names: Vec<String> = services.service.into_iter().map(|s| s.name).collect();
    for name in [
        "granary.v1.Features",
        "granary.v1.Catalog",
        "granary.v1.Materialization",
        "granary.v1.Streams",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
}
