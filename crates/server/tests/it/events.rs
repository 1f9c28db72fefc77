//! Events over the wire: what is taken, what is refused, what a restart keeps.

use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use futures::{StreamExt, TryStreamExt, stream};
use granary_client::{Client, HistoryAnswer, Push, PushAnswer};
use granary_model::definitions::{Annotations, Column, Definitions, Stream};
use granary_model::fingerprint::Fingerprint;
use granary_model::{ErrorKind, FeatureType};
use granary_proto as pb;
use granary_proto::streams_client::StreamsClient;
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore, EventStore};
use granary_testing::memory::*;

use crate::server::*;

fn with_stream(mut definitions: Definitions) -> Definitions {
    let stream = Stream {
        name: "card_event".into(),
        columns: vec![
            Column::new("event_id".to_owned(), FeatureType::Varchar),
            Column::new("customer_id".to_owned(), FeatureType::BigInt),
            Column::new("amount".to_owned(), FeatureType::Double),
            Column::new("at".to_owned(), FeatureType::Timestamp),
        ],
        event_time: "at".into(),
        deduplicate_by: vec!["event_id".into()],
        history: None,
        then_by: Vec::new(),
        annotations: Annotations::default(),
        fingerprint: Fingerprint("1".into()),
    };
    definitions.streams.insert(stream.name.clone(), stream);
    definitions
}

/// Rows of (id, day of the event).
fn rows(events: &[(&str, Option<i64>)]) -> RecordBatch {
    let ids: StringArray = events.iter().map(|e| Some(e.0)).collect();
    let times: TimestampMicrosecondArray = events.iter().map(|e| e.1.map(|d| day(d).0)).collect();
    let customers = Int64Array::from_iter_values(0..events.len() as i64);
    let amounts = Float64Array::from_iter_values(events.iter().map(|_| 1.5));
    batch_of(vec![
        ("event_id", Arc::new(ids) as ArrayRef),
        ("customer_id", Arc::new(customers) as ArrayRef),
        ("amount", Arc::new(amounts) as ArrayRef),
        ("at", Arc::new(times.with_timezone("UTC")) as ArrayRef),
    ])
}

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(nullable).unwrap()
}

/// A server with events in memory.
async fn server() -> (TestServer, MemoryProject) {
    let project = MemoryProject::new();
    project.commit(with_stream(small_definitions())).await;
    let store = Arc::new(project.store.clone());
    let server = TestServer::start(components(&project, store).await, quick()).await;
    (server.ready().await, project)
}

async fn push(client: &Client, events: &[(&str, Option<i64>)]) -> PushAnswer {
    let push = Push::new("card_event", rows(events));
    client.push(&push).await.unwrap()
}

#[tokio::test]
async fn a_push_answers_what_became_of_each_row() {
    let (server, _project) = server().await;
    let client = server.client().await;
    for as_columns in [false, true] {
        let events = [("a", Some(1)), ("b", None), ("c", Some(2)), ("a", Some(3))];
        let push = Push {
            ids: true,
            as_columns,
            ..Push::new("card_event", rows(&events))
        };
        let answer = client.push(&push).await.unwrap();
        let expected = match as_columns {
            false => (2, 1),
            true => (0, 3),
        };
        assert_eq!((answer.appended, answer.duplicates), expected);
        let reason = "at is NULL: an event needs its event time";
        assert_eq!(answer.refused, [(1, reason.to_owned())]);
        let sequences = answer.ids.iter().map(|id| id.map(|id| id.sequence));
        let sequences: Vec<_> = sequences.collect();
        assert_eq!(sequences, [Some(1), None, Some(2), Some(1)]);
    }
    let states = client.list_streams().await.unwrap();
    assert_eq!(
        (states[0].name.as_str(), states[0].events),
        ("card_event", 2)
    );
    assert_eq!(states[0].newest_event_time, Some(day(2)));
    let (_, metrics) = server.get("/metrics").await;
    for line in [
        "granary_pushed_events_total 2",
        "granary_duplicate_events_total 4",
        "granary_refused_events_total 2",
        "granary_push_seconds_count 2",
        "granary_requests_total{code=\"Ok\",rpc=\"Push\"} 2",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} in {metrics}");
    }
}

#[tokio::test]
async fn a_batch_that_is_not_of_the_stream_is_refused_as_a_whole() {
    let (server, _project) = server().await;
    let client = server.client().await;
    let good = rows(&[("a", Some(1))]);
    let without = |name: &str| {
        let names = good.schema();
        let kept = (0..4).filter(|at| names.field(*at).name() != name);
        good.project(&kept.collect::<Vec<_>>()).unwrap()
    };
    let mut odd: Vec<(&str, ArrayRef)> = vec![("colour", Arc::clone(good.column(0)))];
    odd.extend(
        [
            ("event_id", 0),
            ("customer_id", 1),
            ("amount", 2),
            ("at", 3),
        ]
        .map(|(name, at)| (name, Arc::clone(good.column(at)))),
    );
    let mut typed: Vec<(&str, ArrayRef)> = vec![("amount", Arc::clone(good.column(0)))];
    typed.extend(
        [("event_id", 0), ("customer_id", 1), ("at", 3)]
            .map(|(name, at)| (name, Arc::clone(good.column(at)))),
    );
    let invalid = ErrorKind::InvalidArgument;
    for (stream, batch, kind, told) in [
        (
            "card_event",
            without("amount"),
            invalid,
            "column amount is missing",
        ),
        ("card_event", batch_of(odd), invalid, "no column colour"),
        (
            "card_event",
            batch_of(typed),
            invalid,
            "column amount expects DOUBLE",
        ),
        (
            "card_events",
            good.clone(),
            ErrorKind::NotFound,
            "did you mean \"card_event\"?",
        ),
    ] {
        let error = client.push(&Push::new(stream, batch)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    let mut bare = StreamsClient::new(server.channel().await);
    let encoded = granary_proto::columns::encode_columns(&good).unwrap();
    let ipc = granary_proto::columns::encode_ipc(&good).unwrap();
    for (columns, arrow_ipc, told) in [
        (vec![], vec![].into(), "there are no rows"),
        (encoded, ipc, "not both"),
        (vec![], vec![1, 2, 3].into(), "arrow_ipc"),
    ] {
        let request = pb::PushRequest {
            stream: "card_event".into(),
            columns,
            arrow_ipc,
            include_ids: false,
        };
        let error = bare.push(request).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
        assert!(error.message().contains(told), "{error}");
    }
    assert_eq!(client.list_streams().await.unwrap()[0].events, 0);
}

#[tokio::test]
async fn a_stream_of_pushes_is_answered_in_order_with_errors_in_their_place() {
    let (server, _project) = server().await;
    let client = server.client().await;
    let pushes = (0..50_i64).map(|n| {
        let stream = if n % 10 == 3 { "nothing" } else { "card_event" };
        let id = n.to_string();
        let events = vec![(id.as_str(), Some(1)); n as usize + 1];
        Push::new(stream, rows(&events))
    });
    let pushes: Vec<Push> = pushes.collect();
    let answers = client.push_stream(stream::iter(pushes)).await.unwrap();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 50);
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(answer) => {
                assert_eq!((answer.appended, answer.duplicates), (1, n as u64));
            }
            Err(error) => assert_eq!((n % 10, error.kind()), (3, ErrorKind::NotFound)),
        }
    }
    assert_eq!(client.list_streams().await.unwrap()[0].events, 45);
}

#[tokio::test]
async fn a_scan_gives_the_columns_that_are_asked_for() {
    let (server, _project) = server().await;
    let client = server.client().await;
    push(&client, &[("a", Some(1)), ("b", Some(2))]).await;
    let scan = async |columns: &[&str]| {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        let scanned = client.scan_stream("card_event", columns).await?;
        assert_eq!(scanned.flushed, 0);
        scanned.kept.try_collect::<Vec<RecordBatch>>().await
    };
    let count = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
    let batches = scan(&["_created", "event_id"]).await.unwrap();
    assert_eq!(count(&batches), 2);
    let names = batches[0].schema();
    let names: Vec<_> = names.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["_created", "event_id"]);
    assert_eq!(count(&scan(&[]).await.unwrap()), 2);
    let error = scan(&["amounts"]).await.unwrap_err().to_string();
    assert!(error.contains("did you mean \"amount\"?"), "{error}");
    let unknown = client.scan_stream("nothing", Vec::new()).await.err();
    assert_eq!(unknown.unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn older_events_come_in_one_call_into_the_history() {
    let project = MemoryProject::new();
    let mut definitions = with_stream(small_definitions());
    for stream in definitions.streams.values_mut() {
        stream.history = Some("card_history".into());
    }
    project.commit(definitions).await;
    let store = Arc::new(project.store.clone());
    let mut settings = quick();
    settings.history_bytes_max = 10_000;
    let server = TestServer::start(components(&project, store).await, settings).await;
    let server = server.ready().await;
    let client = server.client().await;
    let older = [
        rows(&[("a", Some(1)), ("b", None)]),
        rows(&[("c", Some(2)), ("a", Some(3))]),
    ];
    let answer = client.push_history("card_event", &older).await.unwrap();
    let reason = "at is NULL: an event needs its event time".to_owned();
    let expected = HistoryAnswer {
        added: 2,
        duplicates: 1,
        refused: 1,
        reasons: vec![(1, reason)],
    };
    assert_eq!(answer, expected);
    let again = client.push_history("card_event", &older).await.unwrap();
    assert_eq!((again.added, again.duplicates), (0, 3));
    assert_eq!(push(&client, &[("a", Some(4))]).await.duplicates, 1);

    let many = vec![rows(&[("d", Some(1)); 20]); 20];
    let odd = older[0].project(&[0, 1, 3]).unwrap();
    for (stream, batches, kind, told) in [
        ("card_event", many, ErrorKind::ResourceExhausted, "10000"),
        (
            "card_event",
            vec![odd],
            ErrorKind::InvalidArgument,
            "amount",
        ),
        (
            "card_events",
            older.to_vec(),
            ErrorKind::NotFound,
            "did you",
        ),
        ("card_event", vec![], ErrorKind::InvalidArgument, "no rows"),
    ] {
        let error = client.push_history(stream, &batches).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    let listed = client.list_streams().await.unwrap();
    assert_eq!(listed[0].history.as_deref(), Some("card_history"));
    assert_eq!(listed[0].retention, "7 days behind the newest event");
    assert!(listed[0].needed_by.is_empty());
}

#[tokio::test]
async fn a_stream_that_is_applied_later_takes_events_without_a_restart() {
    let project = MemoryProject::new();
    project.commit(small_definitions()).await;
    let store = Arc::new(project.store.clone());
    let server = TestServer::start(components(&project, store).await, quick()).await;
    let server = server.ready().await;
    let client = server.client().await;
    assert!(client.list_streams().await.unwrap().is_empty());
    project.commit(with_stream(small_definitions())).await;
    let pushed = async || {
        let push = Push::new("card_event", rows(&[("a", Some(1))]));
        client.push(&push).await.is_ok()
    };
    eventually(pushed).await;
}

#[tokio::test]
async fn a_restart_keeps_what_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let project = MemoryProject::new();
    project.commit(with_stream(small_definitions())).await;
    for (round, events) in [
        [("a", Some(1)), ("b", Some(2))],
        [("b", Some(2)), ("c", Some(3))],
    ]
    .into_iter()
    .enumerate()
    {
        let open = || {
            let settings = EmbeddedEventSettings::default();
            EmbeddedEventStore::open(folder.path(), settings, project.clock.clone()).ok()
        };
        eventually(async || open().is_some()).await;
        let events_store: Arc<dyn EventStore> = Arc::new(open().unwrap());
        let store = Arc::new(project.store.clone());
        let mut components = components(&project, store).await;
        components.streams = streams_over(&project.engine, events_store, project.clock.clone());
        let mut server = TestServer::start(components, quick()).await.ready().await;
        let client = server.client().await;
        let answer = push(&client, &events).await;
        let expected = [(2, 0), (1, 1)][round];
        assert_eq!((answer.appended, answer.duplicates), expected);
        let kept = client.list_streams().await.unwrap()[0].events;
        assert_eq!(kept, [2, 3][round]);
        drop(client);
        server.begin_shutdown();
        server.ended.await.unwrap();
    }
}
