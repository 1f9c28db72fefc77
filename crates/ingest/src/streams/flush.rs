//! Flushing: kept events go into the history of their stream, by sequence.
//!
//! One commit takes the next events after those that are flushed, at most
//! `flush_events_max` of them, and names the last (see `granary_engine::history`
//! for why a kill at any point leaves each event once). What is noted in the
//! event store follows the commit; where a process ended in between, the next
//! flush notes it first. One flush of a stream runs at a time: the lock is the
//! stream's, over changes of the definitions too.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use granary_engine::{Engine, HistoryAppend, HistoryTable};
use granary_store::EventRows;
use granary_store::events::EventSnapshot;
use tracing::instrument;

use super::{Streams, Writer};
use crate::error::IngestError;

/// Events read at once.
const EVENTS_READ: usize = 8192;

impl Streams {
    /// Takes into the history what is kept and not in it yet, up to the last
    /// event that is acknowledged now; gives the number of events. None of a
    /// stream without HISTORY.
    #[instrument(skip_all, err, fields(stream))]
    pub async fn flush(&self, engine: &Engine, stream: &str) -> Result<u64, IngestError> {
        let writer = self.writer(stream)?;
        if writer.stream.definition.history.is_none() {
            return Ok(0);
        }
        let _turn = writer.turn.lock().await;
        let events_max = self.settings.flush_events_max.max(1);
        let last = writer.stream.events.snapshot().await?;
        let last = last.state().last_sequence;
        let mut flushed = 0;
        loop {
            let (append, reached) = writer.begin(engine).await?;
            if reached >= last {
                return Ok(flushed);
            }
            match writer.flush_next(append, reached, events_max).await? {
                0 => return Ok(flushed),
                events => flushed += events,
            }
        }
    }
}

impl Writer {
    /// An append to the history, and up to which event that has them all: as
    /// much is noted as flushed when this returns.
    pub(super) async fn begin(&self, engine: &Engine) -> Result<(HistoryAppend, u64), IngestError> {
        let stream = &self.stream;
        let append = HistoryAppend::begin(engine, &stream.definition).await?;
        let reached = append.base().map_or(0, HistoryTable::flushed);
        let noted = stream.events.snapshot().await?.state().flushed;
        if reached < noted {
            let history = stream.definition.history.as_deref().unwrap_or_default();
            return Err(IngestError::Refused(format!(
                "stream {}: events up to {noted} were flushed, but its history {history} ends at \
                 {reached}: give HISTORY its old name back, or restore the table",
                stream.definition.name
            )));
        }
        if reached > noted {
            stream.events.set_flushed(reached).await?;
        }
        Ok((append, reached))
    }

    /// One commit of the next events; gives how many.
    async fn flush_next(
        &self,
        mut append: HistoryAppend,
        after: u64,
        events_max: usize,
    ) -> Result<u64, IngestError> {
        let snapshot = self.stream.events.snapshot().await?;
        let written = self.write_kept(&mut append, snapshot.as_ref(), after, events_max);
        match written.await {
            Ok(None) => Ok(0),
            Ok(Some(last)) => {
                let events = append.rows();
                self.commit(append, last).await?;
                Ok(events)
            }
            Err(error) => {
                append.discard().await;
                Err(error)
            }
        }
    }

    /// Commits what has every event up to `flushed`, and notes that.
    pub(super) async fn commit(
        &self,
        append: HistoryAppend,
        flushed: u64,
    ) -> Result<(), IngestError> {
        append.commit(flushed).await?;
        Ok(self.stream.events.set_flushed(flushed).await?)
    }

    /// Writes the kept events after a sequence, at most so many; gives the
    /// sequence of the last, `None` where there are none.
    pub(super) async fn write_kept(
        &self,
        append: &mut HistoryAppend,
        snapshot: &dyn EventSnapshot,
        after: u64,
        events_max: usize,
    ) -> Result<Option<u64>, IngestError> {
        let schema = self.stream.definition.history_schema();
        let columns: Vec<usize> = (0..schema.fields().len() - 1).collect();
        let (mut last, mut left) = (None, events_max);
        while left > 0 {
            let mut rows = EventRows::new(&self.stream.layout, &columns);
            let (after, limit) = (last.unwrap_or(after), left.min(EVENTS_READ));
            snapshot.scan_log(after, limit, &mut rows).await?;
            let read = rows.finish()?;
            let Some(newest) = read.sequences.last() else {
                break;
            };
            last = Some(*newest);
            left = left.saturating_sub(read.sequences.len());
            let sequences = read.sequences.iter().map(|sequence| *sequence as i64);
            let mut values = read.batch.columns().to_vec();
            values.push(Arc::new(Int64Array::from_iter_values(sequences)) as ArrayRef);
            let batch = RecordBatch::try_new(Arc::clone(&schema), values);
            let batch = batch.map_err(|e| IngestError::Stopped(e.to_string()))?;
            append.write(&batch).await?;
        }
        Ok(last)
    }
}
