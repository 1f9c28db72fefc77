//! The in-memory store, for tests and trials.
//!
//! It keeps nothing and bounds nothing: what is written stays in memory until
//! it is dropped. It is the plainest thing that passes
//! [`crate::conformance`], so it also serves as the reference for the others.

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_trait::async_trait;
use granary_model::UtcMicros;

use crate::codec::{RowLayout, RowOrder};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{
    Coverage, Generation, GenerationId, GenerationState, GenerationWriter, OnlineStore, RowSink,
    UpsertSummary, WriteMode, check_batch, check_default,
};
use crate::rows::EncodedRows;

/// Rows in sorted maps. Clones share their content.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    versions: BTreeMap<(String, u32), Version>,
    /// Raised by every publication, write, sweep and drop.
    changes: u64,
    changes_seen: u64,
}

#[derive(Debug, Default)]
struct Version {
    published: Option<Arc<MemoryGeneration>>,
    /// The greatest number given so far; numbers are never used twice.
    last_number: u64,
    writing: bool,
}

#[derive(Debug)]
struct MemoryGeneration {
    id: GenerationId,
    layout: Arc<RowLayout>,
    order: RowOrder,
    rows: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
    default_row: RwLock<Option<Vec<u8>>>,
    coverage: RwLock<Coverage>,
    reaches: RwLock<UtcMicros>,
    write_counter: AtomicU64,
}

impl Generation for MemoryGeneration {
    fn state(&self) -> GenerationState {
        GenerationState {
            id: self.id.clone(),
            coverage: self
                .coverage
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            rows: self.rows().len() as u64,
            write_counter: self.write_counter.load(Ordering::Acquire),
        }
    }

    fn layout(&self) -> &Arc<RowLayout> {
        &self.layout
    }

    fn reaches(&self) -> UtcMicros {
        *self.reaches.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl MemoryGeneration {
    fn new(id: GenerationId, layout: Arc<RowLayout>) -> Self {
        Self {
            id,
            order: RowOrder::new(&layout),
            layout,
            rows: RwLock::default(),
            default_row: RwLock::default(),
            coverage: RwLock::default(),
            reaches: RwLock::new(UtcMicros::MIN),
            write_counter: AtomicU64::new(1),
        }
    }

    fn rows(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn default_row(&self) -> std::sync::RwLockReadGuard<'_, Option<Vec<u8>>> {
        let default = self.default_row.read();
        default.unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, t: UtcMicros) {
        let mut reaches = self.reaches.write().unwrap_or_else(PoisonError::into_inner);
        *reaches = t.max(*reaches);
    }

    fn write(&self, keys: &EntityKeys, rows: &EncodedRows) -> Result<UpsertSummary, StoreError> {
        check_batch(&self.order, keys, rows)?;
        let mut summary = UpsertSummary::default();
        let mut stored = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        for (key, row) in keys.iter().zip(rows.iter()) {
            match stored.entry(key.unwrap_or_default().to_vec()) {
                Entry::Vacant(place) => {
                    place.insert(row.to_vec());
                    summary.inserted += 1;
                }
                Entry::Occupied(mut place) => {
                    if self.order.compare(place.get(), row)?.is_lt() {
                        place.insert(row.to_vec());
                        summary.replaced += 1;
                    } else {
                        summary.kept += 1;
                    }
                }
            }
        }
        drop(stored);
        if summary.changed() {
            self.write_counter.fetch_add(1, Ordering::AcqRel);
        }
        Ok(summary)
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn published(&self, view: &str, version: u32) -> Option<Arc<MemoryGeneration>> {
        let shelf = self.shelf();
        let held = shelf.versions.get(&(view.to_owned(), version))?;
        held.published.clone()
    }
}

#[async_trait]
impl OnlineStore for MemoryStore {
    async fn generation(
        &self,
        view: &str,
        version: u32,
    ) -> Result<Option<Arc<dyn Generation>>, StoreError> {
        Ok(self
            .published(view, version)
            .map(|generation| generation as Arc<dyn Generation>))
    }

    async fn generations(&self) -> Result<Vec<GenerationState>, StoreError> {
        Ok(self
            .shelf()
            .versions
            .values()
            .filter_map(|version| Some(version.published.as_ref()?.state()))
            .collect())
    }

    async fn read(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        for (index, pinned) in generations.iter().enumerate() {
            let generation = pinned
                .as_any()
                .downcast_ref::<MemoryGeneration>()
                .ok_or_else(|| StoreError::foreign(pinned.as_ref()))?;
            let rows = generation.rows();
            let default = generation.default_row();
            for (entity, key) in keys.iter().enumerate() {
                let Some(key) = key else { continue };
                if let Some(row) = rows.get(key).or(default.as_ref()) {
                    sink.row(index, entity, row);
                }
            }
        }
        Ok(())
    }

    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Box<dyn GenerationWriter>, StoreError> {
        let mut shelf = self.shelf();
        let held = shelf
            .versions
            .entry((view.to_owned(), version))
            .or_default();
        if held.writing {
            return Err(StoreError::busy(view, version));
        }
        let generation = match mode {
            WriteMode::Create => Arc::new(MemoryGeneration::new(
                GenerationId {
                    view: view.to_owned(),
                    version,
                    number: held.last_number + 1,
                },
                layout,
            )),
            WriteMode::Upsert { .. } => {
                let published = held.published.clone().ok_or(StoreError::NotPublished {
                    view: view.to_owned(),
                    version,
                })?;
                if published.layout != layout {
                    return Err(StoreError::LayoutChanged {
                        view: view.to_owned(),
                        version,
                    });
                }
                published
            }
        };
        held.writing = true;
        Ok(Box::new(MemoryWriter {
            store: self.clone(),
            generation,
            mode,
        }))
    }

    async fn sweep(
        &self,
        view: &str,
        version: u32,
        older_than: UtcMicros,
    ) -> Result<u64, StoreError> {
        let Some(generation) = self.published(view, version) else {
            return Ok(0);
        };
        let mut shelf = self.shelf();
        if shelf.is_writing(view, version) {
            return Err(StoreError::busy(view, version));
        }
        let mut rows = generation
            .rows
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = rows.len();
        let mut failed = Ok(());
        rows.retain(|_, row| match generation.order.event_time(row) {
            Ok(time) => time.is_none_or(|time| time >= older_than),
            Err(error) => {
                failed = Err(error);
                true
            }
        });
        let removed = (before - rows.len()) as u64;
        if removed > 0 {
            generation.write_counter.fetch_add(1, Ordering::AcqRel);
            shelf.changes += 1;
        }
        failed.map(|()| removed)
    }

    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        let mut shelf = self.shelf();
        if shelf.is_writing(view, version) {
            return Err(StoreError::busy(view, version));
        }
        let held = shelf.versions.get_mut(&(view.to_owned(), version));
        if held.and_then(|held| held.published.take()).is_some() {
            shelf.changes += 1;
        }
        Ok(())
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        let mut shelf = self.shelf();
        let changed = shelf.changes != shelf.changes_seen;
        shelf.changes_seen = shelf.changes;
        Ok(changed)
    }
}

impl Shelf {
    fn is_writing(&self, view: &str, version: u32) -> bool {
        self.versions
            .get(&(view.to_owned(), version))
            .is_some_and(|held| held.writing)
    }
}

#[derive(Debug)]
struct MemoryWriter {
    store: MemoryStore,
    generation: Arc<MemoryGeneration>,
    mode: WriteMode,
}

#[async_trait]
impl GenerationWriter for MemoryWriter {
    async fn write(
        &mut self,
        keys: &EntityKeys,
        rows: &EncodedRows,
    ) -> Result<UpsertSummary, StoreError> {
        if let WriteMode::Upsert { up_to } = self.mode {
            self.generation.reach(up_to);
        }
        let summary = self.generation.write(keys, rows)?;
        if self.mode != WriteMode::Create && summary.changed() {
            self.store.shelf().changes += 1;
        }
        Ok(summary)
    }

    async fn write_default(&mut self, row: &[u8]) -> Result<(), StoreError> {
        let generation = &self.generation;
        check_default(&generation.order, self.mode, row)?;
        let default = generation.default_row.write();
        *default.unwrap_or_else(PoisonError::into_inner) = Some(row.to_vec());
        Ok(())
    }

    async fn publish(self: Box<Self>, coverage: Coverage) -> Result<GenerationState, StoreError> {
        let generation = &self.generation;
        generation.reach(coverage.as_of);
        *generation
            .coverage
            .write()
            .unwrap_or_else(PoisonError::into_inner) = coverage;
        let mut shelf = self.store.shelf();
        shelf.changes += 1;
        let id = &generation.id;
        let held = shelf
            .versions
            .entry((id.view.clone(), id.version))
            .or_default();
        held.last_number = held.last_number.max(id.number);
        held.published = Some(Arc::clone(generation));
        Ok(generation.state())
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        let id = &self.generation.id;
        let key = (id.view.clone(), id.version);
        if let Some(held) = self.store.shelf().versions.get_mut(&key) {
            held.writing = false;
        }
    }
}
