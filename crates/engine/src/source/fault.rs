//! What is wrong with the files of a source: which path, and why.

use datafusion::error::DataFusionError;

use crate::error::EngineError;

/// A source that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub(crate) struct SourceFault {
    /// As the statement has it, or the path of the one file to blame.
    pub(crate) path: String,
    pub(crate) reason: String,
}

impl SourceFault {
    pub(crate) fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            reason: reason.into(),
        }
    }

    /// What DataFusion said of the file at `path`, without its layers of prefixes.
    pub(crate) fn of(path: impl Into<String>, error: &DataFusionError) -> Self {
        let reason = match error.find_root() {
            DataFusionError::ObjectStore(error) => match error.as_ref() {
                object_store::Error::NotFound { .. } => "no such file".to_owned(),
                other => other.to_string(),
            },
            other => last_cause(&other.strip_backtrace()).to_owned(),
        };
        let mut reason = first_line(&reason);
        if reason.ends_with("would overflow 64-bit signed nanoseconds") {
            // What TIMESTAMP means in CREATE EXTERNAL TABLE ends in 2262.
            reason.push_str("; declare the column as TIMESTAMP(6)");
        }
        Self::new(path, reason)
    }

    pub(crate) fn not_readable_as(self, format: &str) -> Self {
        let format = format.to_uppercase();
        let reason = format!("it is no whole {format} file: {}", self.reason);
        Self { reason, ..self }
    }

    pub(crate) fn into_engine(self, object: &str) -> EngineError {
        EngineError::Source {
            object: object.to_owned(),
            path: self.path,
            reason: self.reason,
        }
    }

    pub(crate) fn into_datafusion(self, object: &str) -> DataFusionError {
        DataFusionError::External(Box::new(self.into_engine(object)))
    }
}

/// `Arrow error: Parser error: x` says x.
fn last_cause(text: &str) -> &str {
    let text = text.split(" Stream format error").next().unwrap_or(text);
    text.rsplit("error: ").next().unwrap_or(text)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
