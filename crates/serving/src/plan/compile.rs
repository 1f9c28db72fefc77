//! From an expanded selection to its plan: levels by where keys and arguments
//! come from, groups by which keys they are, projections by which features
//! anyone wants.

use std::collections::BTreeMap;
use std::sync::Arc;

use granary_catalog::Snapshot;
use granary_engine::{Argument, Computed, Expanded, LiveView, source_of};
use granary_model::definitions::{
    BoundView, Column, FeatureView, KeyBinding, KeySource, ServeMode, ServiceFeature,
};
use granary_model::{FeatureType, did_you_mean};
use granary_store::streams::StreamsByName;
use granary_store::{RowDecoder, StoreError};

use super::{
    ArgumentColumn, ComputeStep, Kept, KeyColumn, KeyGroup, Level, LiveSourceRead, LiveViewRead,
    NoPlan, OnlineRead, Pin, Pins, PlannedColumn, QueryRead, ReadPlan, Selection, unknown_feature,
};
use crate::error::ServingError;
use crate::live::CompiledViews;
use crate::query::QueryViews;

/// What a plan can read from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanSources<'a> {
    pub pins: &'a Pins,
    pub queries: &'a QueryViews,
    /// The live views of the selection.
    pub live: &'a CompiledViews,
    pub streams: &'a StreamsByName,
}

/// Compiles a selection against a snapshot and what is published.
pub(crate) fn compile(
    snapshot: &Arc<Snapshot>,
    selection: &Selection<'_>,
    expanded: &Expanded,
    sources: PlanSources<'_>,
) -> Result<ReadPlan, NoPlan> {
    let mut compiler = Compiler {
        snapshot,
        sources,
        bound: BTreeMap::new(),
        plan: ReadPlan {
            snapshot: snapshot.number,
            request_keys: Vec::new(),
            inputs: expanded.inputs.clone(),
            levels: Vec::new(),
            fetches: 0,
            views: Vec::new(),
            columns: Vec::with_capacity(selection.features.len()),
            clash: None,
            kept: Kept::default(),
        },
    };
    let mut unpublished: Vec<String> = Vec::new();
    for bound in &expanded.from {
        let view = compiler.admit(bound)?;
        if view.is_live() {
            compiler.live_sources(view)?;
        }
        for waits in compiler.waits_for_runs(view) {
            if !unpublished.contains(&waits.name) {
                unpublished.push(waits.name.clone());
            }
        }
    }
    if !unpublished.is_empty() {
        return Err(NoPlan::NotPublished(unpublished));
    }
    compiler.bind_levels(expanded)?;
    for feature in selection.features {
        compiler.select(feature)?;
    }
    compiler.plan.clash = clash(&compiler.plan.columns);
    Ok(compiler.plan)
}

/// Where one entry of FROM stands in the plan.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    Fetched {
        view: &'a FeatureView,
        level: usize,
        group: usize,
        /// In the group's `online` or `queries`.
        index: usize,
    },
    Computed {
        computed: &'a Computed,
        fetch: usize,
    },
}

#[derive(Debug)]
struct Compiler<'a> {
    snapshot: &'a Arc<Snapshot>,
    sources: PlanSources<'a>,
    /// By alias.
    bound: BTreeMap<&'a str, Place<'a>>,
    plan: ReadPlan,
}

impl<'a> Compiler<'a> {
    /// Takes note of what an entry of FROM asks of the request.
    fn admit(&mut self, bound: &'a BoundView) -> Result<&'a FeatureView, ServingError> {
        let view = served_view(self.snapshot, bound)?;
        for binding in &bound.keys {
            match &binding.source {
                KeySource::Request(name) => {
                    self.request_key(bound, &binding.key, name)?;
                }
                KeySource::Feature { .. } => {}
                KeySource::Each(_) => {}
                KeySource::Expression(_) => return Err(unexpanded_key(bound, binding)),
            }
        }
        Ok(view)
    }

    /// Of a view and those that its query reads, what has not run at its version.
    fn waits_for_runs(&self, view: &'a FeatureView) -> Vec<&'a FeatureView> {
        let snapshot: &'a Snapshot = self.snapshot;
        let definitions = &snapshot.definitions;
        let mut runs = match view.serve {
            ServeMode::Online if view.is_live() => Vec::new(),
            ServeMode::Online => vec![view],
            _ => {
                let names = definitions.runs_read(view).into_iter();
                names.map(|name| &definitions.feature_views[name]).collect()
            }
        };
        // Of what is not served online it is known when it is read.
        runs.retain(|view| view.serve == ServeMode::Online && self.pin(view).is_none());
        runs
    }

    fn pin(&self, view: &FeatureView) -> Option<&'a Pin> {
        self.sources.pins.get(&view.name)?.get(&view.version)
    }

    fn live_view(&self, view: &FeatureView) -> Result<&'a Arc<LiveView>, ServingError> {
        let compiled = self.sources.live.get(&view.name);
        compiled.ok_or_else(|| {
            ServingError::Invalid(format!("{}: its live form was not compiled", view.name))
        })
    }

    /// Where a live view finds its events: in streams that are open as the
    /// snapshot has them.
    fn live_sources(&self, view: &FeatureView) -> Result<Vec<LiveSourceRead>, NoPlan> {
        let defined = &self.snapshot.definitions.streams;
        let sources = self.live_view(view)?.sources().iter().map(|source| {
            let stream = self.sources.streams.get(source.stream());
            let stream = stream.filter(|stream| {
                let defined = defined.get(source.stream());
                defined.is_some_and(|defined| defined.stored_as() == stream.definition.stored_as())
            });
            let index = stream.and_then(|s| s.events.spec().index(&source.index().name));
            match (stream, index) {
                (Some(stream), Some(index)) => Ok(LiveSourceRead {
                    tiles: source.tiles().and_then(|set| {
                        let spec = stream.events.spec();
                        spec.tile_set(&set.name, set.version)
                    }),
                    stream: Arc::clone(stream),
                    index,
                }),
                _ => Err(NoPlan::NoEvents {
                    view: view.name.clone(),
                    stream: source.stream().to_owned(),
                }),
            }
        });
        sources.collect()
    }

    /// The position of a key column of the request, added where it is new.
    fn request_key(
        &mut self,
        bound: &BoundView,
        key: &Column,
        name: &str,
    ) -> Result<usize, ServingError> {
        let keys = &mut self.plan.request_keys;
        let Some(at) = keys.iter().position(|k| k.name == name) else {
            keys.push(Column::new(name, key.data_type.clone()));
            return Ok(keys.len() - 1);
        };
        // Where two views differ in width the narrower type is asked for:
        // it widens to the other.
        if keys[at].data_type.accepts_key(&key.data_type) {
            keys[at].data_type = key.data_type.clone();
        } else if !key.data_type.accepts_key(&keys[at].data_type) {
            return Err(ServingError::Invalid(format!(
                "the key column {name} would be {} for one view and {} for {}",
                keys[at].data_type, key.data_type, bound.alias
            )));
        }
        Ok(at)
    }

    /// Places every entry of FROM: in each level what can be computed by then,
    /// and then those views whose keys are all known.
    fn bind_levels(&mut self, expanded: &'a Expanded) -> Result<(), NoPlan> {
        let mut waiting: Vec<&BoundView> = expanded.from.iter().collect();
        let mut uncomputed: Vec<&Computed> = expanded.computed.iter().collect();
        while !waiting.is_empty() || !uncomputed.is_empty() {
            self.plan.levels.push(Level::default());
            let before = uncomputed.len();
            // They stand after those that they read.
            let mut later = Vec::new();
            for computed in uncomputed {
                match self.has_arguments_of(computed, expanded) {
                    true => self.bind_computed(computed)?,
                    false => later.push(computed),
                }
            }
            uncomputed = later;
            let (ready, blocked): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|b| self.has_keys_of(b, expanded));
            if ready.is_empty() && uncomputed.len() == before {
                let names = blocked.iter().map(|b| b.alias.as_str());
                let names = names.chain(uncomputed.iter().map(|c| c.alias.as_str()));
                return Err(NoPlan::Refused(ServingError::Invalid(format!(
                    "the keys of {} depend on each other",
                    names.collect::<Vec<_>>().join(", ")
                ))));
            }
            let mut places = Vec::with_capacity(ready.len());
            for bound in ready {
                places.push((bound.alias.as_str(), self.bind(bound)?));
            }
            self.bound.extend(places);
            waiting = blocked;
        }
        Ok(())
    }

    /// Whether an entry is placed. What is not in FROM counts as placed: whoever
    /// reads it says so.
    fn is_placed(&self, alias: &str, expanded: &Expanded) -> bool {
        let waits = expanded.from.iter().any(|b| b.alias == alias)
            || expanded.computed.iter().any(|c| c.alias == alias);
        self.bound.contains_key(alias) || !waits
    }

    fn has_keys_of(&self, bound: &BoundView, expanded: &Expanded) -> bool {
        bound.keys.iter().all(|binding| match &binding.source {
            KeySource::Feature { alias, .. } | KeySource::Each(alias) => {
                self.is_placed(alias, expanded)
            }
            KeySource::Request(_) | KeySource::Expression(_) => true,
        })
    }

    fn has_arguments_of(&self, computed: &Computed, expanded: &Expanded) -> bool {
        let mut arguments = computed.expressions.arguments().iter();
        arguments.all(|argument| match argument {
            Argument::Feature { alias, .. } => self.is_placed(alias, expanded),
            Argument::Input(_) | Argument::AsOf => true,
        })
    }

    /// Adds expressions to the last level.
    fn bind_computed(&mut self, computed: &'a Computed) -> Result<(), ServingError> {
        let mut arguments = Vec::new();
        for argument in computed.expressions.arguments() {
            arguments.push(match argument {
                Argument::AsOf => ArgumentColumn::AsOf,
                Argument::Input(name) => ArgumentColumn::Input(self.input(computed, name)?),
                Argument::Feature { alias, feature } => {
                    let taken = self.project(alias, feature)?;
                    ArgumentColumn::Feature {
                        fetch: taken.fetch,
                        position: taken.position,
                    }
                }
            });
        }
        let fetch = self.plan.fetches;
        self.plan.fetches += 1;
        let step = ComputeStep {
            fetch,
            expressions: Arc::clone(&computed.expressions),
            arguments,
        };
        if let Some(level) = self.plan.levels.last_mut() {
            level.computed.push(step);
        }
        self.bound
            .insert(&computed.alias, Place::Computed { computed, fetch });
        Ok(())
    }

    fn input(&self, computed: &Computed, name: &str) -> Result<usize, ServingError> {
        let mut inputs = self.plan.inputs.iter();
        let place = inputs.position(|input| input.column.name == name);
        place.ok_or_else(|| {
            ServingError::Invalid(format!("{}: unknown input {name:?}", computed.view))
        })
    }

    /// Adds one entry of FROM to the last level: its keys, its group, its fetch.
    fn bind(&mut self, bound: &'a BoundView) -> Result<Place<'a>, NoPlan> {
        let view = served_view(self.snapshot, bound)?;
        let mut sources = Vec::with_capacity(bound.keys.len());
        for binding in &bound.keys {
            sources.push(self.key_column(bound, binding)?);
        }
        let level = self.plan.levels.len() - 1;
        let group = self.group(level, sources, bound);
        let index = match (view.serve, self.pin(view)) {
            (ServeMode::Online, _) if view.is_live() => self.add_live((level, group), view)?,
            (ServeMode::Online, Some(pin)) => {
                let index = self.add_online((level, group), view, pin);
                let fetch = self.plan.levels[level].groups[group].online[index].fetch;
                self.plan.views.push((bound.alias.as_str().into(), fetch));
                index
            }
            _ => {
                let index = self.add_query((level, group), view);
                let fetch = self.plan.levels[level].groups[group].queries[index].fetch;
                self.plan.views.push((bound.alias.as_str().into(), fetch));
                index
            }
        };
        Ok(Place::Fetched {
            view,
            level,
            group,
            index,
        })
    }

    fn key_column(
        &mut self,
        bound: &BoundView,
        binding: &KeyBinding,
    ) -> Result<KeyColumn, ServingError> {
        let key = &binding.key;
        let (alias, feature) = match &binding.source {
            KeySource::Request(name) => {
                return self.request_key(bound, key, name).map(KeyColumn::Request);
            }
            KeySource::Feature { alias, feature } => (alias, feature),
            KeySource::Each(alias) => return self.each_element(bound, key, alias),
            KeySource::Expression(_) => return Err(unexpanded_key(bound, binding)),
        };
        let taken = self.project(alias, feature)?;
        if !key.data_type.accepts_key(taken.data_type) {
            return Err(ServingError::Invalid(format!(
                "{}: the key {} is {}, and {alias}.{feature} is {}",
                bound.alias, key.name, key.data_type, taken.data_type
            )));
        }
        Ok(KeyColumn::Feature {
            fetch: taken.fetch,
            position: taken.position,
        })
    }

    fn each_element(
        &mut self,
        bound: &BoundView,
        key: &Column,
        alias: &str,
    ) -> Result<KeyColumn, ServingError> {
        let list = match self.bound.get(alias) {
            Some(Place::Computed { computed, fetch }) => computed
                .expressions
                .outputs()
                .first()
                .map(|output| (*fetch, &output.data_type)),
            _ => None,
        };
        match list {
            Some((fetch, FeatureType::List(item))) if key.data_type.accepts_key(item) => {
                Ok(KeyColumn::Each { fetch, position: 0 })
            }
            _ => Err(ServingError::Invalid(format!(
                "{}: the key {} is {}, and {alias} is no list of such",
                bound.alias, key.name, key.data_type
            ))),
        }
    }

    fn group(&mut self, level: usize, sources: Vec<KeyColumn>, bound: &BoundView) -> usize {
        let types = |columns: &[Column]| -> Vec<FeatureType> {
            columns.iter().map(|c| c.data_type.clone()).collect()
        };
        let columns: Vec<Column> = bound.keys.iter().map(|b| b.key.clone()).collect();
        let groups = &mut self.plan.levels[level].groups;
        let same = |g: &KeyGroup| g.sources == sources && types(&g.columns) == types(&columns);
        if let Some(at) = groups.iter().position(same) {
            return at;
        }
        groups.push(KeyGroup {
            columns,
            sources,
            online: Vec::new(),
            generations: Vec::new(),
            queries: Vec::new(),
            live: Vec::new(),
        });
        groups.len() - 1
    }

    fn add_online(
        &mut self,
        (level, group): (usize, usize),
        view: &FeatureView,
        pin: &Pin,
    ) -> usize {
        let group = &mut self.plan.levels[level].groups[group];
        if let Some(at) = group.online.iter().position(|o| *o.view == *view.name) {
            return at;
        }
        group.generations.push(Arc::clone(&pin.generation));
        group.online.push(OnlineRead {
            fetch: self.plan.fetches,
            view: view.name.as_str().into(),
            decoder: RowDecoder::new(pin.generation.layout(), Vec::new()),
            kind: view.kind,
            ttl: view.ttl,
        });
        self.plan.fetches += 1;
        group.online.len() - 1
    }

    fn add_query(&mut self, (level, group): (usize, usize), view: &FeatureView) -> usize {
        let group = &mut self.plan.levels[level].groups[group];
        if let Some(at) = group
            .queries
            .iter()
            .position(|q| q.view.name() == view.name)
        {
            return at;
        }
        let view = self.sources.queries.view(self.snapshot, view);
        group.queries.push(QueryRead {
            fetch: self.plan.fetches,
            decoder: RowDecoder::new(view.layout(), Vec::new()),
            view,
        });
        self.plan.fetches += 1;
        group.queries.len() - 1
    }

    fn add_live(
        &mut self,
        (level, group): (usize, usize),
        view: &FeatureView,
    ) -> Result<usize, NoPlan> {
        let compiled = Arc::clone(self.live_view(view)?);
        let sources = self.live_sources(view)?;
        let live = &mut self.plan.levels[level].groups[group].live;
        if let Some(at) = live.iter().position(|l| l.view.name() == view.name) {
            return Ok(at);
        }
        live.push(LiveViewRead {
            fetch: self.plan.fetches,
            view: compiled,
            sources,
            projection: Vec::new(),
        });
        self.plan.fetches += 1;
        Ok(live.len() - 1)
    }

    /// Has a feature decoded, once however often it is wanted.
    fn project(&mut self, alias: &str, feature: &str) -> Result<Projected<'a>, ServingError> {
        let place = self.bound.get(alias).copied();
        let place = place.ok_or_else(|| ServingError::Unknown {
            what: "view",
            name: alias.to_owned(),
            suggestion: String::new(),
        })?;
        let (view, level, group, index) = match place {
            Place::Computed { computed, fetch } => {
                return Projected::computed(computed, feature, fetch);
            }
            Place::Fetched {
                view,
                level,
                group,
                index,
            } => (view, level, group, index),
        };
        let defined = view
            .feature(feature)
            .ok_or_else(|| unknown_feature(&view.name, feature, &view.features))?;
        let group = &mut self.plan.levels[level].groups[group];
        let stored = |features: &[Column]| {
            let mut columns = features.iter();
            let position =
                columns.position(|c| c.name == defined.name && c.data_type == defined.data_type);
            position.ok_or_else(|| StoreError::LayoutChanged {
                view: view.name.clone(),
                version: view.version,
            })
        };
        let (fetch, position) = if view.is_live() {
            let read = &mut group.live[index];
            (
                read.fetch,
                position_in(&mut read.projection, stored(&view.features)?),
            )
        } else if view.serve == ServeMode::Online {
            let read = &mut group.online[index];
            let stored = stored(&group.generations[index].layout().features)?;
            (read.fetch, Arc::make_mut(&mut read.decoder).project(stored))
        } else {
            let read = &mut group.queries[index];
            let stored = stored(&read.view.layout().features)?;
            (read.fetch, Arc::make_mut(&mut read.decoder).project(stored))
        };
        Ok(Projected {
            view: &view.name,
            version: view.version,
            data_type: &defined.data_type,
            fetch,
            position,
        })
    }

    /// Adds one column of the answer.
    fn select(&mut self, feature: &ServiceFeature) -> Result<(), ServingError> {
        let (alias, output) = source_of(feature);
        let from = self.project(&alias, &output)?;
        self.plan.columns.push(PlannedColumn {
            name: feature.name.as_str().into(),
            full_name: feature.full_name().into(),
            view: from.view.into(),
            view_version: from.version,
            data_type: from.data_type.clone(),
            fetch: from.fetch,
            position: from.position,
        });
        Ok(())
    }
}

/// The place of a feature in a projection, which has it then.
fn position_in(projection: &mut Vec<usize>, feature: usize) -> usize {
    let known = projection.iter().position(|known| *known == feature);
    known.unwrap_or_else(|| {
        projection.push(feature);
        projection.len() - 1
    })
}

/// A feature that some fetch decodes, or that is computed.
#[derive(Debug, Clone, Copy)]
struct Projected<'a> {
    view: &'a str,
    version: u32,
    data_type: &'a FeatureType,
    fetch: usize,
    position: usize,
}

impl<'a> Projected<'a> {
    fn computed(computed: &'a Computed, feature: &str, fetch: usize) -> Result<Self, ServingError> {
        let outputs = computed.expressions.outputs();
        let position = outputs.iter().position(|output| output.name == feature);
        let position = position.ok_or_else(|| unknown_feature(&computed.view, feature, outputs))?;
        Ok(Self {
            view: &computed.view,
            version: computed.version,
            data_type: &outputs[position].data_type,
            fetch,
            position,
        })
    }
}

fn unexpanded_key(bound: &BoundView, binding: &KeyBinding) -> ServingError {
    ServingError::Invalid(format!(
        "{}: the expression of the key {} was not compiled",
        bound.alias, binding.key.name
    ))
}

/// The view of an entry of FROM, if this version serves its kind.
fn served_view<'a>(
    snapshot: &'a Snapshot,
    bound: &BoundView,
) -> Result<&'a FeatureView, ServingError> {
    let d = &snapshot.definitions;
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
