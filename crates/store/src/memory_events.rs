//! The in-memory event store, for tests and trials.
//!
//! It keeps nothing beyond the process and bounds nothing. It is the plainest
//! thing that passes [`crate::conformance::events`], so it also serves as the
//! reference for the others. Streams of one [`MemoryEventStore`] and its clones
//! share their content, so a clone stands for a store opened again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use granary_model::{Clock, SystemClock};

use crate::error::StoreError;
use crate::events::{
    Appended, EventBatch, EventSnapshot, EventStore, EventStream, KeyOf, NewTile, RestoredEvents,
    SnapshotPoint, StreamSpec, StreamState, TrimCursor, TrimPolicy, TrimStep,
};

mod content;
mod snapshot;

use content::Content;
use snapshot::MemorySnapshot;

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

    async fn reserve(&self, sequences: u64) -> Result<u64, StoreError> {
        self.change(|content| {
            let first = content.state.last_sequence + 1;
            content.state.last_sequence += sequences;
            Ok(first)
        })
    }

    async fn restore(&self, events: RestoredEvents) -> Result<u64, StoreError> {
        self.change(|content| {
            events.check(&self.spec, content.state.flushed)?;
            Ok(content.restore(events))
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

    async fn clear_dropped(&self) -> Result<bool, StoreError> {
        Ok(false)
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
