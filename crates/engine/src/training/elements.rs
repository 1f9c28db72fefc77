//! Views that are read for each element of a list, in a training set: each row
//! of the chain becomes a row an element, the view is joined to those as to any
//! spine, and what it gives is gathered into lists, a row each, as before.
//!
//! Rows of one list follow each other all the way, so that both steps stream. A
//! list without elements keeps one row, which is marked as none.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{concat_batches, filter, take, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{exec_err, internal_err};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning,
    PlanProperties,
};
use futures::{StreamExt, TryStreamExt, stream};
use granary_model::definitions::{BoundView, KeySource};

use super::chain::{Chain, WORKING, failed};
use crate::error::EngineError;
use crate::expression::KEY;

/// The column with the element that a row is of.
pub(super) fn element_column(bound: &BoundView) -> String {
    format!("{WORKING}element of {}", bound.alias)
}

impl<'a> Chain<'a> {
    /// Joins a view for each element: its features are lists.
    pub(super) async fn join_each(&mut self, bound: &'a BoundView) -> Result<(), EngineError> {
        let failed = failed(&bound.view);
        let lists = bound.keys.iter().find_map(|binding| match &binding.source {
            KeySource::Each(alias) => self.found_value(alias, KEY),
            _ => None,
        });
        let before = self.plan.schema();
        let place = before.index_of(lists.unwrap_or_default());
        let spread = Spread {
            list: place.map_err(|e| failed(e.into()))?,
            view: bound.view.clone(),
            elements_max: self.engine.settings().each_elements_max,
        };
        let spread = ElementsExec::spread(self.plan.clone(), spread, &element_column(bound));
        self.plan = Arc::new(spread.map_err(&failed)?);
        let wanted = self.wanted(bound)?;
        self.join_level(vec![wanted]).await?;
        let schema = self.plan.schema();
        let values = self.found_values(&bound.alias);
        let gathered = values.map(|column| schema.index_of(column));
        let gather = Gather {
            keep: before.fields().len(),
            gathered: gathered
                .collect::<Result<_, _>>()
                .map_err(|e| failed(e.into()))?,
        };
        self.plan = Arc::new(ElementsExec::gather(self.plan.clone(), gather));
        Ok(())
    }
}

/// A row an element: the columns as they are, then the number of the row, the
/// element, and whether it is one.
#[derive(Debug, Clone)]
struct Spread {
    /// Which column is the list.
    list: usize,
    /// For errors.
    view: String,
    elements_max: usize,
}

/// A row for each number of a row: the first columns, then lists of others.
#[derive(Debug, Clone)]
struct Gather {
    /// How many columns stay as they are; behind them stand those of [`Spread`].
    keep: usize,
    gathered: Vec<usize>,
}

#[derive(Debug, Clone)]
enum Step {
    Spread(Spread),
    Gather(Gather),
}

#[derive(Debug)]
struct ElementsExec {
    input: Arc<dyn ExecutionPlan>,
    step: Step,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl ElementsExec {
    fn spread(input: Arc<dyn ExecutionPlan>, spread: Spread, element: &str) -> PlanResult<Self> {
        let before = input.schema();
        let item = match before.field(spread.list).data_type() {
            DataType::List(item) => item.data_type().clone(),
            other => return internal_err!("{}: {other} is no list", spread.view),
        };
        let mut fields: Vec<FieldRef> = before.fields().to_vec();
        for (name, data_type) in [
            (format!("{element}, row"), DataType::UInt64),
            (element.to_owned(), item),
            (format!("{element}, is one"), DataType::Boolean),
        ] {
            fields.push(Arc::new(Field::new(name, data_type, true)));
        }
        Ok(Self::new(input, Step::Spread(spread), fields))
    }

    fn gather(input: Arc<dyn ExecutionPlan>, gather: Gather) -> Self {
        let before = input.schema();
        let mut fields: Vec<FieldRef> = before.fields()[..gather.keep].to_vec();
        for place in &gather.gathered {
            let field = before.field(*place);
            let list = DataType::List(element_field(field));
            fields.push(Arc::new(Field::new(field.name(), list, true)));
        }
        Self::new(input, Step::Gather(gather), fields)
    }

    fn new(input: Arc<dyn ExecutionPlan>, step: Step, fields: Vec<FieldRef>) -> Self {
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            input,
            step,
            schema,
            properties: Arc::new(properties),
        }
    }
}

fn element_field(field: &Field) -> FieldRef {
    Arc::new(Field::new("element", field.data_type().clone(), true))
}

impl DisplayAs for ElementsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.step {
            Step::Spread(spread) => write!(f, "ElementsExec: spread for {}", spread.view),
            Step::Gather(gather) => write!(f, "ElementsExec: gather {}", gather.gathered.len()),
        }
    }
}

impl ExecutionPlan for ElementsExec {
    fn name(&self) -> &'static str {
        "ElementsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let [input] = &children[..] else {
            return internal_err!("one plan whose rows are spread or gathered");
        };
        let fields = self.schema.fields().to_vec();
        Ok(Arc::new(Self::new(
            Arc::clone(input),
            self.step.clone(),
            fields,
        )))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let rows_max = context.session_config().batch_size();
        let input = self.input.execute(partition, context)?;
        let schema = Arc::clone(&self.schema);
        let rows = match self.step.clone() {
            Step::Spread(spread) => {
                let mut row = 0;
                let spread = input.map(move |batch| {
                    let batch = batch?;
                    let rows = spread.batches(&batch, row, rows_max, &schema)?;
                    row += batch.num_rows() as u64;
                    Ok::<_, DataFusionError>(stream::iter(rows.into_iter().map(Ok)))
                });
                spread.try_flatten().boxed()
            }
            Step::Gather(gather) => gathered(gather, input, schema).boxed(),
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            rows,
        )))
    }
}

impl Spread {
    /// `first`: the number of the batch's first row.
    fn batches(
        &self,
        batch: &RecordBatch,
        first: u64,
        rows_max: usize,
        schema: &SchemaRef,
    ) -> PlanResult<Vec<RecordBatch>> {
        let lists = batch.column(self.list).as_list::<i32>();
        let mut places: Vec<(u32, Option<u32>)> = Vec::with_capacity(batch.num_rows());
        for row in 0..lists.len() {
            let start = lists.value_offsets()[row];
            let count = match lists.is_valid(row) {
                true => lists.value_length(row),
                false => 0,
            };
            if count as usize > self.elements_max {
                return exec_err!(
                    "{}: a list that it is read for EACH element of has {count} elements, over the bound of {}",
                    self.view,
                    self.elements_max
                );
            }
            if count == 0 {
                places.push((row as u32, None));
            }
            places.extend((start..start + count).map(|at| (row as u32, Some(at as u32))));
        }
        let batches = places.chunks(rows_max.max(1)).map(|places| {
            let parents: UInt32Array = places.iter().map(|(row, _)| *row).collect();
            let elements: UInt32Array = places.iter().map(|(_, at)| *at).collect();
            let rows = places.iter().map(|(row, _)| first + u64::from(*row));
            let mut columns = take_record_batch(batch, &parents)?.columns().to_vec();
            columns.push(Arc::new(rows.collect::<UInt64Array>()));
            columns.push(take(lists.values(), &elements, None)?);
            let is_one = places.iter().map(|(_, at)| Some(at.is_some()));
            columns.push(Arc::new(is_one.collect::<BooleanArray>()));
            Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
        });
        batches.collect()
    }
}

/// Gathers rows of one number, however the batches fall.
fn gathered(
    gather: Gather,
    input: SendableRecordBatchStream,
    schema: SchemaRef,
) -> impl futures::Stream<Item = PlanResult<RecordBatch>> + Send {
    let state = (input, None::<RecordBatch>, false);
    let step =
        move |(mut input, held, ended): (SendableRecordBatchStream, Option<RecordBatch>, bool)| {
            let (gather, schema) = (gather.clone(), Arc::clone(&schema));
            async move {
                if ended {
                    return Ok::<_, DataFusionError>(None);
                }
                let next = input.try_next().await?;
                let ended = next.is_none();
                let parts: Vec<RecordBatch> = held.into_iter().chain(next).collect();
                let Some(one) = parts.first() else {
                    return Ok(None);
                };
                let rows = concat_batches(&one.schema(), &parts)?;
                // The last row's elements may go on in the next batch.
                let whole = match ended {
                    true => rows.num_rows(),
                    false => gather.start_of_last(&rows),
                };
                let held = rows.slice(whole, rows.num_rows() - whole);
                let lists = gather.lists(&rows.slice(0, whole), &schema)?;
                Ok(Some((lists, (input, Some(held), ended))))
            }
        };
    stream::try_unfold(state, step)
}

impl Gather {
    fn start_of_last(&self, rows: &RecordBatch) -> usize {
        let numbers = rows.column(self.keep).as_primitive::<UInt64Type>().values();
        let Some(last) = numbers.last() else {
            return 0;
        };
        numbers.partition_point(|number| number < last)
    }

    fn lists(&self, rows: &RecordBatch, schema: &SchemaRef) -> PlanResult<RecordBatch> {
        let numbers = rows.column(self.keep).as_primitive::<UInt64Type>().values();
        let is_one = rows.column(self.keep + 2).as_boolean();
        let mut firsts: Vec<u32> = Vec::new();
        let mut lengths: Vec<usize> = Vec::new();
        for at in 0..rows.num_rows() {
            if at == 0 || numbers[at] != numbers[at - 1] {
                firsts.push(at as u32);
                lengths.push(0);
            }
            if let (true, Some(length)) = (is_one.value(at), lengths.last_mut()) {
                *length += 1;
            }
        }
        let firsts = UInt32Array::from(firsts);
        let kept = rows.columns()[..self.keep].iter();
        let mut columns = kept
            .map(|column| take(column, &firsts, None))
            .collect::<Result<Vec<_>, _>>()?;
        for place in &self.gathered {
            let values = filter(rows.column(*place), is_one)?;
            let field = element_field(rows.schema().field(*place));
            let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
            let lists: ArrayRef = Arc::new(ListArray::try_new(field, offsets, values, None)?);
            columns.push(lists);
        }
        Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
    }
}
