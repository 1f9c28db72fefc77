//! Reading offline tables: plain scans, rows as of a time, rows in key order.
//!
//! The files are read with DataFusion's own Parquet source; the log says which
//! ones. A scan in key order is a merge of the sorted files, with no sort.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{Result, Statistics};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::datasource::{TableType, ViewTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlanBuilder, TableProviderFilterPushDown, lit,
};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::prelude::ident;
use datafusion::scalar::ScalarValue;
use granary_model::types::UTC;
use granary_model::{FeatureView, UtcMicros, ViewKind};

use super::OfflineTable;
use super::log::{DataFile, TableLog};
use super::write::sorted_file;
use crate::engine::{Engine, Joins, ranked};
use crate::error::EngineError;

/// So many sorted sequences are merged as they are; more are sorted anew,
/// within the memory bound, since each open file holds a row group.
const MERGED_SEQUENCES_MAX: usize = 16;
const METADATA_BYTES: usize = 64 << 10;
pub(crate) const ROW_NUMBER: &str = "_row_number";

impl OfflineTable {
    pub(super) fn scan(&self, files: &[DataFile]) -> OfflineScan {
        OfflineScan::new(&self.engine, &self.view, &self.log, files)
    }

    /// The view's values as of t, one row a key.
    pub(super) fn rows_as_of(&self, t: UtcMicros) -> Result<Arc<dyn TableProvider>, EngineError> {
        let mut files = self.state.files.clone();
        if !self.view.is_incremental() {
            let newest = files
                .iter()
                .map(|f| f.stamp.as_of)
                .filter(|a| *a <= t)
                .max();
            // Rows without an event time are as old as their run.
            let ttl = self.view.ttl;
            let ttl = ttl.filter(|_| self.view.kind != ViewKind::Timestamped);
            let answers = newest.filter(|run| ttl.is_none_or(|ttl| ttl.before(t) <= *run));
            files.retain(|f| Some(f.stamp.as_of) == answers);
        }
        let plan = self
            .plan_as_of(&files, t)
            .map_err(|e| EngineError::from_query(&self.view.name, e))?;
        Ok(Arc::new(ViewTable::new(plan, None)))
    }

    fn plan_as_of(
        &self,
        files: &[DataFile],
        t: UtcMicros,
    ) -> Result<datafusion::logical_expr::LogicalPlan> {
        let view = &self.view;
        let source = provider_as_source(Arc::new(self.scan(files)));
        let mut plan = LogicalPlanBuilder::scan(view.name.as_str(), source, None)?;
        if let (ViewKind::Timestamped, Some(event_time)) = (view.kind, &view.event_time) {
            plan = greatest_as_of(plan, view, event_time, t)?;
        }
        let schema = view.row_schema();
        plan.project(schema.fields().iter().map(|f| ident(f.name())))?
            .build()
    }

    /// The rows of some files in the order of the key columns.
    pub(super) async fn sorted_rows(
        &self,
        files: Vec<DataFile>,
        not_before: Option<UtcMicros>,
    ) -> Result<SendableRecordBatchStream, EngineError> {
        let failed = |e: DataFusionError| EngineError::from_query(&self.view.name, e);
        let context = self.engine.context(None, Joins::Spilling);
        let scan = self.scan(&files).in_key_order();
        let mut frame = context.read_table(Arc::new(scan)).map_err(failed)?;
        if let (ViewKind::Timestamped, Some(event_time), Some(t)) =
            (self.view.kind, &self.view.event_time, not_before)
        {
            let late_enough = ident(event_time).gt_eq(lit(time_scalar(t)));
            frame = frame.filter(late_enough).map_err(failed)?;
        }
        let schema = self.view.row_schema();
        let columns = schema.fields().iter().map(|f| ident(f.name()));
        let order = self
            .view
            .keys
            .iter()
            .map(|k| ident(&k.name).sort(true, true));
        frame
            .select(columns)
            .and_then(|f| f.sort(order.collect()))
            .map_err(failed)?
            .execute_stream()
            .await
            .map_err(failed)
    }
}

/// Of rows of a timestamped view its values as of t: of each key the greatest
/// row with an event time in [t − TTL, t].
pub(crate) fn greatest_as_of(
    rows: LogicalPlanBuilder,
    view: &FeatureView,
    event_time: &str,
    t: UtcMicros,
) -> Result<LogicalPlanBuilder> {
    let mut fresh = ident(event_time).lt_eq(lit(time_scalar(t)));
    if let Some(ttl) = view.ttl {
        fresh = fresh.and(ident(event_time).gt_eq(lit(time_scalar(ttl.before(t)))));
    }
    numbered(rows.filter(fresh)?, view, greatest_first(view))?
        .filter(ident(ROW_NUMBER).eq(lit(1u64)))
}

/// Rows with their number among those of their key as [`ROW_NUMBER`].
pub(crate) fn numbered(
    rows: LogicalPlanBuilder,
    view: &FeatureView,
    order: Vec<Sort>,
) -> Result<LogicalPlanBuilder> {
    let number = row_number()
        .partition_by(view.keys.iter().map(|k| ident(&k.name)).collect())
        .order_by(order)
        .build()?;
    rows.window(vec![number.alias(ROW_NUMBER)])
}

/// The order in which the first of a key's rows is its value: greatest event
/// time, then greatest created time (NULL counts as the event time), then
/// greatest values in SELECT order, NULL lowest, every NaN alike and highest.
fn greatest_first(view: &FeatureView) -> Vec<Sort> {
    let schema = view.row_schema();
    let values = schema.fields().iter().skip(view.keys.len());
    let ranks = values.map(|field| {
        let value = ident(field.name());
        match (&view.event_time, &view.created_time) {
            (Some(event_time), Some(created)) if created == field.name() => {
                coalesce(vec![value, ident(event_time)])
            }
            _ if holds_floats(field.data_type()) => ranked(value),
            _ => value,
        }
    });
    ranks.map(|rank| rank.sort(false, false)).collect()
}

fn holds_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(element) => holds_floats(element.data_type()),
        other => other.is_floating(),
    }
}

pub(crate) fn time_scalar(t: UtcMicros) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(t.0), Some(UTC.into()))
}

/// A scan over files of one offline table, with the bookkeeping columns.
#[derive(Debug)]
pub(crate) struct OfflineScan {
    engine: Engine,
    schema: TableSchema,
    groups: Vec<FileGroup>,
    rows: Option<u64>,
    sort_columns: Vec<String>,
    /// Whether each group is sorted by the sort columns.
    in_key_order: bool,
}

impl OfflineScan {
    pub(crate) fn new(
        engine: &Engine,
        view: &FeatureView,
        log: &TableLog,
        files: &[DataFile],
    ) -> Self {
        let schema = TableSchema::from(log.schema().clone());
        let rows = files.iter().map(|f| f.rows).sum();
        let mut sequences: BTreeMap<String, Vec<PartitionedFile>> = BTreeMap::new();
        let mut sorted_files: Vec<&DataFile> = files.iter().filter(|f| f.rows != Some(0)).collect();
        sorted_files.sort_by(|a, b| a.path.cmp(&b.path));
        for file in sorted_files {
            let sequence = sorted_file(&file.path).map_or(file.path.as_ref(), |(_, s)| s);
            let path = log.path_in_store(&file.path);
            let mut read =
                PartitionedFile::new("", file.bytes).with_metadata_size_hint(METADATA_BYTES);
            read.object_meta.location = path;
            sequences.entry(sequence.to_owned()).or_default().push(read);
        }
        let mut sort_columns: Vec<String> = view.keys.iter().map(|k| k.name.clone()).collect();
        if view.kind == ViewKind::Timestamped {
            sort_columns.extend(view.event_time.clone());
        }
        Self {
            engine: engine.clone(),
            schema,
            groups: sequences.into_values().map(FileGroup::new).collect(),
            rows,
            sort_columns,
            in_key_order: false,
        }
    }

    /// The same scan with sorted partitions, where that is cheap: it says so
    /// in its plan, and a sort by the keys becomes a merge.
    pub(crate) fn in_key_order(mut self) -> Self {
        self.in_key_order = self.groups.len() <= MERGED_SEQUENCES_MAX;
        self
    }

    fn ordering(&self) -> Result<Option<LexOrdering>> {
        let schema = self.schema.table_schema();
        let ascending = SortOptions::new(false, true);
        let columns = self.sort_columns.iter().map(|name| {
            let column = col(name, schema)?;
            Ok(PhysicalSortExpr::new(column, ascending))
        });
        Ok(LexOrdering::new(columns.collect::<Result<Vec<_>>>()?))
    }

    fn file_groups(&self, partitions: usize) -> Vec<FileGroup> {
        if self.in_key_order {
            return self.groups.clone();
        }
        let files = self.groups.iter().flat_map(FileGroup::iter).cloned();
        FileGroup::new(files.collect()).split_files(partitions)
    }
}

#[async_trait]
impl TableProvider for OfflineScan {
    fn schema(&self) -> SchemaRef {
        self.schema.table_schema().clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // The optimizer of physical plans hands them to the Parquet source.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.groups.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema().project(columns)?),
                None => self.schema(),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let options = state.table_options().parquet.clone();
        let metadata = state.runtime_env().cache_manager.get_file_metadata_cache();
        let store = self.engine.root_store().clone();
        let readers = CachedParquetFileReaderFactory::new(store, metadata);
        let source = ParquetSource::new(self.schema.clone())
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(readers));
        let mut statistics = Statistics::new_unknown(self.schema.table_schema());
        if let Some(rows) = self.rows.and_then(|rows| usize::try_from(rows).ok()) {
            statistics.num_rows = Precision::Exact(rows);
        }
        let url = ObjectStoreUrl::parse(&self.engine.root()[..url::Position::BeforePath])?;
        let partitions = state.config().target_partitions();
        let mut config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(self.file_groups(partitions))
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit);
        if self.in_key_order {
            config = config.with_output_ordering(self.ordering()?.into_iter().collect());
        }
        Ok(DataSourceExec::from_data_source(config.build()))
    }
}
