//! What a read asks and answers, in Arrow columns.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use granary_model::{Caller, FeatureStatus, FeatureType, UtcMicros};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadTarget {
    Service(String),
    /// Each `view.feature` or `view.*`.
    Features(Vec<String>),
}

#[derive(Debug, Clone)]
pub struct ReadRequest {
    pub caller: Caller,
    pub target: ReadTarget,
    /// Key columns by name; one row an entity.
    pub keys: RecordBatch,
    /// Inputs of on-demand views by name: one row an entity, or one for all.
    pub inputs: Vec<(String, ArrayRef)>,
    /// Rows of streams, by the stream's name, that count as already there for
    /// this one read, in every live view over the stream and under whatever keys
    /// they have. An event without a time is at the time of the read, one after
    /// it is not seen, and one whose DEDUPLICATE BY columns equal those of a
    /// stored event that is seen, or of an earlier one here, counts once.
    pub request_events: Vec<(String, RecordBatch)>,
    /// Default: now.
    pub as_of: Option<UtcMicros>,
    /// Only stored events before the time of the read, not at it; request events
    /// may be at it.
    ///
    /// Times are whole microseconds, so this is a read as of the microsecond
    /// before, with ages (TTL) still counted from the time of the read. Values
    /// of a run at exactly that time hold events at it and are refused as out
    /// of range, whether or not the rows asked for have any.
    pub strictly_before: bool,
    /// Name features `view__feature`.
    pub full_names: bool,
}

/// The time that the values of a column are as of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf {
    /// One for all rows: that of the run, or of the read.
    All(UtcMicros),
    /// One a row: cached results of SERVE QUERY were computed when they were.
    Rows(Arc<Vec<UtcMicros>>),
}

impl AsOf {
    pub fn of_row(&self, row: usize) -> UtcMicros {
        match self {
            Self::All(t) => *t,
            Self::Rows(times) => times[row],
        }
    }
}

/// One feature for all entities.
#[derive(Debug, Clone)]
pub struct FeatureColumn {
    /// The service's alias, else the feature's name; `view__feature` on request.
    pub name: Arc<str>,
    pub view: Arc<str>,
    pub view_version: u32,
    pub data_type: FeatureType,
    /// NULL where the status is not `Present`.
    pub values: ArrayRef,
    pub statuses: Arc<Vec<FeatureStatus>>,
    /// Of timestamped views; shared between the features of a view.
    pub event_times: Option<Arc<Vec<Option<UtcMicros>>>>,
    pub as_of: AsOf,
}

/// What a view that the answer is made of is as of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewAsOf {
    /// As the service's FROM names it; `view.alias` of what an on-demand view reads.
    pub alias: Arc<str>,
    pub as_of: AsOf,
}

#[derive(Debug, Clone)]
pub struct ReadResponse {
    /// The catalog snapshot that answered.
    pub snapshot: u64,
    /// The time of the read.
    pub as_of: UtcMicros,
    pub entities: usize,
    /// In the order of the service's SELECT or of the request's list.
    pub features: Vec<FeatureColumn>,
    /// Views that runs wrote or look-ups compute, selected or not; all others
    /// are as of the read.
    pub views: Vec<ViewAsOf>,
}
