//! The in-memory event store, for tests and trials.
//!
//! It keeps nothing beyond the process and bounds nothing. It is the plainest
//! thing that passes [`crate::conformance::events`], so it also serves as the
//! reference for the others. Streams of one [`MemoryEventStore`] and its clones
//! share their content, so a clone stands for a store opened again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use granary_model::{Clock, SystemClock, UtcMicros};

use crate::error::StoreError;
use crate::events::{
    Appended, EventBatch, EventId, EventRef, EventSink, EventSnapshot, EventStore, EventStream,
    KeyOf, KeyRange, NewEvent, NewTile, ScanOrder, SnapshotPoint, StreamSpec, StreamState,
    TileRange, TileSink, TrimCursor, TrimPolicy, TrimStep,
};

/// Events in sorted maps.
#[derive(Debug, Clone)]
pub struct MemoryEventStore {
    streams: Arc<Mutex<BTreeMap<String, Held>>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Held {
    epoch: u64,
    /// A snapshot is a clone of the pointer; a write beside it copies.
    content: Arc<Content>,
}

#[derive(Debug, Clone)]
struct Content {
    spec: Arc<StreamSpec>,
    state: StreamState,
    removals: u64,
    log: BTreeMap<u64, Event>,
    dedup: BTreeMap<Bytes, u64>,
    /// By index, key, event time, sequence.
    indexed: BTreeMap<(String, Bytes, UtcMicros, u64), ()>,
    /// By tile set and version, key, level, start.
    tiles: BTreeMap<(TileSet, Bytes, usize, UtcMicros), Bytes>,
    offsets: BTreeMap<String, Bytes>,
}

type TileSet = (String, u32);

#[derive(Debug, Clone)]
struct Event {
    event_time: UtcMicros,
    created_time: UtcMicros,
    dedup_key: Option<Bytes>,
    /// By index.
    keys: BTreeMap<String, Bytes>,
    payload: Bytes,
}

impl Event {
    fn bytes(&self) -> u64 {
        let dedup = self.dedup_key.as_ref().map_or(0, Bytes::len);
        let keys: usize = self.keys.values().map(Bytes::len).sum();
        (dedup + keys + self.payload.len()) as u64
    }

    fn lend(&self, sequence: u64) -> EventRef<'_> {
        EventRef {
            event_time: self.event_time,
            created_time: self.created_time,
            sequence,
            payload: &self.payload,
        }
    }
}

impl Default for MemoryEventStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl MemoryEventStore {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            streams: Arc::default(),
            clock,
        }
    }

    /// The same content under another clock.
    #[must_use]
    pub fn with_clock(&self, clock: Arc<dyn Clock>) -> Self {
        Self {
            streams: Arc::clone(&self.streams),
            clock,
        }
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl EventStore for MemoryEventStore {
    async fn open_stream(
        &self,
        spec: StreamSpec,
        keys: &dyn KeyOf,
    ) -> Result<Arc<dyn EventStream>, StoreError> {
        spec.check()?;
        let spec = Arc::new(spec);
        let mut streams = self.streams();
        let held = streams.entry(spec.name.clone()).or_insert_with(|| Held {
            epoch: 0,
            content: Arc::new(Content::new(Arc::clone(&spec))),
        });
        if held.content.spec != spec {
            let mut content = (*held.content).clone();
            content.reshape(&spec, keys)?;
            held.content = Arc::new(content);
            held.epoch += 1;
        }
        Ok(Arc::new(MemoryStream {
            spec,
            epoch: held.epoch,
            store: self.clone(),
        }))
    }

    async fn streams(&self) -> Result<Vec<(StreamSpec, StreamState)>, StoreError> {
        let streams = self.streams();
        let contents = streams.values().map(|held| &held.content);
        Ok(contents
            .map(|content| ((*content.spec).clone(), content.state))
            .collect())
    }

    async fn drop_stream(&self, name: &str) -> Result<(), StoreError> {
        self.streams().remove(name);
        Ok(())
    }
}

impl Content {
    fn new(spec: Arc<StreamSpec>) -> Self {
        Self {
            spec,
            state: StreamState::default(),
            removals: 0,
            log: BTreeMap::new(),
            dedup: BTreeMap::new(),
            indexed: BTreeMap::new(),
            tiles: BTreeMap::new(),
            offsets: BTreeMap::new(),
        }
    }

    fn reshape(&mut self, spec: &Arc<StreamSpec>, keys: &dyn KeyOf) -> Result<(), StoreError> {
        if self.state.events > 0 && self.spec.columns != spec.columns {
            return Err(StoreError::StreamColumns {
                stream: spec.name.clone(),
                stored: self.spec.columns.clone(),
                given: spec.columns.clone(),
            });
        }
        let kept = |name: &str| spec.index(name).is_some();
        self.indexed.retain(|(index, ..), ()| kept(index));
        for (position, index) in spec.indexes.iter().enumerate() {
            if self.spec.index(&index.name).is_some() {
                continue;
            }
            for (sequence, event) in &mut self.log {
                if let Some(key) = keys.key_of(position, &event.payload)? {
                    self.state.bytes += key.len() as u64;
                    let entry = (index.name.clone(), key.clone(), event.event_time, *sequence);
                    self.indexed.insert(entry, ());
                    event.keys.insert(index.name.clone(), key);
                }
            }
        }
        let old = Arc::clone(&self.spec);
        self.tiles.retain(|((name, version), ..), _| {
            let before = old.tile_set(name, *version).map(|at| &old.tile_sets[at]);
            let now = spec.tile_set(name, *version).map(|at| &spec.tile_sets[at]);
            before == now
        });
        self.spec = Arc::clone(spec);
        Ok(())
    }

    fn append(&mut self, batch: EventBatch, now: UtcMicros) -> Result<Vec<Appended>, StoreError> {
        for at in &batch.offsets {
            if self.offsets.get(&at.consumer) != at.previous.as_ref() {
                return Err(StoreError::OffsetMoved {
                    stream: self.spec.name.clone(),
                    consumer: at.consumer.clone(),
                });
            }
        }
        for at in batch.offsets {
            self.offsets.insert(at.consumer, at.offset);
        }
        let events = batch.events.into_iter();
        Ok(events.map(|event| self.append_event(event, now)).collect())
    }

    fn append_event(&mut self, event: NewEvent, now: UtcMicros) -> Appended {
        let stored = event.dedup_key.as_ref().and_then(|key| self.dedup.get(key));
        if let Some(sequence) = stored {
            return Appended::Duplicate(self.id(*sequence));
        }
        let state = &mut self.state;
        let sequence = state.last_sequence + 1;
        let last = state.last_created_time;
        let created_time = last.map_or(now, |last| now.max(UtcMicros(last.0 + 1)));
        let names = self.spec.indexes.iter().map(|index| index.name.clone());
        let event = Event {
            event_time: event.event_time,
            created_time,
            dedup_key: event.dedup_key,
            keys: names
                .zip(event.keys)
                .filter_map(|(name, key)| Some((name, key?)))
                .collect(),
            payload: event.payload,
        };
        state.events += 1;
        state.bytes += event.bytes();
        state.last_sequence = sequence;
        state.last_created_time = Some(created_time);
        state.newest_event_time = state.newest_event_time.max(Some(event.event_time));
        if let Some(key) = &event.dedup_key {
            self.dedup.insert(key.clone(), sequence);
        }
        for (index, key) in &event.keys {
            let entry = (index.clone(), key.clone(), event.event_time, sequence);
            self.indexed.insert(entry, ());
        }
        self.forget_tiles(&event);
        self.log.insert(sequence, event);
        Appended::New(EventId {
            sequence,
            created_time,
        })
    }

    fn id(&self, sequence: u64) -> EventId {
        EventId {
            sequence,
            created_time: self.log[&sequence].created_time,
        }
    }

    /// Those that an event is in.
    fn forget_tiles(&mut self, event: &Event) {
        let spec = Arc::clone(&self.spec);
        for set in &spec.tile_sets {
            let Some(key) = event.keys.get(&set.index) else {
                continue;
            };
            for level in 0..set.spans.len() {
                let start = set.start(level, event.event_time);
                let name = (set.name.clone(), set.version);
                self.tiles.remove(&(name, key.clone(), level, start));
            }
        }
    }

    fn put_tiles(&mut self, set: usize, from: SnapshotPoint, tiles: Vec<NewTile>) -> usize {
        let spec = Arc::clone(&self.spec);
        let set = &spec.tile_sets[set];
        let mut kept = 0;
        for tile in tiles {
            let end = UtcMicros(tile.start.0.saturating_add(set.spans[tile.level]));
            let at = |t| (set.index.clone(), tile.key.clone(), t, 0);
            let mut inside = self.indexed.range(at(tile.start)..at(end));
            let newer = inside.any(|((.., sequence), ())| *sequence > from.sequence);
            let trimmed =
                from.removals != self.removals && self.state.trimmed_before > Some(tile.start);
            if newer || trimmed {
                continue;
            }
            let name = (set.name.clone(), set.version);
            let place = (name, tile.key, tile.level, tile.start);
            self.tiles.insert(place, tile.value);
            kept += 1;
        }
        kept
    }

    fn trim(&mut self, policy: &TrimPolicy) -> u64 {
        let old: Vec<u64> = self
            .log
            .iter()
            .filter(|(sequence, event)| {
                event.event_time < policy.older_than
                    && (!self.spec.history || **sequence <= self.state.flushed)
                    && !self.keeps(policy, event)
            })
            .map(|(sequence, _)| *sequence)
            .collect();
        self.state.trimmed_before = self.state.trimmed_before.max(Some(policy.older_than));
        for sequence in &old {
            let Some(event) = self.log.remove(sequence) else {
                continue;
            };
            self.state.events -= 1;
            self.state.bytes -= event.bytes();
            if let Some(key) = &event.dedup_key {
                self.dedup.remove(key);
            }
            for (index, key) in &event.keys {
                let entry = (index.clone(), key.clone(), event.event_time, *sequence);
                self.indexed.remove(&entry);
            }
            self.forget_tiles(&event);
        }
        self.removals += u64::from(!old.is_empty());
        old.len() as u64
    }

    fn keeps(&self, policy: &TrimPolicy, event: &Event) -> bool {
        policy.keep_newest.iter().any(|(index, n)| {
            let index = &self.spec.indexes[*index].name;
            let Some(key) = event.keys.get(index) else {
                return false;
            };
            let place = |t, sequence| (index.clone(), key.clone(), t, sequence);
            let entries = self
                .indexed
                .range(place(UtcMicros::MIN, 0)..=place(UtcMicros::MAX, u64::MAX));
            let mut newest = entries.rev().take(*n);
            newest.any(|((_, _, t, _), ())| *t == event.event_time)
        })
    }
}

#[derive(Debug)]
struct MemoryStream {
    spec: Arc<StreamSpec>,
    epoch: u64,
    store: MemoryEventStore,
}

impl MemoryStream {
    /// Changes the content, if this handle is of the spec that holds.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Content) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut streams = self.store.streams();
        match streams.get_mut(&self.spec.name) {
            Some(held) if held.epoch == self.epoch && held.content.spec == self.spec => {
                change(Arc::make_mut(&mut held.content))
            }
            _ => Err(self.reopened()),
        }
    }

    fn reopened(&self) -> StoreError {
        StoreError::StreamReopened {
            stream: self.spec.name.clone(),
        }
    }
}

#[async_trait]
impl EventStream for MemoryStream {
    fn spec(&self) -> &Arc<StreamSpec> {
        &self.spec
    }

    async fn append(&self, batch: EventBatch) -> Result<Vec<Appended>, StoreError> {
        batch.check(&self.spec)?;
        self.change(|content| content.append(batch, self.store.clock.now()))
    }

    async fn snapshot(&self) -> Result<Arc<dyn EventSnapshot>, StoreError> {
        let streams = self.store.streams();
        let held = streams
            .get(&self.spec.name)
            .ok_or_else(|| self.reopened())?;
        Ok(Arc::new(MemorySnapshot {
            spec: Arc::clone(&self.spec),
            content: Arc::clone(&held.content),
        }))
    }

    async fn set_flushed(&self, sequence: u64) -> Result<(), StoreError> {
        self.change(|content| {
            let last = content.state.last_sequence;
            if sequence > last {
                return Err(StoreError::EventSequence {
                    stream: self.spec.name.clone(),
                    sequence,
                    last,
                });
            }
            content.state.flushed = content.state.flushed.max(sequence);
            Ok(())
        })
    }

    async fn trim(
        &self,
        policy: &TrimPolicy,
        _from: Option<TrimCursor>,
    ) -> Result<TrimStep, StoreError> {
        policy.check(&self.spec)?;
        let removed = self.change(|content| Ok(content.trim(policy)))?;
        Ok(TrimStep {
            removed,
            next: None,
        })
    }

    async fn put_tiles(
        &self,
        set: usize,
        computed_from: SnapshotPoint,
        tiles: Vec<NewTile>,
    ) -> Result<usize, StoreError> {
        self.spec.check_tiles(set, &tiles)?;
        self.change(|content| Ok(content.put_tiles(set, computed_from, tiles)))
    }

    async fn drop_tiles(&self, set: usize) -> Result<(), StoreError> {
        let set = self.spec.tile_set_at(set)?;
        self.change(|content| {
            let name = (set.name.clone(), set.version);
            content.tiles.retain(|(of, ..), _| *of != name);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct MemorySnapshot {
    /// Of the handle; the content's may be newer.
    spec: Arc<StreamSpec>,
    content: Arc<Content>,
}

impl MemorySnapshot {
    fn lost(&self) -> StoreError {
        StoreError::StreamReopened {
            stream: self.spec.name.clone(),
        }
    }
}

#[async_trait]
impl EventSnapshot for MemorySnapshot {
    fn state(&self) -> &StreamState {
        &self.content.state
    }

    fn point(&self) -> SnapshotPoint {
        SnapshotPoint {
            sequence: self.content.state.last_sequence,
            removals: self.content.removals,
        }
    }

    async fn scan(
        &self,
        index: usize,
        order: ScanOrder,
        ranges: &[KeyRange<'_>],
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError> {
        let index = &self.spec.index_at(index)?.name;
        if self.content.spec.index(index).is_none() {
            return Err(self.lost());
        }
        for (position, range) in ranges.iter().enumerate() {
            if range.from > range.to {
                continue;
            }
            let key = Bytes::copy_from_slice(range.key);
            let place = |t, sequence| (index.clone(), key.clone(), t, sequence);
            let entries = self
                .content
                .indexed
                .range(place(range.from, 0)..=place(range.to, u64::MAX));
            let sequences = entries.map(|((.., sequence), ())| *sequence);
            let mut sequences: Vec<u64> = sequences.collect();
            if order == ScanOrder::NewestFirst {
                sequences.reverse();
            }
            let mut sequences = sequences.into_iter().take(range.limit);
            let _: ControlFlow<()> = sequences.try_for_each(|sequence| {
                sink.event(position, self.content.log[&sequence].lend(sequence))
            });
        }
        Ok(())
    }

    async fn scan_log(
        &self,
        after: u64,
        limit: usize,
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError> {
        let Some(first) = after.checked_add(1) else {
            return Ok(());
        };
        let mut events = self.content.log.range(first..).take(limit);
        let _: ControlFlow<()> =
            events.try_for_each(|(sequence, event)| sink.event(0, event.lend(*sequence)));
        Ok(())
    }

    async fn tiles(
        &self,
        set: usize,
        ranges: &[TileRange<'_>],
        sink: &mut dyn TileSink,
    ) -> Result<(), StoreError> {
        let set = self.spec.tile_set_at(set)?;
        let now = &self.content.spec;
        let held = now.tile_set(&set.name, set.version);
        if held.is_none_or(|at| now.tile_sets[at] != *set) {
            return Err(self.lost());
        }
        for (position, range) in ranges.iter().enumerate() {
            if range.from > range.to {
                continue;
            }
            let key = Bytes::copy_from_slice(range.key);
            let name = (set.name.clone(), set.version);
            let place = |t| (name.clone(), key.clone(), range.level, t);
            let tiles = self
                .content
                .tiles
                .range(place(range.from)..=place(range.to));
            for ((.., start), value) in tiles {
                sink.tile(position, *start, value);
            }
        }
        Ok(())
    }

    async fn duplicates(
        &self,
        dedup_keys: &[&[u8]],
    ) -> Result<Vec<Option<(EventId, UtcMicros)>>, StoreError> {
        let find = |key: &&[u8]| {
            let sequence = self.content.dedup.get(*key)?;
            let event = &self.content.log[sequence];
            Some((self.content.id(*sequence), event.event_time))
        };
        Ok(dedup_keys.iter().map(find).collect())
    }

    async fn consumer_offset(&self, consumer: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.content.offsets.get(consumer).cloned())
    }
}
