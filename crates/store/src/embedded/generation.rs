//! A published generation of the embedded store, and how its rows are read.

use std::any::Any;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use granary_model::UtcMicros;

use super::base::BaseFile;
use super::bundle::Membership;
use super::files::Files;
use super::folder::VersionFolder;
use super::manifest::{Manifest, Published};
use crate::codec::RowLayout;
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{Coverage, Generation, GenerationId, GenerationState, RowSink};

/// Pins a generation's files: they stay mapped, and readable, while this lives.
#[derive(Debug)]
pub(super) struct EmbeddedGeneration {
    id: GenerationId,
    layout: Arc<RowLayout>,
    default_row: Option<Arc<[u8]>>,
    folder: VersionFolder,
    files: Files,
    /// What the manifest said last.
    coverage: Mutex<Coverage>,
    /// The same of [`Generation::reaches`], which every read asks.
    reaches: AtomicI64,
    /// These two hold for every transaction up to this one. A later one may be of
    /// an upsert, which says so in the manifest before its first.
    told_up_to: AtomicU64,
    /// The write counter that the last look for changes saw.
    counter_seen: AtomicU64,
    /// The last state that could be read.
    rows_seen: AtomicU64,
    /// Of the bundles that were open last.
    membership: AtomicU64,
}

impl EmbeddedGeneration {
    pub(super) fn new(
        folder: &VersionFolder,
        published: &Published,
        files: Files,
    ) -> Result<Self, StoreError> {
        let state = files.state()?;
        Ok(Self {
            id: GenerationId {
                view: folder.view.clone(),
                version: folder.version,
                number: published.number,
            },
            layout: Arc::new(published.layout.clone()),
            default_row: published.default_row.as_ref().map(|d| Arc::clone(&d.0)),
            folder: folder.clone(),
            files,
            coverage: Mutex::new(published.coverage.clone()),
            reaches: AtomicI64::new(published.reaches().0),
            told_up_to: AtomicU64::new(published.write_counter),
            counter_seen: AtomicU64::new(state.write_counter),
            rows_seen: AtomicU64::new(state.rows),
            membership: AtomicU64::new(Membership::NONE.to_bits()),
        })
    }

    pub(super) fn id(&self) -> &GenerationId {
        &self.id
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    fn coverage(&self) -> MutexGuard<'_, Coverage> {
        { self.coverage.lock() }.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the manifest says now.
    pub(super) fn look_again(&self) -> Result<(), StoreError> {
        // What is committed by now was announced before the manifest is read,
        // and one look at a time keeps an older one from being the last.
        let mut coverage = self.coverage();
        let counter = self.files.changes().write_counter();
        let manifest = Manifest::read(&self.folder.manifest_path())?;
        if let Some(published) = manifest.and_then(|m| m.published) {
            let reaches = published.reaches().0;
            if published.number == self.id.number {
                *coverage = published.coverage;
                self.reaches.store(reaches, Ordering::Release);
            } else {
                // Replaced: it holds nothing later than what took its place.
                self.reaches.fetch_max(reaches, Ordering::AcqRel);
            }
        }
        self.told_up_to.fetch_max(counter, Ordering::AcqRel);
        Ok(())
    }

    /// Whether rows changed since the last call.
    pub(super) fn notice_writes(&self) -> bool {
        let counter = self.files.changes().write_counter();
        self.counter_seen.swap(counter, Ordering::AcqRel) != counter
    }

    /// The base, where it alone answers.
    #[inline]
    pub(super) fn unchanged(&self) -> Option<&BaseFile> {
        self.files.unchanged()
    }

    #[inline]
    pub(super) fn default_row(&self) -> Option<&[u8]> {
        self.default_row.as_deref()
    }

    /// The bundle that has the rows of the base; it may be closed by now.
    #[inline]
    pub(super) fn membership(&self) -> Membership {
        Membership::from_bits(self.membership.load(Ordering::Acquire))
    }

    pub(super) fn set_membership(&self, membership: Membership) {
        let bits = membership.to_bits();
        self.membership.store(bits, Ordering::Release);
    }

    /// Hands the rows of `keys` to the sink as generation `index`, from one
    /// snapshot and without copying.
    pub(super) fn read_changed(
        &self,
        index: usize,
        keys: &EntityKeys,
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        let txn = self.files.changes().read()?;
        if txn.id() as u64 > self.told_up_to.load(Ordering::Acquire) {
            self.look_again()?;
        }
        let default = self.default_row.as_deref();
        let mut hashed = Vec::new();
        for (entity, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let found = self.files.get(&txn, key, &mut hashed)?;
            if let Some(row) = found.or(default) {
                sink.row(index, entity, row);
            }
        }
        Ok(())
    }
}

impl Generation for EmbeddedGeneration {
    fn state(&self) -> GenerationState {
        // Only a full table of readers makes this fail; then the last state
        // that was seen is given.
        let (rows, write_counter) = match self.files.state() {
            Ok(state) => {
                self.rows_seen.store(state.rows, Ordering::Release);
                (state.rows, state.write_counter)
            }
            Err(_) => (
                self.rows_seen.load(Ordering::Acquire),
                self.counter_seen.load(Ordering::Acquire),
            ),
        };
        GenerationState {
            id: self.id.clone(),
            coverage: self.coverage().clone(),
            rows,
            write_counter,
        }
    }

    fn layout(&self) -> &Arc<RowLayout> {
        &self.layout
    }

    fn reaches(&self) -> UtcMicros {
        UtcMicros(self.reaches.load(Ordering::Acquire))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
