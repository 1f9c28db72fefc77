//! Filling a generation: writing a new one, upserting into the live one.
//!
//! A new generation's rows go straight into its base for as long as their keys
//! ascend; from the first that does not on, LMDB sorts them, and the base is
//! written at publication. Nobody sees either before. What is upserted goes into
//! the live generation's changes: those transactions are durable one by one, and
//! readers see them one by one; the manifest says before the first of them up to
//! which T they may be, so that nobody takes them for older ones.
//!
//! Transactions are bounded by rows and bytes.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use heed::{PutFlags, RwTxn};
use tracing::{instrument, warn};

use super::base::{BaseFile, BaseWriter};
use super::changes::{ChangesFile, REMOVED, key_and_row, row_of, stored_key, stored_value};
use super::files::Files;
use super::folder::{VersionFolder, WriterLock};
use super::generation::EmbeddedGeneration;
use super::manifest::{Manifest, Published, PublishedBase, StoredDefault};
use super::{EmbeddedSettings, Shelf, blocking};
use crate::codec::{RowLayout, RowOrder};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{
    Coverage, Generation, GenerationState, GenerationWriter, UpsertSummary, WriteMode, check_batch,
    check_default,
};
use crate::rows::EncodedRows;

/// Changes are too many for a base of less than so many times their number.
const BASE_PER_CHANGES: u64 = 8;

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
    filling: Option<Filling>,
    /// Whether generation `number` is of this writer's making.
    made: bool,
    /// Greatest stored key of a new generation.
    greatest: Vec<u8>,
    /// Whether rows of some batch were lost: then there is nothing to publish.
    failed: bool,
    /// Freed after everything else.
    _lock: WriterLock,
}

/// Where rows go.
#[derive(Debug)]
enum Filling {
    /// A new generation, keys ascending so far.
    Ascending(BaseWriter),
    /// A new generation, keys in any order.
    Sorting(Arc<ChangesFile>),
    Live(Files),
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
        let order = RowOrder::new(&layout);
        let (number, filling) = match (mode, &published) {
            (WriteMode::Create, _) => {
                let number = last_number + 1;
                let base = BaseWriter::create(&folder.base_path(number), Some(&order))?;
                (number, Filling::Ascending(base))
            }
            (WriteMode::Upsert { .. }, None) => return Err(not_published()),
            (WriteMode::Upsert { .. }, Some(published)) => {
                if published.layout != *layout {
                    return Err(StoreError::LayoutChanged {
                        view: view.to_owned(),
                        version,
                    });
                }
                let files = Files::open(&folder, published, &shelf.settings)?;
                let files = files.ok_or_else(not_published)?;
                files.changes().forget_killed_readers()?;
                (published.number, Filling::Live(files))
            }
        };
        let live = published.filter(|_| is_upsert);
        Ok(Self {
            shelf: Arc::clone(shelf),
            order,
            folder,
            number,
            layout,
            mode,
            default_row: live.as_ref().and_then(|live| live.default_row.clone()),
            live,
            filling: Some(filling),
            made: !is_upsert,
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
        let written = self.fill(keys, rows);
        self.failed |= written.is_err();
        written
    }

    fn fill(&mut self, keys: &EntityKeys, rows: &EncodedRows) -> Result<UpsertSummary, StoreError> {
        let sorted = key_order(keys);
        let mut batch = Batch {
            keys,
            rows,
            sorted: &sorted,
            order: &self.order,
            greatest: &mut self.greatest,
            summary: UpsertSummary::default(),
            hashed: Vec::new(),
            long: Vec::new(),
        };
        let mut next = 0;
        if let Some(Filling::Ascending(base)) = &mut self.filling {
            next = batch.append(base)?;
            if next < sorted.len() {
                let path = self.folder.changes_path(self.number);
                let changes = ChangesFile::open(&path, &self.shelf.settings)?;
                changes.never_sync()?;
                copy(base, &changes, &self.shelf.settings)?;
                self.filling = Some(Filling::Sorting(changes));
            }
        }
        let over = match &self.filling {
            Some(Filling::Live(files)) => Over {
                changes: files.changes(),
                base: files.base(),
                appends: false,
            },
            Some(Filling::Sorting(changes)) => Over {
                changes,
                base: None,
                appends: true,
            },
            Some(Filling::Ascending(_)) | None => return Ok(batch.summary),
        };
        while next < sorted.len() {
            next = batch.transaction(over, next, &self.shelf.settings)?;
        }
        Ok(batch.summary)
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
        if self.failed {
            return Err(StoreError::Backend(format!(
                "{} version {} is not published: a write to it failed",
                self.folder.view, self.folder.version
            )));
        }
        let filled = self.filling.take();
        let filled = filled.ok_or_else(|| StoreError::Backend("published already".to_owned()))?;
        let before = self.live.take();
        let (files, base) = match filled {
            Filling::Live(files) => self.merged(files, before.as_ref().and_then(|b| b.base))?,
            Filling::Ascending(base) => {
                let made = Files::create(&self.folder, self.number, base, &self.shelf.settings)?;
                (made.0, Some(made.1))
            }
            Filling::Sorting(changes) => {
                let base = self.sorted(&changes)?;
                drop(changes);
                self.folder.remove_changes(self.number)?;
                let made = Files::create(&self.folder, self.number, base, &self.shelf.settings)?;
                (made.0, Some(made.1))
            }
        };
        if let (Some(_), Some(base)) = (&before, files.base()) {
            base.bring_in();
        }
        let state = files.state()?;
        let published = Published {
            number: self.number,
            base,
            // Rows that an upsert left behind are there until a run that is as
            // late covers them.
            upserting_to: before
                .map(|live| live.reaches())
                .filter(|t| *t > coverage.as_of),
            coverage,
            layout: (*self.layout).clone(),
            default_row: self.default_row.clone(),
            rows: state.rows,
            write_counter: state.write_counter,
            file_bytes: files.changes().file_bytes()?,
        };
        let turn = self.shelf.turn();
        Manifest::new(&self.folder, self.number, Some(published.clone())).write(&self.folder)?;
        let generation = EmbeddedGeneration::new(&self.folder, &published, files)?;
        let generation = self.shelf.put(generation)?;
        drop(turn);
        if let Err(error) = self.folder.remove_generations_but(Some(self.number)) {
            warn!(%error, "a replaced generation stays until the next write");
        }
        self.shelf.folder.count_change()?;
        Ok(generation.state())
    }

    /// The rows that LMDB sorted, in a base.
    fn sorted(&self, changes: &ChangesFile) -> Result<BaseWriter, StoreError> {
        let path = self.folder.base_path(self.number);
        let mut base = BaseWriter::create(&path, Some(&self.order))?;
        let txn = changes.read()?;
        for entry in changes.after(&txn, None)? {
            let (stored_key, value) = entry?;
            let entry = key_and_row(stored_key, value);
            let (key, row) = entry.ok_or_else(|| changes.another_key())?;
            base.append(key, row)?;
        }
        Ok(base)
    }

    /// The live generation, or where its changes are many for its base a new one
    /// of the same rows.
    fn merged(
        &mut self,
        files: Files,
        base: Option<PublishedBase>,
    ) -> Result<(Files, Option<PublishedBase>), StoreError> {
        let changes = files.entries(&files.changes().read()?)?;
        let few = files.base().map_or(0, BaseFile::rows) / BASE_PER_CHANGES;
        if changes <= few.max(self.shelf.settings.changes_rows_min) {
            return Ok((files, base));
        }
        let next = self.number + 1;
        let path = self.folder.base_path(next);
        let made = BaseWriter::create(&path, Some(&self.order)).and_then(|mut base| {
            files.merge_into(&mut base)?;
            Files::create(&self.folder, next, base, &self.shelf.settings)
        });
        match made {
            Ok((made, base)) => {
                (self.number, self.made) = (next, true);
                Ok((made, Some(base)))
            }
            // The rows are there as they are.
            Err(error) => {
                warn!(%error, view = self.folder.view, "changes stay beside their base");
                if let Err(error) = self.folder.remove_generation(next) {
                    warn!(%error, "an unfinished base stays until the next write");
                }
                Ok((files, base))
            }
        }
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
        if !self.made {
            return;
        }
        drop(self.filling.take());
        // A publication that failed after the rename is one all the same.
        let published = Manifest::read(&self.folder.manifest_path());
        let is_this = |m: &Manifest| {
            let published = m.published.as_ref();
            published.is_some_and(|p| p.number == self.number)
        };
        if published.ok().flatten().as_ref().is_some_and(is_this) {
            return;
        }
        if let Err(error) = self.folder.remove_generation(self.number) {
            warn!(%error, "an unpublished generation stays until the next write");
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

/// The rows of a base into an empty file, for LMDB to sort more among them.
fn copy(
    base: &mut BaseWriter,
    changes: &ChangesFile,
    settings: &EmbeddedSettings,
) -> Result<(), StoreError> {
    let failed = |error| changes.error("the rows", error);
    let written = base.written()?;
    let mut records = written.records().peekable();
    let (mut hashed, mut long) = (Vec::new(), Vec::new());
    while records.peek().is_some() {
        let mut txn = changes.write()?;
        let mut bytes = 0;
        for record in records.by_ref().take(settings.transaction_rows_max.max(1)) {
            let (key, row) = record?;
            let stored_key = stored_key(key, &mut hashed);
            let value = stored_value(key, row, &mut long);
            { changes.table() }
                .put_with_flags(&mut txn, PutFlags::APPEND, stored_key, value)
                .map_err(failed)?;
            bytes += (stored_key.len() + value.len()) as u64;
            if bytes >= settings.transaction_bytes_max {
                break;
            }
        }
        txn.commit().map_err(failed)?;
    }
    Ok(())
}

/// What rows are joined with.
#[derive(Clone, Copy)]
struct Over<'a> {
    changes: &'a ChangesFile,
    base: Option<&'a BaseFile>,
    /// Whether nobody else writes the file, so that `greatest` is its last key.
    appends: bool,
}

/// One batch on its way.
struct Batch<'a> {
    keys: &'a EntityKeys,
    rows: &'a EncodedRows,
    /// Its rows by key.
    sorted: &'a [u32],
    order: &'a RowOrder,
    greatest: &'a mut Vec<u8>,
    summary: UpsertSummary,
    hashed: Vec<u8>,
    long: Vec<u8>,
}

impl<'a> Batch<'a> {
    /// The rows from `sorted[from]` on that are of one key, and the key.
    fn of_one_key(&self, from: usize) -> (&'a [u8], &'a [u32]) {
        let key = self.keys.get(self.sorted[from] as usize);
        let rows = &self.sorted[from..];
        let same = rows
            .iter()
            .take_while(|row| self.keys.get(**row as usize) == key);
        (key.unwrap_or_default(), &rows[..same.count()])
    }

    /// Writes rows whose keys come after all before; gives where others begin.
    fn append(&mut self, base: &mut BaseWriter) -> Result<usize, StoreError> {
        let mut next = 0;
        while next < self.sorted.len() {
            let (key, rows) = self.of_one_key(next);
            if stored_key(key, &mut self.hashed) <= self.greatest.as_slice() {
                break;
            }
            if let Some(row) = self.greatest_row(None, rows)? {
                base.append(key, row)?;
            }
            self.greatest.clear();
            self.greatest
                .extend_from_slice(stored_key(key, &mut self.hashed));
            next += rows.len();
        }
        Ok(next)
    }

    /// Writes rows from `sorted[from]` on until a bound is reached, and commits;
    /// gives where to go on.
    fn transaction(
        &mut self,
        over: Over<'_>,
        from: usize,
        settings: &EmbeddedSettings,
    ) -> Result<usize, StoreError> {
        let mut txn = over.changes.write()?;
        let inserted = self.summary.inserted;
        let mut bytes = 0;
        let mut next = from;
        while next < self.sorted.len()
            && next - from < settings.transaction_rows_max.max(1)
            && bytes < settings.transaction_bytes_max.max(1)
        {
            let (key, rows) = self.of_one_key(next);
            bytes += self.join(&mut txn, over, (key, rows))?;
            next += rows.len();
        }
        let inserted = self.summary.inserted - inserted;
        if inserted > 0 && over.base.is_some() {
            over.changes.count_rows(&mut txn, inserted as i64)?;
        }
        let committed = txn.commit();
        committed.map_err(|e| over.changes.error("the rows", e))?;
        Ok(next)
    }

    /// Joins all the batch's rows of one key with what is stored; gives the
    /// bytes written.
    fn join(
        &mut self,
        txn: &mut RwTxn<'_>,
        over: Over<'_>,
        (key, rows): (&[u8], &[u32]),
    ) -> Result<u64, StoreError> {
        let failed = |error| over.changes.error("the rows", error);
        let table = over.changes.table();
        let mut hashed = std::mem::take(&mut self.hashed);
        let stored_key = stored_key(key, &mut hashed);
        let is_last = over.appends && stored_key > self.greatest.as_slice();
        let changed = match is_last {
            true => None,
            false => table.get(txn, stored_key).map_err(failed)?,
        };
        let held = match (changed, over.base) {
            (Some(value), _) => Some(row_of(key, value).ok_or_else(|| over.changes.another_key())?),
            (None, Some(base)) => base.get(key)?,
            (None, None) => None,
        };
        let held = held.filter(|row| *row != REMOVED);
        let Some(row) = self.greatest_row(held, rows)? else {
            self.hashed = hashed;
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
        let bytes = (stored_key.len() + value.len()) as u64;
        self.hashed = hashed;
        Ok(bytes)
    }

    /// The row that takes the place of the held one, if any does.
    fn greatest_row(
        &mut self,
        held: Option<&[u8]>,
        rows: &[u32],
    ) -> Result<Option<&'a [u8]>, StoreError> {
        let mut winner: Option<&'a [u8]> = None;
        for row in rows {
            let row = self.rows.get(*row as usize);
            match winner.or(held) {
                None => self.summary.inserted += 1,
                Some(held) if self.order.compare(held, row)? == Ordering::Less => {
                    self.summary.replaced += 1;
                }
                Some(_) => {
                    self.summary.kept += 1;
                    continue;
                }
            }
            winner = Some(row);
        }
        Ok(winner)
    }
}
