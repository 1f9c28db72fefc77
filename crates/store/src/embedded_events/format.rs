//! Keys and values of the event store's keyspaces.
//!
//! Every stream, index and tile set has an id of its own, never used twice,
//! which begins its keys (u32, big endian, as all numbers in keys; signed ones
//! with the sign bit turned, so that bytes sort as numbers do).
//!
//! ```text
//! log    stream, sequence                  event time, created time, dedup key, keys by index id, payload
//! times  stream, event time, sequence      nothing
//! index  index, key, event time, sequence  created time, payload
//! dedup  stream, dedup key                 sequence, created time, event time
//! tiles  tile set, key, level, start       value
//! meta   "stream/" name                    what the stream is (JSON)
//!        "state/" stream                   what it holds (fixed numbers)
//!        "reach/" tile set                 greatest end of a tile that was ever put
//!        "offset/" stream, consumer        offset
//!        "drop/" id                        a keyspace whose keys of this id are to be removed
//!        "next"                            the next id
//! ```
//!
//! A key longer than 512 bytes is filed under its SHA-256.

use std::borrow::Cow;

use bytes::Bytes;
use granary_model::UtcMicros;
use sha2::{Digest, Sha256};

use crate::error::StoreError;
use crate::events::{EventId, StreamState};

/// Ids of streams, indexes and tile sets.
pub(super) type Id = u32;

/// Longer keys are filed under their hash.
const PLAIN_KEY_BYTES_MAX: usize = 512;
const HASHED: u16 = u16::MAX;

/// Appends a key so that none is the beginning of another.
fn push_key(to: &mut Vec<u8>, key: &[u8]) {
    if key.len() <= PLAIN_KEY_BYTES_MAX {
        to.extend_from_slice(&(key.len() as u16).to_be_bytes());
        to.extend_from_slice(key);
    } else {
        to.extend_from_slice(&HASHED.to_be_bytes());
        to.extend_from_slice(&Sha256::digest(key));
    }
}

fn sortable(t: UtcMicros) -> [u8; 8] {
    (t.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn from_sortable(bytes: [u8; 8]) -> UtcMicros {
    UtcMicros((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
}

pub(super) fn log_key(stream: Id, sequence: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&stream.to_be_bytes());
    key[4..].copy_from_slice(&sequence.to_be_bytes());
    key
}

pub(super) fn log_key_sequence(key: &[u8]) -> Result<u64, StoreError> {
    Ok(u64::from_be_bytes(last(key, "a log key")?))
}

pub(super) fn times_key(stream: Id, t: UtcMicros, sequence: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&stream.to_be_bytes());
    key[4..12].copy_from_slice(&sortable(t));
    key[12..].copy_from_slice(&sequence.to_be_bytes());
    key
}

/// Event time and sequence at the end of a key of `times` or `index`.
pub(super) fn time_and_sequence(key: &[u8]) -> Result<(UtcMicros, u64), StoreError> {
    let tail: [u8; 16] = last(key, "an index key")?;
    let (time, sequence) = tail.split_at(8);
    Ok((
        from_sortable(last(time, "an index key")?),
        u64::from_be_bytes(last(sequence, "an index key")?),
    ))
}

/// What all entries of a key of an index begin with.
pub(super) fn index_prefix(index: Id, key: &[u8]) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(4 + 2 + key.len().min(PLAIN_KEY_BYTES_MAX) + 16);
    prefix.extend_from_slice(&index.to_be_bytes());
    push_key(&mut prefix, key);
    prefix
}

pub(super) fn index_key(prefix: &[u8], t: UtcMicros, sequence: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(prefix.len() + 16);
    key.extend_from_slice(prefix);
    key.extend_from_slice(&sortable(t));
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

pub(super) fn index_value(created: UtcMicros, payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(8 + payload.len());
    value.extend_from_slice(&created.0.to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// Created time and payload.
pub(super) fn read_index_value(value: &[u8]) -> Result<(UtcMicros, &[u8]), StoreError> {
    let mut reader = Reader(value);
    Ok((reader.time()?, reader.0))
}

pub(super) fn dedup_key(stream: Id, key: &[u8]) -> Vec<u8> {
    index_prefix(stream, key)
}

pub(super) fn dedup_value(id: EventId, event_time: UtcMicros) -> [u8; 24] {
    let mut value = [0; 24];
    value[..8].copy_from_slice(&id.sequence.to_le_bytes());
    value[8..16].copy_from_slice(&id.created_time.0.to_le_bytes());
    value[16..].copy_from_slice(&event_time.0.to_le_bytes());
    value
}

pub(super) fn read_dedup_value(value: &[u8]) -> Result<(EventId, UtcMicros), StoreError> {
    let mut reader = Reader(value);
    let id = EventId {
        sequence: reader.number()?,
        created_time: reader.time()?,
    };
    Ok((id, reader.time()?))
}

pub(super) fn tile_key(set: Id, key: &[u8], level: usize, start: UtcMicros) -> Vec<u8> {
    let mut to = index_prefix(set, key);
    to.push(level as u8);
    to.extend_from_slice(&sortable(start));
    to
}

pub(super) fn tile_start(key: &[u8]) -> Result<UtcMicros, StoreError> {
    Ok(from_sortable(last(key, "a tile's key")?))
}

pub(super) fn offset_key(stream: Id, consumer: &str) -> Vec<u8> {
    let mut key = b"offset/".to_vec();
    key.extend_from_slice(&stream.to_be_bytes());
    key.extend_from_slice(consumer.as_bytes());
    key
}

pub(super) fn state_key(stream: Id) -> Vec<u8> {
    [b"state/", &stream.to_be_bytes()[..]].concat()
}

pub(super) fn reach_key(set: Id) -> Vec<u8> {
    [b"reach/", &set.to_be_bytes()[..]].concat()
}

pub(super) fn stream_key(name: &str) -> Vec<u8> {
    [b"stream/", name.as_bytes()].concat()
}

pub(super) const DROP_PREFIX: &[u8] = b"drop/";
pub(super) const STREAM_PREFIX: &[u8] = b"stream/";
pub(super) const NEXT_ID: &[u8] = b"next";

pub(super) fn drop_key(id: Id) -> Vec<u8> {
    [DROP_PREFIX, &id.to_be_bytes()[..]].concat()
}

pub(super) fn id_at_end(key: &[u8]) -> Result<Id, StoreError> {
    Ok(u32::from_be_bytes(last(key, "an id")?))
}

/// An event of the log, lent.
#[derive(Debug)]
pub(super) struct LogEvent<'a> {
    pub(super) event_time: UtcMicros,
    pub(super) created_time: UtcMicros,
    pub(super) dedup_key: Option<Cow<'a, [u8]>>,
    pub(super) keys: Vec<(Id, Cow<'a, [u8]>)>,
    pub(super) payload: &'a [u8],
}

impl<'a> LogEvent<'a> {
    /// What the stream's count of bytes has of it.
    pub(super) fn bytes(&self) -> u64 {
        let dedup = self.dedup_key.as_ref().map_or(0, |key| key.len());
        (dedup + self.payload.len()) as u64
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let keys: usize = self.keys.iter().map(|(_, key)| key.len() + 8).sum();
        let mut to = Vec::with_capacity(self.bytes() as usize + 32 + keys);
        to.extend_from_slice(&self.event_time.0.to_le_bytes());
        to.extend_from_slice(&self.created_time.0.to_le_bytes());
        to.push(u8::from(self.dedup_key.is_some()));
        if let Some(key) = &self.dedup_key {
            push_bytes(&mut to, key);
        }
        to.extend_from_slice(&(self.keys.len() as u32).to_le_bytes());
        for (index, key) in &self.keys {
            to.extend_from_slice(&index.to_le_bytes());
            push_bytes(&mut to, key);
        }
        to.extend_from_slice(self.payload);
        to
    }

    pub(super) fn decode(value: &'a [u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(value);
        let event_time = reader.time()?;
        let created_time = reader.time()?;
        let dedup_key = match reader.take(1)?[0] {
            0 => None,
            _ => Some(Cow::Borrowed(reader.bytes()?)),
        };
        let keys = (0..reader.short()?)
            .map(|_| Ok((reader.short()?, Cow::Borrowed(reader.bytes()?))))
            .collect::<Result<_, StoreError>>()?;
        Ok(Self {
            event_time,
            created_time,
            dedup_key,
            keys,
            payload: reader.0,
        })
    }
}

/// Created time, event time and payload of a log entry.
pub(super) fn read_log_payload(value: &[u8]) -> Result<(UtcMicros, UtcMicros, &[u8]), StoreError> {
    let event = LogEvent::decode(value)?;
    Ok((event.created_time, event.event_time, event.payload))
}

/// Of indexes how many of the newest events of each key trims left, of any other
/// none. Means nothing while nothing is trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct NewestKept(Vec<(Id, usize)>);

impl NewestKept {
    pub(super) fn of(indexes: impl Iterator<Item = (Id, usize)>) -> Self {
        Self(indexes.filter(|(_, kept)| *kept > 0).collect())
    }

    pub(super) fn get(&self, state: &StreamState, index: Id) -> usize {
        let kept = self.0.iter().find(|(id, _)| *id == index);
        match state.trimmed_before {
            Some(_) => kept.map_or(0, |(_, kept)| *kept),
            None => usize::MAX,
        }
    }
}

/// What a stream holds, and how often a trim removed something.
pub(super) fn encode_state(state: &StreamState, removals: u64, newest: &NewestKept) -> Vec<u8> {
    let mut to = Vec::with_capacity(96);
    for number in [
        state.events,
        state.bytes,
        state.last_sequence,
        state.flushed,
        removals,
    ] {
        to.extend_from_slice(&number.to_le_bytes());
    }
    for time in [
        state.last_created_time,
        state.newest_event_time,
        state.trimmed_before,
        state.lost_before,
        state.newest_from,
    ] {
        to.push(u8::from(time.is_some()));
        to.extend_from_slice(&time.unwrap_or_default().0.to_le_bytes());
    }
    for (index, kept) in &newest.0 {
        to.extend_from_slice(&index.to_le_bytes());
        to.extend_from_slice(&(*kept as u64).to_le_bytes());
    }
    to
}

pub(super) fn read_state(value: &[u8]) -> Result<(StreamState, u64, NewestKept), StoreError> {
    let mut reader = Reader(value);
    let mut state = StreamState {
        events: reader.number()?,
        bytes: reader.number()?,
        last_sequence: reader.number()?,
        flushed: reader.number()?,
        ..StreamState::default()
    };
    let removals = reader.number()?;
    state.last_created_time = reader.optional_time()?;
    state.newest_event_time = reader.optional_time()?;
    state.trimmed_before = reader.optional_time()?;
    state.lost_before = reader.optional_time()?;
    state.newest_from = reader.optional_time()?;
    let mut newest = NewestKept::default();
    while !reader.0.is_empty() {
        let kept = (reader.short()?, reader.number()?);
        newest.0.push((kept.0, kept.1 as usize));
    }
    Ok((state, removals, newest))
}

pub(super) fn read_time(value: &[u8]) -> Result<UtcMicros, StoreError> {
    Reader(value).time()
}

fn push_bytes(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(bytes);
}

fn last<const N: usize>(bytes: &[u8], what: &str) -> Result<[u8; N], StoreError> {
    bytes
        .last_chunk()
        .copied()
        .ok_or_else(|| StoreError::DamagedRow(format!("{what} is cut short")))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], StoreError> {
        let (taken, rest) = self
            .0
            .split_at_checked(n)
            .ok_or_else(|| StoreError::DamagedRow("an event is cut short".to_owned()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_le_bytes(last(self.take(8)?, "an event")?))
    }

    fn short(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_le_bytes(last(self.take(4)?, "an event")?))
    }

    fn time(&mut self) -> Result<UtcMicros, StoreError> {
        Ok(UtcMicros(self.number()?.cast_signed()))
    }

    fn optional_time(&mut self) -> Result<Option<UtcMicros>, StoreError> {
        let some = self.take(1)?[0] != 0;
        let time = self.time()?;
        Ok(some.then_some(time))
    }

    fn bytes(&mut self) -> Result<&'a [u8], StoreError> {
        let len = self.short()?;
        self.take(len as usize)
    }
}

/// An owned copy.
pub(super) fn to_bytes(value: &[u8]) -> Bytes {
    Bytes::copy_from_slice(value)
}
