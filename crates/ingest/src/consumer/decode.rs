//! Messages as rows. A message that is not of the format, or not of the stream's
//! columns, is bad by itself: those beside it are decoded all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::buffer::Buffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use bytes::Bytes;
use granary_model::definitions::Column;
use granary_model::{FeatureType, did_you_mean, json};
use serde_json::{Map, Value};

use super::log::Message;
use super::settings::MessageFormat;
use crate::error::IngestError;

/// Longer values are cut in reasons.
const VALUE_CHARS_MAX: usize = 80;

/// Rows, and which message each is of.
#[derive(Debug)]
pub(super) struct Rows {
    pub batch: RecordBatch,
    /// Of each row, by the message's place among those that were given.
    pub messages: Vec<usize>,
}

/// Why messages are bad, by their place; the first reason of each.
pub(super) type Bad = BTreeMap<usize, String>;

pub(super) fn decode(
    format: MessageFormat,
    messages: &[Message],
    columns: &[Column],
) -> Result<(Vec<Rows>, Bad), IngestError> {
    match format {
        MessageFormat::Json => {
            let (rows, bad) = json_rows(messages, columns)?;
            Ok((vec![rows], bad))
        }
        MessageFormat::Arrow => Ok(arrow_rows(messages)),
    }
}

fn arrow_rows(messages: &[Message]) -> (Vec<Rows>, Bad) {
    let mut rows = Vec::new();
    let mut bad = Bad::new();
    for (at, message) in messages.iter().enumerate() {
        match batches(&message.payload) {
            Ok(batches) => rows.extend(batches.into_iter().map(|batch| Rows {
                messages: vec![at; batch.num_rows()],
                batch,
            })),
            Err(error) => {
                bad.insert(at, format!("not an Arrow IPC stream: {error}"));
            }
        }
    }
    (rows, bad)
}

fn batches(payload: &Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
    // arrow panics at some garbled streams. The decoder and everything that it
    // made are dropped with the panic, so nothing half-made is seen.
    std::panic::catch_unwind(|| read_batches(payload))
        .unwrap_or_else(|_| Err(ArrowError::IpcError("it is damaged".to_owned())))
}

/// Pushed into a decoder, which waits for what a length says; a reader would make
/// room for it first, and in other bytes it is anything.
fn read_batches(payload: &Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
    let mut decoder = StreamDecoder::new();
    let mut bytes = Buffer::from(payload.clone());
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        batches.extend(decoder.decode(&mut bytes)?);
    }
    decoder.finish()?;
    match decoder.schema() {
        Some(_) => Ok(batches),
        None => Err(ArrowError::IpcError("it has no schema".to_owned())),
    }
}

/// All rows in one batch of the stream's own columns and types.
fn json_rows(messages: &[Message], columns: &[Column]) -> Result<(Rows, Bad), IngestError> {
    let mut bad = Bad::new();
    let mut places = Vec::with_capacity(messages.len());
    let mut values: Vec<Vec<Value>> = vec![Vec::new(); columns.len()];
    for (at, message) in messages.iter().enumerate() {
        match object(&message.payload, columns) {
            Err(reason) => drop(bad.insert(at, reason)),
            Ok(mut object) => {
                places.push(at);
                for (column, values) in columns.iter().zip(&mut values) {
                    values.push(object.remove(&column.name).unwrap_or_default());
                }
            }
        }
    }
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for (column, values) in columns.iter().zip(&values) {
        let (array, wrong) = json::read::column(values, &column.data_type);
        for row in wrong {
            let reason = || not_of_type(&column.name, &column.data_type, &values[row]);
            bad.entry(places[row]).or_insert_with(reason);
        }
        arrays.push(array);
    }
    let field = |column: &Column| Field::new(&column.name, column.data_type.to_arrow(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let good: BooleanArray = places
        .iter()
        .map(|at| Some(!bad.contains_key(at)))
        .collect();
    let batch = RecordBatch::try_new(schema, arrays);
    let batch = batch.and_then(|batch| filter_record_batch(&batch, &good));
    let batch = batch.map_err(|e| IngestError::Log(format!("messages as columns: {e}")))?;
    places.retain(|at| !bad.contains_key(at));
    let messages = places;
    Ok((Rows { batch, messages }, bad))
}

/// Every column of the stream must be there, and no other.
fn object(payload: &[u8], columns: &[Column]) -> Result<Map<String, Value>, String> {
    let object = match serde_json::from_slice(payload) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err("not a JSON object".to_owned()),
        Err(error) => return Err(format!("not JSON: {error}")),
    };
    let known = || columns.iter().map(|column| column.name.as_str());
    if let Some(odd) = object.keys().find(|name| !known().any(|k| k == **name)) {
        let near = did_you_mean(odd, known());
        return Err(format!("the stream has no column {odd:?}{near}"));
    }
    match known().find(|name| !object.contains_key(*name)) {
        Some(missing) => Err(format!("column {missing:?} is missing")),
        None => Ok(object),
    }
}

fn not_of_type(name: &str, wanted: &FeatureType, value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{name} expects {wanted}, got {}..", &text[..end]),
        None => format!("{name} expects {wanted}, got {text}"),
    }
}
