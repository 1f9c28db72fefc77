//! A run: the query of a view as of T, sorted into the offline table.
//!
//! The rows stream from the query through a sort that spills, past a gate that
//! leaves out and counts what cannot be kept, into Parquet files, one open file
//! a partition. One commit makes all of it visible, or nothing.

mod gate;
mod plan;
mod replace;
mod windowed;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use granary_model::{Definitions, FeatureView, UtcMicros, ViewKind};
use tokio::task::JoinSet;
use tracing::instrument;

use self::gate::{Gate, Passed};
use self::plan::RunPlan;
pub(crate) use self::plan::{EventTimes, row_columns, view_rows};
pub(crate) use self::windowed::{key_name, windowed_rows_of};
use crate::delta_log::NewFile;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::offline::log::{LogState, Stamp, TableLog};
use crate::offline::orphans;
use crate::offline::statistics::ColumnSummary;
use crate::offline::write::{PartitionWriter, RunFiles, Written};
use crate::offline::{RunMode, RunRecord};

/// How often a run tells how far it is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunScope {
    /// T: nothing later is seen.
    pub as_of: UtcMicros,
    /// Of an incremental view: only rows with a later event time; `None`: from the beginning.
    pub from: Option<UtcMicros>,
    /// Whether sources without an event time may be read although T is past:
    /// true for a run as of now, and where the caller accepts it.
    pub current_state: bool,
    /// Incremental, replacing a range, ...: recorded.
    pub mode: RunMode,
}

/// What a run has done so far; called now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RunSummary {
    pub rows: u64,
}

impl Engine {
    /// Computes the view and commits its rows to the offline table in one
    /// atomic commit; memory stays within the engine's bound.
    ///
    /// Returns the record of the commit. A run whose name is committed already
    /// is `EngineError::AlreadyRun` unless `mode` replaces: of an incremental view
    /// one up to T or later, of any other one with the same T. What an appending
    /// run of an incremental view finds at or before the watermark is there
    /// already and is left out.
    #[instrument(skip_all, fields(view = view.name, as_of = %scope.as_of), err)]
    pub async fn run(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        scope: RunScope,
        progress: &(dyn Fn(RunSummary) + Send + Sync),
    ) -> Result<RunRecord, EngineError> {
        self.admit(view, scope)?;
        let log = TableLog::new(self, view)?;
        let base = log.read().await?;
        let from = start(view, scope, base.as_ref())?;
        self.sweep(&log, base.as_ref()).await;
        let times = EventTimes {
            after: from,
            up_to: scope.as_of,
            future: Some(self.clock().now()),
        };
        let plan = RunPlan::new(self, definitions, view, times).await?;
        let keys = view.keys.len();
        let by_time = view.kind == ViewKind::Timestamped;
        let store = self.root_store().clone();
        let files = Arc::new(RunFiles::new(store, log.clone(), keys, by_time));
        let run = Run {
            engine: self,
            view,
            scope,
            from,
            stamp: Stamp {
                as_of: scope.as_of,
                created: self.clock().now(),
            },
            log,
            base,
            files: files.clone(),
        };
        let done = run.execute(plan, progress).await;
        if done.is_err() {
            files.discard().await;
        }
        done
    }

    /// Deletes what earlier runs left behind, if it can.
    async fn sweep(&self, log: &TableLog, base: Option<&LogState>) {
        let now = self.clock().now();
        match orphans::sweep(self.root_store().as_ref(), log, base, now).await {
            Ok(0) => {}
            Ok(files) => tracing::info!(view = log.view(), files, "deleted unneeded files"),
            Err(error) => {
                tracing::warn!(view = log.view(), %error, "unneeded files were not deleted");
            }
        }
    }

    /// Whether this run may be made at all.
    fn admit(&self, view: &FeatureView, scope: RunScope) -> Result<(), EngineError> {
        let (now, as_of) = (self.clock().now(), scope.as_of);
        if as_of > now {
            let view = view.name.clone();
            return Err(EngineError::Future { view, as_of, now });
        }
        if !view.current_state.is_empty() && !scope.current_state {
            return Err(EngineError::CurrentState {
                view: view.name.clone(),
                sources: view.current_state.join(", "),
                as_of,
            });
        }
        Ok(())
    }
}

/// After which event time the run begins. A repeated run ends here.
fn start(
    view: &FeatureView,
    scope: RunScope,
    base: Option<&LogState>,
) -> Result<Option<UtcMicros>, EngineError> {
    let incremental = view.is_incremental();
    let from = scope.from.filter(|_| incremental);
    let (RunMode::Append, Some(base)) = (scope.mode, base) else {
        return Ok(from);
    };
    let committed = match incremental {
        true => scope.as_of <= base.watermark,
        false => base.files.iter().any(|f| f.stamp.as_of == scope.as_of),
    };
    if committed {
        return Err(EngineError::AlreadyRun {
            view: view.name.clone(),
            as_of: scope.as_of,
        });
    }
    Ok(incremental.then(|| from.map_or(base.watermark, |f| f.max(base.watermark))))
}

/// A run under way.
struct Run<'a> {
    engine: &'a Engine,
    view: &'a FeatureView,
    scope: RunScope,
    from: Option<UtcMicros>,
    stamp: Stamp,
    log: TableLog,
    base: Option<LogState>,
    files: Arc<RunFiles>,
}

/// What all partitions have given.
#[derive(Default)]
struct Outcome {
    new: Vec<NewFile>,
    written: Option<Written>,
    passed: Passed,
    trimmed: BTreeMap<String, UtcMicros>,
}

impl Run<'_> {
    async fn execute(
        self,
        plan: RunPlan,
        progress: &(dyn Fn(RunSummary) + Send + Sync),
    ) -> Result<RunRecord, EngineError> {
        let mut outcome = self.partitions(plan, progress).await?;
        outcome
            .passed
            .refuse_duplicates(self.view, self.scope.as_of)?;
        if !self.view.is_incremental() && outcome.new.is_empty() {
            let mut empty = PartitionWriter::new(self.files.clone(), self.stamp, 0);
            empty.write_empty().await?;
            outcome.take(empty.finish().await?, Passed::default());
        }
        let mut removed = Vec::new();
        if let (RunMode::Replace, Some(base)) = (self.scope.mode, &self.base) {
            let replaced = replace::replaced(&self, base).await?;
            removed = replaced.removed;
            outcome.new.extend(replaced.kept);
        }
        let record = self.record(&outcome);
        let base = self.base.as_ref();
        self.log
            .commit(base, &outcome.new, &removed, &record)
            .await?;
        Ok(record)
    }

    /// Writes all partitions side by side.
    async fn partitions(
        &self,
        plan: RunPlan,
        progress: &(dyn Fn(RunSummary) + Send + Sync),
    ) -> Result<Outcome, EngineError> {
        let rows = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for partition in 0..plan.partitions() {
            let stream = plan
                .execute(partition)
                .map_err(|e| EngineError::from_query(&self.view.name, e))?;
            let gate = Gate::new(self.view, self.scope.as_of);
            let writer = PartitionWriter::new(self.files.clone(), self.stamp, partition);
            tasks.spawn(partition_task(stream, gate, writer, rows.clone()));
        }
        let mut outcome = Outcome::default();
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            tokio::select! {
                done = tasks.join_next() => match done {
                    None => break,
                    Some(done) => {
                        let (written, passed) = done.map_err(|e| EngineError::NotRun {
                            view: self.view.name.clone(),
                            reason: format!("a part of it broke off: {e}"),
                        })??;
                        outcome.take(written, passed);
                    }
                },
                _ = tick.tick() => progress(RunSummary { rows: rows.load(Ordering::Relaxed) }),
            }
        }
        progress(RunSummary {
            rows: rows.load(Ordering::Relaxed),
        });
        outcome.trimmed = plan.trimmed();
        Ok(outcome)
    }

    fn record(&self, outcome: &Outcome) -> RunRecord {
        let written = outcome.written.as_ref();
        let columns = written.map_or_else(
            || crate::offline::write::summaries(&self.view.row_schema()),
            |w| w.columns.clone(),
        );
        RunRecord {
            view: self.view.name.clone(),
            version: self.view.version,
            mode: self.scope.mode,
            from: self.from,
            as_of: self.scope.as_of,
            committed_at: self.engine.clock().now(),
            offline_version: self.base.as_ref().map_or(0, |b| b.version + 1),
            rows: written.map_or(0, |w| w.rows),
            null_keys: outcome.passed.null_keys,
            null_event_times: outcome.passed.null_event_times,
            future_event_times: outcome.passed.future_event_times,
            current_state: self.view.current_state.clone(),
            columns: columns.iter().map(ColumnSummary::finish).collect(),
            later_than_event: outcome.passed.later_than_event(self.view),
            trimmed: { outcome.trimmed.iter() }
                .filter(|(_, before)| self.from.is_none_or(|from| **before > from))
                .map(|(stream, before)| (stream.clone(), *before))
                .collect(),
        }
    }
}

impl Outcome {
    fn take(&mut self, mut written: Written, passed: Passed) {
        self.new.append(&mut written.files);
        self.passed.merge(passed);
        match &mut self.written {
            None => self.written = Some(written),
            Some(all) => {
                all.rows += written.rows;
                for (all, part) in all.columns.iter_mut().zip(&written.columns) {
                    all.merge(part);
                }
            }
        }
    }
}

async fn partition_task(
    mut stream: SendableRecordBatchStream,
    mut gate: Gate,
    mut writer: PartitionWriter,
    rows: Arc<AtomicU64>,
) -> Result<(Written, Passed), EngineError> {
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|e| gate.failed(e))?;
        let batch = gate.pass(&batch).map_err(|e| gate.failed(e))?;
        if batch.num_rows() > 0 && !gate.has_duplicates() {
            writer.write(&batch).await?;
        }
        rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    }
    Ok((writer.finish().await?, gate.finish()))
}
