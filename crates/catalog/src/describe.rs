//! What there is to say about a defined object, computed once for the command
//! line and for gRPC.
//!
//! Works on definitions alone: what runs left behind (watermarks, statistics)
//! is added by whoever can see it.

use std::collections::{BTreeMap, BTreeSet};

use granary_model::definitions::{
    Annotations, BoundView, Column, Entity, EventTime, FeatureService, FeatureView, KeySource,
    OnDemandView, RequestColumns, ServeMode, SourceColumn, Stream,
};
use granary_model::{Definitions, ViewKind};
use serde::Serialize;

use crate::plan::ObjectKind;

/// An object in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectSummary {
    pub name: String,
    pub kind: ObjectKind,
    pub owner: Option<String>,
    pub comment: Option<String>,
    /// Of feature views, on demand or not.
    pub version: Option<u32>,
}

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRole {
    Key,
    EventTime,
    CreatedTime,
    ThenBy,
    Feature,
    /// A column that comes with the request.
    Input,
    /// Any other column of a table, view or stream.
    Column,
}

impl ColumnRole {
    /// In words: `event time`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::EventTime => "event time",
            Self::CreatedTime => "created time",
            Self::ThenBy => "then by",
            Self::Feature => "feature",
            Self::Input => "input",
            Self::Column => "column",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnDescription {
    pub name: String,
    pub role: ColumnRole,
    /// The SQL type; of sources the Arrow type.
    #[serde(rename = "type")]
    pub data_type: String,
    pub comment: Option<String>,
    /// Of a feature of a service: `view.feature`.
    pub source: Option<String>,
}

/// An object in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ObjectDescription {
    #[serde(flatten)]
    pub summary: ObjectSummary,
    pub tags: BTreeMap<String, String>,
    /// Keys first, then times, then the rest in SELECT order.
    pub columns: Vec<ColumnDescription>,
    /// Everything else that a definition says, in words: `kind` → `timestamped`.
    pub properties: BTreeMap<String, String>,
    /// Names of objects, sorted.
    pub depends_on: Vec<String>,
    /// Names of objects, sorted.
    pub used_by: Vec<String>,
    /// The query or statement as written; empty for entities and streams.
    pub sql: String,
}

/// Every object, by name.
pub fn summaries(definitions: &Definitions) -> Vec<ObjectSummary> {
    let d = definitions;
    let mut all: Vec<ObjectSummary> = Vec::new();
    let mut add = |name: &String, kind, annotations: &Annotations, version| {
        all.push(summary(name, kind, annotations, version));
    };
    for (name, e) in &d.entities {
        add(name, ObjectKind::Entity, &e.annotations, None);
    }
    for (name, t) in &d.tables {
        add(name, ObjectKind::Table, &t.annotations, None);
    }
    for (name, v) in &d.views {
        add(name, ObjectKind::View, &v.annotations, None);
    }
    for (name, s) in &d.streams {
        add(name, ObjectKind::Stream, &s.annotations, None);
    }
    for (name, v) in &d.feature_views {
        let kind = ObjectKind::FeatureView;
        add(name, kind, &v.annotations, Some(v.version));
    }
    for (name, v) in &d.on_demand_views {
        let kind = ObjectKind::OnDemandView;
        add(name, kind, &v.annotations, Some(v.version));
    }
    for (name, s) in &d.services {
        add(name, ObjectKind::FeatureService, &s.annotations, None);
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// One object in full; `None` where nothing bears the name.
pub fn describe(definitions: &Definitions, name: &str) -> Option<ObjectDescription> {
    let d = definitions;
    let mut described = if let Some(entity) = d.entities.get(name) {
        describe_entity(entity)
    } else if let Some(t) = d.tables.get(name) {
        let kind = ObjectKind::Table;
        describe_source(
            (name, kind),
            &t.annotations,
            &t.columns,
            t.event_time.as_ref(),
            (&t.sql, &[]),
        )
    } else if let Some(v) = d.views.get(name) {
        let kind = ObjectKind::View;
        describe_source(
            (name, kind),
            &v.annotations,
            &v.columns,
            v.event_time.as_ref(),
            (&v.sql, &v.depends_on),
        )
    } else if let Some(stream) = d.streams.get(name) {
        describe_stream(stream)
    } else if let Some(view) = d.feature_views.get(name) {
        describe_feature_view(view)
    } else if let Some(view) = d.on_demand_views.get(name) {
        describe_on_demand(d, view)
    } else {
        describe_service(d, d.services.get(name)?)
    };
    described.used_by = used_by(d, name);
    let roles = granted_roles(d, name);
    if !roles.is_empty() {
        described
            .properties
            .insert("granted to".into(), roles.join(", "));
    }
    Some(described)
}

/// Names of the objects that use `name` directly, sorted.
pub fn used_by(definitions: &Definitions, name: &str) -> Vec<String> {
    let d = definitions;
    let reads = |list: &[String]| list.iter().any(|n| n == name);
    let binds = |from: &[BoundView]| from.iter().any(|b| b.view == name);
    let mut users = BTreeSet::new();
    users.extend(
        d.views
            .values()
            .filter(|v| reads(&v.depends_on))
            .map(|v| &v.name),
    );
    users.extend(
        d.feature_views
            .values()
            .filter(|v| reads(&v.depends_on) || reads(&v.entities))
            .map(|v| &v.name),
    );
    users.extend(
        d.on_demand_views
            .values()
            .filter(|v| reads(&v.depends_on) || binds(&v.from))
            .map(|v| &v.name),
    );
    users.extend(
        d.services
            .values()
            .filter(|s| binds(&s.from))
            .map(|s| &s.name),
    );
    users.into_iter().cloned().collect()
}

fn granted_roles(definitions: &Definitions, name: &str) -> Vec<String> {
    let grants = definitions.grants.iter().filter(|g| g.object == name);
    grants.map(|g| g.role.clone()).collect()
}

fn summary(
    name: &str,
    kind: ObjectKind,
    annotations: &Annotations,
    version: Option<u32>,
) -> ObjectSummary {
    ObjectSummary {
        name: name.to_owned(),
        kind,
        owner: annotations.owner.clone(),
        comment: annotations.comment.clone(),
        version,
    }
}

fn blank(
    name: &str,
    kind: ObjectKind,
    annotations: &Annotations,
    version: Option<u32>,
) -> ObjectDescription {
    ObjectDescription {
        summary: summary(name, kind, annotations, version),
        tags: annotations.tags.clone(),
        columns: Vec::new(),
        properties: BTreeMap::new(),
        depends_on: Vec::new(),
        used_by: Vec::new(),
        sql: String::new(),
    }
}

fn column(column: &Column, role: ColumnRole) -> ColumnDescription {
    ColumnDescription {
        name: column.name.clone(),
        role,
        data_type: column.data_type.to_string(),
        comment: column.comment.clone(),
        source: None,
    }
}

fn time_column(name: &str, role: ColumnRole) -> ColumnDescription {
    column(
        &Column::new(name, granary_model::FeatureType::Timestamp),
        role,
    )
}

/// What an `EVENT TIME OF` makes of a column.
fn time_role(name: &str, event_time: Option<&EventTime>) -> ColumnRole {
    match event_time {
        Some(t) if t.event_time == name => ColumnRole::EventTime,
        Some(t) if t.created_time.as_deref() == Some(name) => ColumnRole::CreatedTime,
        _ => ColumnRole::Column,
    }
}

fn describe_entity(entity: &Entity) -> ObjectDescription {
    let mut described = blank(&entity.name, ObjectKind::Entity, &entity.annotations, None);
    described.columns = entity
        .keys
        .iter()
        .map(|k| column(k, ColumnRole::Key))
        .collect();
    described
}

fn describe_source(
    (name, kind): (&str, ObjectKind),
    annotations: &Annotations,
    columns: &[SourceColumn],
    event_time: Option<&EventTime>,
    (sql, depends_on): (&str, &[String]),
) -> ObjectDescription {
    let mut described = blank(name, kind, annotations, None);
    described.columns = columns
        .iter()
        .map(|c| ColumnDescription {
            name: c.name.clone(),
            role: time_role(&c.name, event_time),
            data_type: c.data_type.clone(),
            comment: c.comment.clone(),
            source: None,
        })
        .collect();
    if event_time.is_none() {
        let told = "none: a run reads it as it is now";
        described
            .properties
            .insert("event time".into(), told.into());
    }
    described.depends_on = depends_on.to_vec();
    described.sql = sql.to_owned();
    described
}

fn describe_stream(stream: &Stream) -> ObjectDescription {
    let mut described = blank(&stream.name, ObjectKind::Stream, &stream.annotations, None);
    described.columns = stream
        .columns
        .iter()
        .map(|c| {
            let is_time = c.name == stream.event_time;
            let role = if is_time {
                ColumnRole::EventTime
            } else {
                ColumnRole::Column
            };
            column(c, role)
        })
        .collect();
    for (property, names) in [
        ("deduplicate by", &stream.deduplicate_by),
        ("then by", &stream.then_by),
    ] {
        if !names.is_empty() {
            described
                .properties
                .insert(property.into(), names.join(", "));
        }
    }
    if let Some(history) = &stream.history {
        described
            .properties
            .insert("history".into(), history.clone());
    }
    described
}

fn describe_feature_view(view: &FeatureView) -> ObjectDescription {
    let kind = ObjectKind::FeatureView;
    let mut described = blank(&view.name, kind, &view.annotations, Some(view.version));
    let columns = &mut described.columns;
    columns.extend(view.keys.iter().map(|k| column(k, ColumnRole::Key)));
    let times = [
        (&view.event_time, ColumnRole::EventTime),
        (&view.created_time, ColumnRole::CreatedTime),
    ];
    for (name, role) in times {
        columns.extend(name.iter().map(|name| time_column(name, role)));
    }
    columns.extend(view.then_by.iter().map(|c| column(c, ColumnRole::ThenBy)));
    columns.extend(view.features.iter().map(|f| column(f, ColumnRole::Feature)));

    let properties = &mut described.properties;
    let mut say = |name: &str, value: String| {
        properties.insert(name.to_owned(), value);
    };
    say("kind", view.kind.as_str().to_owned());
    say("entities", view.entities.join(", "));
    say("serve", serve_in_words(view.serve));
    say(
        "values",
        if view.live || matches!(view.serve, ServeMode::Query { .. }) {
            "live: as of the read".to_owned()
        } else {
            "run: as of the last run".to_owned()
        },
    );
    if let Some(ttl) = view.ttl {
        say("ttl", ttl.to_string());
    }
    if let Some(every) = view.refresh_every {
        say("refresh every", every.to_string());
    }
    if let Some(n) = view.max_events {
        say("max events", n.to_string());
    }
    if view.kind == ViewKind::Windowed {
        let told = "answered: count is 0, other aggregates are NULL";
        say("keys without events", told.to_owned());
    }
    if !view.windows.is_empty() {
        let windows = view.windows.iter();
        let windows: Vec<String> = windows
            .map(|w| format!("{} OVER {}", w.aggregate, w.frame))
            .collect();
        say("windows", windows.join("\n"));
    }
    if view.calls_as_of && view.kind == ViewKind::Timestamped {
        let told = "each computes every row anew: the query calls as_of()";
        say("runs", told.to_owned());
    }
    if !view.current_state.is_empty() {
        say("reads as they are now", view.current_state.join(", "));
    }
    let mut depends_on: BTreeSet<String> = view.depends_on.iter().cloned().collect();
    depends_on.extend(view.entities.iter().cloned());
    described.depends_on = depends_on.into_iter().collect();
    described.sql.clone_from(&view.query);
    described
}

fn serve_in_words(serve: ServeMode) -> String {
    match serve {
        ServeMode::Online => "online".to_owned(),
        ServeMode::Query { cache_for: None } => "query".to_owned(),
        ServeMode::Query { cache_for: Some(d) } => format!("query, cached for {d}"),
        ServeMode::Offline => "offline".to_owned(),
    }
}

fn describe_on_demand(d: &Definitions, view: &OnDemandView) -> ObjectDescription {
    let kind = ObjectKind::OnDemandView;
    let mut described = blank(&view.name, kind, &view.annotations, Some(view.version));
    let itself = BoundView {
        alias: view.name.clone(),
        view: view.name.clone(),
        keys: Vec::new(),
    };
    described.columns = request_columns(d, &[itself]);
    let features = view.features.iter().map(|c| column(c, ColumnRole::Feature));
    described.columns.extend(features);
    described.properties = bindings_in_words(&view.from);
    let computed = "live: computed in the read".to_owned();
    described.properties.insert("values".into(), computed);
    let kind = "on demand".to_owned();
    described.properties.insert("kind".into(), kind);
    let mut depends_on: BTreeSet<String> = view.depends_on.iter().cloned().collect();
    depends_on.extend(view.from.iter().map(|b| b.view.clone()));
    described.depends_on = depends_on.into_iter().collect();
    described.sql.clone_from(&view.select);
    described
}

/// The columns that a request brings for views: keys, then inputs.
fn request_columns(d: &Definitions, from: &[BoundView]) -> Vec<ColumnDescription> {
    let RequestColumns { keys, inputs } = d.request_columns(from);
    // A name that is both is one column.
    let only = inputs
        .iter()
        .filter(|i| keys.iter().all(|k| k.name != i.name));
    let only = only.map(|c| column(c, ColumnRole::Input));
    let keys = keys.iter().map(|c| column(c, ColumnRole::Key));
    keys.chain(only).collect()
}

fn describe_service(d: &Definitions, service: &FeatureService) -> ObjectDescription {
    let kind = ObjectKind::FeatureService;
    let mut described = blank(&service.name, kind, &service.annotations, None);
    let keys = request_columns(d, &service.from);
    described.columns = keys;
    for feature in &service.features {
        let view = service.bound(&feature.view_alias).map(|b| b.view.as_str());
        let defined = view.and_then(|view| feature_column(d, view, &feature.feature));
        described.columns.push(ColumnDescription {
            name: feature.name.clone(),
            role: ColumnRole::Feature,
            data_type: match &feature.aggregate {
                Some(aggregate) => aggregate.data_type.to_string(),
                None => defined.map_or_else(String::new, |c| c.data_type.to_string()),
            },
            comment: defined.and_then(|c| c.comment.clone()),
            source: match &feature.aggregate {
                Some(aggregate) => Some(aggregate.sql.clone()),
                None => view.map(|view| format!("{view}.{}", feature.feature)),
            },
        });
    }
    described.properties = bindings_in_words(&service.from);
    let views: BTreeSet<String> = service.from.iter().map(|b| b.view.clone()).collect();
    described.depends_on = views.into_iter().collect();
    described
}

fn feature_column<'a>(d: &'a Definitions, view: &str, feature: &str) -> Option<&'a Column> {
    let on_demand = d.on_demand_views.get(view).map(|v| &v.features);
    let features = d.feature_views.get(view).map(|v| &v.features).or(on_demand);
    features?.iter().find(|f| f.name == feature)
}

/// `from customer_spend as guarantor` → `KEY (customer_id => guarantor_id)`, for
/// what is bound in another way than by the keys' own names.
fn bindings_in_words(from: &[BoundView]) -> BTreeMap<String, String> {
    let mut words = BTreeMap::new();
    for bound in from {
        let plain = |b: &granary_model::definitions::KeyBinding| matches!(&b.source, KeySource::Request(name) if *name == b.key.name);
        if bound.alias == bound.view && bound.keys.iter().all(plain) {
            continue;
        }
        let keys: Vec<String> = bound
            .keys
            .iter()
            .map(|b| match &b.source {
                KeySource::Request(name) | KeySource::Expression(name) => {
                    format!("{} => {name}", b.key.name)
                }
                KeySource::Feature { alias, feature } => {
                    format!("{} => {alias}.{feature}", b.key.name)
                }
                KeySource::Each(list) => format!("{} => EACH {list}", b.key.name),
            })
            .collect();
        let name = match bound.alias == bound.view {
            true => format!("from {}", bound.view),
            false => format!("from {} as {}", bound.view, bound.alias),
        };
        words.insert(name, format!("KEY ({})", keys.join(", ")));
    }
    words
}

#[cfg(test)]
mod tests;
