//! The typed client of a Granary server: Arrow columns up, Arrow columns down.
//!
//! Wire types stay inside. A [`Client`] is cheap to clone; all clones share one
//! connection, which is made at [`Client::connect`] and made again when it
//! breaks.

mod catalog;
mod client;
mod error;
mod features;
mod historical;
mod materialize;
mod streams;

pub use catalog::{ColumnInfo, ObjectInfo, ObjectKind, ObjectListing, RunInfo};
pub use client::{Client, ClientSettings};
pub use error::ClientError;
pub use features::{AsOf, FeatureColumn, GetFeatures, ReadAnswer, Target};
pub use historical::{
    GetHistorical, HistoricalAnswer, HistoricalReport, Reporter, SpineEvents, WithoutRun,
};
pub use materialize::{MaterializeEvent, MaterializeEvents, MaterializeOptions, MaterializeStage};
pub use streams::{
    EventNumber, HistoryAnswer, LostEvents, Push, PushAnswer, ScannedStream, StreamInfo,
};
