//! The runs of one view, one after another, under one claim.

use std::sync::Arc;

use granary_engine::{Engine, EngineError, OfflineTable, RunRecord, RunScope};
use granary_model::definitions::{Definitions, FeatureView, ServeMode};
use granary_model::{Interval, UtcMicros};

use super::RunOutcome;
use super::due::{Committed, Decision, Wanted, decide};
use super::lag::lag;
use super::times::Times;
use crate::claim::{Claim, Claims, WhenClaimed};
use crate::error::IngestError;
use crate::progress::{Progress, Stage};
use crate::sink::Sink;

/// A run is decided anew this often when another writer's commit comes between.
const CONFLICTS_MAX: u32 = 3;

pub(super) struct ViewRuns {
    pub engine: Engine,
    pub claims: Claims,
    pub sink: Sink,
    pub definitions: Arc<Definitions>,
    pub view: FeatureView,
    pub times: Times,
    /// See [`MaterializeRequest::current_state`](super::MaterializeRequest).
    pub current_state: bool,
    pub lookback: Option<Interval>,
    pub force: bool,
    pub when_claimed: WhenClaimed,
    pub progress: Arc<dyn Progress>,
}

impl ViewRuns {
    pub(super) fn tell_all(&self, stage: &Stage) {
        for t in &self.times.all {
            self.progress.stage(&self.view.name, *t, stage.clone());
        }
    }

    fn tell(&self, as_of: UtcMicros, stage: Stage) {
        self.progress.stage(&self.view.name, as_of, stage);
    }

    /// Runs every T in turn, then brings all of it online; the first failure
    /// is the last outcome.
    pub(super) async fn run(self) -> Vec<RunOutcome> {
        let claim = match self.admit().await {
            Ok(claim) => claim,
            Err(error) => {
                return vec![self.failed(self.times.first(), error)];
            }
        };
        let outcomes = tokio::select! {
            outcomes = self.run_claimed() => outcomes,
            lost = claim.lost() => {
                vec![self.failed(self.times.last(), lost)]
            }
        };
        claim.release().await;
        outcomes
    }

    async fn run_claimed(&self) -> Vec<RunOutcome> {
        let mut outcomes = Vec::with_capacity(self.times.all.len());
        let mut previous = None;
        for as_of in self.times.all.iter().copied() {
            match self.run_as_of(as_of, previous).await {
                Ok(ended) => outcomes.push(ended),
                Err(error) => {
                    outcomes.push(self.failed(as_of, error));
                    break;
                }
            }
            previous = Some(as_of);
        }
        let Some(last) = previous else {
            return outcomes;
        };
        let online = self.bring_online(last).await;
        match (online, outcomes.last()) {
            (Ok(()), Some(RunOutcome::Committed(record))) => {
                self.tell(last, Stage::Done { rows: record.rows });
            }
            (Ok(()), Some(RunOutcome::Skipped { reason, .. })) => {
                let reason = reason.clone();
                self.tell(last, Stage::Skipped { reason });
            }
            (Err(error), Some(outcome)) if outcome.is_good() => {
                outcomes.pop();
                outcomes.push(self.failed(last, error));
            }
            (Err(error), _) => {
                tracing::warn!(view = self.view.name, %error, "what is committed is not online yet");
            }
            (Ok(()), _) => {}
        }
        outcomes
    }

    fn failed(&self, as_of: UtcMicros, error: IngestError) -> RunOutcome {
        let message = error.to_string();
        self.tell(as_of, Stage::Failed { message });
        RunOutcome::Failed {
            view: self.view.name.clone(),
            as_of,
            error: Arc::new(error),
        }
    }

    /// Everything that has to hold before the first run.
    async fn admit(&self) -> Result<Claim, IngestError> {
        for name in self.definitions.runs_read(&self.view) {
            let dependency = &self.definitions.feature_views[name];
            if let Some((as_of, lag)) = lag(&self.engine, dependency, &self.times.all).await? {
                return Err(IngestError::DependencyLags {
                    view: self.view.name.clone(),
                    dependency: name.to_owned(),
                    as_of,
                    lag,
                    how: self.both(name),
                });
            }
        }
        self.claims.take(&self.view.name, self.when_claimed).await
    }

    /// The command that runs a dependency and then this view at the same times.
    fn both(&self, dependency: &str) -> String {
        let when = match self.times.all.as_slice() {
            _ if self.times.present => "`".to_owned(),
            [as_of] => format!(" --as-of {as_of}`"),
            _ => "`, with the same --from, --to and --every".to_owned(),
        };
        format!("`granary materialize {dependency} {}{when}", self.view.name)
    }

    /// Decides and computes one T. The last one is told to be done when it is online.
    async fn run_as_of(
        &self,
        as_of: UtcMicros,
        previous: Option<UtcMicros>,
    ) -> Result<RunOutcome, IngestError> {
        let wanted = Wanted {
            as_of,
            previous,
            lookback: self.lookback,
            force: self.force,
            current_state: self.current_state || self.times.present,
        };
        let is_last = self.times.last() == as_of;
        let skipped = |reason: String| {
            if !is_last {
                let reason = reason.clone();
                self.tell(as_of, Stage::Skipped { reason });
            }
            let view = self.view.name.clone();
            Ok(RunOutcome::Skipped {
                view,
                as_of,
                reason,
            })
        };
        let mut conflicts = 0;
        loop {
            let scope = match decide(self.view.is_incremental(), &self.committed().await?, wanted) {
                Decision::Skip(reason) => return skipped(reason),
                Decision::Run(scope) => scope,
            };
            match self.compute(scope).await {
                Ok(record) => {
                    let rows = record.rows;
                    self.tell(as_of, Stage::Committed { rows });
                    if !is_last {
                        self.tell(as_of, Stage::Done { rows });
                    }
                    return Ok(RunOutcome::Committed(Box::new(record)));
                }
                Err(EngineError::AlreadyRun { as_of, .. }) => {
                    return skipped(format!("the run as of {as_of} is committed already"));
                }
                Err(EngineError::Conflict { .. }) if conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn committed(&self) -> Result<Committed, IngestError> {
        let Some(table) = OfflineTable::open(&self.engine, &self.view).await? else {
            return Ok(Committed::default());
        };
        Ok(Committed {
            watermark: Some(table.watermark()),
            times: table.run_times().await?,
        })
    }

    async fn compute(&self, scope: RunScope) -> Result<RunRecord, EngineError> {
        self.tell(scope.as_of, Stage::Computing { rows: 0 });
        let progress = |done: granary_engine::RunSummary| {
            self.tell(scope.as_of, Stage::Computing { rows: done.rows });
        };
        self.engine
            .run(&self.definitions, &self.view, scope, &progress)
            .await
    }

    /// Brings online what is committed; a run that fails here is caught up by
    /// the next one.
    async fn bring_online(&self, as_of: UtcMicros) -> Result<(), IngestError> {
        if self.view.serve == ServeMode::Online {
            let progress = |rows| self.tell(as_of, Stage::Publishing { rows });
            let (sink, definitions) = (&self.sink, &self.definitions);
            sink.fill(definitions, &self.view, &progress).await?;
        }
        Ok(())
    }
}
