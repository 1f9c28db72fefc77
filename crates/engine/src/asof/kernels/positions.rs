//! first_value, last_value, nth_value and array_agg: rows by their place.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, LargeListArray, ListArray, UInt32Array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::error::{DataFusionError, Result};

use super::RowRange;

fn pick(
    input: &ArrayRef,
    ranges: &[RowRange],
    row: impl Fn(&RowRange) -> Option<u32>,
) -> Result<ArrayRef> {
    let rows: UInt32Array = ranges.iter().map(row).collect();
    Ok(take(input, &rows, None)?)
}

pub(super) fn first(input: &ArrayRef, ranges: &[RowRange]) -> Result<ArrayRef> {
    pick(input, ranges, |range| {
        (!range.is_empty()).then_some(range.start)
    })
}

pub(super) fn last(input: &ArrayRef, ranges: &[RowRange]) -> Result<ArrayRef> {
    pick(input, ranges, |range| {
        (!range.is_empty()).then(|| range.end - 1)
    })
}

/// `n`: a constant column; negative counts from the end, 0 is nowhere.
pub(super) fn nth(input: &ArrayRef, n: &ArrayRef, ranges: &[RowRange]) -> Result<ArrayRef> {
    let n = cast(n, &DataType::Int64)?;
    let n: &Int64Array = n.as_primitive::<Int64Type>();
    let n = n.iter().next().flatten().unwrap_or(0);
    pick(input, ranges, |range| {
        let (start, end) = (i64::from(range.start), i64::from(range.end));
        let row = match n {
            0 => return None,
            1.. => start.checked_add(n - 1)?,
            _ => end.checked_add(n)?,
        };
        (start..end)
            .contains(&row)
            .then(|| u32::try_from(row).ok())
            .flatten()
    })
}

/// A list of the values of each range in their order, NULL for none.
pub(super) fn list(input: &ArrayRef, ranges: &[RowRange], result: &DataType) -> Result<ArrayRef> {
    let lengths = ranges
        .iter()
        .map(|range| (range.end - range.start) as usize);
    let total: usize = lengths.clone().sum();
    if u32::try_from(total).is_err() {
        return Err(DataFusionError::ResourcesExhausted(format!(
            "array_agg over windows would list {total} values at once"
        )));
    }
    let rows: UInt32Array = ranges.iter().cloned().flatten().map(Some).collect();
    let values = take(input, &rows, None)?;
    let nulls = NullBuffer::from_iter(ranges.iter().map(|range| !range.is_empty()));
    match result {
        DataType::List(field) if i32::try_from(total).is_ok() => {
            let offsets = OffsetBuffer::from_lengths(lengths);
            Ok(Arc::new(ListArray::try_new(
                field.clone(),
                offsets,
                values,
                Some(nulls),
            )?))
        }
        DataType::LargeList(field) => {
            let offsets = OffsetBuffer::from_lengths(lengths);
            Ok(Arc::new(LargeListArray::try_new(
                field.clone(),
                offsets,
                values,
                Some(nulls),
            )?))
        }
        other => Err(DataFusionError::Internal(format!(
            "array_agg does not give {other}"
        ))),
    }
}
