//! Batches as the bytes of a file. Does no IO.

use std::mem;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryHandling, FileWriter, IpcWriteOptions, StreamWriter};
use datafusion::error::DataFusionError;
use granary_model::json;

use super::dictionaries::Dictionaries;
use super::parquet::ParquetEncoder;
use super::{OutputFormat, OutputTarget};
use crate::error::EngineError;

/// What cannot be encoded.
#[derive(Debug)]
pub(super) struct EncodeError(DataFusionError);

impl<E: Into<DataFusionError>> From<E> for EncodeError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl EncodeError {
    pub(super) fn of(self, target: &OutputTarget) -> EngineError {
        EngineError::from_query(&target.location, self.0)
    }
}

/// Encodes the batches of one file, in order.
pub(super) enum Encoder {
    Parquet(Box<ParquetEncoder>),
    Csv(CsvEncoder),
    Arrow(Box<FileWriter<Vec<u8>>>, Dictionaries),
    ArrowStream(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    /// Refuses a column that the format has no form for, by its name.
    pub(super) fn new(target: &OutputTarget, schema: SchemaRef) -> Result<Self, EngineError> {
        let made = match target.format {
            OutputFormat::Csv => Ok(Self::Csv(CsvEncoder::new(&schema))),
            OutputFormat::Arrow => Self::arrow(&schema),
            OutputFormat::ArrowStream => StreamWriter::try_new(Vec::new(), &schema)
                .map(|writer| Self::ArrowStream(Box::new(writer)))
                .map_err(EncodeError::from),
            OutputFormat::Parquet | OutputFormat::Delta => {
                ParquetEncoder::new(schema).map(|encoder| Self::Parquet(Box::new(encoder)))
            }
        };
        made.map_err(|error| error.of(target))
    }

    fn arrow(schema: &SchemaRef) -> Result<Self, EncodeError> {
        let dictionaries = Dictionaries::new(schema)?;
        let options =
            IpcWriteOptions::default().with_dictionary_handling(DictionaryHandling::Delta);
        let writer = FileWriter::try_new_with_options(Vec::new(), schema, options)?;
        Ok(Self::Arrow(Box::new(writer), dictionaries))
    }

    /// The bytes that are ready.
    pub(super) async fn encode(&mut self, batch: RecordBatch) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Parquet(encoder) => encoder.encode(batch).await,
            Self::Csv(encoder) => Ok(encoder.encode(&batch)?),
            Self::Arrow(writer, dictionaries) => {
                writer.write(&dictionaries.unify(batch)?)?;
                Ok(mem::take(writer.get_mut()))
            }
            Self::ArrowStream(writer) => {
                writer.write(&batch)?;
                Ok(mem::take(writer.get_mut()))
            }
        }
    }

    /// The last bytes.
    pub(super) async fn finish(&mut self) -> Result<Vec<u8>, EncodeError> {
        match self {
            Self::Parquet(encoder) => encoder.finish().await,
            Self::Csv(encoder) => Ok(encoder.finish()?),
            Self::Arrow(writer, _) => {
                writer.finish()?;
                Ok(mem::take(writer.get_mut()))
            }
            Self::ArrowStream(writer) => {
                writer.finish()?;
                Ok(mem::take(writer.get_mut()))
            }
        }
    }
}

/// See the module [`super`] for what CSV writes.
pub(super) struct CsvEncoder {
    schema: SchemaRef,
    /// Whether the header is written.
    begun: bool,
}

impl CsvEncoder {
    fn new(schema: &Schema) -> Self {
        let flat = |field: &Arc<Field>| match has_csv_form(field.data_type()) {
            true => field.as_ref().clone(),
            false => Field::new(field.name(), DataType::Utf8, true),
        };
        let fields: Vec<Field> = schema.fields().iter().map(flat).collect();
        Self {
            schema: Arc::new(Schema::new(fields)),
            begun: false,
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let columns = batch.columns().iter().map(|column| -> ArrayRef {
            if has_csv_form(column.data_type()) {
                return Arc::clone(column);
            }
            let texts = (0..column.len()).map(|row| json::text(column, row));
            Arc::new(texts.collect::<StringArray>())
        });
        let batch = RecordBatch::try_new(self.schema.clone(), columns.collect())?;
        let mut text = Vec::new();
        let mut writer = WriterBuilder::new()
            .with_header(!mem::replace(&mut self.begun, true))
            .build(&mut text);
        writer.write(&batch)?;
        drop(writer);
        Ok(text)
    }

    /// The header of no rows.
    fn finish(&mut self) -> Result<Vec<u8>, ArrowError> {
        if self.begun {
            return Ok(Vec::new());
        }
        let schema = self.schema.clone();
        let mut text = Vec::new();
        let mut writer = WriterBuilder::new().with_header(true).build(&mut text);
        writer.write(&RecordBatch::new_empty(schema))?;
        drop(writer);
        self.begun = true;
        Ok(text)
    }
}

/// Whether Arrow writes values of this type into CSV.
fn has_csv_form(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => has_csv_form(values),
        other => !(other.is_nested() || other.is_binary() || matches!(other, DataType::Null)),
    }
}
