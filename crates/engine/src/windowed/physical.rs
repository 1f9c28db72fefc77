//! From windowed queries to one operator: views over one source share a scan
//! and a sort.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::functions::expr_fn::coalesce;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use granary_model::Interval;
use granary_model::interval::MICROS_PER_DAY;

use super::{Aggregate, WindowedQuery};
use crate::asof::{
    AsOfWindowExec, AsOfWindowSpec, Call, EventSet, FrameBounds, WindowAggregate, event_schema,
};
use crate::check::has_subquery;
use crate::engine::{latest_of, physical_expr, utc_micros};
use crate::shared_scan::SharedScan;

/// Which events a row of the spine sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Seen {
    /// Event time < t rather than <= t.
    pub(crate) strictly_before: bool,
    /// Created at or before t.
    pub(crate) known_at_the_time: bool,
}

/// A query with the columns, besides the event time, before whose times its
/// events were not there.
#[derive(Debug, Clone)]
pub(crate) struct WindowedView {
    pub(crate) query: WindowedQuery,
    pub(crate) also_from: BTreeSet<Column>,
}

/// Views that one operator computes.
#[derive(Debug)]
pub(crate) struct SharedWindows {
    views: Vec<WindowedView>,
}

/// Keys and time of the spine.
#[derive(Debug, Clone)]
pub(crate) struct SpineKeys {
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) time: Arc<dyn PhysicalExpr>,
}

impl SharedWindows {
    pub(crate) fn new(first: WindowedView) -> Self {
        Self { views: vec![first] }
    }

    /// Takes a view in if the operator can compute it beside the others.
    pub(crate) fn share(&mut self, view: WindowedView) -> Option<WindowedView> {
        let first = &self.views[0];
        let (a, b) = (&first.query, &view.query);
        let minded = self.views.iter().any(|v| v.query.minds_order) || b.minds_order;
        let fits = a.events == b.events
            && a.keys == b.keys
            && a.event_time == b.event_time
            && a.created_time == b.created_time
            && first.also_from == view.also_from
            && (!minded || a.then_by == b.then_by)
            && [a, b]
                .iter()
                .all(|q| !q.filter.as_ref().is_some_and(has_subquery));
        if fits {
            self.views.push(view);
            return None;
        }
        Some(view)
    }

    /// Puts the aggregates of all views behind the spine's columns, each under
    /// the name that [`aggregate_name`] gives.
    pub(crate) async fn join(
        &self,
        state: &SessionState,
        spine: Arc<dyn ExecutionPlan>,
        spine_keys: SpineKeys,
        seen: Seen,
        prefix: &str,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let scan = self.scan(state)?;
        let events = scan.physical(state).await?;
        self.join_events(state, spine, (&scan, events), (spine_keys, seen), prefix)
    }

    /// [`Self::join`] with given rows of the scan; of a numbered scan the number
    /// of the spine's row is the last key.
    pub(crate) fn join_events(
        &self,
        state: &SessionState,
        spine: Arc<dyn ExecutionPlan>,
        (scan, events): (&SharedScan, Arc<dyn ExecutionPlan>),
        (spine_keys, seen): (SpineKeys, Seen),
        prefix: &str,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = events.schema();
        let spec = self.spec(state, (scan, &schema), spine_keys, seen, prefix)?;
        let joined = AsOfWindowExec::try_new(spine, events, Arc::new(spec))?;
        Ok(Arc::new(joined))
    }

    /// The events that the views are over.
    pub(crate) fn scan(&self, state: &SessionState) -> Result<SharedScan> {
        let views = self.views.iter();
        let filters: Vec<_> = views.map(|view| view.query.filter.as_ref()).collect();
        SharedScan::plan(state, &self.first().events, &filters, &self.columns())
    }

    /// How far back from t any frame reaches, rounded up; `None`: to the first
    /// event.
    pub(crate) fn reach_micros(&self) -> Option<i64> {
        let queries = self.views.iter().map(|view| &view.query);
        let frames = queries.flat_map(|query| query.aggregates.iter().map(|a| a.frame));
        let starts = frames.map(|frame| match frame.bounds {
            FrameBounds::Range { start, .. } => start.map(longest_micros),
            FrameBounds::Rows { .. } => None,
        });
        starts.collect::<Option<Vec<i64>>>()?.into_iter().max()
    }

    pub(crate) fn first(&self) -> &WindowedQuery {
        &self.views[0].query
    }

    /// The events' columns that any view needs.
    fn columns(&self) -> BTreeSet<Column> {
        let mut read = BTreeSet::new();
        for view in &self.views {
            read.extend(view.query.columns_read());
            read.extend(view.also_from.iter().cloned());
        }
        read
    }

    /// What the operator computes over events of that schema.
    pub(crate) fn spec(
        &self,
        state: &SessionState,
        (scan, events): (&SharedScan, &Schema),
        spine_keys: SpineKeys,
        seen: Seen,
        prefix: &str,
    ) -> Result<AsOfWindowSpec> {
        let schema = with_as_of(scan.schema())?;
        let physical = |e: &Expr| physical_expr(state, e.clone(), &schema);
        let first = self.first();
        let keys = first
            .keys
            .iter()
            .chain(scan.row())
            .map(physical)
            .collect::<Result<Vec<_>>>()?;
        let created = created(first, seen, &self.views[0].also_from);
        let sets = self.views.iter().enumerate().map(|(number, view)| {
            let filter = scan.rest(view.query.filter.as_ref());
            let aggregates = view.query.aggregates.iter();
            let event_schema = event_schema(events);
            let aggregates = aggregates.map(|aggregate| {
                let name = aggregate_name(prefix, number, &aggregate.name);
                windowed(aggregate, name, &physical, event_schema.clone())
            });
            Ok(EventSet {
                filter: filter.map(physical).transpose()?,
                aggregates: aggregates.collect::<Result<_>>()?,
            })
        });
        Ok(AsOfWindowSpec {
            on: spine_keys.keys.into_iter().zip(keys).collect(),
            time: spine_keys.time,
            event_time: physical(&first.event_time)?,
            known_at_the_time: created.is_some(),
            created_time: created.as_ref().map(physical).transpose()?,
            then_by: first.then_by.iter().map(physical).collect::<Result<_>>()?,
            strictly_before: seen.strictly_before,
            sets: sets.collect::<Result<_>>()?,
        })
    }
}

/// At least as long as the interval is anywhere in the calendar.
fn longest_micros(interval: Interval) -> i64 {
    let days = i64::from(interval.days).saturating_add(31 * i64::from(interval.months));
    let days = days.saturating_add(1).saturating_mul(MICROS_PER_DAY);
    days.saturating_add(interval.micros)
}

/// What an aggregate of the view of that number is called behind the spine.
pub(crate) fn aggregate_name(prefix: &str, number: usize, name: &str) -> String {
    format!("{prefix}{number} {name}")
}

fn windowed(
    aggregate: &Aggregate,
    name: String,
    physical: &dyn Fn(&Expr) -> Result<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
) -> Result<WindowAggregate> {
    let arguments = aggregate.arguments.iter().map(physical);
    let call = Call::try_new(
        aggregate.function.clone(),
        arguments.collect::<Result<_>>()?,
        schema,
    )?;
    Ok(WindowAggregate {
        call: call
            .distinct(aggregate.distinct)
            .ignore_nulls(aggregate.ignore_nulls),
        filter: aggregate.filter.as_ref().map(physical).transpose()?,
        frame: aggregate.frame,
        name,
    })
}

/// When an event came to be there, where that is not its event time.
fn created(query: &WindowedQuery, seen: Seen, also_from: &BTreeSet<Column>) -> Option<Expr> {
    let created = query.created_time.clone();
    let created = created.filter(|_| seen.known_at_the_time).map(|created| {
        let event_time = utc_micros(query.event_time.clone());
        coalesce(vec![utc_micros(created), event_time])
    });
    let also_from = also_from.iter().cloned().map(Expr::Column);
    latest_of(created.into_iter().chain(also_from))
}

/// The columns of events with the one that stands for t behind them.
fn with_as_of(events: &DFSchema) -> Result<DFSchema> {
    let mut fields: Vec<_> = events
        .iter()
        .map(|(qualifier, field)| (qualifier.cloned(), field.clone()))
        .collect();
    let all = event_schema(events.as_arrow());
    let as_of = all.fields()[all.fields().len() - 1].clone();
    fields.push((None::<TableReference>, as_of));
    DFSchema::new_with_metadata(fields, Default::default())
}
