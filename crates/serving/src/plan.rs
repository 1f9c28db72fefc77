//! Read plans: what a service or a list of features needs fetched, compiled
//! once a state and shared by all reads of it.
//!
//! A plan is *levels* of fetch and compute: a level fetches what the levels
//! before it gave keys for. Views that take the same key columns of the
//! request in the same order are one *group*, whose keys are encoded once and
//! read together. A plan pins the generations that it reads.
//!
//! Today every key comes from the request, plain or renamed, so that there is
//! one level; keys from features, expressions and lists, and on-demand views,
//! are refused as not served here.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_catalog::Snapshot;
use granary_model::definitions::{
    BoundView, Column, FeatureView, KeyBinding, KeySource, ServeMode, ServiceFeature,
};
use granary_model::{FeatureType, Interval, ViewKind, did_you_mean};
use granary_store::{Generation, GenerationId, StoreError};

use crate::error::ServingError;
use crate::query::{QueryView, QueryViews};

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
    pub levels: Vec<Level>,
    /// How many views are fetched, over all levels and groups.
    pub fetches: usize,
    /// The answer's columns, in order.
    pub columns: Vec<PlannedColumn>,
    /// A short name that two columns would share, with the two features.
    pub clash: Option<String>,
}

/// What can be fetched at once.
#[derive(Debug, Default)]
pub struct Level {
    pub groups: Vec<KeyGroup>,
}

/// Views that take the same keys.
#[derive(Debug)]
pub struct KeyGroup {
    /// Positions in `ReadPlan::request_keys`, in the order of `columns`.
    pub request: Vec<usize>,
    /// The views' own key columns.
    pub columns: Vec<Column>,
    pub online: Vec<OnlineRead>,
    /// Parallel to `online`.
    pub generations: Vec<Arc<dyn Generation>>,
    pub queries: Vec<QueryRead>,
}

/// A view that a run wrote to the online store.
#[derive(Debug)]
pub struct OnlineRead {
    /// Which fetch of the plan this is.
    pub fetch: usize,
    pub view: Arc<str>,
    /// Positions in the generation's layout.
    pub projection: Vec<usize>,
    pub kind: ViewKind,
    pub ttl: Option<Interval>,
}

/// A view that is computed at request time.
#[derive(Debug)]
pub struct QueryRead {
    pub fetch: usize,
    pub view: Arc<QueryView>,
    /// Positions in the view's row layout.
    pub projection: Vec<usize>,
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

/// Why a target has no plan at a snapshot.
#[derive(Debug)]
pub enum NoPlan {
    /// Views without an online generation: an older snapshot may do.
    NotPublished(Vec<String>),
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

/// Compiles a selection against a snapshot and what is published.
pub(crate) fn compile(
    snapshot: &Arc<Snapshot>,
    selection: &Selection<'_>,
    pins: &Pins,
    queries: &QueryViews,
) -> Result<ReadPlan, NoPlan> {
    let mut compiler = Compiler {
        snapshot,
        pins,
        queries,
        unpublished: Vec::new(),
        bound: BTreeMap::new(),
        plan: ReadPlan {
            snapshot: snapshot.number,
            request_keys: Vec::new(),
            levels: vec![Level::default()],
            fetches: 0,
            columns: Vec::with_capacity(selection.features.len()),
            clash: None,
        },
    };
    for bound in selection.from {
        compiler.bind(bound)?;
    }
    if !compiler.unpublished.is_empty() {
        return Err(NoPlan::NotPublished(compiler.unpublished));
    }
    for feature in selection.features {
        compiler.select(feature)?;
    }
    compiler.plan.clash = clash(&compiler.plan.columns);
    Ok(compiler.plan)
}

/// Where the fetch of one entry of FROM stands in the plan.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    view: &'a FeatureView,
    group: usize,
    /// In the group's `online` or `queries`.
    index: usize,
}

#[derive(Debug)]
struct Compiler<'a> {
    snapshot: &'a Arc<Snapshot>,
    pins: &'a Pins,
    queries: &'a QueryViews,
    unpublished: Vec<String>,
    /// By alias.
    bound: BTreeMap<&'a str, Place<'a>>,
    plan: ReadPlan,
}

impl<'a> Compiler<'a> {
    /// Adds one entry of FROM: its keys, its group, its fetch.
    fn bind(&mut self, bound: &'a BoundView) -> Result<(), NoPlan> {
        let view = served_view(self.snapshot, bound)?;
        let mut request = Vec::with_capacity(bound.keys.len());
        for binding in &bound.keys {
            request.push(self.request_key(bound, binding)?);
        }
        if self.waits_for_runs(view) {
            return Ok(());
        }
        let group = self.group(request, bound);
        let index = match view.serve {
            ServeMode::Online => self.add_online(group, view),
            _ => self.add_query(group, view),
        };
        let place = Place { view, group, index };
        self.bound.insert(&bound.alias, place);
        Ok(())
    }

    /// Whether a view, or one that its query reads, has not run at this version;
    /// notes down which.
    fn waits_for_runs(&mut self, view: &FeatureView) -> bool {
        let snapshot: &'a Snapshot = self.snapshot;
        let definitions = &snapshot.definitions;
        let runs = match view.serve {
            ServeMode::Online => vec![view],
            _ => {
                let names = definitions.runs_read(view).into_iter();
                names.map(|name| &definitions.feature_views[name]).collect()
            }
        };
        let mut waits = false;
        for view in runs {
            // Of what is not served online it is known when it is read.
            if view.serve == ServeMode::Online && self.pin(view).is_none() {
                waits = true;
                if !self.unpublished.contains(&view.name) {
                    self.unpublished.push(view.name.clone());
                }
            }
        }
        waits
    }

    fn pin(&self, view: &FeatureView) -> Option<&'a Pin> {
        self.pins.get(&view.name)?.get(&view.version)
    }

    /// The position of a binding's request column, added where it is new.
    fn request_key(&mut self, bound: &BoundView, b: &KeyBinding) -> Result<usize, ServingError> {
        let KeySource::Request(name) = &b.source else {
            return Err(ServingError::Unserved(format!(
                "{}: the key {} is bound to an expression or feature, which this version does not serve",
                bound.alias, b.key.name
            )));
        };
        let keys = &mut self.plan.request_keys;
        if let Some(at) = keys.iter().position(|k| k.name == *name) {
            // Where two views differ in width the narrower type is asked for:
            // it widens to the other.
            if keys[at].data_type.accepts_key(&b.key.data_type) {
                keys[at].data_type = b.key.data_type.clone();
            } else if !b.key.data_type.accepts_key(&keys[at].data_type) {
                return Err(ServingError::Invalid(format!(
                    "the key column {name} would be {} for one view and {} for {}",
                    keys[at].data_type, b.key.data_type, bound.alias
                )));
            }
            return Ok(at);
        }
        keys.push(Column::new(name.clone(), b.key.data_type.clone()));
        Ok(keys.len() - 1)
    }

    fn group(&mut self, request: Vec<usize>, bound: &BoundView) -> usize {
        let types = |columns: &[Column]| -> Vec<FeatureType> {
            columns.iter().map(|c| c.data_type.clone()).collect()
        };
        let columns: Vec<Column> = bound.keys.iter().map(|b| b.key.clone()).collect();
        let groups = &mut self.plan.levels[0].groups;
        let same = |g: &KeyGroup| g.request == request && types(&g.columns) == types(&columns);
        if let Some(at) = groups.iter().position(same) {
            return at;
        }
        groups.push(KeyGroup {
            request,
            columns,
            online: Vec::new(),
            generations: Vec::new(),
            queries: Vec::new(),
        });
        groups.len() - 1
    }

    fn add_online(&mut self, group: usize, view: &FeatureView) -> usize {
        let Some(pin) = self.pin(view) else {
            return 0;
        };
        let group = &mut self.plan.levels[0].groups[group];
        if let Some(at) = group.online.iter().position(|o| *o.view == *view.name) {
            return at;
        }
        group.generations.push(Arc::clone(&pin.generation));
        group.online.push(OnlineRead {
            fetch: self.plan.fetches,
            view: view.name.as_str().into(),
            projection: Vec::new(),
            kind: view.kind,
            ttl: view.ttl,
        });
        self.plan.fetches += 1;
        group.online.len() - 1
    }

    fn add_query(&mut self, group: usize, view: &FeatureView) -> usize {
        let group = &mut self.plan.levels[0].groups[group];
        if let Some(at) = group
            .queries
            .iter()
            .position(|q| q.view.name() == view.name)
        {
            return at;
        }
        group.queries.push(QueryRead {
            fetch: self.plan.fetches,
            view: self.queries.view(self.snapshot, view),
            projection: Vec::new(),
        });
        self.plan.fetches += 1;
        group.queries.len() - 1
    }

    /// Adds one column of the answer.
    fn select(&mut self, feature: &ServiceFeature) -> Result<(), ServingError> {
        let place = self.bound.get(feature.view_alias.as_str()).copied();
        let place = place.ok_or_else(|| ServingError::Unknown {
            what: "view",
            name: feature.view_alias.clone(),
            suggestion: String::new(),
        })?;
        let view = place.view;
        let defined = view
            .feature(&feature.feature)
            .ok_or_else(|| unknown_feature(&view.name, &feature.feature, &view.features))?;
        let group = &mut self.plan.levels[0].groups[place.group];
        let (fetch, projection, layout) = if view.serve == ServeMode::Online {
            let read = &mut group.online[place.index];
            let layout = group.generations[place.index].layout();
            (read.fetch, &mut read.projection, layout)
        } else {
            let read = &mut group.queries[place.index];
            (read.fetch, &mut read.projection, read.view.layout())
        };
        let stored = layout
            .features
            .iter()
            .position(|c| c.name == defined.name && c.data_type == defined.data_type)
            .ok_or_else(|| StoreError::LayoutChanged {
                view: view.name.clone(),
                version: view.version,
            })?;
        let known = projection.iter().position(|p| *p == stored);
        let position = known.unwrap_or_else(|| {
            projection.push(stored);
            projection.len() - 1
        });
        self.plan.columns.push(PlannedColumn {
            name: feature.name.as_str().into(),
            full_name: format!("{}__{}", feature.view_alias, feature.feature).into(),
            view: view.name.as_str().into(),
            view_version: view.version,
            data_type: defined.data_type.clone(),
            fetch,
            position,
        });
        Ok(())
    }
}

/// The view of an entry of FROM, if this version serves its kind.
fn served_view<'a>(
    snapshot: &'a Snapshot,
    bound: &BoundView,
) -> Result<&'a FeatureView, ServingError> {
    let d = &snapshot.definitions;
    let unserved = |what: &str| ServingError::Unserved(format!("{}: {what}", bound.view));
    if d.on_demand_views.contains_key(&bound.view) {
        return Err(unserved("on-demand views are not served by this version"));
    }
    let Some(view) = d.feature_views.get(&bound.view) else {
        let known = d.feature_views.keys().map(String::as_str);
        return Err(ServingError::Unknown {
            what: "feature view",
            name: bound.view.clone(),
            suggestion: did_you_mean(&bound.view, known),
        });
    };
    if view.serve == ServeMode::Offline {
        let message = format!(
            "{} is SERVE OFFLINE: it is for training sets only",
            view.name
        );
        return Err(ServingError::Invalid(message));
    }
    if view.live {
        return Err(unserved("live views are not served by this version"));
    }
    if view.kind == ViewKind::Windowed {
        return Err(unserved("windowed views are not served by this version"));
    }
    Ok(view)
}

/// What two columns of one short name are, in words.
fn clash(columns: &[PlannedColumn]) -> Option<String> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    columns.iter().find_map(|c| {
        let other = seen.insert(&c.name, &c.full_name)?;
        Some(format!(
            "{other} and {} are both named {}",
            c.full_name, c.name
        ))
    })
}
