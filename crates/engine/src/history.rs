//! The history of a stream: a Delta table of the events that were flushed.
//!
//! `history/<name>/` under the root, named by the stream's HISTORY clause.
//! Columns: those of [`Stream::row_schema`], which end with `_created`, then
//! `_seq`, the event's number. Any engine that knows Delta Lake reads the table;
//! the owner of the stream's events alone appends to it, and nothing is ever
//! rewritten or removed.
//!
//! **Exactly once.** Every commit carries the transaction
//! `granary/stream/<stream>` with the sequence F up to which the table then has
//! the events. The invariant: *the table holds every event with `_seq` ≤ F that
//! there ever was, each once, and none beyond*. What the event store notes as
//! flushed (f) follows the commit, so f ≤ F, and whoever reads history with
//! `_seq` ≤ f and kept events after f sees each event once, at whatever point
//! a process was killed. To go on after that, f is set to F.
//!
//! Events that never were in the event store go in under sequences that the
//! store sets aside: one commit takes them, and the kept events before them that
//! are not in yet, so the invariant holds for it as well. Such a commit may have
//! a mark, `granary/stream/<stream>/<mark>`, by which a repetition is known.
//!
//! **Reading** (`rows`): the snapshot of the event store is taken first and says
//! f, the table is opened then, so it has all up to f; what was flushed since
//! is left out by `_seq`.
//!
//! This module knows nothing of the event store.

mod append;
mod relation;
mod scan;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::lit;
use datafusion::prelude::ident;
use deltalake_core::table::state::DeltaTableState;
use futures::{StreamExt, TryStreamExt};
use granary_model::UtcMicros;
use granary_model::definitions::Stream;
use tracing::instrument;

use crate::delta_file::DataFile;
use crate::delta_log::{DeltaLog, folder_name};
use crate::engine::{Engine, Joins};
use crate::error::EngineError;
use crate::offline::read::time_scalar;
use crate::stream_table::EventBatches;

pub use append::HistoryAppend;
pub(crate) use relation::HistoryRelation;
pub(crate) use scan::{HistoryRows, rows};

/// The history of a stream as it was when it was opened.
#[derive(Debug, Clone)]
pub struct HistoryTable {
    engine: Engine,
    stream: Arc<Stream>,
    log: DeltaLog,
    state: Arc<DeltaTableState>,
    flushed: u64,
    files: Vec<DataFile>,
}

impl HistoryTable {
    /// `None` where nothing was flushed yet. `EngineError::Refused` for a stream
    /// without HISTORY.
    #[instrument(skip_all, fields(stream = stream.name), err)]
    pub async fn open(engine: &Engine, stream: &Stream) -> Result<Option<Self>, EngineError> {
        let log = log_of(engine, stream)?;
        let Some((state, flushed)) = log.read(&transaction(stream)).await? else {
            return Ok(None);
        };
        Ok(Some(Self {
            engine: engine.clone(),
            stream: Arc::new(stream.clone()),
            flushed: flushed.unsigned_abs(),
            files: DataFile::all(&log, &state)?,
            state: Arc::new(state),
            log,
        }))
    }

    /// Up to which sequence the table has the events.
    pub fn flushed(&self) -> u64 {
        self.flushed
    }

    /// Events in the table.
    pub fn rows(&self) -> u64 {
        self.files.iter().filter_map(|file| file.rows).sum()
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether a commit of this mark was made.
    pub async fn has(&self, mark: &str) -> Result<bool, EngineError> {
        let transaction = marked(&transaction(&self.stream), mark);
        let version = self.log.transaction_version(&self.state, &transaction);
        Ok(version.await?.is_some())
    }

    /// Before when the stream had lost events that are not in it.
    pub async fn lost_before(&self) -> Result<Option<UtcMicros>, EngineError> {
        let transaction = marked(&transaction(&self.stream), LOST);
        let lost = self.log.transaction_version(&self.state, &transaction);
        Ok(lost.await?.map(UtcMicros))
    }

    /// These columns of [`Stream::history_schema`], of every event that has an
    /// event time from one time on and before another.
    pub async fn read(
        &self,
        columns: &[&str],
        (since, before): (Option<UtcMicros>, Option<UtcMicros>),
    ) -> Result<EventBatches, EngineError> {
        let name = self.stream.name.clone();
        let failed = |error| EngineError::from_query(&name, error);
        let relation = HistoryRelation::opened(self);
        let context = self.engine.context(None, Joins::default());
        let mut frame = context.read_table(Arc::new(relation)).map_err(failed)?;
        let event_time = || ident(&self.stream.event_time);
        let since = since.map(|t| event_time().gt_eq(lit(time_scalar(t))));
        let before = before.map(|t| event_time().lt(lit(time_scalar(t))));
        for bound in since.into_iter().chain(before) {
            frame = frame.filter(bound).map_err(failed)?;
        }
        let columns = columns.iter().map(|column| ident(*column));
        let frame = frame.select(columns).map_err(failed)?;
        let batches = frame.execute_stream().await.map_err(failed)?;
        let batches = batches.map_err(move |error| EngineError::from_query(&name, error));
        Ok(batches.boxed())
    }

    fn schema(&self) -> &SchemaRef {
        self.log.schema()
    }
}

fn log_of(engine: &Engine, stream: &Stream) -> Result<DeltaLog, EngineError> {
    let none = || EngineError::Refused(format!("{}: the stream has no HISTORY", stream.name));
    let name = stream.history.as_ref().ok_or_else(none)?;
    let folder = format!("history/{}", folder_name(name));
    DeltaLog::new(engine, name, &folder, stream.history_schema())
}

fn transaction(stream: &Stream) -> String {
    format!("granary/stream/{}", stream.name)
}

/// The mark whose version is the time before which events were lost.
const LOST: &str = "lost before";

fn marked(transaction: &str, mark: &str) -> String {
    format!("{transaction}/{mark}")
}
