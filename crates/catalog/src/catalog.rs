//! Reading and committing snapshots.

use std::sync::Arc;

use granary_model::Clock;
use object_store::ObjectStore;
use object_store::path::Path;

use crate::error::CatalogError;
use crate::plan::Plan;
use crate::snapshot::Snapshot;

/// The catalog of one root.
#[derive(Debug, Clone)]
pub struct Catalog {
    _store: Arc<dyn ObjectStore>,
    _root: Path,
    _clock: Arc<dyn Clock>,
}

impl Catalog {
    /// `root` is the path of the root within `store`.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, clock: Arc<dyn Clock>) -> Self {
        Self {
            _store: store,
            _root: root,
            _clock: clock,
        }
    }

    /// The newest snapshot; `None` before the first apply.
    pub async fn latest(&self) -> Result<Option<Arc<Snapshot>>, CatalogError> {
        todo!()
    }

    /// The newest snapshot if its number is greater than `known`; one cheap request if not.
    pub async fn newer_than(&self, _known: u64) -> Result<Option<Arc<Snapshot>>, CatalogError> {
        todo!()
    }

    /// A snapshot by number. `CatalogError::NoSnapshot` where there is none.
    pub async fn at(&self, _number: u64) -> Result<Arc<Snapshot>, CatalogError> {
        todo!()
    }

    /// All numbers, ascending.
    pub async fn numbers(&self) -> Result<Vec<u64>, CatalogError> {
        todo!()
    }

    /// Commits a plan on top of the snapshot that it was made from.
    /// `CatalogError::Lost` if another commit came first: plan again.
    pub async fn commit(&self, _plan: &Plan, _by: &str) -> Result<Arc<Snapshot>, CatalogError> {
        todo!()
    }
}
