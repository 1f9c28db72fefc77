//! `SERVE QUERY`: a view computed at request time for the keys asked for.

use arrow::array::RecordBatch;
use granary_model::{Definitions, FeatureView, UtcMicros};

use crate::engine::Engine;
use crate::error::EngineError;

/// A compiled look-up, made once a catalog snapshot.
#[derive(Debug)]
pub struct QueryLookup {
    _private: (),
}

impl QueryLookup {
    pub async fn new(
        _engine: &Engine,
        _definitions: &Definitions,
        _view: &FeatureView,
    ) -> Result<Self, EngineError> {
        todo!()
    }

    /// The rows of the keys as of t: the columns of `row_schema`, at most one
    /// row a key (of a timestamped view the greatest), in any order.
    /// `keys`: the view's key columns, distinct, without NULLs.
    pub async fn rows(
        &self,
        _keys: &RecordBatch,
        _as_of: UtcMicros,
    ) -> Result<RecordBatch, EngineError> {
        todo!()
    }
}
