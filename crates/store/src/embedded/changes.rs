//! What changed in a generation since it was made: one LMDB file over its base.
//!
//! Key: the encoded key, or for a key of more than [`PLAIN_KEY_BYTES_MAX`] bytes
//! its first 469 bytes and the SHA-256 of the whole (501 bytes, so that it never
//! equals a plain key): the *stored key*. Value: the row, or nothing in the place
//! of a row of the base that was removed; under a hashed key a row comes behind
//! the length of the key (4 bytes, little endian) and the key itself, which is
//! compared on read. Keys that share their first 469 bytes are not in key order;
//! nothing relies on that. Under [`ROWS_KEY`] stands by how many rows the
//! generation differs from its base.
//!
//! Why not a writable map: it is faster, but a full disk is then a signal that
//! kills the process instead of an error.
//!
//! This module knows nothing of manifests or of who may write.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, RwTxn, WithoutTls};
use sha2::{Digest, Sha256};

use super::EmbeddedSettings;
use super::folder::{io_error, is_full_beside};
use crate::error::StoreError;

/// LMDB's own bound is 511.
pub(super) const PLAIN_KEY_BYTES_MAX: usize = 500;
const HASHED_PREFIX_BYTES: usize = 469;
/// Of LMDB's lock file: a cache line a reader, and what comes before them, at most.
const LOCK_SLOT_BYTES: usize = 64;
const LOCK_HEADER_BYTES: usize = 4096;
const HASHED_KEY_BYTES: usize = HASHED_PREFIX_BYTES + 32;

/// An open file; closed when the last of its readers lets go of it.
#[derive(Debug)]
pub(super) struct ChangesFile {
    path: PathBuf,
    env: Env<WithoutTls>,
    rows: Database<Bytes, Bytes>,
}

/// A snapshot to read.
pub(super) type AnyTxn<'f> = RoTxn<'f, WithoutTls>;

/// A stored key and its value.
type Entry<'t> = Result<(&'t [u8], &'t [u8]), StoreError>;

/// No entity's key is so short.
const ROWS_KEY: &[u8] = &[0];

/// Stands where a row of the base was removed; no row is so short.
pub(super) const REMOVED: &[u8] = &[];

/// The files that this process has open. LMDB allows one mapping of a file in a
/// process (its locks are the process's), so two stores on one folder share it.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<ChangesFile>>>> = LazyLock::new(Mutex::default);

impl ChangesFile {
    /// The file at a canonical path: made when it is not there.
    pub(super) fn open(path: &Path, settings: &EmbeddedSettings) -> Result<Arc<Self>, StoreError> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(path).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(Self::map(path, settings)?);
        open.retain(|_, file| file.strong_count() > 0);
        open.insert(path.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    fn map(path: &Path, settings: &EmbeddedSettings) -> Result<Self, StoreError> {
        let failed = |error| lmdb_error(path, "the file's map", error);
        allocate_lock_file(path, settings)?;
        let mut options = EnvOpenOptions::new().read_txn_without_tls();
        options
            .map_size(settings.map_bytes())
            .max_readers(settings.readers_max);
        let mut flags = EnvFlags::NO_SUB_DIR;
        if !settings.read_ahead {
            flags |= EnvFlags::NO_READ_AHEAD;
        }
        let mut tries = 0;
        let env = loop {
            #[allow(unsafe_code, reason = "LMDB maps the file")]
            // SAFETY: the flags keep LMDB's locks and a read-only map; the file
            // is written through LMDB alone, is never made smaller, and `OPEN`
            // keeps it from being mapped twice in this process.
            let opened = unsafe {
                options.flags(flags);
                options.open(path)
            };
            match opened {
                // The last holder is closing it at this moment.
                Err(heed::Error::EnvAlreadyOpened) if tries < 1_000 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(heed::Error::Io(source)) if source.raw_os_error() == Some(ENOMEM) => {
                    return Err(no_address_space(path, settings));
                }
                opened => break opened.map_err(failed)?,
            }
        };
        // Slots of processes that were killed while reading.
        env.clear_stale_readers().map_err(failed)?;
        let txn = env.read_txn().map_err(failed)?;
        let rows = env
            .open_database(&txn, None)
            .map_err(failed)?
            .ok_or_else(|| StoreError::Damaged {
                path: path.to_owned(),
                reason: "it has no rows table".to_owned(),
            })?;
        txn.commit().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            env,
            rows,
        })
    }

    pub(super) fn error(&self, what: &str, error: heed::Error) -> StoreError {
        lmdb_error(&self.path, what, error)
    }

    /// LMDB's transaction number: raised by every commit that changed
    /// something, in whatever process, and seen together with the rows.
    pub(super) fn write_counter(&self) -> u64 {
        self.env.info().last_txn_id as u64
    }

    /// Length of the file, in bytes.
    pub(super) fn file_bytes(&self) -> Result<u64, StoreError> {
        self.env
            .real_disk_size()
            .map_err(|e| self.error("its length", e))
    }

    /// What is wrong where a value is not of the key that it stands under.
    pub(super) fn another_key(&self) -> StoreError {
        StoreError::Damaged {
            path: self.path.clone(),
            reason: "the row of a long key is that of another key".to_owned(),
        }
    }

    /// A snapshot. Short: pages that it sees are not used again before it ends.
    pub(super) fn read(&self) -> Result<AnyTxn<'_>, StoreError> {
        self.env.read_txn().map_err(|e| self.error("a read", e))
    }

    pub(super) fn write(&self) -> Result<RwTxn<'_>, StoreError> {
        self.env.write_txn().map_err(|e| self.error("a write", e))
    }

    pub(super) fn table(&self) -> Database<Bytes, Bytes> {
        self.rows
    }

    /// By how many rows the generation differs from its base; `None` before
    /// any were counted.
    pub(super) fn rows_changed(&self, txn: &AnyTxn<'_>) -> Result<Option<i64>, StoreError> {
        let counted = self.rows.get(txn, ROWS_KEY);
        let counted = counted.map_err(|e| self.error("a read", e))?;
        let number = counted.and_then(|bytes| bytes.first_chunk());
        Ok(number.map(|bytes| i64::from_le_bytes(*bytes)))
    }

    pub(super) fn count_rows(&self, txn: &mut RwTxn<'_>, more: i64) -> Result<(), StoreError> {
        let rows = self.rows_changed(txn)?.unwrap_or_default() + more;
        self.rows
            .put(txn, ROWS_KEY, &rows.to_le_bytes())
            .map_err(|e| self.error("the rows", e))
    }

    /// Stored keys and values after one, in order.
    pub(super) fn after<'t>(
        &self,
        txn: &'t AnyTxn<'_>,
        stored_key: Option<&[u8]>,
    ) -> Result<impl Iterator<Item = Entry<'t>> + use<'t, '_>, StoreError> {
        let from = Bound::Excluded(stored_key.unwrap_or(ROWS_KEY));
        let entries = self.rows.range(txn, &(from, Bound::Unbounded));
        let entries = entries.map_err(|e| self.error("a read", e))?;
        Ok(entries.map(|entry| entry.map_err(|e| self.error("a read", e))))
    }

    /// Frees the slots of readers that were killed, so that the space which
    /// they held is used again.
    pub(super) fn forget_killed_readers(&self) -> Result<(), StoreError> {
        self.env
            .clear_stale_readers()
            .map(drop)
            .map_err(|e| self.error("its readers", e))
    }

    /// Commits wait for the disk no more: for a file that only this process
    /// needs.
    pub(super) fn never_sync(&self) -> Result<(), StoreError> {
        #[allow(unsafe_code, reason = "LMDB wants one caller at a time")]
        // SAFETY: called by the one writer of the file only, under its lock.
        let set = unsafe {
            self.env
                .set_flags(EnvFlags::NO_SYNC, heed::FlagSetMode::Enable)
        };
        set.map_err(|e| self.error("its flags", e))
    }
}

/// A key as the file holds it; `hashed` lends the memory for a long one.
pub(super) fn stored_key<'k>(key: &'k [u8], hashed: &'k mut Vec<u8>) -> &'k [u8] {
    if key.len() <= PLAIN_KEY_BYTES_MAX {
        return key;
    }
    hashed.clear();
    hashed.extend_from_slice(&key[..HASHED_PREFIX_BYTES]);
    hashed.extend_from_slice(&Sha256::digest(key));
    hashed
}

/// A value as the file holds it; `long` lends the memory where the key is long.
pub(super) fn stored_value<'v>(key: &[u8], row: &'v [u8], long: &'v mut Vec<u8>) -> &'v [u8] {
    if key.len() <= PLAIN_KEY_BYTES_MAX {
        return row;
    }
    long.clear();
    long.extend_from_slice(&(key.len() as u32).to_le_bytes());
    long.extend_from_slice(key);
    long.extend_from_slice(row);
    long
}

/// The row of `key` in the value found under its stored key; `None` when the
/// value belongs to another key of the same hash.
pub(super) fn row_of<'v>(key: &[u8], value: &'v [u8]) -> Option<&'v [u8]> {
    if key.len() <= PLAIN_KEY_BYTES_MAX || value == REMOVED {
        return Some(value);
    }
    let (found, row) = split_long(value)?;
    (found == key).then_some(row)
}

/// The key and the row of an entry; `None` where it is not whole. A row that
/// was removed is [`REMOVED`], and its key may be a hashed one.
pub(super) fn key_and_row<'v>(
    stored_key: &'v [u8],
    value: &'v [u8],
) -> Option<(&'v [u8], &'v [u8])> {
    if stored_key.len() < HASHED_KEY_BYTES || value == REMOVED {
        return Some((stored_key, value));
    }
    split_long(value)
}

fn split_long(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = value.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

/// Makes LMDB's lock file with all of its bytes on the disk. LMDB would make
/// one with a hole and write it through a map, and on a full disk that is a
/// signal that kills the process. Whoever makes the file first wins.
fn allocate_lock_file(path: &Path, settings: &EmbeddedSettings) -> Result<(), StoreError> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let lock = beside("-lock");
    if lock.exists() {
        return Ok(());
    }
    let made = beside(&format!("-lock-{}", std::process::id()));
    let bytes = settings.readers_max as usize * LOCK_SLOT_BYTES + LOCK_HEADER_BYTES;
    let done = std::fs::write(&made, vec![0; bytes]).and_then(|()| {
        match std::fs::hard_link(&made, &lock) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    });
    let _ = std::fs::remove_file(&made);
    done.map_err(|e| io_error(&lock, "the lock file", e))
}

fn no_address_space(path: &Path, settings: &EmbeddedSettings) -> StoreError {
    StoreError::Full {
        path: path.to_owned(),
        what: format!(
            "another {} bytes of this process's address space; every open generation takes \
             map_bytes_max of it: set a lower one for the embedded store",
            settings.map_bytes()
        ),
    }
}

/// Numbers that are the same on every Unix: an input/output error, and no
/// memory, which of a map means no addresses.
const EIO: i32 = 5;
const ENOMEM: i32 = 12;

fn lmdb_error(path: &Path, what: &str, error: heed::Error) -> StoreError {
    match error {
        heed::Error::Io(source) if source.raw_os_error() == Some(EIO) && is_full_beside(path) => {
            StoreError::Full {
                path: path.to_owned(),
                what: what.to_owned(),
            }
        }
        heed::Error::Io(source) => io_error(path, what, source),
        heed::Error::Mdb(MdbError::MapFull) => StoreError::Full {
            path: path.to_owned(),
            what: format!("{what} (map_bytes_max of the embedded store is reached)"),
        },
        heed::Error::Mdb(
            code @ (MdbError::Invalid
            | MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::VersionMismatch
            | MdbError::Incompatible),
        ) => StoreError::Damaged {
            path: path.to_owned(),
            reason: code.to_string(),
        },
        heed::Error::Mdb(MdbError::ReadersFull) => StoreError::Backend(format!(
            "{}: more reads at once than readers_max of the embedded store",
            path.display()
        )),
        other => StoreError::Backend(format!("{}: {what}: {other}", path.display())),
    }
}
