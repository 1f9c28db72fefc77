//! DISTINCT: every value of a range once, at its first place.

use std::hash::Hash;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, new_empty_array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::Result;

use super::RowRange;
use super::slide::{Multiset, slide};
use super::tree::{Part, Tree};
use crate::asof::order::one_nan;

/// Rows that are copied for an aggregate at once.
const COPIED_ROWS: usize = 1 << 20;

/// A number for each row, equal where all inputs are; NULLs are equal, and NaNs.
fn identities(inputs: &[ArrayRef]) -> Result<(Vec<u32>, usize)> {
    if let [input] = inputs
        && input.null_count() == 0
    {
        // The usual cases need no encoding of rows.
        match input.data_type() {
            DataType::Int64 => {
                let values = input.as_primitive::<Int64Type>().values();
                return Ok(numbered(values.iter().copied()));
            }
            DataType::Float64 => {
                let input = one_nan(input);
                let values = input.as_primitive::<Float64Type>().values();
                return Ok(numbered(values.iter().map(|value| value.to_bits())));
            }
            DataType::Utf8 => {
                let values = input.as_string::<i32>();
                return Ok(numbered((0..values.len()).map(|row| values.value(row))));
            }
            DataType::Utf8View => {
                let values = input.as_string_view();
                return Ok(numbered((0..values.len()).map(|row| values.value(row))));
            }
            _ => {}
        }
    }
    let inputs: Vec<ArrayRef> = inputs.iter().map(one_nan).collect();
    let fields = inputs
        .iter()
        .map(|input| SortField::new(input.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    let rows = converter.convert_columns(&inputs)?;
    Ok(numbered(rows.iter().map(|row| row.data())))
}

/// Equal values have equal numbers, from 0; also how many there are.
fn numbered<T: Eq + Hash>(values: impl Iterator<Item = T>) -> (Vec<u32>, usize) {
    let mut numbers: HashMap<T, u32> = HashMap::default();
    let number = |value| {
        let next = numbers.len() as u32;
        *numbers.entry(value).or_insert(next)
    };
    let identities = values.map(number).collect();
    (identities, numbers.len())
}

/// How often each value is in.
struct Seen {
    identities: Vec<u32>,
    counts: Vec<u32>,
    distinct: i64,
}

impl Multiset for Seen {
    fn add(&mut self, row: u32) {
        let count = &mut self.counts[self.identities[row as usize] as usize];
        self.distinct += i64::from(*count == 0);
        *count += 1;
    }

    fn remove(&mut self, row: u32) {
        let count = &mut self.counts[self.identities[row as usize] as usize];
        *count -= 1;
        self.distinct -= i64::from(*count == 0);
    }
}

/// How many distinct rows each range has.
pub(super) fn count(inputs: &[ArrayRef], ranges: &[RowRange]) -> Result<ArrayRef> {
    let (identities, kinds) = identities(inputs)?;
    let seen = Seen {
        identities,
        counts: vec![0; kinds],
        distinct: 0,
    };
    let mut counts = Vec::with_capacity(ranges.len());
    slide(ranges, seen, |seen, _| {
        counts.push(seen.map_or(0, |seen| seen.distinct));
    });
    Ok(Arc::new(Int64Array::from(counts)))
}

/// Parts of distinct rows. In the tree there are rows up to the end of the last
/// range, and of equal rows the latest only: it lies in every range that has any
/// of them. What leaves is replaced, never subtracted.
pub(super) struct Latest<'a, P> {
    parts: Vec<P>,
    same_before: &'a [Option<u32>],
    tree: Tree<P>,
    end: u32,
}

impl<'a, P: Part> Latest<'a, P> {
    /// `same_before`: as [`same_before`] gives it for these rows.
    pub(super) fn new(parts: Vec<P>, same_before: &'a [Option<u32>]) -> Self {
        Self {
            tree: Tree::new(vec![P::EMPTY; parts.len()]),
            same_before,
            parts,
            end: 0,
        }
    }

    pub(super) fn combine(&mut self, range: &RowRange) -> P {
        if range.is_empty() {
            return P::EMPTY;
        }
        while self.end < range.end {
            let row = self.end as usize;
            if let Some(before) = self.same_before[row] {
                self.tree.set(before as usize, P::EMPTY);
            }
            self.tree.set(row, self.parts[row]);
            self.end += 1;
        }
        while self.end > range.end {
            self.end -= 1;
            let row = self.end as usize;
            self.tree.set(row, P::EMPTY);
            if let Some(before) = self.same_before[row] {
                self.tree.set(before as usize, self.parts[before as usize]);
            }
        }
        self.tree.combine(range)
    }
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
pub(super) fn same_before(inputs: &[ArrayRef]) -> Result<Vec<Option<u32>>> {
    let (identities, kinds) = identities(inputs)?;
    let mut last: Vec<Option<u32>> = vec![None; kinds];
    let rows = identities.into_iter().zip(0u32..);
    Ok(rows
        .map(|(identity, row)| last[identity as usize].replace(row))
        .collect())
}
