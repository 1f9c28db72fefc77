//! The one way into the online store: committed offline rows, encoded and joined in.
//!
//! A generation says in its coverage which offline version it holds. What is
//! missing is found by comparing that with the offline table, so it makes no
//! difference whether a run has just ended, was killed before it got online,
//! or the store is new and empty.

mod bundles;
mod empty;
mod need;
mod pump;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use granary_engine::{Engine, EngineError, OfflineTable, RunRecord};
use granary_model::ViewKind;
use granary_model::definitions::{Definitions, FeatureView};
use granary_store::{
    Coverage, Generation, GenerationState, GenerationWriter, OnlineStore, RowLayout, StoreError,
    WriteMode,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::instrument;

use crate::error::IngestError;
use need::{Need, Offline, need};

/// Run records that are read to find what a generation lacks; one that lacks
/// more runs is written anew.
const RUNS_READ_MAX: u64 = 256;
const BUSY_PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SinkSettings {
    /// Encoded batches that wait for the store; a batch is the engine's.
    pub batches_ahead: usize,
    /// How long to wait for another writer of the same view.
    pub busy_seconds_max: u64,
    /// Leave rows out that are older than the TTL. Otherwise they are there,
    /// answered as OUTSIDE_MAX_AGE, until they are swept.
    pub leave_out_expired: bool,
}

impl Default for SinkSettings {
    fn default() -> Self {
        Self {
            batches_ahead: 4,
            busy_seconds_max: 600,
            leave_out_expired: false,
        }
    }
}

/// What bringing a view online came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filled {
    /// No run was committed yet.
    NothingOffline,
    UpToDate(GenerationState),
    Written {
        /// Rows read from the offline table; of one key only the greatest stays.
        rows: u64,
        state: GenerationState,
    },
    /// Another writer is at it.
    Busy,
}

/// Fills an online store from offline tables.
#[derive(Debug, Clone)]
pub struct Sink {
    engine: Engine,
    store: Arc<dyn OnlineStore>,
    settings: SinkSettings,
}

impl Sink {
    pub fn new(engine: Engine, store: Arc<dyn OnlineStore>, settings: SinkSettings) -> Self {
        Self {
            engine,
            store,
            settings,
        }
    }

    /// Brings a view up to its offline table; waits for another writer.
    /// `definitions` are those that the view is of; `progress` is told the rows
    /// written so far.
    #[instrument(skip_all, err, fields(view = view.name))]
    pub async fn fill(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Filled, IngestError> {
        let deadline = Instant::now() + Duration::from_secs(self.settings.busy_seconds_max);
        loop {
            match self.try_fill(definitions, view, progress).await {
                Err(IngestError::Store(StoreError::Busy { .. })) if Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    /// Like [`fill`](Self::fill), but leaves a view to another writer.
    #[instrument(skip_all, err, fields(view = view.name))]
    pub async fn catch_up(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
    ) -> Result<Filled, IngestError> {
        match self.try_fill(definitions, view, &|_| {}).await {
            Err(IngestError::Store(StoreError::Busy { .. })) => Ok(Filled::Busy),
            ended => ended,
        }
    }

    async fn try_fill(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Filled, IngestError> {
        loop {
            self.store.refresh().await?;
            let Some(table) = OfflineTable::open(&self.engine, view).await? else {
                return Ok(Filled::NothingOffline);
            };
            let published = self.published(view).await?;
            let before = published.as_ref().map(|g| g.state());
            let need = self.need(view, &table, before.as_ref()).await?;
            if let (Need::Nothing, Some(state)) = (need, &before) {
                return Ok(Filled::UpToDate(state.clone()));
            }
            let (need, mut writer) = self.writer(view, &table, need).await?;
            // From here on nobody else writes; what was decided before may be old.
            self.store.refresh().await?;
            let now = self.published(view).await?.map(|g| g.state());
            if now.map(|s| s.coverage) != before.map(|s| s.coverage) {
                continue;
            }
            if need == Need::All && view.kind == ViewKind::Windowed {
                let as_of = table.watermark();
                let row = empty::empty_row(&self.engine, definitions, view, as_of).await?;
                writer.write_default(row.get(0)).await?;
            }
            return self.write(view, &table, need, writer, progress).await;
        }
    }

    /// What is published. A damaged generation counts as none: all of it is
    /// in the offline table.
    async fn published(
        &self,
        view: &FeatureView,
    ) -> Result<Option<Arc<dyn Generation>>, IngestError> {
        match self.store.generation(&view.name, view.version).await {
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(view = view.name, %error, "online rows are damaged, they are written anew");
                Ok(None)
            }
            found => Ok(found?),
        }
    }

    async fn need(
        &self,
        view: &FeatureView,
        table: &OfflineTable,
        published: Option<&GenerationState>,
    ) -> Result<Need, IngestError> {
        let since = published.map(|s| s.coverage.offline_version);
        let missing = match since {
            Some(since) if since < table.version() => runs_since(table, since).await?,
            _ => Some(Vec::new()),
        };
        let offline = Offline {
            version: table.version(),
            watermark: table.watermark(),
            missing: missing.as_deref(),
        };
        Ok(need(view, published.map(|s| &s.coverage), &offline))
    }

    /// Opens the writer that a need asks for. Where rows cannot be added to
    /// what is published, all of them are written anew.
    async fn writer(
        &self,
        view: &FeatureView,
        table: &OfflineTable,
        need: Need,
    ) -> Result<(Need, Box<dyn GenerationWriter>), IngestError> {
        let layout = Arc::new(RowLayout::of(view));
        let open = |mode| {
            self.store
                .writer(&view.name, view.version, Arc::clone(&layout), mode)
        };
        if matches!(need, Need::Added { .. } | Need::Coverage) {
            let up_to = table.watermark();
            match open(WriteMode::Upsert { up_to }).await {
                Err(StoreError::LayoutChanged { .. } | StoreError::NotPublished { .. }) => {}
                opened => return Ok((need, opened?)),
            }
        }
        Ok((Need::All, open(WriteMode::Create).await?))
    }

    async fn write(
        &self,
        view: &FeatureView,
        table: &OfflineTable,
        need: Need,
        mut writer: Box<dyn GenerationWriter>,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Filled, IngestError> {
        let since = match need {
            Need::Added { since } => Some(since),
            _ => None,
        };
        let mut rows = 0;
        if matches!(need, Need::All | Need::Added { .. }) {
            let not_before = match view.ttl {
                Some(ttl) if self.settings.leave_out_expired && need::has_event_time(view) => {
                    Some(ttl.before(table.watermark()))
                }
                _ => None,
            };
            let name = view.name.clone();
            let read = table.online_rows(since, not_before).await?;
            let read = read.map(move |batch| batch.map_err(|e| EngineError::from_query(&name, e)));
            let ahead = self.settings.batches_ahead;
            rows = pump::pump(view, read, writer.as_mut(), ahead, progress).await?;
        }
        let coverage = Coverage {
            offline_version: table.version(),
            as_of: table.watermark(),
            ttl: view.ttl.filter(|_| need::has_event_time(view)),
        };
        let state = writer.publish(coverage).await?;
        tracing::info!(
            view = view.name,
            version = view.version,
            rows,
            as_of = %state.coverage.as_of,
            "online"
        );
        Ok(Filled::Written { rows, state })
    }
}

/// Records of the runs after an offline version; `None` if not all are known,
/// or there are too many to read.
async fn runs_since(
    table: &OfflineTable,
    since: u64,
) -> Result<Option<Vec<RunRecord>>, IngestError> {
    if table.version() - since > RUNS_READ_MAX {
        return Ok(None);
    }
    Ok(table.runs_after(since).await?)
}
