//! The rows that an aggregate sees, and ranges in terms of them.

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::filter;
use datafusion::error::Result;

use super::RowRange;

/// Inputs and ranges over them.
pub(super) struct Selection {
    pub(super) inputs: Vec<ArrayRef>,
    pub(super) ranges: Vec<RowRange>,
}

impl Selection {
    pub(super) fn all(inputs: &[ArrayRef], ranges: &[RowRange]) -> Self {
        Self {
            inputs: inputs.to_vec(),
            ranges: ranges.to_vec(),
        }
    }

    /// Of the rows where `kept` is true.
    pub(super) fn of(
        inputs: &[ArrayRef],
        kept: &BooleanArray,
        ranges: &[RowRange],
    ) -> Result<Self> {
        let mut before = Vec::with_capacity(kept.len() + 1);
        let mut count = 0u32;
        before.push(0);
        for kept in kept.values() {
            count += u32::from(kept);
            before.push(count);
        }
        let moved = |range: &RowRange| before[range.start as usize]..before[range.end as usize];
        let inputs = inputs.iter().map(|input| Ok(filter(input, kept)?));
        Ok(Self {
            inputs: inputs.collect::<Result<_>>()?,
            ranges: ranges.iter().map(moved).collect(),
        })
    }
}

/// Rows that are true in the mask and NULL in none of the arrays; `None`: all.
pub(super) fn kept_rows(mask: Option<&BooleanArray>, arrays: &[ArrayRef]) -> Option<BooleanArray> {
    let mut kept = mask.map(true_rows);
    for array in arrays {
        let valid = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        if let Some(valid) = valid.map(NullBuffer::into_inner) {
            kept = Some(match kept {
                Some(kept) => &kept & &valid,
                None => valid,
            });
        }
    }
    kept.map(|kept| BooleanArray::new(kept, None))
}

/// Rows that are true, and not NULL.
pub(in crate::asof) fn true_rows(mask: &BooleanArray) -> BooleanBuffer {
    match mask.nulls() {
        Some(valid) => mask.values() & valid.inner(),
        None => mask.values().clone(),
    }
}
