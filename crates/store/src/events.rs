//! The event store's contract: where the events of streams live.
//!
//! A *stream* is opened with a [`StreamSpec`]. It numbers its events 1, 2, ...
//! in the order of their acknowledgement (*sequence*) and dates each with its
//! acknowledgement time (*created time*, strictly increasing within a stream,
//! over restarts too). An *index* files events under a key, by event time then
//! sequence; a stream has any number of them, and an event is in an index under
//! each key that it has there, none or many. Keys, payloads and tiles are opaque bytes here; equal keys
//! must be equal bytes, their order means nothing.
//!
//! What holds for every implementation (`conformance::events`):
//!
//! - An event is durable and visible before [`EventStream::append`] returns. A
//!   batch is in as a whole or not at all, whenever the process ends.
//! - Of the events of one dedup key one is stored, whoever appends them and
//!   when, for as long as that one is kept.
//! - A reader works on a snapshot and never waits for a writer. What is seen
//!   is durable.
//! - A tile that a snapshot holds is of the snapshot: no event of its key and
//!   span came or went since the tile was computed. So a reader folds tiles
//!   and events of one snapshot without looking at sequences.
//! - When the storage fails, nothing is acknowledged that may be lost. After a
//!   failed write or sync appends are refused (`StoreError::EventsHalted`)
//!   until the store is opened again; reads go on.
//!
//! This module knows nothing of SQL, of columns or of what a tile holds.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use granary_model::UtcMicros;
use serde::{Deserialize, Serialize};

use crate::error::StoreError;

mod spec;

pub use spec::{IndexSpec, StreamSpec, TileSetSpec};

/// An event to append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    pub event_time: UtcMicros,
    /// Encoded DEDUPLICATE BY columns; `None` is never a duplicate.
    pub dedup_key: Option<Bytes>,
    /// For each index of the stream's spec, in its order, the keys that the
    /// event is filed under; none: it is not in that index. A key that is
    /// given twice counts once.
    pub keys: Vec<Vec<Bytes>>,
    pub payload: Bytes,
}

/// Leaves each key once; their order means nothing.
pub(crate) fn make_distinct(keys: &mut Vec<Bytes>) {
    if keys.len() > 1 {
        keys.sort_unstable();
        keys.dedup();
    }
}

/// Where a consumer of a message log is, kept with the events it brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerOffset {
    /// One log position each, so of a partitioned log one a partition.
    pub consumer: String,
    /// What must be stored now, or the batch is refused with
    /// `StoreError::OffsetMoved`: `None` where nothing is. This keeps two
    /// consumers of one name apart and makes a repeated append harmless.
    pub previous: Option<Bytes>,
    pub offset: Bytes,
}

/// Events that are appended as a whole, with the offsets that they stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventBatch {
    pub events: Vec<NewEvent>,
    pub offsets: Vec<ConsumerOffset>,
}

impl EventBatch {
    /// What every store checks first: keys for each index, in every event.
    pub fn check(&self, spec: &StreamSpec) -> Result<(), StoreError> {
        check_keys(self.events.iter(), spec)
    }
}

fn check_keys<'a>(
    events: impl Iterator<Item = &'a NewEvent>,
    spec: &StreamSpec,
) -> Result<(), StoreError> {
    let expected = spec.indexes.len();
    let mut events = events.enumerate();
    match events.find(|(_, event)| event.keys.len() != expected) {
        Some((event, found)) => Err(StoreError::EventKeys {
            stream: spec.name.clone(),
            event,
            expected,
            given: found.keys.len(),
        }),
        None => Ok(()),
    }
}

/// Events that were kept once, to be put back under the ids they had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoredEvents {
    pub events: Vec<(EventId, NewEvent)>,
    /// From this event time on nothing that was trimmed is missing any more,
    /// once these are back, but for what is lost; `UtcMicros::MIN`: nothing at
    /// all.
    pub whole_from: Option<UtcMicros>,
    /// What [`StreamState::lost_before`] was before the store itself was lost.
    pub lost_before: Option<UtcMicros>,
}

impl RestoredEvents {
    /// What every store checks first: keys for each index, and sequences up to
    /// what is flushed, since all events beyond it are kept.
    pub fn check(&self, spec: &StreamSpec, flushed: u64) -> Result<(), StoreError> {
        check_keys(self.events.iter().map(|(_, event)| event), spec)?;
        let mut ids = self.events.iter().map(|(id, _)| id.sequence);
        match ids.find(|sequence| *sequence == 0 || *sequence > flushed) {
            Some(sequence) => Err(StoreError::EventSequence {
                stream: spec.name.clone(),
                sequence,
                last: flushed,
            }),
            None => Ok(()),
        }
    }
}

/// What became of one event of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    New(EventId),
    /// One of the same dedup key is stored, or came earlier in this batch.
    Duplicate(EventId),
}

impl Appended {
    /// Of the stored event.
    pub fn id(self) -> EventId {
        match self {
            Self::New(id) | Self::Duplicate(id) => id,
        }
    }

    pub fn is_new(self) -> bool {
        matches!(self, Self::New(_))
    }
}

/// What an event got when it was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    pub sequence: u64,
    pub created_time: UtcMicros,
}

/// A stored event, lent for the time of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRef<'a> {
    pub event_time: UtcMicros,
    pub created_time: UtcMicros,
    pub sequence: u64,
    pub payload: &'a [u8],
}

/// Events of one key in a range of event times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRange<'a> {
    pub key: &'a [u8],
    /// First event time, inclusive.
    pub from: UtcMicros,
    /// Last event time, inclusive. A range that ends before it begins is empty.
    pub to: UtcMicros,
    /// The most events to give.
    pub limit: usize,
}

/// Of events of equal event time the sequence decides, in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanOrder {
    OldestFirst,
    NewestFirst,
}

/// Receives the events of a scan.
pub trait EventSink: Send {
    /// `range` is a position in the scan's ranges (0 in a scan of the log).
    /// Ranges come one after the other, each in the scan's order. `Break` ends
    /// this range, not the scan.
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()>;
}

/// Tiles of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileRange<'a> {
    pub key: &'a [u8],
    /// Position in [`TileSetSpec::spans`].
    pub level: usize,
    /// First start, inclusive.
    pub from: UtcMicros,
    /// Last start, inclusive.
    pub to: UtcMicros,
}

/// Receives the tiles of a scan.
pub trait TileSink: Send {
    /// `range` is a position in the scan's ranges. Ranges come one after the
    /// other, the tiles of each by ascending start; those that are not stored
    /// are left out.
    fn tile(&mut self, range: usize, start: UtcMicros, value: &[u8]);
}

/// A tile to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTile {
    pub key: Bytes,
    /// Position in [`TileSetSpec::spans`].
    pub level: usize,
    pub start: UtcMicros,
    /// Folded from every event of the key and span in the snapshot that the put
    /// names; a tile of no events is kept like any other.
    pub value: Bytes,
}

/// What is known of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamState {
    /// Events kept.
    pub events: u64,
    /// Bytes of their payloads and dedup keys.
    pub bytes: u64,
    /// The greatest sequence given or set aside so far, 0 before the first.
    pub last_sequence: u64,
    /// The greatest created time given so far.
    pub last_created_time: Option<UtcMicros>,
    /// The greatest event time ever stored: retention counts back from it.
    pub newest_event_time: Option<UtcMicros>,
    /// Up to which sequence events are in the history table.
    pub flushed: u64,
    /// Older events may be missing. In a stream with history what trims were
    /// asked to remove below, as far as it was not put back, since events of that
    /// age come into the history alone; in another what trims removed.
    pub trimmed_before: Option<UtcMicros>,
    /// Older events may be gone for good: trims removed some while the stream had
    /// no history. Never falls.
    pub lost_before: Option<UtcMicros>,
    /// Trims removed events as if reads were of this time or later: see
    /// [`EventSnapshot::newest_kept`].
    pub newest_from: Option<UtcMicros>,
}

/// What to remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrimPolicy {
    /// Events of an earlier event time go, but for those below and, in a stream
    /// with history, those that are not flushed.
    pub older_than: UtcMicros,
    /// (index, n): of the events before `older_than` the newest n of each key of
    /// that index stay, and all that are as old as the oldest of them (the store
    /// does not know which of equal times counts first). So whoever looks from
    /// `older_than` or later finds the newest n up to then.
    pub keep_newest: Vec<(usize, usize)>,
}

impl TrimPolicy {
    /// What every store checks first: indexes that are there.
    pub fn check(&self, spec: &StreamSpec) -> Result<(), StoreError> {
        let mut indexes = self.keep_newest.iter();
        indexes.try_for_each(|(index, _)| spec.index_at(*index).map(drop))
    }

    /// What is kept once this removed events, of which `newest` is the greatest
    /// event time; whether that is less than before.
    pub(crate) fn lessens(
        &self,
        spec: &StreamSpec,
        state: &mut StreamState,
        newest: Option<UtcMicros>,
    ) -> bool {
        let gone = newest.map(|newest| UtcMicros(newest.0.saturating_add(1)));
        let trimmed = match spec.history {
            true => Some(self.older_than),
            false => {
                state.lost_before = state.lost_before.max(gone);
                gone
            }
        };
        let is_less = gone.is_some() || spec.history;
        state.trimmed_before = state.trimmed_before.max(trimmed);
        if is_less {
            state.newest_from = state.newest_from.max(Some(self.older_than));
        }
        is_less
    }

    /// How many of the newest events of each key of an index stay.
    pub(crate) fn newest_kept(&self, index: usize) -> usize {
        let of_index = self.keep_newest.iter().filter(|(at, _)| *at == index);
        of_index.map(|(_, newest)| *newest).max().unwrap_or(0)
    }
}

impl RestoredEvents {
    /// What is kept once these are back; whether that is everything.
    pub(crate) fn heals(&self, state: &mut StreamState) -> bool {
        state.lost_before = state.lost_before.max(self.lost_before);
        if let Some(lost) = self.lost_before {
            state.newest_from.get_or_insert(lost);
        }
        let trimmed = state.trimmed_before.max(self.lost_before);
        let is_whole = self.whole_from == Some(UtcMicros::MIN) && state.lost_before.is_none();
        state.trimmed_before = match (trimmed, self.whole_from) {
            _ if is_whole => None,
            (Some(trimmed), Some(whole)) => Some(trimmed.min(whole)).max(state.lost_before),
            (trimmed, _) => trimmed,
        };
        if is_whole {
            state.newest_from = None;
        }
        is_whole
    }
}

/// The last event that a trim looked at; of use to its next step only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimCursor {
    pub event_time: UtcMicros,
    pub sequence: u64,
}

/// What one step of a trim did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrimStep {
    /// Events removed.
    pub removed: u64,
    /// Where to go on; `None` when the trim is done.
    pub next: Option<TrimCursor>,
}

/// Gives the keys of stored events, for indexes that are added later.
pub trait KeyOf: Send + Sync {
    /// The keys of an event in an index, by the index's position in the spec
    /// that is being opened; see [`NewEvent::keys`].
    fn keys_of(&self, index: usize, event: EventRef<'_>) -> Result<Vec<Bytes>, StoreError>;
}

/// The events of many streams, owned by one process.
#[async_trait]
pub trait EventStore: Debug + Send + Sync {
    /// Opens a stream, makes it where there is none, and takes it to what the
    /// spec says: new indexes are filled from the stored events with `keys`,
    /// which takes as long as reading them; handles that are open append and
    /// read on meanwhile. When this returns, handles of any other spec get
    /// `StoreError::StreamReopened` for all but snapshots, and their owners take
    /// the new one; a spec equal to the one that holds changes nothing for them.
    ///
    /// `StoreError::StreamColumns` where events are stored under other columns,
    /// `StoreError::StreamSpec` for a spec that contradicts itself.
    async fn open_stream(
        &self,
        spec: StreamSpec,
        keys: &dyn KeyOf,
    ) -> Result<Arc<dyn EventStream>, StoreError>;

    /// Every stream, as it was opened last, by name.
    async fn streams(&self) -> Result<Vec<(StreamSpec, StreamState)>, StoreError>;

    /// Removes a stream with all it holds; none of that name is fine. Its
    /// handles get `StoreError::StreamReopened`, its snapshots read on.
    async fn drop_stream(&self, name: &str) -> Result<(), StoreError>;
}

/// One stream, under the spec it was opened with.
#[async_trait]
pub trait EventStream: Debug + Send + Sync {
    fn spec(&self) -> &Arc<StreamSpec>;

    /// Appends a batch; gives what became of each event, in order. When this
    /// returns the batch is durable and in every later snapshot. Waits while
    /// the queue is full.
    ///
    /// `StoreError::EventTooLarge` for a batch beyond the store's bounds,
    /// `StoreError::EventKeys`, `StoreError::OffsetMoved` (see
    /// [`ConsumerOffset`]), `StoreError::StreamReopened`, `StoreError::Full`:
    /// nothing is stored then, unless a write failed half-way. After any other
    /// error, and when the call is dropped before it returns, the batch is
    /// stored as a whole or not at all, and which may show only when the store
    /// is opened again; appending it again is safe where events have dedup keys
    /// or the batch an offset.
    async fn append(&self, batch: EventBatch) -> Result<Vec<Appended>, StoreError>;

    /// Pins what is stored now. Short-lived: what it pins cannot be freed.
    async fn snapshot(&self) -> Result<Arc<dyn EventSnapshot>, StoreError>;

    /// Durably notes that events up to a sequence are in the history table. A
    /// lower sequence than the noted one changes nothing; one that was never
    /// given is `StoreError::EventSequence`.
    async fn set_flushed(&self, sequence: u64) -> Result<(), StoreError>;

    /// Durably sets sequences aside that no event is ever given, and gives the
    /// first: events that are appended when this has returned come after them,
    /// and those that came before are in every later snapshot.
    async fn reserve(&self, sequences: u64) -> Result<u64, StoreError>;

    /// Puts trimmed events back, durably and as a whole; gives the number of
    /// those that were not there. What is there stays as it is, so that this may
    /// be repeated. An event whose dedup key another has meanwhile comes back
    /// without it. Tiles over the events go, and tiles that were computed before
    /// are left out of later puts.
    ///
    /// `StoreError::EventSequence` for one beyond what is flushed; otherwise as
    /// [`Self::append`].
    async fn restore(&self, events: RestoredEvents) -> Result<u64, StoreError>;

    /// One bounded step of a trim. Begin without a cursor, go on with the one
    /// that the last step gave. A killed trim leaves whole events, fewer of
    /// them; begun again it does the rest. Tiles go with the first of their
    /// events. Begins with [`Self::clear_dropped`].
    async fn trim(
        &self,
        policy: &TrimPolicy,
        from: Option<TrimCursor>,
    ) -> Result<TrimStep, StoreError>;

    /// One bounded step of clearing away what dropped streams, indexes and tile
    /// sets left; whether there may be more.
    async fn clear_dropped(&self) -> Result<bool, StoreError>;

    /// Keeps tiles that were computed from the snapshot of this point. Those
    /// whose span saw an event come or go since are left out, and others may be
    /// if much was appended since; gives the number kept. Derived data: may be
    /// lost when the machine fails, never wrong.
    async fn put_tiles(
        &self,
        set: usize,
        computed_from: SnapshotPoint,
        tiles: Vec<NewTile>,
    ) -> Result<usize, StoreError>;

    /// Forgets every tile of a set; the set stays and may be filled again.
    async fn drop_tiles(&self, set: usize) -> Result<(), StoreError>;
}

/// Which snapshot it was, to tell what came and went since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPoint {
    /// [`StreamState::last_sequence`] of the snapshot.
    pub sequence: u64,
    /// Counts the steps of trims that removed something, and of restores that
    /// put something back.
    pub removals: u64,
}

/// What a stream held at one moment.
#[async_trait]
pub trait EventSnapshot: Debug + Send + Sync {
    fn state(&self) -> &StreamState;

    fn point(&self) -> SnapshotPoint;

    /// How many of the newest events of each key of an index (its position in the
    /// spec) are here for certain, of those that ever came, up to any time from
    /// [`StreamState::newest_from`] on; `usize::MAX`: all.
    fn newest_kept(&self, index: usize) -> usize;

    /// Events of keys of one index (its position in the spec), many at once.
    async fn scan(
        &self,
        index: usize,
        order: ScanOrder,
        ranges: &[KeyRange<'_>],
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError>;

    /// Events of a sequence greater than `after`, ascending, at most `limit`.
    async fn scan_log(
        &self,
        after: u64,
        limit: usize,
        sink: &mut dyn EventSink,
    ) -> Result<(), StoreError>;

    /// Tiles of keys of one tile set (its position in the spec).
    async fn tiles(
        &self,
        set: usize,
        ranges: &[TileRange<'_>],
        sink: &mut dyn TileSink,
    ) -> Result<(), StoreError>;

    /// Of each dedup key the event that is stored, with its event time.
    async fn duplicates(
        &self,
        dedup_keys: &[&[u8]],
    ) -> Result<Vec<Option<(EventId, UtcMicros)>>, StoreError>;

    /// Where a consumer is, as of the snapshot.
    async fn consumer_offset(&self, consumer: &str) -> Result<Option<Bytes>, StoreError>;
}
