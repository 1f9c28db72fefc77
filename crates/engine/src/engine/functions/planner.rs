//! Calls as they stand in SQL: wrong constants are refused where they are
//! written, and what a call leaves to its place is filled in.

use std::sync::Arc;

use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{
    AggregateFunction, ScalarFunction, WindowFunction, WindowFunctionParams,
};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawWindowExpr,
};
use datafusion::logical_expr::{
    AggregateUDF, Expr, ScalarUDF, WindowFrameBound, WindowFunctionDefinition,
};

use super::arguments;
use super::decayed::{Decay, DecayedLatest, DecayedSum};
use super::top_k::TopK;
use super::top_share::TopShare;
use crate::preceding::{positional, reaches_no_further};

/// Comes before DataFusion's own planners of expressions.
#[derive(Debug)]
pub(in crate::engine) struct CallPlanner {
    as_of: Arc<ScalarUDF>,
    decay: Arc<ScalarUDF>,
    decayed_latest: Arc<AggregateUDF>,
}

impl CallPlanner {
    pub(in crate::engine) fn new(as_of: Arc<ScalarUDF>) -> Self {
        Self {
            as_of,
            decay: Arc::new(Decay::new().into()),
            decayed_latest: Arc::new(DecayedLatest::new().into()),
        }
    }

    /// `decayed_sum(x, half_life, event_time)` in GROUP BY is as of `as_of()`.
    fn group(&self, mut call: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        if call.distinct {
            return plan_err!("decayed_sum does not take DISTINCT");
        }
        match call.args.len() {
            2 => plan_err!(
                "decayed_sum(x, half_life) takes the times of a window: write OVER \
                 (.. ORDER BY event_time), or decayed_sum(x, half_life, event_time)"
            ),
            3 => {
                let of_call = |call: &RawAggregateExpr| {
                    Expr::AggregateFunction(AggregateFunction::new_udf(
                        call.func.clone(),
                        call.args.clone(),
                        call.distinct,
                        call.filter.clone(),
                        call.order_by.clone(),
                        call.null_treatment,
                    ))
                };
                let name = NamePreserver::new_for_projection().save(&of_call(&call));
                call.args.push(Expr::ScalarFunction(ScalarFunction::new_udf(
                    self.as_of.clone(),
                    Vec::new(),
                )));
                Ok(PlannerResult::Planned(name.restore(of_call(&call))))
            }
            _ => Ok(PlannerResult::Original(call)),
        }
    }

    /// `decayed_sum` over a window takes the times from what it is ordered by.
    fn window(&self, call: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        if call.distinct {
            return plan_err!("decayed_sum does not take DISTINCT");
        }
        let [x, half_life, event_time @ ..] = call.args.as_slice() else {
            return Ok(PlannerResult::Original(call));
        };
        let event_time = match event_time {
            [] => None,
            [event_time] => Some(event_time.clone()),
            _ => return Ok(PlannerResult::Original(call)),
        };
        let time = match call.order_by.as_slice() {
            [order] if order.asc => order.expr.clone(),
            _ => {
                return plan_err!(
                    "decayed_sum over a window needs ORDER BY the event time alone, ascending"
                );
            }
        };
        if matches!(call.window_frame.end_bound, WindowFrameBound::Following(_)) {
            return plan_err!(
                "decayed_sum needs a frame that ends with CURRENT ROW or .. PRECEDING: \
                 what follows is not known at that time"
            );
        }
        let arguments = vec![
            x.clone(),
            half_life.clone(),
            event_time.unwrap_or_else(|| time.clone()),
        ];
        let name = NamePreserver::new_for_projection().save(&window_function(call.clone()));
        let half_life = half_life.clone();
        let latest = window_function(RawWindowExpr {
            func_def: WindowFunctionDefinition::AggregateUDF(self.decayed_latest.clone()),
            args: arguments,
            ..call
        });
        let decay = ScalarFunction::new_udf(self.decay.clone(), vec![latest, half_life, time]);
        Ok(PlannerResult::Planned(
            name.restore(Expr::ScalarFunction(decay)),
        ))
    }
}

impl ExprPlanner for CallPlanner {
    fn plan_aggregate(&self, call: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        check_constants(call.func.name(), &call.args)?;
        match call.func.name() {
            DecayedSum::NAME => self.group(call),
            _ => Ok(PlannerResult::Original(call)),
        }
    }

    fn plan_window(&self, mut call: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        check_constants(call.func_def.name(), &call.args)?;
        if call.func_def.name() == DecayedSum::NAME {
            return self.window(call);
        }
        if let Some(function) = aggregate_with_filter(&call) {
            call.func_def = WindowFunctionDefinition::AggregateUDF(function);
        }
        Ok(PlannerResult::Original(call))
    }
}

/// DataFusion's window functions know no FILTER; the aggregates of the same
/// names do, over frames that are ours to compute.
fn aggregate_with_filter(call: &RawWindowExpr) -> Option<Arc<AggregateUDF>> {
    if call.filter.is_none() || !reaches_no_further(&call.window_frame) {
        return None;
    }
    match &call.func_def {
        WindowFunctionDefinition::WindowUDF(function) => positional(function.name()),
        WindowFunctionDefinition::AggregateUDF(_) => None,
    }
}

fn check_constants(function: &str, call: &[Expr]) -> Result<()> {
    match function {
        TopK::NAME | TopShare::NAME => {
            arguments::in_sql(function, call, 1, arguments::count)?;
        }
        DecayedSum::NAME => {
            arguments::in_sql(function, call, 1, arguments::half_life)?;
        }
        _ => {}
    }
    Ok(())
}

fn window_function(call: RawWindowExpr) -> Expr {
    Expr::from(WindowFunction {
        fun: call.func_def,
        params: WindowFunctionParams {
            args: call.args,
            partition_by: call.partition_by,
            order_by: call.order_by,
            window_frame: call.window_frame,
            filter: call.filter,
            null_treatment: call.null_treatment,
            distinct: call.distinct,
        },
    })
}
