//! Values that the references expect, and their comparison with what was read.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Hundredths.
    Money(i128),
    Text(String),
    /// UTC microseconds.
    Time(i64),
    /// Days since 1970-01-01.
    Date(i32),
    /// Equal within 1e-9 of `inputs`, the sum of the absolute inputs.
    Float {
        value: f64,
        inputs: f64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Int(i64),
    Text(String),
}

/// The features of one key, each with its value.
pub type Row = Vec<(&'static str, Value)>;

/// No entry: the key has no row.
pub type Rows = BTreeMap<Key, Row>;

/// What one view must answer.
#[derive(Debug)]
pub struct Expected {
    pub view: &'static str,
    pub rows: Rows,
}

/// What one entity must answer.
#[derive(Debug)]
pub struct Reference {
    /// The entity's key column.
    pub key: &'static str,
    /// Every key of the raw files, and one that nobody has.
    pub keys: Vec<Key>,
    pub views: Vec<Expected>,
}

impl Value {
    pub fn text(value: &str) -> Self {
        Self::Text(value.to_owned())
    }

    pub fn count(value: usize) -> Self {
        Self::Int(value as i64)
    }

    /// Of a ratio, a difference of times: as exact as a DOUBLE is.
    pub fn float(value: f64) -> Self {
        Self::Float {
            value,
            inputs: value.abs().max(1.0),
        }
    }

    /// `NULL` where the denominator is zero.
    pub fn ratio(numerator: f64, denominator: f64) -> Self {
        if denominator == 0.0 {
            Self::Null
        } else {
            Self::float(numerator / denominator)
        }
    }

    pub fn days_between(from: i64, to: i64) -> Self {
        Self::float((to - from) as f64 / super::raw::DAY as f64)
    }

    pub fn or_null<T>(value: Option<T>, some: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, some)
    }
}

pub fn mean(values: &[f64]) -> Value {
    match values.len() {
        0 => Value::Null,
        n => Value::Float {
            value: values.iter().sum::<f64>() / n as f64,
            inputs: absolute(values),
        },
    }
}

/// Sample standard deviation, in two passes; NULL of fewer than two values.
pub fn stddev(values: &[f64]) -> Value {
    if values.len() < 2 {
        return Value::Null;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Value::Float {
        value: (squares / (values.len() - 1) as f64).sqrt(),
        inputs: absolute(values),
    }
}

pub fn absolute(values: &[f64]) -> f64 {
    values.iter().map(|v| v.abs()).sum()
}

/// Whether row `row` of `column` is the expected value; if not, what it is.
pub fn difference(expected: &Value, column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return (*expected != Value::Null).then(|| "NULL".to_owned());
    }
    let found = match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int32 => Value::Int(column.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Decimal128(_, 2) => {
            Value::Money(column.as_primitive::<Decimal128Type>().value(row))
        }
        DataType::Utf8 => Value::text(column.as_string::<i32>().value(row)),
        DataType::Date32 => Value::Date(column.as_primitive::<Date32Type>().value(row)),
        DataType::Timestamp(..) => {
            Value::Time(column.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        DataType::Float64 => {
            let found = column.as_primitive::<Float64Type>().value(row);
            return match expected {
                Value::Float { value, inputs } if (found - value).abs() <= 1e-9 * inputs => None,
                _ => Some(format!("{found:?}")),
            };
        }
        other => return Some(format!("a value of the unexpected type {other}")),
    };
    (found != *expected).then(|| format!("{found:?}"))
}
