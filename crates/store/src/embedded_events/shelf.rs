//! The database, and the one place that writes to it.
//!
//! Everything that changes goes through [`Shelf::commit`] under the lock of
//! [`Core`]: one synced batch after the other, so that what a failing machine
//! tears is the last one only (see `journal.rs`). Readers take snapshots of the
//! database and never this lock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use fjall::{
    Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch, PersistMode, Readable,
};
use granary_model::{Clock, UtcMicros};
use serde::{Deserialize, Serialize};

use super::EmbeddedEventSettings;
use super::format::{self, Id, NewestKept};
use super::journal;
use super::memtables::MemtableKeeper;
use super::owner::OwnerLock;
use crate::embedded::folder::io_error;
use crate::error::StoreError;
use crate::events::{StreamSpec, StreamState};

/// What the store has open.
pub(super) struct Shelf {
    pub(super) folder: PathBuf,
    pub(super) settings: EmbeddedEventSettings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) core: Mutex<Core>,
    /// Held by what reads first and writes then: trims, and changes of specs.
    /// Taken before `core`.
    pub(super) upkeep: Mutex<()>,
    /// Ids that were dropped since the store was opened: handles that are older
    /// must not read what is left of them.
    pub(super) dropped: RwLock<HashSet<Id>>,
    /// Counts what was synced.
    pub(super) syncs: AtomicU64,
    /// Before the keyspaces, which it holds.
    _memtables: MemtableKeeper,
    pub(super) spaces: Spaces,
    // After the database: fields are dropped in order, the lock must be last.
    pub(super) owner: OwnerLock,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// The keyspaces, see `format.rs`.
pub(super) struct Spaces {
    pub(super) meta: Keyspace,
    pub(super) log: Keyspace,
    pub(super) times: Keyspace,
    pub(super) index: Keyspace,
    pub(super) dedup: Keyspace,
    pub(super) tiles: Keyspace,
    pub(super) db: Database,
}

/// What the writer knows.
#[derive(Debug, Default)]
pub(super) struct Core {
    pub(super) streams: HashMap<String, Held>,
    pub(super) next_id: Id,
    /// Counts openings under another spec; a handle is of one.
    pub(super) epochs: u64,
    /// Why nothing is written any more.
    pub(super) halted: Option<String>,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) epoch: u64,
    pub(super) described: Arc<Described>,
    pub(super) state: StreamState,
    /// Steps of trims that removed something, and of restores that put
    /// something back.
    pub(super) removals: u64,
    /// `removals` when something was last put back, as far as is known since
    /// the store was opened.
    pub(super) restored: u64,
    pub(super) newest_kept: NewestKept,
    /// By tile set, in the spec's order: the greatest end of a tile that was
    /// ever put. Events from there on are in no tile.
    pub(super) reaches: Vec<UtcMicros>,
    pub(super) recent: Recent,
}

/// A stream as `meta` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Described {
    pub(super) id: Id,
    pub(super) spec: Arc<StreamSpec>,
    /// In the order of the spec's indexes.
    pub(super) indexes: Vec<Id>,
    /// In the order of the spec's tile sets.
    pub(super) tile_sets: Vec<TileSet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TileSet {
    pub(super) id: Id,
    /// Id of its index.
    pub(super) index: Id,
}

/// The newest events, to tell which tiles are out of date.
#[derive(Debug)]
pub(super) struct Recent {
    /// Every event that was appended after this sequence.
    after: u64,
    events: VecDeque<RecentEvent>,
    /// Keys of all of them.
    keys: usize,
}

#[derive(Debug)]
struct RecentEvent {
    sequence: u64,
    event_time: UtcMicros,
    keys: Vec<(Id, u64)>,
}

/// More is rarely appended between a snapshot and the put of its tiles; tiles
/// that come later than that are computed again.
const RECENT_MAX: usize = 1 << 14;
const RECENT_KEYS_MAX: usize = 1 << 17;

impl Recent {
    /// Of a stream that has come to this sequence.
    pub(super) fn after(last_sequence: u64) -> Self {
        Self {
            after: last_sequence,
            events: VecDeque::new(),
            keys: 0,
        }
    }

    pub(super) fn push(&mut self, sequence: u64, event_time: UtcMicros, keys: Vec<(Id, u64)>) {
        self.keys += keys.len();
        self.events.push_back(RecentEvent {
            sequence,
            event_time,
            keys,
        });
        while (self.events.len() > RECENT_MAX || self.keys > RECENT_KEYS_MAX)
            && let Some(oldest) = self.events.pop_front()
        {
            self.keys -= oldest.keys.len();
            self.after = oldest.sequence;
        }
    }

    /// Takes back what was not written after all.
    pub(super) fn forget_after(&mut self, sequence: u64) {
        while let Some(event) = self.events.pop_back_if(|e| e.sequence > sequence) {
            self.keys -= event.keys.len();
        }
    }

    /// Whether no event after `sequence` came to this key in [start, end).
    pub(super) fn untouched(
        &self,
        sequence: u64,
        key: (Id, u64),
        (start, end): (UtcMicros, UtcMicros),
    ) -> bool {
        let newer = self.events.iter().rev();
        sequence >= self.after
            && newer
                .take_while(|event| event.sequence > sequence)
                .all(|event| {
                    event.event_time < start
                        || event.event_time >= end
                        || !event.keys.contains(&key)
                })
    }
}

impl Shelf {
    /// Opens, or makes, the store in a folder.
    pub(super) fn open(
        folder: &Path,
        settings: EmbeddedEventSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        std::fs::create_dir_all(folder).map_err(|e| io_error(folder, "the events", e))?;
        let owner = OwnerLock::take(folder)?;
        let path = folder.join("lsm");
        journal::cut_torn_end(&path)?;
        let spaces = Spaces::open(&path, &settings).map_err(|e| failed(folder, e))?;
        let core = Core::load(&spaces).map_err(|e| match e {
            Loading::Fjall(e) => failed(folder, e),
            Loading::Store(e) => e,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            settings,
            clock,
            core: Mutex::new(core),
            upkeep: Mutex::default(),
            dropped: RwLock::default(),
            syncs: AtomicU64::new(0),
            _memtables: MemtableKeeper::start(&spaces)?,
            spaces,
            owner,
        })
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn upkeep(&self) -> MutexGuard<'_, ()> {
        self.upkeep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn drop_ids(&self, ids: impl IntoIterator<Item = Id>) {
        let mut dropped = self.dropped.write().unwrap_or_else(PoisonError::into_inner);
        dropped.extend(ids);
    }

    pub(super) fn is_dropped(&self, id: Id) -> bool {
        let dropped = self.dropped.read().unwrap_or_else(PoisonError::into_inner);
        dropped.contains(&id)
    }

    /// Writes a batch; durable and visible when this returns. `core` is locked
    /// by whoever calls. After a failure nothing is written any more.
    pub(super) fn commit(&self, core: &mut Core, batch: WriteBatch) -> Result<(), StoreError> {
        core.check_writable()?;
        let mode = match self.settings.sync {
            true => PersistMode::SyncData,
            false => PersistMode::Buffer,
        };
        if let Err(e) = batch.durability(Some(mode)).commit() {
            core.halted = Some(e.to_string());
            return Err(self.failed(e));
        }
        if mode == PersistMode::SyncData {
            self.syncs.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    pub(super) fn set_flushed(
        &self,
        name: &str,
        epoch: u64,
        sequence: u64,
    ) -> Result<(), StoreError> {
        let mut core = self.core();
        let held = core.held(name, epoch)?;
        let mut state = held.state;
        if sequence > state.last_sequence {
            return Err(StoreError::EventSequence {
                stream: name.to_owned(),
                sequence,
                last: state.last_sequence,
            });
        }
        if sequence <= state.flushed {
            return Ok(());
        }
        state.flushed = sequence;
        let key = format::state_key(held.described.id);
        let value = format::encode_state(&state, held.removals, &held.newest_kept);
        let mut batch = self.spaces.db.batch();
        batch.insert(&self.spaces.meta, key, value);
        self.commit(&mut core, batch)?;
        core.held(name, epoch)?.state = state;
        Ok(())
    }

    /// Before the disk is full, since a write that fails half-way halts the
    /// store. Not for what frees space.
    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        let stat = rustix::fs::statvfs(&self.folder)
            .map_err(|e| io_error(&self.folder, "the events", e.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < self.settings.free_bytes_min {
            return Err(StoreError::Full {
                path: self.folder.clone(),
                what: "events".to_owned(),
            });
        }
        Ok(())
    }

    pub(super) fn failed(&self, error: fjall::Error) -> StoreError {
        failed(&self.folder, error)
    }
}

fn failed(folder: &Path, error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(e) => io_error(folder, "events", e),
        fjall::Error::Storage(fjall::LsmError::Io(e)) => io_error(folder, "events", e),
        fjall::Error::Poisoned => StoreError::EventsHalted("an earlier write failed".to_owned()),
        fjall::Error::JournalRecovery(_)
        | fjall::Error::InvalidVersion(_)
        | fjall::Error::InvalidTrailer
        | fjall::Error::InvalidTag(_)
        | fjall::Error::Unrecoverable => StoreError::Damaged {
            path: folder.to_owned(),
            reason: error.to_string(),
        },
        other => StoreError::Backend(format!("{}: {other}", folder.display())),
    }
}

impl Spaces {
    fn open(path: &Path, settings: &EmbeddedEventSettings) -> Result<Self, fjall::Error> {
        let db = Database::builder(path)
            .cache_size(settings.cache_bytes_max)
            .max_journaling_size(settings.journal_bytes_max.max(64 << 20))
            .manual_journal_persist(true)
            .open()?;
        let space = |name: &str| {
            db.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .max_memtable_size(settings.memtable_bytes_max)
            })
        };
        Ok(Self {
            meta: space("meta")?,
            log: space("log")?,
            times: space("times")?,
            index: space("index")?,
            dedup: space("dedup")?,
            tiles: space("tiles")?,
            db,
        })
    }
}

impl Spaces {
    pub(super) fn all(&self) -> [&Keyspace; 6] {
        [
            &self.meta,
            &self.log,
            &self.times,
            &self.index,
            &self.dedup,
            &self.tiles,
        ]
    }
}

enum Loading {
    Fjall(fjall::Error),
    Store(StoreError),
}

impl From<fjall::Error> for Loading {
    fn from(error: fjall::Error) -> Self {
        Self::Fjall(error)
    }
}

impl From<StoreError> for Loading {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Core {
    fn load(spaces: &Spaces) -> Result<Self, Loading> {
        let now = spaces.db.snapshot();
        let mut core = Self::default();
        if let Some(next) = now.get(&spaces.meta, format::NEXT_ID)? {
            core.next_id = format::id_at_end(&next)?;
        }
        for entry in now.prefix(&spaces.meta, format::STREAM_PREFIX) {
            let (_, value) = entry.into_inner()?;
            let described: Described = serde_json::from_slice(&value)
                .map_err(|e| StoreError::DamagedRow(format!("a stream: {e}")))?;
            let (state, removals, newest_kept) =
                match now.get(&spaces.meta, format::state_key(described.id))? {
                    Some(state) => format::read_state(&state)?,
                    None => Default::default(),
                };
            let mut reaches = Vec::new();
            for set in &described.tile_sets {
                reaches.push(match now.get(&spaces.meta, format::reach_key(set.id))? {
                    Some(reach) => format::read_time(&reach)?,
                    None => UtcMicros::MIN,
                });
            }
            let held = Held {
                epoch: 0,
                state,
                removals,
                restored: removals,
                newest_kept,
                reaches,
                recent: Recent::after(state.last_sequence),
                described: Arc::new(described),
            };
            core.streams.insert(held.described.spec.name.clone(), held);
        }
        Ok(core)
    }

    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match &self.halted {
            Some(reason) => Err(StoreError::EventsHalted(reason.clone())),
            None => Ok(()),
        }
    }

    /// The stream of a handle, if the handle is of the spec that holds.
    pub(super) fn held(&mut self, name: &str, epoch: u64) -> Result<&mut Held, StoreError> {
        match self.streams.get_mut(name) {
            Some(held) if held.epoch == epoch => Ok(held),
            _ => Err(StoreError::StreamReopened {
                stream: name.to_owned(),
            }),
        }
    }
}

impl Held {
    /// Tiles of this key that cover `t`, and so are out of date when an event
    /// comes or goes there.
    pub(super) fn tiles_over(
        &self,
        index: Id,
        key: &[u8],
        t: UtcMicros,
        mut each: impl FnMut(Vec<u8>),
    ) {
        let sets = self.described.tile_sets.iter();
        let specs = &self.described.spec.tile_sets;
        for ((set, spec), reach) in sets.zip(specs).zip(&self.reaches) {
            if set.index == index && t < *reach {
                for level in 0..spec.spans.len() {
                    each(format::tile_key(set.id, key, level, spec.start(level, t)));
                }
            }
        }
    }
}

/// Stands for a key in [`Recent`]; two keys of one hash only cost a tile.
pub(super) fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}
