//! What a service can be asked to be verified: features and what they need, and
//! entities that its sources know.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::Schema;
use futures::TryStreamExt;
use granary_catalog::Snapshot;
use granary_engine::{Engine, LiveTime, LiveView, Lost};
use granary_model::definitions::{BoundView, Column, KeySource};
use granary_model::{FeatureView, UtcMicros};

use super::sample::Sampler;
use super::wrong;
use crate::error::ServingError;
use crate::read::ReadTarget;
use crate::training::select;

/// A feature of a service.
#[derive(Debug, Clone)]
pub struct AskedFeature {
    /// As an answer names it.
    pub name: String,
    /// Inputs of the request without which it cannot be computed.
    pub inputs: Vec<Column>,
    /// What of it is answered from events.
    pub live: Vec<AskedLive>,
}

/// A live view that a feature is made of.
#[derive(Debug, Clone)]
pub struct AskedLive(Arc<LiveView>);

impl AskedLive {
    /// Whether it can be computed as of t although streams, by their names, lost
    /// events.
    pub fn is_computable(&self, lost: &BTreeMap<String, Lost>, t: UtcMicros) -> bool {
        let time = LiveTime {
            as_of: t,
            strictly_before: false,
        };
        let mut sources = self.0.sources().iter();
        sources.all(|source| {
            let lost = lost.get(source.stream());
            lost.is_none_or(|lost| lost.spares(source.retention(), time))
        })
    }
}

/// The features of a service in its order, and whether an answer has to be asked
/// for with full names, since two would share a short one.
pub async fn asked_features(
    engine: &Engine,
    snapshot: &Snapshot,
    service: &str,
) -> Result<(Vec<AskedFeature>, bool), ServingError> {
    let target = ReadTarget::Service(service.to_owned());
    let selected = select(snapshot, &target, true)?;
    let full_names = select(snapshot, &target, false).is_err();
    let definitions = &snapshot.definitions;
    let mut compiled: BTreeMap<String, AskedLive> = BTreeMap::new();
    let mut asked = Vec::with_capacity(selected.features.len());
    for feature in &selected.features {
        let one = std::slice::from_ref(feature);
        let expanded = engine.expand(definitions, &selected.from, one, false);
        let expanded = expanded.await?;
        let mut live: Vec<AskedLive> = Vec::new();
        for bound in &expanded.from {
            let view = definitions.feature_views.get(&bound.view);
            let Some(view) = view.filter(|view| view.is_live()) else {
                continue;
            };
            if !compiled.contains_key(&view.name) {
                let asked = engine.live_view(definitions, view).await?;
                compiled.insert(view.name.clone(), AskedLive(Arc::new(asked)));
            }
            live.push(compiled[&view.name].clone());
        }
        let inputs = expanded.inputs.into_iter();
        let inputs = inputs.filter(|input| input.needed);
        asked.push(AskedFeature {
            name: feature.answered_as(full_names),
            inputs: inputs.map(|input| input.column).collect(),
            live,
        });
    }
    Ok((asked, full_names))
}

/// Which entities are sampled.
#[derive(Debug, Clone, Copy)]
pub struct EntitySample {
    /// The most of them.
    pub rows: usize,
    /// Which of the many samples; the same gives the same.
    pub seed: u64,
    /// Only what has an event from this time on, where views have event times.
    pub since: Option<UtcMicros>,
}

/// A sample of the entities that the sources of a service's views know: its key
/// columns, each in its type.
///
/// Views by the same keys are sampled together. Keys of several kinds (those of
/// a customer and a shop, say) stand beside each other row by row, the fewer
/// again and again; where there are none they are NULL.
pub async fn entities(
    engine: &Engine,
    snapshot: &Snapshot,
    service: &str,
    asked_for: EntitySample,
) -> Result<RecordBatch, ServingError> {
    let definitions = &snapshot.definitions;
    let selected = select(snapshot, &ReadTarget::Service(service.to_owned()), true)?;
    let asked = definitions.request_columns(&selected.from).keys;
    let expanded = engine
        .expand(definitions, &selected.from, &selected.features, true)
        .await?;
    let mut kinds: BTreeMap<Vec<String>, Vec<&FeatureView>> = BTreeMap::new();
    for bound in &expanded.from {
        if let (Some(names), Some(view)) = (
            request_names(bound),
            definitions.feature_views.get(&bound.view),
        ) {
            kinds.entry(names).or_default().push(view);
        }
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    // The widest first: its keys belong together.
    kinds.sort_by_key(|(names, _)| std::cmp::Reverse(names.len()));
    let mut found: BTreeMap<String, ArrayRef> = BTreeMap::new();
    for (names, views) in kinds {
        if names.iter().all(|name| found.contains_key(name)) {
            continue;
        }
        let columns = names.iter().filter_map(|name| {
            let column = asked.iter().find(|column| column.name == *name)?;
            Some(column.clone())
        });
        let columns: Vec<Column> = columns.collect();
        let sample = sample(engine, snapshot, (&columns, &views), asked_for);
        let sample = sample.await?;
        for (name, keys) in names.into_iter().zip(sample.columns()) {
            found.entry(name).or_insert_with(|| Arc::clone(keys));
        }
    }
    beside_each_other(&asked, &found)
}

/// The request's names of the keys of a view whose keys all are from the request.
fn request_names(bound: &BoundView) -> Option<Vec<String>> {
    let names = bound.keys.iter().map(|binding| match &binding.source {
        KeySource::Request(name) => Some(name.clone()),
        _ => None,
    });
    let names: Vec<String> = names.collect::<Option<_>>()?;
    (!names.is_empty()).then_some(names)
}

/// Entities of the sources of views, under the names that a request has for them.
async fn sample(
    engine: &Engine,
    snapshot: &Snapshot,
    (columns, views): (&[Column], &[&FeatureView]),
    asked_for: EntitySample,
) -> Result<RecordBatch, ServingError> {
    let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
    let schema = Arc::new(Schema::new(fields));
    let EntitySample { rows, seed, since } = asked_for;
    let sampler = Sampler::of_entities(Arc::clone(&schema), columns.to_vec(), rows);
    let mut sampler = sampler.with_seed(seed);
    let is_timed = |view: &FeatureView| view.event_time.is_some();
    let timed_only = since.is_some() && views.iter().any(|view| is_timed(view));
    for view in views.iter().filter(|view| !timed_only || is_timed(view)) {
        let keys = engine.keys_in_sources(&snapshot.definitions, view, since);
        let mut keys = keys.await?;
        while let Some(batch) = keys.try_next().await? {
            let arrays = batch.columns().iter().zip(columns);
            let arrays = arrays.map(|(array, column)| {
                arrow::compute::cast(array, &column.data_type.to_arrow()).map_err(|e| wrong(&e))
            });
            let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
            let batch = RecordBatch::try_new(Arc::clone(&schema), arrays).map_err(|e| wrong(&e))?;
            sampler.offer(&batch)?;
        }
    }
    sampler.finish()
}

fn beside_each_other(
    columns: &[Column],
    found: &BTreeMap<String, ArrayRef>,
) -> Result<RecordBatch, ServingError> {
    let rows = found.values().map(|keys| keys.len()).max().unwrap_or(0);
    let arrays = columns.iter().map(|column| match found.get(&column.name) {
        Some(keys) if !keys.is_empty() => {
            let places = (0..rows).map(|row| (row % keys.len()) as u32);
            let places = UInt32Array::from_iter_values(places);
            take(keys, &places, None).map_err(|e| wrong(&e))
        }
        _ => Ok(new_null_array(&column.data_type.to_arrow(), rows)),
    });
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
    let schema = Arc::new(Schema::new(fields));
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, arrays, &options).map_err(|e| wrong(&e))
}
