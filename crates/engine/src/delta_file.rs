//! Data files of a Delta table that is only ever added to: written one by one,
//! and read as the log names them, by DataFusion's own Parquet source.
//!
//! This module knows nothing of what the files hold.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::config::TableOptions;
use datafusion::common::stats::Precision;
use datafusion::common::{Result as ScanResult, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use deltalake_core::table::state::DeltaTableState;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::delta_log::{DeltaLog, NewFile};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::offline::statistics::{ColumnSummary, file_statistics};
use crate::offline::write::{
    FILE_BYTES, PAGE_ROWS, ROW_GROUP_BYTES, ROW_GROUP_ROWS, UPLOAD_BYTES, UPLOADS,
};

const METADATA_BYTES: usize = 64 << 10;

/// A file of the table.
#[derive(Debug, Clone)]
pub(crate) struct DataFile {
    /// Within the store of the root.
    path: Path,
    pub(crate) bytes: u64,
    pub(crate) rows: Option<u64>,
}

impl DataFile {
    /// Those that a state of the log names. Rows that another engine deleted
    /// would come back: then it is no table of ours.
    pub(crate) fn all(log: &DeltaLog, state: &DeltaTableState) -> Result<Vec<Self>, EngineError> {
        let files = state.log_data();
        let files = files.iter().map(|file| {
            if file.deletion_vector_descriptor().is_some() {
                let what = "another engine deleted rows of it; only Granary writes it";
                return Err(log.foreign(what));
            }
            Ok(Self {
                path: log.path_in_store(&file.object_store_path()),
                bytes: file.size().unsigned_abs(),
                rows: file.num_records().map(|rows| rows as u64),
            })
        });
        files.collect()
    }
}

/// A scan of the columns at `projection`. Rows that do not meet the predicate,
/// which is of all columns, may be left out.
pub(crate) fn scan(
    (engine, context): (&Engine, &TaskContext),
    (schema, files): (&SchemaRef, &[DataFile]),
    projection: Option<Vec<usize>>,
    predicate: Option<Arc<dyn PhysicalExpr>>,
    limit: Option<usize>,
) -> ScanResult<Arc<dyn ExecutionPlan>> {
    let config = context.session_config();
    let metadata = context.runtime_env();
    let metadata = metadata.cache_manager.get_file_metadata_cache();
    let store = engine.root_store().clone();
    let readers = CachedParquetFileReaderFactory::new(store, metadata);
    let table = TableSchema::from(schema.clone());
    let options = TableOptions::default_from_session_config(config.options());
    let mut source = ParquetSource::new(table)
        .with_table_parquet_options(options.parquet)
        .with_parquet_file_reader_factory(Arc::new(readers));
    if let Some(predicate) = predicate {
        source = source.with_predicate(predicate);
    }
    let mut statistics = Statistics::new_unknown(schema);
    let rows: u64 = files.iter().filter_map(|file| file.rows).sum();
    if let Ok(rows) = usize::try_from(rows) {
        statistics.num_rows = Precision::Exact(rows);
    }
    let files = files.iter().map(|file| {
        let mut read = PartitionedFile::new("", file.bytes).with_metadata_size_hint(METADATA_BYTES);
        read.object_meta.location = file.path.clone();
        read
    });
    let groups = FileGroup::new(files.collect()).split_files(config.target_partitions());
    let url = ObjectStoreUrl::parse(&engine.root()[..url::Position::BeforePath])?;
    let config = FileScanConfigBuilder::new(url, Arc::new(source))
        .with_file_groups(groups)
        .with_statistics(statistics)
        .with_projection_indices(projection)?
        .with_limit(limit);
    Ok(DataSourceExec::from_data_source(config.build()))
}

/// A file that is being written; no log names it.
pub(crate) struct FileWriter {
    path: Path,
    writer: AsyncArrowWriter<BufWriter>,
    columns: Vec<ColumnSummary>,
    rows: u64,
}

impl FileWriter {
    /// `path`: within the table's folder.
    pub(crate) fn open(engine: &Engine, log: &DeltaLog, path: Path) -> Result<Self, EngineError> {
        let store: Arc<dyn ObjectStore> = engine.root_store().clone();
        let upload = BufWriter::with_capacity(store, log.path_in_store(&path), UPLOAD_BYTES)
            .with_max_concurrency(UPLOADS);
        let schema = log.schema();
        let writer = AsyncArrowWriter::try_new(upload, schema.clone(), Some(properties()))
            .map_err(|e| failed(log, e.into()))?;
        let columns = schema.fields().iter();
        Ok(Self {
            path,
            writer,
            columns: columns
                .map(|field| ColumnSummary::new(field.name(), field.data_type()))
                .collect(),
            rows: 0,
        })
    }

    pub(crate) fn into_path(self) -> Path {
        self.path
    }

    pub(crate) async fn write(
        &mut self,
        log: &DeltaLog,
        batch: &RecordBatch,
    ) -> Result<(), EngineError> {
        for (summary, column) in self.columns.iter_mut().zip(batch.columns()) {
            summary.update(column)?;
        }
        self.rows += batch.num_rows() as u64;
        let written = self.writer.write(batch).await;
        written.map_err(|e| failed(log, e.into()))
    }

    /// Whether it is big enough.
    pub(crate) fn is_full(&self) -> bool {
        self.writer.bytes_written() >= FILE_BYTES
    }

    pub(crate) async fn close(mut self, log: &DeltaLog) -> Result<NewFile, EngineError> {
        let finished = self.writer.finish().await;
        finished.map_err(|e| failed(log, e.into()))?;
        Ok(NewFile {
            bytes: self.writer.bytes_written() as u64,
            statistics: file_statistics(self.rows, &self.columns, None),
            path: self.path,
        })
    }
}

fn failed(log: &DeltaLog, error: DataFusionError) -> EngineError {
    EngineError::from_query(log.object(), error)
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by(concat!("granary ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .build()
}
