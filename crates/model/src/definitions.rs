//! Checked definitions: what `granary-engine` makes of the statements, what
//! the catalog stores and what everything else works from.
//!
//! Names are folded already, types resolved, `*` expanded, `*` of services
//! too. All maps are by name; one name names one object of any sort. The JSON
//! of these types is the catalog's file format: see `granary-catalog` for how
//! it is versioned.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;
use crate::{FeatureType, Interval};

/// The whole content of a catalog snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Definitions {
    pub entities: BTreeMap<String, Entity>,
    pub tables: BTreeMap<String, ExternalTable>,
    pub views: BTreeMap<String, PlainView>,
    pub streams: BTreeMap<String, Stream>,
    pub feature_views: BTreeMap<String, FeatureView>,
    pub on_demand_views: BTreeMap<String, OnDemandView>,
    pub services: BTreeMap<String, FeatureService>,
    pub grants: BTreeSet<Grant>,
}

impl Definitions {
    /// The feature views whose runs a view's query reads: directly, or through
    /// plain views and views that are computed at request time.
    pub fn runs_read<'a>(&'a self, view: &'a FeatureView) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut open: Vec<&str> = view.depends_on.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if !seen.insert(name) {
                continue;
            }
            let through = match (self.feature_views.get(name), self.views.get(name)) {
                (Some(view), _) if matches!(view.serve, ServeMode::Query { .. }) => {
                    &view.depends_on
                }
                (Some(view), _) => {
                    found.insert(view.name.as_str());
                    continue;
                }
                (None, Some(plain)) => &plain.depends_on,
                (None, None) => continue,
            };
            open.extend(through.iter().map(String::as_str));
        }
        found
    }
}

/// What a request brings for a read: each column once, in order of first use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestColumns {
    pub keys: Vec<Column>,
    /// Of on-demand views.
    pub inputs: Vec<Column>,
}

impl Definitions {
    /// The columns that a request brings for the views of a FROM, and for those
    /// that its on-demand views read. A key may be of two widths of integers;
    /// the first is told.
    pub fn request_columns(&self, from: &[BoundView]) -> RequestColumns {
        let mut columns = RequestColumns::default();
        let mut seen = BTreeSet::new();
        self.add_request_columns(from, &mut columns, &mut seen);
        columns
    }

    fn add_request_columns<'a>(
        &'a self,
        from: &'a [BoundView],
        columns: &mut RequestColumns,
        seen: &mut BTreeSet<&'a str>,
    ) {
        let add = |to: &mut Vec<Column>, column: &Column, name: &str| {
            if to.iter().all(|known| known.name != name) {
                to.push(Column {
                    name: name.to_owned(),
                    ..column.clone()
                });
            }
        };
        for bound in from {
            for binding in &bound.keys {
                if let KeySource::Request(name) = &binding.source {
                    add(&mut columns.keys, &binding.key, name);
                }
            }
            let Some(view) = self.on_demand_views.get(&bound.view) else {
                continue;
            };
            for input in &view.inputs {
                add(&mut columns.inputs, input, &input.name);
            }
            if seen.insert(&view.name) {
                self.add_request_columns(&view.from, columns, seen);
            }
        }
    }
}

/// A named, typed column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: FeatureType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Column {
    pub fn new(name: impl Into<String>, data_type: FeatureType) -> Self {
        Self {
            name: name.into(),
            data_type,
            comment: None,
        }
    }

    /// As an Arrow field, nullable.
    pub fn to_field(&self) -> Field {
        Field::new(&self.name, self.data_type.to_arrow(), true)
    }
}

/// Who answers for an object, and what is said of it. Changes make no new version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotations {
    pub owner: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub comment: Option<String>,
}

/// What features describe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    pub name: String,
    pub keys: Vec<Column>,
    pub annotations: Annotations,
}

/// When the rows of a table or view happened, and when they were written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventTime {
    pub event_time: String,
    pub created_time: Option<String>,
}

/// `CREATE EXTERNAL TABLE`, kept as text: DataFusion's own statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalTable {
    pub name: String,
    /// The statement as written, without the final `;`.
    pub sql: String,
    /// Name and Arrow type (in Arrow's own notation) of each column at `apply`.
    pub columns: Vec<SourceColumn>,
    pub event_time: Option<EventTime>,
    pub annotations: Annotations,
    /// Of the statement, the columns and the event time.
    pub fingerprint: Fingerprint,
}

/// A column of a source, whose type may be any that Arrow has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceColumn {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// `CREATE VIEW`: a shared cleaning step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainView {
    pub name: String,
    /// The statement as written, without the final `;`.
    pub sql: String,
    pub columns: Vec<SourceColumn>,
    pub event_time: Option<EventTime>,
    /// Names that the query reads, sorted.
    pub depends_on: Vec<String>,
    pub annotations: Annotations,
    /// Of the query, the event time and of everything that it depends on.
    pub fingerprint: Fingerprint,
}

/// `CREATE STREAM`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub name: String,
    pub columns: Vec<Column>,
    pub event_time: String,
    pub deduplicate_by: Vec<String>,
    pub history: Option<String>,
    pub then_by: Vec<String>,
    pub annotations: Annotations,
    pub fingerprint: Fingerprint,
}

impl Stream {
    /// The column that a stream's relation has behind the stream's own: when an
    /// event was acknowledged. Strictly increasing, never NULL.
    pub const CREATED_TIME: &str = "_created";
    /// Of history tables, behind [`Self::CREATED_TIME`]: the event's number.
    pub const SEQUENCE: &str = "_seq";

    /// The columns of the stream as a relation.
    pub fn row_schema(&self) -> SchemaRef {
        let mut fields: Vec<Field> = self.columns.iter().map(Column::to_field).collect();
        fields.push(Field::new(
            Self::CREATED_TIME,
            FeatureType::Timestamp.to_arrow(),
            true,
        ));
        std::sync::Arc::new(Schema::new(fields))
    }

    /// The columns of the stream's history table: [`Self::row_schema`], then the
    /// event's number.
    pub fn history_schema(&self) -> SchemaRef {
        let mut fields: Vec<_> = self.row_schema().fields().iter().cloned().collect();
        let sequence = Field::new(Self::SEQUENCE, FeatureType::BigInt.to_arrow(), true);
        fields.push(std::sync::Arc::new(sequence));
        std::sync::Arc::new(Schema::new(fields))
    }

    /// What stored events are of: under another text they cannot be read.
    pub fn stored_as(&self) -> String {
        let columns = self.columns.iter();
        let columns: Vec<String> = columns
            .map(|column| format!("{:?} {}", column.name, column.data_type))
            .collect();
        format!(
            "({}) EVENT TIME {:?} DEDUPLICATE BY {:?}",
            columns.join(", "),
            self.event_time,
            self.deduplicate_by
        )
    }

    /// When its events happened, and when they were acknowledged.
    pub fn times(&self) -> EventTime {
        EventTime {
            event_time: self.event_time.clone(),
            created_time: Some(Self::CREATED_TIME.to_owned()),
        }
    }
}

/// How a feature view's value as of t comes about; decided by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewKind {
    /// The row of greatest event time at or before t, within the TTL.
    Timestamped,
    /// Aggregates over windows that end at t.
    Windowed,
    /// The row of the newest run at or before t.
    Snapshot,
}

impl ViewKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timestamped => "timestamped",
            Self::Windowed => "windowed",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Where online values of a view come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServeMode {
    /// Materialised into the online store.
    #[default]
    Online,
    /// Computed from the sources at request time; results kept this long.
    Query { cache_for: Option<Interval> },
    /// Not served; for training sets.
    Offline,
}

/// A SQL query that gives feature values for an entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureView {
    pub name: String,
    /// 1, 2, ... as the fingerprint changed; a known fingerprint keeps its number.
    /// 0 until the catalog has given it one.
    pub version: u32,
    /// Of the query, keys, times and types, and of everything that it depends on.
    pub fingerprint: Fingerprint,
    pub kind: ViewKind,
    pub entities: Vec<String>,
    /// The key columns of the entities, in their order; names and types.
    pub keys: Vec<Column>,
    /// `Some` for timestamped and windowed views. Of a timestamped view it is an output column.
    pub event_time: Option<String>,
    pub created_time: Option<String>,
    pub then_by: Vec<Column>,
    pub ttl: Option<Interval>,
    pub max_events: Option<u64>,
    pub refresh_every: Option<Interval>,
    pub serve: ServeMode,
    /// The query as written.
    pub query: String,
    /// Output columns other than keys, times and THEN BY columns, in SELECT order.
    pub features: Vec<Column>,
    /// Every name that the query reads directly, sorted.
    pub depends_on: Vec<String>,
    /// Sources, read directly or through plain views, that have no event time:
    /// a run reads them as they are now.
    pub current_state: Vec<String>,
    /// Whether its rows depend on T by more than the cut: its query calls
    /// `as_of()`, itself or through plain views.
    #[serde(default)]
    pub calls_as_of: bool,
    /// Whether it reads a stream row by row, so that its online value is as of the read.
    pub live: bool,
    /// Of a windowed view: its aggregates and their frames, as they were understood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<WindowAggregate>,
    pub annotations: Annotations,
}

/// An aggregate of a windowed view, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowAggregate {
    /// `sum(amount) FILTER (WHERE settled)`.
    pub aggregate: String,
    /// `RANGE 7 days TO 0 seconds`: distances back from t.
    pub frame: String,
}

impl FeatureView {
    /// Whether it is answered from the events of streams when it is read; runs
    /// write nothing of it.
    pub fn is_live(&self) -> bool {
        self.live && self.serve == ServeMode::Online
    }

    /// Whether a run adds to the rows of the runs before it those after their
    /// watermark. Every other view is computed whole by each run, as of its T,
    /// and the runs stand beside each other.
    pub fn is_incremental(&self) -> bool {
        self.kind == ViewKind::Timestamped && !self.calls_as_of
    }

    /// The columns of the offline table's rows, without bookkeeping columns:
    /// keys, event time, created time, THEN BY columns, features.
    pub fn row_schema(&self) -> SchemaRef {
        let time = |name: &String| Field::new(name, FeatureType::Timestamp.to_arrow(), true);
        let mut fields: Vec<Field> = self.keys.iter().map(Column::to_field).collect();
        if self.kind == ViewKind::Timestamped {
            fields.extend(self.event_time.iter().map(time));
            fields.extend(self.created_time.iter().map(time));
            fields.extend(self.then_by.iter().map(Column::to_field));
        }
        fields.extend(self.features.iter().map(Column::to_field));
        std::sync::Arc::new(Schema::new(fields))
    }

    pub fn feature(&self, name: &str) -> Option<&Column> {
        self.features.iter().find(|f| f.name == name)
    }
}

/// Scalar SQL over other features and request inputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnDemandView {
    pub name: String,
    pub version: u32,
    pub fingerprint: Fingerprint,
    pub inputs: Vec<Column>,
    /// The SELECT list as written.
    pub select: String,
    pub from: Vec<BoundView>,
    pub features: Vec<Column>,
    pub depends_on: Vec<String>,
    pub annotations: Annotations,
}

/// One view in the FROM of a service or on-demand view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundView {
    /// The view's name unless `AS` says otherwise; unique in its FROM.
    pub alias: String,
    pub view: String,
    /// Where each key of the view comes from, in the order of the view's keys.
    /// Empty for on-demand views.
    pub keys: Vec<KeyBinding>,
}

/// Where a key's value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBinding {
    pub key: Column,
    pub source: KeySource,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// A key column of the request, by this name: the key's own, or a renaming.
    Request(String),
    /// A feature (`alias`, feature name) of another view in the same FROM.
    Feature { alias: String, feature: String },
    /// A scalar expression over inputs and features.
    Expression(String),
    /// Every element of a list-valued expression.
    Each(String),
}

/// A named list of features that one consumer reads together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureService {
    pub name: String,
    pub from: Vec<BoundView>,
    /// In SELECT order, `*` expanded.
    pub features: Vec<ServiceFeature>,
    pub annotations: Annotations,
}

impl BoundView {
    /// Whether it is read for each element of a list.
    pub fn is_each(&self) -> bool {
        let mut keys = self.keys.iter();
        keys.any(|binding| matches!(binding.source, KeySource::Each(_)))
    }
}

impl FeatureService {
    pub fn bound(&self, alias: &str) -> Option<&BoundView> {
        self.from.iter().find(|b| b.alias == alias)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFeature {
    /// The alias, else the feature's own name.
    pub name: String,
    /// Which entry of `from`.
    pub view_alias: String,
    /// Of an aggregate its name.
    pub feature: String,
    /// Over a view that is read for each element of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<ServiceAggregate>,
}

impl ServiceFeature {
    /// Unique in a service: `view__feature`.
    pub fn full_name(&self) -> String {
        format!("{}__{}", self.view_alias, self.feature)
    }

    /// What an answer calls it.
    pub fn answered_as(&self, full_names: bool) -> String {
        match full_names {
            true => self.full_name(),
            false => self.name.clone(),
        }
    }
}

/// `sum(contact.applied_14d)`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAggregate {
    pub sql: String,
    #[serde(rename = "type")]
    pub data_type: FeatureType,
}

/// `GRANT READ ON .. TO ROLE ..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    pub object: String,
    pub role: String,
}
