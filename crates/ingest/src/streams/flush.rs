//! Flushing: kept events go into the history of their stream, by sequence.
//!
//! One commit takes the next events after those that are flushed, at most
//! `flush_events_max` of them, and names the last (see `granary_engine::history`
//! for why a kill at any point leaves each event once). What is noted in the
//! event store follows the commit; where a process ended in between, the next
//! flush notes it first. One flush of a stream runs at a time: the lock is the
//! stream's, over changes of the definitions too.

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use granary_engine::{Engine, HistoryAppend, HistoryTable};
use granary_store::EventRows;
use granary_store::events::{EventRef, EventSink, EventSnapshot};
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
    pub async fn flush(&self, stream: &str) -> Result<u64, IngestError> {
        let writer = self.writer(stream)?;
        if writer.stream.definition.history.is_none() {
            return Ok(0);
        }
        let engine = self.engine()?;
        let _turn = writer.turn.lock().await;
        writer.flush(engine, self.settings.flush_events_max).await
    }
}

impl Writer {
    /// Up to the last event that is acknowledged now. Whoever calls it has the
    /// turn.
    pub(super) async fn flush(
        &self,
        engine: &Engine,
        events_max: usize,
    ) -> Result<u64, IngestError> {
        let last = self.stream.events.snapshot().await?;
        let last = last.state().last_sequence;
        let mut flushed = 0;
        loop {
            let (append, reached) = self.begin(engine).await?;
            if reached >= last {
                return Ok(flushed);
            }
            match self.flush_next(append, reached, events_max.max(1)).await? {
                0 => return Ok(flushed),
                events => flushed += events,
            }
        }
    }

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
        let all = (after, u64::MAX);
        let written = self.write_kept(&mut append, snapshot.as_ref(), all, events_max);
        match written.await {
            Ok(None) => Ok(0),
            Ok(Some(last)) => {
                let events = append.rows();
                self.commit(append, last, None).await?;
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
        mark: Option<&str>,
    ) -> Result<(), IngestError> {
        let lost = self.stream.events.snapshot().await?.state().lost_before;
        append.commit(flushed, mark, lost).await?;
        Ok(self.stream.events.set_flushed(flushed).await?)
    }

    /// Writes the kept events after one sequence and up to another, at most so
    /// many; gives the sequence of the last, `None` where there are none.
    pub(super) async fn write_kept(
        &self,
        append: &mut HistoryAppend,
        snapshot: &dyn EventSnapshot,
        (after, up_to): (u64, u64),
        events_max: usize,
    ) -> Result<Option<u64>, IngestError> {
        let (mut last, mut left) = (None, events_max);
        while left > 0 {
            let after = last.unwrap_or(after);
            let room = usize::try_from(up_to.saturating_sub(after)).unwrap_or(usize::MAX);
            let limit = left.min(EVENTS_READ).min(room);
            let mut rows = self.history_rows();
            if limit > 0 {
                let mut reading = UpTo {
                    up_to,
                    rows: &mut rows,
                };
                snapshot.scan_log(after, limit, &mut reading).await?;
            }
            if rows.is_empty() {
                break;
            }
            left -= rows.len();
            last = self.write_rows(append, rows).await?;
        }
        Ok(last)
    }

    /// Collects events for the history.
    pub(super) fn history_rows(&self) -> EventRows {
        let columns = self.stream.layout.schema().fields().len();
        EventRows::new(&self.stream.layout, &(0..columns).collect::<Vec<_>>())
    }

    /// Gives the sequence of the last event.
    pub(super) async fn write_rows(
        &self,
        append: &mut HistoryAppend,
        rows: EventRows,
    ) -> Result<Option<u64>, IngestError> {
        let read = rows.finish()?;
        let sequences = read.sequences.iter().map(|sequence| *sequence as i64);
        let mut values = read.batch.columns().to_vec();
        values.push(Arc::new(Int64Array::from_iter_values(sequences)) as ArrayRef);
        let batch = RecordBatch::try_new(self.stream.definition.history_schema(), values);
        let batch = batch.map_err(|e| IngestError::Stopped(e.to_string()))?;
        append.write(&batch).await?;
        Ok(read.sequences.last().copied())
    }
}

/// Takes events up to a sequence.
struct UpTo<'a> {
    up_to: u64,
    rows: &'a mut EventRows,
}

impl EventSink for UpTo<'_> {
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        match event.sequence <= self.up_to {
            true => self.rows.event(range, event),
            false => ControlFlow::Break(()),
        }
    }
}
