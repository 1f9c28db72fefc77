//! Reads of what a stream held at one moment.

use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use granary_model::UtcMicros;

use super::content::Content;
use crate::error::StoreError;
use crate::events::{
    EventId, EventSink, EventSnapshot, KeyRange, ScanOrder, SnapshotPoint, StreamSpec, StreamState,
    TileRange, TileSink,
};

#[derive(Debug)]
pub(super) struct MemorySnapshot {
    /// Of the handle; the content's may be newer.
    pub(super) spec: Arc<StreamSpec>,
    pub(super) content: Arc<Content>,
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

    fn newest_kept(&self, index: usize) -> usize {
        let index = self.spec.indexes.get(index);
        let at = index.and_then(|index| self.content.spec.index(&index.name));
        at.map_or(0, |at| self.content.newest_kept(at))
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
