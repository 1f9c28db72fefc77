//! min and max: NaN highest, whatever its sign.

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{SortOptions, cast, rank, take};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int64Type, UInt64Type};
use datafusion::error::Result;

use super::RowRange;
use super::tree::{Part, Tree};
use crate::asof::order::one_nan;

/// Whether values of the type can be ordered here.
pub(super) fn is_ordered(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Float32
            | DataType::Float64
            | DataType::Date32
            | DataType::Date64
            | DataType::Timestamp(..)
            | DataType::Decimal128(..)
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
    )
}

/// A row and its place in the order; the greater wins, of equals the first.
#[derive(Debug, Clone, Copy)]
struct Greatest {
    place: i64,
    row: u32,
}

const NO_ROW: u32 = u32::MAX;

impl Part for Greatest {
    const EMPTY: Self = Self {
        place: i64::MIN,
        row: NO_ROW,
    };

    fn then(self, next: Self) -> Self {
        if self.row == NO_ROW || (next.row != NO_ROW && next.place > self.place) {
            next
        } else {
            self
        }
    }
}

/// The least or greatest value of each range, of an array without NULLs.
pub(super) fn extreme(input: &ArrayRef, ranges: &[RowRange], greatest: bool) -> Result<ArrayRef> {
    let places = places(input)?;
    // Complement turns the order round without overflow.
    let place = |place: i64| if greatest { place } else { !place };
    let rows = places.into_iter().zip(0u32..);
    let rows = rows.map(|(at, row)| Greatest {
        place: place(at),
        row,
    });
    let tree = Tree::new(rows.collect());
    let winners: UInt32Array = ranges
        .iter()
        .map(|range| Some(tree.combine(range).row).filter(|row| *row != NO_ROW))
        .collect();
    Ok(take(input, &winners, None)?)
}

/// Integers in the order of the values.
fn places(input: &ArrayRef) -> Result<Vec<i64>> {
    // IEEE 754 totalOrder: of negative numbers all bits but the sign turn round.
    let total = |bits: i64| bits ^ (((bits >> 63).cast_unsigned() >> 1).cast_signed());
    Ok(match input.data_type() {
        DataType::Float64 => {
            let plain = one_nan(input);
            let values = plain.as_primitive::<Float64Type>().values();
            values
                .iter()
                .map(|x| total(x.to_bits().cast_signed()))
                .collect()
        }
        DataType::Float32 => {
            let plain = one_nan(input);
            let values = plain.as_primitive::<Float32Type>().values();
            values
                .iter()
                .map(|x| total(f64::from(*x).to_bits().cast_signed()))
                .collect()
        }
        DataType::UInt64 => {
            let values = input.as_primitive::<UInt64Type>().values();
            values.iter().map(|x| x.cast_signed() ^ i64::MIN).collect()
        }
        DataType::Boolean | DataType::Decimal128(..) => ranked(input)?,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary => {
            ranked(input)?
        }
        DataType::Utf8View => ranked(&cast(input, &DataType::LargeUtf8)?)?,
        DataType::BinaryView => ranked(&cast(input, &DataType::LargeBinary)?)?,
        DataType::Date32 => {
            let days = cast(input, &DataType::Int32)?;
            integers(&days)?
        }
        _ => integers(input)?,
    })
}

fn integers(input: &ArrayRef) -> Result<Vec<i64>> {
    let wide = cast(input, &DataType::Int64)?;
    Ok(wide.as_primitive::<Int64Type>().values().to_vec())
}

fn ranked(input: &ArrayRef) -> Result<Vec<i64>> {
    let ascending = SortOptions::default();
    let ranks = rank(input, Some(ascending))?;
    Ok(ranks.into_iter().map(i64::from).collect())
}
