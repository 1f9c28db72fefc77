//! DISTINCT: every value of a range once, at its first place.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, ListArray, UInt32Array, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{concat, take};
use arrow::datatypes::Field;
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::{DataFusionError, Result};

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
        rows.extend(firsts(&before, range));
        copied.push(start..rows.len() as u32);
        if rows.len() >= COPIED_ROWS || index + 1 == ranges.len() {
            let inputs = taken(inputs, std::mem::take(&mut rows))?;
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

/// The distinct rows of each range as a list, of each input one.
pub(super) fn lists(inputs: &[ArrayRef], ranges: &[RowRange]) -> Result<Vec<ArrayRef>> {
    let before = same_before(inputs)?;
    let mut rows: Vec<u32> = Vec::new();
    let mut lengths = Vec::with_capacity(ranges.len());
    for range in ranges {
        let start = rows.len();
        rows.extend(firsts(&before, range));
        lengths.push(rows.len() - start);
    }
    if i32::try_from(rows.len()).is_err() {
        return Err(DataFusionError::ResourcesExhausted(format!(
            "{} distinct values would be listed at once",
            rows.len()
        )));
    }
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    let lists = taken(inputs, rows)?.into_iter().map(|values| {
        let field = Field::new_list_field(values.data_type().clone(), true);
        let list = ListArray::try_new(Arc::new(field), offsets.clone(), values, None)?;
        Ok(Arc::new(list) as ArrayRef)
    });
    lists.collect()
}

/// The rows of lists side by side, and in terms of them the ranges of lists.
pub(super) fn listed(lists: &[ArrayRef], ranges: &[RowRange]) -> (Vec<ArrayRef>, Vec<RowRange>) {
    let lists: Vec<&ListArray> = lists.iter().map(AsArray::as_list).collect();
    let offsets = lists[0].value_offsets();
    let place = |list: u32| offsets[list as usize].cast_unsigned();
    let ranges = ranges
        .iter()
        .map(|range| place(range.start)..place(range.end));
    let values = lists.iter().map(|list| Arc::clone(list.values()));
    (values.collect(), ranges.collect())
}

/// The rows of a range that are the first of their kind in it.
fn firsts(before: &[Option<u32>], range: &RowRange) -> impl Iterator<Item = u32> {
    let start = range.start;
    let is_first = move |row: &u32| before[*row as usize].is_none_or(|before| before < start);
    range.clone().filter(is_first)
}

fn taken(inputs: &[ArrayRef], rows: Vec<u32>) -> Result<Vec<ArrayRef>> {
    let rows = UInt32Array::from(rows);
    let taken = inputs.iter().map(|input| Ok(take(input, &rows, None)?));
    taken.collect()
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
