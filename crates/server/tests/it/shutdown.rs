//! A shutdown finishes what is under way.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use granary_client::{Client, GetFeatures, Target};
use granary_model::ErrorKind;
use granary_testing::memory::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

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
async fn reads_under_way_are_finished_and_no_new_ones_taken() {
    let (mut server, store) = gated(quick()).await;
    let client = server.client().await;
    let mut health = HealthClient::new(server.channel().await);
    let watched = HealthCheckRequest::default();
    let mut health = health.watch(watched).await.unwrap().into_inner();
    let status = health.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::Serving);

    let slow = {
        let client = client.clone();
        tokio::spawn(async move { client.get_features(&asked()).await })
    };
    store.wait_for_reads(1).await;
    server.begin_shutdown();
    let status = health.message().await.unwrap().unwrap().status();
    assert_eq!(status, ServingStatus::NotServing);
    eventually(async || Client::connect(&server.grpc).await.is_err()).await;
    assert!(!server.ended.is_finished());
    store.gate.add_permits(100);
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.features.len(), 2);
    server.ended.await.unwrap();
}

#[tokio::test]
async fn streams_end_after_the_requests_that_they_have() {
    let (mut server, store) = gated(quick()).await;
    let client = server.client().await;
    let two = stream::iter([asked(), asked()]).chain(stream::pending());
    let mut answers = client.stream_features(two).await.unwrap();
    store.wait_for_reads(2).await;
    server.begin_shutdown();
    eventually(async || Client::connect(&server.grpc).await.is_err()).await;
    store.gate.add_permits(100);
    for _ in 0..2 {
        assert!(answers.next().await.unwrap().is_ok());
    }
    let error = answers.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(answers.next().await.is_none());
    server.ended.await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_not_waited_for_for_ever() {
    let mut settings = quick();
    settings.shutdown_seconds_max = 1;
    let (mut server, store) = gated(settings).await;
    let client = server.client().await;
    let stuck = tokio::spawn(async move { client.get_features(&asked()).await });
    store.wait_for_reads(1).await;
    server.begin_shutdown();
    let ended = tokio::time::timeout(Duration::from_secs(60), server.ended).await;
    ended.unwrap().unwrap();
    stuck.abort();
}

/// Who has not said a word is not waited for, and who watches hears of it to the end.
#[tokio::test]
async fn connections_that_say_nothing_are_not_waited_for() {
    let (mut server, store) = gated(quick()).await;
    let client = server.client().await;
    let silent = TcpStream::connect(&server.grpc).await.unwrap();
    let mut garbled = TcpStream::connect(&server.grpc).await.unwrap();
    garbled.write_all(b"PRI * HT").await.unwrap();
    let slow = tokio::spawn(async move { client.get_features(&asked()).await });
    store.wait_for_reads(1).await;
    server.begin_shutdown();
    eventually(async || Client::connect(&server.grpc).await.is_err()).await;
    assert!(server.get("/readyz").await.0.contains("503"));
    let metrics = server.get("/metrics").await.1;
    assert!(
        metrics.contains("granary_requests_in_flight 1"),
        "{metrics}"
    );
    store.gate.add_permits(100);
    slow.await.unwrap().unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), server.ended).await;
    ended.unwrap().unwrap();
    drop((silent, garbled));
}
