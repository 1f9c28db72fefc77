//! Offline tables: what runs wrote, in Delta Lake.
//!
//! `offline/<view>/v<version>/` under the root. Columns: those of
//! [`FeatureView::row_schema`], then `_as_of` (T of the run) and `_created`
//! (when it was committed), both TIMESTAMP.

use datafusion::execution::SendableRecordBatchStream;
use granary_model::{FeatureView, UtcMicros};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::error::EngineError;

pub const AS_OF_COLUMN: &str = "_as_of";
pub const CREATED_COLUMN: &str = "_created";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunMode {
    /// Adds the rows after `from` (timestamped), or the run at T (snapshot).
    Append,
    /// Replaces what is there in (from, as_of] (timestamped) or at T (snapshot), in one commit.
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
    /// Sources that were read as they are now.
    pub current_state: Vec<String>,
    pub columns: Vec<ColumnStatistics>,
    /// TIMESTAMP features with values later than the row's event time (or T):
    /// a leak in the making.
    pub later_than_event: Vec<String>,
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

/// The offline table of one version of a view.
#[derive(Debug, Clone)]
pub struct OfflineTable {
    _private: (),
}

impl OfflineTable {
    /// `None` where no run was committed yet.
    pub async fn open(_engine: &Engine, _view: &FeatureView) -> Result<Option<Self>, EngineError> {
        todo!()
    }

    /// The Delta version that this handle reads.
    pub fn version(&self) -> u64 {
        todo!()
    }

    /// Greatest T of the committed runs.
    pub fn watermark(&self) -> UtcMicros {
        todo!()
    }

    /// T of every committed snapshot run, ascending; of a timestamped view only the watermark.
    pub async fn run_times(&self) -> Result<Vec<UtcMicros>, EngineError> {
        todo!()
    }

    /// Records of the newest runs, newest first.
    pub async fn runs(&self, _limit: usize) -> Result<Vec<RunRecord>, EngineError> {
        todo!()
    }

    /// Rows for the online store, sorted by the key columns ascending, with
    /// the columns of `row_schema`, several rows of one key possible.
    ///
    /// Snapshot: the rows of the newest run. Timestamped: with `since`, rows
    /// of commits after that Delta version only, else all; rows with event
    /// time before `not_before` may be left out.
    pub async fn online_rows(
        &self,
        _since: Option<u64>,
        _not_before: Option<UtcMicros>,
    ) -> Result<SendableRecordBatchStream, EngineError> {
        todo!()
    }
}
