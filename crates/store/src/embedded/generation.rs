//! A published generation of the embedded store, and how its rows are read.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::file::{RowFile, row_of, stored_key};
use crate::codec::RowLayout;
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{Coverage, Generation, GenerationId, GenerationState, RowSink};

/// Pins a generation's file: it stays mapped, and readable, while this lives.
#[derive(Debug)]
pub(super) struct EmbeddedGeneration {
    id: GenerationId,
    layout: Arc<RowLayout>,
    coverage: RwLock<Coverage>,
    file: Arc<RowFile>,
    /// The write counter that the last look for changes saw.
    counter_seen: AtomicU64,
    /// The last state that could be read.
    rows_seen: AtomicU64,
}

impl EmbeddedGeneration {
    pub(super) fn new(
        id: GenerationId,
        layout: Arc<RowLayout>,
        coverage: Coverage,
        file: Arc<RowFile>,
    ) -> Result<Self, StoreError> {
        let state = file.state()?;
        Ok(Self {
            id,
            layout,
            coverage: RwLock::new(coverage),
            file,
            counter_seen: AtomicU64::new(state.write_counter),
            rows_seen: AtomicU64::new(state.rows),
        })
    }

    pub(super) fn id(&self) -> &GenerationId {
        &self.id
    }

    pub(super) fn file(&self) -> &Arc<RowFile> {
        &self.file
    }

    pub(super) fn coverage(&self) -> Coverage {
        self.coverage
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_coverage(&self, coverage: Coverage) {
        *self
            .coverage
            .write()
            .unwrap_or_else(PoisonError::into_inner) = coverage;
    }

    /// Whether rows changed since the last call.
    pub(super) fn notice_writes(&self) -> Result<bool, StoreError> {
        let counter = self.file.write_counter()?;
        Ok(self.counter_seen.swap(counter, Ordering::AcqRel) != counter)
    }

    /// Hands the rows of `keys` to the sink as generation `index`, from one
    /// snapshot and without copying.
    pub(super) fn read(
        &self,
        index: usize,
        keys: &EntityKeys,
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        let txn = self.file.read()?;
        let table = self.file.table();
        let mut hashed = Vec::new();
        for (entity, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let found = table
                .get(&txn, stored_key(key, &mut hashed))
                .map_err(|e| self.file.error("a read", e))?;
            if let Some(row) = found.and_then(|value| row_of(key, value)) {
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
        let (rows, write_counter) = match self.file.state() {
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
            coverage: self.coverage(),
            rows,
            write_counter,
        }
    }

    fn layout(&self) -> &Arc<RowLayout> {
        &self.layout
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
