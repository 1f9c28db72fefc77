//! The values of rows in memory: by the kernels, or along a long partition.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute::concat;
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::scalar::ScalarValue;

use super::columns::Columns;
use super::exec::{PrecedingWindowsSpec, Window};
use super::frame::{Edge, Frame};
use super::running::Running;
use super::sorted::Sorted;
use crate::asof::kernels::RowRange;

/// Rows whose results are lists that are made at once.
const LIST_ROWS: u32 = 4096;

/// What is to be computed, over extended rows (see [`Columns`]).
#[derive(Debug)]
pub(super) struct Windows {
    spec: Arc<PrecedingWindowsSpec>,
    columns: Columns,
    output: SchemaRef,
}

/// The windows that run along one partition, each in its place.
#[derive(Debug)]
pub(super) struct Runs(Vec<Option<Running>>);

/// Rows of partitions that windows run along, with the state.
pub(super) struct RunRows<'a> {
    pub(super) runs: &'a mut Runs,
    pub(super) rows: RowRange,
}

impl Windows {
    pub(super) fn new(
        spec: Arc<PrecedingWindowsSpec>,
        input: &SchemaRef,
        output: SchemaRef,
    ) -> Result<Self> {
        let columns = Columns::new(&spec, input)?;
        Ok(Self {
            spec,
            columns,
            output,
        })
    }

    pub(super) fn columns(&self) -> &Columns {
        &self.columns
    }

    pub(super) fn output(&self) -> &SchemaRef {
        &self.output
    }

    /// The partition, as an error names it.
    pub(super) fn partition_words(&self) -> String {
        let keys: Vec<String> = self
            .spec
            .partition_by
            .iter()
            .map(ToString::to_string)
            .collect();
        match keys.is_empty() {
            true => "the one partition (no PARTITION BY)".into(),
            false => format!("one partition (PARTITION BY {})", keys.join(", ")),
        }
    }

    fn any(&self, holds: impl Fn(&Window) -> bool) -> bool {
        self.spec.windows.iter().any(holds)
    }

    /// Whether a row can be answered only once all rows equal to it are there.
    pub(super) fn looks_at_peers(&self) -> bool {
        self.any(|window| matches!(window.frame, Frame::Range { .. }))
    }

    /// Whether a row can be answered only once its partition is complete.
    pub(super) fn looks_at_partition(&self) -> bool {
        self.any(|window| window.frame == Frame::Partition)
    }

    /// Whether windows would run along a long partition.
    pub(super) fn can_run(&self) -> bool {
        self.any(Running::can)
    }

    /// Runs along a partition that starts at this row.
    pub(super) fn runs(&self, start: u32) -> Result<Runs> {
        let windows = self.spec.windows.iter();
        let runs = windows.map(|window| match Running::can(window) {
            true => Running::new(&window.call, start).map(Some),
            false => Ok(None),
        });
        runs.collect::<Result<_>>().map(Runs)
    }

    pub(super) fn sorted(&self, rows: &RecordBatch) -> Result<Sorted> {
        Sorted::new(
            &self.columns.partition_by(rows),
            &self.columns.order_by(rows),
            rows.num_rows(),
            self.looks_at_peers(),
        )
    }

    /// The first row that frames of `next` and of what follows it in its
    /// partition can reach. `last`: the last partition, which `next` lies in
    /// or ends; windows run along it where `runs` are given.
    pub(super) fn reach(
        &self,
        sorted: &Sorted,
        last: &RowRange,
        next: u32,
        runs: Option<&Runs>,
    ) -> Result<u32> {
        let mut reach = next;
        for (place, window) in self.spec.windows.iter().enumerate() {
            let running = runs.and_then(|runs| runs.0[place].as_ref());
            let first = match (running, &window.frame) {
                (Some(running), _) => running.fed(),
                (
                    None,
                    Frame::Rows {
                        start: Some(start), ..
                    },
                ) => next.saturating_sub(u32::try_from(*start).unwrap_or(u32::MAX)),
                (
                    None,
                    Frame::Range {
                        start: Edge::Peers, ..
                    },
                ) => next,
                (
                    None,
                    Frame::Range {
                        start: Edge::Distance(distance),
                        ..
                    },
                ) => sorted.reach(distance, next.min(last.end - 1))?,
                (None, _) => last.start,
            };
            reach = reach.min(first.max(last.start));
        }
        // One row of a partition that is run along tells whether it goes on.
        Ok(match runs {
            Some(_) => reach.min(last.end - 1),
            None => reach,
        })
    }

    /// Rows of the input with the windows' values; `runs`: ascending parts of
    /// `answered` that windows run along.
    pub(super) fn answer(
        &self,
        rows: &RecordBatch,
        sorted: &Sorted,
        answered: &RowRange,
        runs: &mut [RunRows],
    ) -> Result<RecordBatch> {
        let slice = |column: &ArrayRef| column.slice(answered.start as usize, answered.len());
        let mut columns: Vec<ArrayRef> = self.columns.input(rows).iter().map(slice).collect();
        for place in 0..self.spec.windows.len() {
            columns.push(self.values(place, rows, sorted, answered, runs)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(answered.len()));
        let batch = RecordBatch::try_new_with_options(self.output.clone(), columns, &options)?;
        Ok(batch)
    }

    fn values(
        &self,
        place: usize,
        rows: &RecordBatch,
        sorted: &Sorted,
        answered: &RowRange,
        runs: &mut [RunRows],
    ) -> Result<ArrayRef> {
        let window = &self.spec.windows[place];
        let inputs = self.columns.arguments(place, rows);
        let filter = self.columns.filter(place, rows)?;
        let kernels = |rows: RowRange| -> Result<Vec<ArrayRef>> {
            let mut parts = Vec::new();
            for rows in pieces(rows, window) {
                let frames = sorted.frames(&window.frame, &rows)?;
                parts.push(window.call.evaluate(&inputs, filter.as_ref(), &frames)?);
            }
            Ok(parts)
        };
        let mut parts: Vec<ArrayRef> = Vec::new();
        let mut next = answered.start;
        for RunRows { runs, rows } in runs {
            if let Some(running) = &mut runs.0[place]
                && rows.start < rows.end
            {
                parts.extend(kernels(next..rows.start)?);
                let frames = sorted.frames(&window.frame, rows)?;
                let values = running.answer(&inputs, filter.as_ref(), &frames)?;
                parts.push(ScalarValue::iter_to_array(values)?);
                next = rows.end;
            }
        }
        parts.extend(kernels(next..answered.end)?);
        match parts.as_slice() {
            [] => return Ok(new_empty_array(window.field.data_type())),
            [part] => return Ok(part.clone()),
            _ => {}
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        Ok(concat(&parts)?)
    }
}

/// Lists may be as long as frames: they are made a few at a time.
fn pieces(rows: RowRange, window: &Window) -> impl Iterator<Item = RowRange> {
    let step = match window.field.data_type().is_nested() {
        true => LIST_ROWS,
        false => u32::MAX,
    };
    let mut next = rows.start;
    std::iter::from_fn(move || {
        (next < rows.end).then(|| {
            let start = next;
            next = rows.end.min(start.saturating_add(step));
            start..next
        })
    })
}

impl Runs {
    /// So many rows at the front are gone.
    pub(super) fn forget(&mut self, rows: u32) {
        self.0
            .iter_mut()
            .flatten()
            .for_each(|running| running.forget(rows));
    }

    pub(super) fn size(&self) -> usize {
        self.0.iter().flatten().map(Running::size).sum()
    }
}
