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
    /// Default: now.
    pub as_of: Option<UtcMicros>,
    pub strictly_before: bool,
    /// Name features `view__feature`.
    pub full_names: bool,
}

/// One feature for all entities.
#[derive(Debug, Clone)]
pub struct FeatureColumn {
    pub name: String,
    pub view: String,
    pub view_version: u32,
    pub data_type: FeatureType,
    /// NULL where the status is not `Present`.
    pub values: ArrayRef,
    pub statuses: Arc<Vec<FeatureStatus>>,
    /// Of timestamped views; shared between the features of a view.
    pub event_times: Option<Arc<Vec<Option<UtcMicros>>>>,
    /// The time that the values are as of: that of the run, or of the read.
    pub as_of: UtcMicros,
}

#[derive(Debug, Clone)]
pub struct ReadResponse {
    /// The catalog snapshot that answered.
    pub snapshot: u64,
    pub as_of: UtcMicros,
    pub entities: usize,
    /// In the order of the service's SELECT or of the request's list.
    pub features: Vec<FeatureColumn>,
}
