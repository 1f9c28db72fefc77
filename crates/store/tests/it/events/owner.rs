//! One process owns the events of a folder, and its settings bound it.

use std::sync::Arc;

use granary_model::{ErrorKind, SystemClock};
use granary_store::events::{EventBatch, EventRef, IndexSpec, KeyOf, NewEvent, StreamSpec};
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore, EventStore, StoreError};

fn open(
    folder: &std::path::Path,
    settings: EmbeddedEventSettings,
) -> Result<EmbeddedEventStore, StoreError> {
    EmbeddedEventStore::open(folder, settings, Arc::new(SystemClock))
}

pub struct NoKeys;

impl KeyOf for NoKeys {
    fn keys_of(&self, _: usize, _: EventRef<'_>) -> Result<Vec<bytes::Bytes>, StoreError> {
        Ok(Vec::new())
    }
}

pub fn spec() -> StreamSpec {
    StreamSpec {
        name: "card_event".to_owned(),
        columns: String::new(),
        history: false,
        indexes: vec![IndexSpec {
            name: "customer".to_owned(),
        }],
        tile_sets: Vec::new(),
    }
}

pub fn event(id: &str, bytes: usize) -> NewEvent {
    NewEvent {
        event_time: granary_model::UtcMicros(0),
        dedup_key: Some(id.to_owned().into()),
        keys: vec![vec!["ann".into()]],
        payload: vec![7; bytes].into(),
    }
}

pub fn batch(events: Vec<NewEvent>) -> EventBatch {
    EventBatch {
        events,
        offsets: Vec::new(),
    }
}

#[test]
fn a_second_owner_is_told_who_the_first_is() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("events");
    assert_eq!(EmbeddedEventStore::owner(&folder).unwrap(), None);
    let first = open(&folder, EmbeddedEventSettings::default()).unwrap();
    let pid = std::process::id();
    let refused = open(&folder, EmbeddedEventSettings::default()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::FailedPrecondition);
    assert!(refused.to_string().contains(&format!("process {pid}")));

    first.register_endpoint("http://127.0.0.1:7117").unwrap();
    let owner = EmbeddedEventStore::owner(&folder).unwrap().unwrap();
    assert_eq!(owner.pid, pid);
    assert_eq!(owner.endpoint.as_deref(), Some("http://127.0.0.1:7117"));
    let refused = open(&folder, EmbeddedEventSettings::default()).unwrap_err();
    assert!(refused.to_string().contains("at http://127.0.0.1:7117"));

    drop(first);
    assert_eq!(EmbeddedEventStore::owner(&folder).unwrap(), None);
    open(&folder, EmbeddedEventSettings::default()).unwrap();
}

#[tokio::test]
async fn appends_are_refused_while_the_disk_is_nearly_full() {
    let kept = tempfile::tempdir().unwrap();
    {
        let store = open(kept.path(), EmbeddedEventSettings::default()).unwrap();
        let stream = store.open_stream(spec(), &NoKeys).await.unwrap();
        stream.append(batch(vec![event("a", 10)])).await.unwrap();
    }
    let settings = EmbeddedEventSettings {
        free_bytes_min: u64::MAX,
        ..EmbeddedEventSettings::default()
    };
    let store = open(kept.path(), settings).unwrap();
    let stream = store.open_stream(spec(), &NoKeys).await.unwrap();
    for _ in 0..2 {
        let refused = stream.append(batch(vec![event("b", 10)])).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    }
    let snapshot = stream.snapshot().await.unwrap();
    assert_eq!(snapshot.state().events, 1);
    let found = snapshot.duplicates(&[b"a", b"b"]).await.unwrap();
    assert!(found[0].is_some() && found[1].is_none());
    // What makes room goes on.
    stream.set_flushed(1).await.unwrap();
    let policy = granary_store::events::TrimPolicy {
        older_than: granary_model::UtcMicros(1),
        keep_newest: Vec::new(),
    };
    let step = stream.trim(&policy, None).await.unwrap();
    assert_eq!(step.removed, 1);
}

#[tokio::test]
async fn a_batch_beyond_the_bound_is_refused() {
    let kept = tempfile::tempdir().unwrap();
    let settings = EmbeddedEventSettings {
        batch_bytes_max: 1000,
        ..EmbeddedEventSettings::default()
    };
    let store = open(kept.path(), settings).unwrap();
    let stream = store.open_stream(spec(), &NoKeys).await.unwrap();
    let refused = stream.append(batch(vec![event("a", 1000)])).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert!(refused.to_string().contains("1000 are the most"));
    stream.append(batch(vec![event("a", 500)])).await.unwrap();
}
