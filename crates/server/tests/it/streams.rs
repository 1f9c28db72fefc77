//! Streams: answers in order, errors in their place.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use futures::{StreamExt, stream};
use granary_client::{GetFeatures, Target};
use granary_model::ErrorKind;
use granary_testing::memory::*;

use crate::server::*;

#[tokio::test]
async fn answers_come_in_the_order_of_requests_and_errors_in_their_place() {
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[account("1")], &[])).await;
    let rows: Vec<_> = (0..100).map(|id| (id, day(5), Some(id as f64))).collect();
    let view = &snapshot.definitions.feature_views["account"];
    project.publish(view, &account_rows(&rows), day(90)).await;
    let store = Arc::new(project.store.clone());
    let server = TestServer::start(components(&project, store).await, quick()).await;
    let client = server.client().await;

    let request = |id: i64| {
        let feature = if id % 10 == 3 {
            "account.nothing"
        } else {
            "account.balance"
        };
        let target = Target::Features(vec![feature.into()]);
        GetFeatures::new(target, customers(&[Some(id)]))
    };
    let answers = client
        .stream_features(stream::iter(0..100).map(request))
        .await
        .unwrap();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 100);
    for (id, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(answer) => {
                let values = answer.features[0].values.as_primitive::<Float64Type>();
                assert_eq!(values.value(0), id as f64);
            }
            Err(error) => {
                assert_eq!((id % 10, error.kind()), (3, ErrorKind::NotFound));
                assert!(error.to_string().contains("account.nothing"));
            }
        }
    }
    let (_, metrics) = server.get("/metrics").await;
    assert!(
        metrics.contains("granary_stream_items_total{code=\"Ok\"} 90"),
        "{metrics}"
    );
    assert!(metrics.contains("granary_stream_items_total{code=\"NotFound\"} 10"));
    assert!(metrics.contains("granary_entities_total 90"));
}

#[tokio::test]
async fn no_more_streams_than_may_be_open() {
    let project = small_project().await;
    let store = Arc::new(project.store.clone());
    let mut settings = quick();
    settings.concurrent_streams_max = 1;
    let server = TestServer::start(components(&project, store).await, settings).await;
    let client = server.client().await;
    let open = client.stream_features(stream::pending()).await.unwrap();
    let refused = client.stream_features(stream::pending()).await;
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::ResourceExhausted);
    drop(open);
    eventually(async || client.stream_features(stream::empty()).await.is_ok()).await;
}
