//! The engine: one DataFusion runtime (memory pool, spill folder, object
//! stores) and the sessions made on it.

use std::path::PathBuf;
use std::sync::Arc;

use datafusion::prelude::SessionContext;
use granary_model::{Clock, Definitions, UtcMicros};
use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::EngineError;

/// Makes the object store for a URL (`file:///`, `s3://bucket/`, ...): chosen
/// by the binary, since credentials come from the environment.
pub type StoreFactory =
    Arc<dyn Fn(&Url) -> Result<Arc<dyn ObjectStore>, object_store::Error> + Send + Sync>;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Bound of the memory that queries hold; beyond it they spill.
    #[serde(with = "granary_model::bytes")]
    pub memory_bytes_max: u64,
    /// 0: one a core.
    pub target_partitions: usize,
    /// Rows in a batch between operators.
    pub batch_rows: usize,
    /// Where to spill; `None`: the system's temporary folder.
    pub spill_folder: Option<PathBuf>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            memory_bytes_max: 2 << 30,
            target_partitions: 0,
            batch_rows: 8192,
            spill_folder: None,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Engine {
    _private: (),
}

impl Engine {
    /// `root`: the project's root (offline tables live under `offline/`).
    /// `project`: the folder that relative locations in SQL are relative to.
    pub fn new(
        _settings: EngineSettings,
        _root: Url,
        _project: PathBuf,
        _stores: StoreFactory,
        _clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        todo!()
    }

    /// A session over all sources and plain views of `definitions`; a feature
    /// view's name is its offline table (empty where it was never run). With
    /// `as_of`, everything that has an event time is cut there.
    pub async fn session(
        &self,
        _definitions: &Definitions,
        _as_of: Option<UtcMicros>,
    ) -> Result<SessionContext, EngineError> {
        todo!()
    }
}
