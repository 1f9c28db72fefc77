//! Writing a training set: Parquet, CSV, Arrow IPC or a Delta table.
//!
//! What is written bears another name until it is whole, or none: a local file
//! is renamed when it was synced, an object appears when its upload completes,
//! a Delta table when its log names the files. So whoever breaks a run off, by
//! an error, a signal or a power cut, leaves nothing that looks finished. This
//! module knows nothing of features; it takes rows of any schema.
//!
//! CSV has a header. Lists, structs and maps stand as JSON text, bytes as
//! base64, times in RFC 3339, NULL as nothing. Delta Lake has fewer types than
//! Arrow: see [`delta`].

mod delta;
mod dictionaries;
mod encode;
mod file;
mod parquet;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::Stream;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tracing::instrument;
use url::Url;

use super::location::url_of;
use crate::engine::Stores;
use crate::error::EngineError;

/// The form of a training set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    Parquet,
    Csv,
    /// An Arrow IPC file.
    Arrow,
    /// An Arrow IPC stream.
    ArrowStream,
    /// A folder.
    Delta,
}

impl OutputFormat {
    const NAMES: [(&'static str, Self); 5] = [
        ("parquet", Self::Parquet),
        ("csv", Self::Csv),
        ("arrow", Self::Arrow),
        ("arrows", Self::ArrowStream),
        ("delta", Self::Delta),
    ];

    /// What a name says: its extension, or the slash of a folder.
    fn of(location: &str) -> Option<Self> {
        if location.ends_with('/') {
            return Some(Self::Delta);
        }
        let (_, extension) = location.rsplit(['/', '\\']).next()?.rsplit_once('.')?;
        match extension.to_lowercase().as_str() {
            "pq" => Some(Self::Parquet),
            "feather" | "ipc" => Some(Self::Arrow),
            name => name.parse().ok(),
        }
    }
}

/// `parquet`, `csv`, `arrow` (a file), `arrows` (a stream), `delta`.
impl FromStr for OutputFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::NAMES.iter().find(|(name, _)| *name == text);
        named.map(|(_, format)| *format).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            format!("{text:?} is no format; there are {}", names.join(", "))
        })
    }
}

impl fmt::Display for OutputFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMES.iter().find(|(_, format)| format == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

/// Where a training set goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputTarget {
    /// As it was named.
    location: String,
    url: Url,
    format: OutputFormat,
    overwrite: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub rows: u64,
    /// Of the file, of a Delta table those of its files.
    pub bytes: u64,
    /// Encoding and storing, as far as the rows had to wait for it.
    pub write_time: Duration,
}

impl OutputTarget {
    /// `location`: a path, relative to the current folder, or a URL. Without a
    /// `format` the name tells it: `.parquet`, `.csv`, `.arrow`, `.arrows`, or
    /// the slash at the end of a folder for a Delta table.
    pub fn new(
        location: &str,
        format: Option<OutputFormat>,
        overwrite: bool,
    ) -> Result<Self, EngineError> {
        let refused = |reason: &str| EngineError::Refused(format!("{location}: {reason}"));
        let format = format.or_else(|| OutputFormat::of(location)).ok_or_else(|| {
            refused(
                "the name tells no format: end it with .parquet, .csv, .arrow or .arrows, or with / \
                 for a Delta table, or say --format",
            )
        })?;
        let url = url_of(location).map_err(|reason| refused(&reason))?;
        Ok(Self {
            location: location.to_owned(),
            url,
            format,
            overwrite,
        })
    }

    pub fn format(&self) -> OutputFormat {
        self.format
    }

    fn refused(&self, reason: impl fmt::Display) -> EngineError {
        EngineError::Refused(format!("{}: {reason}", self.location))
    }

    /// Refuses what [`write`] would refuse for what is there already: worth
    /// asking before rows are computed.
    pub async fn check(&self, stores: &Stores) -> Result<(), EngineError> {
        if self.format == OutputFormat::Delta {
            return delta::check(stores, self).await;
        }
        let (store, path) = stores.resolve(&self.url)?;
        match store.head(&path).await {
            Ok(_) if self.overwrite => Ok(()),
            Ok(_) => Err(self.exists()),
            Err(object_store::Error::NotFound { .. }) => {
                match self.is_folder(stores, &path).await {
                    true => Err(self.refused("it is a folder; --format delta makes a Delta table")),
                    false => Ok(()),
                }
            }
            Err(_) if self.is_folder(stores, &path).await => {
                Err(self.refused("it is a folder; --format delta makes a Delta table"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn exists(&self) -> EngineError {
        self.refused("it exists already; --overwrite replaces it")
    }

    async fn is_folder(&self, stores: &Stores, path: &Path) -> bool {
        if let Ok(local) = self.url.to_file_path() {
            return local.is_dir();
        }
        let Ok(store) = stores.store(&self.url) else {
            return false;
        };
        let listed = store.list_with_delimiter(Some(path)).await;
        listed.is_ok_and(|l| !(l.objects.is_empty() && l.common_prefixes.is_empty()))
    }
}

/// Writes rows of a schema, whole or not at all. `progress` is told the rows
/// written so far after every batch. An error of the rows ends the writing and
/// leaves nothing behind; it comes back as it was.
#[instrument(skip_all, fields(location = target.location), err)]
pub async fn write<E: From<EngineError> + fmt::Display>(
    stores: &Stores,
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, E>> + Send,
    target: &OutputTarget,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Written, E> {
    target.check(stores).await?;
    match target.format {
        OutputFormat::Delta => delta::write(stores, schema, rows, target, progress).await,
        _ => file::write(stores, schema, rows, target, progress).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        use OutputFormat::{Arrow, ArrowStream, Csv, Delta, Parquet};
        for (location, expected) in [
            ("a.parquet", Some(Parquet)),
            ("/x.y/a.CSV", Some(Csv)),
            ("s3://b/a.arrow", Some(Arrow)),
            ("a.feather", Some(Arrow)),
            ("a.arrows", Some(ArrowStream)),
            ("table/", Some(Delta)),
            ("table.delta", Some(Delta)),
            ("x.csv/a", None),
            ("a.csv.gz", None),
            ("a", None),
        ] {
            assert_eq!(OutputFormat::of(location), expected, "{location}");
        }
        for (name, format) in OutputFormat::NAMES {
            assert_eq!(format.to_string(), name);
            assert_eq!(name.parse(), Ok(format));
        }
    }
}
