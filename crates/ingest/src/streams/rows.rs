//! Rows of a stream as events.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::Bytes;
use granary_engine::StreamNeeds;
use granary_model::definitions::{Column, Stream};
use granary_model::{FeatureType, UtcMicros};
use granary_store::StreamLayout;
use granary_store::events::NewEvent;

use super::keys::IndexKeys;
use crate::error::IngestError;

/// What turns the rows of one stream into events.
#[derive(Debug, Clone)]
pub(super) struct EventCodec {
    stream: String,
    layout: StreamLayout,
    event_time: String,
    /// The columns that are pushed.
    schema: SchemaRef,
    keys: IndexKeys,
}

/// Which event times are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakenTimes {
    /// Live views need nothing before it, and it may be gone: an event that came
    /// in now would be counted by some reads only.
    pub earliest: Option<UtcMicros>,
    pub latest: UtcMicros,
}

impl TakenTimes {
    pub(super) fn up_to(latest: UtcMicros) -> Self {
        Self {
            earliest: None,
            latest,
        }
    }
}

/// What is to become of a row.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// The next of the events.
    Taken,
    /// The next of the late events, and what is said where those are refused.
    Late(String),
    Refused(String),
}

/// A batch, row by row.
pub(super) struct CheckedRows {
    /// Of the rows that are taken, in order.
    pub events: Vec<NewEvent>,
    /// Those that are before the earliest time.
    pub late: Vec<NewEvent>,
    /// Of every row.
    pub verdicts: Vec<Verdict>,
}

impl EventCodec {
    /// `needs`: what live views need of the stream.
    pub(super) fn of(stream: &Stream, needs: Option<&StreamNeeds>) -> Self {
        let layout = StreamLayout::of(stream);
        let field = |column: &Column| Field::new(&column.name, column.data_type.to_arrow(), true);
        let fields: Vec<Field> = stream.columns.iter().map(field).collect();
        Self {
            stream: stream.name.clone(),
            keys: IndexKeys::new(&stream.name, layout.clone(), needs),
            layout,
            event_time: stream.event_time.clone(),
            schema: Arc::new(Schema::new(fields)),
        }
    }

    pub(super) fn keys(&self) -> &IndexKeys {
        &self.keys
    }

    pub(super) fn layout(&self) -> &StreamLayout {
        &self.layout
    }

    /// Looks at every row of a batch.
    pub(super) fn check(
        &self,
        batch: &RecordBatch,
        taken: TakenTimes,
    ) -> Result<CheckedRows, IngestError> {
        let given = batch;
        let batch = self.plain(given)?;
        let lost = self.lost(given, &batch);
        let times = self.event_times(&batch)?;
        let payloads = self.layout.encode(&batch)?;
        let dedup = self.layout.dedup_keys(&batch)?;
        let (keys, keyless) = self.keys.of_rows(&batch);
        let mut rows = CheckedRows {
            events: Vec::with_capacity(batch.num_rows()),
            late: Vec::new(),
            verdicts: Vec::with_capacity(batch.num_rows()),
        };
        let checked = times.into_iter().zip(keys).zip(keyless).enumerate();
        for (row, ((time, keys), keyless)) in checked {
            let verdict = match lost.get(row).cloned().flatten().or(keyless) {
                Some(reason) => Verdict::Refused(reason),
                None => self.verdict(time, taken),
            };
            let event = || NewEvent {
                event_time: UtcMicros(time.unwrap_or_default()),
                dedup_key: dedup.get(row).cloned().flatten(),
                keys,
                payload: Bytes::copy_from_slice(payloads.get(row)),
            };
            match &verdict {
                Verdict::Taken => rows.events.push(event()),
                Verdict::Late(_) => rows.late.push(event()),
                Verdict::Refused(_) => {}
            }
            rows.verdicts.push(verdict);
        }
        Ok(rows)
    }

    fn verdict(&self, time: Option<i64>, taken: TakenTimes) -> Verdict {
        let (name, latest) = (&self.event_time, taken.latest);
        let Some(time) = time.map(UtcMicros) else {
            return Verdict::Refused(format!("{name} is NULL: an event needs its event time"));
        };
        if time > latest {
            let reason = format!("{name} is {time}, {latest} is the latest taken now");
            return Verdict::Refused(reason);
        }
        match taken.earliest.filter(|earliest| time < *earliest) {
            Some(earliest) => Verdict::Late(format!(
                "{name} is {time}, older than what is kept: {earliest} is the earliest taken now"
            )),
            None => Verdict::Taken,
        }
    }

    /// The batch in the stream's own columns and types.
    fn plain(&self, batch: &RecordBatch) -> Result<RecordBatch, IngestError> {
        let known = |name: &str| self.schema.column_with_name(name).is_some();
        let fields = batch.schema_ref().fields();
        if let Some(odd) = fields.iter().find(|field| !known(field.name())) {
            return Err(self.refuse(&format!("has no column {}", odd.name())));
        }
        let columns = self.layout.columns().iter();
        let columns: Result<Vec<_>, _> = columns.map(|c| self.column(batch, c)).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns?)
            .map_err(|e| self.refuse(&e.to_string()))
    }

    fn column(&self, batch: &RecordBatch, column: &Column) -> Result<ArrayRef, IngestError> {
        let name = &column.name;
        let mut fields = batch.schema_ref().fields().iter();
        if fields.by_ref().filter(|field| field.name() == name).count() > 1 {
            return Err(self.refuse(&format!("column {name} is given twice")));
        }
        let Some(given) = batch.column_by_name(name) else {
            return Err(self.refuse(&format!("column {name} is missing")));
        };
        let found = FeatureType::from_arrow(given.data_type());
        let fits = found.is_some_and(|found| column.data_type.accepts_input(&found));
        if !fits && given.null_count() < given.len() {
            let (wanted, got) = (&column.data_type, given.data_type());
            return Err(self.refuse(&format!("column {name} expects {wanted}, got {got}")));
        }
        // Of a list's items `lost` sees nothing, so there the cast itself must fail.
        let options = CastOptions {
            safe: !matches!(column.data_type, FeatureType::List(_)),
            ..CastOptions::default()
        };
        cast_with_options(given, &column.data_type.to_arrow(), &options)
            .map_err(|e| self.cast_failed(name, &e))
    }

    /// Of every row the value that did not fit its column's type, if any: a
    /// cast makes NULL of it. Empty where all fit.
    fn lost(&self, given: &RecordBatch, plain: &RecordBatch) -> Vec<Option<String>> {
        let mut lost = Vec::new();
        for column in self.layout.columns() {
            let name = column.name.as_str();
            let (Some(given), Some(plain)) =
                (given.column_by_name(name), plain.column_by_name(name))
            else {
                continue;
            };
            let nulls = given.logical_nulls();
            if plain.null_count() == nulls.as_ref().map_or(0, NullBuffer::null_count) {
                continue;
            }
            lost.resize(plain.len(), None);
            for (row, reason) in lost.iter_mut().enumerate() {
                if plain.is_null(row) && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)) {
                    *reason = Some(format!("{name} is no {}", column.data_type));
                }
            }
        }
        lost
    }

    /// Of every row, in microseconds; a date is its midnight.
    fn event_times(&self, batch: &RecordBatch) -> Result<Vec<Option<i64>>, IngestError> {
        let name = &self.event_time;
        let Some(column) = batch.column_by_name(name) else {
            return Err(self.refuse(&format!("column {name} is missing")));
        };
        let times = cast(column, &FeatureType::Timestamp.to_arrow());
        let times = times.map_err(|e| self.cast_failed(name, &e))?;
        Ok(times
            .as_primitive::<TimestampMicrosecondType>()
            .iter()
            .collect())
    }

    fn refuse(&self, what: &str) -> IngestError {
        IngestError::Refused(format!("stream {}: {what}", self.stream))
    }

    fn cast_failed(&self, column: &str, error: &ArrowError) -> IngestError {
        self.refuse(&format!("column {column}: {error}"))
    }
}
