//! From a request to a plan: which views are joined in which order, by which
//! keys, and what of them comes out under which names.
//!
//! The plan only ever grows to the right: a column of the spine or of a view
//! keeps its position to the end, where one projection picks what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Column as Name, DFSchema};
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, ScalarUDF, cast, lit, when};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionContext;
use granary_model::definitions::{BoundView, Column as Typed, KeySource, ServiceFeature};
use granary_model::{Definitions, FeatureStatus, FeatureView, Interval, did_you_mean};

use super::elements::element_column;
use super::moment::{Moment, Moments};
use super::reach::Reach;
use super::report::Counters;
use super::requests::Requests;
use super::spine::{SpineColumns, open_spine};
use super::time::SpineTime;
use super::unchanged::ScannedFiles;
use super::{TrainingRequest, TrainingSet};
use crate::engine::{Engine, Joins, physical_expr};
use crate::error::EngineError;
use crate::expression::{Argument, Computed, Expanded, source_of};

/// Begins the names of working columns.
pub(super) const WORKING: &str = "__granary ";
/// t of each row of the spine.
pub(super) const T: &str = "__granary t";

pub(super) struct Chain<'a> {
    pub(super) engine: &'a Engine,
    pub(super) definitions: &'a Definitions,
    pub(super) request: &'a TrainingRequest,
    asked: Asked<'a>,
    expanded: &'a Expanded,
    context: SessionContext,
    pub(super) state: SessionState,
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// The spine with t behind it, before anything was joined: its columns stand
    /// at the same places in `plan`.
    pub(super) spine: Arc<dyn ExecutionPlan>,
    spine_columns: usize,
    /// Key columns of the spine, and the keys as they are compared.
    spine_keys: Vec<(String, Arc<dyn PhysicalExpr>)>,
    /// Columns of the spine that are inputs.
    inputs: Vec<(String, Arc<dyn PhysicalExpr>)>,
    found: BTreeMap<&'a str, Found>,
    /// Of each view that is read from its runs: whether none was there.
    without_run: Vec<(String, Expr)>,
    notes: BTreeSet<String>,
    pub(super) requests: Requests,
}

/// What a view gave: a column and a status a feature.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) values: BTreeMap<String, String>,
    /// `granary_model::FeatureStatus` of the row, SMALLINT: a NULL in a row
    /// that is there is for the feature to tell.
    pub(super) status: String,
}

/// A view with what is asked of it.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    pub(super) alias: &'a str,
    pub(super) view: &'a FeatureView,
    pub(super) features: BTreeSet<&'a str>,
    /// Over the chain's columns.
    pub(super) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The same, by name.
    pub(super) key_names: Vec<String>,
    /// Not t but the newest multiple of this up to it.
    pub(super) refreshed_every: Option<Interval>,
    pub(super) moment: Moment,
}

/// What a chain is made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) request: &'a TrainingRequest,
    pub(super) moments: &'a Moments,
    /// Whether rows of events that are gone are an error.
    pub(super) refuses: bool,
}

/// The column of a view's status. No value is named so: those of a view are
/// `alias.feature`, and an alias in an on-demand view is `view.alias` itself.
pub(super) fn status_name(alias: &str) -> String {
    format!("{WORKING}status of {alias}")
}

pub(super) fn name(name: &str) -> Expr {
    Expr::Column(Name::new_unqualified(name))
}

pub(super) fn failed(object: &str) -> impl Fn(DataFusionError) -> EngineError + '_ {
    move |error| EngineError::from_query(object, error)
}

impl<'a> Chain<'a> {
    /// Opens the spine, and puts t behind it.
    pub(super) async fn begin(
        engine: &'a Engine,
        definitions: &'a Definitions,
        asked: Asked<'a>,
        expanded: &'a Expanded,
    ) -> Result<Self, EngineError> {
        let request = asked.request;
        let context = engine
            .session_with(definitions, None, Joins::Spilling)
            .await?;
        let keys = request_keys(&expanded.from);
        let added = request
            .features
            .iter()
            .map(|f| f.answered_as(request.options.full_names));
        let added: Vec<String> = added.collect();
        let columns = SpineColumns {
            time: Some(&request.time),
            keys: &keys,
            inputs: &expanded.inputs,
            added: &added,
        };
        let spine = open_spine(&context, &request.spine, columns).await?;
        let names = keys.into_iter().map(|key| key.name);
        let spine_columns = spine.plan.schema().fields().len();
        let mut chain = Self {
            engine,
            definitions,
            request,
            asked,
            expanded,
            state: context.state(),
            context,
            spine: Arc::clone(&spine.plan),
            plan: spine.plan,
            spine_columns,
            spine_keys: names.zip(spine.keys).collect(),
            inputs: spine.inputs,
            found: BTreeMap::new(),
            without_run: Vec::new(),
            notes: BTreeSet::new(),
            requests: Requests::new(),
        };
        if let Some(time) = spine.time {
            chain.add_t(time)?;
        }
        chain.spine = Arc::clone(&chain.plan);
        chain.begin_requests().await?;
        Ok(chain)
    }

    fn add_t(&mut self, time: Arc<dyn PhysicalExpr>) -> Result<(), EngineError> {
        let schema = self.plan.schema();
        let t = ScalarFunctionExpr::try_new(
            Arc::new(ScalarUDF::from(SpineTime::new(None))),
            vec![time],
            &schema,
            self.state.config_options().clone(),
        );
        let mut columns = plain_columns(&schema, 0..schema.fields().len());
        columns.push(ProjectionExpr {
            expr: Arc::new(t.map_err(failed("training set"))?),
            alias: T.to_owned(),
        });
        self.project(columns)
    }

    pub(super) fn context(&self) -> &SessionContext {
        &self.context
    }

    /// How many columns of [`Self::spine`] are the spine's own.
    pub(super) fn spine_columns(&self) -> usize {
        self.spine_columns
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.insert(note);
    }

    pub(super) fn lacks_runs(&mut self, view: &str, missing: Expr) {
        self.without_run.push((view.to_owned(), missing));
    }

    pub(super) fn has_found(&self, alias: &str) -> bool {
        self.found.contains_key(alias)
    }

    /// The columns with what a view gave.
    pub(super) fn found_values(&self, alias: &str) -> impl Iterator<Item = &String> {
        let found = self.found.get(alias).into_iter();
        found.flat_map(|found| found.values.values())
    }

    /// The column with the values of a feature, where it is there.
    pub(super) fn found_value(&self, alias: &str, feature: &str) -> Option<&str> {
        let found = self.found.get(alias)?;
        found.values.get(feature).map(String::as_str)
    }

    pub(super) fn input(&self, name: &str) -> Option<Arc<dyn PhysicalExpr>> {
        let mut inputs = self.inputs.iter();
        let (_, input) = inputs.find(|(known, _)| known == name)?;
        Some(Arc::clone(input))
    }

    /// A column of the chain.
    pub(super) fn column(&self, name: &str) -> Result<Arc<dyn PhysicalExpr>, EngineError> {
        let place = self.plan.schema().index_of(name);
        let place = place.map_err(|e| failed("training set")(e.into()))?;
        Ok(Arc::new(Column::new(name, place)))
    }

    pub(super) fn give(&mut self, alias: &'a str, found: Found) {
        self.found.insert(alias, found);
    }

    /// Puts expressions over the chain's columns behind them.
    pub(super) fn add(&mut self, columns: Vec<(String, Expr)>) -> Result<(), EngineError> {
        let keep = self.plan.schema().fields().len();
        self.keep_and_add(keep, columns)
    }

    /// The first columns, and expressions over all of them.
    pub(super) fn keep_and_add(
        &mut self,
        keep: usize,
        columns: Vec<(String, Expr)>,
    ) -> Result<(), EngineError> {
        let schema = self.plan.schema();
        let mut projected = plain_columns(&schema, 0..keep);
        projected.extend(self.physical(columns)?);
        self.project(projected)
    }

    fn physical(&self, columns: Vec<(String, Expr)>) -> Result<Vec<ProjectionExpr>, EngineError> {
        let failed = failed("training set");
        let schema = DFSchema::try_from(self.plan.schema()).map_err(&failed)?;
        let physical = columns.into_iter().map(|(alias, expression)| {
            let expr = physical_expr(&self.state, expression, &schema)?;
            Ok(ProjectionExpr { expr, alias })
        });
        physical.collect::<PlanResult<_>>().map_err(failed)
    }

    pub(super) fn project(&mut self, columns: Vec<ProjectionExpr>) -> Result<(), EngineError> {
        let projected = ProjectionExec::try_new(columns, self.plan.clone());
        self.plan = Arc::new(projected.map_err(failed("training set"))?);
        Ok(())
    }

    /// Joins every view that is needed, each after those that give its keys,
    /// and computes on-demand views as soon as what they read is there.
    pub(super) async fn join_views(&mut self) -> Result<(), EngineError> {
        let expanded = self.expanded;
        let mut open: Vec<&'a BoundView> = expanded.from.iter().collect();
        let mut uncomputed: Vec<&'a Computed> = expanded.computed.iter().collect();
        loop {
            // They stand after those that they read.
            let mut later = Vec::new();
            for computed in uncomputed {
                match self.can_compute(computed) {
                    true => self.compute(computed)?,
                    false => later.push(computed),
                }
            }
            uncomputed = later;
            let (ready, blocked): (Vec<_>, Vec<_>) = open.into_iter().partition(|bound| {
                let sources = bound.keys.iter().map(|binding| &binding.source);
                sources.into_iter().all(|source| match source {
                    KeySource::Feature { alias, .. } | KeySource::Each(alias) => {
                        self.found.contains_key(alias.as_str())
                    }
                    KeySource::Request(_) | KeySource::Expression(_) => true,
                })
            });
            if ready.is_empty() {
                let names: Vec<&str> = blocked.iter().map(|b| b.alias.as_str()).collect();
                let computed = uncomputed.iter().map(|computed| computed.alias.as_str());
                let names: Vec<&str> = names.into_iter().chain(computed).collect();
                return match names.is_empty() {
                    true => Ok(()),
                    false => Err(EngineError::Refused(format!(
                        "the keys of {} depend on each other",
                        names.join(", ")
                    ))),
                };
            }
            let (each, ready): (Vec<_>, Vec<_>) =
                ready.into_iter().partition(|bound| bound.is_each());
            for bound in each {
                self.join_each(bound).await?;
            }
            let wanted = ready.into_iter().map(|bound| self.wanted(bound));
            let wanted = wanted.collect::<Result<Vec<_>, _>>()?;
            self.join_level(wanted).await?;
            open = blocked;
        }
    }

    pub(super) fn wanted(&self, bound: &'a BoundView) -> Result<Wanted<'a>, EngineError> {
        let view = view_of(self.definitions, bound)?;
        let mut features = BTreeSet::new();
        let selected = self.request.features.iter();
        features.extend(
            selected
                .filter(|f| f.view_alias == bound.alias && f.aggregate.is_none())
                .map(|f| f.feature.as_str()),
        );
        for computed in &self.expanded.computed {
            let arguments = computed.expressions.arguments().iter();
            features.extend(arguments.filter_map(|argument| match argument {
                Argument::Feature { alias, feature } if *alias == bound.alias => {
                    Some(feature.as_str())
                }
                _ => None,
            }));
        }
        for other in &self.expanded.from {
            features.extend(other.keys.iter().filter_map(|b| match &b.source {
                KeySource::Feature { alias, feature } if *alias == bound.alias => {
                    Some(feature.as_str())
                }
                _ => None,
            }));
        }
        if let Some(unknown) = features.iter().find(|f| view.feature(f).is_none()) {
            let known = view.features.iter().map(|f| f.name.as_str());
            return Err(EngineError::Refused(format!(
                "{} has no feature {unknown:?}{}",
                view.name,
                did_you_mean(unknown, known)
            )));
        }
        let mut keys = Vec::with_capacity(bound.keys.len());
        let mut key_names = Vec::with_capacity(bound.keys.len());
        for binding in &bound.keys {
            let (name, key) = self.key(bound, &binding.key, &binding.source)?;
            keys.push(key);
            key_names.push(name);
        }
        let served = self.request.options.as_served && super::runs::is_run_written(view);
        Ok(Wanted {
            alias: &bound.alias,
            view,
            features,
            keys,
            key_names,
            refreshed_every: view.refresh_every.filter(|_| served),
            moment: self
                .asked
                .moments
                .get(&bound.alias)
                .copied()
                .unwrap_or_default(),
        })
    }

    /// Where a key comes from: a column's name, and the key as it is compared.
    fn key(
        &self,
        bound: &BoundView,
        key: &Typed,
        source: &KeySource,
    ) -> Result<(String, Arc<dyn PhysicalExpr>), EngineError> {
        match source {
            KeySource::Request(column) => {
                let known = self.spine_keys.iter().find(|(name, _)| name == column);
                let (column, expression) = known.ok_or_else(|| {
                    EngineError::Refused(format!("{}: no key {column}", bound.alias))
                })?;
                Ok((column.clone(), expression.clone()))
            }
            KeySource::Feature { alias, feature } => {
                let column = self
                    .found_value(alias, feature)
                    .ok_or_else(|| EngineError::Refused(format!("{alias} has no {feature}")))?;
                Ok((column.to_owned(), self.column(column)?))
            }
            KeySource::Each(_) => {
                let column = element_column(bound);
                let element = self.column(&column)?;
                Ok((column, element))
            }
            KeySource::Expression(_) => Err(EngineError::Refused(format!(
                "{}: the expression of the key {} was not compiled",
                bound.alias, key.name
            ))),
        }
    }

    /// Picks the training set's columns, and what is counted behind them.
    pub(super) fn finish(mut self) -> Result<TrainingSet, EngineError> {
        let schema = self.plan.schema();
        let mut columns = plain_columns(&schema, 0..self.spine_columns);
        let mut features = Vec::new();
        for feature in &self.request.features {
            features.extend(self.feature(feature)?);
        }
        let names = columns.iter().map(|column| column.alias.as_str());
        let clash = clash(names.chain(features.iter().map(|(name, _)| name.as_str())));
        if let Some(twice) = clash {
            let help = match self.request.options.full_names {
                true => "rename the spine's column",
                false => "use --full-names (view__feature), or rename the spine's column",
            };
            return Err(EngineError::Refused(format!(
                "two columns would be named {twice:?}: {help}"
            )));
        }
        columns.extend(self.physical(features)?);
        let own = columns.len();
        let mut counted = vec![(T.to_owned(), cast(name(T), DataType::Int64))];
        for (key, _) in &self.spine_keys {
            counted.push((format!("{WORKING}no {key}"), name(key).is_null()));
        }
        let keys = self.spine_keys.iter().map(|(key, _)| key.clone()).collect();
        let mut views = Vec::new();
        for (view, missing) in std::mem::take(&mut self.without_run) {
            counted.push((format!("{WORKING}no run of {view}"), missing));
            views.push(view);
        }
        columns.extend(self.physical(counted)?);
        self.project(columns)?;
        debug_assert_eq!(self.plan.output_partitioning().partition_count(), 1);
        Ok(TrainingSet {
            files: ScannedFiles::of(&self.plan).map_err(failed("training set"))?,
            plan: self.plan,
            columns: own,
            counters: Arc::new(Counters::new(own, keys, views, self.request.options)),
            notes: self.notes.into_iter().collect(),
            context: self.context.task_ctx(),
            reach: Reach::of(self.engine, self.definitions, self.expanded, self.asked),
        })
    }

    /// The column of a feature, and of its status where that is asked for.
    fn feature(&self, feature: &ServiceFeature) -> Result<Vec<(String, Expr)>, EngineError> {
        let (alias, output) = source_of(feature);
        let found = self.found.get(alias.as_str());
        let found = found.and_then(|f| Some((f.values.get(&output)?, &f.status)));
        let (value, status) = found.ok_or_else(|| {
            EngineError::Refused(format!(
                "{}.{} is not in FROM",
                feature.view_alias, feature.feature
            ))
        })?;
        let short = feature.answered_as(self.request.options.full_names);
        let mut columns = vec![(short.clone(), name(value))];
        if self.request.options.statuses {
            let text = status_text(name(value), &name(status)).map_err(failed("training set"))?;
            columns.push((format!("{short}__status"), text));
        }
        Ok(columns)
    }
}

/// The status of a feature: that of its row, unless only the value is missing.
fn status_text(value: Expr, status: &Expr) -> PlanResult<Expr> {
    let is = |known: FeatureStatus| status.clone().eq(lit(known as i8));
    let text = |known: FeatureStatus| lit(known.as_str());
    when(
        is(FeatureStatus::Present).and(value.is_not_null()),
        text(FeatureStatus::Present),
    )
    .when(is(FeatureStatus::Present), text(FeatureStatus::NullValue))
    .when(
        is(FeatureStatus::OutsideMaxAge),
        text(FeatureStatus::OutsideMaxAge),
    )
    .otherwise(text(FeatureStatus::NotFound))
}

pub(super) fn plain_columns(
    schema: &SchemaRef,
    range: std::ops::Range<usize>,
) -> Vec<ProjectionExpr> {
    let column = |index: usize| {
        let alias = schema.field(index).name().clone();
        ProjectionExpr {
            expr: Arc::new(Column::new(&alias, index)),
            alias,
        }
    };
    range.map(column).collect()
}

fn clash<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

/// Key columns that the spine must have, each once.
fn request_keys(from: &[BoundView]) -> Vec<Typed> {
    let mut keys: Vec<Typed> = Vec::new();
    for binding in from.iter().flat_map(|bound| &bound.keys) {
        if let KeySource::Request(name) = &binding.source
            && !keys.iter().any(|key| key.name == *name)
        {
            keys.push(Typed::new(name.clone(), binding.key.data_type.clone()));
        }
    }
    keys
}

fn view_of<'a>(
    definitions: &'a Definitions,
    bound: &BoundView,
) -> Result<&'a FeatureView, EngineError> {
    definitions.feature_views.get(&bound.view).ok_or_else(|| {
        let known = definitions.feature_views.keys().map(String::as_str);
        EngineError::Refused(format!(
            "there is no feature view {:?}{}",
            bound.view,
            did_you_mean(&bound.view, known)
        ))
    })
}
