//! What a stream holds, in sorted maps, and every change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use granary_model::UtcMicros;

use crate::error::StoreError;
use crate::events::{
    Appended, EventBatch, EventId, EventRef, KeyOf, NewEvent, NewTile, RestoredEvents,
    SnapshotPoint, StreamSpec, StreamState, TrimPolicy,
};

#[derive(Debug, Clone)]
pub(super) struct Content {
    pub(super) spec: Arc<StreamSpec>,
    pub(super) state: StreamState,
    pub(super) removals: u64,
    /// `removals` when something was last put back.
    pub(super) restored: u64,
    /// Of each index how many of the newest events of a key trims left; of none
    /// where it is not here. Means nothing while nothing is trimmed.
    pub(super) newest_kept: BTreeMap<String, usize>,
    pub(super) log: BTreeMap<u64, Event>,
    pub(super) dedup: BTreeMap<Bytes, u64>,
    /// By index, key, event time, sequence.
    pub(super) indexed: BTreeMap<(String, Bytes, UtcMicros, u64), ()>,
    /// By tile set and version, key, level, start.
    pub(super) tiles: BTreeMap<(TileSet, Bytes, usize, UtcMicros), Bytes>,
    pub(super) offsets: BTreeMap<String, Bytes>,
}

pub(super) type TileSet = (String, u32);

#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) event_time: UtcMicros,
    pub(super) created_time: UtcMicros,
    pub(super) dedup_key: Option<Bytes>,
    /// By index.
    pub(super) keys: BTreeMap<String, BTreeSet<Bytes>>,
    pub(super) payload: Bytes,
}

impl Event {
    pub(super) fn bytes(&self) -> u64 {
        let dedup = self.dedup_key.as_ref().map_or(0, Bytes::len);
        (dedup + self.payload.len()) as u64
    }

    /// Every key with its index.
    fn places(&self) -> impl Iterator<Item = (&String, &Bytes)> {
        let keys = self.keys.iter();
        keys.flat_map(|(index, keys)| keys.iter().map(move |key| (index, key)))
    }

    fn keys_in(&self, index: &str) -> impl Iterator<Item = &Bytes> {
        self.keys.get(index).into_iter().flatten()
    }

    pub(super) fn lend(&self, sequence: u64) -> EventRef<'_> {
        EventRef {
            event_time: self.event_time,
            created_time: self.created_time,
            sequence,
            payload: &self.payload,
        }
    }
}

impl Content {
    pub(super) fn new(spec: Arc<StreamSpec>) -> Self {
        Self {
            spec,
            state: StreamState::default(),
            removals: 0,
            restored: 0,
            newest_kept: BTreeMap::new(),
            log: BTreeMap::new(),
            dedup: BTreeMap::new(),
            indexed: BTreeMap::new(),
            tiles: BTreeMap::new(),
            offsets: BTreeMap::new(),
        }
    }

    pub(super) fn reshape(
        &mut self,
        spec: &Arc<StreamSpec>,
        keys: &dyn KeyOf,
    ) -> Result<(), StoreError> {
        if self.state.events > 0 && self.spec.columns != spec.columns {
            return Err(StoreError::StreamColumns {
                stream: spec.name.clone(),
                stored: self.spec.columns.clone(),
                given: spec.columns.clone(),
            });
        }
        let kept = |name: &str| spec.index(name).is_some();
        self.indexed.retain(|(index, ..), ()| kept(index));
        self.newest_kept.retain(|index, _| kept(index));
        for (position, index) in spec.indexes.iter().enumerate() {
            if self.spec.index(&index.name).is_some() {
                continue;
            }
            for (sequence, event) in &mut self.log {
                let found = keys.keys_of(position, event.lend(*sequence))?;
                for key in &found {
                    let entry = (index.name.clone(), key.clone(), event.event_time, *sequence);
                    self.indexed.insert(entry, ());
                }
                let found = found.into_iter().collect();
                event.keys.insert(index.name.clone(), found);
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

    pub(super) fn append(
        &mut self,
        batch: EventBatch,
        now: UtcMicros,
    ) -> Result<Vec<Appended>, StoreError> {
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
        let last = self.state.last_created_time;
        let id = EventId {
            sequence: self.state.last_sequence + 1,
            created_time: last.map_or(now, |last| now.max(UtcMicros(last.0 + 1))),
        };
        self.state.last_sequence = id.sequence;
        self.state.last_created_time = Some(id.created_time);
        self.put(id, event);
        Appended::New(id)
    }

    fn put(&mut self, id: EventId, event: NewEvent) {
        let names = self.spec.indexes.iter().map(|index| index.name.clone());
        let event = Event {
            event_time: event.event_time,
            created_time: id.created_time,
            dedup_key: event.dedup_key,
            keys: names
                .zip(event.keys)
                .map(|(name, keys)| (name, keys.into_iter().collect()))
                .collect(),
            payload: event.payload,
        };
        let state = &mut self.state;
        state.events += 1;
        state.bytes += event.bytes();
        state.newest_event_time = state.newest_event_time.max(Some(event.event_time));
        if let Some(key) = &event.dedup_key {
            self.dedup.insert(key.clone(), id.sequence);
        }
        for (index, key) in event.places() {
            let entry = (index.clone(), key.clone(), event.event_time, id.sequence);
            self.indexed.insert(entry, ());
        }
        self.forget_tiles(&event);
        self.log.insert(id.sequence, event);
    }

    pub(super) fn restore(&mut self, restored: RestoredEvents) -> u64 {
        let trimmed = self.state.trimmed_before;
        if restored.heals(&mut self.state) {
            self.newest_kept.clear();
        }
        let mut back = 0;
        for (id, mut event) in restored.events {
            if self.log.contains_key(&id.sequence) {
                continue;
            }
            event.dedup_key = event.dedup_key.filter(|key| !self.dedup.contains_key(key));
            self.put(id, event);
            back += 1;
        }
        if back > 0 || self.state.trimmed_before != trimmed {
            self.removals += 1;
            self.restored = self.removals;
        }
        back
    }

    pub(super) fn id(&self, sequence: u64) -> EventId {
        EventId {
            sequence,
            created_time: self.log[&sequence].created_time,
        }
    }

    /// Those that an event is in.
    fn forget_tiles(&mut self, event: &Event) {
        let spec = Arc::clone(&self.spec);
        for set in &spec.tile_sets {
            for key in event.keys_in(&set.index) {
                for level in 0..set.spans.len() {
                    let start = set.start(level, event.event_time);
                    let name = (set.name.clone(), set.version);
                    self.tiles.remove(&(name, key.clone(), level, start));
                }
            }
        }
    }

    pub(super) fn put_tiles(
        &mut self,
        set: usize,
        from: SnapshotPoint,
        tiles: Vec<NewTile>,
    ) -> usize {
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
            let before_a_restore = from.removals < self.restored;
            if newer || trimmed || before_a_restore {
                continue;
            }
            let name = (set.name.clone(), set.version);
            let place = (name, tile.key, tile.level, tile.start);
            self.tiles.insert(place, tile.value);
            kept += 1;
        }
        kept
    }

    pub(super) fn trim(&mut self, policy: &TrimPolicy) -> u64 {
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
        let newest = old.iter().map(|sequence| self.log[sequence].event_time);
        let newest = newest.max();
        let were_kept = self.spec.indexes.iter().enumerate();
        let were_kept = were_kept.map(|(at, index)| {
            let kept = self.newest_kept(at).min(policy.newest_kept(at));
            (index.name.clone(), kept)
        });
        let are_kept = were_kept.collect();
        if policy.lessens(&self.spec, &mut self.state, newest) {
            self.newest_kept = are_kept;
        }
        for sequence in &old {
            let Some(event) = self.log.remove(sequence) else {
                continue;
            };
            self.state.events -= 1;
            self.state.bytes -= event.bytes();
            if let Some(key) = &event.dedup_key {
                self.dedup.remove(key);
            }
            for (index, key) in event.places() {
                let entry = (index.clone(), key.clone(), event.event_time, *sequence);
                self.indexed.remove(&entry);
            }
            self.forget_tiles(&event);
        }
        self.removals += u64::from(!old.is_empty());
        old.len() as u64
    }

    pub(super) fn newest_kept(&self, index: usize) -> usize {
        let name = self.spec.indexes.get(index).map(|index| &index.name);
        let kept = name.and_then(|name| self.newest_kept.get(name)).copied();
        match self.state.trimmed_before {
            Some(_) => kept.unwrap_or(0),
            None => usize::MAX,
        }
    }

    fn keeps(&self, policy: &TrimPolicy, event: &Event) -> bool {
        policy.keep_newest.iter().any(|(index, n)| {
            let index = &self.spec.indexes[*index].name;
            event.keys_in(index).any(|key| {
                let place = |t, sequence| (index.clone(), key.clone(), t, sequence);
                let entries = self
                    .indexed
                    .range(place(UtcMicros::MIN, 0)..place(policy.older_than, 0));
                let mut newest = entries.rev().take(*n);
                newest.any(|((_, _, t, _), ())| *t == event.event_time)
            })
        })
    }
}
