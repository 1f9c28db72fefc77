//! The manifest: which generation of a version is published, and what it holds.
//!
//! A small JSON file, replaced as a whole by rename. Its `format` is read first;
//! a greater one than [`MANIFEST_FORMAT`] is `StoreError::NewerFormat`. A new
//! format gets the next number and a branch in [`Manifest::read`]; fields that
//! older versions may ignore need no new number.
//!
//! A version that was dropped keeps its manifest with `published` empty, so
//! that generation numbers are never used twice: caches and readers know a
//! generation by its number.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use granary_model::UtcMicros;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::folder::{VersionFolder, io_error, write_atomically};
use crate::codec::RowLayout;
use crate::error::StoreError;
use crate::online::Coverage;

/// 2: rows are in a base and in changes. A version without a base was written
/// in format 1, and is read as changes of nothing.
pub(super) const MANIFEST_FORMAT: u32 = 2;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    pub(super) view: String,
    pub(super) version: u32,
    /// The greatest generation number given so far.
    pub(super) last_number: u64,
    pub(super) published: Option<Published>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Published {
    /// Generation `n` is in `g<n>.rows` and `g<n>.mdb`.
    pub(super) number: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<PublishedBase>,
    pub(super) coverage: Coverage,
    /// T of an upsert that began after this coverage was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) upserting_to: Option<UtcMicros>,
    pub(super) layout: RowLayout,
    /// What answers keys that the file does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) default_row: Option<StoredDefault>,
    /// When the manifest was written; the file itself knows of later writes.
    pub(super) rows: u64,
    pub(super) write_counter: u64,
    /// Bytes of the changes when the manifest was written. The file never gets
    /// smaller, so one that is smaller was cut short.
    pub(super) file_bytes: u64,
}

/// The file of the rows that a generation was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PublishedBase {
    pub(super) bytes: u64,
    /// The changes' write counter when there were none.
    pub(super) unchanged_at: u64,
}

/// A row in the codec's form; base64 in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredDefault(pub(super) Arc<[u8]>);

impl Serialize for StoredDefault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for StoredDefault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let row = STANDARD.decode(text).map_err(de::Error::custom)?;
        Ok(Self(row.into()))
    }
}

impl Published {
    /// See [`Generation::reaches`](crate::Generation::reaches).
    pub(super) fn reaches(&self) -> UtcMicros {
        self.coverage
            .as_of
            .max(self.upserting_to.unwrap_or(UtcMicros::MIN))
    }
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

impl Manifest {
    pub(super) fn new(
        folder: &VersionFolder,
        last_number: u64,
        published: Option<Published>,
    ) -> Self {
        Self {
            format: MANIFEST_FORMAT,
            view: folder.view.clone(),
            version: folder.version,
            last_number,
            published,
        }
    }

    /// `None` where the version was never published.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, StoreError> {
        read_manifest(path, MANIFEST_FORMAT)
    }

    pub(super) fn write(&self, folder: &VersionFolder) -> Result<(), StoreError> {
        // Names of generation files must not come after the name that points to them.
        write_manifest(self, &folder.manifest_path(), || folder.sync())
    }
}

/// A manifest of a format up to the one that is supported; `None` where there
/// is none.
pub(super) fn read_manifest<M: DeserializeOwned>(
    path: &Path,
    supported: u32,
) -> Result<Option<M>, StoreError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error(path, "a manifest", e)),
    };
    let damaged = |error: serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        reason: format!("not a manifest: {error}"),
    };
    let FormatOnly { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
    if format > supported {
        return Err(StoreError::NewerFormat {
            path: path.to_owned(),
            found: format,
            supported,
        });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// See [`write_atomically`].
pub(super) fn write_manifest<M: Serialize>(
    manifest: &M,
    path: &Path,
    sync: impl FnOnce() -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec_pretty(manifest)
        .map_err(|e| StoreError::Codec(format!("manifest: {e}")))?;
    write_atomically(path, &bytes, "a manifest", sync)
}
