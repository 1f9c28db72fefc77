//! What a call can fail with.

use granary_model::ErrorKind;
use granary_proto::ColumnError;
use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("{endpoint}: {reason}")]
    Connect { endpoint: String, reason: String },
    /// The server's own words.
    #[error("{message}")]
    Refused { kind: ErrorKind, message: String },
    #[error("the request cannot be sent: {0}")]
    Request(String),
    #[error("the answer cannot be read: {0}")]
    Answer(String),
}

impl ClientError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Connect { .. } => ErrorKind::Unavailable,
            Self::Refused { kind, .. } => *kind,
            Self::Request(_) => ErrorKind::InvalidArgument,
            Self::Answer(_) => ErrorKind::Internal,
        }
    }

    pub(crate) fn request(error: ColumnError) -> Self {
        Self::Request(error.0)
    }

    pub(crate) fn answer(error: ColumnError) -> Self {
        Self::Answer(error.0)
    }

    pub(crate) fn from_code(code: Code, message: &str) -> Self {
        let kind = kind(code);
        let message = match message {
            "" => format!("{code}"),
            told => told.to_owned(),
        };
        Self::Refused { kind, message }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        // tonic's own timer tells of a deadline as a cancellation.
        if status.code() == Code::Cancelled && status.message() == "Timeout expired" {
            return Self::from_code(Code::DeadlineExceeded, "no answer within the deadline");
        }
        Self::from_code(status.code(), status.message())
    }
}

fn kind(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::Aborted => ErrorKind::Conflict,
        Code::OutOfRange => ErrorKind::OutOfRange,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::PermissionDenied,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::Cancelled => ErrorKind::Cancelled,
        Code::DataLoss => ErrorKind::DataLoss,
        Code::Ok | Code::Unknown | Code::Internal => ErrorKind::Internal,
    }
}
