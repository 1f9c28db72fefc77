//! What a plan reads of each of its streams, and the keys under which a
//! stream's events are filed.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array};
use arrow::compute::concat;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use granary_model::definitions::Column;
use sha2::{Digest, Sha256};

use super::rows::{ProgramRows, RowProgram};
use crate::error::EngineError;

/// Rows of a plan from one of its streams: a program a branch of UNION ALL.
#[derive(Debug)]
pub(crate) struct StreamRows {
    stream: String,
    projection: Vec<usize>,
    /// Each with the places of its columns in the projection.
    branches: Vec<(RowProgram, Vec<usize>)>,
}

impl StreamRows {
    /// One for each stream of an optimised plan.
    pub(crate) fn compile(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<Self>> {
        let programs = RowProgram::compile(state, plan)?;
        let streams: BTreeSet<String> = programs.iter().map(|p| p.stream.clone()).collect();
        let mut programs = programs;
        let of_streams = streams.into_iter().map(|stream| {
            let own = programs.extract_if(.., |program| program.stream == stream);
            let own: Vec<RowProgram> = own.collect();
            let read: BTreeSet<usize> = own.iter().flat_map(|p| &p.projection).copied().collect();
            let projection: Vec<usize> = read.into_iter().collect();
            let branches = own.into_iter().map(|program| {
                let place = |column: &usize| projection.binary_search(column).ok();
                let places = program.projection.iter().filter_map(place).collect();
                (program, places)
            });
            Self {
                branches: branches.collect(),
                stream,
                projection: projection.clone(),
            }
        });
        Ok(of_streams.collect())
    }

    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// The columns of the stream's relation that are read, by place, ascending.
    pub(crate) fn projection(&self) -> &[usize] {
        &self.projection
    }

    /// Whether every event gives one row at most.
    pub(crate) fn is_one_to_one(&self) -> bool {
        matches!(self.branches.as_slice(), [(program, _)] if program.is_one_to_one())
    }

    /// Whether every event gives one row.
    pub(crate) fn is_total(&self) -> bool {
        matches!(self.branches.as_slice(), [(program, _)] if program.is_total())
    }

    /// `events`: the columns of the projection.
    pub(crate) fn rows(&self, events: &RecordBatch) -> Result<Vec<ProgramRows>> {
        let branches = self.branches.iter();
        let rows = branches.map(|(program, places)| program.rows(&events.project(places)?));
        rows.collect()
    }
}

/// How the events of a stream are filed under the keys of a view.
#[derive(Debug)]
pub struct EventIndex {
    /// The same for all views that would file alike; another one when what
    /// decides over the keys changes.
    pub name: String,
    /// Names and types of the key columns.
    pub keys: Vec<Column>,
    rows: StreamRows,
}

impl EventIndex {
    /// One for each stream of an optimised plan that gives the keys.
    pub(super) fn compile(
        state: &SessionState,
        keyed: &LogicalPlan,
        keys: &[Column],
    ) -> Result<Vec<Arc<Self>>> {
        let types: Vec<String> = keys.iter().map(|key| key.data_type.to_string()).collect();
        let text = format!("({}) {}", types.join(", "), keyed.display_indent());
        let digest = Sha256::digest(text.as_bytes());
        let name: String = digest[..12]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let of_streams = StreamRows::compile(state, keyed)?.into_iter();
        let indexes = of_streams.map(|rows| {
            Arc::new(Self {
                name: name.clone(),
                keys: keys.to_vec(),
                rows,
            })
        });
        Ok(indexes.collect())
    }

    pub fn stream(&self) -> &str {
        self.rows.stream()
    }

    /// The columns of the stream's relation that decide over keys, by place.
    pub fn projection(&self) -> &[usize] {
        self.rows.projection()
    }

    /// The keys of events: a column a key, and of each row the event it is of.
    /// An event may have none, or several. `events`: the columns of the
    /// projection.
    pub fn keys_of(&self, events: &RecordBatch) -> Result<(Vec<ArrayRef>, Vec<u32>), EngineError> {
        let failed = |e| EngineError::from_query(self.stream(), e);
        let made = self.rows.rows(events).map_err(failed)?;
        let columns = self.keys.iter().enumerate().map(|(place, key)| {
            let parts: Vec<_> = made
                .iter()
                .map(|made| made.rows.column(place).as_ref())
                .collect();
            match parts.is_empty() {
                true => Ok(new_empty_array(&key.data_type.to_arrow())),
                false => concat(&parts).map_err(|e| failed(e.into())),
            }
        });
        let columns = columns.collect::<Result<_, _>>()?;
        Ok((
            columns,
            made.into_iter().flat_map(|made| made.events).collect(),
        ))
    }
}
