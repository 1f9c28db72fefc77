//! A spine in a CSV file, whose values are text until a type is found for them.
//!
//! Keys and the time have the types that the training set asks for: a phone
//! number stays a text with its zeros. Any other column has the narrowest type
//! that all of its values are written in, so that no value of the file changes
//! by being read: `007` is no number. For that the whole file is looked at
//! before it is read; a value that does not fit is told by its line.

use std::sync::Arc;

use arrow::array::{Array, StringArray};
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::Utc;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;
use granary_model::FeatureType;
use granary_model::types::UTC;

use super::{SpineColumns, no_time};
use crate::error::EngineError;
use crate::row_file::{File, csv_format, texts};

/// The header is the first line.
const FIRST_VALUES_LINE: usize = 2;

pub(super) async fn open(
    state: &SessionState,
    file: &File,
    delimiter: u8,
    compression: FileCompressionType,
    columns: SpineColumns<'_>,
) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let format = csv_format(delimiter, compression);
    let (names, plan) = file.texts(state, &format).await?;
    let mut found = names
        .iter()
        .map(|name| ColumnValues::new(file, name, columns))
        .collect::<Result<Vec<_>, _>>()?;
    let failed = |error: DataFusionError| match EngineError::from_query("spine", error) {
        EngineError::Query { source, .. } => file.failed(&source),
        named => named,
    };
    let mut rows = plan.execute(0, state.task_ctx()).map_err(failed)?;
    let mut line = FIRST_VALUES_LINE;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        for (column, values) in found.iter_mut().zip(batch.columns()) {
            let values = texts(values).map_err(failed)?;
            column
                .see(values)
                .map_err(|(row, reason)| file.fault(format!("line {}: {reason}", line + row)))?;
        }
        line += batch.num_rows();
    }
    let typed = found.iter().map(ColumnValues::field).collect::<Vec<_>>();
    let schema: SchemaRef = Arc::new(Schema::new(typed));
    file.scan(state, &format, schema).await
}

/// What the values of a column were found to be.
#[derive(Debug)]
struct ColumnValues {
    name: String,
    wanted: Wanted,
    kinds: Kinds,
}

/// The type that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wanted {
    Any,
    Time,
    Key(FeatureType),
    /// As it is written; where there is no value, this.
    Input(FeatureType),
}

/// Inputs take numbers and times as they are written: they convert.
fn wanted_input(name: &str, columns: SpineColumns<'_>) -> Wanted {
    let input = columns.inputs.iter().find(|i| i.column.name == name);
    match input.map(|input| input.column.data_type.clone()) {
        Some(t) if t.is_key() && t != FeatureType::Varbinary => Wanted::Key(t),
        Some(t) if !matches!(t, FeatureType::List(_)) => Wanted::Input(t),
        _ => Wanted::Any,
    }
}

/// Every way in which values of a column are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Kinds {
    boolean: bool,
    integer: bool,
    float: bool,
    date: bool,
    time: bool,
    /// A time with a zone.
    zoned: bool,
    /// A time with more than six digits of a second.
    nanos: bool,
    text: bool,
}

impl ColumnValues {
    fn new(file: &File, name: &str, columns: SpineColumns<'_>) -> Result<Self, EngineError> {
        let key = columns.keys.iter().find(|key| key.name == name);
        let wanted = match key {
            Some(key) if key.data_type == FeatureType::Varbinary => {
                return Err(file.fault(format!(
                    "{name} expects VARBINARY, which CSV has no form for: use Parquet or Arrow"
                )));
            }
            Some(key) => Wanted::Key(key.data_type.clone()),
            None if columns.time == Some(name) => Wanted::Time,
            None => wanted_input(name, columns),
        };
        Ok(Self {
            name: name.to_owned(),
            wanted,
            kinds: Kinds::default(),
        })
    }

    /// Looks at values. The first that is not of the type asked for is told by
    /// its place.
    fn see(&mut self, values: &StringArray) -> Result<(), (usize, String)> {
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let value = values.value(row);
            match &self.wanted {
                Wanted::Any | Wanted::Input(_) => {
                    if !self.kinds.text {
                        self.kinds.add(value);
                    }
                }
                Wanted::Time => {
                    self.kinds.add(value);
                    if !(self.kinds.date || self.kinds.time) || self.kinds.is_other_than_time() {
                        return Err((row, format!("{}: {}", self.name, no_time(value))));
                    }
                }
                Wanted::Key(key) => {
                    if !fits(value, key) {
                        return Err((row, format!("{} expects {key}, got {value:?}", self.name)));
                    }
                }
            }
        }
        Ok(())
    }

    fn field(&self) -> Field {
        let data_type = match &self.wanted {
            Wanted::Key(key) => key.to_arrow(),
            Wanted::Time if self.kinds == Kinds::default() => {
                timestamp(TimeUnit::Microsecond, true)
            }
            Wanted::Input(input) if self.kinds == Kinds::default() => input.to_arrow(),
            Wanted::Time | Wanted::Any | Wanted::Input(_) => self.kinds.data_type(),
        };
        Field::new(&self.name, data_type, true)
    }
}

/// Whether a value is written as a key of this type is.
fn fits(value: &str, key: &FeatureType) -> bool {
    match key {
        FeatureType::SmallInt => value.parse::<i16>().is_ok(),
        FeatureType::Int => value.parse::<i32>().is_ok(),
        FeatureType::BigInt => value.parse::<i64>().is_ok(),
        FeatureType::Date => is_date(value),
        _ => true,
    }
}

fn is_date(value: &str) -> bool {
    value.len() == "2026-01-31".len() && string_to_datetime(&Utc, value).is_ok()
}

impl Kinds {
    fn add(&mut self, value: &str) {
        if is_integer(value) {
            self.integer = true;
        } else if is_float(value) {
            self.float = true;
        } else if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
            self.boolean = true;
        } else if is_date(value) {
            self.date = true;
        } else if string_to_datetime(&Utc, value).is_ok() {
            self.time = true;
            // Behind the date and the hour.
            let rest = value.get(13..).unwrap_or_default();
            self.zoned |= rest.contains(['Z', 'z', '+', '-']) || rest.contains(char::is_alphabetic);
            let fraction = rest.split_once('.').map_or("", |(_, fraction)| fraction);
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            self.nanos |= digits > 6;
        } else {
            self.text = true;
        }
    }

    fn is_other_than_time(self) -> bool {
        self.boolean || self.integer || self.float || self.text
    }

    /// The type that takes all values.
    fn data_type(self) -> DataType {
        let numbers = self.integer || self.float;
        let times = self.date || self.time;
        match (self.text, self.boolean, numbers, times) {
            (false, true, false, false) => DataType::Boolean,
            (false, false, true, false) if self.float => DataType::Float64,
            (false, false, true, false) => DataType::Int64,
            (false, false, false, true) if !self.time => DataType::Date32,
            (false, false, false, true) => {
                let unit = match self.nanos {
                    true => TimeUnit::Nanosecond,
                    false => TimeUnit::Microsecond,
                };
                timestamp(unit, self.zoned)
            }
            _ => DataType::Utf8,
        }
    }
}

/// A time without a zone stays one.
fn timestamp(unit: TimeUnit, zoned: bool) -> DataType {
    DataType::Timestamp(unit, zoned.then(|| UTC.into()))
}

/// Whether it is a BIGINT in the one way that a BIGINT is written.
fn is_integer(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let canonical = digits == "0" && digits.len() == value.len() || !digits.starts_with('0');
    canonical && digits.bytes().all(|b| b.is_ascii_digit()) && value.parse::<i64>().is_ok()
}

/// Whether it is a number with a point or an exponent, or none at all.
fn is_float(value: &str) -> bool {
    if matches!(value, "NaN" | "nan" | "inf" | "-inf") {
        return true;
    }
    let number = value.strip_prefix('-').unwrap_or(value);
    let whole = number.bytes().take_while(u8::is_ascii_digit).count();
    let padded = whole > 1 && number.starts_with('0');
    let plain = number
        .bytes()
        .all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
    let pointed = number.contains(['.', 'e', 'E']);
    plain && pointed && !padded && value.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_the_narrowest_type_that_takes_its_values_as_they_are() {
        let micros = |zoned| timestamp(TimeUnit::Microsecond, zoned);
        for (values, expected) in [
            (vec![], DataType::Utf8),
            (vec!["1", "-20", "0"], DataType::Int64),
            (vec!["1", "007"], DataType::Utf8),
            (vec!["-0"], DataType::Utf8),
            (vec!["+1"], DataType::Utf8),
            (vec!["9223372036854775808"], DataType::Utf8),
            (vec!["1", "2.50", "-1e-3", "NaN", "inf"], DataType::Float64),
            (vec!["007.5"], DataType::Utf8),
            (vec!["1.2.3"], DataType::Utf8),
            (vec!["true", "False"], DataType::Boolean),
            (vec!["true", "1"], DataType::Utf8),
            (vec!["2026-01-31"], DataType::Date32),
            (vec!["2026-02-31"], DataType::Utf8),
            (vec!["2026-01-31", "2026-01-31 10:00:00"], micros(false)),
            (vec!["2026-01-31T10:00:00.123456Z"], micros(true)),
            (
                vec!["2026-01-31T10:00:00", "2026-01-31T10:00:00-05:00"],
                micros(true),
            ),
            (
                vec!["2026-01-31T10:00:00.123456789"],
                timestamp(TimeUnit::Nanosecond, false),
            ),
            (vec!["2026-01-31", "1"], DataType::Utf8),
        ] {
            let mut kinds = Kinds::default();
            values.iter().for_each(|value| kinds.add(value));
            assert_eq!(kinds.data_type(), expected, "{values:?}");
        }
    }

    #[test]
    fn keys_are_as_they_are_asked_for() {
        for (value, key, expected) in [
            ("007", FeatureType::Varchar, true),
            ("007", FeatureType::BigInt, true),
            ("1.0", FeatureType::BigInt, false),
            ("70000", FeatureType::SmallInt, false),
            ("2026-01-31", FeatureType::Date, true),
            ("2026-01-31T00:00:00", FeatureType::Date, false),
        ] {
            assert_eq!(fits(value, &key), expected, "{value} as {key}");
        }
    }
}
