//! Read plans: what a service or a list of features needs fetched, compiled
//! once a state and shared by all reads of it.
//!
//! A plan is *levels* of compute and fetch: a level computes what on-demand
//! views make of the levels before it and of the request's inputs, and fetches
//! what there are keys for by then. A level that only fetches takes all its keys
//! from the request, plain or renamed, if it is the first; a later one at least
//! one of them from a feature of the level before. Views of a level that take
//! the same keys from the same places in the same order are one *group*, whose
//! keys are encoded once and read together. A plan pins the generations that it
//! reads.
//!
//! A group that takes a key from each element of a list is read for all elements
//! of all entities at once. Its features are lists then, one element for each of
//! the keys, and only expressions take them.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use granary_catalog::Snapshot;
use granary_engine::{CompiledExpressions, InputColumn, LiveView};
use granary_model::definitions::{BoundView, Column, KeyBinding, KeySource, ServiceFeature};
use granary_model::{FeatureType, Interval, ViewKind, did_you_mean};
use granary_store::{Generation, GenerationId, OpenStream, RowDecoder};

use crate::error::ServingError;
use crate::query::QueryView;

mod compile;

pub(crate) use compile::{PlanSources, compile};

/// The published generations, pinned, by view and version.
pub type Pins = BTreeMap<String, BTreeMap<u32, Pin>>;

/// One published generation.
#[derive(Debug, Clone)]
pub struct Pin {
    pub id: GenerationId,
    pub generation: Arc<dyn Generation>,
}

/// How a target is read.
#[derive(Debug)]
pub struct ReadPlan {
    /// Number of the catalog snapshot that it was compiled from.
    pub snapshot: u64,
    /// The key columns that a request must have, in order of first use.
    pub request_keys: Vec<Column>,
    /// The inputs that a request may have, or must where they are needed.
    pub inputs: Vec<InputColumn>,
    pub levels: Vec<Level>,
    /// How many views are computed or fetched, over all levels and groups.
    pub fetches: usize,
    /// What runs wrote or look-ups compute: each entry of FROM with its fetch.
    pub views: Vec<(Arc<str>, usize)>,
    /// The answer's columns, in order.
    pub columns: Vec<PlannedColumn>,
    /// A short name that two columns would share, with the two features.
    pub clash: Option<String>,
    /// What whoever writes answers keeps with the plan.
    pub kept: Kept,
}

/// Something made once a plan, whatever it is.
#[derive(Default)]
pub struct Kept(OnceLock<Box<dyn Any + Send + Sync>>);

impl Kept {
    /// What was made first; `None` where that was of another type.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kept")
            .field(&self.0.get().is_some())
            .finish()
    }
}

/// What can be computed at once, and then fetched at once.
#[derive(Debug, Default)]
pub struct Level {
    /// Each after those that it reads.
    pub computed: Vec<ComputeStep>,
    pub groups: Vec<KeyGroup>,
}

/// The expressions of an on-demand view.
#[derive(Debug)]
pub struct ComputeStep {
    /// Its number among the plan's fetches.
    pub fetch: usize,
    pub expressions: Arc<CompiledExpressions>,
    /// Where each of their arguments comes from.
    pub arguments: Vec<ArgumentColumn>,
}

/// Where an argument of an expression comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentColumn {
    /// A position in `ReadPlan::inputs`.
    Input(usize),
    /// A feature that was fetched or computed before. What is not PRESENT there
    /// is NULL.
    Feature { fetch: usize, position: usize },
    /// The time of the read.
    AsOf,
}

/// Views that take the same keys.
#[derive(Debug)]
pub struct KeyGroup {
    /// The views' own key columns.
    pub columns: Vec<Column>,
    /// Where each of `columns` comes from.
    pub sources: Vec<KeyColumn>,
    pub online: Vec<OnlineRead>,
    /// Parallel to `online`.
    pub generations: Vec<Arc<dyn Generation>>,
    pub queries: Vec<QueryRead>,
    pub live: Vec<LiveViewRead>,
}

impl KeyGroup {
    /// The numbers of its fetches.
    pub fn fetches(&self) -> impl Iterator<Item = usize> {
        let online = self.online.iter().map(|read| read.fetch);
        let queries = self.queries.iter().map(|read| read.fetch);
        online
            .chain(queries)
            .chain(self.live.iter().map(|read| read.fetch))
    }
}

/// Where a key column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyColumn {
    /// A position in `ReadPlan::request_keys`.
    Request(usize),
    /// A feature that was fetched or computed before: which fetch, and where in
    /// its projection. What is not PRESENT there is a NULL key.
    Feature { fetch: usize, position: usize },
    /// Each element of a list that was computed before.
    Each { fetch: usize, position: usize },
}

/// A view that a run wrote to the online store.
#[derive(Debug)]
pub struct OnlineRead {
    /// Which fetch of the plan this is.
    pub fetch: usize,
    pub view: Arc<str>,
    /// Of the generation's layout, the features that are wanted.
    pub decoder: Arc<RowDecoder>,
    pub kind: ViewKind,
    pub ttl: Option<Interval>,
}

/// A view that is computed at request time.
#[derive(Debug)]
pub struct QueryRead {
    pub fetch: usize,
    pub view: Arc<QueryView>,
    /// Of the view's row layout, the features that are wanted.
    pub decoder: Arc<RowDecoder>,
}

/// A view that is answered from events.
#[derive(Debug)]
pub struct LiveViewRead {
    pub fetch: usize,
    pub view: Arc<LiveView>,
    /// Parallel to the view's sources.
    pub sources: Vec<LiveSourceRead>,
    /// Positions in the view's features.
    pub projection: Vec<usize>,
}

/// Where a live view finds its events.
#[derive(Debug)]
pub struct LiveSourceRead {
    pub stream: Arc<OpenStream>,
    /// The index's position in the stream's spec.
    pub index: usize,
    /// The position of the view's tile set there.
    pub tiles: Option<usize>,
}

/// One column of the answer.
#[derive(Debug, Clone)]
pub struct PlannedColumn {
    pub name: Arc<str>,
    pub full_name: Arc<str>,
    pub view: Arc<str>,
    pub view_version: u32,
    pub data_type: FeatureType,
    /// Which fetch gives it, and where in that fetch's projection.
    pub fetch: usize,
    pub position: usize,
}

impl PlannedColumn {
    pub fn answered_as(&self, full_names: bool) -> &Arc<str> {
        match full_names {
            true => &self.full_name,
            false => &self.name,
        }
    }
}

/// Why a target has no plan at a snapshot.
#[derive(Debug)]
pub enum NoPlan {
    /// Views without an online generation: an older snapshot may do.
    NotPublished(Vec<String>),
    /// A live view whose events are not open, or not filed under its keys: an
    /// older snapshot may do.
    NoEvents { view: String, stream: String },
    /// No other snapshot is asked.
    Refused(ServingError),
}

impl From<ServingError> for NoPlan {
    fn from(error: ServingError) -> Self {
        Self::Refused(error)
    }
}

/// A target as the compiler takes it: a service, or a list made like one.
#[derive(Debug, Clone)]
pub struct Selection<'a> {
    pub from: &'a [BoundView],
    pub features: &'a [ServiceFeature],
}

/// Turns a list of `view.feature` and `view.*` into what a service would say:
/// every view once, under its own name, by its own keys.
pub fn list_as_service(
    snapshot: &Snapshot,
    list: &[String],
) -> Result<(Vec<BoundView>, Vec<ServiceFeature>), ServingError> {
    let mut from: Vec<BoundView> = Vec::new();
    let mut features: Vec<ServiceFeature> = Vec::new();
    for item in list {
        let (view_name, feature_name) = item.split_once('.').ok_or_else(|| {
            ServingError::Invalid(format!(
                "{item:?} is not of the form view.feature or view.*"
            ))
        })?;
        let (keys, columns) = listed_view(snapshot, view_name)?;
        if !from.iter().any(|b| b.view == view_name) {
            let plain = |key: &Column| KeyBinding {
                key: key.clone(),
                source: KeySource::Request(key.name.clone()),
            };
            from.push(BoundView {
                alias: view_name.to_owned(),
                view: view_name.to_owned(),
                keys: keys.iter().map(plain).collect(),
            });
        }
        let mut add = |name: &str| {
            let feature = ServiceFeature {
                name: name.to_owned(),
                view_alias: view_name.to_owned(),
                feature: name.to_owned(),
                aggregate: None,
            };
            if features.contains(&feature) {
                let message = format!("{view_name}.{name} is asked for twice");
                return Err(ServingError::Invalid(message));
            }
            features.push(feature);
            Ok(())
        };
        if feature_name == "*" {
            columns.iter().try_for_each(|c| add(&c.name))?;
        } else if columns.iter().any(|c| c.name == feature_name) {
            add(feature_name)?;
        } else {
            return Err(unknown_feature(view_name, feature_name, columns));
        }
    }
    Ok((from, features))
}

/// Keys and features of a view that a list names.
fn listed_view<'a>(
    snapshot: &'a Snapshot,
    name: &str,
) -> Result<(&'a [Column], &'a [Column]), ServingError> {
    let d = &snapshot.definitions;
    if let Some(view) = d.feature_views.get(name) {
        return Ok((&view.keys, &view.features));
    }
    if let Some(view) = d.on_demand_views.get(name) {
        return Ok((&[], &view.features));
    }
    let known = d.feature_views.keys().map(String::as_str);
    Err(ServingError::Unknown {
        what: "feature view",
        name: name.to_owned(),
        suggestion: did_you_mean(name, known),
    })
}

fn unknown_feature(view: &str, feature: &str, columns: &[Column]) -> ServingError {
    let known = columns.iter().map(|c| c.name.as_str());
    ServingError::Unknown {
        what: "feature",
        name: format!("{view}.{feature}"),
        suggestion: did_you_mean(feature, known),
    }
}
