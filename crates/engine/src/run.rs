//! A run: the query of a view as of T, as a stream of rows for the offline table.

use granary_model::{Definitions, FeatureView, UtcMicros};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::offline::{RunMode, RunRecord};

/// What a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunScope {
    /// T: nothing later is seen.
    pub as_of: UtcMicros,
    /// Of a timestamped view: only rows with a later event time; `None`: from the beginning.
    pub from: Option<UtcMicros>,
    /// Whether sources without an event time may be read although T is past.
    pub current_state: bool,
    /// Incremental, replacing a range, ...: recorded.
    pub mode: RunMode,
}

/// What a run has done so far; called now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunSummary {
    pub rows: u64,
}

impl Engine {
    /// Computes the view and commits its rows to the offline table in one
    /// atomic commit; memory stays within the engine's bound.
    ///
    /// Returns the record of the commit. A run whose name is committed already
    /// is `EngineError::AlreadyRun` unless `mode` replaces.
    pub async fn run(
        &self,
        _definitions: &Definitions,
        _view: &FeatureView,
        _scope: RunScope,
        _progress: &(dyn Fn(RunSummary) + Send + Sync),
    ) -> Result<RunRecord, EngineError> {
        todo!()
    }
}
