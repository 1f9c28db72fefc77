//! Rows of a file in the columns of a stream. A value that is not of its
//! column's type refuses its row; the reason names the place, the column and the
//! value. A column that is missing or not of the stream ends the reading, but of
//! JSON, where each line has its own, it refuses the line.

use std::fmt;
use std::sync::Arc;

use anyhow::anyhow;
use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use granary_engine::{EngineError, FileRows};
use granary_model::definitions::{self, Column};
use granary_model::{FeatureType, did_you_mean, json};
use serde_json::{Map, Value};

/// Longer values are cut in reasons.
const VALUE_CHARS_MAX: usize = 80;
/// The header of a CSV file is line 1.
const FIRST_CSV_LINE: u64 = 2;

/// Where a row stands in its file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Line(u64),
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// Rows that may be events.
#[derive(Debug, Clone)]
pub(super) struct TypedRows {
    pub batch: RecordBatch,
    /// Of each row of the batch.
    pub places: Vec<Place>,
    /// Rows that are not in the batch, and why.
    pub refused: Vec<(Place, String)>,
}

/// The rows of a file, as they are read.
pub(super) struct RowBatches {
    rows: FileRows,
    file: String,
    columns: Arc<[Column]>,
    batch_rows: usize,
}

type Typed = BoxStream<'static, anyhow::Result<TypedRows>>;

impl RowBatches {
    pub(super) fn new(rows: FileRows, file: &str, columns: &[Column], batch_rows: usize) -> Self {
        Self {
            rows,
            file: file.to_owned(),
            columns: columns.into(),
            batch_rows,
        }
    }

    pub(super) fn typed(self) -> Typed {
        let Self {
            rows,
            file,
            columns,
            batch_rows,
        } = self;
        match rows {
            FileRows::Typed(schema, batches) => {
                let mut read = 0;
                let typed = batches.map(move |batch| -> anyhow::Result<TypedRows> {
                    let batch = batch?;
                    let first = read + 1;
                    read += batch.num_rows() as u64;
                    Ok(TypedRows {
                        places: (first..=read).map(Place::Row).collect(),
                        refused: Vec::new(),
                        batch,
                    })
                });
                of_file(&file, &schema, &columns, typed, batch_rows)
            }
            FileRows::Texts(schema, batches) => {
                let mut line = FIRST_CSV_LINE;
                let wanted = Arc::clone(&columns);
                let typed = batches.map(move |batch| -> anyhow::Result<TypedRows> {
                    let batch = batch?;
                    let first = line;
                    line += batch.num_rows() as u64;
                    let places = (first..line).map(Place::Line).collect();
                    of_texts(&batch, places, &wanted)
                });
                of_file(&file, &schema, &columns, typed, batch_rows)
            }
            FileRows::Lines(chunks) => of_lines(chunks, columns, batch_rows),
        }
    }
}

/// Batches of a file whose columns are those of the stream.
fn of_file(
    file: &str,
    schema: &Schema,
    columns: &[Column],
    typed: impl Stream<Item = anyhow::Result<TypedRows>> + Send + 'static,
    batch_rows: usize,
) -> Typed {
    if let Err(reason) = check_names(schema.fields().iter().map(|f| f.name().as_str()), columns) {
        let error = anyhow!("{file}: {reason}");
        return stream::once(async { Err(error) }).boxed();
    }
    let cut = typed.map_ok(move |rows| stream::iter(slices(rows, batch_rows)).map(anyhow::Ok));
    cut.try_flatten().boxed()
}

/// Whether a file may be without a column.
fn is_optional(column: &str) -> bool {
    column == definitions::Stream::CREATED_TIME
}

/// Every column of the stream must be there, and no other.
fn check_names<'a>(given: impl Iterator<Item = &'a str>, columns: &[Column]) -> Result<(), String> {
    let known = || columns.iter().map(|column| column.name.as_str());
    let given: Vec<&str> = given.collect();
    if let Some(odd) = given
        .iter()
        .find(|name| !known().any(|known| known == **name))
    {
        let near = did_you_mean(odd, known());
        return Err(format!("the stream has no column {odd:?}{near}"));
    }
    match known().find(|name| !given.contains(name) && !is_optional(name)) {
        Some(missing) => Err(format!("column {missing:?} is missing")),
        None => Ok(()),
    }
}

fn slices(rows: TypedRows, batch_rows: usize) -> Vec<TypedRows> {
    let count = rows.batch.num_rows();
    if count <= batch_rows {
        return vec![rows];
    }
    let mut refused = rows.refused;
    let starts = (0..count).step_by(batch_rows);
    let slice = |start: usize| {
        let end = count.min(start + batch_rows);
        TypedRows {
            batch: rows.batch.slice(start, end - start),
            places: rows.places[start..end].to_vec(),
            refused: std::mem::take(&mut refused),
        }
    };
    starts.map(slice).collect()
}

/// Rows of texts, each by the type of its column.
fn of_texts(
    batch: &RecordBatch,
    places: Vec<Place>,
    columns: &[Column],
) -> anyhow::Result<TypedRows> {
    let mut values = Vec::with_capacity(columns.len());
    for column in columns {
        let texts = batch.column_by_name(&column.name);
        if texts.is_none() && is_optional(&column.name) {
            values.push(vec![Value::Null; batch.num_rows()]);
            continue;
        }
        let texts = texts.and_then(|texts| texts.as_string_opt::<i32>());
        let texts = texts.ok_or_else(|| anyhow!("{} was not read as text", column.name))?;
        let is_list = matches!(column.data_type, FeatureType::List(_));
        let value = |text: Option<&str>| match text {
            None => Value::Null,
            Some(text) if is_list => {
                serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
            }
            Some(text) => Value::String(text.to_owned()),
        };
        values.push(texts.iter().map(value).collect());
    }
    of_values(&values, places, Vec::new(), columns)
}

/// Rows of values, a list a column.
fn of_values(
    values: &[Vec<Value>],
    places: Vec<Place>,
    mut refused: Vec<(Place, String)>,
    columns: &[Column],
) -> anyhow::Result<TypedRows> {
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    let mut good = vec![true; places.len()];
    for (column, values) in columns.iter().zip(values) {
        let (array, wrong) = json::read::column(values, &column.data_type);
        for row in wrong {
            // The first reason is enough.
            if std::mem::replace(&mut good[row], false) {
                refused.push((places[row], not_of_type(column, &values[row])));
            }
        }
        arrays.push(array);
    }
    let field = |column: &Column| Field::new(&column.name, column.data_type.to_arrow(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let rows = RecordBatchOptions::new().with_row_count(Some(places.len()));
    let batch = RecordBatch::try_new_with_options(schema, arrays, &rows)?;
    let places = places.into_iter().zip(&good).filter(|(_, good)| **good);
    Ok(TypedRows {
        places: places.map(|(place, _)| place).collect(),
        batch: filter_record_batch(&batch, &BooleanArray::from(good))?,
        refused,
    })
}

fn not_of_type(column: &Column, value: &Value) -> String {
    let (name, wanted) = (&column.name, &column.data_type);
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{name} expects {wanted}, got {}..", &text[..end]),
        None => format!("{name} expects {wanted}, got {text}"),
    }
}

/// Lines of JSON objects on their way to batches.
struct Lines {
    chunks: BoxStream<'static, Result<Bytes, EngineError>>,
    columns: Arc<[Column]>,
    batch_rows: usize,
    line: u64,
    /// Of each column.
    values: Vec<Vec<Value>>,
    places: Vec<Place>,
    refused: Vec<(Place, String)>,
}

fn of_lines(
    chunks: BoxStream<'static, Result<Bytes, EngineError>>,
    columns: Arc<[Column]>,
    batch_rows: usize,
) -> Typed {
    let lines = Lines {
        chunks,
        values: vec![Vec::new(); columns.len()],
        columns,
        batch_rows,
        line: 0,
        places: Vec::new(),
        refused: Vec::new(),
    };
    let batches = stream::try_unfold(Some(lines), async |lines| {
        let Some(mut lines) = lines else {
            return Ok::<_, anyhow::Error>(None);
        };
        let mut full = Vec::new();
        let ended = match lines.chunks.next().await.transpose()? {
            Some(chunk) => {
                for line in chunk.split(|byte| *byte == b'\n') {
                    lines.see(line);
                    if lines.places.len() >= lines.batch_rows {
                        full.push(anyhow::Ok(lines.take()?));
                    }
                }
                // What follows the last end of a line is no line.
                lines.line -= u64::from(chunk.ends_with(b"\n"));
                false
            }
            None => {
                full.push(anyhow::Ok(lines.take()?));
                true
            }
        };
        Ok(Some((stream::iter(full), (!ended).then_some(lines))))
    });
    batches.try_flatten().boxed()
}

impl Lines {
    fn see(&mut self, line: &[u8]) {
        self.line += 1;
        if line.trim_ascii().is_empty() {
            return;
        }
        let place = Place::Line(self.line);
        match self.object(line) {
            Err(reason) => self.refused.push((place, reason)),
            Ok(mut object) => {
                self.places.push(place);
                for (column, values) in self.columns.iter().zip(&mut self.values) {
                    values.push(object.remove(&column.name).unwrap_or_default());
                }
            }
        }
    }

    fn object(&self, line: &[u8]) -> Result<Map<String, Value>, String> {
        let object = match serde_json::from_slice(line) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err("not a JSON object".to_owned()),
            Err(error) => return Err(format!("not JSON: {error}")),
        };
        check_names(object.keys().map(String::as_str), &self.columns)?;
        Ok(object)
    }

    fn take(&mut self) -> anyhow::Result<TypedRows> {
        let values = self.values.iter_mut().map(std::mem::take);
        let values: Vec<Vec<Value>> = values.collect();
        let places = std::mem::take(&mut self.places);
        of_values(
            &values,
            places,
            std::mem::take(&mut self.refused),
            &self.columns,
        )
    }
}
