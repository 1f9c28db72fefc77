//! From when on a row of a query is there: one pass over a source can answer
//! for every t only if each row depends on nothing that happened after it.
//!
//! A run as of t reads every table and view that has an event time up to t,
//! wherever it stands. [`availability`] gives the columns of a plan before
//! whose times (the greatest of them) a row is not there, and from which on it
//! stays as it is. Where no such columns exist, as with a join to facts that
//! may come later, it says why, and whoever asked computes each t by itself.

use std::collections::BTreeSet;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType};
use datafusion::logical_expr::{
    Aggregate, Expr, Join, LogicalPlan, Projection, Window, WindowFrameBound,
    WindowFunctionDefinition,
};
use granary_model::Definitions;
use granary_model::definitions::Stream;

use crate::engine::AS_OF_FUNCTION;

/// Columns of a plan's output.
pub(crate) type Times = BTreeSet<Column>;

/// Window functions that look at no row behind their own.
const BACKWARD: [&str; 7] = [
    "row_number",
    "rank",
    "dense_rank",
    "lag",
    "first_value",
    "last_value",
    "nth_value",
];

/// The times of a plan that is not optimised, in a session of these
/// definitions that is not cut; else the reason why there are none.
///
/// With `known_at_the_time` created times of relations are among them.
pub(crate) fn availability(
    plan: &LogicalPlan,
    definitions: &Definitions,
    known_at_the_time: bool,
) -> Result<Times, String> {
    let walk = Walk {
        definitions,
        known_at_the_time,
    };
    walk.plan(plan)
}

/// Whether an expression over a plan's rows adds nothing to their times, else
/// the reason why it does.
pub(crate) fn adds_no_time(expression: &Expr, definitions: &Definitions) -> Result<(), String> {
    let walk = Walk {
        definitions,
        known_at_the_time: true,
    };
    walk.no_events_in(expression)
}

struct Walk<'a> {
    definitions: &'a Definitions,
    known_at_the_time: bool,
}

impl Walk<'_> {
    fn plan(&self, plan: &LogicalPlan) -> Result<Times, String> {
        if plan.expressions().iter().any(reads_as_of) {
            return Err("as_of() is another time for each row".into());
        }
        match plan {
            LogicalPlan::TableScan(scan) => Ok(self.relation(plan, scan.table_name.table())),
            LogicalPlan::SubqueryAlias(alias) => {
                let below = self.plan(&alias.input)?;
                let mut times = moved(&alias.input, plan, &below);
                times.extend(self.relation(plan, alias.alias.table()));
                Ok(times)
            }
            LogicalPlan::Projection(projection) => self.projection(projection),
            LogicalPlan::Filter(filter) => {
                self.no_events_in(&filter.predicate)?;
                self.plan(&filter.input)
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.plan(&sort.input),
            LogicalPlan::Repartition(repartition) => self.plan(&repartition.input),
            LogicalPlan::Union(union) => {
                let mut times = Times::new();
                for input in &union.inputs {
                    times.extend(moved(input, plan, &self.plan(input)?));
                }
                Ok(times)
            }
            LogicalPlan::Distinct(datafusion::logical_expr::Distinct::All(input)) => {
                Ok(moved(input, plan, &self.plan(input)?))
            }
            LogicalPlan::Unnest(unnest) => {
                let times = self.plan(&unnest.input)?;
                handed_through(&times, plan)
            }
            LogicalPlan::Join(join) => self.join(join, plan),
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.window(window, plan),
            other => {
                for input in other.inputs() {
                    if !self.plan(input)?.is_empty() {
                        let name = other.display().to_string();
                        let name = name.split([':', ' ']).next().unwrap_or_default();
                        return Err(format!("{name} over events may change with later ones"));
                    }
                }
                Ok(Times::new())
            }
        }
    }

    /// The event time of a table, stream or plain view of that name.
    fn relation(&self, plan: &LogicalPlan, name: &str) -> Times {
        let d = self.definitions;
        let table = d.tables.get(name).and_then(|t| t.event_time.as_ref());
        let view = d.views.get(name).and_then(|v| v.event_time.as_ref());
        let stream = d.streams.get(name).map(Stream::times);
        let declared = table.or(view).or(stream.as_ref());
        let event_time = declared.map(|time| time.event_time.as_str());
        let created_time = declared.and_then(|time| time.created_time.as_deref());
        let created_time = created_time.filter(|_| self.known_at_the_time);
        let times = [event_time, created_time];
        let columns = plan.schema().columns().into_iter();
        columns
            .filter(|c| times.contains(&Some(c.name.as_str())))
            .collect()
    }

    fn projection(&self, projection: &Projection) -> Result<Times, String> {
        for expression in &projection.expr {
            self.no_events_in(expression)?;
        }
        let below = self.plan(&projection.input)?;
        let columns = projection.schema.columns();
        let given = |time: &Column| {
            let place = projection.expr.iter().position(|e| plain(e) == Some(time));
            place.map(|place| columns[place].clone()).ok_or_else(|| {
                format!(
                    "the event time {time} is dropped on the way, so that later rows cannot be told"
                )
            })
        };
        below.iter().map(given).collect()
    }

    fn join(&self, join: &Join, plan: &LogicalPlan) -> Result<Times, String> {
        if let Some(filter) = &join.filter {
            self.no_events_in(filter)?;
        }
        let (left, right) = (self.plan(&join.left)?, self.plan(&join.right)?);
        let later = "a join may find a match that comes later";
        match join.join_type {
            JoinType::Inner => {}
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
                if right.is_empty() => {}
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark
                if left.is_empty() => {}
            JoinType::Full if left.is_empty() && right.is_empty() => {}
            _ => return Err(later.into()),
        }
        let times: Times = left.into_iter().chain(right).collect();
        handed_through(&times, plan)
    }

    /// Rows of one group have one time, or an earlier one of it is still open.
    fn aggregate(&self, aggregate: &Aggregate) -> Result<Times, String> {
        let below = self.plan(&aggregate.input)?;
        let columns = aggregate.schema.columns();
        let given = |time: &Column| {
            let place = aggregate
                .group_expr
                .iter()
                .position(|e| plain(e) == Some(time));
            place
                .map(|place| columns[place].clone())
                .ok_or_else(|| format!("GROUP BY without {time} adds up events of several times"))
        };
        below.iter().map(given).collect()
    }

    /// Frames that end at a row see nothing later, if its time orders them.
    fn window(&self, window: &Window, plan: &LogicalPlan) -> Result<Times, String> {
        let below = self.plan(&window.input)?;
        if below.is_empty() {
            return Ok(below);
        }
        for expression in &window.window_expr {
            if !looks_back(expression, &below) {
                return Err(format!("{expression} may see later events"));
            }
        }
        handed_through(&below, plan)
    }

    /// Subqueries that read events.
    fn no_events_in(&self, expression: &Expr) -> Result<(), String> {
        let mut reads_events = false;
        let walked = expression.apply(|e| {
            let subquery = match e {
                Expr::ScalarSubquery(subquery) => subquery,
                Expr::InSubquery(within) => &within.subquery,
                Expr::Exists(exists) => &exists.subquery,
                _ => return Ok(TreeNodeRecursion::Continue),
            };
            let times = self.plan(&subquery.subquery);
            reads_events |= !times.is_ok_and(|times| times.is_empty());
            Ok(TreeNodeRecursion::Continue)
        });
        match reads_events || walked.is_err() {
            true => Err("a subquery may see later events".into()),
            false => Ok(()),
        }
    }
}

pub(super) fn reads_as_of(expression: &Expr) -> bool {
    let is_call =
        |e: &Expr| Ok(matches!(e, Expr::ScalarFunction(call) if call.name() == AS_OF_FUNCTION));
    expression.exists(is_call).unwrap_or(true)
}

fn looks_back(expression: &Expr, times: &Times) -> bool {
    let Expr::WindowFunction(window) = expression.clone().unalias() else {
        return false;
    };
    let params = &window.params;
    let by_time = times.len() == 1
        && params.order_by.first().is_some_and(|order| {
            order.asc && plain(&order.expr).is_some_and(|column| times.contains(column))
        });
    let backward = match &window.fun {
        WindowFunctionDefinition::WindowUDF(function) => BACKWARD.contains(&function.name()),
        WindowFunctionDefinition::AggregateUDF(_) => true,
    };
    let ended = !matches!(
        params.window_frame.end_bound,
        WindowFrameBound::Following(_)
    );
    by_time && backward && ended
}

/// The same places of another plan's output.
fn moved(from: &LogicalPlan, to: &LogicalPlan, times: &Times) -> Times {
    let (from, to) = (from.schema().columns(), to.schema().columns());
    let pairs = from.into_iter().zip(to);
    pairs
        .filter(|(from, _)| times.contains(from))
        .map(|(_, to)| to)
        .collect()
}

/// Columns that an operator hands through under their own name.
fn handed_through(times: &Times, plan: &LogicalPlan) -> Result<Times, String> {
    match times.iter().find(|time| !plan.schema().has_column(time)) {
        Some(lost) => Err(format!("the event time {lost} is lost on the way")),
        None => Ok(times.clone()),
    }
}

/// The column that an expression merely renames.
fn plain(expression: &Expr) -> Option<&Column> {
    match expression {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => plain(&alias.expr),
        _ => None,
    }
}
