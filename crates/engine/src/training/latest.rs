//! Views that are joined by their newest row. Timestamped views over one
//! relation share a scan of it, in which each finds its own row.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as Position;
use datafusion::physical_plan::ExecutionPlan;
use granary_model::{Definitions, FeatureView, Interval, UtcMicros, ViewKind};

use super::availability::{Times, adds_no_time, availability, reads_as_of};
use super::chain::{Chain, Found, Wanted, failed, status_name};
use super::each_time::COMPUTED_AS_OF;
use super::requests::{OfRows, ROW, Stored};
use crate::asof::{AsOfJoinExec, AsOfJoinSpec, AsOfLookup, Match, Value};
use crate::check::has_subquery;
use crate::engine::{latest_of, physical_expr, utc_micros_function};
use crate::error::EngineError;
use crate::run::row_columns;
use crate::shared_scan::SharedScan;
use crate::windowed::no_later;

/// The query of a timestamped view: rows of a relation, one by one.
pub(super) struct TimestampedQuery {
    /// What stands in FROM, without WHERE; of a query of any other form the whole.
    relation: LogicalPlan,
    filter: Option<Expr>,
    /// The columns of the view's `row_schema`, over the relation.
    columns: Vec<(String, Expr)>,
    /// Columns of the relation, besides the event time, before whose times its
    /// rows were not there.
    also_from: Times,
}

/// Timestamped views that one operator computes.
pub(super) struct SharedLatest<'a> {
    views: Vec<(Wanted<'a>, TimestampedQuery)>,
}

/// Rows in which views are looked up.
pub(super) struct Rows {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    pub(super) matching: Match,
    /// Which row of the spine each is for, where it is for one only.
    pub(super) row: Option<Arc<dyn PhysicalExpr>>,
}

/// How a view is found among [`Rows`].
pub(super) struct Newest<'v> {
    /// By name.
    pub(super) columns: BTreeMap<String, Arc<dyn PhysicalExpr>>,
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) event_time: &'v str,
    pub(super) created_time: Option<&'v str>,
    pub(super) seen_from: Option<Arc<dyn PhysicalExpr>>,
    /// How old, at t, the event time may be.
    pub(super) ttl: Option<Interval>,
}

impl TimestampedQuery {
    /// `plan`: of the view's query, its types settled.
    pub(super) fn of(view: &FeatureView, plan: LogicalPlan) -> Result<Self, EngineError> {
        let failed = failed(&view.name);
        let columns = row_columns(view, plan.schema())?;
        let columns = columns.into_iter().map(|column| {
            let name = column.schema_name().to_string();
            (name, column.unalias())
        });
        let whole = Self {
            columns: columns.collect(),
            relation: plan,
            filter: None,
            also_from: Times::new(),
        };
        whole.row_by_row().map_err(failed)
    }

    /// Finds from when on the relation's rows are there, if one pass answers
    /// for every t; else why it does not.
    pub(super) fn in_one_pass(
        mut self,
        view: &FeatureView,
        definitions: &Definitions,
        known_at_the_time: bool,
    ) -> Result<Self, String> {
        self.also_from = availability(&self.relation, definitions, known_at_the_time)?;
        for (name, expression) in &self.columns {
            if Some(name) == view.event_time.as_ref()
                && let Some(Expr::Column(time)) = without_conversion(expression)
            {
                self.also_from.remove(time);
            }
        }
        let columns = self.columns.iter().map(|(_, column)| column);
        for expression in columns.chain(&self.filter) {
            adds_no_time(expression, definitions)?;
            if reads_as_of(expression) {
                return Err("as_of() is another time for each row".into());
            }
        }
        Ok(self)
    }

    /// The same query without rows that were created after a time.
    pub(super) fn known_at(mut self, view: &FeatureView, known_at: Option<UtcMicros>) -> Self {
        let mut columns = self.columns.iter();
        let created = columns.find(|(name, _)| Some(name) == view.created_time.as_ref());
        if let (Some(known_at), Some((_, created))) = (known_at, created) {
            let known = no_later(created.clone(), known_at);
            self.filter = Some(match self.filter.take() {
                Some(filter) => filter.and(known),
                None => known,
            });
        }
        self
    }

    /// Takes SELECT and WHERE off the relation, where they work row by row.
    fn row_by_row(mut self) -> PlanResult<Self> {
        let LogicalPlan::Projection(select) = &self.relation else {
            return Ok(self);
        };
        if select.expr.iter().any(has_subquery) {
            return Ok(self);
        }
        for (_, column) in &mut self.columns {
            *column = selected(std::mem::take(column), select)?;
        }
        let below = select.input.clone();
        self.relation = match below.as_ref() {
            LogicalPlan::Filter(filter) if !has_subquery(&filter.predicate) => {
                self.filter = Some(filter.predicate.clone());
                filter.input.as_ref().clone()
            }
            other => other.clone(),
        };
        Ok(self)
    }

    fn reads(&self) -> impl Iterator<Item = &Column> {
        let columns = self.columns.iter().map(|(_, column)| column);
        let read = columns.chain(&self.filter).flat_map(Expr::column_refs);
        read.chain(&self.also_from)
    }

    /// The greatest of the times before which the rows were not there.
    fn seen_from(&self) -> Option<Expr> {
        latest_of(self.also_from.iter().cloned().map(Expr::Column))
    }

    fn column(&self, name: &str) -> PlanResult<&Expr> {
        let mut columns = self.columns.iter();
        let found = columns.find(|(known, _)| known == name);
        let missing = || DataFusionError::Plan(format!("there is no column {name:?}"));
        found.map(|(_, column)| column).ok_or_else(missing)
    }

    fn keys(&self, view: &FeatureView) -> &[(String, Expr)] {
        &self.columns[..view.keys.len()]
    }
}

/// What is converted to TIMESTAMP, of a time.
fn without_conversion(expression: &Expr) -> Option<&Expr> {
    match expression {
        Expr::ScalarFunction(call) if call.func == utc_micros_function() => call.args.first(),
        other => Some(other),
    }
}

/// An expression over what is selected, as one over what it is selected from.
fn selected(column: Expr, select: &Projection) -> PlanResult<Expr> {
    let outputs = select.schema.columns().into_iter().zip(&select.expr);
    let outputs: HashMap<Column, &Expr> = outputs.collect();
    let replaced = column.transform_up(|e| {
        let output = match &e {
            Expr::Column(column) => outputs.get(column),
            _ => None,
        };
        Ok(match output {
            Some(output) => Transformed::yes((*output).clone().unalias()),
            None => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}

impl<'a> SharedLatest<'a> {
    /// Puts a view among those that it can share a scan with.
    pub(super) fn add(all: &mut Vec<Self>, wanted: Wanted<'a>, query: TimestampedQuery) {
        let shares = |shared: &&mut Self| {
            let (first, of_first) = &shared.views[0];
            first.key_names == wanted.key_names
                && first.refreshed_every == wanted.refreshed_every
                && first.moment == wanted.moment
                && first.view.is_live() == wanted.view.is_live()
                && of_first.relation == query.relation
                && of_first.keys(first.view) == query.keys(wanted.view)
        };
        match all.iter_mut().find(shares) {
            Some(shared) => shared.views.push((wanted, query)),
            None => all.push(Self {
                views: vec![(wanted, query)],
            }),
        }
    }
}

/// The column with the event time of what was found.
fn found_at(alias: &str) -> String {
    format!("{} at", status_name(alias))
}

impl Rows {
    /// The columns as they are.
    pub(super) fn columns(&self) -> BTreeMap<String, Arc<dyn PhysicalExpr>> {
        let schema = self.plan.schema();
        let fields = schema.fields().iter().enumerate();
        let columns = fields.map(|(place, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Position::new(field.name(), place));
            (field.name().clone(), column)
        });
        columns.collect()
    }
}

impl Newest<'_> {
    fn column(&self, name: &str) -> PlanResult<Arc<dyn PhysicalExpr>> {
        let column = self.columns.get(name).cloned();
        column.ok_or_else(|| DataFusionError::Plan(format!("there is no column {name:?}")))
    }
}

impl<'a> Chain<'a> {
    /// Puts the newest rows of views that share a scan behind the chain.
    pub(super) async fn join_shared(
        &mut self,
        shared: SharedLatest<'a>,
    ) -> Result<(), EngineError> {
        let (first, of_first) = &shared.views[0];
        let failed = failed(&first.view.name);
        let queries = || shared.views.iter().map(|(_, query)| query);
        let filters: Vec<_> = queries().map(|query| query.filter.as_ref()).collect();
        let read: BTreeSet<Column> = queries()
            .flat_map(TimestampedQuery::reads)
            .cloned()
            .collect();
        let scan = SharedScan::plan(&self.state, &of_first.relation, &filters, &read);
        let scan = scan.map_err(&failed)?;
        let event_time = first.view.event_time.as_deref().unwrap_or_default();
        let stored = Stored {
            keys: of_first.keys(first.view).iter().map(|(_, k)| k).collect(),
            event_time: of_first.column(event_time).map_err(&failed)?,
            reach: None,
        };
        let (scan, plan) = match self.of_rows(first, scan, stored).await? {
            Ok(OfRows { scan, events }) => (scan, events),
            Err(scan) => {
                let events = scan.physical(&self.state).await.map_err(&failed)?;
                (scan, events)
            }
        };
        let physical = |e: &Expr| physical_expr(&self.state, e.clone(), scan.schema());
        let newest = shared.views.iter().map(|(wanted, query)| {
            let columns = query.columns.iter();
            let columns = columns.map(|(name, column)| Ok((name.clone(), physical(column)?)));
            let filter = scan.rest(query.filter.as_ref());
            let newest = Newest {
                columns: columns.collect::<PlanResult<_>>()?,
                filter: filter.map(physical).transpose()?,
                event_time: wanted.view.event_time.as_deref().unwrap_or_default(),
                created_time: wanted.view.created_time.as_deref(),
                seen_from: query.seen_from().as_ref().map(physical).transpose()?,
                ttl: wanted.view.ttl,
            };
            Ok((wanted, newest))
        });
        let newest: Vec<_> = newest.collect::<PlanResult<_>>().map_err(&failed)?;
        let rows = Rows {
            plan,
            matching: Match::Latest,
            row: scan.row().map(physical).transpose().map_err(&failed)?,
        };
        self.join_latest(rows, &newest)
    }

    /// Puts the newest row of each view behind the chain. The views have the
    /// same keys, from the same columns.
    pub(super) fn join_latest(
        &mut self,
        rows: Rows,
        views: &[(&Wanted<'a>, Newest<'_>)],
    ) -> Result<(), EngineError> {
        let (wanted, first) = &views[0];
        let failed = failed(&wanted.view.name);
        let keys = wanted.view.keys.iter().map(|key| first.column(&key.name));
        let keys = keys.collect::<PlanResult<Vec<_>>>().map_err(&failed)?;
        let t = self.time_of(wanted)?;
        let lookups = views
            .iter()
            .map(|(wanted, newest)| self.lookup(wanted, newest));
        let options = self.request.options;
        let of_rows = rows.row.is_some();
        let mut on: Vec<_> = wanted.keys.iter().cloned().zip(keys).collect();
        if let Some(row) = rows.row {
            on.push((self.column(ROW)?, row));
        }
        let spec = AsOfJoinSpec {
            on,
            time: self.column(&t)?,
            refreshed_every: wanted.refreshed_every,
            // What is computed as of t, or found for one row, is what may be seen.
            strictly_before: options.strictly_before
                && first.event_time != COMPUTED_AS_OF
                && !of_rows,
            known_at_the_time: self.known_at_its_time(wanted),
            matching: rows.matching,
            lookups: lookups.collect::<PlanResult<_>>().map_err(&failed)?,
        };
        let joined = AsOfJoinExec::try_new(self.plan.clone(), rows.plan, Arc::new(spec));
        self.plan = Arc::new(joined.map_err(&failed)?);
        for (wanted, _) in views {
            let features = wanted.features.iter();
            let values = features.map(|f| ((*f).to_owned(), self.working(wanted, f)));
            let found = Found {
                values: values.collect(),
                status: status_name(wanted.alias),
            };
            self.give(wanted.alias, found);
        }
        for (wanted, newest) in views {
            if let (Some(ttl), Some(_)) = (newest.ttl, wanted.moment.as_of) {
                self.expire(wanted, ttl, &found_at(wanted.alias))?;
            }
        }
        Ok(())
    }

    fn lookup(&self, wanted: &Wanted<'_>, newest: &Newest<'_>) -> PlanResult<AsOfLookup> {
        let view = wanted.view;
        let mut values = self.times_as_values(wanted, newest)?;
        for decides in view.then_by.iter().chain(&view.features) {
            let asked = wanted.features.contains(decides.name.as_str());
            values.push(Value {
                expression: newest.column(&decides.name)?,
                name: asked.then(|| self.working(wanted, &decides.name)),
            });
        }
        let created_time = newest.created_time.map(|created| newest.column(created));
        let status_name = status_name(wanted.alias);
        Ok(AsOfLookup {
            filter: newest.filter.clone(),
            event_time: newest.column(newest.event_time)?,
            created_time: created_time.transpose()?,
            seen_from: newest.seen_from.clone(),
            values,
            // Beyond its own time an age is told behind the operator.
            ttl: newest.ttl.filter(|_| wanted.moment.as_of.is_none()),
            event_time_name: found_at(wanted.alias),
            status_name,
        })
    }

    /// Of rows that were computed as of t: the created time, which decides
    /// between those of one event time, and the event time to tell their age.
    fn times_as_values(&self, wanted: &Wanted<'_>, newest: &Newest<'_>) -> PlanResult<Vec<Value>> {
        let view = wanted.view;
        let mut values = Vec::new();
        let own_time = view.event_time.as_ref();
        let own_time = own_time.filter(|_| view.kind == ViewKind::Timestamped);
        if let (COMPUTED_AS_OF, Some(event_time)) = (newest.event_time, own_time) {
            if let Some(created) = &view.created_time {
                values.push(Value {
                    expression: newest.column(created)?,
                    name: None,
                });
            }
            values.push(Value {
                expression: newest.column(event_time)?,
                name: Some(self.working(wanted, event_time)),
            });
        }
        Ok(values)
    }
}
