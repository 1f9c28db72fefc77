//! Materialisation: which runs are due, in which order, and their execution.

use std::sync::Arc;

use granary_catalog::{Catalog, Snapshot};
use granary_engine::{Engine, RunRecord};
use granary_model::{Clock, Interval, UtcMicros};
use granary_store::OnlineStore;
use serde::{Deserialize, Serialize};

use crate::error::IngestError;
use crate::progress::Progress;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaterializerSettings {
    /// Views that run side by side.
    pub concurrent_views: usize,
    /// How long a claim holds without being renewed.
    pub claim_seconds: u64,
}

impl Default for MaterializerSettings {
    fn default() -> Self {
        Self {
            concurrent_views: 2,
            claim_seconds: 30,
        }
    }
}

/// T = from, from + every, ... up to and including `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill {
    pub from: UtcMicros,
    pub to: UtcMicros,
    pub every: Interval,
}

/// What to do when another materialisation of a view is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenClaimed {
    #[default]
    Refuse,
    Wait,
}

#[derive(Debug, Clone, Default)]
pub struct MaterializeRequest {
    /// Empty: every view that is not SERVE QUERY.
    pub views: Vec<String>,
    /// Default: now.
    pub as_of: Option<UtcMicros>,
    pub backfill: Option<Backfill>,
    pub lookback: Option<Interval>,
    /// Computes and replaces although the run is committed.
    pub force: bool,
    pub current_state: bool,
    pub when_claimed: WhenClaimed,
}

/// How one run ended.
#[derive(Debug)]
pub enum RunOutcome {
    Committed(Box<RunRecord>),
    /// Committed before; online caught up where it lagged.
    Skipped {
        view: String,
        as_of: UtcMicros,
        reason: String,
    },
    Failed {
        view: String,
        as_of: UtcMicros,
        error: Arc<IngestError>,
    },
    /// A view that it depends on failed.
    NotStarted {
        view: String,
        because_of: String,
    },
}

#[derive(Debug, Clone)]
pub struct Materializer {
    _engine: Engine,
    _catalog: Catalog,
    _store: Arc<dyn OnlineStore>,
    _clock: Arc<dyn Clock>,
    _settings: MaterializerSettings,
}

impl Materializer {
    pub fn new(
        engine: Engine,
        catalog: Catalog,
        store: Arc<dyn OnlineStore>,
        clock: Arc<dyn Clock>,
        settings: MaterializerSettings,
    ) -> Self {
        Self {
            _engine: engine,
            _catalog: catalog,
            _store: store,
            _clock: clock,
            _settings: settings,
        }
    }

    /// Runs what is asked for: dependent views in order, independent ones side
    /// by side. Unknown views fail before anything runs; a failed view fails
    /// itself and what depends on it, the others go on.
    pub async fn materialize(
        &self,
        _snapshot: &Snapshot,
        _request: MaterializeRequest,
        _progress: Arc<dyn Progress>,
    ) -> Result<Vec<RunOutcome>, IngestError> {
        todo!()
    }
}
