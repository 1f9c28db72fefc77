//! Everything else, and functions of users: DataFusion's own accumulators.

use arrow::array::{Array, ArrayRef, new_empty_array};
use arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::scalar::ScalarValue;

use super::{Call, RowRange};

/// Aggregates of how often values occur: exact, whatever the type of the values.
const MULTISETS: [&str; 3] = ["entropy", "top_k", "top_share"];

/// Slides an accumulator along the ranges where it can retract and its inputs
/// are exact, else starts anew for each range.
pub(super) fn accumulate(
    call: &Call,
    inputs: &[ArrayRef],
    ranges: &[RowRange],
) -> Result<ArrayRef> {
    if ranges.is_empty() {
        return Ok(new_empty_array(call.return_field.data_type()));
    }
    let exact = MULTISETS.contains(&call.function.name())
        || !call.argument_fields.iter().any(|f| inexact(f.data_type()));
    let slides = exact && accumulator(call, true)?.supports_retract_batch();
    let values = match slides {
        true => sliding(call, inputs, ranges)?,
        false => ranges
            .iter()
            .map(|range| {
                let mut accumulator = accumulator(call, false)?;
                if !range.is_empty() {
                    accumulator.update_batch(&slice(inputs, range))?;
                }
                accumulator.evaluate()
            })
            .collect::<Result<Vec<_>>>()?,
    };
    ScalarValue::iter_to_array(values)
}

fn sliding(call: &Call, inputs: &[ArrayRef], ranges: &[RowRange]) -> Result<Vec<ScalarValue>> {
    let mut window = 0..0;
    let mut sliding = accumulator(call, true)?;
    let mut values = Vec::with_capacity(ranges.len());
    for range in ranges {
        // Overlapping and ahead; all else is cheaper from the start.
        if range.start < window.start || range.end < window.end || range.start >= window.end {
            sliding = accumulator(call, true)?;
            window = range.start..range.start;
        }
        if window.end < range.end {
            sliding.update_batch(&slice(inputs, &(window.end..range.end)))?;
        }
        if window.start < range.start {
            sliding.retract_batch(&slice(inputs, &(window.start..range.start)))?;
        }
        window = range.clone();
        values.push(sliding.evaluate()?);
    }
    Ok(values)
}

/// The rows of a range.
pub(super) fn slice(inputs: &[ArrayRef], range: &RowRange) -> Vec<ArrayRef> {
    let (start, length) = (range.start as usize, (range.end - range.start) as usize);
    inputs
        .iter()
        .map(|input| input.slice(start, length))
        .collect()
}

/// Floats, also within others: what was added cannot be taken away again.
fn inexact(data_type: &DataType) -> bool {
    data_type.is_floating() || data_type.is_nested()
}

/// DISTINCT is done before: the accumulator sees every row once.
pub(super) fn accumulator(call: &Call, sliding: bool) -> Result<Box<dyn Accumulator>> {
    let arguments = AccumulatorArgs {
        return_field: call.return_field.clone(),
        schema: &call.schema,
        ignore_nulls: call.ignore_nulls,
        order_bys: &[],
        is_reversed: false,
        name: call.function.name(),
        is_distinct: false,
        exprs: &call.arguments,
        expr_fields: &call.argument_fields,
    };
    match sliding {
        true => call.function.create_sliding_accumulator(arguments),
        false => call.function.accumulator(arguments),
    }
}
