//! The optimizer rule: takes windows that end at or before their row out of
//! DataFusion's window plans.
//!
//! It stands after DataFusion's rules, which know their own window plans well:
//! filters have been pushed down, columns pruned and expressions shared by then.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::error::Result;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::functions_aggregate::nth_value::nth_value_udaf;
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::logical_plan::Window;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprSchemable, Extension, LogicalPlan, Projection, WindowFunctionDefinition,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use super::frame::Frame;
use super::node::{NamedWindow, PrecedingWindows};

/// Puts [`super::PrecedingWindowsExec`] in the place of DataFusion's operators.
#[derive(Debug)]
pub(crate) struct TakePrecedingWindows;

impl OptimizerRule for TakePrecedingWindows {
    fn name(&self) -> &'static str {
        "take_preceding_windows"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Window(window) = plan else {
            return Ok(Transformed::no(plan));
        };
        let split = Split::of(&window)?;
        match split.taken.is_empty() {
            true => Ok(Transformed::no(LogicalPlan::Window(window))),
            false => split.plan(&window).map(Transformed::yes),
        }
    }
}

/// Window expressions of a plan, taken over and left.
#[derive(Default)]
struct Split {
    /// By PARTITION BY and ORDER BY.
    taken: Vec<Vec<NamedWindow>>,
    left: Vec<(Expr, (Option<TableReference>, FieldRef))>,
}

impl Split {
    fn of(window: &Window) -> Result<Self> {
        let mut split = Self::default();
        let input = window.input.schema();
        let outputs = window.schema.iter().skip(input.fields().len());
        for (expression, (qualifier, field)) in window.window_expr.iter().zip(outputs) {
            match taken(expression, input)? {
                Some(function) => split.take(NamedWindow {
                    function,
                    qualifier: qualifier.cloned(),
                    field: field.clone(),
                }),
                None => {
                    let output = (qualifier.cloned(), field.clone());
                    split.left.push((expression.clone(), output));
                }
            }
        }
        Ok(split)
    }

    fn take(&mut self, window: NamedWindow) {
        let over = |window: &NamedWindow| {
            let params = &window.function.params;
            (params.partition_by.clone(), params.order_by.clone())
        };
        let same = |group: &&mut Vec<NamedWindow>| over(&group[0]) == over(&window);
        match self.taken.iter_mut().find(same) {
            Some(group) => group.push(window),
            None => self.taken.push(vec![window]),
        }
    }

    /// DataFusion's part below, ours above it, all columns in their old places.
    fn plan(self, window: &Window) -> Result<LogicalPlan> {
        let mut plan = window.input.clone();
        if !self.left.is_empty() {
            let below = window.input.schema();
            let (expressions, outputs): (Vec<_>, Vec<_>) = self.left.into_iter().unzip();
            let fields = below.iter().map(|(q, field)| (q.cloned(), field.clone()));
            let schema = DFSchema::new_with_metadata(
                fields.chain(outputs).collect(),
                below.metadata().clone(),
            )?;
            let left = Window::try_new_with_schema(expressions, plan, Arc::new(schema))?;
            plan = Arc::new(LogicalPlan::Window(left));
        }
        for group in self.taken {
            let node = Arc::new(PrecedingWindows::try_new(plan, group)?);
            plan = Arc::new(LogicalPlan::Extension(Extension { node }));
        }
        let columns = |schema: &DFSchema| -> Vec<Column> { schema.columns() };
        if columns(plan.schema()) == columns(&window.schema) {
            return Ok(Arc::unwrap_or_clone(plan));
        }
        let columns = columns(&window.schema).into_iter().map(Expr::Column);
        Projection::try_new_with_schema(columns.collect(), plan, window.schema.clone())
            .map(LogicalPlan::Projection)
    }
}

/// The window function as an aggregate over a frame of ours.
fn taken(expression: &Expr, input: &DFSchema) -> Result<Option<WindowFunction>> {
    let Expr::WindowFunction(window) = expression.clone().unalias_nested().data else {
        return Ok(None);
    };
    let Some(function) = aggregate(&window.fun) else {
        return Ok(None);
    };
    let order = order_types(&window.params.order_by, input)?;
    if Frame::of(&window.params.window_frame, &order).is_none() {
        return Ok(None);
    }
    Ok(Some(WindowFunction {
        fun: WindowFunctionDefinition::AggregateUDF(function),
        params: window.params,
    }))
}

pub(super) fn order_types(order_by: &[Sort], input: &DFSchema) -> Result<Vec<DataType>> {
    let types = order_by.iter().map(|sort| sort.expr.get_type(input));
    types.collect()
}

fn aggregate(function: &WindowFunctionDefinition) -> Option<Arc<AggregateUDF>> {
    match function {
        WindowFunctionDefinition::AggregateUDF(function) => Some(function.clone()),
        WindowFunctionDefinition::WindowUDF(function) => positional(function.name()),
    }
}

/// The aggregate of the same name as a window function that tells rows by their place.
pub(crate) fn positional(window_function: &str) -> Option<Arc<AggregateUDF>> {
    match window_function {
        "first_value" => Some(first_value_udaf()),
        "last_value" => Some(last_value_udaf()),
        "nth_value" => Some(nth_value_udaf()),
        _ => None,
    }
}
