//! Frames that begin with their partition, row by row, for partitions too long
//! to hold: an aggregate with a small state runs along, and rows are let go.

use arrow::array::{ArrayRef, BooleanArray};
use arrow::compute::filter;
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::scalar::ScalarValue;

use super::exec::Window;
use crate::asof::kernels::{Call, RowRange};
use crate::asof::order::one_nan;

/// Aggregates whose state stays small however many rows it is of, and whose
/// accumulators may be asked again and again.
const SMALL: [&str; 24] = [
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "decayed_latest",
    "first_value",
    "last_value",
    "max",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "stddev",
    "stddev_pop",
    "sum",
];

/// One aggregate of one partition.
#[derive(Debug)]
pub(super) struct Running {
    accumulator: Box<dyn Accumulator>,
    /// Rows before this one are in the accumulator.
    fed: u32,
    last: Option<ScalarValue>,
}

impl Running {
    /// Whether a window can run along.
    pub(super) fn can(window: &Window) -> bool {
        let name = window.call.function.name();
        let small = SMALL.contains(&name) || matches!(name, "var" | "var_pop");
        small
            && !window.call.distinct
            && window.frame.starts_with_partition()
            && window.frame.ends_with_row()
    }

    /// Of a partition that starts at this row.
    pub(super) fn new(call: &Call, start: u32) -> Result<Self> {
        Ok(Self {
            accumulator: call.accumulator()?,
            fed: start,
            last: None,
        })
    }

    /// Rows before this one are no longer needed.
    pub(super) fn fed(&self) -> u32 {
        self.fed
    }

    /// So many rows at the front are gone.
    pub(super) fn forget(&mut self, rows: u32) {
        self.fed -= rows;
    }

    pub(super) fn size(&self) -> usize {
        self.accumulator.size()
    }

    /// The values over frames that end where these do, ascending.
    pub(super) fn answer(
        &mut self,
        inputs: &[ArrayRef],
        mask: Option<&BooleanArray>,
        frames: &[RowRange],
    ) -> Result<Vec<ScalarValue>> {
        let inputs: Vec<ArrayRef> = inputs.iter().map(one_nan).collect();
        let mut values = Vec::with_capacity(frames.len());
        for frame in frames {
            if self.fed < frame.end {
                self.feed(&inputs, mask, frame.end)?;
                self.last = None;
            }
            let value = match &self.last {
                Some(value) => value.clone(),
                None => self.accumulator.evaluate()?,
            };
            self.last = Some(value.clone());
            values.push(value);
        }
        Ok(values)
    }

    fn feed(&mut self, inputs: &[ArrayRef], mask: Option<&BooleanArray>, end: u32) -> Result<()> {
        let (start, length) = (self.fed as usize, (end - self.fed) as usize);
        self.fed = end;
        let slice = |array: &ArrayRef| array.slice(start, length);
        let rows: Vec<ArrayRef> = match mask.map(|mask| mask.slice(start, length)) {
            None => inputs.iter().map(slice).collect(),
            Some(mask) => {
                let kept = inputs.iter().map(|input| Ok(filter(&slice(input), &mask)?));
                kept.collect::<Result<_>>()?
            }
        };
        match rows.first().is_some_and(|rows| rows.is_empty()) {
            true => Ok(()),
            false => self.accumulator.update_batch(&rows),
        }
    }
}
