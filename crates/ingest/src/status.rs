//! What `granary status` and `describe` show of runs.

use futures::{StreamExt, TryStreamExt, stream};
use granary_catalog::Snapshot;
use granary_engine::{Engine, OfflineTable, RunRecord};
use granary_model::UtcMicros;
use granary_model::definitions::FeatureView;
use granary_store::{GenerationState, OnlineStore};
use tracing::instrument;

use crate::error::IngestError;
use crate::materialize::why_not;

/// Offline tables opened at once.
const TABLES_OPENED: usize = 8;

#[derive(Debug, Clone)]
pub struct ViewStatus {
    pub view: String,
    pub version: u32,
    /// Greatest T committed offline; `None`: never run.
    pub watermark: Option<UtcMicros>,
    /// Of the offline table; `None`: never run.
    pub offline_version: Option<u64>,
    pub online: Option<GenerationState>,
    /// Newest first.
    pub runs: Vec<RunRecord>,
}

impl ViewStatus {
    /// Whether something is committed that is not online; of views that are
    /// served from elsewhere it says nothing.
    pub fn online_lags(&self) -> bool {
        let online = self.online.as_ref().map(|s| s.coverage.offline_version);
        self.offline_version.is_some() && online < self.offline_version
    }
}

/// The status of every feature view of a snapshot, by name, with up to `runs`
/// run records each.
#[instrument(skip_all, err)]
pub async fn view_statuses(
    engine: &Engine,
    store: &dyn OnlineStore,
    snapshot: &Snapshot,
    runs: usize,
) -> Result<Vec<ViewStatus>, IngestError> {
    store.refresh().await?;
    let published = store.generations().await?;
    let published = published.as_slice();
    // Made outside of the stream: a closure over references to views would
    // make this future one that cannot be spawned.
    let views = snapshot.definitions.feature_views.values();
    let statuses: Vec<_> = views
        .map(|view| status(engine, published, view, runs))
        .collect();
    stream::iter(statuses)
        .buffered(TABLES_OPENED)
        .try_collect()
        .await
}

async fn status(
    engine: &Engine,
    published: &[GenerationState],
    view: &FeatureView,
    runs: usize,
) -> Result<ViewStatus, IngestError> {
    let table = match why_not(view) {
        None => OfflineTable::open(engine, view).await?,
        Some(_) => None,
    };
    let online = published
        .iter()
        .find(|state| state.id.view == view.name && state.id.version == view.version);
    Ok(ViewStatus {
        view: view.name.clone(),
        version: view.version,
        watermark: table.as_ref().map(OfflineTable::watermark),
        offline_version: table.as_ref().map(OfflineTable::version),
        online: online.cloned(),
        runs: match &table {
            Some(table) => table.runs(runs).await?,
            None => Vec::new(),
        },
    })
}
