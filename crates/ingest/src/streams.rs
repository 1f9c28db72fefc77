//! The events of a root: every stream of the definitions, open for appends.
//!
//! One process owns the events of a root. Rows come as record batches of the
//! stream's columns and are looked at one by one (`streams/rows.rs`): a bad row
//! is refused with its reason, the good rows beside it are appended as one
//! durable batch. A batch of other columns or types is refused as a whole.
//!
//! Of a stream with HISTORY the events go on into a table (`streams/flush.rs`);
//! older ones of another system come into it (`streams/older.rs`), and what no view
//! needs any more goes (`streams/retain.rs`), and comes back when a new view needs
//! it (`streams/restore.rs`).
//!
//! This module knows nothing of the wire, of who pushes or of who reads: reads
//! find what is open in [`OpenStreams`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use arrow::array::RecordBatch;
use granary_engine::{Engine, Retention, StreamNeeds};
use granary_model::definitions::{Definitions, Stream};
use granary_model::{Clock, ErrorKind, UtcMicros, did_you_mean};
use granary_store::events::{Appended, EventBatch, EventId, EventStore, StreamSpec};
use granary_store::{
    EmbeddedEventSettings, EmbeddedEventStore, OpenStream, OpenStreams, StoreError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::instrument;

use crate::error::IngestError;

mod flush;
mod intake;
mod keys;
mod older;
mod restore;
mod retain;
mod rows;
mod source;

pub(crate) use intake::{Intake, SeenRows};
use keys::IndexKeys;
pub use older::HistoryPushed;
pub use retain::{Maintained, StreamStatus};
use retain::{Needs, Upkeep};
use rows::{CheckedRows, EventCodec, TakenTimes, Verdict};
pub use source::OpenEvents;

/// Settings of streams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSettings {
    /// How far beyond the clock an event time may be.
    pub future_seconds_max: u32,
    pub late: Late,
    /// How often events are taken into the histories; 0: never.
    pub flush_seconds: u32,
    /// Events that one commit to a history takes.
    pub flush_events_max: usize,
    /// How often events that need not be kept are removed; 0: never.
    pub trim_seconds: u32,
    /// How long events of a stream that has HISTORY and that no live view reads
    /// are kept: duplicates are told that long.
    pub keep_days: u32,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            future_seconds_max: 3600,
            late: Late::Refuse,
            flush_seconds: 60,
            flush_events_max: 1_000_000,
            trim_seconds: 60,
            keep_days: 7,
        }
    }
}

/// What to do with events that are older than what live views need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    #[default]
    Refuse,
    /// They go to the history, in a commit of their own for each batch.
    History,
}

/// What became of one pushed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    Appended(EventId),
    /// One of the same DEDUPLICATE columns is stored, or came earlier.
    Duplicate(EventId),
    /// Too old to be kept, and in the history only.
    History(EventId),
    /// Not stored, and why.
    Refused(String),
}

/// The streams of a root, owned by this process from the moment that there is
/// one.
#[derive(Debug)]
pub struct Streams {
    store: LazyStore,
    clock: Arc<dyn Clock>,
    settings: StreamSettings,
    writers: RwLock<BTreeMap<String, Arc<Writer>>>,
    /// Streams that could not be opened, and why.
    unopened: RwLock<BTreeMap<String, (ErrorKind, String)>>,
    open: Arc<OpenStreams>,
    /// What live views need; `None` until somebody said.
    needs: RwLock<Option<Needs>>,
    upkeep: Mutex<Upkeep>,
    /// Held while streams are opened.
    following: Mutex<()>,
    engine: OnceLock<Engine>,
}

/// Opens the store of a root's events.
type Opener = dyn Fn() -> Result<Arc<dyn EventStore>, IngestError> + Send + Sync;

/// A store that is opened when a definition first needs it: a project without
/// streams owns nothing.
struct LazyStore {
    opener: Box<Opener>,
    opened: OnceLock<Arc<dyn EventStore>>,
}

impl fmt::Debug for LazyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazyStore")
            .field(&self.opened.get())
            .finish()
    }
}

impl LazyStore {
    /// Opens it. Only under `Streams::following`: it is opened once.
    fn open(&self) -> Result<&Arc<dyn EventStore>, IngestError> {
        if let Some(store) = self.opened.get() {
            return Ok(store);
        }
        let store = (self.opener)()?;
        Ok(self.opened.get_or_init(|| store))
    }
}

/// An open stream with what turns its rows into events.
#[derive(Debug)]
struct Writer {
    codec: EventCodec,
    stream: Arc<OpenStream>,
    /// What the live views that were compiled with it need.
    needs: Option<StreamNeeds>,
    /// Who holds it may write into the history, or trim.
    turn: Arc<Mutex<()>>,
}

impl Streams {
    /// Takes the events in a folder, made where it is not there;
    /// `StoreError::EventsOwned` where another process has them.
    pub fn open(
        folder: &Path,
        events: EmbeddedEventSettings,
        settings: StreamSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IngestError> {
        let store = EmbeddedEventStore::open(folder, events, Arc::clone(&clock))?;
        Ok(Self::over(Arc::new(store), settings, clock))
    }

    /// Over a store that is open already.
    pub fn over(
        store: Arc<dyn EventStore>,
        settings: StreamSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self::when_needed(move || Ok(Arc::clone(&store)), settings, clock)
    }

    /// Over a store that is opened once the definitions have a stream; what
    /// fails then is tried again when definitions are followed again.
    pub fn when_needed(
        open: impl Fn() -> Result<Arc<dyn EventStore>, IngestError> + Send + Sync + 'static,
        settings: StreamSettings,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store: LazyStore {
                opener: Box::new(open),
                opened: OnceLock::new(),
            },
            following: Mutex::default(),
            engine: OnceLock::new(),
            clock,
            settings,
            writers: RwLock::default(),
            unopened: RwLock::default(),
            open: Arc::default(),
            needs: RwLock::default(),
            upkeep: Mutex::default(),
        }
    }

    /// What is open, for those who read.
    pub fn opened(&self) -> &Arc<OpenStreams> {
        &self.open
    }

    /// Opens every stream of the definitions and keeps what their live views
    /// need, those events of a history among it that had gone.
    /// `IngestError::NotOpen` for the first of those that could not be opened, or
    /// `IngestError::NotRestored`: the others are.
    #[instrument(skip_all, err)]
    pub async fn follow(
        &self,
        engine: &Engine,
        definitions: &Definitions,
    ) -> Result<(), IngestError> {
        self.retain(self.open_all(engine, definitions).await?);
        let mut unrestored = None;
        for name in self.open.all().keys() {
            if let Err(error) = self.restore(name).await {
                unrestored.get_or_insert(IngestError::NotRestored {
                    stream: name.clone(),
                    kind: error.kind(),
                    reason: error.to_string(),
                });
            }
        }
        let unopened = self.unopened.read().unwrap_or_else(PoisonError::into_inner);
        let first = { unopened.iter().next() }.map(|(name, why)| not_open(name, why));
        first.or(unrestored).map_or(Ok(()), Err)
    }

    /// Opens every stream of the definitions, with the indexes that their live
    /// views need; what is stored already is filed in the new ones first, which
    /// takes as long as reading it. Streams that left the definitions take no
    /// more events, and keep what they have; nor do those that cannot be opened.
    /// Gives what the live views need, which is kept once [`Self::retain`] is
    /// told.
    pub async fn open_all(
        &self,
        engine: &Engine,
        definitions: &Definitions,
    ) -> Result<BTreeMap<String, Retention>, IngestError> {
        let _following = self.following.lock().await;
        let _ = self.engine.set(engine.clone());
        let needs = engine.stream_needs(definitions).await?;
        let mut writers = BTreeMap::new();
        let mut unopened = BTreeMap::new();
        for (name, definition) in &definitions.streams {
            let store = self.store.open()?;
            match self.opened_writer(store, definition, needs.get(name)).await {
                Ok(writer) => {
                    writers.insert(name.clone(), Arc::new(writer));
                }
                Err(error) => {
                    unopened.insert(name.clone(), (error.kind(), error.to_string()));
                    // What was open goes on: its handle tells if it may not.
                    let known = self.writer(name).ok();
                    let known = known.filter(|known| known.stream.definition == *definition);
                    writers.extend(known.map(|known| (name.clone(), known)));
                }
            }
        }
        let open = writers.iter();
        let open = open.map(|(name, writer)| (name.clone(), Arc::clone(&writer.stream)));
        self.open.replace(open.collect());
        *self
            .unopened
            .write()
            .unwrap_or_else(PoisonError::into_inner) = unopened;
        *self.writers.write().unwrap_or_else(PoisonError::into_inner) = writers;
        let needs = needs.into_iter();
        Ok(needs.map(|(name, needs)| (name, needs.retention)).collect())
    }

    async fn opened_writer(
        &self,
        store: &Arc<dyn EventStore>,
        definition: &Stream,
        needs: Option<&StreamNeeds>,
    ) -> Result<Writer, IngestError> {
        let codec = EventCodec::of(definition, needs);
        let spec = spec_of(definition, codec.keys());
        let events = store.open_stream(spec, codec.keys()).await?;
        let turn = self.writer(&definition.name);
        let turn = turn.map(|writer| Arc::clone(&writer.turn));
        let writer = Writer {
            stream: Arc::new(OpenStream {
                definition: definition.clone(),
                layout: codec.layout().clone(),
                events,
            }),
            codec,
            needs: needs.cloned(),
            turn: turn.unwrap_or_default(),
        };
        if definition.history.is_some() {
            writer.begin_behind_history(self.engine()?).await?;
        }
        Ok(writer)
    }

    /// Appends the good rows of a batch durably; gives what became of each row,
    /// in order. `IngestError::Refused` for a batch that lacks a column of the
    /// stream, or has one that is not of it or of another type: nothing is
    /// stored then.
    ///
    /// A batch is appended as a whole, but one beyond the store's bound in
    /// parts, each as a whole: after any other error the parts before it stay.
    #[instrument(skip_all, err, fields(stream))]
    pub async fn push(
        &self,
        stream: &str,
        batch: &RecordBatch,
    ) -> Result<Vec<Pushed>, IngestError> {
        let mut pushed = Vec::with_capacity(batch.num_rows());
        // The next part last.
        let mut parts = vec![batch.clone()];
        while let Some(part) = parts.pop() {
            let rows = part.num_rows();
            match self.push_part(stream, &part).await {
                Ok(outcomes) => pushed.extend(outcomes),
                Err(IngestError::Store(StoreError::EventTooLarge { .. })) if rows > 1 => {
                    parts.push(part.slice(rows / 2, rows - rows / 2));
                    parts.push(part.slice(0, rows / 2));
                }
                Err(IngestError::Store(StoreError::EventTooLarge {
                    bytes, bytes_max, ..
                })) => pushed.push(Pushed::Refused(format!(
                    "the event has {bytes} bytes, {bytes_max} are the most"
                ))),
                Err(error) => return Err(error),
            }
        }
        Ok(pushed)
    }

    /// Appends as a whole. A stream that was opened anew meanwhile is taken as
    /// it is now, once.
    async fn push_part(
        &self,
        stream: &str,
        batch: &RecordBatch,
    ) -> Result<Vec<Pushed>, IngestError> {
        match self.append(stream, batch).await {
            Err(IngestError::Store(StoreError::StreamReopened { .. })) => {
                // Whoever opened it is not done before the writers are new.
                drop(self.following.lock().await);
                self.append(stream, batch).await
            }
            outcome => outcome,
        }
    }

    async fn append(&self, stream: &str, batch: &RecordBatch) -> Result<Vec<Pushed>, IngestError> {
        let writer = self.writer(stream)?;
        let times = TakenTimes {
            earliest: self.earliest(&writer).await?,
            latest: self.latest(),
        };
        let CheckedRows {
            events,
            late,
            verdicts,
        } = writer.codec.check(batch, times)?;
        let appended = match events.is_empty() {
            true => Vec::new(),
            false => {
                let offsets = Vec::new();
                let batch = EventBatch { events, offsets };
                writer.stream.events.append(batch).await?
            }
        };
        let to_history = self.settings.late == Late::History;
        let late = match to_history && writer.stream.definition.history.is_some() {
            true => self.push_late(&writer, late).await,
            false => Vec::new(),
        };
        let (mut appended, mut late) = (appended.into_iter(), late.into_iter());
        let outcome = |verdict: Verdict| match verdict {
            Verdict::Refused(reason) => Some(Pushed::Refused(reason)),
            Verdict::Late(reason) => Some(late.next().unwrap_or_else(|| match to_history {
                true => Pushed::Refused(format!("{reason}; the stream has no HISTORY to take it")),
                false => Pushed::Refused(reason),
            })),
            Verdict::Taken => appended.next().map(|event| match event {
                Appended::New(id) => Pushed::Appended(id),
                Appended::Duplicate(id) => Pushed::Duplicate(id),
            }),
        };
        Ok(verdicts.into_iter().filter_map(outcome).collect())
    }

    /// The last event time that is taken now.
    fn latest(&self) -> UtcMicros {
        let future = i64::from(self.settings.future_seconds_max) * 1_000_000;
        UtcMicros(self.clock.now().0.saturating_add(future))
    }

    fn engine(&self) -> Result<&Engine, IngestError> {
        let none = || IngestError::Refused("histories of streams cannot be written here".into());
        self.engine.get().ok_or_else(none)
    }

    /// Of every open stream, by name.
    fn all_writers(&self) -> Vec<Arc<Writer>> {
        let writers = self.writers.read().unwrap_or_else(PoisonError::into_inner);
        writers.values().cloned().collect()
    }

    /// Why a stream takes no events, where it is not open.
    pub fn check_open(&self, name: &str) -> Result<(), IngestError> {
        self.writer(name).map(drop)
    }

    /// Streams that could not be opened as they are defined, and why.
    fn unopened(&self) -> BTreeMap<String, String> {
        let unopened = self.unopened.read().unwrap_or_else(PoisonError::into_inner);
        let unopened = unopened.iter();
        unopened
            .map(|(name, (_, why))| (name.clone(), why.clone()))
            .collect()
    }

    fn writer(&self, name: &str) -> Result<Arc<Writer>, IngestError> {
        let writers = self.writers.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writers.get(name) {
            return Ok(Arc::clone(writer));
        }
        let unopened = self.unopened.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = unopened.get(name) {
            return Err(not_open(name, why));
        }
        let known = writers.keys().map(String::as_str);
        Err(IngestError::UnknownStream {
            name: name.to_owned(),
            suggestion: did_you_mean(name, known),
        })
    }
}

fn not_open(stream: &str, (kind, reason): &(ErrorKind, String)) -> IngestError {
    IngestError::NotOpen {
        stream: stream.to_owned(),
        kind: *kind,
        reason: reason.clone(),
    }
}

/// The stream as its definition says, with the indexes that views need.
/// Stored events have the times and dedup keys of the columns that they came by,
/// so those are of the text that must not change under them.
fn spec_of(stream: &Stream, keys: &IndexKeys) -> StreamSpec {
    StreamSpec {
        name: stream.name.clone(),
        columns: stream.stored_as(),
        history: stream.history.is_some(),
        indexes: keys.specs(),
        tile_sets: keys.tile_specs(),
    }
}
