//! What `granary status` and `describe` show of runs.

use granary_catalog::Snapshot;
use granary_engine::{Engine, RunRecord};
use granary_model::UtcMicros;
use granary_store::{GenerationState, OnlineStore};

use crate::error::IngestError;

#[derive(Debug, Clone)]
pub struct ViewStatus {
    pub view: String,
    pub version: u32,
    /// Greatest T committed offline; `None`: never run.
    pub watermark: Option<UtcMicros>,
    pub online: Option<GenerationState>,
    /// Newest first.
    pub runs: Vec<RunRecord>,
}

/// The status of every feature view of a snapshot, with up to `runs` run records each.
pub async fn view_statuses(
    _engine: &Engine,
    _store: &dyn OnlineStore,
    _snapshot: &Snapshot,
    _runs: usize,
) -> Result<Vec<ViewStatus>, IngestError> {
    todo!()
}
