//! The one query planner: DataFusion's, with the nodes of Delta Lake's writer.
//!
//! Operators of our own join this list, since a session has one planner only.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::Result;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};
use deltalake_core::delta_datafusion::planner::DeltaExtensionPlanner;

#[derive(Debug)]
pub(super) struct GranaryPlanner;

#[async_trait]
impl QueryPlanner for GranaryPlanner {
    async fn create_physical_plan(
        &self,
        logical_plan: &LogicalPlan,
        session: &dyn Session,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        DefaultPhysicalPlanner::with_extension_planners(vec![DeltaExtensionPlanner::new()])
            .create_physical_plan(logical_plan, session)
            .await
    }
}
