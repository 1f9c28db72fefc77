//! Messages of a log become events, each once.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::concat_batches;
use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use granary_engine::StreamSource;
use granary_ingest::consumer::log::{Found, Message, MessageLog, Messages, Position};
use granary_ingest::consumer::{BadMessages, MessageFormat, TruncatedLog};
use granary_ingest::{
    ConsumeSettings, Consumer, ConsumerCounts, IngestError, OpenEvents, StreamSettings, Streams,
};
use granary_model::definitions::{Annotations, Column, Definitions, Stream};
use granary_model::fingerprint::Fingerprint;
use granary_model::{FeatureType, ManualClock, UtcMicros};
use granary_store::EmbeddedEventSettings;

use crate::project::Project;

#[cfg(feature = "nats")]
mod nats;

const NOW: i64 = 1_700_000_000_000_000;

fn definitions() -> Definitions {
    let stream = Stream {
        name: "card_event".into(),
        columns: vec![
            Column::new("event_id".to_owned(), FeatureType::Varchar),
            Column::new("amount".to_owned(), FeatureType::Double),
            Column::new("at".to_owned(), FeatureType::Timestamp),
        ],
        event_time: "at".into(),
        // Nothing but the position keeps an event from being stored twice.
        deduplicate_by: Vec::new(),
        history: None,
        then_by: Vec::new(),
        annotations: Annotations::default(),
        fingerprint: Fingerprint("1".into()),
    };
    let mut definitions = Definitions::default();
    definitions.streams.insert(stream.name.clone(), stream);
    definitions
}

async fn open_with(folder: &Path, events: EmbeddedEventSettings) -> Arc<Streams> {
    let clock = Arc::new(ManualClock::new(UtcMicros(NOW)));
    let streams = Streams::open(folder, events, StreamSettings::default(), clock).unwrap();
    let engine = Project::new().engine.clone();
    streams.follow(&engine, &definitions()).await.unwrap();
    Arc::new(streams)
}

async fn open(folder: &Path) -> Arc<Streams> {
    open_with(folder, EmbeddedEventSettings::default()).await
}

fn settings() -> ConsumeSettings {
    ConsumeSettings {
        stream: "card_event".into(),
        consumer: "cards".into(),
        url: String::new(),
        jetstream: "CARDS".into(),
        subject: String::new(),
        format: MessageFormat::Json,
        bad: BadMessages::Skip,
        truncated: TruncatedLog::Stop,
        ca_file: None,
        batch_messages_max: 100,
        batch_bytes_max: 1 << 20,
        wait_millis: 200,
        retry_millis_max: 200,
    }
}

fn json(id: &str) -> String {
    format!(r#"{{"event_id": "{id}", "amount": 1.5, "at": "2023-11-14T22:00:00Z"}}"#)
}

/// The ids of what is stored, in the order of their acknowledgement.
async fn ids(streams: &Streams) -> Vec<String> {
    let source = OpenEvents(Arc::clone(streams.opened()));
    let stream = &definitions().streams["card_event"];
    let batches = source.scan(stream, &[0]).await.unwrap();
    let batches: Vec<_> = batches.kept.try_collect().await.unwrap();
    let schema = stream.row_schema().project(&[0]).unwrap();
    let kept = concat_batches(&Arc::new(schema), &batches).unwrap();
    let ids = kept.column(0).as_string::<i32>().iter();
    ids.map(|id| id.unwrap_or("NULL").to_owned()).collect()
}

/// Runs a consumer until something holds of what it counts.
async fn run_until(consumer: &mut Consumer, done: impl Fn(&ConsumerCounts) -> bool) {
    let counts = Arc::clone(consumer.counts());
    let holds = async {
        while !done(&counts) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = consumer.run() => panic!("{ended}"),
        held = tokio::time::timeout(Duration::from_secs(30), holds) => {
            held.unwrap_or_else(|_| panic!("{:?}", consumer.counts()));
        }
    }
}

fn consumed(counts: &ConsumerCounts) -> u64 {
    counts.messages.load(Ordering::Relaxed)
}

/// A log of given payloads.
#[derive(Debug)]
struct ListLog {
    payloads: Vec<String>,
    next: usize,
}

impl ListLog {
    fn position(&self, sequence: usize) -> Position {
        Position {
            log: "CARDS".into(),
            sequence: sequence as u64,
            ..Position::default()
        }
    }
}

#[async_trait]
impl MessageLog for ListLog {
    async fn seek(&mut self, after: Option<&Position>) -> Result<Found, IngestError> {
        self.next = after.map_or(0, |after| after.sequence as usize);
        Ok(Found {
            position: self.position(self.next),
            gone: None,
        })
    }

    async fn next(&mut self) -> Result<Messages, IngestError> {
        if self.next == self.payloads.len() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let first = std::mem::replace(&mut self.next, self.payloads.len());
        let messages = (first..self.next).map(|at| Message {
            position: self.position(at + 1),
            payload: Bytes::from(self.payloads[at].clone()),
        });
        Ok(Messages {
            messages: messages.collect(),
            end: self.position(self.next),
            pending: 0,
        })
    }
}

fn list(streams: &Arc<Streams>, payloads: &[String]) -> Consumer {
    let payloads = payloads.to_vec();
    let log = ListLog { payloads, next: 0 };
    Consumer::new(settings(), Arc::clone(streams), Box::new(log))
}

#[tokio::test]
async fn a_batch_beyond_the_stores_bound_is_appended_in_parts() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = EmbeddedEventSettings {
        batch_bytes_max: 2_000,
        ..EmbeddedEventSettings::default()
    };
    let streams = open_with(folder.path(), bounds).await;
    let mut payloads: Vec<String> = (0..200).map(|n| json(&n.to_string())).collect();
    payloads[50] = json(&"x".repeat(5_000));
    let mut consumer = list(&streams, &payloads);
    run_until(&mut consumer, |counts| consumed(counts) == 200).await;
    assert_eq!(consumer.counts().bad.load(Ordering::Relaxed), 1);
    let expected = (0..200).filter(|n| *n != 50).map(|n| n.to_string());
    assert_eq!(ids(&streams).await, expected.collect::<Vec<_>>());
    // All of it is behind the stored position.
    let mut again = list(&streams, &payloads);
    payloads.push(json("last"));
    let mut more = list(&streams, &payloads);
    run_until(&mut more, |counts| consumed(counts) == 1).await;
    let ran = tokio::time::timeout(Duration::from_millis(50), again.run()).await;
    assert!(ran.is_err());
    assert_eq!(ids(&streams).await.len(), 200);
}

#[tokio::test]
async fn a_consumer_does_not_take_the_position_of_another_log() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    run_until(&mut list(&streams, &[json("a")]), |counts| {
        consumed(counts) == 1
    })
    .await;
    let other = ConsumeSettings {
        subject: "cards.eu".into(),
        ..settings()
    };
    let log = Box::new(ListLog {
        payloads: Vec::new(),
        next: 0,
    });
    let error = Consumer::new(other, streams, log).run().await.to_string();
    assert!(error.contains("needs another name"), "{error}");
}

#[tokio::test]
async fn a_consumer_does_not_take_the_name_of_a_note() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let taken = ConsumeSettings {
        consumer: "granary/whole".into(),
        ..settings()
    };
    let log = Box::new(ListLog {
        payloads: vec![json("a")],
        next: 0,
    });
    let error = Consumer::new(taken, Arc::clone(&streams), log).run().await;
    let told = "consumer granary/whole: names that begin with granary/ are Granary's own";
    assert_eq!(error.to_string(), told);
    assert!(ids(&streams).await.is_empty());
}
