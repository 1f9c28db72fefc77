//! What the catalog can fail with.

use granary_model::ErrorKind;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    #[error(
        "another apply came first: the catalog is at snapshot {now}, the plan was made at {base}; plan again"
    )]
    Lost { base: u64, now: u64 },
    #[error("the catalog has no snapshot {0}")]
    NoSnapshot(u64),
    #[error(
        "{path}: written by a newer version of Granary (format {found}, this one reads up to {supported})"
    )]
    NewerFormat {
        path: String,
        found: u32,
        supported: u32,
    },
    #[error("{path}: damaged: {reason}")]
    Damaged { path: String, reason: String },
    #[error("catalog: {0}")]
    Storage(#[from] object_store::Error),
}

impl CatalogError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Lost { .. } => ErrorKind::Conflict,
            Self::NoSnapshot(_) => ErrorKind::NotFound,
            Self::NewerFormat { .. } => ErrorKind::FailedPrecondition,
            Self::Damaged { .. } => ErrorKind::DataLoss,
            Self::Storage(e) => storage_kind(e),
        }
    }
}

/// The kind of an error that storage ended in: a full disk and a missing
/// permission are told from a store that cannot be reached, which is also what
/// any other error comes out as.
pub fn storage_kind(error: &(dyn std::error::Error + 'static)) -> ErrorKind {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // An input/output error may wrap another, as `Other`.
        match error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind)
        {
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => {
                return ErrorKind::ResourceExhausted;
            }
            Some(std::io::ErrorKind::PermissionDenied) => return ErrorKind::PermissionDenied,
            _ => {}
        }
        cause = error.source();
    }
    ErrorKind::Unavailable
}
