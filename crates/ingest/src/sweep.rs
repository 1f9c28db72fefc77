//! Removes expired rows and superseded generations from the online store, in
//! the background.

use std::collections::BTreeSet;

use granary_catalog::Snapshot;
use granary_model::definitions::{FeatureView, ServeMode};
use granary_model::{UtcMicros, ViewKind};
use granary_store::{Coverage, GenerationState, OnlineStore, StoreError};
use tracing::instrument;

use crate::error::IngestError;

/// Sweeps every timestamped view that has a TTL; gives the number of rows
/// removed. Generations of versions that no snapshot serves any more are dropped.
///
/// A row goes when it was expired as of the newest run that is online (and
/// now): a read as of that time still finds what it should. Superseded versions
/// stay until all views of the snapshot are online, since until then an older
/// snapshot may answer. What another writer is busy with is left for next time.
#[instrument(skip_all, err, fields(snapshot = snapshot.number))]
pub async fn sweep(
    store: &dyn OnlineStore,
    snapshot: &Snapshot,
    now: UtcMicros,
) -> Result<u64, IngestError> {
    let published = store.generations().await?;
    let mut removed = 0;
    for generation in &published {
        let view = snapshot.definitions.feature_views.get(&generation.id.view);
        let older_than = view
            .filter(|view| view.version == generation.id.version)
            .and_then(|view| expired_before(view, &generation.coverage, now));
        if let Some(older_than) = older_than {
            let (view, version) = (&generation.id.view, generation.id.version);
            match store.sweep(view, version, older_than).await {
                Ok(rows) => removed += rows,
                Err(StoreError::Busy { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    for (view, version) in superseded(snapshot, &published) {
        match store.drop_version(&view, version).await {
            Ok(()) => tracing::info!(view, version, "dropped online, superseded"),
            Err(StoreError::Busy { .. }) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(removed)
}

/// Rows with an earlier event time are expired, by the TTL of the view and by
/// that which the generation was filled with: only what its coverage says may
/// be missing is removed.
fn expired_before(view: &FeatureView, coverage: &Coverage, now: UtcMicros) -> Option<UtcMicros> {
    if view.kind != ViewKind::Timestamped {
        return None;
    }
    let at = now.min(coverage.as_of);
    Some(view.ttl?.before(at).min(coverage.ttl?.before(at)))
}

/// Versions that no read can ask for any more. A version that the snapshot never
/// heard of is a newer snapshot's, published while this one was looked at.
fn superseded(snapshot: &Snapshot, published: &[GenerationState]) -> Vec<(String, u32)> {
    let there: BTreeSet<(&str, u32)> = published
        .iter()
        .map(|state| (state.id.view.as_str(), state.id.version))
        .collect();
    let views = snapshot.definitions.feature_views.values();
    let served: BTreeSet<(&str, u32)> = views
        .filter(|view| view.serve == ServeMode::Online)
        .map(|view| (view.name.as_str(), view.version))
        .collect();
    if !served.is_subset(&there) {
        return Vec::new();
    }
    let is_known = |view: &str, version: u32| {
        let known = snapshot.versions.get(view);
        known.is_some_and(|all| all.iter().any(|record| record.version == version))
    };
    there
        .difference(&served)
        .filter(|(view, version)| is_known(view, *version))
        .map(|(view, version)| ((*view).to_owned(), *version))
        .collect()
}
