//! The embedded store: a folder of this machine, two files a generation.
//!
//! Any number of processes may read a folder and write to it; one writer at a
//! time a version of a view. A generation's rows are written into a base of
//! their own (`base.rs`), synced, and published by the atomic rename of a small
//! manifest (`manifest.rs`). What is upserted or swept later goes into an LMDB
//! file beside it (`changes.rs`), whose entries hold before those of the base;
//! when they are many for its size, base and changes become the base of the next
//! generation. Readers map the files and read from the mapped pages straight
//! into the sink; where nothing changed, from the base alone (`lookups.rs`), else
//! in one short transaction a generation. A replaced file is unlinked at once: who
//! has it mapped, in this process or another, reads on, and its space is free when
//! the last of them lets go.
//!
//! The bases of views that are read together may be laid together once more, in a
//! bundle (`bundle.rs`, `bundling.rs`): one look-up then finds the rows of all of
//! them. It is derived from the bases and never needed; it answers for a
//! generation for as long as that is the one it was made of and nothing changed.
//!
//! What a killed process leaves behind: files without a manifest (removed by
//! the next writer, or who bundles next), a reader's slot (freed when a file is
//! opened and before it is written to), a lock (freed by the kernel).
//!
//! A cold page costs a page fault on the thread that reads: large reads
//! therefore leave the async threads, see
//! [`EmbeddedSettings::blocking_reads_min`].
//!
//! LMDB knows a reader by its process id, so the processes that share a folder
//! must share one space of process ids, and the folder must be on a local disk.
//!
//! This module knows nothing of the rows' content beyond their order.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use granary_model::UtcMicros;
use serde::{Deserialize, Serialize};
use tracing::instrument;

use crate::codec::{RowLayout, RowOrder};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{
    Generation, GenerationState, GenerationWriter, OnlineStore, RowSink, WriteMode,
};

mod base;
mod bundle;
mod bundling;
mod changes;
mod files;
pub(crate) mod folder;
mod generation;
mod lookups;
mod manifest;
mod sweep;
mod writer;

use bundling::Bundles;
use files::Files;
use folder::{Folder, Glance};
use generation::EmbeddedGeneration;
use manifest::Manifest;
use writer::EmbeddedWriter;

/// Settings of the embedded store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedSettings {
    /// Address space of one generation's changes; a bound, nothing is allocated.
    /// A process has 128 TiB of it, for all the generations that it has open.
    pub map_bytes_max: u64,
    /// Reads at once of one generation's changes, by all processes.
    pub readers_max: u32,
    /// Whether the system reads more than the page asked for when it reads from
    /// disk: right where the files fit into memory, wrong where they do not.
    pub read_ahead: bool,
    /// Whether rows stay in memory once they were read (`mlock`), where a system
    /// would rather have the memory for something else and read them from disk
    /// again. Files that take the place of others are there before they are read. It
    /// takes memory for both, and the right to lock so much; without that there is a
    /// warning, and nothing else. Linux only.
    pub memory_lock: bool,
    /// Changes of a generation that are never too many: an upsert that leaves
    /// more, and more than an eighth of the rows, makes them part of the base.
    pub changes_rows_min: u64,
    /// Rows written, or looked at by a sweep, in one transaction.
    pub transaction_rows_max: usize,
    /// Bytes of keys and rows written in one transaction.
    pub transaction_bytes_max: u64,
    /// Reads of at least this many (entity, generation) pairs leave the async
    /// threads.
    pub blocking_reads_min: usize,
    /// Whether the rows of views of one entity are laid together after a
    /// materialisation, so that a read of several of them looks once. It takes
    /// about as much disk again as the rows, and the time of writing them once
    /// more. Without it bundles that are there are not used, and are removed by the
    /// next materialisation.
    pub bundles: bool,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self {
            map_bytes_max: 1 << 38,
            readers_max: 2048,
            read_ahead: true,
            memory_lock: false,
            changes_rows_min: 10_000,
            transaction_rows_max: 20_000,
            transaction_bytes_max: 8 << 20,
            blocking_reads_min: 2_000,
            bundles: true,
        }
    }
}

impl EmbeddedSettings {
    /// LMDB wants whole pages, of whatever size the system has.
    fn map_bytes(&self) -> usize {
        let rounded = self.map_bytes_max.max(1).next_multiple_of(1 << 16);
        usize::try_from(rounded).unwrap_or(usize::MAX & !0xFFFF)
    }
}

/// The online store in a folder.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    shelf: Arc<Shelf>,
}

/// What this store has open.
#[derive(Debug)]
struct Shelf {
    folder: Folder,
    settings: EmbeddedSettings,
    open: RwLock<OpenGenerations>,
    bundles: Bundles,
    /// Held from reading or writing a manifest until `open` agrees with it.
    turn: Mutex<()>,
    /// What the last refresh saw.
    seen: Mutex<Glance>,
    /// What the folder looked like when everything published was opened last.
    listed: Mutex<Option<Glance>>,
}

/// By view, then version.
type OpenGenerations = HashMap<String, HashMap<u32, Arc<EmbeddedGeneration>>>;

impl EmbeddedStore {
    /// Opens, or makes, the store in a folder. Generations are opened when they
    /// are first asked for.
    pub fn open(folder: &Path, settings: EmbeddedSettings) -> Result<Self, StoreError> {
        let folder = Folder::open(folder)?;
        let seen = Mutex::new(folder.glance()?);
        let shelf = Arc::new(Shelf {
            folder,
            settings,
            open: RwLock::default(),
            bundles: Bundles::default(),
            turn: Mutex::default(),
            seen,
            listed: Mutex::default(),
        });
        shelf.look_at_bundles();
        Ok(Self { shelf })
    }
}

impl Shelf {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, view: &str, version: u32) -> Option<Arc<EmbeddedGeneration>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(view)?.get(&version).cloned()
    }

    fn all(&self) -> Vec<Arc<EmbeddedGeneration>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().flat_map(HashMap::values).cloned().collect()
    }

    /// Makes a generation the current one; one that is open already only looks
    /// at the manifest again.
    fn put(&self, generation: EmbeddedGeneration) -> Result<Arc<EmbeddedGeneration>, StoreError> {
        let (view, version) = (generation.id().view.clone(), generation.id().version);
        let held = self.find(&view, version);
        if let Some(held) = held.filter(|held| held.id() == generation.id()) {
            held.look_again()?;
            return Ok(held);
        }
        let generation = Arc::new(generation);
        generation.set_membership(self.bundles.current().membership(&generation));
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        let versions = open.entry(view).or_default();
        versions.insert(version, Arc::clone(&generation));
        Ok(generation)
    }

    fn remove(&self, view: &str, version: u32) {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(versions) = open.get_mut(view) {
            versions.remove(&version);
        }
    }

    /// What the manifest says, opened.
    fn load(
        &self,
        view: &str,
        version: u32,
    ) -> Result<Option<Arc<EmbeddedGeneration>>, StoreError> {
        let _turn = self.turn();
        let folder = self.folder.version(view, version);
        let mut before = None;
        loop {
            let manifest = Manifest::read(&folder.manifest_path())?;
            let Some(published) = manifest.and_then(|m| m.published) else {
                self.remove(view, version);
                return Ok(None);
            };
            let held = self.find(view, version);
            let is_first = held.is_none();
            if let Some(held) = held.filter(|held| held.id().number == published.number) {
                held.look_again()?;
                return Ok(Some(held));
            }
            if let Some(files) = Files::open(&folder, &published, &self.settings)? {
                if let (false, Some(base)) = (is_first, files.base()) {
                    base.bring_in();
                }
                let generation = EmbeddedGeneration::new(&folder, &published, files)?;
                return self.put(generation).map(Some);
            }
            // Replaced between the manifest and the file: look again. If it was
            // not, the file is not what was published.
            if before.as_ref() == Some(&published) {
                return Err(StoreError::Damaged {
                    path: folder.base_path(published.number),
                    reason: "the manifest names it and the changes beside it, and one of them \
                             is missing or older than that"
                        .to_owned(),
                });
            }
            before = Some(published);
        }
    }

    fn refresh(&self) -> Result<bool, StoreError> {
        // No news of its own: what is read from them is the same.
        self.look_at_bundles();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.folder.glance()?;
        let mut changed = now != *seen;
        let mut outcome = Ok(());
        if changed {
            for generation in self.all() {
                let id = generation.id();
                // One that cannot be read must not hide the others' news.
                outcome = outcome.and(self.load(&id.view, id.version).map(drop));
            }
        }
        for generation in self.all() {
            changed |= generation.notice_writes();
        }
        outcome?;
        *seen = now;
        Ok(changed)
    }

    /// States of everything that is published, in order of their ids.
    fn list(&self) -> Result<Vec<GenerationState>, StoreError> {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.folder.glance()?;
        if listed.as_ref() != Some(&now) {
            for path in now.manifests() {
                if let Some(manifest) = Manifest::read(&path)? {
                    self.load(&manifest.view, manifest.version)?;
                }
            }
            // Those whose manifest is gone.
            for generation in self.all() {
                self.load(&generation.id().view, generation.id().version)?;
            }
            *listed = Some(now);
        }
        let mut states: Vec<_> = self.all().iter().map(|open| open.state()).collect();
        states.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(states)
    }

    fn sweep(&self, view: &str, version: u32, older_than: UtcMicros) -> Result<u64, StoreError> {
        let folder = self.folder.version(view, version);
        if Manifest::read(&folder.manifest_path())?.is_none() {
            return Ok(0);
        }
        let _lock = folder.lock()?;
        let Some(generation) = self.load(view, version)? else {
            return Ok(0);
        };
        if !generation.layout().event_time {
            return Ok(0);
        }
        let files = generation.files();
        files.changes().forget_killed_readers()?;
        let order = RowOrder::new(generation.layout());
        sweep::sweep(files, &order, older_than, &self.settings)
    }

    fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        let folder = self.folder.version(view, version);
        if Manifest::read(&folder.manifest_path())?.is_none() {
            return Ok(());
        }
        let _lock = folder.lock()?;
        let Some(manifest) = Manifest::read(&folder.manifest_path())? else {
            return Ok(());
        };
        if manifest.published.is_some() {
            let _turn = self.turn();
            Manifest::new(&folder, manifest.last_number, None).write(&folder)?;
            self.remove(view, version);
        }
        folder.remove_generations_but(None)?;
        self.folder.count_change()?;
        self.tidy_bundles();
        Ok(())
    }
}

/// Work that waits for the disk: the other tasks of this thread go elsewhere,
/// where the runtime has another thread.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

#[async_trait]
impl OnlineStore for EmbeddedStore {
    async fn generation(
        &self,
        view: &str,
        version: u32,
    ) -> Result<Option<Arc<dyn Generation>>, StoreError> {
        let open = match self.shelf.find(view, version) {
            Some(open) => Some(open),
            None => blocking(|| self.shelf.load(view, version))?,
        };
        Ok(open.map(|generation| generation as Arc<dyn Generation>))
    }

    async fn generations(&self) -> Result<Vec<GenerationState>, StoreError> {
        blocking(|| self.shelf.list())
    }

    async fn read(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        if keys.len() * generations.len() < self.shelf.settings.blocking_reads_min {
            return lookups::read_all(&self.shelf.bundles, keys, generations, sink);
        }
        blocking(|| lookups::read_all(&self.shelf.bundles, keys, generations, sink))
    }

    #[instrument(skip_all, err, fields(view, version))]
    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Box<dyn GenerationWriter>, StoreError> {
        let opened = blocking(|| EmbeddedWriter::open(&self.shelf, view, version, layout, mode));
        Ok(Box::new(opened?))
    }

    #[instrument(skip_all, err, fields(view, version))]
    async fn sweep(
        &self,
        view: &str,
        version: u32,
        older_than: UtcMicros,
    ) -> Result<u64, StoreError> {
        blocking(|| self.shelf.sweep(view, version, older_than))
    }

    #[instrument(skip_all, err, fields(view, version))]
    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        blocking(|| self.shelf.drop_version(view, version))
    }

    #[instrument(skip_all)]
    async fn bundle(&self, views: &[(String, u32)]) -> Result<bool, StoreError> {
        blocking(|| self.shelf.bundle(views))
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        blocking(|| self.shelf.refresh())
    }
}
