//! The plan of a run: the view's query in a session cut at T, cut by the
//! view's own event time, with the view's columns and types, each partition
//! sorted by the keys and the event time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, cast};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{
    Distribution, LexOrdering, Partitioning, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::{SessionContext, ident};
use granary_model::{Definitions, FeatureType, FeatureView, UtcMicros, ViewKind};

use crate::engine::{Engine, Joins, no_later_than, utc_micros};
use crate::error::EngineError;
use crate::run::windowed::windowed_rows;
use crate::stream_table::LostEvents;

/// A physical plan whose partitions are sorted; of a snapshot view all rows of
/// a key are in one partition.
pub(super) struct RunPlan {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
}

impl RunPlan {
    pub(super) async fn new(
        engine: &Engine,
        definitions: &Definitions,
        view: &FeatureView,
        times: EventTimes,
    ) -> Result<Self, EngineError> {
        let context = engine
            .session_for(definitions, view, times.up_to, Joins::Spilling)
            .await?;
        let failed = |e| EngineError::from_query(&view.name, e);
        let plan = match view.kind {
            ViewKind::Windowed => windowed_rows(&context, view, times.up_to)
                .await
                .map_err(failed)?,
            ViewKind::Timestamped | ViewKind::Snapshot => {
                let rows = view_rows(&context, view, times).await?;
                rows.create_physical_plan().await.map_err(failed)?
            }
        };
        let partitions = context.state().config().target_partitions();
        Ok(Self {
            plan: sorted(plan, view, partitions).map_err(failed)?,
            context: context.task_ctx(),
        })
    }

    pub(super) fn partitions(&self) -> usize {
        self.plan.output_partitioning().partition_count()
    }

    /// What the streams that were read lost.
    pub(super) fn trimmed(&self) -> BTreeMap<String, UtcMicros> {
        LostEvents::times_of(self.context.session_config())
    }

    pub(super) fn execute(&self, partition: usize) -> Result<SendableRecordBatchStream> {
        self.plan.execute(partition, self.context.clone())
    }
}

/// Which event times a timestamped view's rows may have; rows without one pass,
/// for the gate to count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventTimes {
    /// Later than this.
    pub(crate) after: Option<UtcMicros>,
    pub(crate) up_to: UtcMicros,
    /// Later than this pass too, for the gate to count.
    pub(crate) future: Option<UtcMicros>,
}

impl EventTimes {
    /// What had happened by t.
    pub(crate) fn up_to(t: UtcMicros) -> Self {
        Self {
            after: None,
            up_to: t,
            future: None,
        }
    }

    /// As a filter in the column's own type; `None` where that is no time.
    fn filter(self, column: &str, data_type: &DataType) -> Option<Expr> {
        let later = |t| no_later_than(column, data_type, t).map(|e| Expr::Not(Box::new(e)));
        let mut within = no_later_than(column, data_type, self.up_to)?;
        if let Some(after) = self.after {
            within = within.and(later(after)?);
        }
        if let Some(future) = self.future {
            within = within.or(later(future)?);
        }
        Some(within.or(ident(column).is_null()))
    }
}

/// The rows of a view's query with the names, order and types of `row_schema`,
/// those of a timestamped view within `times`, if any are given.
pub(crate) async fn view_rows(
    context: &SessionContext,
    view: &FeatureView,
    times: impl Into<Option<EventTimes>>,
) -> Result<datafusion::dataframe::DataFrame, EngineError> {
    let failed = |e: DataFusionError| EngineError::from_query(&view.name, e);
    let options = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    let mut frame = context
        .sql_with_options(&view.query, options)
        .await
        .map_err(failed)?;
    let columns = row_columns(view, frame.schema())?;
    if let (ViewKind::Timestamped, Some(event_time), Some(times)) =
        (view.kind, &view.event_time, times.into())
    {
        let field = frame.schema().field_with_unqualified_name(event_time).ok();
        let cut = field
            .and_then(|field| times.filter(event_time, field.data_type()))
            .ok_or_else(|| changed(view, format!("{event_time} is no longer a time")))?;
        frame = frame.filter(cut).map_err(failed)?;
    }
    frame.select(columns).map_err(failed)
}

fn changed(view: &FeatureView, difference: String) -> EngineError {
    EngineError::SchemaChanged {
        object: view.name.clone(),
        difference,
    }
}

/// Each column of `row_schema` out of the query's output, cast to its type
/// where the two stand for the same feature type.
pub(crate) fn row_columns(view: &FeatureView, output: &DFSchema) -> Result<Vec<Expr>, EngineError> {
    let schema = view.row_schema();
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (index, wanted) in schema.fields().iter().enumerate() {
        let (qualifier, given) = output
            .qualified_field_with_unqualified_name(wanted.name())
            .map_err(|_| changed(view, format!("column {} is gone", wanted.name())))?;
        let (from, to) = (
            FeatureType::from_arrow(given.data_type()),
            FeatureType::from_arrow(wanted.data_type()),
        );
        let is_key = index < view.keys.len();
        let is_time = to == Some(FeatureType::Timestamp);
        let fits = match (&from, &to) {
            (Some(from), Some(to)) if is_key => to.accepts_key(from),
            (Some(FeatureType::Date), _) if is_time => true,
            _ => from == to,
        };
        if !fits {
            return Err(changed(
                view,
                format!(
                    "column {} was {} and is {}",
                    wanted.name(),
                    to.map_or_else(|| wanted.data_type().to_string(), |t| t.to_string()),
                    from.map_or_else(|| given.data_type().to_string(), |t| t.to_string()),
                ),
            ));
        }
        let column = Expr::Column(Column::new(qualifier.cloned(), given.name()));
        let column = match given.data_type() == wanted.data_type() {
            true => column,
            false if is_time => utc_micros(column),
            false => cast(column, wanted.data_type().clone()),
        };
        columns.push(column.alias(wanted.name()));
    }
    Ok(columns)
}

fn sorted(
    plan: Arc<dyn ExecutionPlan>,
    view: &FeatureView,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = plan.schema();
    let keys = view.keys.iter().map(|key| col(&key.name, &schema));
    let keys: Vec<Arc<dyn PhysicalExpr>> = keys.collect::<Result<_>>()?;
    let mut order = keys.clone();
    if let (ViewKind::Timestamped, Some(event_time)) = (view.kind, &view.event_time) {
        order.push(col(event_time, &schema)?);
    }
    let ascending = SortOptions::new(false, true);
    let order = order
        .into_iter()
        .map(|c| PhysicalSortExpr::new(c, ascending));
    let order = LexOrdering::new(order)
        .ok_or_else(|| DataFusionError::Plan(format!("{} has no keys", view.name)))?;
    let plan = distributed(plan, view, keys, partitions)?;
    let in_order = plan
        .equivalence_properties()
        .ordering_satisfy(order.clone())?;
    if in_order {
        return Ok(plan);
    }
    Ok(Arc::new(
        SortExec::new(order, plan).with_preserve_partitioning(true),
    ))
}

/// Brings the rows into at most `partitions` partitions, of a snapshot view
/// those of one key into one, so that keys that come twice are seen.
fn distributed(
    plan: Arc<dyn ExecutionPlan>,
    view: &FeatureView,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    partitions: usize,
) -> Result<Arc<dyn ExecutionPlan>> {
    let given = plan.output_partitioning();
    if given.partition_count() == 1 {
        return Ok(plan);
    }
    if view.kind == ViewKind::Timestamped {
        if given.partition_count() <= partitions {
            return Ok(plan);
        }
        let round_robin = Partitioning::RoundRobinBatch(partitions);
        return Ok(Arc::new(RepartitionExec::try_new(plan, round_robin)?));
    }
    let wanted = Distribution::KeyPartitioned(keys.clone());
    let fits = given
        .satisfaction(&wanted, plan.equivalence_properties(), false)
        .is_satisfied();
    if fits && given.partition_count() <= partitions {
        return Ok(plan);
    }
    let by_key = Partitioning::Hash(keys, partitions);
    Ok(Arc::new(RepartitionExec::try_new(plan, by_key)?))
}
