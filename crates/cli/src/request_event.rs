//! Request events as the command line writes them:
//! `--request-event card_event='{"device_id": "d-7", "amount": 12.5}'`.
//!
//! A row is a JSON object in the form that [`json`] reads. Columns that are left
//! out are NULL; rows of one stream become one batch. Streams and columns that
//! are not known are passed on, for the reader to refuse by name.

use std::str::FromStr;
use std::sync::Arc;

use anyhow::bail;
use arrow::array::{ArrayRef, RecordBatch, StringArray};
use granary_model::definitions::Column;
use granary_model::json;
use serde_json::{Map, Value};

use crate::failure::usage;

/// One `--request-event`, not typed yet.
#[derive(Debug, Clone, PartialEq)]
pub struct EventArgument {
    pub stream: String,
    pub row: Map<String, Value>,
}

impl FromStr for EventArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = "it is of the form STREAM='{\"column\": value, ..}'";
        let (stream, row) = text.split_once('=').ok_or(form)?;
        match serde_json::from_str(row) {
            Ok(Value::Object(row)) if row.is_empty() => Err("the event has no columns".to_owned()),
            Ok(Value::Object(row)) => Ok(Self {
                stream: stream.trim().to_owned(),
                row,
            }),
            Ok(_) => Err(format!("{row} is no JSON object; {form}")),
            Err(error) => Err(format!("{row} is not JSON ({error}); {form}")),
        }
    }
}

/// The streams that are named, each once.
pub fn streams(arguments: &[EventArgument]) -> Vec<&str> {
    let mut named: Vec<&str> = Vec::new();
    for argument in arguments {
        if !named.contains(&argument.stream.as_str()) {
            named.push(&argument.stream);
        }
    }
    named
}

/// The events of one stream; `columns`: what is known of the stream's.
pub fn batch(
    arguments: &[EventArgument],
    stream: &str,
    columns: &[Column],
) -> anyhow::Result<RecordBatch> {
    let rows = arguments
        .iter()
        .filter(|argument| argument.stream == stream);
    let rows: Vec<&Map<String, Value>> = rows.map(|argument| &argument.row).collect();
    let mut names: Vec<&String> = Vec::new();
    for name in rows.iter().flat_map(|row| row.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut made: Vec<(&String, ArrayRef, bool)> = Vec::new();
    for name in names {
        let values = rows.iter().map(|row| row.get(name).cloned());
        let values: Vec<Value> = values.map(Option::unwrap_or_default).collect();
        let array = match columns.iter().find(|column| column.name == *name) {
            Some(column) => typed(stream, column, &values)?,
            None => Arc::new(values.iter().map(text).collect::<StringArray>()),
        };
        made.push((name, array, true));
    }
    Ok(RecordBatch::try_from_iter_with_nullable(made)?)
}

fn typed(stream: &str, column: &Column, values: &[Value]) -> anyhow::Result<ArrayRef> {
    let (array, wrong) = json::read::column(values, &column.data_type);
    if let Some(row) = wrong.first() {
        bail!(usage(format!(
            "--request-event {stream}: {} expects {}, got {}",
            column.name, column.data_type, values[*row]
        )));
    }
    Ok(array)
}

fn text(value: &Value) -> Option<String> {
    (!value.is_null()).then(|| value.to_string())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    use granary_model::FeatureType;

    use super::*;

    fn columns() -> Vec<Column> {
        vec![
            Column::new("customer_id", FeatureType::BigInt),
            Column::new("at", FeatureType::Timestamp),
        ]
    }

    #[test]
    fn rows_of_a_stream_are_one_batch() {
        let parse = |text: &str| text.parse::<EventArgument>().unwrap();
        let arguments = [
            parse(r#"paid={"customer_id": 7}"#),
            parse(r#"seen={"odd": 1}"#),
            parse(r#"paid={"at": "2026-01-01T00:00:00Z", "customer_id": "8"}"#),
        ];
        assert_eq!(streams(&arguments), ["paid", "seen"]);
        let paid = batch(&arguments, "paid", &columns()).unwrap();
        let ids = paid.column_by_name("customer_id").unwrap();
        assert_eq!(ids.as_primitive::<Int64Type>().values(), &[7, 8]);
        let times = paid.column_by_name("at").unwrap();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        assert!(times.is_null(0));
        assert_eq!(times.value(1), 1_767_225_600_000_000);
        let seen = batch(&arguments, "seen", &[]).unwrap();
        assert_eq!(seen.num_rows(), 1);
        let wrong = [parse(r#"paid={"customer_id": "x"}"#)];
        let wrong = batch(&wrong, "paid", &columns()).unwrap_err();
        let message = "--request-event paid: customer_id expects BIGINT, got \"x\"";
        assert_eq!(wrong.to_string(), message);
    }

    #[test]
    fn what_is_no_row_is_refused() {
        for text in ["paid", "paid=", "paid=7", "paid={}", "paid={\"a\""] {
            assert!(text.parse::<EventArgument>().is_err(), "{text}");
        }
    }
}
