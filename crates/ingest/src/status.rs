//! What `granary status` and `describe` show of runs.

use futures::{StreamExt, TryStreamExt, stream};
use granary_catalog::{Catalog, Snapshot};
use granary_engine::{Engine, OfflineTable, RunRecord};
use granary_model::UtcMicros;
use granary_model::definitions::{FeatureView, ServeMode};
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
    /// What answers reads as long as this version is not online: the generation
    /// of an older one.
    pub older_online: Option<GenerationState>,
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
/// run records each. `catalog` is the snapshot's.
#[instrument(skip_all, err)]
pub async fn view_statuses(
    engine: &Engine,
    store: &dyn OnlineStore,
    catalog: &Catalog,
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
        .map(|view| status(engine, (catalog, snapshot.number), published, view, runs))
        .collect();
    stream::iter(statuses)
        .buffered(TABLES_OPENED)
        .try_collect()
        .await
}

async fn status(
    engine: &Engine,
    (catalog, snapshot): (&Catalog, u64),
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
    let older_online = match online {
        None if view.serve == ServeMode::Online => {
            older_online(catalog, snapshot, view, published).await?
        }
        _ => None,
    };
    Ok(ViewStatus {
        view: view.name.clone(),
        version: view.version,
        watermark: table.as_ref().map(OfflineTable::watermark),
        offline_version: table.as_ref().map(OfflineTable::version),
        online: online.cloned(),
        older_online,
        runs: match &table {
            Some(table) => table.runs(runs).await?,
            None => Vec::new(),
        },
    })
}

/// The generation of the newest older version that has one. A name that a
/// snapshot in between did not define was another view before.
async fn older_online(
    catalog: &Catalog,
    snapshot: u64,
    view: &FeatureView,
    published: &[GenerationState],
) -> Result<Option<GenerationState>, IngestError> {
    let of_view: Vec<&GenerationState> = published
        .iter()
        .filter(|state| state.id.view == view.name)
        .collect();
    if of_view.is_empty() {
        return Ok(None);
    }
    for number in (1..snapshot).rev() {
        let older = catalog.at(number).await?;
        let Some(defined) = older.definitions.feature_views.get(&view.name) else {
            return Ok(None);
        };
        let mut of_view = of_view.iter();
        if let Some(found) = of_view.find(|state| state.id.version == defined.version) {
            return Ok(Some((*found).clone()));
        }
    }
    Ok(None)
}
