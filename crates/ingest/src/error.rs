//! What a materialisation can fail with.

use granary_catalog::{CatalogError, storage_kind};
use granary_engine::EngineError;
use granary_model::ErrorKind;
use granary_store::StoreError;

use crate::materialize::Lag;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    #[error("{0}")]
    Refused(String),
    #[error("unknown feature view {name:?}{suggestion}")]
    UnknownView { name: String, suggestion: String },
    /// Other streams are open.
    #[error("stream {stream} is not open: {reason}")]
    NotOpen {
        stream: String,
        kind: ErrorKind,
        reason: String,
    },
    /// The stream is open, and so are others.
    #[error("stream {stream}: what live views need does not come back from its history: {reason}")]
    NotRestored {
        stream: String,
        kind: ErrorKind,
        reason: String,
    },
    #[error("unknown stream {name:?}{suggestion}")]
    UnknownStream { name: String, suggestion: String },
    #[error(
        "{view} is being materialised by {holder} (until {until}); wait for it, or pass --wait"
    )]
    Claimed {
        view: String,
        holder: String,
        until: granary_model::UtcMicros,
    },
    #[error("{view}: the claim was lost to {holder}")]
    ClaimLost { view: String, holder: String },
    #[error("{view} as of {as_of} reads {dependency}, which {lag}; run both: {how}")]
    DependencyLags {
        view: String,
        dependency: String,
        as_of: granary_model::UtcMicros,
        lag: Lag,
        /// The command that would do.
        how: String,
    },
    #[error("the materialisation stopped half-way: {0}; run it again")]
    Stopped(String),
    #[error(
        "consumer {consumer} of stream {stream}: {stored} was read last, but {found}: messages are gone; truncated = 'skip' goes on with what is there"
    )]
    LogTruncated {
        stream: String,
        consumer: String,
        stored: String,
        found: String,
    },
    #[error(
        "consumer {consumer} of stream {stream}: {position} is no event: {reason}; bad = 'skip' leaves it out"
    )]
    BadMessage {
        stream: String,
        consumer: String,
        position: String,
        reason: String,
    },
    /// A message log cannot be read now.
    #[error("message log: {0}")]
    Log(String),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("storage: {0}")]
    Storage(#[from] object_store::Error),
}

impl IngestError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_) => ErrorKind::InvalidArgument,
            Self::UnknownView { .. } | Self::UnknownStream { .. } => ErrorKind::NotFound,
            Self::NotOpen { kind, .. } | Self::NotRestored { kind, .. } => *kind,
            Self::Claimed { .. } | Self::ClaimLost { .. } => ErrorKind::Conflict,
            Self::DependencyLags { .. } => ErrorKind::FailedPrecondition,
            Self::LogTruncated { .. } => ErrorKind::FailedPrecondition,
            Self::BadMessage { .. } => ErrorKind::InvalidArgument,
            Self::Log(_) => ErrorKind::Unavailable,
            Self::Stopped(_) => ErrorKind::Internal,
            Self::Engine(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Catalog(e) => e.kind(),
            Self::Storage(e) => storage_kind(e),
        }
    }
}
