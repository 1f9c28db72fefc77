//! Rows as bytes: the layout of a view version's online rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use granary_model::definitions::{Column, FeatureView};
use granary_model::{FeatureStatus, UtcMicros};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

/// Which columns a row has, in which order, and how they are laid out.
///
/// A row: event time (timestamped views), created time (where the view has
/// one), then the features in SELECT order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowLayout {
    pub event_time: bool,
    pub created_time: bool,
    pub features: Vec<Column>,
}

impl RowLayout {
    /// The layout of a view's online rows.
    pub fn of(_view: &FeatureView) -> Self {
        todo!()
    }

    /// Encodes the rows of a batch that has the view's columns by name: event
    /// time and created time (`times` names them), then the features.
    pub fn encode(
        &self,
        _batch: &RecordBatch,
        _event_time: Option<&str>,
        _created_time: Option<&str>,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        todo!()
    }

    /// Of two rows of one key the greatest: by event time, then created time
    /// (NULL counts as the event time), then the features in order, NULL
    /// lowest, NaN highest.
    pub fn join<'a>(&self, _a: &'a [u8], _b: &'a [u8]) -> Result<&'a [u8], StoreError> {
        todo!()
    }
}

/// Builds the answer's columns of one view from its rows.
///
/// Made for one read: `entities` rows, the features at `projection` of the
/// layout. Rows may come in any order; entities without one are NOT_FOUND.
#[derive(Debug)]
pub struct RowReader {
    _private: (),
}

/// What a read found of one view.
#[derive(Debug, Clone)]
pub struct DecodedRows {
    /// One array a projected feature, each of `entities` values.
    pub values: Vec<ArrayRef>,
    /// One list a projected feature, or shared where all are alike.
    pub statuses: Vec<Arc<Vec<FeatureStatus>>>,
    /// Event time of each entity's row, where the layout has one.
    pub event_times: Option<Vec<Option<UtcMicros>>>,
}

impl RowReader {
    /// `fresh_since`: rows with an earlier event time are OUTSIDE_MAX_AGE
    /// (values NULL, event time given).
    pub fn new(
        _layout: &Arc<RowLayout>,
        _projection: Vec<usize>,
        _entities: usize,
        _fresh_since: Option<UtcMicros>,
    ) -> Self {
        todo!()
    }

    pub fn push(&mut self, _entity: usize, _row: &[u8]) -> Result<(), StoreError> {
        todo!()
    }

    pub fn finish(self) -> DecodedRows {
        todo!()
    }
}
