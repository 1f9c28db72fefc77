//! Parquet, its columns encoded side by side: with few rows a second to gain
//! elsewhere, encoding would be a good part of a training set's time.
//!
//! Rows are gathered to a row group, and while one is encoded the next is
//! gathered; no more than these two are held.

use std::mem;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::DataFusionError;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, ArrowWriterOptions,
    compute_leaves,
};
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use super::encode::EncodeError;

const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Columns of more distinct values than this holds are written plainly: at
/// Parquet's own 1 MiB a row group's numbers would all be entered first.
const DICTIONARY_BYTES: usize = 128 * 1024;
/// In memory; bounds what wide rows hold.
const ROW_GROUP_BYTES: usize = 64 << 20;

pub(super) struct ParquetEncoder {
    schema: SchemaRef,
    /// Buffers what is ready; `None` after the end.
    writer: Option<SerializedFileWriter<Vec<u8>>>,
    columns: ArrowRowGroupWriterFactory,
    row_groups: usize,
    gathered: Vec<RecordBatch>,
    gathered_rows: usize,
    gathered_bytes: usize,
    /// The columns of the row group before, some a task, in their order.
    encoding: Vec<SpawnedTask<Result<Vec<ArrowColumnChunk>, ParquetError>>>,
}

impl ParquetEncoder {
    pub(super) fn new(schema: SchemaRef) -> Result<Self, EncodeError> {
        if let Some(field) = schema.fields().iter().find(|f| !has_parquet_form(f)) {
            let (name, given) = (field.name(), field.data_type());
            return Err(DataFusionError::Plan(format!(
                "column {name} is {given}, which Parquet has no form for"
            ))
            .into());
        }
        let is_date64 = |field: &FieldRef| *field.data_type() == DataType::Date64;
        let has_date64 = schema.fields().iter().any(is_date64);
        let properties = WriterProperties::builder()
            .set_created_by(concat!("granary ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            // A DATE by milliseconds would be a number; this renames list elements too.
            .set_coerce_types(has_date64)
            .build();
        let options = ArrowWriterOptions::new().with_properties(properties);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)?;
        let (writer, columns) = writer.into_serialized_writer()?;
        Ok(Self {
            schema,
            writer: Some(writer),
            columns,
            row_groups: 0,
            gathered: Vec::new(),
            gathered_rows: 0,
            gathered_bytes: 0,
            encoding: Vec::new(),
        })
    }

    pub(super) async fn encode(&mut self, batch: RecordBatch) -> Result<Vec<u8>, EncodeError> {
        self.gathered_rows += batch.num_rows();
        self.gathered_bytes += batch_bytes(&batch);
        self.gathered.push(batch);
        if self.gathered_rows >= ROW_GROUP_ROWS || self.gathered_bytes >= ROW_GROUP_BYTES {
            self.append().await?;
            self.begin()?;
        }
        Ok(self.ready())
    }

    pub(super) async fn finish(&mut self) -> Result<Vec<u8>, EncodeError> {
        self.append().await?;
        if self.gathered_rows > 0 {
            self.begin()?;
            self.append().await?;
        }
        match self.writer.take() {
            Some(writer) => Ok(writer.into_inner()?),
            None => Ok(Vec::new()),
        }
    }

    fn ready(&mut self) -> Vec<u8> {
        let writer = self.writer.as_mut();
        writer.map_or_else(Vec::new, |writer| mem::take(writer.inner_mut()))
    }

    /// Begins to encode what was gathered.
    fn begin(&mut self) -> Result<(), EncodeError> {
        let batches: Arc<[RecordBatch]> = mem::take(&mut self.gathered).into();
        (self.gathered_rows, self.gathered_bytes) = (0, 0);
        let writers = self.columns.create_column_writers(self.row_groups)?;
        self.row_groups += 1;
        let mut writers = writers.into_iter();
        let fields = self.schema.fields().len();
        let tasks = std::thread::available_parallelism().map_or(1, usize::from);
        let mut columns = 0..0;
        for task in 0..tasks {
            columns = columns.end..fields * (task + 1) / tasks;
            // A nested column has several leaves, each with a writer.
            let leaves = columns
                .clone()
                .map(|c| leaf_count(self.schema.field(c).data_type()));
            let own: Vec<ArrowColumnWriter> = writers.by_ref().take(leaves.sum()).collect();
            if own.is_empty() {
                continue;
            }
            let (batches, schema, columns) =
                (batches.clone(), self.schema.clone(), columns.clone());
            self.encoding.push(SpawnedTask::spawn_blocking(move || {
                encode_columns(&schema, &batches, columns, own)
            }));
        }
        Ok(())
    }

    /// Waits for the row group under way and appends it to the file.
    async fn append(&mut self) -> Result<(), EncodeError> {
        if self.encoding.is_empty() {
            return Ok(());
        }
        let mut chunks = Vec::new();
        for task in mem::take(&mut self.encoding) {
            let encoded = task.join_unwind().await;
            let encoded = encoded.map_err(|e| DataFusionError::ExecutionJoin(Box::new(e)))?;
            chunks.extend(encoded?);
        }
        let Some(writer) = self.writer.as_mut() else {
            return Ok(());
        };
        let mut row_group = writer.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }
}

fn has_parquet_form(field: &FieldRef) -> bool {
    // The converter panics on a union.
    let alone = Schema::new(vec![field.clone()]);
    !holds_union(field.data_type()) && ArrowSchemaConverter::new().convert(&alone).is_ok()
}

fn holds_union(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Union(..)) || children(data_type).into_iter().any(holds_union)
}

/// The types inside of a type.
fn children(data_type: &DataType) -> Vec<&DataType> {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => vec![item.data_type()],
        DataType::Struct(fields) => fields.iter().map(|f| f.data_type()).collect(),
        DataType::Dictionary(_, values) => vec![values],
        DataType::RunEndEncoded(_, values) => vec![values.data_type()],
        _ => Vec::new(),
    }
}

/// Of the rows alone: a batch may be a slice of much more.
fn batch_bytes(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    let bytes = columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or(0));
    bytes.sum()
}

fn encode_columns(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    columns: std::ops::Range<usize>,
    mut writers: Vec<ArrowColumnWriter>,
) -> Result<Vec<ArrowColumnChunk>, ParquetError> {
    for batch in batches {
        let mut next = writers.iter_mut();
        for column in columns.clone() {
            for leaf in compute_leaves(schema.field(column), batch.column(column))? {
                if let Some(writer) = next.next() {
                    writer.write(&leaf)?;
                }
            }
        }
    }
    writers.into_iter().map(ArrowColumnWriter::close).collect()
}

/// How many Parquet columns a column becomes.
fn leaf_count(data_type: &DataType) -> usize {
    match children(data_type) {
        children if children.is_empty() => 1,
        children => children.into_iter().map(leaf_count).sum(),
    }
}
