//! A selection with its on-demand views taken apart: feature views to fetch,
//! and expressions to compute of what was fetched.
//!
//! Each on-demand view brings a FROM of its own. Views of it that are read by
//! the same keys as others are read once, whoever names them; features that
//! nobody wants are not computed, and what only they need is not read.

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
    /// Feature views. Their keys come from the request, and from features of
    /// these and of `computed`.
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
    /// The on-demand view.
    pub view: String,
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
        expander.finish(features, whole.then_some(from))
    }
}

/// An on-demand view in the selection.
#[derive(Debug)]
struct Node<'a> {
    alias: String,
    view: &'a OnDemandView,
    select: PlannedSelect,
    /// What the aliases of its FROM are called in the selection.
    names: BTreeMap<&'a str, String>,
    wanted: BTreeSet<String>,
}

impl Node<'_> {
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
        for bound in from {
            match self.definitions.on_demand_views.get(&bound.view) {
                Some(view) => self.on_demand(view, bound.alias.clone()).await?,
                None => self.from.push(bound.clone()),
            }
        }
        Ok(())
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
                view,
                select,
                names,
                wanted: BTreeSet::new(),
            });
            Ok(())
        }
        .boxed()
    }

    /// Takes the FROM of an on-demand view: what its aliases are called here.
    async fn inner(
        &mut self,
        view: &'a OnDemandView,
    ) -> Result<BTreeMap<&'a str, String>, EngineError> {
        let mut names: BTreeMap<&str, String> = BTreeMap::new();
        let mut waiting: Vec<&BoundView> = view.from.iter().collect();
        while !waiting.is_empty() {
            let known = |bound: &BoundView| {
                let mut sources = bound.keys.iter().map(|binding| &binding.source);
                sources.all(|source| match source {
                    KeySource::Feature { alias, .. } => names.contains_key(alias.as_str()),
                    _ => true,
                })
            };
            let (ready, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|b| known(b));
            if ready.is_empty() {
                return Err(EngineError::Refused(format!(
                    "{}: its keys depend on each other",
                    view.name
                )));
            }
            for bound in ready {
                let name = self.inner_view(view, bound, &names).await?;
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
        of: &OnDemandView,
        bound: &'a BoundView,
        names: &BTreeMap<&str, String>,
    ) -> Result<String, EngineError> {
        let own = format!("{}.{}", of.name, bound.alias);
        if let Some(view) = self.definitions.on_demand_views.get(&bound.view) {
            let known = self.nodes.iter().find(|node| node.view.name == view.name);
            if let Some(known) = known {
                return Ok(known.alias.clone());
            }
            self.on_demand(view, own.clone()).await?;
            return Ok(own);
        }
        let mut renamed = bound.clone();
        for binding in &mut renamed.keys {
            if let KeySource::Feature { alias, .. } = &mut binding.source
                && let Some(name) = names.get(alias.as_str())
            {
                alias.clone_from(name);
            }
        }
        let same = |other: &&BoundView| other.view == renamed.view && other.keys == renamed.keys;
        if let Some(same) = self.from.iter().find(same) {
            return Ok(same.alias.clone());
        }
        renamed.alias.clone_from(&own);
        self.from.push(renamed);
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
        let mut shapes = Shapes {
            inputs: view.inputs.clone(),
            ..Shapes::default()
        };
        for bound in &view.from {
            let columns = self.features(&bound.view)?.to_vec();
            shapes.views.push((bound.alias.clone(), columns));
        }
        PlannedSelect::of(self.engine, &view.name, &shapes, &view.select).await
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
        let selected = features.iter().map(|f| (f.view_alias.as_str(), &f.feature));
        let mut open: Vec<(String, String)> =
            selected.map(|(a, f)| (a.to_owned(), f.clone())).collect();
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
            _ => None,
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
                node.view.name,
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

fn compiled(node: &Node<'_>) -> Result<Computed, EngineError> {
    let outputs: Vec<_> = node.wanted().collect();
    let name = &node.view.name;
    let mut expressions = CompiledExpressions::new(&node.select.state, name, &outputs)?;
    for argument in &mut expressions.arguments {
        *argument = node.outer(argument);
    }
    Ok(Computed {
        alias: node.alias.clone(),
        view: name.clone(),
        version: node.view.version,
        expressions: Arc::new(expressions),
    })
}
