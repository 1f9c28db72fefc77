//! The one query planner: DataFusion's, with the nodes of Delta Lake's writer and
//! our own, since a session has one planner only. Expressions that no query holds
//! are planned here too.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use deltalake_core::delta_datafusion::planner::DeltaExtensionPlanner;

use crate::preceding::PrecedingWindowsPlanner;

#[derive(Debug)]
pub(super) struct GranaryPlanner;

#[async_trait]
impl QueryPlanner for GranaryPlanner {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let ours = Arc::new(PrecedingWindowsPlanner);
        DefaultPhysicalPlanner::with_extension_planners(vec![DeltaExtensionPlanner::new(), ours])
            .create_physical_plan(logical_plan, session)
            .await
    }
}

/// Plans an expression that stands in no query. Functions like coalesce exist
/// in SQL only, until the optimizer has simplified them.
pub(crate) fn physical_expr(
    state: &SessionState,
    expression: Expr,
    schema: &DFSchema,
) -> Result<Arc<dyn PhysicalExpr>> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let simplifier = ExprSimplifier::new(context);
    let coerced = simplifier.coerce(expression, schema)?;
    state.create_physical_expr(simplifier.simplify(coerced)?, schema)
}
