//! Parity: what was served beside what a training set says.
//!
//! An online value equals the training-set value of a spine row at that value's
//! `as_of`. A read at t is made of values as of several times: those of live and
//! on-demand views are as of t, those of views that runs wrote as of their runs.
//! So the training set is one in which each view is as of the time that the read
//! had it as of, and of what was known then: keys that come from features,
//! elements of lists and on-demand expressions are compared through the whole
//! chain of the service, as it was walked by the read.
//!
//! What was written down after a run was committed is left out of its views, and
//! what was written down after the read out of live ones. An event that came
//! beside the read may have been in it or not: what differs is looked at once
//! more with all that is known by now.
//!
//! Nothing here reads online: whoever calls brings what was served, just now or
//! long ago.

mod asked;
mod compare;
mod logged;
mod report;
mod sample;
mod served;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema};
use futures::TryStreamExt;
use granary_catalog::{Catalog, Snapshot};
use granary_engine::{Engine, EngineError, Moment, Moments, OfflineTable};
use granary_engine::{TIMES_MAX, TrainingOptions, TrainingRequest};
use granary_model::definitions::{BoundView, ServiceFeature};
use granary_model::types::UTC;
use granary_model::{FeatureView, UtcMicros};

use crate::error::ServingError;
use crate::read::ReadTarget;
use crate::training::select;

pub use asked::{AskedFeature, AskedLive, EntitySample, asked_features, entities};
pub use compare::{difference, equal, same_status};
pub use logged::{LoggedRead, LoggedService, READ_AT as LOGGED_READ_AT};
pub use report::{Example, FeatureReport, Report};
pub use sample::{Sampler, hash_of_key};
pub use served::{Served, ServedFeature};

/// The spine's column with the time of each read.
const READ_AT: &str = "__granary read at";

/// Compares what a service served with training sets.
#[derive(Debug)]
pub struct Verifier<'a> {
    engine: &'a Engine,
    catalog: &'a Catalog,
    service: String,
    /// When the run of a view as of a time was committed; by view, version and time.
    commits: BTreeMap<(String, u32), BTreeMap<UtcMicros, UtcMicros>>,
    /// By the number of a snapshot.
    known: BTreeMap<u64, Arc<Compared>>,
}

/// A service as one snapshot of the catalog has it.
#[derive(Debug)]
struct Compared {
    snapshot: Arc<Snapshot>,
    from: Vec<BoundView>,
    /// Named by their places.
    features: Vec<ServiceFeature>,
    /// The view of each alias, those that are read and not selected among them.
    views: BTreeMap<String, FeatureView>,
}

impl<'a> Verifier<'a> {
    pub fn new(engine: &'a Engine, catalog: &'a Catalog, service: &str) -> Self {
        Self {
            engine,
            catalog,
            service: service.to_owned(),
            commits: BTreeMap::new(),
            known: BTreeMap::new(),
        }
    }

    /// Compares the rows, and counts them in the report, whose features are those
    /// of the service or some of them, by name.
    pub async fn compare(
        &mut self,
        served: &Served,
        report: &mut Report,
    ) -> Result<(), ServingError> {
        let compared = self.compared(served.snapshot).await?;
        for (moments, rows) in self.groups(&compared, served).await? {
            let part = served.take(&rows)?;
            let trained = self.train(&compared, &part, &moments, true).await?;
            let different = report.compare(&part, &trained, None)?;
            if different.is_empty() {
                continue;
            }
            let again = UInt32Array::from(different);
            let part = part.take(&again)?;
            let now = self.train(&compared, &part, &moments, false).await?;
            let then = take_record_batch(&trained, &again).map_err(|e| wrong(&e))?;
            report.compare(&part, &then, Some(&now))?;
        }
        Ok(())
    }

    async fn compared(&mut self, number: u64) -> Result<Arc<Compared>, ServingError> {
        if let Some(known) = self.known.get(&number) {
            return Ok(Arc::clone(known));
        }
        let snapshot = self.catalog.at(number).await?;
        let target = ReadTarget::Service(self.service.clone());
        let selected = select(&snapshot, &target, true)?;
        let definitions = &snapshot.definitions;
        let expanded = self
            .engine
            .expand(definitions, &selected.from, &selected.features, true);
        let mut views = BTreeMap::new();
        for bound in expanded.await?.from {
            if let Some(view) = definitions.feature_views.get(&bound.view) {
                views.insert(bound.alias, view.clone());
            }
        }
        let features = selected.features.into_iter().enumerate();
        let features = features.map(|(place, feature)| ServiceFeature {
            name: format!("__granary {place}"),
            ..feature
        });
        let compared = Arc::new(Compared {
            features: features.collect(),
            from: selected.from,
            views,
            snapshot,
        });
        self.known.insert(number, Arc::clone(&compared));
        Ok(compared)
    }

    /// Rows that are of the same times, view by view.
    async fn groups(
        &mut self,
        compared: &Compared,
        served: &Served,
    ) -> Result<Vec<(Moments, UInt32Array)>, ServingError> {
        let mut groups: BTreeMap<Vec<Option<UtcMicros>>, Vec<u32>> = BTreeMap::new();
        for (row, read_at) in served.read_at.iter().enumerate() {
            let times = served.views.iter().map(|(_, times)| times[row]);
            // As of the read itself: no group of its own for each read.
            let times = times.map(|t| (t != *read_at).then_some(t));
            groups.entry(times.collect()).or_default().push(row as u32);
        }
        let mut found = Vec::with_capacity(groups.len());
        for (times, rows) in groups {
            let mut moments = Moments::new();
            for ((alias, _), t) in served.views.iter().zip(times) {
                if let (Some(t), Some(view)) = (t, compared.views.get(alias)) {
                    let moment = Moment {
                        as_of: Some(t),
                        known_at: Some(self.known_at(view, t).await?),
                    };
                    moments.insert(alias.clone(), moment);
                }
            }
            let parts = parts(rows, &served.read_at).into_iter();
            found.extend(parts.map(|rows| (moments.clone(), UInt32Array::from(rows))));
        }
        Ok(found)
    }

    /// Up to when what is in a view's values as of T was written down: the commit
    /// of the run. What was computed for a read is of its own time.
    async fn known_at(
        &mut self,
        view: &FeatureView,
        t: UtcMicros,
    ) -> Result<UtcMicros, EngineError> {
        let version = (view.name.clone(), view.version);
        let known = self.commits.get(&version);
        if let Some(committed) = known.and_then(|commits| commits.get(&t)) {
            return Ok(*committed);
        }
        let mut commits = BTreeMap::new();
        if let Some(table) = OfflineTable::open(self.engine, view).await? {
            // The newest first: of a run that was made again its rows are there.
            for run in table.runs(usize::MAX).await? {
                commits.entry(run.as_of).or_insert(run.committed_at);
            }
        }
        let committed = *commits.entry(t).or_insert(t);
        self.commits.insert(version, commits);
        Ok(committed)
    }

    /// The value and the status of each feature, a row a read. `at_the_time`:
    /// without what was written down after the read.
    async fn train(
        &self,
        compared: &Compared,
        served: &Served,
        moments: &Moments,
        at_the_time: bool,
    ) -> Result<RecordBatch, ServingError> {
        let spine = spine(served)?;
        let asked = spine.num_columns();
        let mut spool = self.engine.spool(spine.schema())?;
        spool.write(&spine)?;
        let request = TrainingRequest {
            spine: spool.finish()?,
            time: READ_AT.to_owned(),
            from: compared.from.clone(),
            features: compared.features.clone(),
            options: TrainingOptions {
                known_at_the_time: at_the_time,
                statuses: true,
                ..TrainingOptions::default()
            },
            request_events: Vec::new(),
        };
        let definitions = &compared.snapshot.definitions;
        let set = self.engine.training_set_at(definitions, request, moments);
        let set = set.await?;
        let failed = |error| EngineError::from_query("training set", error);
        let rows = set.execute()?.map_err(failed);
        let batches: Vec<RecordBatch> = rows.try_collect().await?;
        let rows = concat_batches(&set.schema(), &batches).map_err(|e| wrong(&e))?;
        let features: Vec<usize> = (asked..rows.num_columns()).collect();
        rows.project(&features).map_err(|e| wrong(&e))
    }
}

/// Rows of no more times each than a training set may have where it has to be
/// computed for each of them by itself.
fn parts(mut rows: Vec<u32>, read_at: &[UtcMicros]) -> Vec<Vec<u32>> {
    let time_of = |row: &u32| read_at[*row as usize];
    rows.sort_by_key(time_of);
    let mut parts: Vec<Vec<u32>> = Vec::new();
    let mut times = 0;
    for same in rows.chunk_by(|a, b| time_of(a) == time_of(b)) {
        match parts.last_mut() {
            Some(part) if times < TIMES_MAX => {
                times += 1;
                part.extend(same);
            }
            _ => {
                times = 1;
                parts.push(same.to_vec());
            }
        }
    }
    parts
}

/// The request of each row, and when it was read.
fn spine(served: &Served) -> Result<RecordBatch, ServingError> {
    let read_at = served.read_at.iter().map(|t| t.0);
    let read_at = TimestampMicrosecondArray::from_iter_values(read_at).with_timezone(UTC);
    let mut fields = served.request.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(
        READ_AT,
        read_at.data_type().clone(),
        false,
    )));
    let mut columns = served.request.columns().to_vec();
    columns.push(Arc::new(read_at) as ArrayRef);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| wrong(&e))
}

fn wrong(error: &arrow::error::ArrowError) -> ServingError {
    ServingError::Invalid(format!("what was served cannot be compared: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_whole_times_and_no_more_than_may_be() {
        let times = 2 * TIMES_MAX + 1;
        let read_at: Vec<UtcMicros> = { 0..3 * times }
            .map(|row| UtcMicros((row % times) as i64))
            .collect();
        let rows = (0..read_at.len() as u32).rev().collect();
        let parts = parts(rows, &read_at);
        let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
        assert_eq!(lengths, [3 * TIMES_MAX, 3 * TIMES_MAX, 3]);
        let mut all: Vec<u32> = parts.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..read_at.len() as u32));
    }
}
