//! The one table of what errors are on the wire.

use granary_catalog::CatalogError;
use granary_ingest::IngestError;
use granary_model::ErrorKind;
use granary_proto::ColumnError;
use granary_serving::ServingError;
use tonic::{Code, Status};

/// The gRPC code of a kind of error.
pub fn grpc_code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidArgument => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::OutOfRange => Code::OutOfRange,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::Unimplemented => Code::Unimplemented,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::DataLoss => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The HTTP status of a kind of error, as a number.
pub fn http_status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::InvalidArgument | ErrorKind::OutOfRange => 400,
        ErrorKind::PermissionDenied => 403,
        ErrorKind::NotFound => 404,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => 409,
        ErrorKind::FailedPrecondition => 412,
        ErrorKind::ResourceExhausted => 429,
        ErrorKind::Cancelled => 499,
        ErrorKind::DataLoss | ErrorKind::Internal => 500,
        ErrorKind::Unimplemented => 501,
        ErrorKind::Unavailable => 503,
        ErrorKind::DeadlineExceeded => 504,
    }
}

/// Messages go out in a header, of which clients take some kilobytes: what is longer has
/// in it what the caller sent.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

/// The status of an error, which is logged where it is ours to mend.
pub(crate) fn status(kind: ErrorKind, mut message: String) -> Status {
    if message.len() > MESSAGE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        message.push_str("... (cut)");
    }
    if matches!(kind, ErrorKind::Internal | ErrorKind::DataLoss) {
        tracing::error!(%message, ?kind, "a request failed");
    }
    Status::new(grpc_code(kind), message)
}

/// Errors that have a kind.
pub(crate) trait IntoStatus {
    fn into_status(self) -> Status;
}

impl IntoStatus for ServingError {
    fn into_status(self) -> Status {
        status(self.kind(), self.to_string())
    }
}

impl IntoStatus for IngestError {
    fn into_status(self) -> Status {
        status(self.kind(), self.to_string())
    }
}

impl IntoStatus for CatalogError {
    fn into_status(self) -> Status {
        status(self.kind(), self.to_string())
    }
}

/// Columns that do not hold together are the sender's mistake.
impl IntoStatus for ColumnError {
    fn into_status(self) -> Status {
        status(ErrorKind::InvalidArgument, self.to_string())
    }
}
