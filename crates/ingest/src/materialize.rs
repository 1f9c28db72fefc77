//! Materialisation: which runs are due, in which order, and their execution.
//!
//! A run is claimed, computed and committed offline, then brought online. It
//! is safe to kill at any point: what was not committed is computed again, what
//! was committed and not brought online is caught up by the next run.

mod due;
mod lag;
mod select;
mod times;
mod view_runs;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::{Catalog, Snapshot};
use granary_engine::{Engine, RunRecord};
use granary_model::definitions::ServeMode;
use granary_model::{Clock, Interval, UtcMicros};
use granary_store::OnlineStore;
use serde::{Deserialize, Serialize};
use tokio::task::{Id, JoinSet};
use tracing::instrument;

use crate::claim::Claims;
pub use crate::claim::WhenClaimed;
use crate::error::IngestError;
use crate::progress::{Progress, Stage};
use crate::sink::{Filled, Sink, SinkSettings};
pub use lag::Lag;
pub(crate) use lag::lag;
pub use select::{select, why_not};
pub use times::Backfill;
use times::Times;
use view_runs::ViewRuns;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaterializerSettings {
    /// Views that run side by side.
    pub concurrent_views: usize,
    /// How long a claim holds without being renewed.
    pub claim_seconds: u64,
    pub sink: SinkSettings,
}

impl Default for MaterializerSettings {
    fn default() -> Self {
        Self {
            concurrent_views: 2,
            claim_seconds: 30,
            sink: SinkSettings::default(),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct MaterializeRequest {
    /// Empty: every view that is not SERVE QUERY.
    pub views: Vec<String>,
    /// Default: now.
    pub as_of: Option<UtcMicros>,
    pub backfill: Option<Backfill>,
    /// Of incremental views: replaces what was committed in
    /// (watermark − lookback, T], for rows that came late.
    pub lookback: Option<Interval>,
    /// Computes and replaces although the run is committed.
    pub force: bool,
    /// Allows a past T for views that read sources without an event time.
    /// Runs as of now are always allowed to.
    pub current_state: bool,
    pub when_claimed: WhenClaimed,
}

/// How one run ended.
#[derive(Debug, Clone)]
pub enum RunOutcome {
    Committed(Box<RunRecord>),
    /// Committed before; online caught up where it lagged.
    Skipped {
        view: String,
        as_of: UtcMicros,
        reason: String,
    },
    Failed {
        view: String,
        as_of: UtcMicros,
        error: Arc<IngestError>,
    },
    /// A view that it depends on failed.
    NotStarted {
        view: String,
        because_of: String,
    },
}

impl RunOutcome {
    pub fn view(&self) -> &str {
        match self {
            Self::Committed(record) => &record.view,
            Self::Skipped { view, .. }
            | Self::Failed { view, .. }
            | Self::NotStarted { view, .. } => view,
        }
    }

    /// Whether the view is now as asked for.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Committed(_) | Self::Skipped { .. })
    }
}

/// Runs views and brings them online.
#[derive(Debug, Clone)]
pub struct Materializer {
    engine: Engine,
    claims: Claims,
    sink: Sink,
    clock: Arc<dyn Clock>,
    settings: MaterializerSettings,
}

impl Materializer {
    /// Claims lie in the root of `catalog`.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a component is given, not lent"
    )]
    pub fn new(
        engine: Engine,
        catalog: Catalog,
        store: Arc<dyn OnlineStore>,
        clock: Arc<dyn Clock>,
        settings: MaterializerSettings,
    ) -> Self {
        let lease = Duration::from_secs(settings.claim_seconds.max(1));
        Self {
            claims: Claims::new(&catalog, Arc::clone(&clock), lease),
            sink: Sink::new(engine.clone(), store, settings.sink.clone()),
            engine,
            clock,
            settings,
        }
    }

    /// Runs what is asked for: dependent views in order, independent ones side
    /// by side. Unknown views fail before anything runs; a failed view fails
    /// itself and what depends on it, the others go on. Outcomes come in the
    /// order of dependencies, of one view by T; a view's first failure ends it.
    /// In the end rows of all views that are online are laid together, see
    /// [`OnlineStore::bundle`].
    ///
    /// Dropping the future stops all of it, as killing the process would.
    #[instrument(skip_all, err, fields(snapshot = snapshot.number))]
    pub async fn materialize(
        &self,
        snapshot: &Snapshot,
        request: MaterializeRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<RunOutcome>, IngestError> {
        let times = Times::of(&request, self.clock.now())?;
        let definitions = Arc::new(snapshot.definitions.clone());
        let chosen = select(&definitions, &request.views)?;
        let reads = chosen
            .iter()
            .map(|view| (view.name.as_str(), definitions.runs_read(view)));
        let queue = Queue::new(&reads.collect());
        let mut runs: BTreeMap<String, ViewRuns> = chosen
            .iter()
            .map(|view| {
                let runs = ViewRuns {
                    engine: self.engine.clone(),
                    claims: self.claims.clone(),
                    sink: self.sink.clone(),
                    definitions: Arc::clone(&definitions),
                    view: (*view).clone(),
                    times: times.clone(),
                    current_state: request.current_state,
                    lookback: request.lookback,
                    force: request.force,
                    when_claimed: request.when_claimed,
                    progress: Arc::clone(&progress),
                };
                runs.tell_all(&Stage::Queued);
                (view.name.clone(), runs)
            })
            .collect();
        let mut outcomes = self.run_all(queue, &mut runs).await;
        self.sink.bundle(&definitions).await;
        let order = chosen.iter().filter_map(|view| outcomes.remove(&view.name));
        Ok(order.flatten().collect())
    }

    /// Starts whatever is ready, until everything has ended.
    async fn run_all(
        &self,
        mut queue: Queue,
        runs: &mut BTreeMap<String, ViewRuns>,
    ) -> BTreeMap<String, Vec<RunOutcome>> {
        let mut outcomes = BTreeMap::new();
        let mut running: JoinSet<Vec<RunOutcome>> = JoinSet::new();
        let mut names: HashMap<Id, (String, UtcMicros)> = HashMap::new();
        loop {
            while running.len() < self.settings.concurrent_views.max(1) {
                let Some(view) = queue.next_ready() else {
                    break;
                };
                let Some(run) = runs.remove(&view) else {
                    continue;
                };
                let first = run.times.first();
                let handle = running.spawn(run.run());
                names.insert(handle.id(), (view, first));
            }
            let (id, ended) = match running.join_next_with_id().await {
                Some(Ok((id, ended))) => (id, Ok(ended)),
                Some(Err(e)) => (e.id(), Err(e)),
                None => break,
            };
            let Some((view, as_of)) = names.remove(&id) else {
                continue;
            };
            let ended = ended.unwrap_or_else(|e| {
                let error = Arc::new(IngestError::Stopped(e.to_string()));
                vec![RunOutcome::Failed {
                    view: view.clone(),
                    as_of,
                    error,
                }]
            });
            let good = ended.iter().all(RunOutcome::is_good);
            outcomes.insert(view.clone(), ended);
            for (dependent, because_of) in queue.end(&view, good) {
                if let Some(run) = runs.remove(&dependent) {
                    let message = format!("not started: {because_of} failed");
                    run.tell_all(&Stage::Failed { message });
                }
                let view = dependent.clone();
                outcomes.insert(dependent, vec![RunOutcome::NotStarted { view, because_of }]);
            }
        }
        outcomes
    }

    /// Brings online what is committed offline and is not online yet: for a
    /// server that starts, or another replica's store. One entry a view that
    /// is served online; a view that another writer is busy with is left to it.
    #[instrument(skip_all, fields(snapshot = snapshot.number))]
    pub async fn catch_up(
        &self,
        snapshot: &Snapshot,
    ) -> Vec<(String, Result<Filled, IngestError>)> {
        let mut ended = Vec::new();
        for view in snapshot.definitions.feature_views.values() {
            if view.serve == ServeMode::Online && why_not(view).is_none() {
                let filled = self.sink.catch_up(&snapshot.definitions, view).await;
                ended.push((view.name.clone(), filled));
            }
        }
        let is_new = |filled: &Result<Filled, _>| matches!(filled, Ok(Filled::Written { .. }));
        if ended.iter().any(|(_, filled)| is_new(filled)) {
            self.sink.bundle(&snapshot.definitions).await;
        }
        ended
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn now(&self) -> UtcMicros {
        self.clock.now()
    }
}

/// Views that wait for those that they read.
#[derive(Debug)]
struct Queue {
    /// What each view that has not started waits for.
    waiting: BTreeMap<String, BTreeSet<String>>,
}

impl Queue {
    /// `reads`: the feature views that each reads; those not in the list count as there.
    fn new(reads: &BTreeMap<&str, BTreeSet<&str>>) -> Self {
        let chosen: BTreeSet<&str> = reads.keys().copied().collect();
        let waiting = reads.iter().map(|(name, reads)| {
            let reads = reads.intersection(&chosen).map(|r| (*r).to_owned());
            ((*name).to_owned(), reads.collect())
        });
        Self {
            waiting: waiting.collect(),
        }
    }

    /// The first view, by name, that waits for nothing.
    fn next_ready(&mut self) -> Option<String> {
        let ready = self.waiting.iter().find(|(_, reads)| reads.is_empty());
        let name = ready.map(|(name, _)| name.clone())?;
        self.waiting.remove(&name);
        Some(name)
    }

    /// A view has ended. Gives, where it failed, the views that will never
    /// start, and which failed view each read.
    fn end(&mut self, view: &str, good: bool) -> Vec<(String, String)> {
        if good {
            for reads in self.waiting.values_mut() {
                reads.remove(view);
            }
            return Vec::new();
        }
        let mut failed = vec![view.to_owned()];
        let mut dropped = Vec::new();
        while let Some(cause) = failed.pop() {
            let readers: Vec<String> = self
                .waiting
                .iter()
                .filter(|(_, reads)| reads.contains(&cause))
                .map(|(name, _)| name.clone())
                .collect();
            for reader in readers {
                self.waiting.remove(&reader);
                failed.push(reader.clone());
                dropped.push((reader, cause.clone()));
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// c reads b, b reads a; d reads a and something that is not asked for.
    fn queue() -> Queue {
        Queue::new(
            &[
                ("a", vec![]),
                ("b", vec!["a"]),
                ("c", vec!["b"]),
                ("d", vec!["a", "elsewhere"]),
                ("e", vec![]),
            ]
            .into_iter()
            .map(|(name, reads)| (name, reads.into_iter().collect()))
            .collect(),
        )
    }

    fn ready(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.next_ready()).collect()
    }

    #[test]
    fn readers_wait_for_what_they_read() {
        let mut queue = queue();
        assert_eq!(ready(&mut queue), ["a", "e"]);
        assert!(queue.end("e", true).is_empty());
        assert!(ready(&mut queue).is_empty());
        assert!(queue.end("a", true).is_empty());
        assert_eq!(ready(&mut queue), ["b", "d"]);
        assert!(queue.end("b", true).is_empty());
        assert_eq!(ready(&mut queue), ["c"]);
    }

    #[test]
    fn a_failure_ends_everything_above_it_and_nothing_else() {
        let mut queue = queue();
        assert_eq!(ready(&mut queue), ["a", "e"]);
        let told = |name: &str, cause: &str| (name.to_owned(), cause.to_owned());
        let ended = queue.end("a", false);
        assert_eq!(ended, [told("b", "a"), told("d", "a"), told("c", "b")]);
        assert!(ready(&mut queue).is_empty());
    }
}
