//! The files of a generation: what it was made with, and what changed since.

use std::sync::Arc;

use super::EmbeddedSettings;
use super::base::{BaseFile, BaseWriter};
use super::changes::{AnyTxn, ChangesFile, REMOVED, key_and_row, row_of, stored_key};
use super::folder::{VersionFolder, io_error};
use super::manifest::{Published, PublishedBase};
use crate::error::StoreError;

#[derive(Debug)]
pub(super) struct Files {
    /// None of a generation that was written in the manifest's format 1.
    base: Option<BaseFile>,
    changes: Arc<ChangesFile>,
    unchanged_at: u64,
}

/// What the files say of themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FilesState {
    pub(super) rows: u64,
    pub(super) write_counter: u64,
}

impl Files {
    /// The files that a manifest speaks of; `None` when they are not there any
    /// more or are not those files.
    pub(super) fn open(
        folder: &VersionFolder,
        published: &Published,
        settings: &EmbeddedSettings,
    ) -> Result<Option<Self>, StoreError> {
        // The base first, which is removed first: changes beside none may be a file
        // that another opening made.
        let base = match published.base {
            None => None,
            Some(PublishedBase { bytes, .. }) => {
                let path = folder.base_path(published.number);
                match BaseFile::open(&path, bytes, settings)? {
                    Some(base) => Some(base),
                    None => return Ok(None),
                }
            }
        };
        let path = folder.changes_path(published.number);
        let bytes = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&path, "the rows", e)),
        };
        // A page that is not in the file is not an error for LMDB but a signal.
        if bytes < published.file_bytes {
            return Err(StoreError::Damaged {
                reason: format!("cut short: {bytes} of {} bytes", published.file_bytes),
                path,
            });
        }
        let changes = ChangesFile::open(&path, settings)?;
        // Opening makes a file that was removed at this moment, an empty one.
        if changes.write_counter() < published.write_counter {
            return Ok(None);
        }
        Ok(Some(Self {
            base,
            changes,
            unchanged_at: published.base.map_or(0, |base| base.unchanged_at),
        }))
    }

    /// Finishes a base and gives it changes, of which there are none yet.
    pub(super) fn create(
        folder: &VersionFolder,
        number: u64,
        base: BaseWriter,
        settings: &EmbeddedSettings,
    ) -> Result<(Self, PublishedBase), StoreError> {
        let bytes = base.finish()?;
        let path = folder.base_path(number);
        let base = BaseFile::open(&path, bytes, settings)?.ok_or_else(|| StoreError::Damaged {
            path,
            reason: "it was removed while it was written".to_owned(),
        })?;
        let changes = ChangesFile::open(&folder.changes_path(number), settings)?;
        // One commit tells this file from one that is made by opening it.
        let mut txn = changes.write()?;
        changes.count_rows(&mut txn, 0)?;
        txn.commit().map_err(|e| changes.error("the rows", e))?;
        let unchanged_at = changes.write_counter();
        let files = Self {
            base: Some(base),
            changes,
            unchanged_at,
        };
        let published = PublishedBase {
            bytes,
            unchanged_at,
        };
        Ok((files, published))
    }

    pub(super) fn changes(&self) -> &Arc<ChangesFile> {
        &self.changes
    }

    pub(super) fn base(&self) -> Option<&BaseFile> {
        self.base.as_ref()
    }

    /// The base, where it alone answers.
    #[inline]
    pub(super) fn unchanged(&self) -> Option<&BaseFile> {
        let base = self.base.as_ref()?;
        (self.changes.write_counter() == self.unchanged_at).then_some(base)
    }

    pub(super) fn state(&self) -> Result<FilesState, StoreError> {
        let txn = self.changes.read()?;
        let rows = match &self.base {
            Some(base) => {
                let changed = self.changes.rows_changed(&txn)?.unwrap_or_default();
                base.rows().saturating_add_signed(changed)
            }
            None => self.entries(&txn)?,
        };
        Ok(FilesState {
            rows,
            write_counter: txn.id() as u64,
        })
    }

    /// How many changes there are.
    pub(super) fn entries(&self, txn: &AnyTxn<'_>) -> Result<u64, StoreError> {
        let entries = self.changes.table().len(txn);
        let entries = entries.map_err(|e| self.changes.error("a read", e))?;
        let counts = u64::from(self.changes.rows_changed(txn)?.is_some());
        Ok(entries - counts)
    }

    /// The row of a key; `hashed` lends the memory for a long one.
    pub(super) fn get<'t>(
        &'t self,
        txn: &'t AnyTxn<'_>,
        key: &[u8],
        hashed: &mut Vec<u8>,
    ) -> Result<Option<&'t [u8]>, StoreError> {
        let changed = { self.changes.table() }.get(txn, stored_key(key, hashed));
        match changed.map_err(|e| self.changes.error("a read", e))? {
            Some(value) => {
                let row = row_of(key, value).ok_or_else(|| self.changes.another_key())?;
                Ok((row != REMOVED).then_some(row))
            }
            None => match &self.base {
                Some(base) => base.get(key),
                None => Ok(None),
            },
        }
    }

    /// All rows into a new base, in order of their stored keys.
    pub(super) fn merge_into(&self, to: &mut BaseWriter) -> Result<(), StoreError> {
        let txn = self.changes.read()?;
        let mut changes = self.changes.after(&txn, None)?.peekable();
        let mut hashed = Vec::new();
        for record in self.base.iter().flat_map(BaseFile::records) {
            let (key, row) = record?;
            let stored = stored_key(key, &mut hashed);
            let mut is_changed = false;
            while let Some(next) = changes.next_if(|next| match next {
                Ok((changed, _)) => *changed <= stored,
                Err(_) => true,
            }) {
                let (changed, value) = next?;
                is_changed |= changed == stored;
                self.append_change(to, changed, value)?;
            }
            if !is_changed {
                to.append(key, row)?;
            }
        }
        changes.try_for_each(|next| {
            let (changed, value) = next?;
            self.append_change(to, changed, value)
        })
    }

    fn append_change(
        &self,
        to: &mut BaseWriter,
        stored_key: &[u8],
        value: &[u8],
    ) -> Result<(), StoreError> {
        match key_and_row(stored_key, value).ok_or_else(|| self.changes.another_key())? {
            (_, REMOVED) => Ok(()),
            (key, row) => to.append(key, row),
        }
    }
}

#[cfg(test)]
mod tests;
