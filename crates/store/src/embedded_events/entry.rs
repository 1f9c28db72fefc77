//! What an event is in the keyspaces (see `format.rs`).

use bytes::Bytes;

use super::format::{self, Id, LogEvent};
use super::shelf::Described;
use super::writes::{Space, Writes};
use crate::events::{EventId, NewEvent};

impl Described {
    /// The keys of an event with the ids of their indexes.
    pub(super) fn keys_of<'a>(&self, event: &'a NewEvent) -> Vec<(Id, &'a Bytes)> {
        let indexes = self.indexes.iter().zip(&event.keys);
        indexes
            .flat_map(|(index, keys)| keys.iter().map(|key| (*index, key)))
            .collect()
    }
}

/// Writes an event that is not there; gives what the stream's count of bytes
/// has of it.
pub(super) fn put(
    writes: &mut Writes,
    stream: Id,
    id: EventId,
    event: &NewEvent,
    keys: &[(Id, &Bytes)],
) -> u64 {
    let logged = LogEvent {
        event_time: event.event_time,
        created_time: id.created_time,
        dedup_key: event.dedup_key.as_deref().map(Into::into),
        keys: keys
            .iter()
            .map(|(i, key)| (*i, (&key[..]).into()))
            .collect(),
        payload: &event.payload,
    };
    let log_key = format::log_key(stream, id.sequence);
    writes.insert(Space::Log, log_key, logged.encode());
    let times_key = format::times_key(stream, event.event_time, id.sequence);
    writes.insert(Space::Times, times_key, []);
    if let Some(key) = &event.dedup_key {
        let value = format::dedup_value(id, event.event_time);
        writes.insert(Space::Dedup, format::dedup_key(stream, key), value);
    }
    let value = format::index_value(id.created_time, &event.payload);
    let value = fjall::Slice::from(value);
    for (index, key) in keys {
        let prefix = format::index_prefix(*index, key);
        let entry = format::index_key(&prefix, event.event_time, id.sequence);
        writes.insert(Space::Index, entry, value.clone());
    }
    logged.bytes()
}
