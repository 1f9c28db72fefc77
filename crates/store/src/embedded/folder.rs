//! The names of files and folders, the writer's lock, and durable small files.
//!
//! ```text
//! <folder>/changes                        its length counts publications and drops
//! <folder>/<view>/v<version>/manifest.json
//!                            lock         held (flock) by the one writer
//!                            g<number>.rows          what it was made with
//!                            g<number>.mdb, -lock    what changed since
//! <folder>/.bundles/manifest.json
//!                   lock                  held (flock) by who bundles
//!                   b<number>.rows        rows of several views side by side
//! ```
//!
//! No view's folder has a dot in its name.
//!
//! This module knows nothing of what the files hold.

use std::collections::BTreeMap;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::error::StoreError;

/// The folder of one store.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
}

/// The folder of one version of a view.
#[derive(Debug, Clone)]
pub(super) struct VersionFolder {
    pub(super) view: String,
    pub(super) version: u32,
    path: PathBuf,
}

/// The folder of the bundles.
#[derive(Debug, Clone)]
pub(super) struct BundleFolder {
    path: PathBuf,
}

/// What a glance at the folder sees. Two that are equal saw the same manifests.
///
/// The count of changes tells publications apart that are too close for the
/// file system's clock; the stamps tell of those whose writer was killed before
/// it counted them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Glance {
    changes: u64,
    /// By version folder.
    manifests: BTreeMap<PathBuf, Stamp>,
}

impl Glance {
    pub(super) fn manifests(&self) -> impl Iterator<Item = PathBuf> {
        self.manifests.keys().map(|folder| folder.join(MANIFEST))
    }
}

/// Tells a small file that was replaced from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            bytes: metadata.len(),
            inode: inode(metadata),
        }
    }
}

/// Held by the one writer of a version, or of bundles, in all processes; freed
/// when dropped and when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct WriterLock {
    file: File,
}

impl WriterLock {
    /// `None` while another has it.
    fn take(path: &Path) -> Result<Option<Self>, StoreError> {
        let failed = |e| io_error(path, "the writer's lock", e);
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that was forked at this moment holds
        // the file too, until it becomes another program. Should this fail, the
        // lock ends with that.
        let _ = self.file.unlock();
    }
}

impl Folder {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(root).map_err(|e| io_error(root, "the online store", e))?;
        // One file has one path: LMDB must not map a file twice in a process.
        let root = root
            .canonicalize()
            .map_err(|e| io_error(root, "the online store", e))?;
        Ok(Self { root })
    }

    pub(super) fn version(&self, view: &str, version: u32) -> VersionFolder {
        VersionFolder {
            view: view.to_owned(),
            version,
            path: self
                .root
                .join(folder_name(view))
                .join(format!("v{version}")),
        }
    }

    pub(super) fn bundles(&self) -> BundleFolder {
        BundleFolder {
            path: self.root.join(BUNDLES),
        }
    }

    fn changes_path(&self) -> PathBuf {
        self.root.join("changes")
    }

    /// Cheap: a few system calls a version, no file is read.
    pub(super) fn glance(&self) -> Result<Glance, StoreError> {
        // The count first: what is published after it makes the next glance differ.
        let changes = metadata(&self.changes_path())?.map_or(0, |file| file.len());
        let mut manifests = BTreeMap::new();
        for view in entries(&self.root)? {
            if view.ends_with(BUNDLES) {
                continue;
            }
            // Files beside the views' folders have no entries.
            for version in entries(&view)? {
                if let Some(manifest) = metadata(&version.join(MANIFEST))? {
                    manifests.insert(version, Stamp::of(&manifest));
                }
            }
        }
        Ok(Glance { changes, manifests })
    }

    /// Tells the other processes. Appending a byte needs no lock and no read;
    /// it needs no durability either, as a process that starts reads everything.
    pub(super) fn count_change(&self) -> Result<(), StoreError> {
        let path = self.changes_path();
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(b"."))
            .map_err(|e| io_error(&path, "the count of changes", e))
    }
}

impl VersionFolder {
    pub(super) fn manifest_path(&self) -> PathBuf {
        self.path.join(MANIFEST)
    }

    pub(super) fn base_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("g{number}{BASE_SUFFIX}"))
    }

    pub(super) fn changes_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("g{number}{CHANGES_SUFFIX}"))
    }

    pub(super) fn create(&self) -> Result<(), StoreError> {
        std::fs::create_dir_all(&self.path).map_err(|e| io_error(&self.path, "a folder", e))
    }

    /// `StoreError::Busy` while another writer holds it.
    pub(super) fn lock(&self) -> Result<WriterLock, StoreError> {
        let lock = WriterLock::take(&self.path.join(LOCK))?;
        lock.ok_or_else(|| StoreError::busy(&self.view, self.version))
    }

    /// Removes the files of every generation but `keep`: those that were
    /// replaced, and those that a writer left behind when it was killed. Only
    /// under the writer's lock.
    ///
    /// A file that is mapped stays readable for those who mapped it; its space
    /// is free when the last of them is done.
    pub(super) fn remove_generations_but(&self, keep: Option<u64>) -> Result<(), StoreError> {
        // The data first: who finds no data does not look for its lock.
        for suffix in [BASE_SUFFIX, CHANGES_SUFFIX, LMDB_LOCK_SUFFIX] {
            for path in entries(&self.path)? {
                let name = path.file_name().and_then(|name| name.to_str());
                if let Some(number) = name.and_then(|name| generation_number(name, suffix))
                    && Some(number) != keep
                {
                    remove(&path)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn remove_generation(&self, number: u64) -> Result<(), StoreError> {
        remove(&self.base_path(number))?;
        self.remove_changes(number)
    }

    pub(super) fn remove_changes(&self, number: u64) -> Result<(), StoreError> {
        let path = self.changes_path(number);
        remove(&path)?;
        remove(&lmdb_lock_path(&path))
    }

    /// Makes the names of new files in the folder durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync_folder(&self.path)?;
        // The folder's own name, and that of the view.
        for parent in self.path.ancestors().skip(1).take(2) {
            sync_folder(parent)?;
        }
        Ok(())
    }
}

impl BundleFolder {
    pub(super) fn manifest_path(&self) -> PathBuf {
        self.path.join(MANIFEST)
    }

    pub(super) fn file_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("b{number}{BASE_SUFFIX}"))
    }

    /// `None` where nothing was ever bundled.
    pub(super) fn stamp(&self) -> Result<Option<Stamp>, StoreError> {
        let manifest = metadata(&self.manifest_path())?;
        Ok(manifest.as_ref().map(Stamp::of))
    }

    pub(super) fn exists(&self) -> bool {
        self.path.is_dir()
    }

    pub(super) fn create(&self) -> Result<(), StoreError> {
        std::fs::create_dir_all(&self.path).map_err(|e| io_error(&self.path, "a folder", e))
    }

    /// `None` while another bundles.
    pub(super) fn lock(&self) -> Result<Option<WriterLock>, StoreError> {
        WriterLock::take(&self.path.join(LOCK))
    }

    /// Removes every file but these, the manifest and the lock. Only under the
    /// lock.
    pub(super) fn remove_files_but(&self, numbers: &[u64]) -> Result<(), StoreError> {
        let kept: Vec<PathBuf> = { numbers.iter() }
            .map(|number| self.file_path(*number))
            .chain([self.manifest_path(), self.path.join(LOCK)])
            .collect();
        let mut others = entries(&self.path)?;
        others.retain(|path| !kept.contains(path));
        others.iter().try_for_each(|path| remove(path))
    }

    /// Makes the names of new files in the folder durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        sync_folder(&self.path)?;
        self.path.parent().map_or(Ok(()), sync_folder)
    }
}

const MANIFEST: &str = "manifest.json";
const LOCK: &str = "lock";
const BUNDLES: &str = ".bundles";

/// `None` where there is no such file.
fn metadata(path: &Path) -> Result<Option<Metadata>, StoreError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(io_error(path, "a file", e)),
    }
}

#[cfg(unix)]
fn inode(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode(_metadata: &Metadata) -> u64 {
    0
}

fn lmdb_lock_path(data: &Path) -> PathBuf {
    data.with_extension("mdb-lock")
}

const BASE_SUFFIX: &str = ".rows";
const CHANGES_SUFFIX: &str = ".mdb";
const LMDB_LOCK_SUFFIX: &str = ".mdb-lock";

fn generation_number(file_name: &str, suffix: &str) -> Option<u64> {
    let number = file_name.strip_prefix('g')?.strip_suffix(suffix)?;
    number.parse().ok()
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let listed = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match listed {
        Ok(paths) => Ok(paths),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(io_error(folder, "a folder", e)),
    }
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io_error(path, "a file", e)),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| io_error(path, "a folder", e))
}

/// Replaces a small file as a whole: readers see the old or the new one, and
/// the new one is durable when this returns. `sync` makes the names of what it
/// speaks of durable before its own.
pub(super) fn write_atomically(
    path: &Path,
    bytes: &[u8],
    what: &str,
    sync: impl FnOnce() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let next = path.with_extension("next");
    let written = File::create(&next).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|e| io_error(&next, what, e))?;
    sync()?;
    std::fs::rename(&next, path).map_err(|e| io_error(path, what, e))?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A view's name as a folder's: what is not a plain lower-case name is escaped,
/// so that no name leaves the store's folder and none meets another on a file
/// system that ignores case.
fn folder_name(view: &str) -> String {
    let mut name = String::with_capacity(view.len());
    for byte in view.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => name.push(char::from(byte)),
            other => name.push_str(&format!("%{other:02X}")),
        }
    }
    if name.len() > FOLDER_NAME_BYTES_MAX {
        let hash = Sha256::digest(view.as_bytes());
        name.truncate(FOLDER_NAME_BYTES_MAX / 2);
        name.push('~');
        name.extend(hash.iter().map(|byte| format!("{byte:02x}")));
    }
    name
}

/// File systems hold names of up to 255 bytes.
const FOLDER_NAME_BYTES_MAX: usize = 200;

/// Whether a file beside this one finds no room. For LMDB, which calls a write
/// that was cut short by a full disk an input/output error.
pub(super) fn is_full_beside(path: &Path) -> bool {
    let probe = path.with_extension("probe");
    let written = File::create(&probe).and_then(|mut file| {
        for _ in 0..PROBE_CHUNKS {
            file.write_all(&[0xA5; 1 << 16])?;
        }
        Ok(())
    });
    // What could not be made need not be removed.
    let _ = std::fs::remove_file(&probe);
    written.is_err_and(|e| matches!(io_error(&probe, "a probe", e), StoreError::Full { .. }))
}

/// 4 MiB: about what one write of LMDB asks for at most.
const PROBE_CHUNKS: usize = 64;

/// A file error, a full disk told apart.
pub(crate) fn io_error(path: &Path, what: &str, source: std::io::Error) -> StoreError {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            StoreError::Full {
                path: path.to_owned(),
                what: what.to_owned(),
            }
        }
        _ => StoreError::Io {
            path: path.to_owned(),
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside_the_folder_and_apart() {
        let long_a = "x".repeat(300) + "a";
        let long_b = "x".repeat(300) + "b";
        let names = [
            "customer_spend",
            "..",
            "a/b",
            "A",
            "a",
            "ä",
            &long_a,
            &long_b,
        ];
        let folders: std::collections::BTreeSet<String> = names
            .iter()
            .map(|name| folder_name(name).to_lowercase())
            .collect();
        assert_eq!(folders.len(), names.len(), "{folders:?}");
        for folder in &folders {
            assert!(folder.len() <= 255);
            assert!(!folder.contains(['/', '.']), "{folder}");
        }
        assert_eq!(folder_name("customer_spend"), "customer_spend");
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        for (code, full) in [(libc_enospc(), true), (13, false)] {
            let error = io_error(
                Path::new("x"),
                "rows",
                std::io::Error::from_raw_os_error(code),
            );
            assert_eq!(matches!(error, StoreError::Full { .. }), full, "{error}");
        }
    }

    /// ENOSPC has this number on Linux, macOS and the BSDs.
    fn libc_enospc() -> i32 {
        28
    }
}
