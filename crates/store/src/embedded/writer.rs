//! Filling a generation: appending a new one, upserting into the live one,
//! sweeping old rows.
//!
//! Transactions are bounded by rows and bytes. Those of a new generation are
//! not synced: nobody sees the file before it is published, and one sync then
//! does for all. Those into the live file are durable one by one, and readers
//! see them one by one; the manifest says before the first of them up to which T
//! they may be, so that nobody takes them for older ones.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;
use granary_model::UtcMicros;
use heed::{PutFlags, RwTxn};
use tracing::{instrument, warn};

use super::file::{RowFile, any_row, row_of, stored_key, stored_value};
use super::folder::{VersionFolder, WriterLock};
use super::generation::EmbeddedGeneration;
use super::manifest::{Manifest, Published, StoredDefault};
use super::{EmbeddedSettings, Shelf, blocking};
use crate::codec::{RowLayout, RowOrder};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{
    Coverage, Generation, GenerationState, GenerationWriter, UpsertSummary, WriteMode, check_batch,
    check_default,
};
use crate::rows::EncodedRows;

#[derive(Debug)]
pub(super) struct EmbeddedWriter {
    shelf: Arc<Shelf>,
    folder: VersionFolder,
    number: u64,
    layout: Arc<RowLayout>,
    order: RowOrder,
    mode: WriteMode,
    /// What an upsert goes into, as its manifest says.
    live: Option<Published>,
    default_row: Option<StoredDefault>,
    /// `None` once handed over.
    file: Option<Arc<RowFile>>,
    /// Greatest stored key of a new generation: what sorts after it is appended.
    greatest: Vec<u8>,
    /// Whether rows of some batch were lost: then there is nothing to publish.
    failed: bool,
    /// Freed after everything else.
    _lock: WriterLock,
}

impl EmbeddedWriter {
    pub(super) fn open(
        shelf: &Arc<Shelf>,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Self, StoreError> {
        let folder = shelf.folder.version(view, version);
        let not_published = || StoreError::NotPublished {
            view: view.to_owned(),
            version,
        };
        let is_upsert = matches!(mode, WriteMode::Upsert { .. });
        if is_upsert && Manifest::read(&folder.manifest_path())?.is_none() {
            return Err(not_published());
        }
        folder.create()?;
        let lock = folder.lock()?;
        let manifest = Manifest::read(&folder.manifest_path())?;
        let last_number = manifest.as_ref().map_or(0, |m| m.last_number);
        let published = manifest.and_then(|m| m.published);
        folder.remove_generations_but(published.as_ref().map(|p| p.number))?;
        let (number, file) = match (mode, &published) {
            (WriteMode::Create, _) => {
                let number = last_number + 1;
                let file = RowFile::open(&folder.generation_path(number), &shelf.settings)?;
                file.set_durable(false)?;
                (number, file)
            }
            (WriteMode::Upsert { .. }, None) => return Err(not_published()),
            (WriteMode::Upsert { .. }, Some(published)) => {
                if published.layout != *layout {
                    return Err(StoreError::LayoutChanged {
                        view: view.to_owned(),
                        version,
                    });
                }
                let file = super::open_published(&folder, published, &shelf.settings)?
                    .ok_or_else(not_published)?;
                file.forget_killed_readers()?;
                (published.number, file)
            }
        };
        let live = published.filter(|_| is_upsert);
        Ok(Self {
            shelf: Arc::clone(shelf),
            order: RowOrder::new(&layout),
            folder,
            number,
            layout,
            mode,
            default_row: live.as_ref().and_then(|live| live.default_row.clone()),
            live,
            file: Some(file),
            greatest: Vec::new(),
            failed: false,
            _lock: lock,
        })
    }

    fn write_batch(
        &mut self,
        keys: &EntityKeys,
        rows: &EncodedRows,
    ) -> Result<UpsertSummary, StoreError> {
        check_batch(&self.order, keys, rows)?;
        self.announce()?;
        let Some(file) = &self.file else {
            return Ok(UpsertSummary::default());
        };
        let sorted = key_order(keys);
        let mut batch = Batch {
            keys,
            rows,
            order: &self.order,
            file,
            appends: self.mode == WriteMode::Create,
            greatest: &mut self.greatest,
            hashed: Vec::new(),
            long: Vec::new(),
        };
        let mut summary = UpsertSummary::default();
        let mut from = 0;
        while from < keys.len() {
            let written = batch.transaction(&sorted, from, &self.shelf.settings);
            self.failed |= written.is_err();
            let (written, next) = written?;
            summary += written;
            from = next;
        }
        Ok(summary)
    }

    /// Says how late the rows of an upsert may be, before any of them is in.
    fn announce(&mut self) -> Result<(), StoreError> {
        let (WriteMode::Upsert { up_to }, Some(live)) = (self.mode, &mut self.live) else {
            return Ok(());
        };
        if live.reaches() < up_to {
            let announced = Published {
                upserting_to: Some(up_to),
                ..live.clone()
            };
            let _turn = self.shelf.turn();
            Manifest::new(&self.folder, self.number, Some(announced.clone()))
                .write(&self.folder)?;
            *live = announced;
        }
        Ok(())
    }

    fn publish_now(&mut self, coverage: Coverage) -> Result<GenerationState, StoreError> {
        let Some(file) = self.file.clone() else {
            return Err(StoreError::Backend("published already".to_owned()));
        };
        if self.failed {
            return Err(StoreError::Backend(format!(
                "{} version {} is not published: a write to it failed",
                self.folder.view, self.folder.version
            )));
        }
        if self.mode == WriteMode::Create {
            file.sync()?;
            file.set_durable(true)?;
        }
        let state = file.state()?;
        let published = Published {
            number: self.number,
            // Rows that an upsert left behind are there until a run that is as
            // late covers them.
            upserting_to: self
                .live
                .take()
                .map(|live| live.reaches())
                .filter(|t| *t > coverage.as_of),
            coverage,
            layout: (*self.layout).clone(),
            default_row: self.default_row.clone(),
            rows: state.rows,
            write_counter: state.write_counter,
            file_bytes: file.file_bytes()?,
        };
        let turn = self.shelf.turn();
        Manifest::new(&self.folder, self.number, Some(published.clone())).write(&self.folder)?;
        self.file = None;
        let generation = EmbeddedGeneration::new(&self.folder, &published, file)?;
        let generation = self.shelf.put(generation)?;
        drop(turn);
        if let Err(error) = self.folder.remove_generations_but(Some(self.number)) {
            warn!(%error, "a replaced generation stays until the next write");
        }
        self.shelf.folder.count_change()?;
        Ok(generation.state())
    }
}

#[async_trait]
impl GenerationWriter for EmbeddedWriter {
    #[instrument(skip_all, err, level = "debug")]
    async fn write(
        &mut self,
        keys: &EntityKeys,
        rows: &EncodedRows,
    ) -> Result<UpsertSummary, StoreError> {
        blocking(|| self.write_batch(keys, rows))
    }

    async fn write_default(&mut self, row: &[u8]) -> Result<(), StoreError> {
        check_default(&self.order, self.mode, row)?;
        self.default_row = Some(StoredDefault(row.into()));
        Ok(())
    }

    #[instrument(skip_all, err)]
    async fn publish(
        mut self: Box<Self>,
        coverage: Coverage,
    ) -> Result<GenerationState, StoreError> {
        blocking(|| self.publish_now(coverage))
    }
}

impl Drop for EmbeddedWriter {
    fn drop(&mut self) {
        if self.mode == WriteMode::Create
            && let Some(file) = self.file.take()
        {
            drop(file);
            // A publication that failed after the rename is one all the same.
            let published = Manifest::read(&self.folder.manifest_path());
            let is_this = |m: &Manifest| {
                m.published
                    .as_ref()
                    .is_some_and(|p| p.number == self.number)
            };
            if published.ok().flatten().as_ref().is_some_and(is_this) {
                return;
            }
            if let Err(error) = self.folder.remove_generation(self.number) {
                warn!(%error, "an unpublished generation stays until the next write");
            }
        }
    }
}

/// Rows of the batch by key, ascending; among equal keys as they came.
fn key_order(keys: &EntityKeys) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys.len() as u32).collect();
    let ascending = (1..keys.len()).all(|row| keys.get(row - 1) <= keys.get(row));
    if !ascending {
        order.sort_by_key(|row| keys.get(*row as usize));
    }
    order
}

/// One batch on its way into the file.
struct Batch<'a> {
    keys: &'a EntityKeys,
    rows: &'a EncodedRows,
    order: &'a RowOrder,
    file: &'a RowFile,
    /// Whether nobody else writes the file, so that `greatest` is its last key.
    appends: bool,
    greatest: &'a mut Vec<u8>,
    hashed: Vec<u8>,
    long: Vec<u8>,
}

impl Batch<'_> {
    /// Writes rows from `sorted[from]` on until a bound is reached, and commits;
    /// gives where to go on.
    fn transaction(
        &mut self,
        sorted: &[u32],
        from: usize,
        settings: &EmbeddedSettings,
    ) -> Result<(UpsertSummary, usize), StoreError> {
        let mut txn = self.file.write()?;
        let mut summary = UpsertSummary::default();
        let mut bytes = 0;
        let mut next = from;
        while next < sorted.len()
            && next - from < settings.transaction_rows_max.max(1)
            && bytes < settings.transaction_bytes_max.max(1)
        {
            let key = self.keys.get(sorted[next] as usize);
            let of_key = sorted[next..]
                .iter()
                .take_while(|row| self.keys.get(**row as usize) == key)
                .count();
            let rows = &sorted[next..next + of_key];
            bytes += self.join(&mut txn, key.unwrap_or_default(), rows, &mut summary)?;
            next += of_key;
        }
        txn.commit().map_err(|e| self.file.error("the rows", e))?;
        Ok((summary, next))
    }

    /// Joins all the batch's rows of one key with what is stored; gives the
    /// bytes written.
    fn join(
        &mut self,
        txn: &mut RwTxn<'_>,
        key: &[u8],
        rows: &[u32],
        summary: &mut UpsertSummary,
    ) -> Result<u64, StoreError> {
        let failed = |error| self.file.error("the rows", error);
        let table = self.file.table();
        let stored_key = stored_key(key, &mut self.hashed);
        let is_last = self.appends && stored_key > self.greatest.as_slice();
        let stored = match is_last {
            true => None,
            false => table.get(txn, stored_key).map_err(failed)?,
        };
        let mut greatest = match stored {
            Some(value) => Some(row_of(key, value).ok_or_else(|| another_key(self.file))?),
            None => None,
        };
        let mut winner = None;
        for row in rows {
            let row = self.rows.get(*row as usize);
            match greatest {
                None => summary.inserted += 1,
                Some(held) if self.order.compare(held, row)? == Ordering::Less => {
                    summary.replaced += 1;
                }
                Some(_) => {
                    summary.kept += 1;
                    continue;
                }
            }
            greatest = Some(row);
            winner = Some(row);
        }
        let Some(row) = winner else {
            return Ok(0);
        };
        let value = stored_value(key, row, &mut self.long);
        let flags = match is_last {
            true => PutFlags::APPEND,
            false => PutFlags::empty(),
        };
        table
            .put_with_flags(txn, flags, stored_key, value)
            .map_err(failed)?;
        if is_last {
            self.greatest.clear();
            self.greatest.extend_from_slice(stored_key);
        }
        Ok((stored_key.len() + value.len()) as u64)
    }
}

fn another_key(file: &RowFile) -> StoreError {
    StoreError::Damaged {
        path: file.path().to_owned(),
        reason: "the row of a long key is that of another key".to_owned(),
    }
}

/// Removes rows with an event time before `older_than`, a bounded number in a
/// transaction. Under the writer's lock.
pub(super) fn sweep(
    file: &RowFile,
    order: &RowOrder,
    older_than: UtcMicros,
    settings: &EmbeddedSettings,
) -> Result<u64, StoreError> {
    let failed = |error| file.error("a sweep", error);
    let mut removed = 0;
    let mut last: Option<Vec<u8>> = None;
    loop {
        let mut old = Vec::new();
        let mut looked_at = 0;
        let txn = file.read()?;
        let after = last.take();
        let from = match &after {
            Some(key) => Bound::Excluded(key.as_slice()),
            None => Bound::Unbounded,
        };
        let range = (from, Bound::Unbounded);
        for entry in file.table().range(&txn, &range).map_err(failed)? {
            let (key, value) = entry.map_err(failed)?;
            let row = any_row(key, value).ok_or_else(|| another_key(file))?;
            let time = order.event_time(row)?;
            if time.is_some_and(|time| time < older_than) {
                old.push(key.to_vec());
            }
            looked_at += 1;
            if looked_at >= settings.transaction_rows_max.max(1) {
                last = Some(key.to_vec());
                break;
            }
        }
        drop(txn);
        if !old.is_empty() {
            let mut txn = file.write()?;
            for key in &old {
                removed += u64::from(file.table().delete(&mut txn, key).map_err(failed)?);
            }
            txn.commit().map_err(failed)?;
        }
        if last.is_none() {
            return Ok(removed);
        }
    }
}
