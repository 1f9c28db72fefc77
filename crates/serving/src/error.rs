//! What a read can fail with.

use std::sync::Arc;

use granary_catalog::CatalogError;
use granary_engine::EngineError;
use granary_model::ErrorKind;
use granary_store::StoreError;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    #[error("the catalog is empty: apply definitions first")]
    NoCatalog,
    #[error("unknown {what} {name:?}{suggestion}")]
    Unknown {
        what: &'static str,
        name: String,
        suggestion: String,
    },
    #[error("{0}")]
    Invalid(String),
    #[error("never materialised: {}; run `granary materialize {}`", .views.join(", "), .views.join(" "))]
    NeverMaterialized { views: Vec<String> },
    #[error(
        "{view}: the events of {stream} cannot be read here yet: they are being filed for the view, or the stream could not be opened, which `granary status` tells"
    )]
    NoEvents { view: String, stream: String },
    #[error("a read of {view} needs more than {bound} events (live_events_max)")]
    TooManyEvents { view: String, bound: usize },
    #[error("a read of {view} needs tiles of more than {bound} bytes (tiles.bytes_max)")]
    TilesTooLarge { view: String, bound: usize },
    #[error("{what} {given} is over the bound of {bound}")]
    OverBound {
        what: &'static str,
        given: usize,
        bound: usize,
    },
    #[error("{caller} may not read {object}: none of its roles is granted READ")]
    Denied { caller: String, object: String },
    #[error("{0}")]
    OutOfRange(String),
    /// The same failure told to several readers.
    #[error(transparent)]
    Shared(Arc<ServingError>),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl ServingError {
    /// Whether the same read may succeed once there is news.
    pub(crate) fn is_of_a_moment(&self) -> bool {
        self.is_reopening() || self.is_absence()
    }

    /// Whether a stream was opened anew beside the read.
    pub(crate) fn is_reopening(&self) -> bool {
        matches!(self, Self::Store(StoreError::StreamReopened { .. }))
    }

    /// Whether something was not there that may have come since it was looked for.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::NotFound | ErrorKind::FailedPrecondition
        )
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCatalog | Self::NeverMaterialized { .. } => ErrorKind::FailedPrecondition,
            Self::NoEvents { .. } => ErrorKind::Unavailable,
            Self::TooManyEvents { .. } | Self::TilesTooLarge { .. } => ErrorKind::ResourceExhausted,
            Self::Unknown { .. } => ErrorKind::NotFound,
            Self::Invalid(_) | Self::OverBound { .. } => ErrorKind::InvalidArgument,
            Self::Denied { .. } => ErrorKind::PermissionDenied,
            Self::OutOfRange(_) => ErrorKind::OutOfRange,
            Self::Shared(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Engine(e) => e.kind(),
            Self::Catalog(e) => e.kind(),
        }
    }
}
