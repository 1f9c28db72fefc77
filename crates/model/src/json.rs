//! Values as Granary's JSON: one form wherever a value is printed or stored as text.
//!
//! Integers with all digits; DECIMAL as a string; NaN and the infinities as
//! `"NaN"`, `"Infinity"`, `"-Infinity"`; bytes in base64; DATE as
//! `"2026-01-31"`; TIMESTAMP in RFC 3339 with `Z`; lists as arrays, structs and
//! maps as objects; NULL as `null`. Types that no feature can have, but a
//! source may, take the form of their nearest kin, else Arrow's own text.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, LargeBinaryArray,
};
use arrow::datatypes::{
    DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use serde_json::{Map, Value};

pub mod read;

/// The JSON form of one value of an array.
pub fn value(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(row).into(),
        DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).into(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).into(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
        DataType::UInt8 => array.as_primitive::<UInt8Type>().value(row).into(),
        DataType::UInt16 => array.as_primitive::<UInt16Type>().value(row).into(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).into(),
        DataType::UInt64 => array.as_primitive::<UInt64Type>().value(row).into(),
        DataType::Float16 => single(array.as_primitive::<Float16Type>().value(row).to_f32()),
        DataType::Float32 => single(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal32(..) => array
            .as_primitive::<Decimal32Type>()
            .value_as_string(row)
            .into(),
        DataType::Decimal64(..) => array
            .as_primitive::<Decimal64Type>()
            .value_as_string(row)
            .into(),
        DataType::Decimal128(..) => array
            .as_primitive::<Decimal128Type>()
            .value_as_string(row)
            .into(),
        DataType::Decimal256(..) => array
            .as_primitive::<Decimal256Type>()
            .value_as_string(row)
            .into(),
        DataType::Utf8 => array.as_string::<i32>().value(row).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(row).into(),
        DataType::Utf8View => array.as_string_view().value(row).into(),
        DataType::Timestamp(unit, _) => timestamp(array, row, *unit),
        DataType::Date32 => date(i64::from(array.as_primitive::<Date32Type>().value(row))),
        DataType::Date64 => date(
            array
                .as_primitive::<Date64Type>()
                .value(row)
                .div_euclid(86_400_000),
        ),
        _ => nested_or_binary(array, row),
    }
}

/// The JSON form as text without quotes: what a table cell or a statistic
/// shows. `None` for NULL.
pub fn text(array: &dyn Array, row: usize) -> Option<String> {
    match value(array, row) {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn nested_or_binary(array: &dyn Array, row: usize) -> Value {
    let any = array.as_any();
    match array.data_type() {
        DataType::Binary => bytes(any.downcast_ref::<BinaryArray>().map(|a| a.value(row))),
        DataType::LargeBinary => {
            bytes(any.downcast_ref::<LargeBinaryArray>().map(|a| a.value(row)))
        }
        DataType::BinaryView => bytes(any.downcast_ref::<BinaryViewArray>().map(|a| a.value(row))),
        DataType::FixedSizeBinary(_) => bytes(
            any.downcast_ref::<FixedSizeBinaryArray>()
                .map(|a| a.value(row)),
        ),
        DataType::List(_) => list(&array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(&array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => list(&array.as_fixed_size_list().value(row)),
        DataType::ListView(_) => list(&array.as_list_view::<i32>().value(row)),
        DataType::LargeListView(_) => list(&array.as_list_view::<i64>().value(row)),
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let members = fields.iter().zip(columns);
            Value::Object(
                members
                    .map(|(f, c)| (f.name().clone(), value(c, row)))
                    .collect(),
            )
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let pair = |i| (text(keys, i).unwrap_or_default(), value(values, i));
            Value::Object((0..entries.len()).map(pair).collect::<Map<_, _>>())
        }
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.normalized_keys();
            value(dictionary.values(), keys[row])
        }
        _ => other(array, row),
    }
}

fn single(value: f32) -> Value {
    if value.is_finite() {
        // Through f32's own shortest digits: 0.1, not 0.10000000149011612.
        return serde_json::to_value(value).unwrap_or(Value::Null);
    }
    double(f64::from(value))
}

fn double(value: f64) -> Value {
    if value.is_nan() {
        "NaN".into()
    } else if value == f64::INFINITY {
        "Infinity".into()
    } else if value == f64::NEG_INFINITY {
        "-Infinity".into()
    } else {
        value.into()
    }
}

fn bytes(value: Option<&[u8]>) -> Value {
    value.map_or(Value::Null, |b| STANDARD.encode(b).into())
}

fn list(items: &ArrayRef) -> Value {
    (0..items.len()).map(|i| value(items, i)).collect()
}

fn date(days: i64) -> Value {
    let epoch = NaiveDate::default();
    match TimeDelta::try_days(days).and_then(|d| epoch.checked_add_signed(d)) {
        Some(date) => date.to_string().into(),
        None => format!("{days} days after 1970-01-01").into(),
    }
}

fn timestamp(array: &dyn Array, row: usize, unit: TimeUnit) -> Value {
    let (raw, time) = match unit {
        TimeUnit::Second => {
            let raw = array.as_primitive::<TimestampSecondType>().value(row);
            (raw, DateTime::<Utc>::from_timestamp(raw, 0))
        }
        TimeUnit::Millisecond => {
            let raw = array.as_primitive::<TimestampMillisecondType>().value(row);
            (raw, DateTime::from_timestamp_millis(raw))
        }
        TimeUnit::Microsecond => {
            let raw = array.as_primitive::<TimestampMicrosecondType>().value(row);
            (raw, DateTime::from_timestamp_micros(raw))
        }
        TimeUnit::Nanosecond => {
            let raw = array.as_primitive::<TimestampNanosecondType>().value(row);
            (raw, Some(DateTime::from_timestamp_nanos(raw)))
        }
    };
    match time {
        Some(t) => t.to_rfc3339_opts(SecondsFormat::AutoSi, true).into(),
        None => format!("{raw}{unit:?} after 1970-01-01T00:00:00Z").into(),
    }
}

fn other(array: &dyn Array, row: usize) -> Value {
    let options = FormatOptions::default();
    match ArrayFormatter::try_new(array, &options) {
        Ok(formatter) => formatter.value(row).to_string().into(),
        Err(_) => Value::Null,
    }
}

#[cfg(test)]
#[path = "json/tests.rs"]
mod tests;
