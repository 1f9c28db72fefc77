//! median and percentile_cont: the rows in the middle of each range, by counts
//! over the order of values.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, UInt32Array};
use arrow::compute::{SortOptions, sort_to_indices, take};
use arrow::datatypes::Float64Type;
use datafusion::error::Result;

use super::RowRange;
use super::slide::{Multiset, slide};

/// Steps of the weight between two values, as DataFusion has it.
const WEIGHT_STEPS: f64 = 1_000_000.0;

/// Rows by their place in the order of values: a Fenwick tree (1994) of how many
/// rows there are up to a place.
struct Ranked {
    /// Place of each row.
    places: Vec<u32>,
    /// Row of each place.
    rows: UInt32Array,
    /// From 1; count i is of the places that the lowest bit of i spans.
    counts: Vec<u32>,
}

impl Ranked {
    /// `values` are without NULLs; NaN is above all, negative NaN below.
    fn new(values: &ArrayRef) -> Result<Self> {
        let rows = sort_to_indices(values, Some(SortOptions::default()), None)?;
        let mut places = vec![0; rows.len()];
        for (place, row) in rows.values().iter().enumerate() {
            places[*row as usize] = place as u32;
        }
        Ok(Self {
            places,
            counts: vec![0; rows.len() + 1],
            rows,
        })
    }

    fn change(&mut self, row: u32, by: impl Fn(&mut u32)) {
        let mut at = self.places[row as usize] as usize + 1;
        while at < self.counts.len() {
            by(&mut self.counts[at]);
            at += at & at.wrapping_neg();
        }
    }

    /// The row at a rank, from 0, which is below the number of rows.
    fn row(&self, rank: u32) -> u32 {
        let mut missing = rank + 1;
        let mut place = 0;
        let mut step = self.counts.len().next_power_of_two() / 2;
        while step > 0 {
            if let Some(count) = self.counts.get(place + step).filter(|c| **c < missing) {
                missing -= count;
                place += step;
            }
            step /= 2;
        }
        self.rows.value(place)
    }
}

impl Multiset for Ranked {
    fn add(&mut self, row: u32) {
        self.change(row, |count| *count += 1);
    }

    fn remove(&mut self, row: u32) {
        self.change(row, |count| *count -= 1);
    }
}

/// The one or two values in the middle of each range, as ranges over them: they
/// have the same median.
pub(super) fn middles(values: &ArrayRef, ranges: &[RowRange]) -> Result<(ArrayRef, Vec<RowRange>)> {
    let mut rows: Vec<u32> = Vec::with_capacity(2 * ranges.len());
    let mut middles = Vec::with_capacity(ranges.len());
    slide(ranges, Ranked::new(values)?, |ranked, range| {
        let start = rows.len() as u32;
        if let Some(ranked) = ranked {
            let count = range.end - range.start;
            if count.is_multiple_of(2) {
                rows.push(ranked.row(count / 2 - 1));
            }
            rows.push(ranked.row(count / 2));
        }
        middles.push(start..rows.len() as u32);
    });
    Ok((take(values, &UInt32Array::from(rows), None)?, middles))
}

/// The median of DOUBLE from [`middles`].
pub(super) fn median(middles: &ArrayRef, ranges: &[RowRange]) -> ArrayRef {
    let values = middles.as_primitive::<Float64Type>().values();
    let median = |range: &RowRange| match &values[range.start as usize..range.end as usize] {
        [one] => Some(*one),
        [low, high] => Some((low + high) / 2.0),
        _ => None,
    };
    Arc::new(ranges.iter().map(median).collect::<Float64Array>())
}

/// The value at `share` of the way from the least to the greatest, 0 to 1,
/// between two values as DataFusion interpolates.
pub(super) fn percentile(values: &ArrayRef, share: f64, ranges: &[RowRange]) -> Result<ArrayRef> {
    let floats = values.as_primitive::<Float64Type>();
    let mut percentiles = Vec::with_capacity(ranges.len());
    slide(ranges, Ranked::new(values)?, |ranked, range| {
        percentiles.push(ranked.map(|ranked| {
            let index = share * f64::from(range.end - range.start - 1);
            let value = |index: f64| floats.value(ranked.row(index as u32) as usize);
            let (lower, upper) = (value(index.floor()), value(index.ceil()));
            if index.floor() == index.ceil() {
                return lower;
            }
            let weight = ((index - index.floor()) * WEIGHT_STEPS).floor() / WEIGHT_STEPS;
            lower + (upper - lower) * weight
        }));
    });
    Ok(Arc::new(Float64Array::from(percentiles)))
}
