//! Removes expired rows from the online store, in the background.

use granary_catalog::Snapshot;
use granary_model::UtcMicros;
use granary_store::OnlineStore;

use crate::error::IngestError;

/// Sweeps every timestamped view that has a TTL; gives the number of rows
/// removed. Generations of versions that no snapshot serves any more are dropped.
pub async fn sweep(
    _store: &dyn OnlineStore,
    _snapshot: &Snapshot,
    _now: UtcMicros,
) -> Result<u64, IngestError> {
    todo!()
}
