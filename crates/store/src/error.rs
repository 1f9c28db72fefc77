//! What a store can fail with.

use std::path::PathBuf;

use granary_model::ErrorKind;

use crate::online::Generation;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    #[error("another writer is at work on {view} version {version}")]
    Busy { view: String, version: u32 },
    #[error("{view} version {version} has no online data yet")]
    NotPublished { view: String, version: u32 },
    #[error("{view} version {version}: the stored row layout is not that of the definition")]
    LayoutChanged { view: String, version: u32 },
    #[error("key column {column:?} expects {expected}, got {given}")]
    KeyType {
        column: String,
        expected: String,
        given: String,
    },
    #[error("row {row}: a key is NULL")]
    NullKey { row: usize },
    #[error(
        "{path}: written by a newer version of Granary (format {found}, this one reads up to {supported})"
    )]
    NewerFormat {
        path: PathBuf,
        found: u32,
        supported: u32,
    },
    #[error("{path}: damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path}: no space left for {what}")]
    Full { path: PathBuf, what: String },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the events in {path} are owned by {owner}; send them there, or wait until it ends")]
    EventsOwned { path: PathBuf, owner: String },
    #[error("events are not taken any more, until the store is opened again: {0}")]
    EventsHalted(String),
    #[error(
        "stream {stream} holds events of other columns (stored: {stored}; now: {given}); \
         give the new stream another name"
    )]
    StreamColumns {
        stream: String,
        stored: String,
        given: String,
    },
    #[error("stream {stream}: {reason}")]
    StreamSpec { stream: String, reason: String },
    #[error("stream {stream} was opened anew or dropped; take the new handle")]
    StreamReopened { stream: String },
    #[error("stream {stream}: {what} has {bytes} bytes, {bytes_max} are the most")]
    EventTooLarge {
        stream: String,
        what: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
    #[error("stream {stream}, event {event}: {given} keys for {expected} indexes")]
    EventKeys {
        stream: String,
        event: usize,
        expected: usize,
        given: usize,
    },
    #[error("stream {stream} gave no sequence {sequence} yet; its last is {last}")]
    EventSequence {
        stream: String,
        sequence: u64,
        last: u64,
    },
    #[error("stream {stream}: consumer {consumer} is not where this batch begins")]
    OffsetMoved { stream: String, consumer: String },
    #[error("a stored row is damaged: {0}")]
    DamagedRow(String),
    #[error("row codec: {0}")]
    Codec(String),
    #[error("{0}")]
    Backend(String),
}

impl StoreError {
    pub(crate) fn busy(view: &str, version: u32) -> Self {
        Self::Busy {
            view: view.to_owned(),
            version,
        }
    }

    /// A generation was given to a store that did not make it.
    pub(crate) fn foreign(generation: &dyn Generation) -> Self {
        let id = generation.state().id;
        Self::Backend(format!(
            "{} version {}, generation {} is of another store",
            id.view, id.version, id.number
        ))
    }

    /// The same failure, told to another who waited for the same write.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Full { path, what } => Self::Full {
                path: path.clone(),
                what: what.clone(),
            },
            Self::Io { path, source } => Self::Io {
                path: path.clone(),
                source: match source.raw_os_error() {
                    Some(code) => std::io::Error::from_raw_os_error(code),
                    None => std::io::Error::new(source.kind(), source.to_string()),
                },
            },
            Self::EventsHalted(reason) => Self::EventsHalted(reason.clone()),
            other => Self::Backend(other.to_string()),
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Busy { .. } | Self::StreamReopened { .. } | Self::OffsetMoved { .. } => {
                ErrorKind::Conflict
            }
            Self::EventsOwned { .. } | Self::StreamColumns { .. } => ErrorKind::FailedPrecondition,
            Self::StreamSpec { .. }
            | Self::EventTooLarge { .. }
            | Self::EventKeys { .. }
            | Self::EventSequence { .. } => ErrorKind::InvalidArgument,
            Self::EventsHalted(_) => ErrorKind::Unavailable,
            Self::NotPublished { .. } => ErrorKind::FailedPrecondition,
            Self::LayoutChanged { .. } | Self::NewerFormat { .. } => ErrorKind::FailedPrecondition,
            Self::KeyType { .. } | Self::NullKey { .. } => ErrorKind::InvalidArgument,
            Self::Damaged { .. } | Self::DamagedRow(_) => ErrorKind::DataLoss,
            Self::Full { .. } => ErrorKind::ResourceExhausted,
            Self::Io { .. } | Self::Backend(_) => ErrorKind::Unavailable,
            Self::Codec(_) => ErrorKind::Internal,
        }
    }
}
