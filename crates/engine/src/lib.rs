//! Everything that DataFusion does for Granary.
//!
//! Checking definitions, running queries as of a time, offline tables in Delta
//! Lake and look-ups at request time. This crate knows nothing of the online
//! store or of gRPC; whoever calls it gets Arrow batches.

pub mod asof;
pub mod check;
mod delta_file;
mod delta_log;
pub mod engine;
mod entity_keys;
pub mod error;
pub mod expression;
pub mod history;
pub mod live;
pub mod lookup;
pub mod memory;
pub mod offline;
pub mod preceding;
pub mod query;
mod read_log;
pub mod retention;
pub mod row_file;
pub mod run;
mod shared_scan;
mod source;
pub mod stream_table;
pub mod training;
mod windowed;

pub use engine::{Engine, EngineSettings, Joins, StoreFactory, Stores};
pub use error::EngineError;
pub use expression::{Argument, CompiledExpressions, Computed, Expanded, InputColumn, source_of};
pub use history::{HistoryAppend, HistoryTable};
pub use live::{
    Densities, Density, EventIndex, EventSpan, FoundEvents, KeyPartials, KeyTimes, LiveRead,
    LiveRows, LiveSource, LiveTime, LiveView, NeededEvents, SpanEvents, StreamNeeds, Tile, TileSet,
    TileSettings, TileSpan, TiledKey, TiledValues,
};
pub use lookup::QueryLookup;
pub use offline::{ColumnStatistics, OfflineTable, RunMode, RunRecord};
pub use read_log::ReadLog;
pub use retention::{Bounds, KeptEvents, Retention};
pub use row_file::{FileRows, RowFormat};
pub use run::{RunScope, RunSummary};
pub use stream_table::{EventBatches, Lost, StreamEvents, StreamSource};
pub use training::{
    Moment, Moments, Spine, SpineEvents, TIMES_MAX, TrainingOptions, TrainingReport,
    TrainingRequest, TrainingSet,
};
