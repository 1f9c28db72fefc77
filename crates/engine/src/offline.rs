//! Offline tables: what runs wrote, in Delta Lake.
//!
//! `offline/<view>/v<version>/` under the root. Columns: those of
//! [`FeatureView::row_schema`], then `_as_of` (T of the run) and `_created`
//! (when the run began to write them; the record of the run tells when it was
//! committed), both TIMESTAMP. Any engine that knows Delta Lake reads the
//! tables; Granary alone writes them: see `log` for commits and `write` for
//! the files.

mod distinct;
pub(crate) mod log;
pub(crate) mod orphans;
pub(crate) mod read;
pub(crate) mod statistics;
pub(crate) mod table;
pub(crate) mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt, stream};
use granary_model::{FeatureView, UtcMicros};
use serde::{Deserialize, Serialize};
use tracing::instrument;

use self::log::{DataFile, LogState, TableLog};
use crate::engine::Engine;
use crate::error::EngineError;

pub const AS_OF_COLUMN: &str = "_as_of";
pub const CREATED_COLUMN: &str = "_created";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// Adds the rows after `from` (incremental), or the run at T.
    Append,
    /// Replaces what is there in (from, as_of] (incremental) or at T, in one commit.
    Replace,
}

/// One committed run; stored in the commit itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    pub view: String,
    pub version: u32,
    pub mode: RunMode,
    pub from: Option<UtcMicros>,
    pub as_of: UtcMicros,
    pub committed_at: UtcMicros,
    /// The Delta version of the commit.
    pub offline_version: u64,
    pub rows: u64,
    /// Rows left out since a key was NULL.
    pub null_keys: u64,
    /// Rows left out since the event time was NULL.
    pub null_event_times: u64,
    /// Rows left out since the event time lay in the future when the run was
    /// made; a run after that time takes them in. Known of views that work row
    /// by row.
    #[serde(default)]
    pub future_event_times: u64,
    /// Sources that were read as they are now.
    pub current_state: Vec<String>,
    pub columns: Vec<ColumnStatistics>,
    /// TIMESTAMP features with values later than the row's event time (or T):
    /// a leak in the making.
    pub later_than_event: Vec<String>,
    /// Streams that were read and lost events, and before which time some of
    /// their events were gone.
    #[serde(default)]
    pub trimmed: BTreeMap<String, UtcMicros>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ColumnStatistics {
    pub name: String,
    pub nulls: u64,
    /// As text, in the form of Granary's JSON.
    pub min: Option<String>,
    pub max: Option<String>,
    pub mean: Option<f64>,
    /// Estimated.
    pub distinct: Option<u64>,
}

/// Commits read at once.
const COMMITS_READ: usize = 16;

/// The offline table of one version of a view, as it was when it was opened.
#[derive(Debug, Clone)]
pub struct OfflineTable {
    engine: Engine,
    view: Arc<FeatureView>,
    log: TableLog,
    state: Arc<LogState>,
}

impl OfflineTable {
    /// `None` where no run was committed yet.
    #[instrument(skip_all, fields(view = view.name), err)]
    pub async fn open(engine: &Engine, view: &FeatureView) -> Result<Option<Self>, EngineError> {
        let log = TableLog::new(engine, view)?;
        Ok(log.read().await?.map(|state| Self {
            engine: engine.clone(),
            view: Arc::new(view.clone()),
            log,
            state: Arc::new(state),
        }))
    }

    /// Whether a run of this version was committed.
    pub async fn exists(engine: &Engine, view: &FeatureView) -> Result<bool, EngineError> {
        TableLog::new(engine, view)?.exists().await
    }

    /// The Delta version that this handle reads.
    pub fn version(&self) -> u64 {
        self.state.version
    }

    /// Greatest T of the committed runs.
    pub fn watermark(&self) -> UtcMicros {
        self.state.watermark
    }

    /// T of every committed run, ascending; of an incremental view only the watermark.
    pub async fn run_times(&self) -> Result<Vec<UtcMicros>, EngineError> {
        Ok(match self.view.is_incremental() {
            true => vec![self.state.watermark],
            false => run_times(&self.state.files).into_iter().collect(),
        })
    }

    /// Rows that the table holds, of all runs.
    pub fn rows(&self) -> u64 {
        self.state.files.iter().filter_map(|f| f.rows).sum()
    }

    /// Bytes of the files that the table holds.
    pub fn bytes(&self) -> u64 {
        self.state.files.iter().map(|f| f.bytes).sum()
    }

    /// Records of the newest runs, newest commit first.
    #[instrument(skip_all, fields(view = self.view.name), err)]
    pub async fn runs(&self, limit: usize) -> Result<Vec<RunRecord>, EngineError> {
        stream::iter((0..=self.state.version).rev())
            .map(|version| self.log.record(version))
            .buffered(COMMITS_READ)
            .try_filter_map(|record| async move { Ok(record) })
            .take(limit)
            .try_collect()
            .await
    }

    /// Records of the runs after a Delta version, newest first; `None` where one
    /// of the commits has none that can be read.
    pub async fn runs_after(&self, version: u64) -> Result<Option<Vec<RunRecord>>, EngineError> {
        stream::iter((version + 1..=self.state.version).rev())
            .map(|version| self.log.record(version))
            .buffered(COMMITS_READ)
            .try_collect()
            .await
            .map(|records: Vec<Option<RunRecord>>| records.into_iter().collect())
    }

    /// The table for queries. With `as_of`: the columns of `row_schema` and the
    /// view's values as of that time, one row a key: of the newest run at or
    /// before it, of a timestamped view each key's greatest row; what the TTL
    /// says is too old is left out. Without: all rows of all runs, with `_as_of`
    /// and `_created`.
    pub fn table_provider(
        &self,
        as_of: Option<UtcMicros>,
    ) -> Result<Arc<dyn TableProvider>, EngineError> {
        match as_of {
            None => Ok(Arc::new(self.scan(&self.state.files))),
            Some(t) => self.rows_as_of(t),
        }
    }

    /// Rows for the online store, sorted by the key columns ascending, with
    /// the columns of `row_schema`, several rows of one key possible.
    ///
    /// Incremental: with `since`, rows of commits after that Delta version only,
    /// else all. Any other: the rows of the newest run. Rows with an event time
    /// before `not_before` may be left out.
    #[instrument(skip_all, fields(view = self.view.name), err)]
    pub async fn online_rows(
        &self,
        since: Option<u64>,
        not_before: Option<UtcMicros>,
    ) -> Result<SendableRecordBatchStream, EngineError> {
        let mut files = self.state.files.clone();
        if !self.view.is_incremental() {
            let newest = run_times(&files).pop_last();
            files.retain(|f| Some(f.stamp.as_of) == newest);
        } else if let Some(since) = since
            && let Some(added) = self.log.added_after(since, self.state.version).await?
        {
            files.retain(|f| added.contains(&f.path));
        }
        self.sorted_rows(files, not_before).await
    }
}

fn run_times(files: &[DataFile]) -> BTreeSet<UtcMicros> {
    files.iter().map(|f| f.stamp.as_of).collect()
}
