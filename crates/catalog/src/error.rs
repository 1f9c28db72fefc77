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
            Self::Storage(_) => ErrorKind::Unavailable,
        }
    }
}
