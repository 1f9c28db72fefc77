//! What a server does beside answering: looking for news, sweeping, catching
//! up, making the runs that are due, keeping streams in order, reading message
//! logs. Each task ends when the server closes; a failure is logged, counted and
//! tried again. All but the reading of message logs have threads beside the reads'.

use std::sync::Arc;
use std::time::{Duration, Instant};

use granary_catalog::{Catalog, Snapshot};
use granary_engine::Engine;
use granary_ingest::{Consumer, IngestError, Materializer, Progress, Silent, Streams, sweep};
use granary_model::Clock;
use granary_serving::Reader;
use granary_store::OnlineStore;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use crate::settings::ServerSettings;

/// What the tasks work with.
#[derive(Debug, Clone)]
pub(crate) struct Background {
    pub reader: Arc<Reader>,
    pub materializer: Materializer,
    pub store: Arc<dyn OnlineStore>,
    pub catalog: Catalog,
    pub engine: Engine,
    pub streams: Arc<Streams>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<ServerSettings>,
    pub closing: CancellationToken,
    pub beside: Handle,
}

/// How far the definitions of streams were followed.
#[derive(Debug, Default)]
struct Followed {
    snapshot: u64,
    /// When streams that could not be opened are tried again.
    again: Option<Instant>,
}

/// Opening streams anew is work for all of them.
const BETWEEN_OPENINGS: Duration = Duration::from_secs(10);

impl Background {
    /// Starts all tasks. `ready` is set once reads can be answered: at once if
    /// every service can be read, else when what is committed offline has been
    /// brought online as far as it goes.
    /// The streams of the reader's snapshot are open when this returns.
    pub async fn start(&self, tasks: &TaskTracker, ready: watch::Sender<bool>) {
        let (settings, beside) = (&self.settings, &self.beside);
        let mut followed = Followed::default();
        if let Err(error) = self.follow(&self.reader.snapshot(), &mut followed).await {
            tracing::warn!(%error, "streams cannot be opened; tried again");
        }
        let this = self.clone();
        // Plans of a new snapshot take tens of milliseconds to compile.
        tasks.spawn_on(
            async move { this.until_closing(this.look_for_news(followed)).await },
            beside,
        );
        let this = self.clone();
        tasks.spawn_on(
            async move { this.until_closing(this.catch_up(ready)).await },
            beside,
        );
        if settings.sweep_seconds > 0 {
            let this = self.clone();
            tasks.spawn_on(
                async move { this.until_closing(this.sweep()).await },
                beside,
            );
        }
        if settings.refresh_views {
            let this = self.clone();
            tasks.spawn_on(
                async move { this.until_closing(this.refresh_views()).await },
                beside,
            );
        }
        let this = self.clone();
        tasks.spawn_on(
            async move { this.until_closing(this.maintain()).await },
            beside,
        );
    }

    /// Runs consumers; one that must not go on waits for whoever reads the log.
    pub fn consume(&self, tasks: &TaskTracker, consumers: Vec<Consumer>) {
        for mut consumer in consumers {
            let this = self.clone();
            tasks.spawn(async move {
                let run = async {
                    let error = consumer.run().await;
                    let settings = consumer.settings();
                    let (stream, consumer) = (&settings.stream, &settings.consumer);
                    tracing::error!(stream, consumer, %error, "a consumer ended and brings nothing until the server is started again");
                };
                this.until_closing(run).await;
            });
        }
    }

    async fn until_closing(&self, task: impl Future<Output = ()>) {
        self.closing.run_until_cancelled(task).await;
    }

    async fn look_for_news(&self, mut followed: Followed) {
        let mut ticks = every(Duration::from_millis(self.settings.refresh_millis.max(1)));
        let mut failing = String::new();
        loop {
            ticks.tick().await;
            // First: readers of a new snapshot find its streams open.
            let streams = self.follow_newest(&mut followed).await;
            let reader = self.reader.refresh().await.map_err(|e| e.to_string());
            match streams.map_err(|e| e.to_string()).and(reader.map(drop)) {
                Ok(()) => failing.clear(),
                Err(told) => {
                    self.metrics.refresh_failures.inc();
                    // Several times a second: told once, not every time.
                    if told != failing {
                        tracing::warn!(
                            error = told,
                            "catalog, store or events cannot be looked at; serving what is known"
                        );
                        failing = told;
                    }
                }
            }
        }
    }

    /// Opens the streams of the newest snapshot, where that is not done.
    async fn follow_newest(&self, followed: &mut Followed) -> Result<(), IngestError> {
        match self.catalog.newer_than(followed.snapshot).await? {
            Some(snapshot) => self.follow(&snapshot, followed).await,
            None if followed.again.is_some_and(|again| again <= Instant::now()) => {
                // Not the reader's, which may be behind what was followed.
                let snapshot = self.catalog.at(followed.snapshot).await?;
                self.follow(&snapshot, followed).await
            }
            None => Ok(()),
        }
    }

    async fn follow(
        &self,
        snapshot: &Snapshot,
        followed: &mut Followed,
    ) -> Result<(), IngestError> {
        let definitions = &snapshot.definitions;
        followed.again = None;
        match self.streams.follow(&self.engine, definitions).await {
            Ok(()) => {}
            Err(error @ (IngestError::NotOpen { .. } | IngestError::NotRestored { .. })) => {
                tracing::error!(%error, "the other streams are served; tried again");
                followed.again = Some(Instant::now() + BETWEEN_OPENINGS);
            }
            Err(error) => return Err(error),
        }
        followed.snapshot = snapshot.number;
        Ok(())
    }

    async fn catch_up(&self, ready: watch::Sender<bool>) {
        ready.send_replace(self.reader.is_complete());
        let snapshot = self.reader.snapshot();
        for (view, filled) in self.materializer.catch_up(&snapshot).await {
            if let Err(error) = filled {
                tracing::warn!(view, %error, "committed rows could not be brought online");
            }
        }
        // Told before anyone is told to come.
        if let Err(error) = self.reader.refresh().await {
            tracing::warn!(%error, "new generations are not seen yet");
        }
        ready.send_replace(true);
    }

    async fn sweep(&self) {
        let mut ticks = every(Duration::from_secs(self.settings.sweep_seconds));
        loop {
            ticks.tick().await;
            let snapshot = self.reader.snapshot();
            match sweep(self.store.as_ref(), &snapshot, self.clock.now()).await {
                Ok(0) => {}
                Ok(rows) => {
                    self.metrics.swept_rows.inc_by(rows);
                    tracing::info!(rows, "swept expired rows");
                }
                Err(error) => tracing::warn!(%error, "expired rows cannot be swept"),
            }
        }
    }

    /// Looks often; what is due is up to the settings of streams.
    async fn maintain(&self) {
        let mut ticks = every(Duration::from_secs(1));
        loop {
            ticks.tick().await;
            let done = self.streams.maintain(self.clock.now()).await;
            self.metrics.flushed_events.inc_by(done.flushed);
            self.metrics.trimmed_events.inc_by(done.removed);
            if done.flushed + done.restored + done.removed > 0 {
                let (flushed, restored, removed) = (done.flushed, done.restored, done.removed);
                tracing::info!(flushed, restored, removed, "kept streams in order");
            }
            for (stream, error) in done.failed {
                tracing::warn!(stream, %error, "a stream cannot be flushed or trimmed");
            }
        }
    }

    async fn refresh_views(&self) {
        let seconds = self.settings.refresh_views_seconds.max(1);
        let mut ticks = every(Duration::from_secs(seconds));
        let progress: Arc<dyn Progress> = Arc::new(Silent);
        loop {
            ticks.tick().await;
            let snapshot = self.reader.snapshot();
            match self.materializer.refresh(&snapshot, &progress).await {
                Ok(outcomes) => {
                    for outcome in outcomes {
                        self.metrics.materializations.inc();
                        let view = outcome.view();
                        if outcome.is_good() {
                            tracing::info!(view, "refreshed as REFRESH EVERY says");
                        } else {
                            self.metrics.failed_materializations.inc();
                            tracing::warn!(view, ?outcome, "a refresh failed");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "what is due cannot be told"),
            }
        }
    }
}

pub(crate) fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
