//! The column that RANGE frames measure distances along.

use arrow::array::{Array, ArrayRef, AsArray, Datum, Scalar};
use arrow::compute::kernels::numeric::{add, add_wrapping, sub, sub_wrapping};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, Int64Type, UInt64Type};
use datafusion::error::Result;
use datafusion::scalar::ScalarValue;

use crate::asof::kernels::RowRange;

/// The one ORDER BY column as numbers that ascend where its values do as sorted.
pub(super) struct Axis {
    column: ArrayRef,
    descending: bool,
    /// Of no meaning for NULL.
    places: Vec<i128>,
}

impl Axis {
    pub(super) fn new(column: ArrayRef, options: SortOptions) -> Result<Self> {
        let mut places = places(&column)?;
        if options.descending {
            places.iter_mut().for_each(|place| *place = !*place);
        }
        Ok(Self {
            column,
            descending: options.descending,
            places,
        })
    }

    /// The place that a distance before each of these rows leads to.
    pub(super) fn targets(&self, distance: &ScalarValue, rows: &RowRange) -> Result<Vec<i128>> {
        let values = self.column.slice(rows.start as usize, rows.len());
        let mut targets = targets(&values, distance, self.descending)?;
        if self.descending {
            targets.iter_mut().for_each(|place| *place = !*place);
        }
        Ok(targets)
    }
}

/// Finds places among the values of one partition after the other.
pub(super) struct Search<'a> {
    axis: &'a Axis,
    partition: RowRange,
    /// Rows of the partition that are not NULL.
    values: RowRange,
    last: (u32, u32),
}

impl<'a> Search<'a> {
    pub(super) fn new(axis: &'a Axis) -> Self {
        Self {
            axis,
            partition: 0..0,
            values: 0..0,
            last: (0, 0),
        }
    }

    pub(super) fn values_of(&mut self, partition: &RowRange) {
        if self.partition == *partition {
            return;
        }
        self.partition = partition.clone();
        self.values = partition.clone();
        let column = &self.axis.column;
        if column.null_count() > 0 {
            let is_null = |row: &u32| column.is_null(*row as usize);
            let nulls = partition.clone().take_while(is_null).count() as u32;
            self.values.start += nulls;
            let rest = self.values.clone().rev().take_while(is_null).count() as u32;
            self.values.end -= rest;
        }
        self.last = (self.values.start, self.values.start);
    }

    /// Start and end of the frame of a row; none where the row is NULL.
    pub(super) fn frame(
        &mut self,
        row: u32,
        starts: &Option<Vec<i128>>,
        ends: &Option<Vec<i128>>,
        index: usize,
    ) -> (Option<u32>, Option<u32>) {
        if !self.values.contains(&row) {
            return (None, None);
        }
        let start = starts.as_ref().map(|starts| {
            let target = starts[index];
            self.find(self.last.0, |place| place < target)
        });
        let end = ends.as_ref().map(|ends| {
            let target = ends[index];
            self.find(self.last.1, |place| place <= target)
        });
        self.last = (start.unwrap_or(self.last.0), end.unwrap_or(self.last.1));
        (start, end)
    }

    /// The first row that is not before; near `hint`, most often.
    fn find(&self, hint: u32, before: impl Fn(i128) -> bool) -> u32 {
        let RowRange { start, end } = self.values;
        let places = &self.axis.places;
        let is_before = |row: u32| before(places[row as usize]);
        let (mut low, mut high) = (start, end);
        if hint > start && !is_before(hint - 1) {
            high = hint;
        } else {
            low = hint.max(start);
            let mut step = 1;
            while low + step < end && is_before(low + step) {
                low += step;
                step *= 2;
            }
            high = high.min(low + step);
        }
        let among = &places[low as usize..high as usize];
        low + among.partition_point(|place| before(*place)) as u32
    }
}

/// Integers in the order of the values.
fn places(column: &ArrayRef) -> Result<Vec<i128>> {
    // IEEE 754 totalOrder: of negative numbers all bits but the sign turn round.
    let total = |bits: i64| i128::from(bits ^ (((bits >> 63).cast_unsigned() >> 1).cast_signed()));
    let float = |x: f64| total(x.to_bits().cast_signed());
    Ok(match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>().values();
            values.iter().map(|x| float(*x)).collect()
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>().values();
            values.iter().map(|x| float(f64::from(*x))).collect()
        }
        DataType::Decimal128(..) => column.as_primitive::<Decimal128Type>().values().to_vec(),
        DataType::UInt64 => {
            let values = column.as_primitive::<UInt64Type>().values();
            values.iter().map(|x| i128::from(*x)).collect()
        }
        DataType::Date32 => return places(&cast(column, &DataType::Int32)?),
        _ => {
            let wide = cast(column, &DataType::Int64)?;
            let values = wide.as_primitive::<Int64Type>().values();
            values.iter().map(|x| i128::from(*x)).collect()
        }
    })
}

/// The places of the values less (more, if `after`) a distance.
fn targets(values: &ArrayRef, distance: &ScalarValue, after: bool) -> Result<Vec<i128>> {
    match distance {
        ScalarValue::IntervalMonthDayNano(_) => shifted_times(values, distance, after),
        ScalarValue::Float32(_) | ScalarValue::Float64(_) => {
            let distance = Scalar::new(distance.to_array()?);
            let shifted = match after {
                true => add_wrapping(values, &distance)?,
                false => sub_wrapping(values, &distance)?,
            };
            places(&shifted)
        }
        number => {
            let distance = places(&number.to_array()?)?[0];
            let shift = |place: i128| match after {
                true => place.saturating_add(distance),
                false => place.saturating_sub(distance),
            };
            Ok(places(values)?.into_iter().map(shift).collect())
        }
    }
}

fn shifted_times(values: &ArrayRef, distance: &ScalarValue, after: bool) -> Result<Vec<i128>> {
    let distance = Scalar::new(distance.to_array()?);
    let shift = |values: &dyn Datum| match after {
        true => add(values, &distance),
        false => sub(values, &distance),
    };
    if let Ok(shifted) = shift(values) {
        return places(&shifted);
    }
    // Somewhere time ends: beyond it lies nothing.
    let beyond = if after { i128::MAX } else { i128::MIN };
    let rows = (0..values.len()).map(|row| match shift(&values.slice(row, 1)) {
        Ok(shifted) => Ok(places(&shifted)?[0]),
        Err(_) => Ok(beyond),
    });
    rows.collect()
}
