//! Streams, events and reads for the properties.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use granary_model::{ManualClock, UtcMicros};

use super::EventHome;
use crate::error::StoreError;
use crate::events::{
    Appended, EventBatch, EventRef, EventSink, EventSnapshot, EventStore, EventStream, IndexSpec,
    KeyOf, KeyRange, NewEvent, NewTile, ScanOrder, StreamSpec, TileRange, TileSetSpec, TileSink,
    TrimPolicy,
};

pub(super) type Home = Arc<dyn EventHome>;
pub(super) type Store = Arc<dyn EventStore>;
pub(super) type Stream = Arc<dyn EventStream>;
pub(super) type Snapshot = Arc<dyn EventSnapshot>;
pub(super) type Outcome = Result<(), StoreError>;

pub(super) const STREAM: &str = "card_event";
pub(super) const MINUTE: i64 = 60_000_000;
pub(super) const HOUR: i64 = 60 * MINUTE;

/// Positions in [`spec`].
pub(super) const CUSTOMER: usize = 0;
pub(super) const DEVICE: usize = 1;
/// Of the tile set `spend`: tiles of a minute and of an hour by customer.
pub(super) const SPEND: usize = 0;

/// A stream with two indexes and a tile set.
pub(super) fn spec() -> StreamSpec {
    StreamSpec {
        name: STREAM.to_owned(),
        columns: "event_id VARCHAR, customer_id BIGINT".to_owned(),
        history: false,
        indexes: vec![index("customer"), index("device")],
        tile_sets: vec![tile_set("spend", 1)],
    }
}

pub(super) fn index(name: &str) -> IndexSpec {
    IndexSpec {
        name: name.to_owned(),
    }
}

pub(super) fn tile_set(name: &str, version: u32) -> TileSetSpec {
    TileSetSpec {
        name: name.to_owned(),
        version,
        index: "customer".to_owned(),
        spans: vec![MINUTE, HOUR],
    }
}

/// An event; `customer` and `device` are empty where it has no such key, and
/// `a,b` where it has several. Its payload is `id|customer|device`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fact<'a> {
    pub(super) id: &'a str,
    pub(super) at: i64,
    pub(super) customer: &'a str,
    pub(super) device: &'a str,
}

pub(super) fn fact<'a>(id: &'a str, at: i64, customer: &'a str) -> Fact<'a> {
    Fact {
        id,
        at,
        customer,
        device: "",
    }
}

impl Fact<'_> {
    /// As an event of a stream with the indexes of [`spec`].
    pub(super) fn event(self) -> NewEvent {
        self.event_of(&["customer", "device"])
    }

    pub(super) fn event_of(self, indexes: &[&str]) -> NewEvent {
        let payload = format!("{}|{}|{}", self.id, self.customer, self.device);
        NewEvent {
            event_time: UtcMicros(self.at),
            dedup_key: Some(bytes(self.id)),
            keys: indexes
                .iter()
                .map(|index| keys_in(index, payload.as_bytes()))
                .collect(),
            payload: payload.into(),
        }
    }
}

pub(super) fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The keys that a payload has in an index, by the index's name.
fn keys_in(index: &str, payload: &[u8]) -> Vec<Bytes> {
    let field = match index {
        "customer" => 1,
        "device" => 2,
        other => panic!("no index is named {other}"),
    };
    let part = payload.split(|byte| *byte == b'|').nth(field);
    let keys = part.unwrap_or_default().split(|byte| *byte == b',');
    keys.filter(|key| !key.is_empty())
        .map(Bytes::copy_from_slice)
        .collect()
}

/// Reads the keys of the suite's payloads.
pub(super) struct FromPayload(pub(super) Vec<IndexSpec>);

impl KeyOf for FromPayload {
    fn keys_of(&self, index: usize, event: EventRef<'_>) -> Result<Vec<Bytes>, StoreError> {
        Ok(keys_in(&self.0[index].name, event.payload))
    }
}

pub(super) fn clock(at: i64) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(UtcMicros(at)))
}

/// A store with the stream of [`spec`].
pub(super) async fn open(home: &Home) -> Result<(Store, Stream), StoreError> {
    open_as(home, spec()).await
}

pub(super) async fn open_as(home: &Home, spec: StreamSpec) -> Result<(Store, Stream), StoreError> {
    let store = home.open(clock(1_000))?;
    let stream = reopen(&store, spec).await?;
    Ok((store, stream))
}

pub(super) async fn reopen(store: &Store, spec: StreamSpec) -> Result<Stream, StoreError> {
    let keys = FromPayload(spec.indexes.clone());
    store.open_stream(spec, &keys).await
}

pub(super) fn batch(facts: &[Fact<'_>]) -> EventBatch {
    EventBatch {
        events: facts.iter().map(|fact| fact.event()).collect(),
        offsets: Vec::new(),
    }
}

pub(super) async fn append(
    stream: &Stream,
    facts: &[Fact<'_>],
) -> Result<Vec<Appended>, StoreError> {
    stream.append(batch(facts)).await
}

/// The ids in payloads, in the order given, by range.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) found: Vec<Vec<String>>,
    pub(super) sequences: Vec<u64>,
    pub(super) created: Vec<UtcMicros>,
    /// Ends a range after this many.
    pub(super) break_after: Option<usize>,
}

impl EventSink for Ids {
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        assert!(range + 1 >= self.found.len(), "ranges come one by one");
        self.found.resize_with(range + 1, Vec::new);
        let id = event.payload.split(|byte| *byte == b'|').next();
        let id = String::from_utf8_lossy(id.unwrap_or_default()).into_owned();
        self.found[range].push(id);
        self.sequences.push(event.sequence);
        self.created.push(event.created_time);
        if Some(self.found[range].len()) == self.break_after {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Every event of a key, whenever.
pub(super) fn all_of(key: &str) -> KeyRange<'_> {
    between(key, i64::MIN, i64::MAX)
}

pub(super) fn between(key: &str, from: i64, to: i64) -> KeyRange<'_> {
    KeyRange {
        key: key.as_bytes(),
        from: UtcMicros(from),
        to: UtcMicros(to),
        limit: usize::MAX,
    }
}

/// Ids of a scan of one range.
pub(super) async fn ids(
    snapshot: &Snapshot,
    index: usize,
    order: ScanOrder,
    range: KeyRange<'_>,
) -> Result<Vec<String>, StoreError> {
    let mut sink = Ids::default();
    snapshot.scan(index, order, &[range], &mut sink).await?;
    Ok(sink.found.pop().unwrap_or_default())
}

/// Ids of what a key has now, oldest first.
pub(super) async fn ids_now(
    stream: &Stream,
    index: usize,
    key: &str,
) -> Result<Vec<String>, StoreError> {
    let snapshot = stream.snapshot().await?;
    ids(&snapshot, index, ScanOrder::OldestFirst, all_of(key)).await
}

/// Ids in the log, by sequence.
pub(super) async fn log_now(stream: &Stream) -> Result<Vec<String>, StoreError> {
    let mut sink = Ids::default();
    let snapshot = stream.snapshot().await?;
    snapshot.scan_log(0, usize::MAX, &mut sink).await?;
    Ok(sink.found.pop().unwrap_or_default())
}

pub(super) fn older_than(t: i64) -> TrimPolicy {
    TrimPolicy {
        older_than: UtcMicros(t),
        keep_newest: Vec::new(),
    }
}

/// Trims to the end; gives the events removed.
pub(super) async fn trim(stream: &Stream, policy: &TrimPolicy) -> Result<u64, StoreError> {
    let mut removed = 0;
    let mut from = None;
    loop {
        let step = stream.trim(policy, from).await?;
        removed += step.removed;
        if step.next.is_none() {
            return Ok(removed);
        }
        from = step.next;
    }
}

pub(super) fn tile(key: &str, level: usize, start: i64, value: &str) -> NewTile {
    NewTile {
        key: bytes(key),
        level,
        start: UtcMicros(start),
        value: bytes(value),
    }
}

/// Puts tiles that are of now; gives the number kept.
pub(super) async fn put(stream: &Stream, tiles: Vec<NewTile>) -> Result<usize, StoreError> {
    let point = stream.snapshot().await?.point();
    stream.put_tiles(SPEND, point, tiles).await
}

#[derive(Debug, Default)]
struct Values(BTreeSet<(i64, String)>);

impl TileSink for Values {
    fn tile(&mut self, _range: usize, start: UtcMicros, value: &[u8]) {
        let value = String::from_utf8_lossy(value).into_owned();
        assert!(self.0.insert((start.0, value)), "a tile is given twice");
    }
}

/// Starts and values of every tile of a key and level.
pub(super) async fn tiles_now(
    stream: &Stream,
    key: &str,
    level: usize,
) -> Result<Vec<(i64, String)>, StoreError> {
    let mut values = Values::default();
    let range = TileRange {
        key: key.as_bytes(),
        level,
        from: UtcMicros::MIN,
        to: UtcMicros::MAX,
    };
    let snapshot = stream.snapshot().await?;
    snapshot.tiles(SPEND, &[range], &mut values).await?;
    Ok(values.0.into_iter().collect())
}

pub(super) fn owned(pairs: &[(i64, &str)]) -> Vec<(i64, String)> {
    let pairs = pairs.iter();
    pairs
        .map(|(start, value)| (*start, (*value).to_owned()))
        .collect()
}
