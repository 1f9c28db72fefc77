//! What the engine can fail with.

use std::error::Error;

use datafusion::error::DataFusionError;
use granary_catalog::storage_kind;
use granary_model::{ErrorKind, UtcMicros};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    #[error("{view}: the run as of {as_of} is committed already")]
    AlreadyRun { view: String, as_of: UtcMicros },
    #[error(
        "{view}: {rows} {} more than one row in the run as of {as_of}: {examples}",
        if *.rows == 1 { "key has" } else { "keys have" }
    )]
    DuplicateKeys {
        view: String,
        as_of: UtcMicros,
        rows: u64,
        examples: String,
    },
    #[error("{view}: as of {as_of} lies in the future (it is {now})")]
    Future {
        view: String,
        as_of: UtcMicros,
        now: UtcMicros,
    },
    #[error("{view} reads {sources} as it is now, not as of {as_of}; --current-state allows that")]
    CurrentState {
        view: String,
        sources: String,
        as_of: UtcMicros,
    },
    #[error("{view}: {reason}")]
    NotRun { view: String, reason: String },
    #[error("{object}: its schema changed since apply: {difference}; apply again")]
    SchemaChanged { object: String, difference: String },
    #[error("{view}: another writer committed to its offline table; run it again")]
    Conflict { view: String },
    #[error(
        "{object}: its query needs more memory than {}{}: give it more by --memory, or by memory_bytes_max under [engine] in granary.toml",
        .bound.as_deref().unwrap_or("it may use"),
        .consumer.as_ref().map_or_else(String::new, |c| format!(" (asked for by {c})"))
    )]
    Memory {
        object: String,
        /// As `2.0 GB`, where it is known.
        bound: Option<String>,
        /// The operator that asked for more.
        consumer: Option<String>,
    },
    #[error("{object}: {}", in_words(.source))]
    Query {
        object: String,
        source: Box<DataFusionError>,
    },
    #[error("{object}: {source}")]
    Delta {
        object: String,
        source: Box<deltalake_core::DeltaTableError>,
    },
    #[error("{object}: {path}: {reason}")]
    Source {
        object: String,
        path: String,
        reason: String,
    },
    #[error("{stream}: {reason}")]
    Events {
        stream: String,
        kind: ErrorKind,
        reason: String,
    },
    #[error("storage: {0}")]
    Storage(#[from] object_store::Error),
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Refused(String),
}

impl EngineError {
    /// What a query on behalf of `object` failed with; an error of our own
    /// that passed through DataFusion comes out as it was.
    pub fn from_query(object: &str, source: DataFusionError) -> Self {
        match own(&source) {
            Some(Self::SchemaChanged { object, difference }) => Self::SchemaChanged {
                object: object.clone(),
                difference: difference.clone(),
            },
            // A scan knows the file only: the object is what was asked for.
            Some(Self::Source {
                object: of,
                path,
                reason,
            }) => Self::Source {
                object: if of.is_empty() { object } else { of }.to_owned(),
                path: path.clone(),
                reason: reason.clone(),
            },
            Some(Self::Events {
                stream,
                kind,
                reason,
            }) => Self::Events {
                stream: stream.clone(),
                kind: *kind,
                reason: reason.clone(),
            },
            Some(Self::Refused(reason)) => Self::Refused(reason.clone()),
            Some(Self::NotRun { view, reason }) => Self::NotRun {
                view: view.clone(),
                reason: reason.clone(),
            },
            Some(Self::DuplicateKeys {
                view,
                as_of,
                rows,
                examples,
            }) => Self::DuplicateKeys {
                view: view.clone(),
                as_of: *as_of,
                rows: *rows,
                examples: examples.clone(),
            },
            _ => match source.find_root() {
                DataFusionError::ResourcesExhausted(told) if told.contains("memory") => {
                    Self::memory(object, told)
                }
                _ => Self::Query {
                    object: object.to_owned(),
                    source: Box::new(source),
                },
            },
        }
    }

    /// What a memory pool said when it refused, without its own advice: that
    /// names settings that a project does not have.
    fn memory(object: &str, told: &str) -> Self {
        let between = |before: &str, after: &str| {
            let (_, rest) = told.split_once(before)?;
            let (found, _) = rest.split_once(after)?;
            Some(found.trim().to_owned())
        };
        Self::Memory {
            object: object.to_owned(),
            bound: between("pool_size: ", ")"),
            consumer: between("Additional allocation failed for ", " with "),
        }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::AlreadyRun { .. } => ErrorKind::AlreadyExists,
            Self::DuplicateKeys { .. }
            | Self::CurrentState { .. }
            | Self::SchemaChanged { .. }
            | Self::NotRun { .. }
            | Self::Source { .. } => ErrorKind::FailedPrecondition,
            Self::Future { .. } | Self::Settings(_) | Self::Refused(_) => {
                ErrorKind::InvalidArgument
            }
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Events { kind, .. } => *kind,
            Self::Memory { .. } => ErrorKind::ResourceExhausted,
            Self::Query { source, .. } => query_kind(source),
            Self::Delta { source, .. } => storage_kind(source),
            Self::Storage(source) => storage_kind(source),
        }
    }
}

/// An error of syntax as the parser says it, any other as DataFusion does.
fn in_words(error: &DataFusionError) -> String {
    match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        _ => error.strip_backtrace(),
    }
}

/// A query is to blame for its failure, unless a disk is full (spilling or
/// writing) or the memory bound was reached.
fn query_kind(error: &DataFusionError) -> ErrorKind {
    let exhausted = matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
        || storage_kind(error) == ErrorKind::ResourceExhausted;
    match exhausted {
        true => ErrorKind::ResourceExhausted,
        false => ErrorKind::InvalidArgument,
    }
}

/// The error of our own that a chain of causes ends in.
fn own(error: &DataFusionError) -> Option<&EngineError> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<EngineError>() {
            return Some(own);
        }
        cause = error.source();
    }
    None
}
