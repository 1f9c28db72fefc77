//! sum, avg, variance and standard deviation.
//!
//! Integers and decimals are prefix sums, which are exact since both wrap as
//! DataFusion's own do; floats go through the tree.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, PrimitiveArray};
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::aggregate::utils::DecimalAverager;

use super::RowRange;
use super::tree::{Part, Tree};

impl Part for f64 {
    // Not 0.0: the sum of −0.0 alone is −0.0.
    const EMPTY: Self = -0.0;

    fn then(self, next: Self) -> Self {
        self + next
    }
}

/// `result` is the input's type, or a decimal of its scale.
pub(super) fn sum(input: &ArrayRef, ranges: &[RowRange], result: &DataType) -> Result<ArrayRef> {
    Ok(match input.data_type() {
        DataType::Float64 => {
            let tree = Tree::new(input.as_primitive::<Float64Type>().values().to_vec());
            let sum = |range: &RowRange| (!range.is_empty()).then(|| tree.combine(range));
            Arc::new(ranges.iter().map(sum).collect::<Float64Array>())
        }
        DataType::UInt64 => prefix_sums::<UInt64Type>(input, ranges, result),
        DataType::Decimal128(..) => prefix_sums::<Decimal128Type>(input, ranges, result),
        _ => prefix_sums::<Int64Type>(input, ranges, result),
    })
}

/// Sums of the rows before each row, and of all.
fn prefixes<T: ArrowPrimitiveType>(input: &ArrayRef) -> Vec<T::Native> {
    let values = input.as_primitive::<T>().values();
    let mut prefixes = Vec::with_capacity(values.len() + 1);
    let mut total = T::Native::ZERO;
    prefixes.push(total);
    for value in values {
        total = total.add_wrapping(*value);
        prefixes.push(total);
    }
    prefixes
}

fn prefix_sums<T: ArrowPrimitiveType>(
    input: &ArrayRef,
    ranges: &[RowRange],
    result: &DataType,
) -> ArrayRef {
    let prefixes = prefixes::<T>(input);
    let sum = |range: &RowRange| {
        let (start, end) = (range.start as usize, range.end as usize);
        (start < end).then(|| prefixes[end].sub_wrapping(prefixes[start]))
    };
    let sums: PrimitiveArray<T> = ranges.iter().map(sum).collect();
    Arc::new(sums.with_data_type(result.clone()))
}

/// The quotient of sums and counts: of floats, or of decimals to a decimal of
/// more digits.
pub(super) fn quotient(sums: &ArrayRef, counts: &ArrayRef, result: &DataType) -> Result<ArrayRef> {
    let counts = counts.as_primitive::<Int64Type>().values();
    let (DataType::Decimal128(_, sum_scale), DataType::Decimal128(precision, scale)) =
        (sums.data_type(), result)
    else {
        let sums = sums.as_primitive::<Float64Type>();
        let quotients = sums.iter().zip(counts);
        let quotients = quotients.map(|(sum, count)| Some(sum? / *count as f64));
        return Ok(Arc::new(quotients.collect::<Float64Array>()));
    };
    let averager = DecimalAverager::<Decimal128Type>::try_new(*sum_scale, *precision, *scale)?;
    let sums = sums.as_primitive::<Decimal128Type>();
    let quotients = sums.iter().zip(counts).map(|(sum, count)| {
        let sum = sum.map(|sum| averager.avg(sum, i128::from(*count)));
        sum.transpose()
    });
    let quotients = quotients.collect::<Result<Vec<_>>>()?;
    let quotients = PrimitiveArray::<Decimal128Type>::from_iter(quotients);
    Ok(Arc::new(
        quotients
            .with_precision_and_scale(*precision, *scale)
            .map_err(DataFusionError::from)?,
    ))
}

/// Count, mean and the sum of squared distances from it.
#[derive(Debug, Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Part for Moments {
    const EMPTY: Self = Self {
        count: 0.0,
        mean: 0.0,
        squares: 0.0,
    };

    /// Chan, Golub and LeVeque (1979): pairwise updating of the second moment.
    fn then(self, next: Self) -> Self {
        if self.count == 0.0 {
            return next;
        }
        if next.count == 0.0 {
            return self;
        }
        let count = self.count + next.count;
        let apart = next.mean - self.mean;
        Self {
            count,
            mean: self.mean + apart * (next.count / count),
            squares: self.squares + next.squares + apart * apart * self.count * next.count / count,
        }
    }
}

/// Of each range the count, the mean and the sum of squared distances from it.
pub(super) fn moments(input: &ArrayRef, ranges: &[RowRange]) -> Vec<ArrayRef> {
    let one = |x: &f64| Moments {
        count: 1.0,
        mean: *x,
        // A distance from ∞ is no number, in whatever order it is taken.
        squares: if x.is_finite() { 0.0 } else { f64::NAN },
    };
    let values = input.as_primitive::<Float64Type>().values();
    combined_moments(values.iter().map(one).collect(), ranges)
}

/// `moments`: what [`moments`] gave.
pub(super) fn merged_moments(moments: &[ArrayRef], ranges: &[RowRange]) -> Vec<ArrayRef> {
    let [counts, means, squares] = float_columns(moments);
    let parts = counts.iter().zip(means).zip(squares);
    let parts = parts.map(|((count, mean), squares)| Moments {
        count: *count,
        mean: *mean,
        squares: *squares,
    });
    combined_moments(parts.collect(), ranges)
}

fn combined_moments(parts: Vec<Moments>, ranges: &[RowRange]) -> Vec<ArrayRef> {
    let tree = Tree::new(parts);
    let combined: Vec<Moments> = ranges.iter().map(|range| tree.combine(range)).collect();
    let column = |of: fn(&Moments) -> f64| -> ArrayRef {
        Arc::new(combined.iter().map(of).collect::<Float64Array>())
    };
    vec![
        column(|m| m.count),
        column(|m| m.mean),
        column(|m| m.squares),
    ]
}

fn float_columns<const N: usize>(columns: &[ArrayRef]) -> [&[f64]; N] {
    std::array::from_fn(|n| &columns[n].as_primitive::<Float64Type>().values()[..])
}

/// Variance, or its root. Of one row: NULL of a sample, 0 of a population.
pub(super) fn spread(moments: &[ArrayRef], sample: bool, root: bool) -> ArrayRef {
    let [counts, _, squares] = float_columns(moments);
    let spread = |(count, squares): (&f64, &f64)| {
        let divisor = if sample { count - 1.0 } else { *count };
        if divisor <= 0.0 {
            return None;
        }
        let variance = if *count == 1.0 {
            0.0
        } else {
            squares / divisor
        };
        Some(if root { variance.sqrt() } else { variance })
    };
    let spreads = counts.iter().zip(squares).map(spread);
    Arc::new(spreads.collect::<Float64Array>())
}
