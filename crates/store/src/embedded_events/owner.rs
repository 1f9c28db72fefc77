//! Who owns the events of a folder.
//!
//! The owner holds a lock (flock) on the file `owner`, which the kernel frees
//! when the process ends, however it ends. The text in the file, the process id
//! and where the owner can be reached, is for those who find it locked.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::embedded::folder::io_error;
use crate::error::StoreError;

/// The process that owns a folder's events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsOwner {
    pub pid: u32,
    /// Where it takes requests, once it said so.
    pub endpoint: Option<String>,
}

impl fmt::Display for EventsOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.pid)?;
        match &self.endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

/// Held by the owner.
#[derive(Debug)]
pub(super) struct OwnerLock {
    file: File,
    path: PathBuf,
}

/// Who looks for the owner holds the lock for a moment, and so does a process
/// that is just ending.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

impl OwnerLock {
    /// `StoreError::EventsOwned` where another holds it.
    pub(super) fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("owner");
        let file = open(&path)?;
        for tried in 1.. {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if tried < TRIES => {
                    std::thread::sleep(BETWEEN_TRIES);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(StoreError::EventsOwned {
                        owner: read(&path).map_or_else(
                            || "another process".to_owned(),
                            |owner| owner.to_string(),
                        ),
                        path: folder.to_owned(),
                    });
                }
                Err(TryLockError::Error(e)) => return Err(io_error(&path, "the owner's lock", e)),
            }
        }
        let lock = Self { file, path };
        lock.write(None)?;
        Ok(lock)
    }

    /// Says where the owner can be reached.
    pub(super) fn write(&self, endpoint: Option<&str>) -> Result<(), StoreError> {
        let owner = EventsOwner {
            pid: std::process::id(),
            endpoint: endpoint.map(str::to_owned),
        };
        let text = serde_json::to_vec(&owner).map_err(|e| StoreError::Codec(e.to_string()))?;
        let mut file = &self.file;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&text))
            .map_err(|e| io_error(&self.path, "the owner's name", e))
    }
}

impl Drop for OwnerLock {
    fn drop(&mut self) {
        // A process that was forked at this moment holds the file too; should
        // this fail, the lock ends with that.
        let _ = self.file.unlock();
    }
}

/// Who owns the events in a folder now; `None` where nobody does.
pub(super) fn owner(folder: &Path) -> Result<Option<EventsOwner>, StoreError> {
    let path = folder.join("owner");
    if !path.exists() {
        return Ok(None);
    }
    let file = open(&path)?;
    match file.try_lock_shared() {
        Ok(()) => {
            let _ = file.unlock();
            Ok(None)
        }
        Err(TryLockError::WouldBlock) => Ok(read(&path)),
        Err(TryLockError::Error(e)) => Err(io_error(&path, "the owner's lock", e)),
    }
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| io_error(path, "the owner's lock", e))
}

fn read(path: &Path) -> Option<EventsOwner> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
