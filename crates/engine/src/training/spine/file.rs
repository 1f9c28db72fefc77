//! A spine in a file: Parquet, CSV or Arrow IPC, by the file's name.
//!
//! The scan is made here rather than by a table of DataFusion's, which merges
//! columns of one name, reads text as views and samples a CSV file's types.

use std::sync::Arc;

use arrow::array::{Array, StringArray};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::root_as_message;
use bytes::Bytes;
use datafusion::common::config::TableParquetOptions;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfigBuilder;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::parquet_to_arrow_schema;
use url::Position;

use super::super::location::url_of;
use super::{SpineColumns, csv};
use crate::error::EngineError;
use crate::source::{NameBadRows, SourceFault};

/// An Arrow file begins so; a stream does not.
const ARROW_MAGIC: &[u8] = b"ARROW1\0\0";
/// The most that its first message is behind it.
const ARROW_ALIGNMENT_MAX: u64 = 256;
/// Before the length of each message.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// No schema is longer.
const ARROW_SCHEMA_BYTES_MAX: u64 = 64 << 20;

/// What a spine's file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Parquet,
    Csv {
        delimiter: u8,
        compression: FileCompressionType,
    },
    Arrow,
}

impl Kind {
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
            Self::Arrow => "ARROW",
        }
    }
}

/// A file that is there.
pub(super) struct File {
    pub(super) store: Arc<dyn ObjectStore>,
    store_url: ObjectStoreUrl,
    pub(super) meta: ObjectMeta,
    /// As it was named.
    pub(super) location: String,
}

impl File {
    pub(super) fn fault(&self, reason: impl Into<String>) -> EngineError {
        SourceFault::new(&self.location, reason).into_engine("spine")
    }

    /// What DataFusion said of it.
    pub(super) fn failed(&self, error: &DataFusionError) -> EngineError {
        SourceFault::of(&self.location, error).into_engine("spine")
    }

    fn broken(&self, kind: Kind, error: &DataFusionError) -> EngineError {
        SourceFault::of(&self.location, error)
            .not_readable_as(kind.name())
            .into_engine("spine")
    }

    /// A scan of the whole file in its order.
    pub(super) async fn scan(
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

/// The scan of a spine's file.
pub(super) async fn open(
    state: &SessionState,
    location: &str,
    columns: SpineColumns<'_>,
) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let (file, kind) = find(state, location).await?;
    match kind {
        Kind::Parquet => open_parquet(state, &file, kind).await,
        Kind::Arrow => open_arrow(state, &file, kind).await,
        Kind::Csv {
            delimiter,
            compression,
        } => csv::open(state, &file, delimiter, compression, columns).await,
    }
}

async fn find(state: &SessionState, location: &str) -> Result<(File, Kind), EngineError> {
    let fault = |reason: String| SourceFault::new(location, reason).into_engine("spine");
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
                _ if folder => "it is a folder: a spine is one file, or a query".to_owned(),
                object_store::Error::NotFound { .. } => "no such file".to_owned(),
                other => other.to_string(),
            }));
        }
    };
    let kind = Kind::of(path.filename().unwrap_or_default()).ok_or_else(|| {
        fault(
            "unknown format; a name ends with .parquet, .csv, .tsv (or .csv.gz and the like), \
             .arrow or .arrows"
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
    };
    Ok((file, kind))
}

async fn open_parquet(
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

async fn open_arrow(
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
pub(super) fn named_twice<'a>(names: &[&'a str]) -> Option<&'a str> {
    let mut seen = std::collections::BTreeSet::new();
    names.iter().copied().find(|name| !seen.insert(*name))
}

/// The values of a column of a text scan.
pub(super) fn texts(column: &dyn Array) -> Result<&StringArray, DataFusionError> {
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
            ("a.json", None),
        ] {
            assert_eq!(Kind::of(name), expected, "{name}");
        }
    }
}
