//! Putting events of the history back into the event store.
//!
//! What is needed grows: a new live view has a longer window. What is whole is
//! noted beside the events, as the offset of a consumer: the store has all that
//! this retention needs. Trims keep to it: a smaller retention is noted before
//! anything goes by it, a greater one when all that it needs is back, and until
//! then nothing goes. So a kill at any point leaves a note that is true, and the
//! rest is done again: an event that is there stays as it is. Before events go to
//! the history alone, what needs them is taken out of the note.
//!
//! Events come back under their own sequences and created times. These are not
//! beyond what is flushed, so no event is flushed twice, and a scan, which has
//! them from the history, does not see them a second time. Readers of the events
//! know from [`StreamState::trimmed_before`], which falls last, from when on
//! nothing is missing. What a stream lost before it had a HISTORY stays missing.
//!
//! Of the newest events of a key nobody knows how far back they lie, so for ROWS
//! frames the whole history comes back, and a trim removes the rest.
//!
//! An event store that was lost is begun anew behind its history: new events get
//! sequences after those of the table, and what is needed comes back.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use futures::TryStreamExt;
use granary_engine::{Engine, HistoryTable, Retention};
use granary_model::UtcMicros;
use granary_store::events::{
    ConsumerOffset, EventBatch, EventId, EventSnapshot, NewEvent, RestoredEvents, StreamState,
};
use tracing::instrument;

use super::older::OlderEvent;
use super::rows::TakenTimes;
use super::{Streams, Writer};
use crate::error::IngestError;

/// What is noted beside the events by Granary itself has names that begin so.
pub(super) const OWN_NAMES: &str = "granary/";
/// What the store is whole for, as JSON.
const WHOLE: &str = "granary/whole";
/// Put back at once.
const RESTORED_EVENTS: usize = 1000;
const RESTORED_BYTES: usize = 1 << 20;

impl Streams {
    /// Puts back what the live views of a stream need and is in the history only;
    /// gives the number of events. Where all is there, which costs no look at
    /// the history, none.
    #[instrument(skip_all, err, fields(stream))]
    pub async fn restore(&self, stream: &str) -> Result<u64, IngestError> {
        let writer = self.writer(stream)?;
        if self.needs_are_unknown() {
            return Ok(0);
        }
        let needed = self.retention(&writer.stream.definition);
        let snapshot = writer.stream.events.snapshot().await?;
        let (whole, noted) = whole(snapshot.as_ref()).await?;
        if whole.covers(&needed) {
            return Ok(0);
        }
        let state = *snapshot.state();
        drop(snapshot);
        let mut restored = 0;
        if writer.stream.definition.history.is_some() {
            let since = self.since(&needed, &state);
            // What the store is whole for is here. What lies before that may have
            // gone, or went to the history alone when nothing needed it.
            let missing = (since, self.since(&whole, &state));
            let whole_from = since.unwrap_or(UtcMicros::MIN);
            restored = writer.put_back(self.engine()?, missing, whole_from).await?;
        }
        writer.note_whole(&needed, noted).await?;
        Ok(restored)
    }

    /// Before events go to the history and nowhere else: what the store is whole
    /// for must need none of them.
    pub(super) async fn expect_older(
        &self,
        writer: &Writer,
        events: &[OlderEvent],
    ) -> Result<(), IngestError> {
        let snapshot = writer.stream.events.snapshot().await?;
        let (whole, noted) = whole(snapshot.as_ref()).await?;
        let reaches = |retention: &Retention| {
            let since = self.since(retention, snapshot.state());
            let needed = |older: &OlderEvent| since.is_none_or(|t| older.event.event_time >= t);
            *retention != Retention::nothing() && events.iter().any(needed)
        };
        if !reaches(&whole) {
            return Ok(());
        }
        let needed = self.retention(&writer.stream.definition);
        let known = !self.needs_are_unknown() && whole.covers(&needed);
        let still = match known && !reaches(&needed) {
            true => needed,
            false => Retention::nothing(),
        };
        writer.note_whole(&still, noted).await
    }

    /// From when on events are needed; `None`: all, or nobody can say.
    fn since(&self, needed: &Retention, state: &StreamState) -> Option<UtcMicros> {
        let Retention::Bounded(bounds) = needed else {
            return None;
        };
        let oldest = needed.oldest(state.newest_event_time?)?;
        bounds.newest.is_empty().then(|| self.less_future(oldest))
    }
}

impl Writer {
    /// Whether what may go by a retention may go now: see the module.
    pub(super) async fn may_trim_to(&self, retention: &Retention) -> Result<bool, IngestError> {
        let snapshot = self.stream.events.snapshot().await?;
        let (whole, noted) = whole(snapshot.as_ref()).await?;
        if !whole.covers(retention) {
            return Ok(false);
        }
        if whole != *retention {
            self.note_whole(retention, noted).await?;
        }
        Ok(true)
    }

    async fn note_whole(
        &self,
        retention: &Retention,
        previous: Option<Bytes>,
    ) -> Result<(), IngestError> {
        let offset = serde_json::to_vec(retention);
        let offset = offset.map_err(|e| IngestError::Stopped(e.to_string()))?;
        let note = ConsumerOffset {
            consumer: WHOLE.to_owned(),
            previous,
            offset: offset.into(),
        };
        let batch = EventBatch {
            events: Vec::new(),
            offsets: vec![note],
        };
        self.stream.events.append(batch).await?;
        Ok(())
    }

    /// Puts back what the history has in a range of event times; nothing trimmed
    /// is missing then from `whole_from` on, but for what is lost.
    async fn put_back(
        &self,
        engine: &Engine,
        missing: (Option<UtcMicros>, Option<UtcMicros>),
        whole_from: UtcMicros,
    ) -> Result<u64, IngestError> {
        let Some(table) = HistoryTable::open(engine, &self.stream.definition).await? else {
            return Ok(0);
        };
        let flushed = self.stream.events.snapshot().await?.state().flushed;
        let schema = self.stream.definition.history_schema();
        let fields = schema.fields().iter();
        let columns: Vec<&str> = fields.map(|field| field.name().as_str()).collect();
        let mut batches = table.read(&columns, missing).await?;
        let mut restored = 0;
        while let Some(batch) = batches.try_next().await? {
            let mut events = self.events_of(&batch)?;
            // What is flushed since and not noted yet is kept.
            events.retain(|(id, _)| id.sequence <= flushed);
            for events in chunks(events) {
                let events = RestoredEvents {
                    events,
                    ..RestoredEvents::default()
                };
                restored += self.stream.events.restore(events).await?;
            }
        }
        let whole = RestoredEvents {
            whole_from: Some(whole_from),
            ..RestoredEvents::default()
        };
        self.stream.events.restore(whole).await?;
        Ok(restored)
    }

    /// Rows of the history as events.
    fn events_of(&self, batch: &RecordBatch) -> Result<Vec<(EventId, NewEvent)>, IngestError> {
        let stored = batch.num_columns() - 2;
        let created = batch.column(stored);
        let created = created.as_primitive::<TimestampMicrosecondType>();
        let sequences = batch.column(stored + 1).as_primitive::<Int64Type>();
        let rows = batch.project(&(0..stored).collect::<Vec<_>>());
        let rows = rows.map_err(|e| IngestError::Stopped(e.to_string()))?;
        let checked = self.codec.check(&rows, TakenTimes::up_to(UtcMicros::MAX))?;
        if checked.events.len() != rows.num_rows() {
            let name = &self.stream.definition.name;
            let reason = format!("stream {name}: its history has rows that are no events");
            return Err(IngestError::Refused(reason));
        }
        let events = checked.events.into_iter().enumerate();
        let with_id = |(row, event)| {
            let id = EventId {
                sequence: sequences.value(row).unsigned_abs(),
                created_time: UtcMicros(created.value(row)),
            };
            (id, event)
        };
        Ok(events.map(with_id).collect())
    }

    /// Begins a stream whose events were lost, or never were here, behind its
    /// history.
    pub(super) async fn begin_behind_history(&self, engine: &Engine) -> Result<(), IngestError> {
        let events = &self.stream.events;
        let state = *events.snapshot().await?.state();
        if state.events > 0 || state.flushed > 0 {
            return Ok(());
        }
        let Some(table) = HistoryTable::open(engine, &self.stream.definition).await? else {
            return Ok(());
        };
        tracing::warn!(
            stream = self.stream.definition.name,
            flushed = table.flushed(),
            "no event is kept of a stream that has a history: it goes on behind that"
        );
        // First, so that a kill in between leaves nothing undone.
        self.note_whole(&Retention::nothing(), self.noted().await?)
            .await?;
        let lost = RestoredEvents {
            lost_before: table.lost_before().await?,
            ..RestoredEvents::default()
        };
        events.restore(lost).await?;
        let ahead = table.flushed().saturating_sub(state.last_sequence);
        events.reserve(ahead).await?;
        Ok(events.set_flushed(table.flushed()).await?)
    }

    async fn noted(&self) -> Result<Option<Bytes>, IngestError> {
        let snapshot = self.stream.events.snapshot().await?;
        Ok(snapshot.consumer_offset(WHOLE).await?)
    }
}

/// What the store is whole for, and the note of it. Without one nothing was
/// trimmed yet.
async fn whole(snapshot: &dyn EventSnapshot) -> Result<(Retention, Option<Bytes>), IngestError> {
    let noted = snapshot.consumer_offset(WHOLE).await?;
    let whole = match &noted {
        Some(note) => serde_json::from_slice(note)
            .map_err(|e| IngestError::Stopped(format!("what is whole cannot be read: {e}")))?,
        None if snapshot.state().trimmed_before.is_some() => Retention::nothing(),
        None => Retention::Everything,
    };
    Ok((whole, noted))
}

/// Parts that are put back at once.
fn chunks(events: Vec<(EventId, NewEvent)>) -> Vec<Vec<(EventId, NewEvent)>> {
    let mut chunks: Vec<Vec<_>> = Vec::new();
    let mut bytes = 0;
    for event in events {
        bytes += event.1.payload.len();
        match chunks.last_mut() {
            Some(last) if last.len() < RESTORED_EVENTS && bytes < RESTORED_BYTES => {
                last.push(event);
            }
            _ => {
                bytes = event.1.payload.len();
                chunks.push(vec![event]);
            }
        }
    }
    chunks
}
