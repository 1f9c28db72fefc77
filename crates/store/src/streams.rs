//! The streams that a process has open, and how their payloads are written.
//!
//! Whoever writes events opens streams and puts them here; whoever reads finds
//! them here, so that neither knows the other. A payload is a row (see
//! [`crate::codec`]) of the stream's columns in their order, without times
//! beside them: the event time is one of the columns.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use granary_model::definitions::{Column, Stream};
use granary_model::types::UTC;

use crate::codec::{RowDecoder, RowLayout, RowReader};
use crate::error::StoreError;
use crate::events::{EventRef, EventSink, EventStream};
use crate::rows::EncodedRows;

/// What turns the rows of a stream into payloads and back.
#[derive(Debug, Clone)]
pub struct StreamLayout {
    rows: Arc<RowLayout>,
    /// The DEDUPLICATE BY columns alone; none where there are none.
    dedup: Arc<RowLayout>,
    /// [`Stream::row_schema`].
    schema: SchemaRef,
}

impl StreamLayout {
    pub fn of(stream: &Stream) -> Self {
        let plain = |column: &Column| Column::new(column.name.clone(), column.data_type.clone());
        let layout = |features| {
            Arc::new(RowLayout {
                event_time: false,
                created_time: false,
                features,
            })
        };
        let columns = stream.columns.iter();
        let dedup = columns.clone();
        let dedup = dedup.filter(|column| stream.deduplicate_by.contains(&column.name));
        Self {
            dedup: layout(dedup.map(plain).collect()),
            rows: layout(columns.map(plain).collect()),
            schema: stream.row_schema(),
        }
    }

    /// The stream's columns, without comments.
    pub fn columns(&self) -> &[Column] {
        &self.rows.features
    }

    /// The columns that events read back as: [`Stream::row_schema`].
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Payloads of rows that have the stream's columns by name.
    pub fn encode(&self, batch: &RecordBatch) -> Result<EncodedRows, StoreError> {
        self.rows.encode(batch, None, None)
    }

    /// The columns that dedup keys are made of; none where there are none.
    pub fn dedup_columns(&self) -> impl Iterator<Item = &str> {
        self.dedup
            .features
            .iter()
            .map(|column| column.name.as_str())
    }

    /// The dedup key of every row, from the stream's columns by name. A row with
    /// a NULL among the DEDUPLICATE BY columns is never a duplicate.
    pub fn dedup_keys(&self, batch: &RecordBatch) -> Result<Vec<Option<Bytes>>, StoreError> {
        let rows = batch.num_rows();
        if self.dedup.features.is_empty() {
            return Ok(vec![None; rows]);
        }
        let columns = self.dedup.features.iter();
        let columns: Vec<&ArrayRef> = columns
            .filter_map(|column| batch.column_by_name(&column.name))
            .collect();
        let keys = self.dedup.encode(batch, None, None)?;
        let key = |row: usize| {
            let null = columns.iter().any(|column| column.is_null(row));
            (!null).then(|| Bytes::copy_from_slice(keys.get(row)))
        };
        Ok((0..rows).map(key).collect())
    }
}

/// Collects the events of a scan and reads them back, a batch of columns.
#[derive(Debug)]
pub struct EventRows {
    schema: SchemaRef,
    rows: RowReader,
    /// Of each column whether it is the created time.
    created: Vec<bool>,
    ranges: Vec<u32>,
    event_times: Vec<i64>,
    created_times: Vec<i64>,
    sequences: Vec<u64>,
    failed: Option<StoreError>,
}

/// Events, read back; all lists are of one length.
#[derive(Debug, Clone)]
pub struct ReadEvents {
    pub batch: RecordBatch,
    /// Position of the scan's range that gave each event.
    pub ranges: Vec<u32>,
    pub event_times: Vec<i64>,
    pub sequences: Vec<u64>,
}

impl EventRows {
    /// `projection`: positions in [`StreamLayout::schema`]; panics where one is
    /// beyond it.
    pub fn new(layout: &StreamLayout, projection: &[usize]) -> Self {
        let stored = layout.rows.features.len();
        let fields = projection.iter().map(|at| layout.schema.field(*at).clone());
        let fields: Vec<_> = fields.collect();
        let columns = projection.iter().copied().filter(|at| *at < stored);
        Self {
            schema: Arc::new(Schema::new(fields)),
            rows: RowReader::growing(&RowDecoder::new(&layout.rows, columns.collect())),
            created: projection.iter().map(|at| *at >= stored).collect(),
            ranges: Vec::new(),
            event_times: Vec::new(),
            created_times: Vec::new(),
            sequences: Vec::new(),
            failed: None,
        }
    }

    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds an event. A damaged one is an error in the end.
    pub fn push(&mut self, range: usize, event: EventRef<'_>) {
        if let Err(error) = self.rows.push_next(event.payload) {
            self.failed.get_or_insert(error);
            return;
        }
        self.ranges.push(range as u32);
        self.event_times.push(event.event_time.0);
        self.created_times.push(event.created_time.0);
        self.sequences.push(event.sequence);
    }

    pub fn finish(self) -> Result<ReadEvents, StoreError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let created = TimestampMicrosecondArray::from(self.created_times).with_timezone(UTC);
        let created: ArrayRef = Arc::new(created);
        let mut stored = self.rows.finish_values()?.into_iter();
        let columns = self
            .created
            .iter()
            .filter_map(|is_created| match is_created {
                true => Some(Arc::clone(&created)),
                false => stored.next(),
            });
        let rows = RecordBatchOptions::new().with_row_count(Some(self.ranges.len()));
        let batch = RecordBatch::try_new_with_options(self.schema, columns.collect(), &rows);
        Ok(ReadEvents {
            batch: batch.map_err(|e| StoreError::Codec(e.to_string()))?,
            ranges: self.ranges,
            event_times: self.event_times,
            sequences: self.sequences,
        })
    }
}

impl EventSink for EventRows {
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        self.push(range, event);
        match self.failed {
            None => ControlFlow::Continue(()),
            Some(_) => ControlFlow::Break(()),
        }
    }
}

/// A stream as it is open now.
#[derive(Debug)]
pub struct OpenStream {
    pub definition: Stream,
    pub layout: StreamLayout,
    pub events: Arc<dyn EventStream>,
}

/// Open streams by name.
pub type StreamsByName = BTreeMap<String, Arc<OpenStream>>;

/// The streams that this process has open.
#[derive(Debug, Default)]
pub struct OpenStreams(RwLock<Arc<StreamsByName>>);

impl OpenStreams {
    pub fn get(&self, name: &str) -> Option<Arc<OpenStream>> {
        self.all().get(name).cloned()
    }

    /// All of them at one moment. What did not change since is the same `Arc`.
    pub fn all(&self) -> Arc<StreamsByName> {
        let open = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&open)
    }

    /// Puts these in the place of those before.
    pub fn replace(&self, streams: StreamsByName) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(streams);
    }
}
