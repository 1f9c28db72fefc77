//! Events that go to the history only: older ones of another system, and late
//! ones where the settings say so.
//!
//! They get sequences of their own that the event store sets aside (first..=last).
//! One commit takes the kept events before `first` that are not in the history
//! yet, and then these, and says that the history has all up to `last`: every
//! event before `first` was acknowledged before the sequences were set aside, so
//! it is in the snapshot that is taken after, and every later event comes after
//! `last`. A scan beside it sees what is noted as flushed: until the note nothing
//! of this, from then on all of it, and each kept event once throughout.
//!
//! Of events with the same DEDUPLICATE columns the first counts: one that is
//! kept, one in the history, one earlier in the call. So a repeated call adds
//! nothing. Rows that cannot be told apart by columns are told by the call: a
//! commit of such rows bears their hash as its mark, and a call of the same rows
//! is the same call. A killed call leaves sequences that nothing bears.

use std::collections::{HashMap, HashSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use futures::TryStreamExt;
use granary_engine::{Engine, HistoryAppend, HistoryTable};
use granary_model::definitions::Stream;
use granary_model::{FeatureType, UtcMicros};
use granary_store::events::{EventId, EventRef, EventSnapshot, NewEvent};
use sha2::{Digest, Sha256};
use tracing::instrument;

use super::rows::{CheckedRows, TakenTimes, Verdict};
use super::{Pushed, Streams, Writer};
use crate::error::IngestError;

/// Dedup keys looked up, and events written, at once.
const EVENTS_AT_ONCE: usize = 8192;

/// An event for the history, with what its created time is to be.
#[derive(Debug, Clone)]
pub(super) struct OlderEvent {
    pub(super) event: NewEvent,
    pub(super) created_time: UtcMicros,
}

/// What became of the rows of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPushed {
    /// Rows that are in the history now.
    pub added: u64,
    /// Rows that were there, or came earlier in the call.
    pub duplicates: u64,
    /// Rows that were refused, by number in the call, and why.
    pub refused: Vec<(usize, String)>,
}

/// What became of one event.
enum Added {
    New(EventId),
    Duplicate(EventId),
}

impl Streams {
    /// Takes older events of another system into the history: rows of the
    /// stream's columns, and perhaps `_created`, whose NULL counts as the event
    /// time. In one commit; a call may be repeated until it succeeds. Those that
    /// live views need are put into the event store then, under the ids that they
    /// have in the history.
    /// Nothing is stored where a batch is not of the stream's columns.
    #[instrument(skip_all, err, fields(stream))]
    pub async fn push_history(
        &self,
        stream: &str,
        batches: &[RecordBatch],
    ) -> Result<HistoryPushed, IngestError> {
        let writer = self.writer(stream)?;
        if writer.stream.definition.history.is_none() {
            let reason = format!("stream {stream}: it has no HISTORY");
            return Err(IngestError::Refused(reason));
        }
        let (mut events, mut pushed) = (Vec::new(), HistoryPushed::default());
        let latest = self.latest();
        let mut first = 0;
        for batch in batches {
            let (created, batch) = split_created(batch)?;
            let CheckedRows {
                events: taken,
                verdicts,
                ..
            } = writer.codec.check(&batch, TakenTimes::up_to(latest))?;
            let mut taken = taken.into_iter();
            for (row, verdict) in verdicts.into_iter().enumerate() {
                let event = match verdict {
                    Verdict::Refused(reason) => {
                        pushed.refused.push((first + row, reason));
                        continue;
                    }
                    Verdict::Taken | Verdict::Late(_) => taken.next(),
                };
                match created.get(row).copied().flatten() {
                    Some(time) if time > latest => pushed.refused.push((
                        first + row,
                        format!("_created is {time}, {latest} is the latest taken now"),
                    )),
                    created => events.extend(event.map(|event| OlderEvent {
                        created_time: created.unwrap_or(event.event_time),
                        event,
                    })),
                }
            }
            first += batch.num_rows();
        }
        let mark = mark_of(&events);
        let all = events.len() as u64;
        let added = self
            .add_to_history(&writer, events, mark.as_deref())
            .await?;
        let new = |added: &&Added| matches!(added, Added::New(_));
        pushed.added = added.iter().filter(new).count() as u64;
        pushed.duplicates = all - pushed.added;
        self.restore(stream).await?;
        Ok(pushed)
    }

    /// Takes late events into the history. What fails is told of each of them:
    /// the good rows beside them are stored already.
    pub(super) async fn push_late(&self, writer: &Writer, events: Vec<NewEvent>) -> Vec<Pushed> {
        let (rows, now) = (events.len(), self.clock.now());
        let older = events.into_iter().map(|event| OlderEvent {
            event,
            created_time: now,
        });
        match self.add_to_history(writer, older.collect(), None).await {
            Ok(added) => added.into_iter().map(Pushed::from).collect(),
            Err(error) => {
                let reason = format!("it cannot be taken into the history: {error}");
                vec![Pushed::Refused(reason); rows]
            }
        }
    }

    /// What became of each event; of none where the mark is known.
    async fn add_to_history(
        &self,
        writer: &Writer,
        events: Vec<OlderEvent>,
        mark: Option<&str>,
    ) -> Result<Vec<Added>, IngestError> {
        let engine = self.engine()?;
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let _turn = writer.turn.lock().await;
        // What is left of the kept events is little then.
        writer.flush(engine, self.settings.flush_events_max).await?;
        self.expect_older(writer, &events).await?;
        writer.add(engine, events, mark).await
    }
}

impl Writer {
    async fn add(
        &self,
        engine: &Engine,
        events: Vec<OlderEvent>,
        mark: Option<&str>,
    ) -> Result<Vec<Added>, IngestError> {
        let (mut append, reached) = self.begin(engine).await?;
        if let (Some(mark), Some(base)) = (mark, append.base())
            && base.has(mark).await?
        {
            return Ok(Vec::new());
        }
        let sequences = events.len() as u64;
        let first = self.stream.events.reserve(sequences).await?;
        let snapshot = self.stream.events.snapshot().await?;
        let stored = self
            .stored(append.base(), snapshot.as_ref(), &events)
            .await?;
        let added = number(&events, stored, first);
        if !added.iter().any(|added| matches!(added, Added::New(_))) {
            return Ok(added);
        }
        let kept = (reached, first - 1);
        let written = async {
            let snapshot = snapshot.as_ref();
            self.write_kept(&mut append, snapshot, kept, usize::MAX)
                .await?;
            self.write_added(&mut append, &events, &added).await
        };
        match written.await {
            Ok(()) => self.commit(append, first + sequences - 1, mark).await?,
            Err(error) => {
                append.discard().await;
                return Err(error);
            }
        }
        Ok(added)
    }

    /// Which dedup keys are stored, of which event.
    async fn stored(
        &self,
        base: Option<&HistoryTable>,
        snapshot: &dyn EventSnapshot,
        events: &[OlderEvent],
    ) -> Result<HashMap<Bytes, EventId>, IngestError> {
        let keys = events.iter().filter_map(|e| e.event.dedup_key.as_ref());
        let keys: HashSet<&Bytes> = keys.collect();
        let mut stored = HashMap::new();
        if let Some(base) = base.filter(|_| !keys.is_empty()) {
            let wanted = self.codec.layout().dedup_columns();
            let columns = wanted.chain([Stream::CREATED_TIME, Stream::SEQUENCE]);
            let mut batches = base
                .read(&columns.collect::<Vec<_>>(), (None, None))
                .await?;
            while let Some(batch) = batches.try_next().await? {
                let found = self.codec.layout().dedup_keys(&batch)?;
                let created = batch.column(batch.num_columns() - 2);
                let created = created.as_primitive::<TimestampMicrosecondType>();
                let sequences = batch.column(batch.num_columns() - 1);
                let sequences = sequences.as_primitive::<Int64Type>();
                for (row, key) in found.into_iter().enumerate() {
                    if let Some(key) = key.filter(|key| keys.contains(key)) {
                        let id = EventId {
                            sequence: sequences.value(row).unsigned_abs(),
                            created_time: UtcMicros(created.value(row)),
                        };
                        stored.insert(key, id);
                    }
                }
            }
        }
        let keys: Vec<&Bytes> = keys.into_iter().collect();
        for keys in keys.chunks(EVENTS_AT_ONCE) {
            let asked: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            let found = snapshot.duplicates(&asked).await?;
            let found = keys.iter().zip(found);
            stored.extend(found.filter_map(|(key, found)| Some(((*key).clone(), found?.0))));
        }
        Ok(stored)
    }

    async fn write_added(
        &self,
        append: &mut HistoryAppend,
        events: &[OlderEvent],
        added: &[Added],
    ) -> Result<(), IngestError> {
        let mut rows = self.history_rows();
        for (older, added) in events.iter().zip(added) {
            let Added::New(id) = added else {
                continue;
            };
            let lent = EventRef {
                event_time: older.event.event_time,
                created_time: id.created_time,
                sequence: id.sequence,
                payload: &older.event.payload,
            };
            rows.push(0, lent);
            if rows.len() >= EVENTS_AT_ONCE {
                let full = std::mem::replace(&mut rows, self.history_rows());
                self.write_rows(append, full).await?;
            }
        }
        if !rows.is_empty() {
            self.write_rows(append, rows).await?;
        }
        Ok(())
    }
}

/// Gives new events their sequences, in order from `first`.
fn number(events: &[OlderEvent], mut stored: HashMap<Bytes, EventId>, first: u64) -> Vec<Added> {
    let mut next = first;
    let number = |older: &OlderEvent| {
        let key = older.event.dedup_key.as_ref();
        if let Some(id) = key.and_then(|key| stored.get(key)) {
            return Added::Duplicate(*id);
        }
        let id = EventId {
            sequence: next,
            created_time: older.created_time,
        };
        next += 1;
        stored.extend(key.map(|key| (key.clone(), id)));
        Added::New(id)
    };
    events.iter().map(number).collect()
}

/// The hash of rows of which some have no dedup key.
fn mark_of(events: &[OlderEvent]) -> Option<String> {
    if events.iter().all(|older| older.event.dedup_key.is_some()) {
        return None;
    }
    let mut hash = Sha256::new();
    for older in events {
        hash.update(older.created_time.0.to_le_bytes());
        hash.update((older.event.payload.len() as u64).to_le_bytes());
        hash.update(&older.event.payload);
    }
    let hash = hash.finalize();
    Some(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The created times of a batch and the batch without them.
fn split_created(
    batch: &RecordBatch,
) -> Result<(Vec<Option<UtcMicros>>, RecordBatch), IngestError> {
    let Some((place, _)) = batch.schema_ref().column_with_name(Stream::CREATED_TIME) else {
        return Ok((Vec::new(), batch.clone()));
    };
    let mut rest = batch.clone();
    let column = rest.remove_column(place);
    let refused =
        |reason: String| IngestError::Refused(format!("column {}: {reason}", Stream::CREATED_TIME));
    let found = FeatureType::from_arrow(column.data_type());
    let fits = found.is_some_and(|found| FeatureType::Timestamp.accepts_input(&found));
    if !fits && column.null_count() < column.len() {
        return Err(refused(format!(
            "expects TIMESTAMP, got {}",
            column.data_type()
        )));
    }
    let times = cast(&column, &FeatureType::Timestamp.to_arrow());
    let times = times.map_err(|error| refused(error.to_string()))?;
    let times = times.as_primitive::<TimestampMicrosecondType>().iter();
    Ok((times.map(|t| t.map(UtcMicros)).collect(), rest))
}

impl From<Added> for Pushed {
    fn from(added: Added) -> Self {
        match added {
            Added::New(id) => Self::History(id),
            Added::Duplicate(id) => Self::Duplicate(id),
        }
    }
}
