//! One level of a chain: every view whose keys are there, each by the operator
//! of its kind.

use std::sync::Arc;

use datafusion::common::Column as Name;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, ScalarUDF, cast, lit, when};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::scalar::ScalarValue;
use granary_model::definitions::ServeMode;
use granary_model::{FeatureStatus, FeatureView, Interval, UtcMicros, ViewKind};

use super::availability::{adds_no_time, availability};
use super::chain::{Chain, Found, T, WORKING, Wanted, failed, name, status_name};
use super::each_time::{COMPUTED_AS_OF, EachTime};
use super::latest::{Newest, Rows, SharedLatest, TimestampedQuery};
use super::requests::{OfRows, ROW, Stored};
use super::runs::{self, Runs};
use super::time::SpineTime;
use crate::asof::{AS_OF_COLUMN, Match, Run};
use crate::engine::plan_sql;
use crate::error::EngineError;
use crate::windowed::{
    Seen, SharedWindows, SpineKeys, WindowedQuery, WindowedView, aggregate_name,
};

/// Windowed views that one operator may compute, with what they are asked.
struct WindowGroup<'a> {
    shared: SharedWindows,
    wanted: Vec<(Wanted<'a>, Vec<Expr>)>,
}

impl<'a> Chain<'a> {
    pub(super) async fn join_level(&mut self, wanted: Vec<Wanted<'a>>) -> Result<(), EngineError> {
        let mut groups: Vec<WindowGroup<'a>> = Vec::new();
        let mut latest: Vec<SharedLatest<'a>> = Vec::new();
        for wanted in wanted {
            self.note_current_state(wanted.view);
            match wanted.view.kind {
                ViewKind::Windowed => match self.windowed(&wanted).await? {
                    Ok(view) => add_to_group(&mut groups, wanted, view),
                    Err(reason) => self.join_each_time(&wanted, &reason).await?,
                },
                ViewKind::Timestamped => match self.timestamped(&wanted).await? {
                    Ok(query) => SharedLatest::add(&mut latest, wanted, query),
                    Err(reason) => self.join_each_time(&wanted, &reason).await?,
                },
                ViewKind::Snapshot if matches!(wanted.view.serve, ServeMode::Query { .. }) => {
                    self.join_each_time(&wanted, "it has no runs (SERVE QUERY)")
                        .await?;
                }
                ViewKind::Snapshot => self.join_runs(&wanted).await?,
            }
        }
        for shared in latest {
            self.join_shared(shared).await?;
        }
        for (number, group) in groups.into_iter().enumerate() {
            self.join_windows(group, number).await?;
        }
        Ok(())
    }

    fn note_current_state(&mut self, view: &FeatureView) {
        if !view.current_state.is_empty() && view.kind != ViewKind::Snapshot {
            let sources = view.current_state.join(", ");
            self.note(format!(
                "{} reads {sources} as it is now: it has no event time",
                view.name
            ));
        }
    }

    /// The windowed view's query, if one pass answers for every t.
    async fn windowed(
        &self,
        wanted: &Wanted<'_>,
    ) -> Result<Result<WindowedView, String>, EngineError> {
        let view = wanted.view;
        let failed = failed(&view.name);
        let state = self.state_of(wanted).await?;
        let query = WindowedQuery::of(&state, view).await.map_err(&failed)?;
        let query = query.known_at(wanted.moment.known_at);
        let known = self.known_at_its_time(wanted);
        let times = availability(&query.events, self.definitions, known).and_then(|times| {
            // Elsewhere `apply` allows no subqueries.
            let mut filter = query.filter.iter();
            filter.try_for_each(|filter| adds_no_time(filter, self.definitions))?;
            Ok(times)
        });
        let mut also_from = match times {
            Ok(times) => times,
            Err(reason) => return Ok(Err(reason)),
        };
        if let Expr::Column(event_time) = &query.event_time {
            also_from.remove(event_time);
        }
        Ok(Ok(WindowedView { query, also_from }))
    }

    /// The query of a timestamped view, if one pass answers for every t.
    async fn timestamped(
        &self,
        wanted: &Wanted<'_>,
    ) -> Result<Result<TimestampedQuery, String>, EngineError> {
        let view = wanted.view;
        let failed = failed(&view.name);
        let state = self.state_of(wanted).await?;
        let plan = plan_sql(&state, &view.query).await.map_err(&failed)?;
        let query = TimestampedQuery::of(view, plan)?;
        let known = self.known_at_its_time(wanted);
        let query = query.in_one_pass(view, self.definitions, known);
        Ok(query.map(|query| query.known_at(view, wanted.moment.known_at)))
    }

    async fn join_runs(&mut self, wanted: &Wanted<'a>) -> Result<(), EngineError> {
        let view = wanted.view;
        let Runs { rows, mut runs } = runs::committed(self.engine, self.context(), view).await?;
        if let Some(known_at) = wanted.moment.known_at {
            runs.retain(|run| run.committed <= known_at);
        }
        let missing = self.before_first(&runs);
        self.lacks_runs(&view.name, missing);
        if runs.is_empty() {
            self.note(format!(
                "{} was never run: its features are NULL",
                view.name
            ));
        }
        let rows = Rows {
            plan: rows,
            matching: Match::Runs(runs),
            row: None,
        };
        let newest = Newest {
            columns: rows.columns(),
            filter: None,
            event_time: crate::offline::AS_OF_COLUMN,
            created_time: None,
            seen_from: None,
            ttl: view.ttl,
        };
        self.join_latest(rows, &[(wanted, newest)])
    }

    /// Whether t lies before every run that it could see.
    fn before_first(&self, runs: &[Run]) -> Expr {
        let options = self.request.options;
        let first = runs.iter().map(|run| {
            let from = run.as_of.0 + i64::from(options.strictly_before);
            match options.known_at_the_time {
                true => from.max(run.committed.0),
                false => from,
            }
        });
        match first.min() {
            Some(first) => name(T).lt(lit(crate::offline::read::time_scalar(UtcMicros(first)))),
            None => name(T).is_not_null(),
        }
    }

    /// Computes the view's rows once for each distinct t of the spine.
    async fn join_each_time(
        &mut self,
        wanted: &Wanted<'a>,
        reason: &str,
    ) -> Result<(), EngineError> {
        let view = wanted.view;
        if !self.requests.is_empty() && view.is_live() {
            return Err(EngineError::Refused(format!(
                "{} cannot be told with request events, since {reason}",
                view.name
            )));
        }
        let EachTime { rows, times } = self.each_time(wanted, reason).await?;
        self.note(format!(
            "{} is computed once for each distinct time of the spine ({}), since {reason}",
            view.name,
            times.len()
        ));
        let rows = Rows {
            plan: rows,
            matching: Match::Runs(times),
            row: None,
        };
        let newest = Newest {
            columns: rows.columns(),
            filter: None,
            event_time: COMPUTED_AS_OF,
            created_time: view
                .event_time
                .as_deref()
                .filter(|_| view.kind == ViewKind::Timestamped),
            seen_from: None,
            ttl: view.ttl.filter(|_| view.kind == ViewKind::Windowed),
        };
        self.join_latest(rows, &[(wanted, newest)])?;
        match (view.ttl, view.kind) {
            (Some(ttl), ViewKind::Timestamped) => {
                let event_time = view.event_time.as_deref().unwrap_or_default();
                self.expire(wanted, ttl, &self.working(wanted, event_time))
            }
            _ => Ok(()),
        }
    }

    /// Leaves out rows whose event time, in a column of the chain, is too old.
    pub(super) fn expire(
        &mut self,
        wanted: &Wanted<'a>,
        ttl: Interval,
        event_time: &str,
    ) -> Result<(), EngineError> {
        let status = status_name(wanted.alias);
        let failed = failed(&wanted.view.name);
        let fresh = is_fresh(event_time, T, ttl);
        let number = |status: FeatureStatus| lit(status as i8);
        let mut aged = when(
            fresh.clone().is_false(),
            number(FeatureStatus::OutsideMaxAge),
        );
        let aged = aged.otherwise(name(&status)).map_err(&failed)?;
        let mut found = Found {
            status: format!("{status} aged"),
            ..Found::default()
        };
        let mut columns = vec![(found.status.clone(), aged)];
        for feature in &wanted.features {
            let value = self.working(wanted, feature);
            let kept = when(fresh.clone().is_not_false(), name(&value)).end();
            let aged = format!("{value} aged");
            columns.push((aged.clone(), kept.map_err(&failed)?));
            found.values.insert((*feature).to_owned(), aged);
        }
        self.add(columns)?;
        self.give(wanted.alias, found);
        Ok(())
    }

    pub(super) fn working(&self, wanted: &Wanted<'_>, feature: &str) -> String {
        format!("{WORKING}{}.{feature}", wanted.alias)
    }

    /// Puts the aggregates of a group behind the chain, and what the views
    /// select of them in their place.
    async fn join_windows(
        &mut self,
        group: WindowGroup<'a>,
        number: usize,
    ) -> Result<(), EngineError> {
        let WindowGroup { shared, wanted } = group;
        let first = &wanted[0].0;
        let prefix = format!("{WORKING}{} {number} ", first.alias);
        let mut t = self.time_of(first)?;
        if let Some(every) = first.refreshed_every {
            t = format!("{WORKING}refresh {}", first.alias);
            let refreshed = ScalarUDF::from(SpineTime::new(Some(every))).call(vec![name(T)]);
            self.add(vec![(t.clone(), refreshed)])?;
        }
        let before = self.plan.schema().fields().len();
        let spine_keys = SpineKeys {
            keys: first.keys.clone(),
            time: self.column(&t)?,
        };
        self.plan = self.windows(&shared, first, spine_keys, &prefix).await?;
        let mut columns = Vec::new();
        for (place, (wanted, outputs)) in wanted.iter().enumerate() {
            let selected = self.selected(wanted, outputs, &t, |name| {
                aggregate_name(&prefix, place, name)
            });
            columns.extend(selected.map_err(failed(&wanted.view.name))?);
        }
        self.keep_and_add(before, columns)
    }

    async fn windows(
        &mut self,
        shared: &SharedWindows,
        first: &Wanted<'a>,
        mut spine_keys: SpineKeys,
        prefix: &str,
    ) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
        let failed = failed(&first.view.name);
        let mut seen = Seen {
            strictly_before: self.request.options.strictly_before,
            known_at_the_time: self.known_at_its_time(first),
        };
        let query = shared.first();
        let stored = Stored {
            keys: query.keys.iter().collect(),
            event_time: &query.event_time,
            reach: shared.reach_micros(),
        };
        let scan = shared.scan(&self.state).map_err(&failed)?;
        let (scan, events) = match self.of_rows(first, scan, stored).await? {
            Ok(OfRows { scan, events }) => {
                spine_keys.keys.push(self.column(ROW)?);
                // Stored ones are; the row's own event may be at t.
                seen.strictly_before = false;
                (scan, events)
            }
            Err(scan) => {
                let events = scan.physical(&self.state).await.map_err(&failed)?;
                (scan, events)
            }
        };
        let (state, plan) = (&self.state, self.plan.clone());
        let joined = shared.join_events(state, plan, (&scan, events), (spine_keys, seen), prefix);
        joined.map_err(failed)
    }

    /// The features of a windowed view and its status.
    fn selected(
        &mut self,
        wanted: &Wanted<'a>,
        outputs: &[Expr],
        t: &str,
        aggregate: impl Fn(&str) -> String,
    ) -> PlanResult<Vec<(String, Expr)>> {
        let view = wanted.view;
        let keys = wanted.key_names.iter();
        let known = keys.fold(name(t).is_not_null(), |known, key| {
            known.and(name(key).is_not_null())
        });
        let fresh = match view.ttl {
            // What is computed as of t itself has no age.
            Some(ttl) if t != T => Some(is_fresh(t, T, ttl)),
            _ => None,
        };
        let mut found = Found {
            status: status_name(wanted.alias),
            ..Found::default()
        };
        let there = match &fresh {
            Some(fresh) => known.clone().and(fresh.clone()),
            None => known.clone(),
        };
        let mut columns = Vec::new();
        for (feature, output) in view.features.iter().zip(outputs) {
            if !wanted.features.contains(feature.name.as_str()) {
                continue;
            }
            let value = named(output.clone(), t, &aggregate)?;
            let value = cast(value, feature.data_type.to_arrow());
            let column = self.working(wanted, &feature.name);
            found.values.insert(feature.name.clone(), column.clone());
            columns.push((column, when(there.clone(), value).end()?));
        }
        let status = |status: FeatureStatus| lit(status as i8);
        let mut text = when(there, status(FeatureStatus::Present));
        if fresh.is_some() {
            text = text.when(known, status(FeatureStatus::OutsideMaxAge));
        }
        columns.push((
            found.status.clone(),
            text.otherwise(status(FeatureStatus::NotFound))?,
        ));
        self.give(wanted.alias, found);
        Ok(columns)
    }
}

/// Whether what is of time `t` is within its TTL when it is asked for; NULL
/// where there is none.
fn is_fresh(t: &str, asked: &str, ttl: Interval) -> Expr {
    let nanos = ttl.micros.saturating_mul(1_000);
    let ttl = ScalarValue::new_interval_mdn(ttl.months, ttl.days, nanos);
    name(t).gt_eq(name(asked) - lit(ttl))
}

/// A selected expression over the chain's columns.
fn named(output: Expr, t: &str, aggregate: impl Fn(&str) -> String) -> PlanResult<Expr> {
    let replaced = output.transform_up(|e| {
        Ok(match &e {
            Expr::Column(column) if column.name == AS_OF_COLUMN => Transformed::yes(name(t)),
            Expr::Column(column) => {
                Transformed::yes(Expr::Column(Name::new_unqualified(aggregate(&column.name))))
            }
            _ => Transformed::no(e),
        })
    })?;
    Ok(replaced.data)
}

fn add_to_group<'a>(groups: &mut Vec<WindowGroup<'a>>, wanted: Wanted<'a>, view: WindowedView) {
    let outputs = view.query.outputs.clone();
    let mut view = view;
    for group in &mut groups.iter_mut() {
        let first = &group.wanted[0].0;
        let alike = first.key_names == wanted.key_names
            && first.refreshed_every == wanted.refreshed_every
            && first.moment == wanted.moment
            && first.view.is_live() == wanted.view.is_live();
        if !alike {
            continue;
        }
        match group.shared.share(view) {
            None => {
                group.wanted.push((wanted, outputs));
                return;
            }
            Some(back) => view = back,
        }
    }
    groups.push(WindowGroup {
        shared: SharedWindows::new(view),
        wanted: vec![(wanted, outputs)],
    });
}
