//! A windowed view's query, taken apart: the events that it reads, aggregates
//! over frames of them as of t, and what is selected of the aggregates.
//!
//! Runs and training sets compute the same [`WindowedQuery`]; only where their
//! times t come from differs. The form was checked at `apply`
//! (`crate::check::windowed`), so that a query that does not fit is an error
//! that says to apply again.

mod physical;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, plan_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::utils::COUNT_STAR_EXPANSION;
use datafusion::logical_expr::{
    AggregateUDF, Expr, LogicalPlan, Projection, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition, lit,
};
use datafusion::scalar::ScalarValue;
use datafusion::sql::unparser::expr_to_sql;
use granary_model::definitions::WindowAggregate;
use granary_model::{FeatureView, Interval, UtcMicros};

use crate::asof::{AS_OF_COLUMN, Frame, FrameBounds};
use crate::engine::{AS_OF_FUNCTION, plan_sql, utc_micros};
use crate::offline::read::time_scalar;

pub(crate) use physical::{Seen, SharedWindows, SpineKeys, WindowedView, aggregate_name};

/// Aggregates whose result does not depend on the order of the rows.
const UNORDERED: [&str; 24] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "var",
    "var_pop",
    "stddev",
    "stddev_pop",
    "median",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "corr",
    "covar",
    "covar_samp",
    "covar_pop",
    "approx_distinct",
    "top_k",
    "top_share",
    "decayed_latest",
    "entropy",
];

/// The query of a windowed view. Expressions of events are over the schema of
/// [`Self::events`]; in all of them t is the column [`AS_OF_COLUMN`].
#[derive(Debug, Clone)]
pub(crate) struct WindowedQuery {
    /// What stands in FROM, without WHERE.
    pub(crate) events: LogicalPlan,
    /// WHERE.
    pub(crate) filter: Option<Expr>,
    /// Of the view's keys, in their order.
    pub(crate) keys: Vec<Expr>,
    pub(crate) event_time: Expr,
    pub(crate) created_time: Option<Expr>,
    /// What orders events of equal time: THEN BY, then every column that the
    /// view reads, in the order of the table.
    pub(crate) then_by: Vec<Expr>,
    /// Whether a value depends on the order of events of equal time.
    pub(crate) minds_order: bool,
    pub(crate) aggregates: Vec<Aggregate>,
    /// The features, in the view's order, over the aggregates' names.
    pub(crate) outputs: Vec<Expr>,
}

/// One aggregate function OVER a frame.
#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    pub(crate) name: String,
    pub(crate) function: Arc<AggregateUDF>,
    pub(crate) arguments: Vec<Expr>,
    pub(crate) distinct: bool,
    pub(crate) ignore_nulls: bool,
    pub(crate) filter: Option<Expr>,
    pub(crate) frame: Frame,
}

impl WindowedQuery {
    /// Plans the view's query in a session in which its names stand.
    pub(crate) async fn of(state: &SessionState, view: &FeatureView) -> Result<Self> {
        let plan = plan_sql(state, &view.query).await?;
        Self::take_apart(state, view, &plan)
    }

    /// `plan`: of the view's query, its types settled.
    pub(crate) fn take_apart(
        state: &SessionState,
        view: &FeatureView,
        plan: &LogicalPlan,
    ) -> Result<Self> {
        let LogicalPlan::Projection(select) = plan else {
            return plan_err!("{} is no SELECT over windows", view.name);
        };
        let mut windows = Windows::default();
        let mut below = select.input.as_ref();
        while let LogicalPlan::Window(window) = below {
            let outputs = window.schema.columns();
            let first = outputs.len() - window.window_expr.len();
            for (expression, column) in window.window_expr.iter().zip(&outputs[first..]) {
                windows.add(state, view, expression, column)?;
            }
            below = window.input.as_ref();
        }
        let (filter, events) = match below {
            LogicalPlan::Filter(filter) => (
                Some(filter.predicate.clone()),
                filter.input.as_ref().clone(),
            ),
            other => (None, other.clone()),
        };
        let keys = keys(view, select)?;
        let column = |name: &str| column_of(&events, name);
        let event_time = match &view.event_time {
            Some(name) => column(name)?,
            None => return plan_err!("{} has no EVENT TIME", view.name),
        };
        let created_time = view.created_time.as_deref().map(column).transpose()?;
        let mut query = Self {
            filter: filter.map(with_as_of_column).transpose()?,
            keys,
            created_time,
            then_by: Vec::new(),
            minds_order: windows.aggregates.iter().any(Aggregate::minds_order),
            outputs: outputs(view, select, &windows, &event_time)?,
            event_time,
            aggregates: windows.aggregates,
            events,
        };
        let named = view
            .then_by
            .iter()
            .map(|c| column_of(&query.events, &c.name));
        query.then_by = named.collect::<Result<_>>()?;
        let read = query.columns_read().into_iter().map(Expr::Column);
        query.then_by.extend(read);
        Ok(query)
    }

    /// The same query without events that were created after a time.
    pub(crate) fn known_at(mut self, known_at: Option<UtcMicros>) -> Self {
        if let (Some(known_at), Some(created)) = (known_at, &self.created_time) {
            let known = no_later(created.clone(), known_at);
            self.filter = Some(match self.filter.take() {
                Some(filter) => filter.and(known),
                None => known,
            });
        }
        self
    }

    /// The same query with one time for t.
    pub(crate) fn at(mut self, t: UtcMicros) -> Result<Self> {
        let at = |expression: &mut Expr| -> Result<()> {
            let replaced = std::mem::take(expression).transform_up(|e| {
                Ok(match &e {
                    Expr::Column(column) if column.name == AS_OF_COLUMN => {
                        Transformed::yes(lit(time_scalar(t)))
                    }
                    _ => Transformed::no(e),
                })
            });
            *expression = replaced?.data;
            Ok(())
        };
        self.filter.iter_mut().try_for_each(at)?;
        self.keys.iter_mut().try_for_each(at)?;
        self.outputs.iter_mut().try_for_each(at)?;
        for aggregate in &mut self.aggregates {
            aggregate.arguments.iter_mut().try_for_each(at)?;
            aggregate.filter.iter_mut().try_for_each(at)?;
        }
        Ok(self)
    }

    /// The columns of the events that the view reads, in their order there.
    pub(crate) fn columns_read(&self) -> Vec<Column> {
        let mut read: BTreeSet<&Column> = BTreeSet::new();
        for expression in self.event_expressions() {
            read.extend(expression.column_refs());
        }
        let columns = self.events.schema().columns();
        columns.into_iter().filter(|c| read.contains(c)).collect()
    }

    fn event_expressions(&self) -> impl Iterator<Item = &Expr> {
        let aggregates = self.aggregates.iter();
        let of_aggregates = aggregates.flat_map(|a| a.arguments.iter().chain(&a.filter));
        let all = self.keys.iter().chain([&self.event_time]);
        all.chain(&self.created_time)
            .chain(&self.then_by)
            .chain(&self.filter)
            .chain(of_aggregates)
    }

    /// How far back the frames reach; `None`: to the first event.
    pub(crate) fn reach(&self) -> Option<Vec<Interval>> {
        let starts = self.aggregates.iter().map(|a| match a.frame.bounds {
            FrameBounds::Range { start, .. } => start,
            FrameBounds::Rows { .. } => None,
        });
        starts.collect()
    }

    /// The aggregates in words, for `plan` and `describe`.
    pub(crate) fn described(&self) -> Vec<WindowAggregate> {
        let described = self.aggregates.iter().map(|aggregate| WindowAggregate {
            aggregate: aggregate.to_string(),
            frame: aggregate.frame.to_string(),
        });
        described.collect()
    }
}

impl Aggregate {
    fn minds_order(&self) -> bool {
        let counts_events = matches!(self.frame.bounds, FrameBounds::Rows { .. })
            || self.frame.events_max.is_some();
        counts_events || !UNORDERED.contains(&self.function.name())
    }
}

impl std::fmt::Display for Aggregate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A decayed sum is aggregated as of the newest event, whose time SQL leaves out.
        let (name, shown) = match self.function.name() {
            "decayed_latest" => ("decayed_sum", &self.arguments[..2]),
            name => (name, self.arguments.as_slice()),
        };
        let arguments: Vec<String> = match (name, shown) {
            ("count", [argument]) if *argument == lit(COUNT_STAR_EXPANSION) => vec!["*".into()],
            _ => shown.iter().map(as_sql).collect(),
        };
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        write!(f, "{name}({distinct}{})", arguments.join(", "))?;
        if self.ignore_nulls {
            f.write_str(" IGNORE NULLS")?;
        }
        match &self.filter {
            Some(filter) => write!(f, " FILTER (WHERE {})", as_sql(filter)),
            None => Ok(()),
        }
    }
}

/// An expression of an event as SQL has it, its columns by their names alone.
fn as_sql(expression: &Expr) -> String {
    let unqualified = expression.clone().transform_up(|e| {
        Ok(match e {
            Expr::Column(column) => {
                Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))
            }
            other => Transformed::no(other),
        })
    });
    let sql = unqualified.and_then(|e| expr_to_sql(&e.data));
    let text = match sql {
        Ok(sql) => sql.to_string(),
        Err(_) => expression.human_display().to_string(),
    };
    text.replace(AS_OF_COLUMN, "as_of()")
}

/// The window expressions of a query, and what their columns are called.
#[derive(Default)]
struct Windows {
    aggregates: Vec<Aggregate>,
    names: HashMap<Column, String>,
}

impl Windows {
    fn add(
        &mut self,
        state: &SessionState,
        view: &FeatureView,
        expression: &Expr,
        column: &Column,
    ) -> Result<()> {
        let Expr::WindowFunction(window) = expression.clone().unalias() else {
            return plan_err!("{expression} is no window function");
        };
        let name = format!("window {}", self.aggregates.len());
        self.names.insert(column.clone(), name.clone());
        self.aggregates.push(aggregate(state, view, *window, name)?);
        Ok(())
    }
}

fn aggregate(
    state: &SessionState,
    view: &FeatureView,
    window: WindowFunction,
    name: String,
) -> Result<Aggregate> {
    let params = window.params;
    let function = match window.fun {
        WindowFunctionDefinition::AggregateUDF(function) => function,
        // The same functions, which SQL knows as window functions too.
        WindowFunctionDefinition::WindowUDF(function) => {
            let name = function.name();
            let known = state.aggregate_functions().get(name).cloned();
            known.ok_or_else(|| DataFusionError::Plan(format!("{name} is no aggregate")))?
        }
    };
    let arguments = params.args.into_iter().map(with_as_of_column);
    Ok(Aggregate {
        name,
        function,
        arguments: arguments.collect::<Result<_>>()?,
        distinct: params.distinct,
        ignore_nulls: params.null_treatment == Some(NullTreatment::IgnoreNulls),
        filter: params.filter.map(|f| with_as_of_column(*f)).transpose()?,
        frame: Frame {
            bounds: bounds(&params.window_frame)?,
            events_max: view.max_events,
        },
    })
}

fn bounds(frame: &WindowFrame) -> Result<FrameBounds> {
    let past = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Following(_) => plan_err!("a frame ends after t: {frame}"),
        WindowFrameBound::CurrentRow => Ok(Some(None)),
        WindowFrameBound::Preceding(distance) if distance.is_null() => Ok(None),
        WindowFrameBound::Preceding(distance) => Ok(Some(Some(distance.clone()))),
    };
    let never = |bound: &str| DataFusionError::Plan(format!("a frame ends at {bound}"));
    let start = past(&frame.start_bound)?;
    let end = past(&frame.end_bound)?.ok_or_else(|| never("UNBOUNDED PRECEDING"))?;
    match frame.units {
        WindowFrameUnits::Range => Ok(FrameBounds::Range {
            start: start.map(interval).transpose()?,
            end: interval(end)?,
        }),
        WindowFrameUnits::Rows => Ok(FrameBounds::Rows {
            start: start.map(count).transpose()?,
            end: count(end)?,
        }),
        WindowFrameUnits::Groups => plan_err!("GROUPS frames are not served"),
    }
}

fn interval(distance: Option<ScalarValue>) -> Result<Interval> {
    let distance = match distance {
        None => return Ok(Interval::ZERO),
        Some(ScalarValue::IntervalMonthDayNano(Some(distance))) => distance,
        Some(other) => return plan_err!("{other} is no INTERVAL"),
    };
    if distance.nanoseconds % 1_000 != 0 {
        return plan_err!("a frame is finer than a microsecond");
    }
    let interval = Interval {
        months: distance.months,
        days: distance.days,
        micros: distance.nanoseconds / 1_000,
    };
    if interval != Interval::ZERO && !interval.is_positive() {
        return plan_err!("a frame reaches {interval} back: a negative PRECEDING is FOLLOWING");
    }
    Ok(interval)
}

fn count(distance: Option<ScalarValue>) -> Result<u64> {
    match distance {
        None => Ok(0),
        Some(ScalarValue::UInt64(Some(count))) => Ok(count),
        Some(other) => plan_err!("{other} is no number of rows"),
    }
}

/// The expressions that are named as the view's keys.
fn keys(view: &FeatureView, select: &Projection) -> Result<Vec<Expr>> {
    let key = |key: &granary_model::definitions::Column| {
        let place = select.schema.index_of_column_by_name(None, &key.name);
        match place {
            Some(place) => with_as_of_column(select.expr[place].clone().unalias()),
            None => plan_err!("{} does not select its key {}", view.name, key.name),
        }
    };
    view.keys.iter().map(key).collect()
}

/// The selected expressions of the features, over the aggregates' names. The
/// event time of the virtual row (key, t) is t: `decayed_sum` reads it there.
fn outputs(
    view: &FeatureView,
    select: &Projection,
    windows: &Windows,
    event_time: &Expr,
) -> Result<Vec<Expr>> {
    let output = |feature: &granary_model::definitions::Column| {
        let Some(place) = select.schema.index_of_column_by_name(None, &feature.name) else {
            return plan_err!("{} does not select {}", view.name, feature.name);
        };
        let named = select.expr[place].clone().unalias().transform_up(|e| {
            Ok(match &e {
                Expr::Column(column) => match windows.names.get(column) {
                    Some(name) => Transformed::yes(Expr::Column(Column::new_unqualified(name))),
                    None if e == *event_time => Transformed::yes(as_of_column()),
                    None => Transformed::no(e),
                },
                _ => Transformed::no(e),
            })
        });
        with_as_of_column(named?.data)
    };
    view.features.iter().map(output).collect()
}

/// A column of the events by its name alone.
fn column_of(events: &LogicalPlan, name: &str) -> Result<Expr> {
    let columns = events.schema().columns();
    let found = columns.into_iter().find(|column| column.name == name);
    found
        .map(Expr::Column)
        .ok_or_else(|| DataFusionError::Plan(format!("the events have no column {name:?}")))
}

/// Whether a created time is at or before another; NULL, the event time, is.
pub(crate) fn no_later(created: Expr, known_at: UtcMicros) -> Expr {
    let known = utc_micros(created.clone()).lt_eq(lit(time_scalar(known_at)));
    known.or(created.is_null())
}

/// Puts the column that stands for t in the place of `as_of()`.
pub(crate) fn with_as_of_column(expression: Expr) -> Result<Expr> {
    let replaced = expression.transform_up(|e| {
        Ok(match &e {
            Expr::ScalarFunction(call) if call.name() == AS_OF_FUNCTION => {
                Transformed::yes(as_of_column())
            }
            _ => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}

pub(crate) fn as_of_column() -> Expr {
    Expr::Column(Column::new_unqualified(AS_OF_COLUMN))
}
