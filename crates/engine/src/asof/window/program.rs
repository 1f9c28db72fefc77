//! A spec, compiled: which columns of the events are kept, and for each set of
//! events what is computed in which of three ways.
//!
//! *Plain* aggregates are over ranges of the sorted events. Those that read t
//! are computed *anew* for each t, over copies of the events of its frame. Where
//! an event of a frame was not known yet at t, plain aggregates are too.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::collect_columns;

use super::calls::Calls;
use super::{AsOfWindowSpec, EventSet, WindowAggregate, event_schema};
use crate::asof::frame::{Frame, FrameBounds, Shift};

/// What [`super::AsOfWindowExec`] does, in terms of the columns that it keeps.
#[derive(Debug)]
pub(super) struct Program {
    /// Columns of the events, ascending.
    pub(super) kept: Vec<usize>,
    /// Their fields.
    pub(super) schema: SchemaRef,
    /// The order of events of equal time, where some aggregate minds it.
    pub(super) order: Option<Vec<Arc<dyn PhysicalExpr>>>,
    pub(super) strictly_before: bool,
    /// Created times are kept and compared with t.
    pub(super) known_at_the_time: bool,
    pub(super) sets: Vec<SetProgram>,
    /// How far back from t frames reach; `None`: to the first event.
    pub(super) reach: Option<Vec<Shift>>,
    pub(super) output_count: usize,
}

/// Aggregates over the events that pass one WHERE.
#[derive(Debug)]
pub(super) struct SetProgram {
    /// A WHERE that does not read t, over the kept columns.
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) frames: Vec<Frame>,
    /// Over the kept columns; their frames are places in `frames`.
    pub(super) plain: Calls,
    /// What reads t.
    pub(super) anew: Vec<Anew>,
    /// The plain aggregates once more, a frame each in the order of `frames`:
    /// for times at which some event of the frame was not known yet.
    pub(super) late: Vec<Anew>,
}

/// Aggregates over one frame, computed from copies of its events.
#[derive(Debug)]
pub(super) struct Anew {
    pub(super) frame: Frame,
    /// The kept columns that are copied.
    pub(super) columns: Vec<usize>,
    /// Their fields, and t.
    pub(super) schema: SchemaRef,
    /// A WHERE that reads t.
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    /// Over `schema`, all of frame 0.
    pub(super) calls: Calls,
}

impl Program {
    pub(super) fn new(spec: &AsOfWindowSpec, events: &Schema) -> Result<Self> {
        let as_of = events.fields().len();
        let known_at_the_time = spec.known_at_the_time && spec.created_time.is_some();
        let mut plans = Vec::new();
        let mut output = 0;
        for set in &spec.sets {
            let plan = SetPlan::of(&mut plans, set);
            for aggregate in &set.aggregates {
                plan.add(aggregate, output, as_of);
                output += 1;
            }
        }
        let minds_order = spec.aggregates().any(minds_order);
        let kept: Vec<usize> = match minds_order {
            true => (0..as_of).collect(),
            false => {
                let read = plans.iter().flat_map(SetPlan::expressions);
                columns_of(read, as_of)
            }
        };
        let schema = Arc::new(events.project(&kept)?);
        let to_kept = |e: &Arc<dyn PhysicalExpr>| moved(e, &kept, as_of);
        let order = minds_order.then(|| {
            let columns = schema.fields().iter().enumerate();
            let columns = columns.map(|(at, field)| {
                Ok(Arc::new(Column::new(field.name(), at)) as Arc<dyn PhysicalExpr>)
            });
            spec.then_by.iter().map(to_kept).chain(columns).collect()
        });
        let sets = plans
            .into_iter()
            .map(|plan| plan.compile(&kept, &event_schema(events), known_at_the_time));
        Ok(Self {
            sets: sets.collect::<Result<_>>()?,
            order: order.transpose()?,
            strictly_before: spec.strictly_before,
            known_at_the_time,
            reach: spec.aggregates().map(|a| reach(&a.frame)).collect(),
            output_count: output,
            schema,
            kept,
        })
    }

    /// The first and the last event time that can be seen as of some of these
    /// ascending times.
    pub(super) fn reach(&self, times: &[i64]) -> (i64, i64) {
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return (i64::MAX, i64::MIN);
        };
        let earliest = |shift: &Shift| match shift {
            Shift::Micros(_) => shift.before(*first),
            // Not of the first: 30 March, 5:00, less a month is before
            // 29 March, 10:00, less a month.
            Shift::Calendar(_) => {
                let starts = times.iter().map(|t| shift.before(*t));
                starts.min().unwrap_or(i64::MIN)
            }
        };
        let first = self.reach.as_ref().map_or(i64::MIN, |shifts| {
            shifts.iter().map(earliest).min().unwrap_or(i64::MAX)
        });
        (first, *last)
    }

    /// The outputs of no events, a value each.
    pub(super) fn of_nothing(&self) -> Result<Vec<ArrayRef>> {
        let mut outputs = vec![None; self.output_count];
        for set in &self.sets {
            for calls in set.anew.iter().map(|anew| &anew.calls).chain([&set.plain]) {
                calls.of_nothing(|places, value| {
                    for place in places {
                        outputs[*place] = Some(value.clone());
                    }
                })?;
            }
        }
        let computed = outputs.into_iter().collect::<Option<Vec<_>>>();
        computed.ok_or_else(|| DataFusionError::Internal("an aggregate was left out".into()))
    }

    /// Whether copies of events are made.
    pub(super) fn copies(&self) -> bool {
        self.known_at_the_time || self.sets.iter().any(|set| !set.anew.is_empty())
    }
}

/// Whether the order of events of equal time decides anything.
fn minds_order(aggregate: &WindowAggregate) -> bool {
    let ranked = matches!(aggregate.frame.bounds, FrameBounds::Rows { .. });
    ranked || aggregate.frame.events_max.is_some() || aggregate.call.minds_order()
}

fn reach(frame: &Frame) -> Option<Shift> {
    match frame.bounds {
        FrameBounds::Range { start, .. } => start.map(Shift::new),
        FrameBounds::Rows { .. } => None,
    }
}

/// Sets of one WHERE, over the columns of the events.
struct SetPlan {
    filter: Option<Arc<dyn PhysicalExpr>>,
    frames: Vec<Frame>,
    plain: Calls,
    /// By frame, like `plain`.
    anew: Vec<Calls>,
    /// The plain ones by frame.
    late: Vec<Calls>,
}

impl SetPlan {
    /// The plan of the set's WHERE, a new one if need be.
    fn of<'a>(plans: &'a mut Vec<Self>, set: &EventSet) -> &'a mut Self {
        let known = plans.iter().position(|plan| plan.filter == set.filter);
        let at = known.unwrap_or_else(|| {
            plans.push(Self {
                filter: set.filter.clone(),
                frames: Vec::new(),
                plain: Calls::default(),
                anew: Vec::new(),
                late: Vec::new(),
            });
            plans.len() - 1
        });
        &mut plans[at]
    }

    fn add(&mut self, aggregate: &WindowAggregate, output: usize, as_of: usize) {
        let known = self.frames.iter().position(|f| *f == aggregate.frame);
        let frame = known.unwrap_or_else(|| {
            self.frames.push(aggregate.frame);
            self.anew.push(Calls::default());
            self.late.push(Calls::default());
            self.frames.len() - 1
        });
        let mut read = aggregate.call.arguments.iter().chain(&aggregate.filter);
        let read = read.any(|e| reads(e, as_of));
        if read || self.filter.as_ref().is_some_and(|e| reads(e, as_of)) {
            self.anew[frame].add(aggregate, 0, output);
        } else {
            self.plain.add(aggregate, frame, output);
            self.late[frame].add(aggregate, 0, output);
        }
    }

    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let anew = self.anew.iter().flat_map(Calls::expressions);
        self.filter
            .iter()
            .chain(self.plain.expressions())
            .chain(anew)
    }

    fn compile(
        self,
        kept: &[usize],
        events: &Schema,
        known_at_the_time: bool,
    ) -> Result<SetProgram> {
        let as_of = events.fields().len() - 1;
        let to_kept = |e: &Arc<dyn PhysicalExpr>| moved(e, kept, as_of);
        let (as_of_filter, filter) = match self.filter {
            Some(filter) if reads(&filter, as_of) => (Some(filter), None),
            filter => (None, filter),
        };
        let compile = |(frame, calls): (&Frame, Calls)| {
            Anew::compile(*frame, as_of_filter.as_ref(), calls, kept, events)
        };
        let anew = self.frames.iter().zip(self.anew);
        let anew = anew.filter(|(_, calls)| !calls.is_empty()).map(compile);
        let late = self.frames.iter().zip(self.late).map(compile);
        Ok(SetProgram {
            anew: anew.collect::<Result<_>>()?,
            late: match known_at_the_time {
                true => late.collect::<Result<_>>()?,
                false => Vec::new(),
            },
            filter: filter.as_ref().map(to_kept).transpose()?,
            plain: self.plain.moved(to_kept)?,
            frames: self.frames,
        })
    }
}

impl Anew {
    fn compile(
        frame: Frame,
        filter: Option<&Arc<dyn PhysicalExpr>>,
        calls: Calls,
        kept: &[usize],
        events: &Schema,
    ) -> Result<Self> {
        let as_of = events.fields().len() - 1;
        let read = columns_of(filter.into_iter().chain(calls.expressions()), as_of);
        let mut fields = read.clone();
        fields.push(as_of);
        let to_copied = |e: &Arc<dyn PhysicalExpr>| moved(e, &read, as_of);
        let place = |column: &usize| kept.iter().position(|kept| kept == column);
        Ok(Self {
            frame,
            columns: read.iter().filter_map(place).collect(),
            schema: Arc::new(events.project(&fields)?),
            filter: filter.map(to_copied).transpose()?,
            calls: calls.moved(to_copied)?,
        })
    }
}

fn reads(expression: &Arc<dyn PhysicalExpr>, column: usize) -> bool {
    let columns = collect_columns(expression);
    columns.iter().any(|read| read.index() == column)
}

/// The columns that expressions read, ascending, but for t.
fn columns_of<'a>(
    expressions: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>,
    as_of: usize,
) -> Vec<usize> {
    let columns = expressions.flat_map(collect_columns);
    let mut columns: Vec<usize> = columns.map(|column| column.index()).collect();
    columns.retain(|column| *column != as_of);
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// The expression over some of the columns, behind which t is.
fn moved(
    expression: &Arc<dyn PhysicalExpr>,
    columns: &[usize],
    as_of: usize,
) -> Result<Arc<dyn PhysicalExpr>> {
    let move_column = |expression: Arc<dyn PhysicalExpr>| {
        let Some(column) = expression.downcast_ref::<Column>() else {
            return Ok(Transformed::no(expression));
        };
        let place = match column.index() == as_of {
            true => Some(columns.len()),
            false => columns.iter().position(|kept| *kept == column.index()),
        };
        let place = place.ok_or_else(|| {
            DataFusionError::Internal(format!("{column} of the events was not kept"))
        })?;
        let moved = Column::new(column.name(), place);
        Ok(Transformed::yes(Arc::new(moved) as Arc<dyn PhysicalExpr>))
    };
    expression.clone().transform(move_column).data()
}
