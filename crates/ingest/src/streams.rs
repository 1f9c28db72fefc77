//! The events of a root: every stream of the definitions, open for appends.
//!
//! One process owns the events of a root. Rows come as record batches of the
//! stream's columns and are looked at one by one (`streams/rows.rs`): a bad row
//! is refused with its reason, the good rows beside it are appended as one
//! durable batch. A batch of other columns or types is refused as a whole.
//!
//! This module knows nothing of the wire, of who pushes or of who reads: reads
//! find what is open in [`OpenStreams`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use arrow::array::RecordBatch;
use granary_engine::Engine;
use granary_model::definitions::{Definitions, Stream};
use granary_model::{Clock, UtcMicros};
use granary_store::events::{Appended, EventBatch, EventId, EventStore, StreamSpec, StreamState};
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore, OpenStream, OpenStreams};
use serde::{Deserialize, Serialize};
use tracing::instrument;

use crate::error::IngestError;

mod keys;
mod rows;
mod source;

use keys::IndexKeys;
use rows::{CheckedRows, EventCodec};
pub use source::OpenEvents;

/// Settings of pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSettings {
    /// How far beyond the clock an event time may be.
    pub future_seconds_max: u32,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            future_seconds_max: 3600,
        }
    }
}

/// What became of one pushed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    Appended(EventId),
    /// One of the same DEDUPLICATE columns is stored, or came earlier.
    Duplicate(EventId),
    /// Not stored, and why.
    Refused(String),
}

/// The streams of a root, owned by this process.
#[derive(Debug)]
pub struct Streams {
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
    settings: StreamSettings,
    writers: RwLock<BTreeMap<String, Arc<Writer>>>,
    open: Arc<OpenStreams>,
}

/// An open stream with what turns its rows into events.
#[derive(Debug)]
struct Writer {
    codec: EventCodec,
    stream: Arc<OpenStream>,
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
        Self {
            store,
            clock,
            settings,
            writers: RwLock::default(),
            open: Arc::default(),
        }
    }

    /// What is open, for those who read.
    pub fn opened(&self) -> &Arc<OpenStreams> {
        &self.open
    }

    /// Opens every stream of the definitions, with the indexes that their live
    /// views need; what is stored already is filed in the new ones first, which
    /// takes as long as reading it. Streams that left the definitions take no
    /// more events, and keep what they have.
    #[instrument(skip_all, err)]
    pub async fn follow(
        &self,
        engine: &Engine,
        definitions: &Definitions,
    ) -> Result<(), IngestError> {
        let indexes = engine.event_indexes(definitions).await?;
        let mut writers = BTreeMap::new();
        let mut open = BTreeMap::new();
        for (name, definition) in &definitions.streams {
            let codec = EventCodec::of(definition);
            let keys = IndexKeys::new(name, codec.layout().clone(), indexes.get(name));
            let spec = spec_of(definition, &keys);
            let events = self.store.open_stream(spec, &keys).await?;
            let codec = codec.with_keys(keys);
            let stream = Arc::new(OpenStream {
                definition: definition.clone(),
                layout: codec.layout().clone(),
                events,
            });
            open.insert(name.clone(), Arc::clone(&stream));
            writers.insert(name.clone(), Arc::new(Writer { codec, stream }));
        }
        self.open.replace(open);
        *self.writers.write().unwrap_or_else(PoisonError::into_inner) = writers;
        Ok(())
    }

    /// Appends the good rows of a batch, durably and as a whole; gives what
    /// became of each row, in order. `IngestError::Refused` for a batch that
    /// lacks a column of the stream, or has one that is not of it or of another
    /// type: nothing is stored then.
    #[instrument(skip_all, err, fields(stream))]
    pub async fn push(
        &self,
        stream: &str,
        batch: &RecordBatch,
    ) -> Result<Vec<Pushed>, IngestError> {
        let writer = self.writer(stream)?;
        let CheckedRows { events, refused } = writer.codec.check(batch, self.latest())?;
        let appended = match events.is_empty() {
            true => Vec::new(),
            false => {
                let offsets = Vec::new();
                let batch = EventBatch { events, offsets };
                writer.stream.events.append(batch).await?
            }
        };
        let mut appended = appended.into_iter();
        let outcome = |reason: Option<String>| match reason {
            Some(reason) => Some(Pushed::Refused(reason)),
            None => appended.next().map(|event| match event {
                Appended::New(id) => Pushed::Appended(id),
                Appended::Duplicate(id) => Pushed::Duplicate(id),
            }),
        };
        Ok(refused.into_iter().filter_map(outcome).collect())
    }

    /// What is known of each stored stream, by name.
    pub async fn states(&self) -> Result<Vec<(String, StreamState)>, IngestError> {
        let streams = self.store.streams().await?;
        let named = streams.into_iter().map(|(spec, state)| (spec.name, state));
        Ok(named.collect())
    }

    /// The last event time that is taken now.
    fn latest(&self) -> UtcMicros {
        let future = i64::from(self.settings.future_seconds_max) * 1_000_000;
        UtcMicros(self.clock.now().0.saturating_add(future))
    }

    fn writer(&self, name: &str) -> Result<Arc<Writer>, IngestError> {
        let writers = self.writers.read().unwrap_or_else(PoisonError::into_inner);
        writers
            .get(name)
            .cloned()
            .ok_or_else(|| IngestError::UnknownStream(name.to_owned()))
    }
}

/// The stream as its definition says, with the indexes that views need.
/// Stored events have the times and dedup keys of the columns that they came by,
/// so those are of the text that must not change under them.
fn spec_of(stream: &Stream, keys: &IndexKeys) -> StreamSpec {
    let columns = stream.columns.iter();
    let columns: Vec<String> = columns
        .map(|column| format!("{:?} {}", column.name, column.data_type))
        .collect();
    StreamSpec {
        name: stream.name.clone(),
        columns: format!(
            "({}) EVENT TIME {:?} DEDUPLICATE BY {:?}",
            columns.join(", "),
            stream.event_time,
            stream.deduplicate_by
        ),
        history: stream.history.is_some(),
        indexes: keys.specs(),
        tile_sets: Vec::new(),
    }
}
