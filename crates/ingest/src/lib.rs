//! Every online write: runs, claims, progress and the sink that fills
//! generations from committed offline rows; and the events that are pushed to
//! streams, or read for them from a message log.
//!
//! The offline commit comes first; online data is derived from committed
//! offline rows and catches up after a crash. This crate knows nothing of gRPC
//! or of how values are read.

pub mod claim;
pub mod consumer;
pub mod due;
pub mod error;
pub mod live;
pub mod materialize;
pub mod progress;
pub mod sink;
pub mod status;
pub mod streams;
pub mod sweep;

pub use claim::{Claim, Claims, WhenClaimed};
pub use consumer::{ConsumeSettings, Consumer, ConsumerCounts};
pub use due::{DueRun, due_runs};
pub use error::IngestError;
pub use live::{OlderVersion, live_definitions};
pub use materialize::{
    Backfill, Lag, MaterializeRequest, Materializer, MaterializerSettings, RunOutcome, why_not,
};
pub use progress::{Progress, Silent, Stage};
pub use sink::{Filled, Sink, SinkSettings};
pub use status::{ViewStatus, view_statuses};
pub use streams::{
    HistoryPushed, Late, Maintained, OpenEvents, Pushed, StreamSettings, StreamStatus, Streams,
};
pub use sweep::sweep;
