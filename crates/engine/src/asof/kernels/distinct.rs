//! DISTINCT: every value of a range once, at its first place.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, UInt32Array, new_empty_array};
use arrow::compute::{concat, take};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::Result;

use super::RowRange;
use crate::asof::order::one_nan;

/// Rows that are copied for an aggregate at once.
const COPIED_ROWS: usize = 1 << 20;

/// A number for each row, equal where all inputs are; NULLs are equal, and NaNs.
fn identities(inputs: &[ArrayRef]) -> Result<(Vec<u32>, usize)> {
    let inputs: Vec<ArrayRef> = inputs.iter().map(one_nan).collect();
    let fields = inputs
        .iter()
        .map(|input| SortField::new(input.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let rows = converter.convert_columns(&inputs)?;
    let mut numbers: HashMap<&[u8], u32> = HashMap::default();
    let mut identities = Vec::with_capacity(rows.num_rows());
    for row in &rows {
        let next = numbers.len() as u32;
        identities.push(*numbers.entry(row.data()).or_insert(next));
    }
    Ok((identities, numbers.len()))
}

/// How many distinct rows each range has: a multiset slides along the ranges.
pub(super) fn count(inputs: &[ArrayRef], ranges: &[RowRange]) -> Result<ArrayRef> {
    let (identities, kinds) = identities(inputs)?;
    let mut seen = vec![0u32; kinds];
    let mut distinct = 0i64;
    let mut window = 0..0;
    let add = |row: u32, seen: &mut Vec<u32>, distinct: &mut i64| {
        let count = &mut seen[identities[row as usize] as usize];
        *distinct += i64::from(*count == 0);
        *count += 1;
    };
    let remove = |row: u32, seen: &mut Vec<u32>, distinct: &mut i64| {
        let count = &mut seen[identities[row as usize] as usize];
        *count -= 1;
        *distinct -= i64::from(*count == 0);
    };
    let mut counts = Vec::with_capacity(ranges.len());
    for range in ranges {
        let slides =
            range.start >= window.start && range.end >= window.end && range.start <= window.end;
        if !slides {
            for row in window {
                remove(row, &mut seen, &mut distinct);
            }
            window = range.start..range.start;
        }
        for row in window.end..range.end {
            add(row, &mut seen, &mut distinct);
        }
        for row in window.start..range.start {
            remove(row, &mut seen, &mut distinct);
        }
        window = range.clone();
        counts.push(distinct);
    }
    Ok(Arc::new(Int64Array::from(counts)))
}

/// Any aggregate of the distinct rows of each range, which are copied side by side.
pub(super) fn evaluate(
    inputs: &[ArrayRef],
    ranges: &[RowRange],
    aggregate: impl Fn(&[ArrayRef], &[RowRange]) -> Result<ArrayRef>,
) -> Result<ArrayRef> {
    let before = same_before(inputs)?;
    let mut results = Vec::new();
    let mut rows: Vec<u32> = Vec::new();
    let mut copied: Vec<RowRange> = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        let start = rows.len() as u32;
        rows.extend(range.clone().filter(|row| {
            // A row is the first of its kind if the one before lies outside.
            before[*row as usize].is_none_or(|before| before < range.start)
        }));
        copied.push(start..rows.len() as u32);
        if rows.len() >= COPIED_ROWS || index + 1 == ranges.len() {
            let taken = UInt32Array::from(std::mem::take(&mut rows));
            let inputs = inputs
                .iter()
                .map(|input| Ok(take(input, &taken, None)?))
                .collect::<Result<Vec<_>>>()?;
            results.push(aggregate(&inputs, &std::mem::take(&mut copied))?);
        }
    }
    if results.is_empty() {
        let none: Vec<ArrayRef> = inputs
            .iter()
            .map(|input| new_empty_array(input.data_type()))
            .collect();
        return aggregate(&none, &[]);
    }
    let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
    Ok(concat(&results)?)
}

/// The last row before each row that equals it.
fn same_before(inputs: &[ArrayRef]) -> Result<Vec<Option<u32>>> {
    let (identities, kinds) = identities(inputs)?;
    let mut last: Vec<Option<u32>> = vec![None; kinds];
    let rows = identities.into_iter().zip(0u32..);
    Ok(rows
        .map(|(identity, row)| last[identity as usize].replace(row))
        .collect())
}
