//! The as-of operators against a reference that looks at every event for every
//! row of the spine.

mod codec;
mod join;
mod kernels;
mod reference;
mod window;

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::{ExecutionPlan, collect};
use tokio::runtime::Runtime;

pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
});

/// How a table is cut up.
#[derive(Debug, Clone, Copy)]
struct Layout {
    partitions: usize,
    batch_rows: usize,
}

const WHOLE: Layout = Layout {
    partitions: 1,
    batch_rows: 1 << 20,
};

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
        .collect();
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The rows in batches that are dealt out to the partitions.
fn scan(table: &RecordBatch, layout: Layout) -> Arc<dyn ExecutionPlan> {
    let mut partitions = vec![Vec::new(); layout.partitions];
    for (index, start) in (0..table.num_rows()).step_by(layout.batch_rows).enumerate() {
        let rows = layout.batch_rows.min(table.num_rows() - start);
        partitions[index % layout.partitions].push(table.slice(start, rows));
    }
    MemorySourceConfig::try_new_exec(&partitions, table.schema(), None).unwrap()
}

fn column(name: &str, schema: &SchemaRef) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new_with_schema(name, schema).unwrap())
}

/// Runs a plan, in a pool of so many bytes if given.
fn run(
    plan: Arc<dyn ExecutionPlan>,
    memory_bytes_max: Option<usize>,
) -> datafusion::error::Result<RecordBatch> {
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(bytes) = memory_bytes_max {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(bytes)));
    }
    let context = TaskContext::default().with_runtime(runtime.build_arc()?);
    let schema = plan.schema();
    let batches = RUNTIME.block_on(collect(plan, Arc::new(context)))?;
    Ok(concat_batches(&schema, &batches)?)
}

/// A metric of the plan's root.
fn metric(plan: &Arc<dyn ExecutionPlan>, name: &str) -> usize {
    let metrics = plan.metrics().unwrap();
    metrics
        .sum_by_name(name)
        .map_or(0, |value| value.as_usize())
}
