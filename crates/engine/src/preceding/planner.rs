//! From the logical node to the operator.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::compute::SortOptions;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::NullTreatment;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Expr, LogicalPlan, UserDefinedLogicalNode, WindowFunctionDefinition,
};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{ExtensionPlanner, PhysicalPlanner};

use super::exec::{PrecedingWindowsExec, PrecedingWindowsSpec, Window};
use super::frame::Frame;
use super::node::{NamedWindow, PrecedingWindows};
use super::rule::order_types;
use crate::asof::kernels::Call;

#[derive(Debug)]
pub(crate) struct PrecedingWindowsPlanner;

#[async_trait]
impl ExtensionPlanner for PrecedingWindowsPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<PrecedingWindows>() else {
            return Ok(None);
        };
        let [input] = physical_inputs else {
            let message = "PrecedingWindows has one input".into();
            return Err(DataFusionError::Internal(message));
        };
        let planning = Planning {
            node,
            input: input.clone(),
            compile: &|expression| {
                let schema = node.input.schema();
                planner.create_physical_expr(expression, schema, session, context)
            },
        };
        let spec = Arc::new(planning.spec()?);
        let exec = PrecedingWindowsExec::try_new(input.clone(), spec)?;
        Ok(Some(Arc::new(exec)))
    }
}

struct Planning<'a> {
    node: &'a PrecedingWindows,
    input: Arc<dyn ExecutionPlan>,
    compile: &'a (dyn Fn(&Expr) -> Result<Arc<dyn PhysicalExpr>> + Sync),
}

impl Planning<'_> {
    fn spec(&self) -> Result<PrecedingWindowsSpec> {
        let first = self.node.windows.first();
        let over = first.map(|window| &window.function.params);
        let over = over
            .ok_or_else(|| DataFusionError::Internal("PrecedingWindows without windows".into()))?;
        let order_by = over.order_by.iter().map(|sort| {
            let options = SortOptions::new(!sort.asc, sort.nulls_first);
            Ok(PhysicalSortExpr::new((self.compile)(&sort.expr)?, options))
        });
        let windows = self.node.windows.iter().map(|window| self.window(window));
        Ok(PrecedingWindowsSpec {
            partition_by: self.compile_all(&over.partition_by)?,
            order_by: order_by.collect::<Result<_>>()?,
            windows: windows.collect::<Result<_>>()?,
        })
    }

    fn compile_all(&self, expressions: &[Expr]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        expressions.iter().map(self.compile).collect()
    }

    fn window(&self, window: &NamedWindow) -> Result<Window> {
        let params = &window.function.params;
        let WindowFunctionDefinition::AggregateUDF(function) = &window.function.fun else {
            let message = format!("{} is no aggregate", window.function.fun);
            return Err(DataFusionError::Internal(message));
        };
        let order = order_types(&params.order_by, self.node.input.schema())?;
        let frame = Frame::of(&params.window_frame, &order).ok_or_else(|| {
            let message = format!("{} is no frame of ours", params.window_frame);
            DataFusionError::Internal(message)
        })?;
        let call = Call::try_new(
            function.clone(),
            self.compile_all(&params.args)?,
            self.input.schema(),
        )?;
        let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let filter = params.filter.as_deref().map(self.compile).transpose()?;
        Ok(Window {
            call: call.distinct(params.distinct).ignore_nulls(ignore_nulls),
            filter,
            frame,
            field: window.field.clone(),
        })
    }
}
