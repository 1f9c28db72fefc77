//! The embedded event store: an LSM (fjall) in a folder of this machine, owned
//! by one process.
//!
//! Appends queue up for one thread that writes what came while the last sync
//! ran as one batch, with one sync of the journal (`committer.rs`, `group.rs`).
//! An event is in the log by sequence, in `times` by event time for trims, in
//! every index with its payload, so that a scan of a key is one sequential read,
//! and its dedup key is beside them (`format.rs`). Reads work on snapshots of
//! the database.
//!
//! **Tiles** are removed by what changes their span, in the same batch; a put of
//! tiles names the snapshot they were computed from, and those that an event
//! touched since are left out. So a stored tile is always of the snapshot that
//! shows it.
//!
//! **What a failing machine can leave.** Journal batches are synced one by one,
//! before they are visible or acknowledged; the last may be torn and is cut off
//! when the store is opened (`journal.rs`). Files of the LSM itself are synced
//! by fjall before it lets the journal of their content go.
//!
//! **Decision**: the journal is fjall's, not one of our own in front of it. One
//! journal is half of the writes and one recovery; that a torn write loses
//! nothing that was acknowledged is tested by tearing everything that was
//! written to the journal after the last sync (`tests.rs`).
//!
//! When the disk has less than [`EmbeddedEventSettings::free_bytes_min`] free,
//! appends are refused and everything else goes on. When a write fails all the
//! same, nothing is written until the store is opened again.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use granary_model::Clock;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tracing::instrument;

use crate::embedded::blocking;
use crate::error::StoreError;
use crate::events::{
    Appended, EventBatch, EventSnapshot, EventStore, EventStream, KeyOf, NewTile, RestoredEvents,
    SnapshotPoint, StreamSpec, StreamState, TrimCursor, TrimPolicy, TrimStep, make_distinct,
};

mod committer;
mod entry;
mod format;
mod group;
mod journal;
mod memtables;
mod owner;
mod reshape;
mod restore;
mod shelf;
mod snapshot;
#[cfg(test)]
mod tests;
mod trim;
mod writes;

use committer::{Committer, Work, batch_bytes, event_bytes, tiles_bytes};
pub use owner::EventsOwner;
use shelf::{Described, Shelf};
use snapshot::EmbeddedSnapshot;

/// Settings of the embedded event store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedEventSettings {
    /// Bytes of one append, or of one put of tiles.
    pub batch_bytes_max: usize,
    /// Bytes that one sync takes; a greater batch goes alone.
    pub group_bytes_max: usize,
    /// Requests that wait for a sync.
    pub queue_requests_max: usize,
    /// Bytes that wait for a sync.
    pub queue_bytes_max: usize,
    /// Appends are refused while the disk has less free.
    pub free_bytes_min: u64,
    /// Events that one step of a trim, or of the filling of an index, looks at.
    pub step_events_max: usize,
    /// Blocks read from disk that are kept in memory.
    pub cache_bytes_max: u64,
    /// Of each of six keyspaces, what is in memory before it goes to a file.
    pub memtable_bytes_max: u64,
    /// All journals together; at least 64 MiB.
    pub journal_bytes_max: u64,
    /// Reads of at least this many events or keys leave the async threads.
    pub blocking_reads_min: usize,
    /// Off, what is acknowledged may be lost: for the test that this shows.
    #[doc(hidden)]
    #[serde(skip)]
    pub sync: bool,
}

impl Default for EmbeddedEventSettings {
    fn default() -> Self {
        Self {
            batch_bytes_max: 16 << 20,
            group_bytes_max: 4 << 20,
            queue_requests_max: 4096,
            queue_bytes_max: 64 << 20,
            free_bytes_min: 256 << 20,
            step_events_max: 1000,
            cache_bytes_max: 128 << 20,
            memtable_bytes_max: 32 << 20,
            journal_bytes_max: 512 << 20,
            blocking_reads_min: 10_000,
            sync: true,
        }
    }
}

/// The events of a folder.
#[derive(Debug, Clone)]
pub struct EmbeddedEventStore {
    open: Arc<Open>,
}

#[derive(Debug)]
struct Open {
    /// Before the shelf: it ends with the last request.
    committer: Committer,
    shelf: Arc<Shelf>,
}

impl EmbeddedEventStore {
    /// Opens, or makes, the events in a folder; `StoreError::EventsOwned` where
    /// another process has them open, or another store of this one. They are
    /// free again when the store, its streams and snapshots are dropped.
    pub fn open(
        folder: &Path,
        settings: EmbeddedEventSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let shelf = Arc::new(Shelf::open(folder, settings, clock)?);
        Ok(Self {
            open: Arc::new(Open {
                committer: Committer::start(Arc::clone(&shelf))?,
                shelf,
            }),
        })
    }

    /// Says where this process takes requests, for those who find the folder
    /// owned.
    pub fn register_endpoint(&self, endpoint: &str) -> Result<(), StoreError> {
        self.open.shelf.owner.write(Some(endpoint))
    }

    /// Which process owns the events in a folder; `None` where none does.
    pub fn owner(folder: &Path) -> Result<Option<EventsOwner>, StoreError> {
        owner::owner(folder)
    }
}

#[async_trait]
impl EventStore for EmbeddedEventStore {
    #[instrument(skip_all, err, fields(stream = spec.name))]
    async fn open_stream(
        &self,
        spec: StreamSpec,
        keys: &dyn KeyOf,
    ) -> Result<Arc<dyn EventStream>, StoreError> {
        let opened = blocking(|| reshape::open_stream(&self.open.shelf, spec, keys));
        let (described, epoch) = opened?;
        Ok(Arc::new(EmbeddedStream {
            name: described.spec.name.as_str().into(),
            described,
            epoch,
            open: Arc::clone(&self.open),
        }))
    }

    async fn streams(&self) -> Result<Vec<(StreamSpec, StreamState)>, StoreError> {
        let core = blocking(|| self.open.shelf.core());
        let mut streams: Vec<_> = core
            .streams
            .values()
            .map(|held| ((*held.described.spec).clone(), held.state))
            .collect();
        streams.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
        Ok(streams)
    }

    #[instrument(skip_all, err, fields(name))]
    async fn drop_stream(&self, name: &str) -> Result<(), StoreError> {
        blocking(|| reshape::drop_stream(&self.open.shelf, name))
    }
}

#[derive(Debug)]
struct EmbeddedStream {
    name: Arc<str>,
    described: Arc<Described>,
    epoch: u64,
    open: Arc<Open>,
}

impl EmbeddedStream {
    fn shelf(&self) -> &Arc<Shelf> {
        &self.open.shelf
    }

    fn check_bytes(&self, what: &'static str, bytes: usize) -> Result<(), StoreError> {
        let bytes_max = self.shelf().settings.batch_bytes_max;
        match bytes > bytes_max {
            true => Err(StoreError::EventTooLarge {
                stream: self.name.to_string(),
                what,
                bytes,
                bytes_max,
            }),
            false => Ok(()),
        }
    }

    /// Queues work of so many bytes.
    async fn queue(&self, work: Work, what: &'static str, bytes: usize) -> Result<(), StoreError> {
        self.check_bytes(what, bytes)?;
        let settings = &self.shelf().settings;
        let (name, committer) = (Arc::clone(&self.name), &self.open.committer);
        let bytes_max = settings.queue_bytes_max;
        committer
            .send(name, self.epoch, work, bytes, bytes_max)
            .await
    }
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    match answer.await {
        Ok(outcome) => outcome,
        Err(_) => Err(StoreError::EventsHalted(
            "the committing thread ended".to_owned(),
        )),
    }
}

#[async_trait]
impl EventStream for EmbeddedStream {
    fn spec(&self) -> &Arc<StreamSpec> {
        &self.described.spec
    }

    async fn append(&self, mut batch: EventBatch) -> Result<Vec<Appended>, StoreError> {
        batch.check(self.spec())?;
        for event in &mut batch.events {
            event.keys.iter_mut().for_each(make_distinct);
        }
        let bytes = batch_bytes(&batch);
        let (reply, answer) = oneshot::channel();
        self.queue(Work::Append(batch, reply), "a batch", bytes)
            .await?;
        answered(answer).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn EventSnapshot>, StoreError> {
        let snapshot = EmbeddedSnapshot::take(self.shelf(), &self.described)?;
        Ok(Arc::new(snapshot))
    }

    #[instrument(skip_all, err, fields(stream = &*self.name, sequence))]
    async fn set_flushed(&self, sequence: u64) -> Result<(), StoreError> {
        blocking(|| self.shelf().set_flushed(&self.name, self.epoch, sequence))
    }

    #[instrument(skip_all, err, fields(stream = &*self.name, sequences))]
    async fn reserve(&self, sequences: u64) -> Result<u64, StoreError> {
        blocking(|| restore::reserve(self.shelf(), &self.name, self.epoch, sequences))
    }

    #[instrument(skip_all, err, fields(stream = &*self.name))]
    async fn restore(&self, mut events: RestoredEvents) -> Result<u64, StoreError> {
        for (_, event) in &mut events.events {
            event.keys.iter_mut().for_each(make_distinct);
        }
        let bytes = events.events.iter().map(|(_, event)| event_bytes(event));
        self.check_bytes("events to restore", bytes.sum())?;
        blocking(|| restore::restore(self.shelf(), &self.described, self.epoch, events))
    }

    #[instrument(skip_all, err, fields(stream = &*self.name))]
    async fn trim(
        &self,
        policy: &TrimPolicy,
        from: Option<TrimCursor>,
    ) -> Result<TrimStep, StoreError> {
        policy.check(self.spec())?;
        blocking(|| trim::step(self.shelf(), &self.described, self.epoch, policy, from))
    }

    async fn clear_dropped(&self) -> Result<bool, StoreError> {
        blocking(|| trim::clear_dropped(self.shelf()))
    }

    async fn put_tiles(
        &self,
        set: usize,
        computed_from: SnapshotPoint,
        tiles: Vec<NewTile>,
    ) -> Result<usize, StoreError> {
        self.spec().check_tiles(set, &tiles)?;
        let bytes = tiles_bytes(&tiles);
        let (reply, answer) = oneshot::channel();
        let work = Work::Tiles {
            set,
            computed_from,
            tiles,
            reply,
        };
        self.queue(work, "a put of tiles", bytes).await?;
        answered(answer).await
    }

    #[instrument(skip_all, err, fields(stream = &*self.name, set))]
    async fn drop_tiles(&self, set: usize) -> Result<(), StoreError> {
        self.spec().tile_set_at(set)?;
        blocking(|| trim::drop_tiles(self.shelf(), &self.described, self.epoch, set))
    }
}
