//! A selection with its on-demand views taken apart: feature views to fetch,
//! and expressions to compute of what was fetched.
//!
//! Each on-demand view brings a FROM of its own. Views of it that are read by
//! the same keys as others are read once, whoever names them; features that
//! nobody wants are not computed, and what only they need is not read. A key
//! that is an expression becomes a feature of expressions by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use granary_model::definitions::{
    BoundView, Column, Definitions, KeySource, OnDemandView, ServiceFeature,
};
use granary_model::did_you_mean;
use tracing::instrument;

use super::{Argument, CompiledExpressions, PlannedOutput, PlannedSelect, Shapes};
use crate::engine::Engine;
use crate::error::EngineError;

/// What a selection needs read and computed. Aliases are unique in it.
#[derive(Debug, Default)]
pub struct Expanded {
    /// Feature views. Their keys come from the request, from features of these
    /// and of `computed`, and from each element of lists: `KeySource::Each` then
    /// is the alias of what computes the list, its one output. What is read so
    /// gives a list a feature.
    pub from: Vec<BoundView>,
    /// Each after those that it reads.
    pub computed: Vec<Computed>,
    /// Of every on-demand view that is read.
    pub inputs: Vec<InputColumn>,
}

/// Expressions with a name by which others read them.
#[derive(Debug)]
pub struct Computed {
    pub alias: String,
    /// The on-demand view, the view that is aggregated, or that which has the key.
    pub view: String,
    /// 0 of a key.
    pub version: u32,
    pub expressions: Arc<CompiledExpressions>,
}

/// An input that a request may bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputColumn {
    pub column: Column,
    /// Whether something that is computed reads it.
    pub needed: bool,
}

impl Engine {
    /// Takes the on-demand views of a selection apart. `whole`: every view of
    /// FROM is read, not only those that a feature needs.
    ///
    /// # Errors
    ///
    /// `EngineError::Refused` where inputs disagree or a name is unknown, and
    /// what an expression cannot be planned for.
    #[instrument(level = "debug", skip_all, err)]
    pub async fn expand(
        &self,
        definitions: &Definitions,
        from: &[BoundView],
        features: &[ServiceFeature],
        whole: bool,
    ) -> Result<Expanded, EngineError> {
        let mut expander = Expander {
            engine: self,
            definitions,
            from: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
        };
        expander.outermost(from).await?;
        expander.aggregates(from, features).await?;
        expander.finish(features, whole.then_some(from))
    }
}

/// The feature that a computed key or an aggregate is.
pub(crate) const KEY: &str = "key";

/// Which output of which view a selected feature is.
pub fn source_of(feature: &ServiceFeature) -> (String, String) {
    match &feature.aggregate {
        Some(aggregate) => (format!("({})", aggregate.sql), KEY.to_owned()),
        None => (feature.view_alias.clone(), feature.feature.clone()),
    }
}

/// An on-demand view in the selection, a computed key or an aggregate.
#[derive(Debug)]
struct Node<'a> {
    alias: String,
    view: &'a str,
    /// Of the view, unless it is a key.
    version: Option<u32>,
    select: PlannedSelect,
    /// What the aliases of its FROM are called in the selection.
    names: Names<'a>,
    wanted: BTreeSet<String>,
}

impl<'a> Node<'a> {
    /// A computed key or an aggregate, by what the aliases that it reads are called.
    fn key(alias: String, of: &'a str, select: PlannedSelect, names: &Names<'a>) -> Self {
        Self {
            alias,
            view: of,
            version: None,
            select,
            names: names.clone(),
            wanted: BTreeSet::new(),
        }
    }

    fn wanted(&self) -> impl Iterator<Item = &PlannedOutput> {
        let outputs = self.select.outputs.iter();
        outputs.filter(|output| self.wanted.contains(&output.column.name))
    }

    fn outer(&self, argument: &Argument) -> Argument {
        match argument {
            Argument::Feature { alias, feature } => Argument::Feature {
                alias: self.names.get(alias.as_str()).unwrap_or(alias).clone(),
                feature: feature.clone(),
            },
            other => other.clone(),
        }
    }
}

/// What the aliases of a FROM are called in the selection.
type Names<'a> = BTreeMap<&'a str, String>;

/// The computed keys of a FROM, by alias and key.
type Keys<'a> = BTreeMap<(&'a str, &'a str), PlannedSelect>;

struct Expander<'a> {
    engine: &'a Engine,
    definitions: &'a Definitions,
    from: Vec<BoundView>,
    /// Each after those that it reads.
    nodes: Vec<Node<'a>>,
    inputs: Vec<InputColumn>,
}

impl<'a> Expander<'a> {
    /// Takes the FROM of the selection, whose aliases stay as they are.
    async fn outermost(&mut self, from: &'a [BoundView]) -> Result<(), EngineError> {
        let d = self.definitions;
        let is_view = |bound: &&BoundView| !d.on_demand_views.contains_key(&bound.view);
        let (plain, computed): (Vec<_>, Vec<_>) =
            from.iter().filter(is_view).partition(|b| has_given_keys(b));
        // On-demand views read what is there already.
        self.from.extend(plain.into_iter().cloned());
        for bound in from {
            if let Some(view) = d.on_demand_views.get(&bound.view) {
                self.on_demand(view, bound.alias.clone()).await?;
            }
        }
        let inputs = self.inputs.iter().map(|input| input.column.clone());
        let inputs: Vec<Column> = inputs.collect();
        let mut keys = self.keys(from, &inputs).await?;
        let names = from.iter().map(|b| (b.alias.as_str(), b.alias.clone()));
        let names: Names<'a> = names.collect();
        for bound in computed {
            let resolved = self.resolved(bound, "", &names, &mut keys);
            self.from.push(resolved);
        }
        // In the order of FROM, in which a request's keys are told.
        let place = |bound: &BoundView| from.iter().position(|b| b.alias == bound.alias);
        self.from.sort_by_key(|b| place(b).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Takes what a service selects of views that are read for each element.
    async fn aggregates(
        &mut self,
        from: &'a [BoundView],
        features: &'a [ServiceFeature],
    ) -> Result<(), EngineError> {
        let inputs: Vec<_> = self.inputs.iter().map(|i| i.column.clone()).collect();
        let names = from.iter().map(|b| (b.alias.as_str(), b.alias.clone()));
        let names: Names<'a> = names.collect();
        for feature in features {
            let Some(aggregate) = &feature.aggregate else {
                continue;
            };
            let (alias, _) = source_of(feature);
            let bound = from.iter().find(|bound| bound.alias == feature.view_alias);
            let of = bound.map_or(feature.name.as_str(), |bound| bound.view.as_str());
            if self.nodes.iter().all(|node| node.alias != alias) {
                let shapes = self.shapes(from, inputs.clone())?;
                let select = format!("({}) AS \"{KEY}\"", aggregate.sql);
                let name = &feature.name;
                let planned = PlannedSelect::of(self.engine, name, &shapes, &select).await?;
                let view = self.definitions.feature_views.get(of);
                let mut node = Node::key(alias, of, planned, &names);
                node.version = view.map(|view| view.version);
                self.nodes.push(node);
            }
        }
        Ok(())
    }

    /// Plans the keys of a FROM that are expressions. They read no view that is
    /// itself read for each element of a list.
    async fn keys(
        &self,
        from: &'a [BoundView],
        inputs: &[Column],
    ) -> Result<Keys<'a>, EngineError> {
        let mut keys = Keys::new();
        for bound in from {
            for binding in &bound.keys {
                let (KeySource::Expression(sql) | KeySource::Each(sql)) = &binding.source else {
                    continue;
                };
                let mut shapes = self.shapes(from, inputs.to_vec())?;
                let each = std::mem::take(&mut shapes.each);
                shapes.views.retain(|(alias, _)| !each.contains(alias));
                let select = format!("({sql}) AS \"{KEY}\"");
                let key = &binding.key.name;
                let planned = PlannedSelect::of(self.engine, key, &shapes, &select).await?;
                keys.insert((&bound.alias, key), planned);
            }
        }
        Ok(keys)
    }

    /// A view whose keys come from what the selection has. `scope`: before the
    /// names of computed keys; a key that is computed already is taken from there.
    fn resolved(
        &mut self,
        bound: &'a BoundView,
        scope: &str,
        names: &Names<'a>,
        keys: &mut Keys<'a>,
    ) -> BoundView {
        let mut resolved = bound.clone();
        for (binding, given) in resolved.keys.iter_mut().zip(&bound.keys) {
            let key = given.key.name.as_str();
            match &mut binding.source {
                KeySource::Feature { alias, .. } => {
                    if let Some(name) = names.get(alias.as_str()) {
                        alias.clone_from(name);
                    }
                }
                KeySource::Expression(sql) | KeySource::Each(sql) => {
                    let alias = format!("{scope}({sql})");
                    let planned = keys.remove(&(bound.alias.as_str(), key));
                    if let Some(planned) = planned
                        && self.nodes.iter().all(|node| node.alias != alias)
                    {
                        let key = Node::key(alias.clone(), &bound.alias, planned, names);
                        self.nodes.push(key);
                    }
                    binding.source = match given.source {
                        KeySource::Each(_) => KeySource::Each(alias),
                        _ => KeySource::Feature {
                            alias,
                            feature: KEY.to_owned(),
                        },
                    };
                }
                KeySource::Request(_) => {}
            }
        }
        resolved
    }

    /// Adds an on-demand view under an alias, after what it reads.
    fn on_demand(
        &mut self,
        view: &'a OnDemandView,
        alias: String,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        async move {
            let names = self.inner(view).await?;
            self.add_inputs(view)?;
            let select = self.plan(view).await?;
            self.nodes.push(Node {
                alias,
                view: &view.name,
                version: Some(view.version),
                select,
                names,
                wanted: BTreeSet::new(),
            });
            Ok(())
        }
        .boxed()
    }

    /// Takes the FROM of an on-demand view: what its aliases are called here.
    async fn inner(&mut self, view: &'a OnDemandView) -> Result<Names<'a>, EngineError> {
        let mut keys = self.keys(&view.from, &view.inputs).await?;
        let mut names = Names::new();
        let mut waiting: Vec<&BoundView> = view.from.iter().collect();
        while !waiting.is_empty() {
            let (ready, later): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|bound| is_known(bound, &names, &keys));
            if ready.is_empty() {
                return Err(EngineError::Refused(format!(
                    "{}: its keys depend on each other",
                    view.name
                )));
            }
            for bound in ready {
                let name = self.inner_view(view, bound, &names, &mut keys).await?;
                names.insert(&bound.alias, name);
            }
            waiting = later;
        }
        Ok(names)
    }

    /// What a view in the FROM of an on-demand view is called: as the same view
    /// with the same keys is already, or by a name of its own.
    async fn inner_view(
        &mut self,
        of: &'a OnDemandView,
        bound: &'a BoundView,
        names: &Names<'a>,
        keys: &mut Keys<'a>,
    ) -> Result<String, EngineError> {
        let own = format!("{}.{}", of.name, bound.alias);
        if let Some(view) = self.definitions.on_demand_views.get(&bound.view) {
            let mut views = self.nodes.iter().filter(|node| node.version.is_some());
            if let Some(known) = views.find(|node| node.view == view.name) {
                return Ok(known.alias.clone());
            }
            self.on_demand(view, own.clone()).await?;
            return Ok(own);
        }
        let mut resolved = self.resolved(bound, &of.name, names, keys);
        let same = |other: &&BoundView| other.view == resolved.view && other.keys == resolved.keys;
        if let Some(same) = self.from.iter().find(same) {
            return Ok(same.alias.clone());
        }
        resolved.alias.clone_from(&own);
        self.from.push(resolved);
        Ok(own)
    }

    fn add_inputs(&mut self, view: &OnDemandView) -> Result<(), EngineError> {
        for input in &view.inputs {
            let known = self.inputs.iter().find(|i| i.column.name == input.name);
            match known {
                None => self.inputs.push(InputColumn {
                    column: input.clone(),
                    needed: false,
                }),
                Some(known) if known.column.data_type == input.data_type => {}
                Some(known) => {
                    return Err(EngineError::Refused(format!(
                        "the input {} would be {} for {} and {} for another view",
                        input.name, input.data_type, view.name, known.column.data_type
                    )));
                }
            }
        }
        Ok(())
    }

    async fn plan(&self, view: &OnDemandView) -> Result<PlannedSelect, EngineError> {
        let shapes = self.shapes(&view.from, view.inputs.clone())?;
        PlannedSelect::of(self.engine, &view.name, &shapes, &view.select).await
    }

    /// What expressions over a FROM may read.
    fn shapes(&self, from: &[BoundView], inputs: Vec<Column>) -> Result<Shapes, EngineError> {
        let views = from.iter().map(|bound| {
            let features = self.features(&bound.view)?.to_vec();
            Ok((bound.alias.clone(), features))
        });
        let each = from.iter().filter(|bound| bound.is_each());
        Ok(Shapes {
            views: views.collect::<Result<_, EngineError>>()?,
            each: each.map(|bound| bound.alias.clone()).collect(),
            inputs,
        })
    }

    fn features(&self, view: &str) -> Result<&'a [Column], EngineError> {
        let d = self.definitions;
        let on_demand = d.on_demand_views.get(view).map(|view| &view.features);
        let features = d.feature_views.get(view).map(|view| &view.features);
        let found = features.or(on_demand).ok_or_else(|| {
            let known = d.feature_views.keys().map(String::as_str);
            let near = did_you_mean(view, known);
            EngineError::Refused(format!("there is no feature view {view:?}{near}"))
        })?;
        Ok(found)
    }

    /// Keeps what the features need, and all of `whole`, and compiles it.
    fn finish(
        mut self,
        features: &[ServiceFeature],
        whole: Option<&[BoundView]>,
    ) -> Result<Expanded, EngineError> {
        let mut open: Vec<(String, String)> = features.iter().map(source_of).collect();
        let mut read: BTreeSet<String> = BTreeSet::new();
        let whole: Vec<String> = whole
            .into_iter()
            .flatten()
            .map(|b| b.alias.clone())
            .collect();
        for alias in whole {
            self.read(&alias, &mut read, &mut open);
        }
        while let Some((alias, feature)) = open.pop() {
            let Some(at) = self.nodes.iter().position(|node| node.alias == alias) else {
                self.read(&alias, &mut read, &mut open);
                continue;
            };
            open.extend(self.want(at, &feature)?);
        }
        let Self { mut from, .. } = self;
        from.retain(|bound| read.contains(&bound.alias));
        let wanted = self.nodes.iter().filter(|node| !node.wanted.is_empty());
        Ok(Expanded {
            computed: wanted.map(compiled).collect::<Result<_, _>>()?,
            from,
            inputs: self.inputs,
        })
    }

    /// A view is read: so are those that its keys come from.
    fn read(&self, alias: &str, read: &mut BTreeSet<String>, open: &mut Vec<(String, String)>) {
        let bound = self.from.iter().find(|bound| bound.alias == alias);
        let Some(bound) = bound.filter(|_| read.insert(alias.to_owned())) else {
            return;
        };
        open.extend(bound.keys.iter().filter_map(|b| match &b.source {
            KeySource::Feature { alias, feature } => Some((alias.clone(), feature.clone())),
            KeySource::Each(alias) => Some((alias.clone(), KEY.to_owned())),
            KeySource::Request(_) | KeySource::Expression(_) => None,
        }));
    }

    /// An expression is computed: what it reads of others.
    fn want(&mut self, at: usize, feature: &str) -> Result<Vec<(String, String)>, EngineError> {
        let node = &mut self.nodes[at];
        let outputs = &node.select.outputs;
        let Some(output) = outputs.iter().find(|o| o.column.name == feature) else {
            let known = outputs.iter().map(|output| output.column.name.as_str());
            return Err(EngineError::Refused(format!(
                "{} has no feature {feature:?}{}",
                node.view,
                did_you_mean(feature, known)
            )));
        };
        if !node.wanted.insert(feature.to_owned()) {
            return Ok(Vec::new());
        }
        let mut read = Vec::new();
        for argument in output.arguments() {
            match node.outer(argument) {
                Argument::Feature { alias, feature } => read.push((alias, feature)),
                Argument::Input(name) => {
                    let inputs = self.inputs.iter_mut();
                    inputs
                        .filter(|input| input.column.name == name)
                        .for_each(|input| input.needed = true);
                }
                Argument::AsOf => {}
            }
        }
        Ok(read)
    }
}

/// Whether the keys of a view come from the request or from features.
fn has_given_keys(bound: &BoundView) -> bool {
    let mut keys = bound.keys.iter();
    keys.all(|binding| {
        matches!(
            binding.source,
            KeySource::Request(_) | KeySource::Feature { .. }
        )
    })
}

/// Whether all that the keys of a view come from has a name.
fn is_known(bound: &BoundView, names: &Names<'_>, keys: &Keys<'_>) -> bool {
    bound.keys.iter().all(|binding| match &binding.source {
        KeySource::Feature { alias, .. } => names.contains_key(alias.as_str()),
        KeySource::Expression(_) | KeySource::Each(_) => {
            let planned = keys.get(&(bound.alias.as_str(), binding.key.name.as_str()));
            let outputs = planned.into_iter().flat_map(|planned| &planned.outputs);
            let mut read = outputs.flat_map(PlannedOutput::arguments);
            read.all(|argument| match argument {
                Argument::Feature { alias, .. } => names.contains_key(alias.as_str()),
                Argument::Input(_) | Argument::AsOf => true,
            })
        }
        KeySource::Request(_) => true,
    })
}

fn compiled(node: &Node<'_>) -> Result<Computed, EngineError> {
    let outputs: Vec<_> = node.wanted().collect();
    let mut expressions = CompiledExpressions::new(&node.select.state, node.view, &outputs)?;
    for argument in &mut expressions.arguments {
        *argument = node.outer(argument);
    }
    Ok(Computed {
        alias: node.alias.clone(),
        view: node.view.to_owned(),
        version: node.version.unwrap_or_default(),
        expressions: Arc::new(expressions),
    })
}
