//! sum, avg, variance and standard deviation.
//!
//! Integers and decimals are prefix sums, which are exact since both wrap as
//! DataFusion's own do; floats go through the tree, and so does DISTINCT.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, Float64Array, PrimitiveArray};
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type,
};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::aggregate::utils::DecimalAverager;

use super::RowRange;
use super::distinct::Latest;
use super::tree::{Part, Tree};

impl Part for f64 {
    // Not 0.0: the sum of −0.0 alone is −0.0.
    const EMPTY: Self = -0.0;

    fn then(self, next: Self) -> Self {
        self + next
    }
}

/// The rows that are summed up.
pub(super) struct Rows<'a> {
    pub(super) ranges: &'a [RowRange],
    /// With DISTINCT: the last row before each row that equals it.
    pub(super) same_before: Option<Vec<Option<u32>>>,
}

impl Rows<'_> {
    /// The combined part of each range, and of how many rows it is.
    fn totals<P: Part>(&self, parts: Vec<P>) -> Vec<(P, u32)> {
        let ranges = self.ranges.iter();
        match &self.same_before {
            None => {
                let tree = Tree::new(parts);
                let total = |range: &RowRange| (tree.combine(range), range.end - range.start);
                ranges.map(total).collect()
            }
            Some(before) => {
                let parts = parts.into_iter().map(|part| (part, Count(1)));
                let mut latest = Latest::new(parts.collect(), before);
                let mut total = |range: &RowRange| {
                    let (part, Count(count)) = latest.combine(range);
                    (part, count)
                };
                ranges.map(&mut total).collect()
            }
        }
    }

    /// Sums that wrap, and of how many rows they are.
    fn exact_totals<T: ArrowPrimitiveType>(&self, input: &ArrayRef) -> Vec<(T::Native, u32)> {
        let values = input.as_primitive::<T>().values();
        if self.same_before.is_some() {
            let totals = self.totals(values.iter().copied().map(Wrapped).collect());
            return totals
                .into_iter()
                .map(|(Wrapped(sum), n)| (sum, n))
                .collect();
        }
        // Of the rows before each row, and of all.
        let mut prefixes = Vec::with_capacity(values.len() + 1);
        let mut total = T::Native::ZERO;
        prefixes.push(total);
        for value in values {
            total = total.add_wrapping(*value);
            prefixes.push(total);
        }
        let total = |range: &RowRange| {
            let (start, end) = (range.start as usize, range.end as usize);
            (
                prefixes[end].sub_wrapping(prefixes[start]),
                range.end - range.start,
            )
        };
        self.ranges.iter().map(total).collect()
    }

    fn float_totals(&self, input: &ArrayRef) -> Vec<(f64, u32)> {
        self.totals(input.as_primitive::<Float64Type>().values().to_vec())
    }
}

/// An exact sum.
#[derive(Debug, Clone, Copy)]
struct Wrapped<N>(N);

impl<N: ArrowNativeTypeOp> Part for Wrapped<N> {
    const EMPTY: Self = Self(N::ZERO);

    fn then(self, next: Self) -> Self {
        Self(self.0.add_wrapping(next.0))
    }
}

/// How many rows.
#[derive(Debug, Clone, Copy)]
struct Count(u32);

impl Part for Count {
    const EMPTY: Self = Self(0);

    fn then(self, next: Self) -> Self {
        Self(self.0 + next.0)
    }
}

impl<A: Part, B: Part> Part for (A, B) {
    const EMPTY: Self = (A::EMPTY, B::EMPTY);

    fn then(self, next: Self) -> Self {
        (self.0.then(next.0), self.1.then(next.1))
    }
}

/// `result` is the input's type, or a decimal of its scale.
pub(super) fn sum(input: &ArrayRef, rows: &Rows<'_>, result: &DataType) -> ArrayRef {
    match input.data_type() {
        DataType::Float64 => {
            let totals = rows.float_totals(input).into_iter();
            let sums = totals.map(|(sum, count)| (count > 0).then_some(sum));
            Arc::new(sums.collect::<Float64Array>())
        }
        DataType::UInt64 => exact_sums::<UInt64Type>(input, rows, result),
        DataType::Decimal128(..) => exact_sums::<Decimal128Type>(input, rows, result),
        _ => exact_sums::<Int64Type>(input, rows, result),
    }
}

fn exact_sums<T: ArrowPrimitiveType>(
    input: &ArrayRef,
    rows: &Rows<'_>,
    result: &DataType,
) -> ArrayRef {
    let totals = rows.exact_totals::<T>(input).into_iter();
    let sums = totals.map(|(sum, count)| (count > 0).then_some(sum));
    Arc::new(PrimitiveArray::<T>::from_iter(sums).with_data_type(result.clone()))
}

/// Of floats, or of decimals to a decimal of more digits.
pub(super) fn average(input: &ArrayRef, rows: &Rows<'_>, result: &DataType) -> Result<ArrayRef> {
    let (DataType::Decimal128(_, sum_scale), DataType::Decimal128(precision, scale)) =
        (input.data_type(), result)
    else {
        let totals = rows.float_totals(input).into_iter();
        let averages = totals.map(|(sum, count)| (count > 0).then(|| sum / f64::from(count)));
        return Ok(Arc::new(averages.collect::<Float64Array>()));
    };
    let averager = DecimalAverager::<Decimal128Type>::try_new(*sum_scale, *precision, *scale)?;
    let average = |(sum, count): (i128, u32)| match count {
        0 => Ok(None),
        _ => averager.avg(sum, i128::from(count)).map(Some),
    };
    let totals = rows.exact_totals::<Decimal128Type>(input).into_iter();
    let averages = totals.map(average).collect::<Result<Vec<_>>>()?;
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
pub(super) fn spread(input: &ArrayRef, rows: &Rows<'_>, sample: bool, root: bool) -> ArrayRef {
    let one = |x: &f64| Moments {
        count: 1.0,
        mean: *x,
        // A distance from ∞ is no number, in whatever order it is taken.
        squares: if x.is_finite() { 0.0 } else { f64::NAN },
    };
    let values = input.as_primitive::<Float64Type>().values();
    let spread = |(moments, count): (Moments, u32)| {
        let divisor = if sample { count.checked_sub(1)? } else { count };
        if divisor == 0 {
            return None;
        }
        let variance = match count {
            1 => 0.0,
            _ => moments.squares / f64::from(divisor),
        };
        Some(if root { variance.sqrt() } else { variance })
    };
    let totals = rows.totals(values.iter().map(one).collect()).into_iter();
    Arc::new(totals.map(spread).collect::<Float64Array>())
}
