//! Reads of what a stream held at one moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use fjall::{Guard, Readable};
use granary_model::UtcMicros;

use super::format::{self, NewestKept};
use super::shelf::{Described, Shelf};
use crate::embedded::blocking;
use crate::error::StoreError;
use crate::events::{
    EventId, EventRef, EventSink, EventSnapshot, KeyRange, ScanOrder, SnapshotPoint, StreamState,
    TileRange, TileSink,
};

pub(super) struct EmbeddedSnapshot {
    /// Before the shelf: it must let go of the database first.
    now: fjall::Snapshot,
    described: Arc<Described>,
    state: StreamState,
    removals: u64,
    newest_kept: NewestKept,
    /// Whether the stream was dropped before the snapshot was taken, and which
    /// of its indexes and tile sets.
    lost: Lost,
    shelf: Arc<Shelf>,
}

struct Lost {
    stream: bool,
    indexes: Vec<bool>,
    tile_sets: Vec<bool>,
}

impl std::fmt::Debug for EmbeddedSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedSnapshot")
            .field("stream", &self.described.spec.name)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl EmbeddedSnapshot {
    pub(super) fn take(shelf: &Arc<Shelf>, described: &Arc<Described>) -> Result<Self, StoreError> {
        let now = shelf.spaces.db.snapshot();
        // After the snapshot: what is dropped from here on is still in it.
        let lost = Lost {
            stream: shelf.is_dropped(described.id),
            indexes: described
                .indexes
                .iter()
                .map(|id| shelf.is_dropped(*id))
                .collect(),
            tile_sets: described
                .tile_sets
                .iter()
                .map(|set| shelf.is_dropped(set.id))
                .collect(),
        };
        let state = now.get(&shelf.spaces.meta, format::state_key(described.id));
        let (state, removals, newest_kept) = match state.map_err(|e| shelf.failed(e))? {
            Some(state) => format::read_state(&state)?,
            None => Default::default(),
        };
        Ok(Self {
            now,
            described: Arc::clone(described),
            state,
            removals,
            newest_kept,
            lost,
            shelf: Arc::clone(shelf),
        })
    }

    fn reopened(&self) -> StoreError {
        StoreError::StreamReopened {
            stream: self.described.spec.name.clone(),
        }
    }

    fn check(&self, lost: bool) -> Result<(), StoreError> {
        if lost || self.lost.stream {
            return Err(self.reopened());
        }
        Ok(())
    }

    fn pair(&self, entry: Guard) -> Result<fjall::KvPair, StoreError> {
        entry.into_inner().map_err(|e| self.shelf.failed(e))
    }

    fn scan_range(
        &self,
        index: usize,
        order: ScanOrder,
        position: usize,
        range: &KeyRange<'_>,
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError> {
        if range.from > range.to || range.limit == 0 {
            return Ok(());
        }
        let prefix = format::index_prefix(self.described.indexes[index], range.key);
        let first = format::index_key(&prefix, range.from, 0);
        let last = format::index_key(&prefix, range.to, u64::MAX);
        let entries = self.now.range(&self.shelf.spaces.index, first..=last);
        let mut give = |entry: Guard| -> Result<ControlFlow<()>, StoreError> {
            let (key, value) = self.pair(entry)?;
            let (event_time, sequence) = format::time_and_sequence(&key)?;
            let (created_time, payload) = format::read_index_value(&value)?;
            let event = EventRef {
                event_time,
                created_time,
                sequence,
                payload,
            };
            Ok(sink.event(position, event))
        };
        let entries: &mut dyn Iterator<Item = Guard> = match order {
            ScanOrder::OldestFirst => &mut { entries },
            ScanOrder::NewestFirst => &mut entries.rev(),
        };
        for entry in entries.take(range.limit) {
            if give(entry)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_all(
        &self,
        index: usize,
        order: ScanOrder,
        ranges: &[KeyRange<'_>],
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError> {
        self.described.spec.index_at(index)?;
        self.check(self.lost.indexes[index])?;
        let mut ranges = ranges.iter().enumerate();
        ranges
            .try_for_each(|(position, range)| self.scan_range(index, order, position, range, sink))
    }

    fn log(&self, after: u64, limit: usize, sink: &mut dyn EventSink) -> Result<(), StoreError> {
        self.check(false)?;
        let Some(first) = after.checked_add(1) else {
            return Ok(());
        };
        let stream = self.described.id;
        let range = format::log_key(stream, first)..=format::log_key(stream, u64::MAX);
        for entry in self.now.range(&self.shelf.spaces.log, range).take(limit) {
            let (key, value) = self.pair(entry)?;
            let (created_time, event_time, payload) = format::read_log_payload(&value)?;
            let event = EventRef {
                event_time,
                created_time,
                sequence: format::log_key_sequence(&key)?,
                payload,
            };
            if sink.event(0, event).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn tile_ranges(
        &self,
        set: usize,
        ranges: &[TileRange<'_>],
        sink: &mut dyn TileSink,
    ) -> Result<(), StoreError> {
        let levels = self.described.spec.tile_set_at(set)?.spans.len();
        self.check(self.lost.tile_sets[set])?;
        let id = self.described.tile_sets[set].id;
        for (position, range) in ranges.iter().enumerate() {
            if range.from > range.to || range.level >= levels {
                continue;
            }
            let first = format::tile_key(id, range.key, range.level, range.from);
            let last = format::tile_key(id, range.key, range.level, range.to);
            for entry in self.now.range(&self.shelf.spaces.tiles, first..=last) {
                let (key, value) = self.pair(entry)?;
                sink.tile(position, format::tile_start(&key)?, &value);
            }
        }
        Ok(())
    }

    fn get(
        &self,
        space: &fjall::Keyspace,
        key: Vec<u8>,
    ) -> Result<Option<fjall::Slice>, StoreError> {
        let found = self.now.get(space, key);
        found.map_err(|e| self.shelf.failed(e))
    }

    /// Large reads leave the async threads, as they may wait for the disk.
    fn run<T>(&self, weight: usize, read: impl FnOnce() -> T) -> T {
        if weight < self.shelf.settings.blocking_reads_min {
            read()
        } else {
            blocking(read)
        }
    }
}

#[async_trait]
impl EventSnapshot for EmbeddedSnapshot {
    fn state(&self) -> &StreamState {
        &self.state
    }

    fn point(&self) -> SnapshotPoint {
        SnapshotPoint {
            sequence: self.state.last_sequence,
            removals: self.removals,
        }
    }

    fn newest_kept(&self, index: usize) -> usize {
        let index = self.described.indexes.get(index);
        index.map_or(0, |index| self.newest_kept.get(&self.state, *index))
    }

    async fn scan(
        &self,
        index: usize,
        order: ScanOrder,
        ranges: &[KeyRange<'_>],
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError> {
        let limits = ranges.iter().map(|range| range.limit);
        let weight = limits.fold(0_usize, usize::saturating_add);
        self.run(weight, || self.scan_all(index, order, ranges, sink))
    }

    async fn scan_log(
        &self,
        after: u64,
        limit: usize,
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError> {
        self.run(limit, || self.log(after, limit, sink))
    }

    async fn tiles(
        &self,
        set: usize,
        ranges: &[TileRange<'_>],
        sink: &mut dyn TileSink,
    ) -> Result<(), StoreError> {
        self.run(ranges.len(), || self.tile_ranges(set, ranges, sink))
    }

    async fn duplicates(
        &self,
        dedup_keys: &[&[u8]],
    ) -> Result<Vec<Option<(EventId, UtcMicros)>>, StoreError> {
        self.check(false)?;
        let stream = self.described.id;
        let one = |key: &&[u8]| {
            let found = self.get(&self.shelf.spaces.dedup, format::dedup_key(stream, key))?;
            found
                .map(|value| format::read_dedup_value(&value))
                .transpose()
        };
        self.run(dedup_keys.len(), || dedup_keys.iter().map(one).collect())
    }

    async fn consumer_offset(&self, consumer: &str) -> Result<Option<Bytes>, StoreError> {
        self.check(false)?;
        let key = format::offset_key(self.described.id, consumer);
        let found = self.get(&self.shelf.spaces.meta, key)?;
        Ok(found.map(|offset| format::to_bytes(&offset)))
    }
}
