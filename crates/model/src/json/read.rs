//! Granary's JSON read back as columns: the form that the module above writes.
//!
//! A number may be written as text too (64-bit integers of other languages,
//! values of a CSV file). A TIMESTAMP without a zone is UTC.

use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cast_utils::parse_decimal;
use arrow::datatypes::{Decimal128Type, Field};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};

use crate::interval::MICROS_PER_DAY;
use crate::types::UTC;
use crate::{FeatureType, UtcMicros};

/// A column of values and, ascending, the rows whose value is not of the type:
/// these are NULL in it.
pub fn column(values: &[Value], data_type: &FeatureType) -> (ArrayRef, Vec<usize>) {
    let mut wrong = Vec::new();
    let array: ArrayRef = match data_type {
        FeatureType::Boolean => Arc::new(BooleanArray::from(each(values, &mut wrong, boolean))),
        FeatureType::SmallInt => Arc::new(Int16Array::from(each(values, &mut wrong, number))),
        FeatureType::Int => Arc::new(Int32Array::from(each(values, &mut wrong, number))),
        FeatureType::BigInt => Arc::new(Int64Array::from(each(values, &mut wrong, number))),
        FeatureType::Real => {
            let single = |value: &Value| double(value).map(|x| x as f32);
            Arc::new(Float32Array::from(each(values, &mut wrong, single)))
        }
        FeatureType::Double => Arc::new(Float64Array::from(each(values, &mut wrong, double))),
        FeatureType::Decimal { precision, scale } => {
            let read = |value: &Value| decimal(value, *precision, *scale);
            let array = Decimal128Array::from(each(values, &mut wrong, read));
            Arc::new(array.with_data_type(data_type.to_arrow()))
        }
        FeatureType::Varchar => {
            let text = |value: &Value| value.as_str().map(str::to_owned);
            Arc::new(StringArray::from(each(values, &mut wrong, text)))
        }
        FeatureType::Varbinary => {
            let bytes = |value: &Value| STANDARD.decode(value.as_str()?).ok();
            let bytes = each(values, &mut wrong, bytes);
            Arc::new(bytes.into_iter().collect::<BinaryArray>())
        }
        FeatureType::Date => Arc::new(Date32Array::from(each(values, &mut wrong, date))),
        FeatureType::Timestamp => {
            let micros = |value: &Value| Some(value.as_str()?.parse::<UtcMicros>().ok()?.0);
            let times = TimestampMicrosecondArray::from(each(values, &mut wrong, micros));
            Arc::new(times.with_timezone(UTC))
        }
        FeatureType::List(item) => Arc::new(lists(values, item, &mut wrong)),
    };
    (array, wrong)
}

fn each<T>(
    values: &[Value],
    wrong: &mut Vec<usize>,
    read: impl Fn(&Value) -> Option<T>,
) -> Vec<Option<T>> {
    let one = |(row, value): (usize, &Value)| {
        let read = (!value.is_null()).then(|| read(value)).flatten();
        if read.is_none() && !value.is_null() {
            wrong.push(row);
        }
        read
    };
    values.iter().enumerate().map(one).collect()
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// An integer, with or without quotes.
fn number<T: FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn double(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number
            .to_string()
            .parse()
            .ok()
            .filter(|x: &f64| x.is_finite()),
        Value::String(text) => match text.trim() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    }
}

/// All digits behind the point must fit: nothing is rounded.
fn decimal(value: &Value, precision: u8, scale: i8) -> Option<i128> {
    let text = match value {
        Value::Number(number) => Number::to_string(number),
        Value::String(text) => text.trim().to_owned(),
        _ => return None,
    };
    let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
    let digits = fraction.trim_end_matches('0').len();
    if digits > usize::try_from(scale).unwrap_or(0) && !text.contains(['e', 'E']) {
        return None;
    }
    parse_decimal::<Decimal128Type>(&text, precision, scale).ok()
}

/// Days since 1970-01-01 of a date without a time of day.
fn date(value: &Value) -> Option<i32> {
    let time: UtcMicros = value.as_str()?.parse().ok()?;
    let midnight = time.0.rem_euclid(MICROS_PER_DAY) == 0;
    let days = time.0.div_euclid(MICROS_PER_DAY);
    midnight.then(|| i32::try_from(days).ok()).flatten()
}

fn lists(values: &[Value], item: &FeatureType, wrong: &mut Vec<usize>) -> ListArray {
    let mut items = Vec::new();
    // The row that each item is of.
    let mut rows = Vec::new();
    let mut lengths = Vec::with_capacity(values.len());
    for (row, value) in values.iter().enumerate() {
        let list = value.as_array().map_or(&[] as &[Value], Vec::as_slice);
        if !value.is_null() && !value.is_array() {
            wrong.push(row);
        }
        items.extend_from_slice(list);
        rows.resize(items.len(), row);
        lengths.push(list.len());
    }
    let (items, wrong_items) = column(&items, item);
    wrong.extend(wrong_items.iter().map(|at| rows[*at]));
    wrong.sort_unstable();
    wrong.dedup();
    let is_good =
        |(row, value): (usize, &Value)| value.is_array() && wrong.binary_search(&row).is_err();
    let valid: NullBuffer = values
        .iter()
        .enumerate()
        .map(is_good)
        .collect::<Vec<_>>()
        .into();
    let field = Arc::new(Field::new("element", item.to_arrow(), true));
    debug_assert_eq!(items.len(), rows.len());
    ListArray::new(
        field,
        OffsetBuffer::from_lengths(lengths),
        items,
        Some(valid),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::json::value;

    /// Type, what is given, what is read, which rows are no value of the type.
    type Case = (FeatureType, Value, Value, Vec<usize>);

    fn check(cases: Vec<Case>) {
        for (data_type, given, expected, wrong) in cases {
            let (array, found) = column(given.as_array().unwrap(), &data_type);
            let read: Vec<Value> = (0..array.len()).map(|row| value(&array, row)).collect();
            let read = (Value::Array(read), found);
            assert_eq!(read, (expected, wrong), "{data_type}");
            assert_eq!(array.data_type(), &data_type.to_arrow());
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let decimal = FeatureType::Decimal {
            precision: 8,
            scale: 2,
        };
        check(vec![
            (
                FeatureType::BigInt,
                json!([1, "9223372036854775807", 1.5, "x", null]),
                json!([1, 9_223_372_036_854_775_807_i64, null, null, null]),
                vec![2, 3],
            ),
            (
                FeatureType::SmallInt,
                json!([40000, -1]),
                json!([null, -1]),
                vec![0],
            ),
            (
                FeatureType::Double,
                json!([1, "NaN", "-Infinity", "2.5", true]),
                json!([1.0, "NaN", "-Infinity", 2.5, null]),
                vec![4],
            ),
            (
                decimal,
                json!(["1.5", 2.25, "1.005", "1.500", "12345678.0"]),
                json!(["1.50", "2.25", null, "1.50", null]),
                vec![2, 4],
            ),
        ]);
    }

    #[test]
    fn times_texts_and_lists_are_read_as_they_are_written() {
        let list = FeatureType::List(Box::new(FeatureType::BigInt));
        check(vec![
            (
                FeatureType::Timestamp,
                json!([
                    "2026-01-31T10:00:00+02:00",
                    "2026-01-31T10:00:00",
                    "soon",
                    7
                ]),
                json!(["2026-01-31T08:00:00Z", "2026-01-31T10:00:00Z", null, null]),
                vec![2, 3],
            ),
            (
                FeatureType::Date,
                json!(["2026-01-31", "2026-01-31T01:00:00"]),
                json!(["2026-01-31", null]),
                vec![1],
            ),
            (
                FeatureType::Varbinary,
                json!(["AP8=", "?"]),
                json!(["AP8=", null]),
                vec![1],
            ),
            (
                FeatureType::Varchar,
                json!(["a", 7]),
                json!(["a", null]),
                vec![1],
            ),
            (
                FeatureType::Boolean,
                json!([true, "False", 1]),
                json!([true, false, null]),
                vec![2],
            ),
            (
                list,
                json!([[1, null], [], null, [1, "x"], 5]),
                json!([[1, null], [], null, null, null]),
                vec![3, 4],
            ),
        ]);
    }
}
