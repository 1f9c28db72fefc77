//! What a query can read: tables, plain views and feature views, in the order
//! in which they need each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::logical_expr::LogicalPlan;
use granary_model::definitions::{Annotations, EventTime, ExternalTable, PlainView};
use granary_model::fingerprint::Fingerprint;
use granary_model::statement::{
    CreateFeatureView, CreateSource, EventTimeOf, Ident, ObjectSort, SqlText, StatementKind,
};
use granary_model::{Diagnostic, Span};

use super::Check;
use super::blame::blame;
use super::names::said;
use super::outputs::duplicate_names;
use super::query::{Query, Read};
use super::translate::{instead, syntax, translate};
use crate::engine::{event_time_type, plan_statement, register};
use crate::source::{Source, SourceFault, recorded_columns, recorded_schema};

/// What a query may stand in.
#[derive(Debug, Clone, Copy)]
enum Reader<'a> {
    View(&'a CreateSource),
    FeatureView(&'a CreateFeatureView),
}

impl<'a> Reader<'a> {
    fn name(self) -> &'a Ident {
        match self {
            Self::View(create) => &create.name,
            Self::FeatureView(create) => &create.name,
        }
    }

    fn text(self) -> &'a SqlText {
        match self {
            Self::View(create) => &create.sql,
            Self::FeatureView(create) => &create.query,
        }
    }
}

/// A view that waits for what it reads.
struct Pending<'a> {
    reader: Reader<'a>,
    query: Query<'a>,
    reads: Vec<Read>,
}

impl<'a> Check<'a> {
    pub(super) async fn relations(&mut self) {
        for statement in self.statements {
            if let StatementKind::CreateExternalTable(create) = &statement.kind
                && self.names.is_first(&create.name)
            {
                self.table(create).await;
            }
        }
        self.streams();
        let pending = self.parse_queries();
        for name in self.in_order(&pending) {
            let Some(view) = pending.get(name) else {
                continue;
            };
            match view.reader {
                Reader::View(create) => self.view(create, view).await,
                Reader::FeatureView(create) => {
                    self.feature_view(create, &view.query, &view.reads).await;
                }
            }
        }
    }

    async fn table(&mut self, create: &CreateSource) {
        let name = &create.name.value;
        let source = match Source::parse(&self.state, self.engine, name, &create.sql.text).await {
            Ok(source) => source,
            Err(error) => {
                self.breaks(name);
                let mut error = syntax(&create.sql, &error);
                if error.message.starts_with("unknown format") {
                    error.span = format_span(&create.sql).or(error.span);
                }
                self.tell([error]);
                return;
            }
        };
        let recorded = match source.infer(&self.state).await {
            Ok(schema) => Ok((recorded_columns(&schema), schema)),
            Err(fault) => Err(self.unreadable(create, &fault)),
        };
        let recorded = recorded.and_then(|(columns, schema)| {
            let duplicates = duplicate_names(&schema, |column| {
                create
                    .sql
                    .find_name(column)
                    .unwrap_or(create.name.span.clone())
            });
            match (
                duplicates.into_iter().next(),
                recorded_schema(name, &columns),
            ) {
                (Some(duplicate), _) => Err(duplicate),
                (None, Ok(schema)) => Ok((columns, schema)),
                (None, Err(error)) => Err(Diagnostic::new(&create.name.span, error.to_string())),
            }
        });
        let (columns, schema) = match recorded {
            Ok(recorded) => recorded,
            Err(error) => {
                self.breaks(name);
                self.tell([error]);
                return;
            }
        };
        let event_time = self.event_time(name, &schema);
        let table = ExternalTable {
            name: name.clone(),
            sql: create.sql.text.clone(),
            columns,
            event_time,
            annotations: Annotations::default(),
            fingerprint: Fingerprint::default(),
        };
        let provider = Arc::new(source.with_recorded(schema));
        self.register(&create.name, provider);
        self.definitions.tables.insert(name.clone(), table);
    }

    /// The error for files that cannot be read, at the statement's LOCATION.
    fn unreadable(&self, create: &CreateSource, fault: &SourceFault) -> Diagnostic {
        let project = self.engine.project().to_string_lossy();
        let path = fault
            .path
            .strip_prefix(project.as_ref())
            .map_or(fault.path.as_str(), |path| path.trim_start_matches('/'));
        if let Some(option) = unknown_option(&fault.reason) {
            let place = create.sql.text.find(option);
            let place = place.map(|at| create.sql.span_of(at..at + option.len()));
            let span = place.unwrap_or_else(|| create.name.span.clone());
            return Diagnostic::new(&span, format!("unknown option {option:?}"))
                .help("options are DataFusion's, as 'format.has_header' or 'format.delimiter'");
        }
        let message = format!(
            "{}: cannot read {path}: {}",
            create.name.value, fault.reason
        );
        let span = location_span(&create.sql).unwrap_or_else(|| create.name.span.clone());
        let error = Diagnostic::new(&span, message);
        if fault.reason.starts_with("no ") {
            error.help("relative locations are relative to the project folder")
        } else {
            error
        }
    }

    /// Parses every view's query; what does not parse is broken.
    fn parse_queries(&mut self) -> BTreeMap<&'a str, Pending<'a>> {
        let mut pending = BTreeMap::new();
        for statement in self.statements {
            let reader = match &statement.kind {
                StatementKind::CreateView(create) => Reader::View(create),
                StatementKind::CreateFeatureView(create) => Reader::FeatureView(create),
                _ => continue,
            };
            if !self.names.is_first(reader.name()) {
                continue;
            }
            let parsed = Query::parse(&self.state, reader.text())
                .and_then(|query| query.reads(&self.state).map(|reads| (query, reads)));
            match parsed {
                Ok((query, reads)) => {
                    let view = Pending {
                        reader,
                        query,
                        reads,
                    };
                    pending.insert(reader.name().value.as_str(), view);
                }
                Err(error) => {
                    self.breaks(&reader.name().value);
                    self.tell([syntax(reader.text(), &error)]);
                }
            }
        }
        pending
    }

    /// Each view after those that it reads; of a cycle none, but an error.
    fn in_order(&mut self, pending: &BTreeMap<&'a str, Pending<'a>>) -> Vec<&'a str> {
        let mut order = Order::default();
        for name in pending.keys() {
            order.visit(name, pending);
        }
        for cycle in &order.cycles {
            let Some(first) = cycle
                .iter()
                .filter_map(|name| pending.get(name))
                .min_by_key(|view| {
                    let span = &view.reader.name().span;
                    (&span.file.path, span.start)
                })
            else {
                continue;
            };
            let name = first.reader.name();
            let at = cycle.iter().position(|n| *n == name.value).unwrap_or(0);
            let mut path: Vec<&str> = cycle[at..].iter().chain(&cycle[..at]).copied().collect();
            path.push(&name.value);
            let message = format!("{:?} reads itself: {}", name.value, path.join(" reads "));
            self.tell([Diagnostic::new(&name.span, message)
                .help("let one of them read the sources instead")]);
            self.broken
                .extend(cycle.iter().map(|name| (*name).to_owned()));
        }
        order.done
    }

    async fn view(&mut self, create: &CreateSource, pending: &Pending<'a>) {
        let name = &create.name.value;
        let readable = self.readable(&pending.reads);
        let mut errors = Vec::new();
        for read in &pending.reads {
            if self.definitions.feature_views.contains_key(&read.name)
                || self.is_sort(&read.name, ObjectSort::FeatureView)
            {
                let message = format!("a plain view cannot read the feature view {:?}", read.name);
                errors
                    .push(Diagnostic::new(&read.span, message).help(
                        "read what it reads, or make this a feature view without event time",
                    ));
            }
        }
        let refused = !errors.is_empty();
        self.tell(errors);
        let calls = self.calls(&pending.query);
        if !readable || refused || !calls {
            self.breaks(name);
            return;
        }
        let Some(plan) = self.plan(&pending.query).await else {
            self.breaks(name);
            return;
        };
        let schema = plan.schema().as_arrow().clone();
        let duplicates = duplicate_names(&schema, |column| {
            create
                .sql
                .find_name(column)
                .unwrap_or(create.name.span.clone())
        });
        if !duplicates.is_empty() {
            self.breaks(name);
            self.tell(duplicates);
            return;
        }
        let event_time = self.event_time(name, &schema);
        let view = PlainView {
            name: name.clone(),
            sql: create.sql.text.clone(),
            columns: recorded_columns(&schema),
            event_time,
            depends_on: names_of(&pending.reads),
            annotations: Annotations::default(),
            fingerprint: Fingerprint::default(),
        };
        let provider = Arc::new(ViewTable::new(plan, Some(create.sql.text.clone())));
        self.register(&create.name, provider);
        self.definitions.views.insert(name.clone(), view);
    }

    pub(super) fn is_sort(&self, name: &str, sort: ObjectSort) -> bool {
        self.names.get(name).and_then(|named| named.sort) == Some(sort)
    }

    pub(super) fn register(&mut self, name: &Ident, provider: Arc<dyn TableProvider>) {
        self.relations.insert(name.value.clone(), provider.clone());
        if let Err(error) = register(&self.context, &name.value, provider) {
            self.breaks(&name.value);
            self.tell([Diagnostic::new(&name.span, error.to_string())]);
        }
    }

    /// Whether everything that is read is known and whole; unknown names are told.
    pub(super) fn readable(&mut self, reads: &[Read]) -> bool {
        use ObjectSort::{FeatureView, Stream, Table, View};
        let mut whole = true;
        for read in reads {
            let sort = self.names.get(&read.name).map(|named| named.sort);
            let error = match sort {
                None if let Some(stream) = self.history_of(&read.name) => {
                    let (history, stream) = (&read.name, &stream.name.value);
                    let message = format!("{history:?} is the history of the stream {stream:?}");
                    Diagnostic::new(&read.span, message).help(format!(
                        "read {stream}: it gives the history and the events that are not in it yet"
                    ))
                }
                None => {
                    let message = format!("unknown table or view {:?}", read.name);
                    let names = self.names.of(&[Table, View, Stream, FeatureView]);
                    Diagnostic::new(&read.span, message).help_if(instead(&read.name, names))
                }
                Some(Some(sort)) if !matches!(sort, Table | View | Stream | FeatureView) => {
                    let message = format!("{:?} is {}: it has no rows", read.name, said(sort));
                    Diagnostic::new(&read.span, message)
                        .help("read a table, a stream, a view or a feature view")
                }
                _ => {
                    whole &= !self.broken.contains(&read.name);
                    continue;
                }
            };
            whole = false;
            self.tell([error]);
        }
        whole
    }

    /// Whether a query calls nothing that definitions may not call.
    pub(super) fn calls(&mut self, query: &Query<'_>) -> bool {
        let refused = query.refused_calls(&self.state);
        let fine = refused.is_empty();
        self.tell(refused);
        fine
    }

    /// The plan of a query, its types settled; what is wrong with it is told.
    pub(super) async fn plan(&mut self, query: &Query<'_>) -> Option<LogicalPlan> {
        let error = match plan_statement(&self.state, query.statement()).await {
            Ok(plan) => return Some(plan),
            Err(error) => error,
        };
        let faults = match query.ast() {
            Some(ast) => blame(&self.state, ast).await,
            None => Vec::new(),
        };
        let mut told = Vec::new();
        for fault in &faults {
            told.extend(translate(query, &fault.error, &query.span(fault.span)));
        }
        if told.is_empty() {
            told = translate(query, &error, &query.text.span);
        }
        self.tell(told);
        None
    }

    /// The relation's `EVENT TIME OF`, where it is right.
    fn event_time(&mut self, name: &str, schema: &Schema) -> Option<EventTime> {
        let of: &EventTimeOf = self.times.get(name)?;
        let columns = [
            Some((&of.event_time, "event time")),
            of.created_time.as_ref().map(|c| (c, "created time")),
        ];
        let mut errors = Vec::new();
        for (column, what) in columns.into_iter().flatten() {
            errors.extend(time_column(name, schema, column, what));
        }
        if of
            .created_time
            .as_ref()
            .is_some_and(|created| created.value == of.event_time.value)
        {
            let message = "event time and created time are the same column";
            errors
                .push(Diagnostic::new(&of.event_time.span, message).help("leave CREATED TIME out"));
        }
        if !errors.is_empty() {
            self.tell(errors);
            return None;
        }
        Some(EventTime {
            event_time: of.event_time.value.clone(),
            created_time: of
                .created_time
                .as_ref()
                .map(|created| created.value.clone()),
        })
    }
}

/// What is wrong with a column that shall be a time.
pub(super) fn time_column(
    object: &str,
    schema: &Schema,
    column: &Ident,
    what: &str,
) -> Option<Diagnostic> {
    let Ok(field) = schema.field_with_name(&column.value) else {
        let message = format!("{object} has no column {:?}", column.value);
        let names = schema.fields().iter().map(|field| field.name().as_str());
        return Some(Diagnostic::new(&column.span, message).help_if(instead(&column.value, names)));
    };
    if event_time_type(field.data_type()) {
        return None;
    }
    let is = granary_model::FeatureType::from_arrow(field.data_type())
        .map_or_else(|| field.data_type().to_string(), |t| t.to_string());
    let message = format!("{what} {:?} is {is}, not a time", column.value);
    Some(Diagnostic::new(&column.span, message).help(
        "an event time is a TIMESTAMP or a DATE; a plain view can make one, as with to_timestamp(..)",
    ))
}

pub(super) fn names_of(reads: &[Read]) -> Vec<String> {
    let names: BTreeSet<String> = reads.iter().map(|read| read.name.clone()).collect();
    names.into_iter().collect()
}

/// The word after STORED AS.
fn format_span(sql: &SqlText) -> Option<Span> {
    let lower = sql.text.to_ascii_lowercase();
    let stored = lower.find("stored")?;
    let after_as = stored + lower[stored..].find(" as ")? + " as ".len();
    let start = after_as + lower[after_as..].find(|c: char| !c.is_whitespace())?;
    let length = lower[start..].find(char::is_whitespace)?;
    Some(sql.span_of(start..start + length))
}

/// The option that DataFusion does not know.
fn unknown_option(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("Config value \"")?;
    let (option, rest) = rest.split_once('"')?;
    rest.starts_with(" not found").then_some(option)
}

/// The first string after LOCATION.
fn location_span(sql: &SqlText) -> Option<Span> {
    let keyword = sql.text.to_ascii_lowercase().find("location")?;
    let start = keyword + sql.text[keyword..].find('\'')?;
    let length = sql.text[start + 1..].find('\'')?;
    Some(sql.span_of(start..start + length + 2))
}

/// Depth-first order with the cycles met.
#[derive(Default)]
struct Order<'a> {
    done: Vec<&'a str>,
    seen: BTreeSet<&'a str>,
    path: Vec<&'a str>,
    cycles: Vec<Vec<&'a str>>,
}

impl<'a> Order<'a> {
    fn visit(&mut self, name: &'a str, pending: &BTreeMap<&'a str, Pending<'a>>) {
        if let Some(at) = self.path.iter().position(|on_path| *on_path == name) {
            self.cycles.push(self.path[at..].to_vec());
            return;
        }
        if !self.seen.insert(name) {
            return;
        }
        self.path.push(name);
        if let Some(view) = pending.get(name) {
            for read in &view.reads {
                if let Some((known, _)) = pending.get_key_value(read.name.as_str()) {
                    self.visit(known, pending);
                }
            }
        }
        self.path.pop();
        self.done.push(name);
    }
}
