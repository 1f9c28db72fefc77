//! Materialisations that were started over the wire: they go on when whoever
//! started them goes away, and can be followed by id.
//!
//! What a follower is told is bounded by the number of runs, not by how long
//! they take: of each run only the newest stage is kept.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use granary_ingest::{IngestError, MaterializeRequest, Materializer, Progress, RunOutcome, Stage};
use granary_model::{Clock, ErrorKind, UtcMicros};
use granary_serving::Reader;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::settings::ServerSettings;

/// Starts materialisations and remembers them.
#[derive(Debug)]
pub(crate) struct Materializations {
    materializer: Materializer,
    reader: Arc<Reader>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    settings: Arc<ServerSettings>,
    /// Stops what is under way; stopping is safe at any point.
    closing: CancellationToken,
    /// The threads that they run on.
    beside: Handle,
    /// Oldest first.
    kept: Mutex<VecDeque<Arc<Tracked>>>,
}

/// How a materialisation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ran; so many views failed or were not started.
    Finished { failed: usize },
    /// Nothing ran, or it was stopped.
    Refused { kind: ErrorKind, message: String },
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Stage {
        view: String,
        as_of: UtcMicros,
        stage: Stage,
    },
    Ended(Ending),
}

/// One materialisation.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub id: String,
    log: Mutex<Log>,
    /// The number of the newest entry.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    newest: u64,
    /// Newest stage of each run and the number of its entry.
    stages: BTreeMap<(String, UtcMicros), (u64, Stage)>,
    ending: Option<Ending>,
}

impl Materializations {
    pub fn new(
        (materializer, reader, clock): (Materializer, Arc<Reader>, Arc<dyn Clock>),
        metrics: Arc<Metrics>,
        settings: Arc<ServerSettings>,
        (closing, beside): (CancellationToken, Handle),
    ) -> Self {
        Self {
            materializer,
            reader,
            clock,
            metrics,
            settings,
            closing,
            beside,
            kept: Mutex::default(),
        }
    }

    pub fn find(&self, id: &str) -> Option<Arc<Tracked>> {
        self.kept().iter().find(|t| t.id == id).cloned()
    }

    /// `None` where as many as may be are under way.
    pub fn start(self: &Arc<Self>, request: MaterializeRequest) -> Option<Arc<Tracked>> {
        let mut kept = self.kept();
        let under_way = kept.iter().filter(|t| !t.has_ended()).count();
        if under_way >= self.settings.concurrent_materializations_max.max(1) {
            return None;
        }
        let now = self.clock.now().0;
        // Two within a microsecond differ in the second number.
        let twins = kept
            .iter()
            .filter(|t| t.id.starts_with(&now.to_string()))
            .count();
        let tracked = Arc::new(Tracked {
            id: format!("{now}-{twins}"),
            log: Mutex::default(),
            changed: watch::channel(0).0,
        });
        kept.push_back(Arc::clone(&tracked));
        while kept.len() > self.settings.materializations_kept.max(1) {
            let Some(oldest) = kept.iter().position(|t| t.has_ended()) else {
                break;
            };
            kept.remove(oldest);
        }
        drop(kept);
        let this = Arc::clone(self);
        let follow = Arc::clone(&tracked);
        self.beside
            .spawn(async move { this.run(request, follow).await });
        Some(tracked)
    }

    async fn run(&self, request: MaterializeRequest, tracked: Arc<Tracked>) {
        self.metrics.materializations.inc();
        let work = self.materialize(request, Arc::clone(&tracked));
        let work = AssertUnwindSafe(work).catch_unwind();
        let ended = tokio::select! {
            ended = work => ended,
            () = self.closing.cancelled() => {
                let message = "the server shut down; run it again".to_owned();
                tracked.end(Ending::Refused { kind: ErrorKind::Cancelled, message });
                return;
            }
        };
        let ending = match ended {
            Ok(Ok(outcomes)) => {
                let failed = outcomes.iter().filter(|o| !o.is_good()).count();
                Ending::Finished { failed }
            }
            Ok(Err(error)) => Ending::Refused {
                kind: error.kind(),
                message: error.to_string(),
            },
            Err(_) => Ending::Refused {
                kind: ErrorKind::Internal,
                message: "the materialisation ended by a panic; see the server's log".to_owned(),
            },
        };
        if ending != (Ending::Finished { failed: 0 }) {
            self.metrics.failed_materializations.inc();
        }
        // Whoever is told of the end reads what was written.
        if let Err(error) = self.reader.refresh().await {
            tracing::warn!(%error, "new generations are not seen yet");
        }
        tracked.end(ending);
    }

    async fn materialize(
        &self,
        request: MaterializeRequest,
        progress: Arc<Tracked>,
    ) -> Result<Vec<RunOutcome>, IngestError> {
        if let Err(error) = self.reader.refresh().await {
            tracing::warn!(%error, "the catalog's news is not seen yet");
        }
        let snapshot = self.reader.snapshot();
        self.materializer
            .materialize(&snapshot, request, progress)
            .await
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Tracked>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Tracked {
    fn stage(&self, view: &str, as_of: UtcMicros, stage: Stage) {
        let mut log = self.log();
        log.newest += 1;
        let entry = (log.newest, stage);
        log.stages.insert((view.to_owned(), as_of), entry);
        self.changed.send_replace(log.newest);
    }
}

impl Tracked {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&self) -> bool {
        self.log().ending.is_some()
    }

    fn end(&self, ending: Ending) {
        let mut log = self.log();
        log.newest += 1;
        log.ending = Some(ending);
        self.changed.send_replace(log.newest);
    }

    /// The end, if it came before any run began.
    pub async fn refused(&self) -> Option<(ErrorKind, String)> {
        let mut changes = self.changed.subscribe();
        // The sender lives as long as this does.
        let _ = changes.wait_for(|newest| *newest > 0).await;
        let log = self.log();
        match &log.ending {
            Some(Ending::Refused { kind, message }) if log.stages.is_empty() => {
                Some((*kind, message.clone()))
            }
            _ => None,
        }
    }

    /// Entries after number `seen`, oldest first, and the number of the newest.
    fn since(&self, seen: u64) -> (Vec<Told>, u64) {
        let log = self.log();
        let fresh = log.stages.iter().filter(|(_, (number, _))| *number > seen);
        let mut fresh: Vec<_> = fresh.collect();
        fresh.sort_by_key(|(_, (number, _))| *number);
        let stages = fresh
            .into_iter()
            .map(|((view, as_of), (_, stage))| Told::Stage {
                view: view.clone(),
                as_of: *as_of,
                stage: stage.clone(),
            });
        let ending = log.ending.clone().filter(|_| log.newest > seen);
        (stages.chain(ending.map(Told::Ended)).collect(), log.newest)
    }

    /// Everything that is known now, then what comes, up to the end.
    pub fn follow(self: Arc<Self>) -> BoxStream<'static, Told> {
        let changes = self.changed.subscribe();
        let following = stream::unfold(Some((self, changes, 0)), async |following| {
            let (tracked, mut changes, seen) = following?;
            let _ = changes.wait_for(|newest| *newest > seen).await;
            let (told, newest) = tracked.since(seen);
            let ended = matches!(told.last(), Some(Told::Ended(_)));
            let next = (!ended).then_some((tracked, changes, newest));
            Some((stream::iter(told), next))
        });
        following.flatten().boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracked() -> Arc<Tracked> {
        Arc::new(Tracked {
            id: "1-0".into(),
            log: Mutex::default(),
            changed: watch::channel(0).0,
        })
    }

    fn told(view: &str, stage: Stage) -> Told {
        let (view, as_of) = (view.to_owned(), UtcMicros(7));
        Told::Stage { view, as_of, stage }
    }

    #[tokio::test]
    async fn a_late_follower_is_told_the_newest_stages_and_the_end() {
        let run = tracked();
        for rows in 0..1_000 {
            run.stage("a", UtcMicros(7), Stage::Computing { rows });
        }
        run.stage("b", UtcMicros(7), Stage::Queued);
        let mut following = Arc::clone(&run).follow();
        let first = following.next().await;
        assert_eq!(first, Some(told("a", Stage::Computing { rows: 999 })));
        assert_eq!(following.next().await, Some(told("b", Stage::Queued)));
        assert!(futures::poll!(following.next()).is_pending());
        run.stage("a", UtcMicros(7), Stage::Done { rows: 5 });
        run.end(Ending::Finished { failed: 0 });
        let rest: Vec<Told> = following.collect().await;
        let ended = Told::Ended(Ending::Finished { failed: 0 });
        assert_eq!(rest, [told("a", Stage::Done { rows: 5 }), ended]);
        assert_eq!(run.refused().await, None);
    }

    #[tokio::test]
    async fn what_ends_before_it_begins_was_refused() {
        let run = tracked();
        let (kind, message) = (ErrorKind::NotFound, "unknown".to_owned());
        run.end(Ending::Refused {
            kind,
            message: message.clone(),
        });
        assert_eq!(run.refused().await, Some((kind, message)));
    }
}
