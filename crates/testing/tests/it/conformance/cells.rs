//! Rows of the suite as Arrow, and rows of ours against what is expected.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Date32Type, Field, Float64Type, Int64Type, Schema, TimeUnit};
use chrono::NaiveDate;
use serde_json::Value;

use super::case::{Expected, Table, Type};

/// A table, its names folded to lower case.
pub fn batch(table: &Table) -> RecordBatch {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    for (place, column) in table.columns.iter().enumerate() {
        let values: Vec<&Value> = table.rows.iter().map(|row| &row[place]).collect();
        let array = array(column.data_type, &values);
        fields.push(Field::new(
            column.name.to_lowercase(),
            array.data_type().clone(),
            true,
        ));
        columns.push(array);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(table.rows.len()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap()
}

fn array(data_type: Type, values: &[&Value]) -> ArrayRef {
    let ints = || values.iter().map(|v| integer(v));
    let floats = || values.iter().map(|v| v.as_f64());
    match data_type {
        Type::Int16 => Arc::new(ints().map(|v| v.map(|v| v as i16)).collect::<Int16Array>()),
        Type::Int32 => Arc::new(ints().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        Type::Int64 => Arc::new(ints().collect::<Int64Array>()),
        Type::Float => Arc::new(
            floats()
                .map(|v| v.map(|v| v as f32))
                .collect::<Float32Array>(),
        ),
        Type::Double => Arc::new(floats().collect::<Float64Array>()),
        Type::String => Arc::new(values.iter().map(|v| v.as_str()).collect::<StringArray>()),
        Type::Timestamp => {
            let micros = ints().map(|v| v.map(|v| v * 1000));
            Arc::new(micros.collect::<TimestampMicrosecondArray>())
        }
        Type::Date => Arc::new(values.iter().map(|v| days(v)).collect::<Date32Array>()),
        Type::Bool => Arc::new(values.iter().map(|v| v.as_bool()).collect::<BooleanArray>()),
    }
}

fn integer(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|float| float as i64))
}

fn days(value: &Value) -> Option<i32> {
    let date: NaiveDate = value.as_str()?.parse().unwrap();
    let days = date - NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
    Some(days.num_days() as i32)
}

/// What is in one place of a result, whatever its width.
#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

fn cell(column: &ArrayRef, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    let as_integers = || cast(column, &DataType::Int64).unwrap();
    match column.data_type() {
        DataType::Null => Cell::Null,
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        DataType::Date32 => {
            let days = i64::from(column.as_primitive::<Date32Type>().value(row));
            let date =
                NaiveDate::from_ymd_opt(1970, 1, 1).unwrap() + chrono::Days::new(days as u64);
            Cell::Text(date.to_string())
        }
        DataType::Timestamp(unit, _) => {
            let value = as_integers().as_primitive::<Int64Type>().value(row);
            Cell::Int(match unit {
                TimeUnit::Second => value * 1_000,
                TimeUnit::Millisecond => value,
                TimeUnit::Microsecond => value / 1_000,
                TimeUnit::Nanosecond => value / 1_000_000,
            })
        }
        integer if integer.is_integer() => {
            Cell::Int(as_integers().as_primitive::<Int64Type>().value(row))
        }
        number if number.is_numeric() => {
            let floats = cast(column, &DataType::Float64).unwrap();
            Cell::Float(floats.as_primitive::<Float64Type>().value(row))
        }
        _ => {
            let texts = cast(column, &DataType::Utf8).unwrap();
            Cell::Text(texts.as_string::<i32>().value(row).to_owned())
        }
    }
}

fn expected_cell(data_type: Type, value: &Value) -> Cell {
    if value.is_null() {
        return Cell::Null;
    }
    match data_type {
        Type::Int16 | Type::Int32 | Type::Int64 | Type::Timestamp => {
            integer(value).map_or(Cell::Null, Cell::Int)
        }
        Type::Float | Type::Double => value.as_f64().map_or(Cell::Null, Cell::Float),
        Type::String | Type::Date => Cell::Text(value.as_str().unwrap_or_default().to_owned()),
        Type::Bool => value.as_bool().map_or(Cell::Null, Cell::Bool),
    }
}

/// Floats within 1e-9 of each other, those of single precision within theirs.
fn agree(data_type: Type, found: &Cell, expected: &Cell) -> bool {
    let number = |cell: &Cell| match cell {
        Cell::Int(int) => Some(*int as f64),
        Cell::Float(float) => Some(*float),
        _ => None,
    };
    match (found, expected) {
        (Cell::Int(a), Cell::Int(b)) => a == b,
        (Cell::Int(_) | Cell::Float(_), Cell::Int(_) | Cell::Float(_)) => {
            let (Some(a), Some(b)) = (number(found), number(expected)) else {
                return false;
            };
            let slack = if data_type == Type::Float { 1e-6 } else { 1e-9 };
            (a.is_nan() && b.is_nan()) || a == b || (a - b).abs() <= slack * a.abs().max(b.abs())
        }
        (found, expected) => found == expected,
    }
}

/// Whether the rows, in any order, are those expected; else what is off.
pub fn difference(found: &[RecordBatch], expected: &Expected) -> Option<String> {
    let mut rows = Vec::new();
    for batch in found {
        if batch.num_columns() != expected.columns.len() {
            let (found, wanted) = (batch.num_columns(), expected.columns.len());
            return Some(format!("{found} columns instead of {wanted}"));
        }
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| cell(column, row));
            rows.push(cells.collect::<Vec<_>>());
        }
    }
    if rows.len() != expected.rows.len() {
        let (found, wanted) = (rows.len(), expected.rows.len());
        return Some(format!("{found} rows instead of {wanted}"));
    }
    for values in &expected.rows {
        let types = expected.columns.iter().map(|column| column.data_type);
        let wanted: Vec<(Type, Cell)> = types
            .zip(values)
            .map(|(data_type, value)| (data_type, expected_cell(data_type, value)))
            .collect();
        let same = |row: &Vec<Cell>| {
            let mut pairs = row.iter().zip(&wanted);
            pairs.all(|(found, (data_type, expected))| agree(*data_type, found, expected))
        };
        match rows.iter().position(same) {
            Some(place) => drop(rows.swap_remove(place)),
            None => {
                let wanted: Vec<Cell> = wanted.into_iter().map(|(_, cell)| cell).collect();
                return Some(format!("no row {wanted:?} among {rows:?}"));
            }
        }
    }
    None
}
