//! The rows of a windowed view as of T: each key with events in the longest
//! window, and the row of every other key.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column as Name, DFSchema};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, cast, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use granary_model::{Definitions, FeatureView, UtcMicros};

use crate::engine::{Engine, Joins, physical_expr};
use crate::error::EngineError;
use crate::offline::read::time_scalar;
use crate::windowed::{
    Seen, SharedWindows, SpineKeys, WindowedQuery, WindowedView, aggregate_name,
};

/// Begins the names of aggregates behind the keys.
const AGGREGATES: &str = "__granary ";

impl Engine {
    /// What a windowed view answers as of T for a key without events: one row
    /// of `row_schema`, its keys NULL.
    pub async fn empty_row(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        as_of: UtcMicros,
    ) -> Result<arrow::array::RecordBatch, EngineError> {
        let failed = |e| EngineError::from_query(&view.name, e);
        let context = self
            .session_for(definitions, view, as_of, Joins::Fast)
            .await?;
        let state = context.state();
        let query = WindowedQuery::of(&state, view).await;
        let query = query.and_then(|query| query.at(as_of)).map_err(failed)?;
        // No events at all, and one key that is NULL.
        let none = LogicalPlanBuilder::from(query.events.clone())
            .filter(lit(false))
            .and_then(LogicalPlanBuilder::build)
            .map_err(failed)?;
        let keys = query.keys.iter().map(|key| {
            let data_type =
                datafusion::logical_expr::ExprSchemable::get_type(key, query.events.schema())?;
            Ok(lit(ScalarValue::try_from(&data_type)?))
        });
        let keys = keys.collect::<Result<Vec<_>>>().map_err(failed)?;
        let spine = LogicalPlanBuilder::empty(true)
            .project(named_keys(keys))
            .and_then(LogicalPlanBuilder::build)
            .map_err(failed)?;
        let query = WindowedQuery {
            events: none,
            ..query
        };
        let spine = state.create_physical_plan(&spine).await.map_err(failed)?;
        let rows = rows(&state, view, query, spine, as_of, Seen::default())
            .await
            .map_err(failed)?;
        let rows = datafusion::physical_plan::collect(rows, context.task_ctx());
        let batches = rows.await.map_err(failed)?;
        let row = arrow::compute::concat_batches(&view.row_schema(), &batches);
        row.map_err(|e| failed(e.into()))
    }
}

/// The rows of all keys, in the columns of `row_schema`, in one partition.
pub(super) async fn windowed_rows(
    context: &SessionContext,
    view: &FeatureView,
    as_of: UtcMicros,
) -> Result<Arc<dyn ExecutionPlan>> {
    let state = context.state();
    let query = WindowedQuery::of(&state, view).await?.at(as_of)?;
    let mut spine = LogicalPlanBuilder::from(query.events.clone());
    if let Some(filter) = &query.filter {
        spine = spine.filter(filter.clone())?;
    }
    if let Some(reach) = query.reach() {
        let oldest = reach.iter().map(|start| start.before(as_of)).min();
        let since = lit(time_scalar(oldest.unwrap_or(as_of)));
        let time = cast(query.event_time.clone(), time_scalar(as_of).data_type());
        spine = spine.filter(time.gt_eq(since))?;
    }
    let spine = spine
        .project(named_keys(query.keys.clone()))?
        .distinct()?
        .build()?;
    let spine = state.create_physical_plan(&spine).await?;
    rows(&state, view, query, spine, as_of, Seen::default()).await
}

fn named_keys(keys: Vec<Expr>) -> Vec<Expr> {
    let keys = keys.into_iter().enumerate();
    keys.map(|(number, key)| key.alias(key_name(number)))
        .collect()
}

pub(crate) fn key_name(number: usize) -> String {
    format!("__granary key {number}")
}

/// The rows of keys that a plan gives, a column a key under its [`key_name`].
pub(crate) async fn windowed_rows_of(
    state: &SessionState,
    view: &FeatureView,
    spine: Arc<dyn ExecutionPlan>,
    as_of: UtcMicros,
    seen: Seen,
) -> Result<Arc<dyn ExecutionPlan>> {
    let query = WindowedQuery::of(state, view).await?.at(as_of)?;
    rows(state, view, query, spine, as_of, seen).await
}

/// The view's features as of T for the keys that `spine` has as its columns.
async fn rows(
    state: &SessionState,
    view: &FeatureView,
    query: WindowedQuery,
    spine: Arc<dyn ExecutionPlan>,
    as_of: UtcMicros,
    seen: Seen,
) -> Result<Arc<dyn ExecutionPlan>> {
    let spine: Arc<dyn ExecutionPlan> = match spine.output_partitioning().partition_count() {
        1 => spine,
        _ => Arc::new(CoalescePartitionsExec::new(spine)),
    };
    let keys = (0..view.keys.len()).map(|number| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(&key_name(number), number))
    });
    let spine_keys = SpineKeys {
        keys: keys.collect(),
        time: Arc::new(Literal::new(time_scalar(as_of))),
    };
    let outputs = query.outputs.clone();
    let shared = SharedWindows::new(WindowedView {
        query,
        also_from: Default::default(),
    });
    let joined = shared
        .join(state, spine, spine_keys, seen, AGGREGATES)
        .await?;
    let schema = DFSchema::try_from(joined.schema())?;
    let mut columns = Vec::new();
    let keys = view.keys.iter().enumerate();
    let keys =
        keys.map(|(number, key)| (key, Expr::Column(Name::new_unqualified(key_name(number)))));
    for (column, expression) in keys.chain(view.features.iter().zip(outputs)) {
        let expression = cast(behind_keys(expression)?, column.data_type.to_arrow());
        columns.push(ProjectionExpr {
            expr: physical_expr(state, expression, &schema)?,
            alias: column.name.clone(),
        });
    }
    Ok(Arc::new(ProjectionExec::try_new(columns, joined)?))
}

/// An output over the names that aggregates have behind the keys.
fn behind_keys(output: Expr) -> Result<Expr> {
    let replaced = output.transform_up(|e| {
        Ok::<_, DataFusionError>(match &e {
            Expr::Column(column)
                if column.relation.is_none() && !column.name.starts_with(AGGREGATES) =>
            {
                let name = aggregate_name(AGGREGATES, 0, &column.name);
                Transformed::yes(Expr::Column(Name::new_unqualified(name)))
            }
            _ => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}
