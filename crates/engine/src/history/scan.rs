//! Scans of a history, and of a stream's events in it.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt};
use granary_model::definitions::Stream;

use super::HistoryTable;
use crate::delta_file;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::stream_table::EventBatches;

impl HistoryTable {
    /// A scan of the columns at `projection` in [`Stream::history_schema`]. Rows
    /// that do not meet the predicate, which is of all columns, may be left out.
    pub(super) fn scan(
        &self,
        context: &TaskContext,
        projection: Option<Vec<usize>>,
        predicate: Option<Arc<dyn PhysicalExpr>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let of = (self.schema(), &self.files[..]);
        delta_file::scan((&self.engine, context), of, projection, predicate, limit)
    }
}

/// What to read of a history for a scan of its stream.
#[derive(Debug, Clone)]
pub(crate) struct HistoryRows {
    /// Positions in [`Stream::row_schema`].
    pub(crate) projection: Vec<usize>,
    /// `row_schema`, projected.
    pub(crate) schema: SchemaRef,
    /// Of [`Stream::history_schema`]; rows that do not meet it may be left out.
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
}

/// The events up to a sequence, which have to be in the history.
pub(crate) async fn rows(
    engine: &Engine,
    stream: &Stream,
    read: HistoryRows,
    flushed: u64,
    context: Arc<TaskContext>,
) -> std::result::Result<EventBatches, EngineError> {
    if flushed == 0 {
        return Ok(futures::stream::empty().boxed());
    }
    let table = HistoryTable::open(engine, stream).await?;
    let reached = table.as_ref().map_or(0, HistoryTable::flushed);
    let (Some(table), true) = (table, reached >= flushed) else {
        let (name, history) = (&stream.name, stream.history.as_deref().unwrap_or_default());
        return Err(EngineError::Refused(format!(
            "{name}: events up to {flushed} were flushed, but its history {history} ends at \
             {reached}: give HISTORY its old name back, or restore the table"
        )));
    };
    let failed = |error| EngineError::from_query(&stream.name, error);
    let mut columns = read.projection.clone();
    columns.push(table.schema().fields().len() - 1);
    let scan = table.scan(&context, Some(columns), read.predicate, None);
    let batches = scan.and_then(|scan| execute_stream(scan, context));
    let (schema, name) = (read.schema, stream.name.clone());
    let batches = batches.map_err(failed)?.map(move |batch| {
        let batch = batch.and_then(|batch| up_to(&batch, flushed, &schema));
        batch.map_err(|error| EngineError::from_query(&name, error))
    });
    Ok(batches
        .try_filter(|batch| std::future::ready(batch.num_rows() > 0))
        .boxed())
}

/// The rows up to a sequence, which is the last column, without that column.
fn up_to(batch: &RecordBatch, flushed: u64, schema: &SchemaRef) -> Result<RecordBatch> {
    let last = batch.num_columns() - 1;
    let sequences = batch.column(last).as_primitive::<Int64Type>();
    let wanted = sequences.iter();
    let wanted = wanted.map(|sequence| Some(sequence?.unsigned_abs() <= flushed));
    let batch = filter_record_batch(batch, &wanted.collect::<BooleanArray>())?;
    let columns = batch.columns()[..last].to_vec();
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        schema.clone(),
        columns,
        &rows,
    )?)
}
