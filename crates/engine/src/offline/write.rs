//! Writing the data files of a run: sorted Parquet, one open file a partition.
//!
//! Rows come in the order of the key columns and the event time, and files
//! keep it, so that the online store is filled by merging and look-ups skip
//! row groups. A file is rolled when it is big enough. Files are named
//! `sorted-<as_of>-<created>-<run>-<partition>-<number>.parquet`: those of one
//! partition follow each other in key order. Nothing here is visible before
//! the log names it.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use granary_model::types::UTC;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::AsyncArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use uuid::Uuid;

use super::log::{Stamp, TableLog};
use super::statistics::{ColumnSummary, file_statistics};
use super::{AS_OF_COLUMN, CREATED_COLUMN};
use crate::delta_log::NewFile;
use crate::error::EngineError;

/// Small enough that a look-up reads little and a merge of many files holds little.
pub(crate) const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Encoded; bounds what wide rows hold.
pub(crate) const ROW_GROUP_BYTES: usize = 32 << 20;
/// A file is closed once it is this big.
pub(crate) const FILE_BYTES: usize = 512 << 20;
pub(crate) const PAGE_ROWS: usize = 8 * 1024;
pub(crate) const UPLOAD_BYTES: usize = 8 << 20;
pub(crate) const UPLOADS: usize = 2;
const BLOOM_FALSE_POSITIVES: f64 = 0.01;

const SORTED_PREFIX: &str = "sorted-";
const STAMP_CHARS: usize = 33;

/// Where the files of one run go, shared by its partitions.
#[derive(Debug)]
pub(crate) struct RunFiles {
    store: Arc<dyn ObjectStore>,
    log: TableLog,
    /// The first columns of the schema.
    keys: usize,
    /// Whether the column after the keys is the event time.
    by_time: bool,
    run: Uuid,
    started: Mutex<Vec<Path>>,
}

impl RunFiles {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        log: TableLog,
        keys: usize,
        by_time: bool,
    ) -> Self {
        Self {
            store,
            log,
            keys,
            by_time,
            run: Uuid::new_v4(),
            started: Mutex::default(),
        }
    }

    fn start(&self, stamp: Stamp, partition: usize, number: usize) -> Path {
        let path = Path::from(format!(
            "{SORTED_PREFIX}{stamp}-{}-{partition:03}-{number:05}.parquet",
            self.run.simple()
        ));
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        started.push(path.clone());
        path
    }

    /// Deletes what a failed run has written, as far as that can be done.
    pub(crate) async fn discard(&self) {
        let started =
            std::mem::take(&mut *self.started.lock().unwrap_or_else(PoisonError::into_inner));
        for path in started {
            let path = self.log.path_in_store(&path);
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%path, %error, "a file of a failed run remains"),
            }
        }
    }

    fn properties(&self) -> WriterProperties {
        let sorted_columns = self.keys + usize::from(self.by_time);
        let sorting = (0..sorted_columns).map(|i| SortingColumn {
            column_idx: i as i32,
            descending: false,
            nulls_first: true,
        });
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("granary ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
            .set_data_page_row_count_limit(PAGE_ROWS)
            .set_sorting_columns(Some(sorting.collect()));
        for field in self.log.schema().fields().iter().take(self.keys) {
            let column = ColumnPath::new(vec![field.name().clone()]);
            properties = properties
                .set_column_bloom_filter_enabled(column.clone(), true)
                .set_column_bloom_filter_max_ndv(column.clone(), ROW_GROUP_ROWS as u64)
                .set_column_bloom_filter_fpp(column, BLOOM_FALSE_POSITIVES);
        }
        properties.build()
    }
}

/// Which run wrote a file, and its name without the number of files that
/// follow each other in key order; `None` for a file that somebody else wrote.
pub(crate) fn sorted_file(path: &Path) -> Option<(Stamp, &str)> {
    let name = path.filename()?.strip_prefix(SORTED_PREFIX)?;
    let stamp = name.get(..STAMP_CHARS)?.parse().ok()?;
    let (sequence, _) = name.rsplit_once('-')?;
    Some((stamp, sequence))
}

/// What one partition has written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) files: Vec<NewFile>,
    pub(crate) rows: u64,
    pub(crate) columns: Vec<ColumnSummary>,
}

/// Writes the rows of one partition, in order.
pub(crate) struct PartitionWriter {
    files: Arc<RunFiles>,
    stamp: Stamp,
    /// The bookkeeping columns of the greatest batch so far.
    stamped: [ArrayRef; 2],
    partition: usize,
    open: Option<OpenFile>,
    written: Written,
}

struct OpenFile {
    path: Path,
    writer: AsyncArrowWriter<BufWriter>,
    rows: u64,
    columns: Vec<ColumnSummary>,
}

impl PartitionWriter {
    pub(crate) fn new(files: Arc<RunFiles>, stamp: Stamp, partition: usize) -> Self {
        let columns = summaries(files.log.schema());
        Self {
            files,
            stamp,
            stamped: stamp_columns(stamp, 0),
            partition,
            open: None,
            written: Written {
                files: Vec::new(),
                rows: 0,
                columns,
            },
        }
    }

    /// Appends rows with the columns of `row_schema`.
    pub(crate) async fn write(&mut self, batch: &RecordBatch) -> Result<(), EngineError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_file()?,
        };
        for (summary, column) in open.columns.iter_mut().zip(batch.columns()) {
            summary.update(column)?;
        }
        open.rows += batch.num_rows() as u64;
        let failed = |e: DataFusionError| EngineError::from_query(self.files.log.view(), e);
        if self.stamped[0].len() < batch.num_rows() {
            self.stamped = stamp_columns(self.stamp, batch.num_rows());
        }
        let mut columns = batch.columns().to_vec();
        columns.extend(self.stamped.iter().map(|c| c.slice(0, batch.num_rows())));
        let stamped = RecordBatch::try_new(self.files.log.schema().clone(), columns)
            .map_err(|e| failed(e.into()))?;
        let written = open.writer.write(&stamped).await;
        written.map_err(|e| failed(e.into()))?;
        if open.writer.bytes_written() >= FILE_BYTES {
            self.close(open).await?;
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    /// Closes the last file.
    pub(crate) async fn finish(mut self) -> Result<Written, EngineError> {
        if let Some(open) = self.open.take() {
            self.close(open).await?;
        }
        Ok(self.written)
    }

    /// A file without rows: it keeps the name of a run that found none.
    pub(crate) async fn write_empty(&mut self) -> Result<(), EngineError> {
        let open = self.open_file()?;
        self.close(open).await
    }

    fn open_file(&self) -> Result<OpenFile, EngineError> {
        let number = self.written.files.len();
        let path = self.files.start(self.stamp, self.partition, number);
        let upload = BufWriter::with_capacity(
            self.files.store.clone(),
            self.files.log.path_in_store(&path),
            UPLOAD_BYTES,
        )
        .with_max_concurrency(UPLOADS);
        let schema = self.files.log.schema().clone();
        let writer = AsyncArrowWriter::try_new(upload, schema, Some(self.files.properties()))
            .map_err(|e| EngineError::from_query(self.files.log.view(), e.into()))?;
        Ok(OpenFile {
            path,
            writer,
            rows: 0,
            columns: summaries(self.files.log.schema()),
        })
    }

    async fn close(&mut self, mut open: OpenFile) -> Result<(), EngineError> {
        let finished = open.writer.finish().await;
        finished.map_err(|e| EngineError::from_query(self.files.log.view(), e.into()))?;
        for (all, file) in self.written.columns.iter_mut().zip(&open.columns) {
            all.merge(file);
        }
        self.written.rows += open.rows;
        self.written.files.push(NewFile {
            path: open.path,
            bytes: open.writer.bytes_written() as u64,
            statistics: file_statistics(open.rows, &open.columns, Some(self.stamp)),
        });
        Ok(())
    }
}

/// Of all columns but the bookkeeping ones.
pub(crate) fn summaries(schema: &SchemaRef) -> Vec<ColumnSummary> {
    let columns = schema.fields().iter();
    columns
        .filter(|field| ![AS_OF_COLUMN, CREATED_COLUMN].contains(&field.name().as_str()))
        .map(|field| ColumnSummary::new(field.name(), field.data_type()))
        .collect()
}

fn stamp_columns(stamp: Stamp, rows: usize) -> [ArrayRef; 2] {
    [stamp.as_of, stamp.created].map(|t| {
        let column = TimestampMicrosecondArray::from_value(t.0, rows);
        Arc::new(column.with_timezone(UTC)) as ArrayRef
    })
}
