//! Files that no reader needs: what killed runs left behind, and what
//! replacing runs removed.
//!
//! A run may be writing files that no log names yet, and a reader may hold an
//! old state of the log: so a file goes only when it, and its removal, are
//! older than any run or read lasts.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use granary_model::UtcMicros;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::log::{LogState, TableLog};
use super::write::sorted_file;
use crate::error::EngineError;

/// Longer than any run or read lasts.
const KEPT: Duration = Duration::from_secs(2 * 24 * 3600);

/// Deletes what is not needed any more of a table in the state `base`, and
/// returns how many files that were. Failing costs space only: say so and go on.
pub(crate) async fn sweep(
    store: &dyn ObjectStore,
    log: &TableLog,
    base: Option<&LogState>,
    now: UtcMicros,
) -> Result<usize, EngineError> {
    let before = now.0.saturating_sub(KEPT.as_micros() as i64);
    let mut candidates = Vec::new();
    let mut listed = store.list(Some(&log.path_in_store(&Path::default())));
    let mut needed: HashSet<Path> = HashSet::new();
    needed.extend(
        base.iter()
            .flat_map(|b| &b.files)
            .map(|f| log.path_in_store(&f.path)),
    );
    while let Some(file) = listed.try_next().await? {
        let old = file.last_modified.timestamp_micros() < before;
        if old && sorted_file(&file.location).is_some() && !needed.contains(&file.location) {
            candidates.push(file.location);
        }
    }
    if candidates.is_empty() {
        return Ok(0);
    }
    if let Some(base) = base {
        let removed = log.removed_since(base, UtcMicros(before)).await?;
        let removed: HashSet<Path> = removed.iter().map(|f| log.path_in_store(f)).collect();
        candidates.retain(|file| !removed.contains(file));
    }
    for file in &candidates {
        store.delete(file).await?;
    }
    Ok(candidates.len())
}
