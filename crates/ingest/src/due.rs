//! What REFRESH EVERY says is due at a time.
//!
//! Refreshes happen at the multiples of the interval after the epoch, so that
//! every process, and a training set that asks what was served when, comes to
//! the same times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use granary_catalog::Snapshot;
use granary_engine::{Engine, OfflineTable};
use granary_model::UtcMicros;
use granary_model::definitions::{Definitions, FeatureView};

use crate::error::IngestError;
use crate::materialize::{MaterializeRequest, Materializer, RunOutcome, lag, why_not};
use crate::progress::Progress;

/// Offline tables opened at once.
const TABLES_OPENED: usize = 8;

/// A refresh that has not been made.
///
/// It is made as of its time; but what reads sources as they are now, itself or
/// through feature views, is run as of the present, however late that is: no
/// run says that it is older than its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueRun {
    pub view: String,
    pub as_of: UtcMicros,
}

/// Every view whose newest refresh time is not materialised, by name.
pub async fn due_runs(
    engine: &Engine,
    snapshot: &Snapshot,
    now: UtcMicros,
) -> Result<Vec<DueRun>, IngestError> {
    let views = snapshot.definitions.feature_views.values();
    let refreshed = views
        .filter(|view| why_not(view).is_none())
        .filter_map(|view| {
            let as_of = view.refresh_every?.newest_multiple(now)?;
            Some(due_run(engine, view, as_of))
        });
    // Made outside of the stream: a closure over references to views would
    // make this future one that cannot be spawned.
    let due: Vec<Option<DueRun>> = stream::iter(refreshed.collect::<Vec<_>>())
        .buffered(TABLES_OPENED)
        .try_collect()
        .await?;
    Ok(due.into_iter().flatten().collect())
}

async fn due_run(
    engine: &Engine,
    view: &FeatureView,
    as_of: UtcMicros,
) -> Result<Option<DueRun>, IngestError> {
    let table = OfflineTable::open(engine, view).await?;
    let done = table.is_some_and(|table| table.watermark() >= as_of);
    Ok((!done).then(|| DueRun {
        view: view.name.clone(),
        as_of,
    }))
}

impl Materializer {
    /// Makes every refresh that is due: those of one T together, earlier T
    /// first, those as of the present last. What a view reads of other feature
    /// views is run with it as far as it is missing.
    pub async fn refresh(
        &self,
        snapshot: &Snapshot,
        progress: &Arc<dyn Progress>,
    ) -> Result<Vec<RunOutcome>, IngestError> {
        let definitions = &snapshot.definitions;
        let due = due_runs(self.engine(), snapshot, self.now()).await?;
        let mut at_their_time: BTreeMap<UtcMicros, BTreeSet<String>> = BTreeMap::new();
        let mut as_of_now = BTreeSet::new();
        for run in due {
            match reads_the_present(definitions, &run.view) {
                true => as_of_now.insert(run.view),
                false => at_their_time.entry(run.as_of).or_default().insert(run.view),
            };
        }
        let past = at_their_time.into_iter().map(|(t, views)| (Some(t), views));
        let present = (!as_of_now.is_empty()).then_some((None, as_of_now));
        let mut outcomes = Vec::new();
        for (as_of, views) in past.chain(present) {
            let views = self.with_what_lags(definitions, views, as_of).await?;
            let request = MaterializeRequest {
                views: views.into_iter().collect(),
                as_of,
                ..MaterializeRequest::default()
            };
            outcomes.extend(
                self.materialize(snapshot, request, Arc::clone(progress))
                    .await?,
            );
        }
        Ok(outcomes)
    }

    /// The views, and what they read that has no rows as of T yet.
    async fn with_what_lags(
        &self,
        definitions: &Definitions,
        views: BTreeSet<String>,
        as_of: Option<UtcMicros>,
    ) -> Result<BTreeSet<String>, IngestError> {
        let t = as_of.unwrap_or_else(|| self.now());
        let mut open: Vec<String> = views.iter().cloned().collect();
        let mut chosen = views;
        while let Some(view) = open.pop() {
            for name in definitions.runs_read(&definitions.feature_views[&view]) {
                let read = &definitions.feature_views[name];
                if !chosen.contains(name)
                    && why_not(read).is_none()
                    && lag(self.engine(), read, &[t]).await?.is_some()
                {
                    chosen.insert(name.to_owned());
                    open.push(name.to_owned());
                }
            }
        }
        Ok(chosen)
    }
}

/// Whether a run of the view, or of one that it reads, needs sources that have
/// no event time.
fn reads_the_present(definitions: &Definitions, view: &str) -> bool {
    let view = &definitions.feature_views[view];
    let mut reads = definitions.runs_read(view).into_iter();
    !view.current_state.is_empty() || reads.any(|read| reads_the_present(definitions, read))
}
