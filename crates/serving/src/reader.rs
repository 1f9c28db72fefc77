//! The reader: current plans, swapped whole when the catalog or the store moves.

use std::sync::Arc;

use granary_catalog::{Catalog, Snapshot};
use granary_engine::Engine;
use granary_model::Clock;
use granary_store::OnlineStore;
use serde::{Deserialize, Serialize};

use crate::error::ServingError;
use crate::read::{ReadRequest, ReadResponse};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingSettings {
    pub request_rows_max: usize,
    pub request_features_max: usize,
    /// Bound of cached SERVE QUERY results.
    #[serde(with = "granary_model::bytes")]
    pub query_cache_bytes_max: u64,
    /// Query look-ups computed side by side.
    pub query_concurrency_max: usize,
}

impl Default for ServingSettings {
    fn default() -> Self {
        Self {
            request_rows_max: 10_000,
            request_features_max: 1_000,
            query_cache_bytes_max: 256 << 20,
            query_concurrency_max: 16,
        }
    }
}

#[derive(Debug)]
pub struct Reader {
    _private: (),
}

impl Reader {
    /// Reads the newest snapshot; `ServingError::NoCatalog` before the first apply.
    pub async fn new(
        _engine: Engine,
        _catalog: Catalog,
        _store: Arc<dyn OnlineStore>,
        _clock: Arc<dyn Clock>,
        _settings: ServingSettings,
    ) -> Result<Self, ServingError> {
        todo!()
    }

    /// Looks for a new catalog snapshot and for new generations, and swaps the
    /// plans if there are any; true if so. Called several times a second by the server.
    pub async fn refresh(&self) -> Result<bool, ServingError> {
        todo!()
    }

    /// The newest snapshot of the catalog as last seen.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        todo!()
    }

    pub async fn read(&self, _request: ReadRequest) -> Result<ReadResponse, ServingError> {
        todo!()
    }
}
