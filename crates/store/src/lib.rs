//! Where online values live: the [`OnlineStore`] trait, the row codec, the
//! embedded and in-memory stores, and a cache for slow ones. Where events live:
//! the [`EventStore`] trait.
//!
//! This crate knows nothing of SQL, of catalogs or of who asks. It stores rows
//! under encoded keys in generations, events under encoded keys in indexes, and
//! gives their bytes back.

pub mod cache;
pub mod codec;
pub mod conformance;
pub mod embedded;
pub mod embedded_events;
pub mod error;
pub mod events;
pub mod keys;
pub mod memory;
pub mod memory_events;
pub mod online;
pub mod rows;
pub mod streams;

pub use cache::{CachedStore, RowCacheCounts, RowCacheSettings};
pub use codec::{DecodedRows, RowColumn, RowDecoder, RowLayout, RowOrder, RowReader};
pub use embedded::{EmbeddedSettings, EmbeddedStore};
pub use embedded_events::{EmbeddedEventSettings, EmbeddedEventStore, EventsOwner};
pub use error::StoreError;
pub use events::{EventSnapshot, EventStore, EventStream};
pub use keys::EntityKeys;
pub use memory::MemoryStore;
pub use memory_events::MemoryEventStore;
pub use online::{
    Coverage, Generation, GenerationId, GenerationState, GenerationWriter, OnlineStore, RowSink,
    UpsertSummary, WriteMode,
};
pub use rows::EncodedRows;
pub use streams::{EventRows, OpenStream, OpenStreams, ReadEvents, StreamLayout};
