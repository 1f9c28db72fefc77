//! Removing old rows, a bounded number in a transaction. Under the writer's lock.
//!
//! A base knows its oldest event time, so a sweep that would find nothing in it does
//! not look: at all rows of a store every few minutes, it would bring them into
//! memory in the place of those that are read.

use granary_model::UtcMicros;

use super::EmbeddedSettings;
use super::base::BaseFile;
use super::changes::{REMOVED, key_and_row, stored_key};
use super::files::Files;
use crate::codec::RowOrder;
use crate::error::StoreError;

/// Removes rows with an event time before `older_than`; gives their number.
pub(super) fn sweep(
    files: &Files,
    order: &RowOrder,
    older_than: UtcMicros,
    settings: &EmbeddedSettings,
) -> Result<u64, StoreError> {
    let sweep = Sweep {
        files,
        order,
        older_than,
        rows_max: settings.transaction_rows_max.max(1),
    };
    let changed = sweep.changes()?;
    match files.base() {
        Some(base) => Ok(changed + sweep.base(base)?),
        None => Ok(changed),
    }
}

struct Sweep<'a> {
    files: &'a Files,
    order: &'a RowOrder,
    older_than: UtcMicros,
    rows_max: usize,
}

/// A row to be removed.
struct OldRow {
    stored_key: Vec<u8>,
    in_base: bool,
}

impl Sweep<'_> {
    fn changes(&self) -> Result<u64, StoreError> {
        let changes = self.files.changes();
        let mut removed = 0;
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut old = Vec::new();
            let txn = changes.read()?;
            let after = last.take();
            let entries = changes.after(&txn, after.as_deref())?;
            for (looked_at, entry) in entries.enumerate() {
                let (stored_key, value) = entry?;
                let entry = key_and_row(stored_key, value);
                let (key, row) = entry.ok_or_else(|| changes.another_key())?;
                if row != REMOVED && self.is_old(row)? {
                    let in_base = match self.files.base() {
                        Some(base) => base.get(key)?.is_some(),
                        None => false,
                    };
                    let stored_key = stored_key.to_vec();
                    old.push(OldRow {
                        stored_key,
                        in_base,
                    });
                }
                if looked_at + 1 >= self.rows_max {
                    last = Some(stored_key.to_vec());
                    break;
                }
            }
            drop(txn);
            removed += self.remove(&old)?;
            if last.is_none() {
                return Ok(removed);
            }
        }
    }

    /// Rows that changed were looked at before.
    fn base(&self, base: &BaseFile) -> Result<u64, StoreError> {
        if base
            .oldest()
            .is_some_and(|oldest| oldest >= self.older_than)
        {
            return Ok(0);
        }
        let mut oldest = UtcMicros::MAX;
        let changes = self.files.changes();
        let mut removed = 0;
        let mut records = base.records();
        let mut hashed = Vec::new();
        loop {
            let mut old = Vec::new();
            let mut looked_at = 0;
            let txn = changes.read()?;
            for record in records.by_ref().take(self.rows_max) {
                let (key, row) = record?;
                looked_at += 1;
                match self.order.event_time(row)? {
                    Some(time) if time < self.older_than => {}
                    time => {
                        oldest = time.map_or(oldest, |time| oldest.min(time));
                        continue;
                    }
                }
                let stored_key = stored_key(key, &mut hashed);
                let changed = changes.table().get(&txn, stored_key);
                if changed.map_err(|e| changes.error("a sweep", e))?.is_none() {
                    old.push(OldRow {
                        stored_key: stored_key.to_vec(),
                        in_base: true,
                    });
                }
            }
            drop(txn);
            removed += self.remove(&old)?;
            if looked_at < self.rows_max {
                base.set_oldest(oldest);
                return Ok(removed);
            }
        }
    }

    fn is_old(&self, row: &[u8]) -> Result<bool, StoreError> {
        let time = self.order.event_time(row)?;
        Ok(time.is_some_and(|time| time < self.older_than))
    }

    fn remove(&self, old: &[OldRow]) -> Result<u64, StoreError> {
        if old.is_empty() {
            return Ok(0);
        }
        let changes = self.files.changes();
        let failed = |error| changes.error("a sweep", error);
        let mut txn = changes.write()?;
        let table = changes.table();
        for OldRow {
            stored_key,
            in_base,
        } in old
        {
            if *in_base {
                table.put(&mut txn, stored_key, REMOVED).map_err(failed)?;
            } else {
                table.delete(&mut txn, stored_key).map_err(failed)?;
            }
        }
        if self.files.base().is_some() {
            changes.count_rows(&mut txn, -(old.len() as i64))?;
        }
        txn.commit().map_err(failed)?;
        Ok(old.len() as u64)
    }
}
