//! Adding events to a history in one commit.

use std::sync::{Mutex, PoisonError};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use deltalake_core::kernel::{Action, Transaction};
use deltalake_core::protocol::SaveMode;
use granary_model::UtcMicros;
use granary_model::definitions::Stream;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tracing::instrument;
use uuid::Uuid;

use super::{HistoryTable, LOST, log_of, marked, transaction};
use crate::delta_file::FileWriter;
use crate::delta_log::{DeltaLog, NewCommit, NewFile};
use crate::engine::Engine;
use crate::error::EngineError;

/// Events on their way into a history; nothing shows before [`Self::commit`].
pub struct HistoryAppend {
    engine: Engine,
    log: DeltaLog,
    base: Option<HistoryTable>,
    transaction: String,
    /// Names the files of this append.
    id: Uuid,
    /// In a lock that is never waited for: a writer may not be shared.
    open: Mutex<Option<FileWriter>>,
    files: Vec<NewFile>,
    rows: u64,
    /// The greatest that was written.
    last_sequence: u64,
}

impl HistoryAppend {
    /// On top of what the table holds now.
    pub async fn begin(engine: &Engine, stream: &Stream) -> Result<Self, EngineError> {
        Ok(Self {
            base: HistoryTable::open(engine, stream).await?,
            engine: engine.clone(),
            log: log_of(engine, stream)?,
            transaction: transaction(stream),
            id: Uuid::new_v4(),
            open: Mutex::default(),
            files: Vec::new(),
            rows: 0,
            last_sequence: 0,
        })
    }

    /// What this is added to; `None` where there is no table yet.
    pub fn base(&self) -> Option<&HistoryTable> {
        self.base.as_ref()
    }

    /// Events written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds events with the columns of [`Stream::history_schema`], none of a
    /// sequence that the table has reached.
    pub async fn write(&mut self, batch: &RecordBatch) -> Result<(), EngineError> {
        let mut open = match self.take_open() {
            Some(open) => open,
            None => self.open_file()?,
        };
        let reached = self.base.as_ref().map_or(0, HistoryTable::flushed);
        let sequences = batch.column(batch.num_columns() - 1);
        for sequence in sequences.as_primitive::<Int64Type>() {
            let sequence = sequence.unwrap_or(0).unsigned_abs();
            if sequence <= reached {
                let what = format!("event {sequence} is in it: it has all up to {reached}");
                return Err(self.log.foreign(&what));
            }
            self.last_sequence = self.last_sequence.max(sequence);
        }
        self.rows += batch.num_rows() as u64;
        open.write(&self.log, batch).await?;
        match open.is_full() {
            true => self.files.push(open.close(&self.log).await?),
            false => self.open = Mutex::new(Some(open)),
        }
        Ok(())
    }

    /// Commits what was written as the events up to a sequence: afterwards the
    /// table has to hold every one of them, but for those that were lost before a
    /// time. With a mark, [`HistoryTable::has`] tells that this was committed.
    /// `EngineError::Conflict` where somebody else committed meanwhile.
    #[instrument(skip_all, fields(history = self.log.object(), flushed), err)]
    pub async fn commit(
        mut self,
        flushed: u64,
        mark: Option<&str>,
        lost_before: Option<UtcMicros>,
    ) -> Result<(), EngineError> {
        if let Some(open) = self.take_open() {
            self.files.push(open.close(&self.log).await?);
        }
        if flushed < self.last_sequence {
            let last = self.last_sequence;
            return Err(self
                .log
                .foreign(&format!("event {last} lies beyond {flushed}")));
        }
        let now = self.engine.clock().now();
        let base = self.base.as_ref().map(|base| base.state.as_ref());
        let text = serde_json::json!({
            "rows": self.rows, "flushed": flushed, "committed_at": now.to_string(),
        });
        let additions = self.files.iter().map(|file| Action::Add(file.to_add(now)));
        let version = i64::try_from(flushed).unwrap_or(i64::MAX);
        let mut transactions = vec![Transaction::new(&self.transaction, version)];
        let marked = |mark, version| Transaction::new(marked(&self.transaction, mark), version);
        transactions.extend(mark.map(|mark| marked(mark, 1)));
        transactions.extend(lost_before.map(|t| marked(LOST, t.0)));
        let commit = NewCommit {
            version: base.map_or(0, |base| base.version() + 1),
            mode: SaveMode::Append,
            actions: additions.collect(),
            transactions,
            text: text.to_string(),
        };
        self.log.commit(base, commit).await
    }

    /// Deletes what was written, as far as that can be done.
    pub async fn discard(mut self) {
        let open = self.take_open().map(FileWriter::into_path);
        let files = std::mem::take(&mut self.files);
        for path in files.into_iter().map(|file| file.path).chain(open) {
            let path = self.log.path_in_store(&path);
            match self.engine.root_store().delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%path, %error, "a file of a failed flush remains"),
            }
        }
    }

    fn take_open(&mut self) -> Option<FileWriter> {
        let open = self.open.get_mut();
        open.unwrap_or_else(PoisonError::into_inner).take()
    }

    fn open_file(&self) -> Result<FileWriter, EngineError> {
        let number = self.files.len();
        let path = Path::from(format!("events-{}-{number:05}.parquet", self.id.simple()));
        FileWriter::open(&self.engine, &self.log, path)
    }
}

impl std::fmt::Debug for HistoryAppend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryAppend")
            .field("history", &self.log.object())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}
