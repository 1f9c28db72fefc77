//! One closed list of what can go wrong, by what the caller does next.
//!
//! Every crate has its own error enum with a `kind()` that maps into this one;
//! the server maps this one to gRPC and HTTP in one table, the command line to
//! exit codes.

use serde::{Deserialize, Serialize};

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorKind {
    /// The request or definition is wrong; asking again gives the same answer.
    InvalidArgument,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already.
    AlreadyExists,
    /// The system is not in the state that this needs (a view never materialised).
    FailedPrecondition,
    /// Another writer won; read again and decide anew.
    Conflict,
    /// The time asked for is outside of what is kept.
    OutOfRange,
    /// A bound was reached (rows, bytes, concurrency, disk); ask for less, or later.
    ResourceExhausted,
    /// The time allowed ran out.
    DeadlineExceeded,
    /// The caller lacks a grant.
    PermissionDenied,
    /// Understood, and not served by this version.
    Unimplemented,
    /// A component cannot be reached now; try again.
    Unavailable,
    /// The caller or a shutdown stopped it.
    Cancelled,
    /// Stored bytes are not what was written, or of a newer version.
    DataLoss,
    /// A bug in Granary.
    Internal,
}
