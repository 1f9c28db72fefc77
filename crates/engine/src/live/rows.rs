//! A row-wise plan over streams, as a few steps over events in memory.
//!
//! Projection, WHERE, UNNEST and UNION ALL only: each event gives rows without
//! any other. A plan becomes one program for each stream and branch of UNION
//! ALL. Behind the columns of the plan every batch carries the number of the
//! event that each row is made of.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use datafusion::common::{UnnestOptions, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Unnest};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use futures::{FutureExt, StreamExt};

use crate::engine::physical_expr;

/// Rows of a plan from the events of one stream.
#[derive(Debug)]
pub(crate) struct RowProgram {
    pub(crate) stream: String,
    /// The columns that are read, places in the stream's relation.
    pub(crate) projection: Vec<usize>,
    steps: Vec<Step>,
    /// Of the plan.
    schema: SchemaRef,
}

#[derive(Debug)]
enum Step {
    Filter(Arc<dyn PhysicalExpr>),
    Project(Vec<Arc<dyn PhysicalExpr>>, SchemaRef),
    Unnest(UnnestStep),
}

#[derive(Debug)]
struct UnnestStep {
    lists: Vec<ListUnnest>,
    structs: Vec<usize>,
    options: UnnestOptions,
    /// Without the number of the event.
    schema: SchemaRef,
    context: Arc<TaskContext>,
}

/// What a program makes of events.
#[derive(Debug)]
pub(crate) struct ProgramRows {
    /// The columns of the plan.
    pub(crate) rows: RecordBatch,
    /// Which event each row is made of.
    pub(crate) events: Vec<u32>,
}

impl RowProgram {
    /// The programs of an optimised plan; an error for a plan that is not row-wise.
    pub(crate) fn compile(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<Self>> {
        let mut programs = walk(state, plan)?;
        let schema: SchemaRef = Arc::new(nullable(plan.schema().as_arrow()));
        for program in &mut programs {
            program.schema = schema.clone();
        }
        Ok(programs)
    }

    /// Whether every event gives one row at most.
    pub(crate) fn is_one_to_one(&self) -> bool {
        let mut steps = self.steps.iter();
        !steps.any(|step| matches!(step, Step::Unnest(_)))
    }

    /// Whether every event gives one row.
    pub(crate) fn is_total(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.all(|step| matches!(step, Step::Project(..)))
    }

    /// `events`: the columns at [`Self::projection`].
    pub(crate) fn rows(&self, events: &RecordBatch) -> Result<ProgramRows> {
        let count = events.num_rows();
        let mut numbers: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..count as u32));
        let mut batch = events.clone();
        for step in &self.steps {
            (batch, numbers) = step.apply(&batch, numbers)?;
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        Ok(ProgramRows {
            rows: RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?,
            events: numbers.as_primitive::<UInt32Type>().values().to_vec(),
        })
    }
}

impl Step {
    fn apply(&self, batch: &RecordBatch, numbers: ArrayRef) -> Result<(RecordBatch, ArrayRef)> {
        match self {
            Self::Project(expressions, schema) => {
                let rows = batch.num_rows();
                let columns = expressions
                    .iter()
                    .map(|e| e.evaluate(batch)?.into_array(rows));
                let options = RecordBatchOptions::new().with_row_count(Some(rows));
                let columns = columns.collect::<Result<Vec<_>>>()?;
                let batch = RecordBatch::try_new_with_options(schema.clone(), columns, &options)?;
                Ok((batch, numbers))
            }
            Self::Filter(predicate) => {
                let kept = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
                let kept = kept.as_boolean();
                let numbers = arrow::compute::filter(&numbers, kept)?;
                Ok((filter_record_batch(batch, kept)?, numbers))
            }
            Self::Unnest(unnest) => unnest.apply(batch, numbers),
        }
    }
}

/// What an event's number is called while rows are unnested.
const NUMBER: &str = "__granary event";

impl UnnestStep {
    fn apply(&self, batch: &RecordBatch, numbers: ArrayRef) -> Result<(RecordBatch, ArrayRef)> {
        let mut columns = batch.columns().to_vec();
        columns.push(numbers);
        let numbered = numbered(batch.schema_ref());
        let batch = RecordBatch::try_new(numbered.clone(), columns)?;
        let source = MemorySourceConfig::try_new_exec(&[vec![batch]], numbered, None)?;
        let output = self::numbered(&self.schema);
        let unnest = UnnestExec::new(
            source,
            self.lists.clone(),
            self.structs.clone(),
            output.clone(),
            self.options.clone(),
        )?;
        let mut stream = unnest.execute(0, self.context.clone())?;
        let mut batches = Vec::new();
        // All of it is in memory: nothing is waited for.
        loop {
            match stream.next().now_or_never() {
                Some(Some(batch)) => batches.push(batch?),
                Some(None) => break,
                None => {
                    return Err(DataFusionError::Internal("UNNEST waits in memory".into()));
                }
            }
        }
        let mut batch = concat_batches(&output, &batches)?;
        let numbers = batch.remove_column(self.schema.fields().len());
        let rows = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec())?;
        Ok((rows, numbers))
    }
}

fn numbered(schema: &Schema) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(NUMBER, DataType::UInt32, true)));
    Arc::new(Schema::new(fields))
}

/// What comes out of steps may be NULL whatever a plan knew of its input.
fn nullable(schema: &Schema) -> Schema {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    Schema::new(fields.collect::<Vec<_>>())
}

fn walk(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<RowProgram>> {
    let physical = |e: &Expr, input: &LogicalPlan| physical_expr(state, e.clone(), input.schema());
    match plan {
        LogicalPlan::TableScan(scan) => {
            let all = || (0..scan.source.schema().fields().len()).collect();
            Ok(vec![RowProgram {
                stream: scan.table_name.table().to_owned(),
                projection: scan.projection.clone().unwrap_or_else(all),
                steps: Vec::new(),
                schema: Arc::new(Schema::empty()),
            }])
        }
        LogicalPlan::SubqueryAlias(alias) => walk(state, &alias.input),
        LogicalPlan::Union(union) => {
            let branches = union.inputs.iter().map(|input| walk(state, input));
            let branches = branches.collect::<Result<Vec<_>>>()?;
            Ok(branches.into_iter().flatten().collect())
        }
        LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row => Ok(Vec::new()),
        LogicalPlan::Projection(projection) => {
            let schema: SchemaRef = Arc::new(nullable(projection.schema.as_arrow()));
            with_step(walk(state, &projection.input)?, || {
                let expressions = projection.expr.iter();
                let expressions = expressions.map(|e| physical(e, &projection.input));
                let expressions = expressions.collect::<Result<_>>()?;
                Ok(Step::Project(expressions, schema.clone()))
            })
        }
        LogicalPlan::Filter(filter) => {
            let mut programs = walk(state, &filter.input)?;
            // One after the other: what one leaves out, the next need not bear.
            for predicate in split_conjunction(&filter.predicate) {
                programs = with_step(programs, || {
                    Ok(Step::Filter(physical(predicate, &filter.input)?))
                })?;
            }
            Ok(programs)
        }
        LogicalPlan::Unnest(unnest) => with_step(walk(state, &unnest.input)?, || {
            Ok(Step::Unnest(unnest_step(state, unnest)))
        }),
        other => plan_err!("{} does not work row by row", other.display()),
    }
}

fn with_step(
    mut programs: Vec<RowProgram>,
    step: impl Fn() -> Result<Step>,
) -> Result<Vec<RowProgram>> {
    for program in &mut programs {
        program.steps.push(step()?);
    }
    Ok(programs)
}

fn unnest_step(state: &SessionState, unnest: &Unnest) -> UnnestStep {
    let lists = unnest.list_type_columns.iter();
    let lists = lists.map(|(place, unnesting)| ListUnnest {
        index_in_input_schema: *place,
        depth: unnesting.depth,
    });
    UnnestStep {
        lists: lists.collect(),
        structs: unnest.struct_type_columns.clone(),
        options: unnest.options.clone(),
        schema: Arc::new(nullable(unnest.schema.as_arrow())),
        context: state.task_ctx(),
    }
}
