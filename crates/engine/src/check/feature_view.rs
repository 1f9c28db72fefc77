//! A feature view: its kind, keys, times and features, and whether its clauses fit.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use granary_model::definitions::{Column, ServeMode};
use granary_model::fingerprint::Fingerprint;
use granary_model::statement::{CreateFeatureView, Ident, ObjectSort, ServeClause};
use granary_model::{Diagnostic, FeatureType, FeatureView, Span, ViewKind};

use super::Check;
use super::entities::annotations;
use super::lineage::{calls_as_of, event_time_origins, is_row_wise};
use super::outputs::{Outputs, type_name};
use super::query::{Query, Read};
use super::relations::{names_of, time_column};
use super::translate::instead;
use super::windowed::{Windowed, has_windows};
use crate::live::LiveView;
use crate::windowed::WindowedQuery;

impl Check<'_> {
    pub(super) async fn feature_view(
        &mut self,
        create: &CreateFeatureView,
        query: &Query<'_>,
        reads: &[Read],
    ) {
        let errors_before = self.diagnostics.len();
        let keys = self.entity_keys(create);
        let readable = self.readable(reads);
        let calls = self.calls(query);
        self.tell(clauses_alone(create));
        let plan = if readable && calls {
            self.plan(query).await
        } else {
            None
        };
        let view = match (plan, keys) {
            (Some(plan), Some(keys)) => self.planned(create, query, reads, &plan, keys),
            _ => None,
        };
        let Some(view) = view else {
            self.breaks(&create.name.value);
            return;
        };
        if self.diagnostics.len() > errors_before {
            self.breaks(&create.name.value);
        }
        self.live(create, query, &view).await;
        let table = Arc::new(EmptyTable::new(view.row_schema()));
        self.register(&create.name, table);
        self.definitions
            .feature_views
            .insert(view.name.clone(), view);
    }

    /// The keys of the entities, in their order; `None` where one is wrong.
    fn entity_keys(&mut self, create: &CreateFeatureView) -> Option<Vec<(String, Span, Column)>> {
        let mut keys: Vec<(String, Span, Column)> = Vec::new();
        let mut whole = true;
        for ident in &create.entities {
            if let Some(wrong) = self.names.wrong(ident, &[ObjectSort::Entity], "entity") {
                self.tell([wrong]);
                whole = false;
                continue;
            }
            if self.broken.contains(&ident.value) {
                whole = false;
                continue;
            }
            let Some(entity) = self.definitions.entities.get(&ident.value) else {
                whole = false;
                continue;
            };
            let mut errors = Vec::new();
            for key in &entity.keys {
                let earlier = keys.iter().find(|(_, _, column)| column.name == key.name);
                match earlier {
                    None => keys.push((entity.name.clone(), ident.span.clone(), key.clone())),
                    Some((_, _, column)) if column.data_type == key.data_type => {}
                    Some((other, _, column)) => {
                        let message = format!(
                            "{other} has the key {:?} as {}, {} as {}",
                            key.name, column.data_type, entity.name, key.data_type
                        );
                        errors.push(
                            Diagnostic::new(&ident.span, message)
                                .help("one name is one column: rename one of the keys"),
                        );
                    }
                }
            }
            whole &= errors.is_empty();
            self.tell(errors);
        }
        whole.then_some(keys)
    }

    /// The view of a query that plans; everything that can be wrong with it is told.
    fn planned(
        &mut self,
        create: &CreateFeatureView,
        query: &Query<'_>,
        reads: &[Read],
        plan: &LogicalPlan,
        keys: Vec<(String, Span, Column)>,
    ) -> Option<FeatureView> {
        let schema = plan.schema().as_arrow().clone();
        let outputs = Outputs::new(query, &schema);
        let mut errors = outputs.wrong_names();
        for (entity, span, key) in &keys {
            errors.extend(outputs.wrong_key(create, entity, span, key));
        }
        let keys: Vec<Column> = keys.into_iter().map(|(_, _, key)| key).collect();
        let kind = self.kind(create, query, &outputs, &keys, &mut errors);
        let Some(kind) = kind else {
            self.tell(errors);
            return None;
        };
        let (then_by, mut others) = match kind {
            ViewKind::Timestamped => times(create, &outputs, &keys, &mut errors),
            ViewKind::Windowed => (self.orders(create, reads, &mut errors), BTreeSet::new()),
            ViewKind::Snapshot => (Vec::new(), BTreeSet::new()),
        };
        others.extend(keys.iter().map(|key| key.name.as_str()));
        let (features, wrong) = outputs.features(&others);
        let none = features.is_empty() && wrong.is_empty();
        errors.extend(wrong);
        if none {
            let message = format!(
                "{} has no feature: all its columns are keys or times",
                create.name.value
            );
            errors.push(Diagnostic::new(&create.name.span, message).help("select a column more"));
        }
        errors.extend(clauses_of_kind(create, kind));
        errors.extend(self.feature_views_read(kind, reads));
        let live = kind != ViewKind::Snapshot && self.is_live(kind, plan, reads);
        let current_state = self.current_state(create, kind, plan, reads);
        let failed = !errors.is_empty();
        self.tell(errors);
        if failed {
            return None;
        }
        let mut view = FeatureView {
            name: create.name.value.clone(),
            version: 0,
            fingerprint: Fingerprint::default(),
            kind,
            entities: create.entities.iter().map(|e| e.value.clone()).collect(),
            keys,
            event_time: create
                .event_time
                .as_ref()
                .map(|column| column.value.clone()),
            created_time: create
                .created_time
                .as_ref()
                .map(|column| column.value.clone()),
            then_by,
            ttl: create.ttl.as_ref().map(|(ttl, _)| *ttl),
            max_events: create.max_events.as_ref().map(|(count, _)| *count),
            refresh_every: create.refresh_every.as_ref().map(|(every, _)| *every),
            serve: serve_mode(create),
            query: create.query.text.clone(),
            features,
            depends_on: names_of(reads),
            current_state,
            calls_as_of: calls_as_of(plan),
            live,
            windows: Vec::new(),
            annotations: annotations(&create.annotations),
        };
        if kind == ViewKind::Windowed {
            self.windows(create, query, plan, &mut view)?;
        }
        Some(view)
    }

    /// Takes a windowed view apart, to show how it is understood and to know
    /// that it can be computed.
    fn windows(
        &mut self,
        create: &CreateFeatureView,
        query: &Query<'_>,
        plan: &LogicalPlan,
        view: &mut FeatureView,
    ) -> Option<()> {
        match WindowedQuery::take_apart(&self.state, view, plan) {
            Ok(windowed) => {
                view.windows = windowed.described();
                Some(())
            }
            Err(error) => {
                let message = format!("{}: {}", create.name.value, error.strip_backtrace());
                self.tell([Diagnostic::new(&query.text.span, message)]);
                None
            }
        }
    }

    /// THEN BY columns of a windowed view: columns of what stands in FROM.
    fn orders(
        &self,
        create: &CreateFeatureView,
        reads: &[Read],
        errors: &mut Vec<Diagnostic>,
    ) -> Vec<Column> {
        let [read] = reads else {
            return Vec::new();
        };
        let Some(relation) = self.relations.get(&read.name) else {
            return Vec::new();
        };
        let schema = relation.schema();
        let names = || schema.fields().iter().map(|field| field.name().as_str());
        let mut orders = Vec::new();
        for column in &create.then_by {
            match schema.field_with_name(&column.value) {
                Ok(field) => orders.extend(then_by_column(column, field, errors)),
                Err(_) => {
                    let message = format!("{} has no column {:?}", read.name, column.value);
                    let help = instead(&column.value, names());
                    errors.push(Diagnostic::new(&column.span, message).help_if(help));
                }
            }
        }
        orders
    }

    /// The kind that the view's form makes it; `None` where it fits none.
    fn kind(
        &self,
        create: &CreateFeatureView,
        query: &Query<'_>,
        outputs: &Outputs<'_>,
        keys: &[Column],
        errors: &mut Vec<Diagnostic>,
    ) -> Option<ViewKind> {
        let Some(event_time) = &create.event_time else {
            return Some(ViewKind::Snapshot);
        };
        if outputs.field(&event_time.value).is_some() {
            return Some(ViewKind::Timestamped);
        }
        if has_windows(query) {
            let windowed = Windowed {
                create,
                query,
                event_time,
                keys,
            };
            let wrong = windowed.wrong(self);
            let fits = wrong.is_empty();
            errors.extend(wrong);
            return fits.then_some(ViewKind::Windowed);
        }
        let name = &create.name.value;
        let message = format!(
            "the query of {name} has no column {:?}, the event time",
            event_time.value
        );
        let near =
            instead(&event_time.value, outputs.names()).filter(|near| near.starts_with("did"));
        let help = near.unwrap_or_else(|| {
            format!(
                "select {}, or aggregate OVER windows that are ordered by it, or leave EVENT TIME \
                 out for a snapshot of each run",
                event_time.value
            )
        });
        errors.push(Diagnostic::new(&event_time.span, message).help(help));
        None
    }

    /// FROM may name a feature view in snapshot views only.
    fn feature_views_read(&self, kind: ViewKind, reads: &[Read]) -> Vec<Diagnostic> {
        let read = |read: &&Read| self.is_sort(&read.name, ObjectSort::FeatureView);
        if kind == ViewKind::Snapshot {
            let live = |read: &&Read| {
                let view = self.definitions.feature_views.get(&read.name);
                view.is_some_and(FeatureView::is_live)
            };
            let live = reads.iter().filter(live).map(|read| {
                let message = format!("{:?} is live: no run writes its values down", read.name);
                Diagnostic::new(&read.span, message).help("read its stream")
            });
            return live.collect();
        }
        reads
            .iter()
            .filter(read)
            .map(|read| {
                let message = format!(
                    "a {} view cannot read the feature view {:?}",
                    kind.as_str(),
                    read.name
                );
                Diagnostic::new(&read.span, message).help(
                    "its values change from run to run: leave EVENT TIME out for a snapshot of each \
                     run, or read the sources",
                )
            })
            .collect()
    }

    /// Whether every row comes from a stream, row by row.
    fn is_live(&self, kind: ViewKind, plan: &LogicalPlan, reads: &[Read]) -> bool {
        let streams = !reads.is_empty() && reads.iter().all(|read| self.is_of_streams(&read.name));
        streams && (kind == ViewKind::Windowed || is_row_wise(plan))
    }

    /// Whether a relation is a stream, or a plain view that is row-wise over streams.
    fn is_of_streams(&self, name: &str) -> bool {
        if self.definitions.streams.contains_key(name) {
            return true;
        }
        let Some(view) = self.definitions.views.get(name) else {
            return false;
        };
        let reads = &view.depends_on;
        !reads.is_empty()
            && reads.iter().all(|read| self.is_of_streams(read))
            && self
                .relations
                .get(name)
                .and_then(|view| view.get_logical_plan())
                .is_some_and(|plan| is_row_wise(&plan))
    }

    /// Tables without an event time that a run would read as they are now.
    ///
    /// What the view's own event time cuts is none: the relation that it is a
    /// plain column of, and everything where the query works row by row.
    fn current_state(
        &self,
        create: &CreateFeatureView,
        kind: ViewKind,
        plan: &LogicalPlan,
        reads: &[Read],
    ) -> Vec<String> {
        let names: BTreeSet<String> = reads.iter().map(|read| read.name.clone()).collect();
        let cut: BTreeSet<String> = match (&create.event_time, kind) {
            (Some(_), ViewKind::Windowed) => return Vec::new(),
            (Some(_), _) if is_row_wise(plan) => return Vec::new(),
            (Some(event_time), _) => event_time_origins(plan, &event_time.value, &names)
                .into_keys()
                .collect(),
            (None, _) => BTreeSet::new(),
        };
        let mut found = BTreeSet::new();
        for name in names.difference(&cut) {
            self.add_current_state(name, &mut found);
        }
        found.into_iter().collect()
    }

    fn add_current_state(&self, name: &str, found: &mut BTreeSet<String>) {
        if let Some(table) = self.definitions.tables.get(name) {
            if table.event_time.is_none() {
                found.insert(name.to_owned());
            }
        } else if let Some(view) = self.definitions.views.get(name)
            && view.event_time.is_none()
        {
            for read in &view.depends_on {
                self.add_current_state(read, found);
            }
        } else if let Some(view) = self.definitions.feature_views.get(name)
            && matches!(view.serve, ServeMode::Query { .. })
        {
            found.extend(view.current_state.iter().cloned());
        }
    }

    /// Whether a live view can be answered from events; what is wrong is told.
    async fn live(&mut self, create: &CreateFeatureView, query: &Query<'_>, view: &FeatureView) {
        if !view.is_live() {
            return;
        }
        let mut errors = live_clauses(create, view.kind);
        let compiled = LiveView::compile(&self.state, &self.definitions, view).await;
        if let Err(error) = compiled {
            let reason = match error.find_root() {
                DataFusionError::Plan(reason) => reason.clone(),
                other => other.strip_backtrace(),
            };
            let message = format!("{}: {reason}", create.name.value);
            errors.push(Diagnostic::new(&query.text.span, message));
        }
        if !errors.is_empty() {
            self.breaks(&create.name.value);
            self.tell(errors);
        }
    }
}

/// Checks event time, created time and THEN BY of a timestamped view; gives the
/// THEN BY columns, and the names of all of them.
fn times<'c>(
    create: &'c CreateFeatureView,
    outputs: &Outputs<'_>,
    keys: &[Column],
    errors: &mut Vec<Diagnostic>,
) -> (Vec<Column>, BTreeSet<&'c str>) {
    let query: &Schema = outputs.schema;
    let object = format!("the query of {}", create.name.value);
    let mut names = BTreeSet::new();
    let columns = [
        (create.event_time.as_ref(), "event time"),
        (create.created_time.as_ref(), "created time"),
    ];
    for (column, what) in columns {
        let Some(column) = column else { continue };
        errors.extend(time_column(&object, query, column, what));
        if keys.iter().any(|key| key.name == column.value) {
            let message = format!("{:?} is a key, and cannot be the {what}", column.value);
            errors.push(
                Diagnostic::new(&column.span, message)
                    .help("select the time as a column of its own"),
            );
        } else if !names.insert(column.value.as_str()) {
            let message = "event time and created time are the same column";
            errors.push(Diagnostic::new(&column.span, message).help("leave CREATED TIME out"));
        }
    }
    let mut then_by = Vec::new();
    for column in &create.then_by {
        let Some(field) = outputs.field(&column.value) else {
            let message = format!("{object} has no column {:?}", column.value);
            errors.push(
                Diagnostic::new(&column.span, message)
                    .help_if(instead(&column.value, outputs.names())),
            );
            continue;
        };
        if keys.iter().any(|key| key.name == column.value) || names.contains(column.value.as_str())
        {
            let message = format!("{:?} is a key or a time already", column.value);
            errors
                .push(Diagnostic::new(&column.span, message).help("THEN BY takes further columns"));
            continue;
        }
        if let Some(stored) = then_by_column(column, field, errors) {
            then_by.push(stored);
            names.insert(&column.value);
        }
    }
    (then_by, names)
}

/// A column to order by as it is stored; lists and the like have no order.
fn then_by_column(column: &Ident, field: &Field, errors: &mut Vec<Diagnostic>) -> Option<Column> {
    match FeatureType::from_arrow(field.data_type()) {
        Some(stored) if !matches!(stored, FeatureType::List(_)) => {
            Some(Column::new(column.value.clone(), stored))
        }
        _ => {
            let given = type_name(field.data_type());
            let message = format!(
                "THEN BY column {:?} is {given}, which has no order",
                column.value
            );
            errors.push(
                Diagnostic::new(&column.span, message).help("order by numbers, texts or times"),
            );
            None
        }
    }
}

/// Clauses that make no sense together, whatever the query is.
fn clauses_alone(create: &CreateFeatureView) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    if create.event_time.is_none() {
        if let Some(created) = &create.created_time {
            errors.push(
                Diagnostic::new(&created.span, "CREATED TIME without EVENT TIME")
                    .help("add EVENT TIME: a created time decides between rows of one event time"),
            );
        }
        if let Some(first) = create.then_by.first() {
            errors.push(
                Diagnostic::new(&first.span, "THEN BY without EVENT TIME")
                    .help("add EVENT TIME: THEN BY orders rows of one event time"),
            );
        }
    }
    if let (Some((ServeClause::Query { .. }, _)), Some((_, span))) =
        (&create.serve, &create.refresh_every)
    {
        errors.push(
            Diagnostic::new(
                span,
                "REFRESH EVERY with SERVE QUERY: there is nothing to refresh",
            )
            .help(
                "such a view is computed when it is read; CACHE FOR says how long a value is kept",
            ),
        );
    }
    errors
}

/// Clauses that make no sense for a view of this kind.
fn clauses_of_kind(create: &CreateFeatureView, kind: ViewKind) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    if let (Some((_, span)), false) = (&create.max_events, kind == ViewKind::Windowed) {
        let message = format!("MAX EVENTS on a {} view", kind.as_str());
        errors.push(
            Diagnostic::new(span, message).help("it bounds the frames of windows; leave it out"),
        );
    }
    let Some((ServeClause::Query { .. }, serve)) = &create.serve else {
        return errors;
    };
    if kind == ViewKind::Windowed {
        errors.push(
            Diagnostic::new(serve, "SERVE QUERY on a windowed view")
                .help("runs write its values; leave SERVE QUERY out (SERVE OFFLINE: for training sets only)"),
        );
    }
    if let (ViewKind::Snapshot, Some((_, ttl))) = (kind, &create.ttl) {
        errors.push(
            Diagnostic::new(
                ttl,
                "TTL on a snapshot view with SERVE QUERY: its values have no age",
            )
            .help("leave TTL out; CACHE FOR says how long a computed value is kept"),
        );
    }
    errors
}

/// Clauses that make no sense for a view that is answered as of the read.
fn live_clauses(create: &CreateFeatureView, kind: ViewKind) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    if let Some((_, span)) = &create.refresh_every {
        let message = "REFRESH EVERY on a live view: its values are as of each read";
        errors.push(Diagnostic::new(span, message).help("leave it out"));
    }
    if let (ViewKind::Windowed, Some((_, span))) = (kind, &create.ttl) {
        let message = "TTL on a live windowed view: its values have no age";
        errors.push(
            Diagnostic::new(span, message).help("leave it out; the windows say how far back"),
        );
    }
    errors
}

fn serve_mode(create: &CreateFeatureView) -> ServeMode {
    match create.serve {
        None | Some((ServeClause::Online, _)) => ServeMode::Online,
        Some((ServeClause::Query { cache_for }, _)) => ServeMode::Query { cache_for },
        Some((ServeClause::Offline, _)) => ServeMode::Offline,
    }
}
