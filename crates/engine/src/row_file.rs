//! Rows in one file, in their order: Parquet, CSV, JSON lines or Arrow IPC, by
//! the file's name. A spine is read so, and what is pushed to a stream.
//!
//! The scan is made here rather than by a table of DataFusion's, which merges
//! columns of one name, reads text as views and samples a CSV file's types. What
//! the values of text formats are is for the reader to say.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::root_as_message;
use bytes::{Buf, Bytes};
use datafusion::common::config::TableParquetOptions;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfigBuilder;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::delimited::newline_delimited_stream;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::parquet_to_arrow_schema;
use url::Position;

use crate::engine::{Engine, Joins};
use crate::error::EngineError;
use crate::source::{NameBadRows, SourceFault};
use crate::training::location::url_of;
use crate::training::spine::one_partition;

/// What Excel begins a file with.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// An Arrow file begins so; a stream does not.
const ARROW_MAGIC: &[u8] = b"ARROW1\0\0";
/// The most that its first message is behind it.
const ARROW_ALIGNMENT_MAX: u64 = 256;
/// Before the length of each message.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// No schema is longer.
const ARROW_SCHEMA_BYTES_MAX: u64 = 64 << 20;

/// What a file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Parquet,
    Csv {
        delimiter: u8,
        compression: FileCompressionType,
    },
    Json {
        compression: FileCompressionType,
    },
    Arrow,
}

/// Said of a file whose name does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    Parquet,
    /// With a header.
    Csv,
    /// One object a line.
    Json,
    /// A file or a stream.
    Arrow,
}

/// Rows as they are read.
pub type RowStream = BoxStream<'static, Result<RecordBatch, EngineError>>;

/// The rows of a file, as far as it tells what they are.
#[allow(
    missing_debug_implementations,
    reason = "streams of rows have nothing to show"
)]
pub enum FileRows {
    /// Of Parquet and Arrow IPC.
    Typed(SchemaRef, RowStream),
    /// Of CSV: every value as its text, NULL where there is none. The first row
    /// is line 2.
    Texts(SchemaRef, RowStream),
    /// Of JSON: whole lines, many at once.
    Lines(BoxStream<'static, Result<Bytes, EngineError>>),
}

impl Engine {
    /// The rows of a file (a path or a URL) in their order, read as they are taken.
    pub async fn file_rows(
        &self,
        location: &str,
        format: Option<RowFormat>,
    ) -> Result<FileRows, EngineError> {
        let context = self.context(None, Joins::default());
        let state = one_partition(&context);
        let (file, kind) = find(&state, location, format.map(Kind::said), "rows").await?;
        let plan = match kind {
            Kind::Parquet => open_parquet(&state, &file, kind).await?,
            Kind::Arrow => open_arrow(&state, &file, kind).await?,
            Kind::Csv {
                delimiter,
                compression,
            } => {
                let format = csv_format(delimiter, compression);
                let (_, plan) = file.texts(&state, &format).await?;
                let rows = plan.execute(0, context.task_ctx());
                let rows = rows.map_err(|e| file.failed(&e))?;
                return Ok(FileRows::Texts(plan.schema(), file.named(rows)));
            }
            Kind::Json { compression } => {
                return Ok(FileRows::Lines(file.lines(compression).await?));
            }
        };
        let rows = plan.execute(0, context.task_ctx());
        let rows = rows.map_err(|e| file.failed(&e))?;
        Ok(FileRows::Typed(plan.schema(), file.named(rows)))
    }
}

impl Kind {
    fn said(format: RowFormat) -> Self {
        let compression = FileCompressionType::UNCOMPRESSED;
        match format {
            RowFormat::Parquet => Self::Parquet,
            RowFormat::Csv => Self::Csv {
                delimiter: b',',
                compression,
            },
            RowFormat::Json => Self::Json { compression },
            RowFormat::Arrow => Self::Arrow,
        }
    }

    fn of(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let compressions = [
            (".gz", FileCompressionType::GZIP),
            (".bz2", FileCompressionType::BZIP2),
            (".xz", FileCompressionType::XZ),
            (".zst", FileCompressionType::ZSTD),
        ];
        let compressed = compressions
            .into_iter()
            .find_map(|(end, how)| Some((name.strip_suffix(end)?, how)));
        let (inner, compression) = compressed.unwrap_or((&name, FileCompressionType::UNCOMPRESSED));
        let (_, extension) = inner.rsplit_once('.')?;
        Some(match extension {
            "csv" => Self::Csv {
                delimiter: b',',
                compression,
            },
            "tsv" => Self::Csv {
                delimiter: b'\t',
                compression,
            },
            "json" | "jsonl" | "ndjson" => Self::Json { compression },
            _ if compressed.is_some() => return None,
            "parquet" | "pq" => Self::Parquet,
            "arrow" | "arrows" | "feather" | "ipc" => Self::Arrow,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Parquet => "PARQUET",
            Self::Csv { .. } => "CSV",
            Self::Json { .. } => "JSON",
            Self::Arrow => "ARROW",
        }
    }
}

/// A file that is there.
pub(crate) struct File {
    pub(crate) store: Arc<dyn ObjectStore>,
    store_url: ObjectStoreUrl,
    pub(crate) meta: ObjectMeta,
    /// As it was named.
    pub(crate) location: String,
    /// What its rows are, for errors.
    read_as: &'static str,
}

impl File {
    pub(crate) fn fault(&self, reason: impl Into<String>) -> EngineError {
        SourceFault::new(&self.location, reason).into_engine(self.read_as)
    }

    /// What DataFusion said of it.
    pub(crate) fn failed(&self, error: &DataFusionError) -> EngineError {
        SourceFault::of(&self.location, error).into_engine(self.read_as)
    }

    /// Rows whose errors name the file.
    fn named(self, rows: SendableRecordBatchStream) -> RowStream {
        let failed = move |error| match EngineError::from_query(&self.location, error) {
            EngineError::Query { source, .. } => self.failed(&source),
            named => named,
        };
        rows.map_err(failed).boxed()
    }

    fn broken(&self, kind: Kind, error: &DataFusionError) -> EngineError {
        SourceFault::of(&self.location, error)
            .not_readable_as(kind.name())
            .into_engine(self.read_as)
    }

    /// The names of a CSV file's header, and a scan of every value as text.
    pub(crate) async fn texts(
        &self,
        state: &SessionState,
        format: &CsvFormat,
    ) -> Result<(Vec<String>, Arc<dyn ExecutionPlan>), EngineError> {
        let names = self.header(format).await?;
        let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
        if let Some(twice) = named_twice(&borrowed) {
            return Err(self.fault(format!("two columns are named {twice:?}")));
        }
        let text = |name: &String| Field::new(name, DataType::Utf8, true);
        let as_text = Schema::new(names.iter().map(text).collect::<Vec<_>>());
        let plan = self.scan(state, format, Arc::new(as_text)).await?;
        Ok((names, plan))
    }

    /// The names of the first line, in the file's order.
    async fn header(&self, format: &CsvFormat) -> Result<Vec<String>, EngineError> {
        let bytes = self.bytes().await?;
        let mut lines = format.read_to_delimited_chunks_from_stream(bytes);
        let first = lines.next().await.transpose();
        let first = first.map_err(|error| self.failed(&error))?;
        let first = first.ok_or_else(|| self.fault("is empty: it has no header"))?;
        let (schema, _) = Format::default()
            .with_header(true)
            .with_delimiter(format.delimiter())
            .infer_schema(first.reader(), Some(0))
            .map_err(|error| self.failed(&error.into()))?;
        let mut names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
        if let Some(rest) = names.first().and_then(|n| n.strip_prefix(BYTE_ORDER_MARK)) {
            names[0] = rest.to_owned();
        }
        Ok(names)
    }

    async fn bytes(
        &self,
    ) -> Result<BoxStream<'static, Result<Bytes, DataFusionError>>, EngineError> {
        let store = |error| DataFusionError::ObjectStore(Box::new(error));
        let bytes = self.store.get(&self.meta.location).await;
        let bytes = bytes.map_err(|e| self.failed(&store(e)))?;
        Ok(bytes.into_stream().map_err(store).boxed())
    }

    /// Whole lines, many at once.
    async fn lines(
        self,
        compression: FileCompressionType,
    ) -> Result<BoxStream<'static, Result<Bytes, EngineError>>, EngineError> {
        let bytes = compression.convert_stream(self.bytes().await?);
        let bytes = bytes.map_err(|error| self.failed(&error))?;
        let generic = |error: DataFusionError| object_store::Error::Generic {
            store: "file",
            source: Box::new(error),
        };
        let lines = newline_delimited_stream(bytes.map_err(generic));
        let failed = move |error| self.failed(&DataFusionError::ObjectStore(Box::new(error)));
        Ok(lines.map_err(failed).boxed())
    }

    /// A scan of the whole file in its order.
    pub(crate) async fn scan(
        &self,
        state: &SessionState,
        format: &dyn FileFormat,
        schema: SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
        let source = format.file_source(schema.into());
        let file = PartitionedFile::new_from_meta(self.meta.clone());
        let config = FileScanConfigBuilder::new(self.store_url.clone(), source)
            .with_file(file)
            .build();
        let plan = format.create_physical_plan(state, config).await;
        let named = plan.and_then(|plan| NameBadRows.optimize(plan, state.config_options()));
        named.map_err(|error| self.failed(&error))
    }
}

/// CSV as every reader here takes it.
pub(crate) fn csv_format(delimiter: u8, compression: FileCompressionType) -> CsvFormat {
    CsvFormat::default()
        .with_has_header(true)
        .with_newlines_in_values(true)
        .with_delimiter(delimiter)
        .with_file_compression_type(compression)
}

/// The file at a path or URL, and what it is. `read_as`: what its rows are, for
/// errors.
pub(crate) async fn find(
    state: &SessionState,
    location: &str,
    said: Option<Kind>,
    read_as: &'static str,
) -> Result<(File, Kind), EngineError> {
    let fault = |reason: String| SourceFault::new(location, reason).into_engine(read_as);
    let url = url_of(location).map_err(fault)?;
    let path = Path::from_url_path(url.path()).map_err(|e| fault(e.to_string()))?;
    let store_url = ObjectStoreUrl::parse(&url[..Position::BeforePath])
        .map_err(|e| fault(e.strip_backtrace()))?;
    let store = state
        .runtime_env()
        .object_store(&store_url)
        .map_err(|e| fault(e.strip_backtrace()))?;
    let meta = match store.head(&path).await {
        Ok(meta) => meta,
        Err(error) => {
            let listed = store.list_with_delimiter(Some(&path)).await;
            let folder =
                listed.is_ok_and(|l| !(l.objects.is_empty() && l.common_prefixes.is_empty()));
            return Err(fault(match error {
                _ if folder => "it is a folder; name one file".to_owned(),
                object_store::Error::NotFound { .. } => "no such file".to_owned(),
                other => other.to_string(),
            }));
        }
    };
    let kind = said.or_else(|| Kind::of(path.filename().unwrap_or_default()));
    let kind = kind.ok_or_else(|| {
        fault(
            "unknown format; a name ends with .parquet, .csv, .tsv, .jsonl (or .csv.gz and the \
             like), .arrow or .arrows"
                .to_owned(),
        )
    })?;
    if meta.size == 0 {
        return Err(fault("is empty: it has no bytes".to_owned()));
    }
    let file = File {
        store,
        store_url,
        meta,
        location: location.to_owned(),
        read_as,
    };
    Ok((file, kind))
}

pub(crate) async fn open_parquet(
    state: &SessionState,
    file: &File,
    kind: Kind,
) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let mut options = TableParquetOptions {
        global: state.config_options().execution.parquet.clone(),
        ..TableParquetOptions::default()
    };
    // Types and metadata as they are.
    options.global.schema_force_view_types = false;
    options.global.binary_as_string = false;
    options.global.skip_metadata = false;
    options.global.coerce_int96 = None;
    let format = ParquetFormat::default().with_options(options);
    let broken = |error: DataFusionError| file.broken(kind, &error);
    // The format's own inference merges columns of one name.
    let cache = state.runtime_env().cache_manager.get_file_metadata_cache();
    let metadata = DFParquetMetadata::new(file.store.as_ref(), &file.meta)
        .with_file_metadata_cache(Some(cache))
        .fetch_metadata()
        .await
        .map_err(broken)?;
    let metadata = metadata.file_metadata();
    let schema = parquet_to_arrow_schema(metadata.schema_descr(), metadata.key_value_metadata())
        .map_err(|error| broken(error.into()))?;
    refuse_twice(file, &schema)?;
    file.scan(state, &format, Arc::new(schema)).await
}

pub(crate) async fn open_arrow(
    state: &SessionState,
    file: &File,
    kind: Kind,
) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let broken = |error: DataFusionError| file.broken(kind, &error);
    let files = std::slice::from_ref(&file.meta);
    ArrowFormat
        .infer_schema(state, &file.store, files)
        .await
        .map_err(broken)?;
    let schema = arrow_schema(file).await.map_err(broken)?;
    refuse_twice(file, &schema)?;
    file.scan(state, &ArrowFormat, schema).await
}

/// The schema message at the beginning of a file or stream.
async fn arrow_schema(file: &File) -> Result<SchemaRef, DataFusionError> {
    let short = || DataFusionError::Execution("its schema is cut short".into());
    let read = async |start: u64, length: u64| -> Result<Bytes, DataFusionError> {
        if length > ARROW_SCHEMA_BYTES_MAX || start + length > file.meta.size {
            return Err(short());
        }
        let range = start..start + length;
        Ok(file.store.get_range(&file.meta.location, range).await?)
    };
    let mut at = 0;
    let mut head = read(at, 8).await?;
    if head == ARROW_MAGIC {
        // Writers fill up to their alignment.
        while head == ARROW_MAGIC || (*head == [0; 8] && at < ARROW_ALIGNMENT_MAX) {
            at += 8;
            head = read(at, 8).await?;
        }
    }
    // Streams of old have no continuation mark.
    let (length, skipped) = if head[..4] == CONTINUATION {
        (&head[4..8], 8)
    } else {
        (&head[..4], 4)
    };
    at += skipped;
    let length = u32::from_le_bytes(length.try_into().map_err(|_| short())?);
    let bytes = read(at, u64::from(length)).await?;
    let message =
        root_as_message(&bytes).map_err(|error| DataFusionError::Execution(error.to_string()))?;
    let schema = message.header_as_schema().ok_or_else(short)?;
    Ok(Arc::new(fb_to_schema(schema)))
}

fn refuse_twice(file: &File, schema: &arrow::datatypes::Schema) -> Result<(), EngineError> {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    match named_twice(&names) {
        Some(twice) => Err(file.fault(format!("two columns are named {twice:?}"))),
        None => Ok(()),
    }
}

/// The first name that comes a second time.
pub(crate) fn named_twice<'a>(names: &[&'a str]) -> Option<&'a str> {
    let mut seen = std::collections::BTreeSet::new();
    names.iter().copied().find(|name| !seen.insert(*name))
}

/// The values of a column of a text scan.
pub(crate) fn texts(column: &dyn Array) -> Result<&StringArray, DataFusionError> {
    let texts = column.as_any().downcast_ref::<StringArray>();
    texts.ok_or_else(|| {
        let given: &DataType = column.data_type();
        DataFusionError::Internal(format!("text was read as {given}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_format() {
        let csv = |compression| Kind::Csv {
            delimiter: b',',
            compression,
        };
        for (name, expected) in [
            ("a.parquet", Some(Kind::Parquet)),
            ("A.PARQUET", Some(Kind::Parquet)),
            ("a.b.csv", Some(csv(FileCompressionType::UNCOMPRESSED))),
            ("a.csv.gz", Some(csv(FileCompressionType::GZIP))),
            ("a.feather", Some(Kind::Arrow)),
            ("a.arrow.gz", None),
            ("a", None),
            (
                "a.jsonl",
                Some(Kind::Json {
                    compression: FileCompressionType::UNCOMPRESSED,
                }),
            ),
            ("a.txt", None),
        ] {
            assert_eq!(Kind::of(name), expected, "{name}");
        }
    }
}
