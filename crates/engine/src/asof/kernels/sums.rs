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
            let tree = float_tree(input);
            let sum = |range: &RowRange| (!range.is_empty()).then(|| tree.combine(range));
            Arc::new(ranges.iter().map(sum).collect::<Float64Array>())
        }
        DataType::UInt64 => prefix_sums::<UInt64Type>(input, ranges, result),
        DataType::Decimal128(..) => prefix_sums::<Decimal128Type>(input, ranges, result),
        _ => prefix_sums::<Int64Type>(input, ranges, result),
    })
}

fn float_tree(input: &ArrayRef) -> Tree<f64> {
    Tree::new(input.as_primitive::<Float64Type>().values().to_vec())
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

/// Of floats, or of decimals to a decimal of more digits.
pub(super) fn average(
    input: &ArrayRef,
    ranges: &[RowRange],
    result: &DataType,
) -> Result<ArrayRef> {
    let (DataType::Decimal128(_, sum_scale), DataType::Decimal128(precision, scale)) =
        (input.data_type(), result)
    else {
        let tree = float_tree(input);
        let average = |range: &RowRange| {
            (!range.is_empty()).then(|| tree.combine(range) / f64::from(range.end - range.start))
        };
        return Ok(Arc::new(
            ranges.iter().map(average).collect::<Float64Array>(),
        ));
    };
    let averager = DecimalAverager::<Decimal128Type>::try_new(*sum_scale, *precision, *scale)?;
    let prefixes = prefixes::<Decimal128Type>(input);
    let average = |range: &RowRange| -> Result<Option<i128>> {
        let (start, end) = (range.start as usize, range.end as usize);
        if start == end {
            return Ok(None);
        }
        let sum = prefixes[end].wrapping_sub(prefixes[start]);
        averager.avg(sum, (end - start) as i128).map(Some)
    };
    let averages = ranges.iter().map(average).collect::<Result<Vec<_>>>()?;
    let averages = PrimitiveArray::<Decimal128Type>::from_iter(averages);
    Ok(Arc::new(
        averages
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

/// Variance, or its root. Of one row: NULL of a sample, 0 of a population.
pub(super) fn spread(input: &ArrayRef, ranges: &[RowRange], sample: bool, root: bool) -> ArrayRef {
    let one = |x: &f64| Moments {
        count: 1.0,
        mean: *x,
        // A distance from ∞ is no number, in whatever order it is taken.
        squares: if x.is_finite() { 0.0 } else { f64::NAN },
    };
    let values = input.as_primitive::<Float64Type>().values();
    let tree = Tree::new(values.iter().map(one).collect());
    let spread = |range: &RowRange| {
        let rows = range.end - range.start;
        let divisor = if sample { rows.checked_sub(1)? } else { rows };
        if divisor == 0 {
            return None;
        }
        let moments = tree.combine(range);
        let variance = match rows {
            1 => 0.0,
            _ => moments.squares / f64::from(divisor),
        };
        Some(if root { variance.sqrt() } else { variance })
    };
    Arc::new(ranges.iter().map(spread).collect::<Float64Array>())
}
