//! Overload: who is answered, who is refused, and what is told of it.
//!
//! The store's gate stands for work that takes its time; nothing is measured.

use std::sync::Arc;

use futures::{StreamExt, stream};
use granary_client::{Client, ClientError, GetFeatures, Target};
use granary_model::ErrorKind;
use granary_testing::memory::*;
use tokio::task::JoinHandle;

use crate::server::*;

const HOUR_MILLIS: u32 = 3_600_000;

fn asked() -> GetFeatures {
    let target = Target::Service("admission".into());
    GetFeatures::new(target, customers(&[Some(1)]))
}

/// Two requests under way at a time, and reads wait as long as they must.
async fn narrow() -> (TestServer, Arc<GatedStore>) {
    let settings = granary_server::ServerSettings {
        concurrent_requests_max: 2,
        waiting_requests_max: 8,
        caller_share_max: 1.0,
        read_wait_millis_max: HOUR_MILLIS,
        ..quick()
    };
    let project = small_project().await;
    let store = GatedStore::shut(Arc::new(project.store.clone()));
    let components = components(&project, store.clone()).await;
    let server = TestServer::start(components, settings).await;
    (server.ready().await, store)
}

type Read = JoinHandle<Result<(), ClientError>>;

fn read(client: &Client) -> Read {
    let client = client.clone();
    tokio::spawn(async move { client.get_features(&asked()).await.map(drop) })
}

#[tokio::test]
async fn a_caller_that_floods_starves_no_other() {
    let (server, store) = narrow().await;
    let flooder = server.client().await.with_name("flooder");
    let calm = server.client().await.with_name("calm");
    let mut flood: Vec<Read> = (0..2).map(|_| read(&flooder)).collect();
    store.wait_for_reads(2).await;
    flood.extend((0..8).map(|_| read(&flooder)));
    until(&server, "granary_requests_waiting", 8).await;
    // Its own share is full, and that is told at once.
    let error = flooder.get_features(&asked()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    assert!(error.to_string().contains("queue of requests"), "{error}");
    until(
        &server,
        "granary_refused_requests_total{reason=\"caller_full\"}",
        1,
    )
    .await;

    // The other's read takes the place of the flooder's newest, and comes after
    // one more of the flooder's at most.
    let calm = read(&calm);
    until(
        &server,
        "granary_refused_requests_total{reason=\"displaced\"}",
        1,
    )
    .await;
    store.gate.add_permits(2);
    store.wait_for_reads(2).await;
    store.gate.add_permits(2);
    assert!(calm.await.unwrap().is_ok());
    until(&server, "granary_requests_waiting", 4).await;

    store.gate.add_permits(100);
    let mut refused = 0;
    for read in flood.drain(..) {
        if let Err(error) = read.await.unwrap() {
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
            refused += 1;
        }
    }
    assert_eq!(refused, 1);
    for idle in ["waiting", "running", "in_flight"] {
        until(&server, &format!("granary_requests_{idle}"), 0).await;
    }
}

#[tokio::test]
async fn requests_of_streams_wait_in_the_same_queue_and_are_not_refused() {
    let (server, store) = narrow().await;
    let client = server.client().await;
    let alone: Vec<Read> = (0..2).map(|_| read(&client)).collect();
    store.wait_for_reads(2).await;
    let streaming = client.clone();
    let streamed = tokio::spawn(async move {
        let requests = stream::iter(0..20).map(|_| asked());
        let answers = streaming.stream_features(requests).await.unwrap();
        let answers: Vec<_> = answers.collect().await;
        answers.into_iter().filter(Result::is_ok).count()
    });
    // The call itself waits as well.
    until(&server, "granary_requests_waiting", 1).await;
    store.gate.add_permits(100);
    assert_eq!(streamed.await.unwrap(), 20);
    for read in alone {
        assert!(read.await.unwrap().is_ok());
    }
    until(&server, "granary_requests_waiting", 0).await;
}

#[tokio::test]
async fn a_read_whose_caller_is_gone_is_not_worked_on() {
    let (server, store) = narrow().await;
    let client = server.client().await;
    let under_way: Vec<Read> = (0..2).map(|_| read(&client)).collect();
    store.wait_for_reads(2).await;
    let gone = read(&client);
    until(&server, "granary_requests_waiting", 1).await;
    gone.abort();
    until(&server, "granary_requests_waiting", 0).await;
    store.gate.add_permits(100);
    for read in under_way {
        assert!(read.await.unwrap().is_ok());
    }
    until(&server, "granary_requests_in_flight", 0).await;
    assert_eq!(store.waiting.available_permits(), 0, "it came to the store");
}
