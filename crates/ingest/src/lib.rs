//! Every online write: runs, claims, progress and the sink that fills
//! generations from committed offline rows.
//!
//! The offline commit comes first; online data is derived from committed
//! offline rows and catches up after a crash. This crate knows nothing of gRPC
//! or of how values are read.

pub mod claim;
pub mod error;
pub mod materialize;
pub mod progress;
pub mod sink;
pub mod status;
pub mod sweep;

pub use error::IngestError;
pub use materialize::{
    Backfill, MaterializeRequest, Materializer, MaterializerSettings, RunOutcome, WhenClaimed,
};
pub use progress::{Progress, Stage};
pub use status::{ViewStatus, view_statuses};
