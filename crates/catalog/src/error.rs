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

/// The kind of a storage error: a full disk and a missing permission are told
/// from a store that cannot be reached.
pub fn storage_kind(error: &object_store::Error) -> ErrorKind {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return match io.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::ResourceExhausted
                }
                std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
                _ => ErrorKind::Unavailable,
            };
        }
        cause = error.source();
    }
    ErrorKind::Unavailable
}
