//! What is written with one sync: the requests of a group, one after the other,
//! into one batch of the database.
//!
//! A request that is refused leaves nothing in the batch. Within a batch the
//! database knows no order, so each key is written once at most: tiles come
//! last, and offsets and states are written when the group is whole.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use granary_model::UtcMicros;

use super::committer::{Reply, Request, Work};
use super::entry;
use super::format::{self, Id};
use super::shelf::{Core, Held, Shelf, key_hash};
use super::writes::{Space, Writes};
use crate::error::StoreError;
use crate::events::{
    Appended, ConsumerOffset, EventBatch, EventId, NewEvent, NewTile, SnapshotPoint, StreamState,
};

/// What goes into a batch, and what it says of keys that it does not hold yet.
pub(super) struct Group<'a> {
    shelf: &'a Shelf,
    writes: Writes,
    now: UtcMicros,
    stored: HashMap<Vec<u8>, EventId>,
    offsets: HashMap<Vec<u8>, Bytes>,
    tiles: HashMap<Vec<u8>, Bytes>,
    /// Tiles that events of this group are in.
    outdated: HashSet<Vec<u8>>,
    reaches: HashMap<Id, UtcMicros>,
    touched: HashSet<String>,
}

enum Answer {
    Appended(Vec<Appended>, Reply<Vec<Appended>>),
    Tiles(usize, Reply<usize>),
}

/// The states of the streams that the requests are of, as they are now.
fn states(core: &Core, requests: &[Request]) -> HashMap<String, (StreamState, Vec<UtcMicros>)> {
    let mut states = HashMap::new();
    for request in requests {
        if !states.contains_key(&*request.stream)
            && let Some(held) = core.streams.get(&*request.stream)
        {
            let state = (held.state, held.reaches.clone());
            states.insert(request.stream.to_string(), state);
        }
    }
    states
}

/// A group that is durable, or failed; who waits for it is not told yet.
#[must_use]
pub(super) struct Written {
    answers: Vec<Answer>,
    outcome: Result<(), StoreError>,
}

impl<'a> Group<'a> {
    pub(super) fn write(shelf: &'a Shelf, requests: Vec<Request>) -> Written {
        let mut core = shelf.core();
        let mut group = Self {
            shelf,
            writes: Writes::default(),
            now: shelf.clock.now(),
            stored: HashMap::new(),
            offsets: HashMap::new(),
            tiles: HashMap::new(),
            outdated: HashSet::new(),
            reaches: HashMap::new(),
            touched: HashSet::new(),
        };
        let undo = states(&core, &requests);
        let (appends, tiles): (Vec<_>, Vec<_>) = requests
            .into_iter()
            .partition(|request| matches!(request.work, Work::Append(..)));
        let mut answers = Vec::with_capacity(appends.len() + tiles.len());
        // The requests give their bytes of the queue back when they are done.
        let mut rooms = Vec::with_capacity(appends.len() + tiles.len());
        for request in appends.into_iter().chain(tiles) {
            let held = core
                .check_writable()
                .and_then(|()| core.held(&request.stream, request.epoch));
            let Request {
                stream, work, room, ..
            } = request;
            rooms.push(room);
            match work {
                Work::Append(batch, reply) => {
                    match held.and_then(|held| group.append(held, &stream, batch)) {
                        Ok(appended) => answers.push(Answer::Appended(appended, reply)),
                        Err(error) => answer(reply, Err(error)),
                    }
                }
                Work::Tiles {
                    set,
                    computed_from,
                    tiles,
                    reply,
                } => match held.map(|held| group.put_tiles(held, set, computed_from, tiles)) {
                    Ok(kept) => answers.push(Answer::Tiles(kept, reply)),
                    Err(error) => answer(reply, Err(error)),
                },
            }
        }
        let outcome = group.commit(&mut core);
        if outcome.is_err() {
            for (name, (state, reaches)) in undo {
                if let Some(held) = core.streams.get_mut(&name) {
                    held.state = state;
                    held.reaches = reaches;
                    held.recent.forget_after(state.last_sequence);
                }
            }
        }
        Written { answers, outcome }
    }

    fn append(
        &mut self,
        held: &mut Held,
        stream: &str,
        batch: EventBatch,
    ) -> Result<Vec<Appended>, StoreError> {
        // What can be refused comes first.
        self.check_offsets(held, stream, &batch.offsets)?;
        let mut found = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let key = event.dedup_key.as_ref();
            let key = key.map(|key| format::dedup_key(held.described.id, key));
            let stored = match &key {
                Some(key) => self.find(key)?,
                None => None,
            };
            found.push((key, stored));
        }
        for at in batch.offsets {
            let key = format::offset_key(held.described.id, &at.consumer);
            self.offsets.insert(key, at.offset);
        }
        self.touched.insert(stream.to_owned());
        Ok(batch
            .events
            .iter()
            .zip(found)
            .map(|(event, (dedup, stored))| self.append_event(held, event, dedup, stored))
            .collect())
    }

    fn check_offsets(
        &self,
        held: &Held,
        stream: &str,
        offsets: &[ConsumerOffset],
    ) -> Result<(), StoreError> {
        for at in offsets {
            let key = format::offset_key(held.described.id, &at.consumer);
            let stored = match self.offsets.get(&key) {
                Some(offset) => Some(offset.clone()),
                None => {
                    let stored = self.shelf.spaces.meta.get(&key);
                    let stored = stored.map_err(|e| self.shelf.failed(e))?;
                    stored.map(|offset| format::to_bytes(&offset))
                }
            };
            if stored != at.previous {
                return Err(StoreError::OffsetMoved {
                    stream: stream.to_owned(),
                    consumer: at.consumer.clone(),
                });
            }
        }
        Ok(())
    }

    /// The stored event of a dedup key, of this group or before it.
    fn find(&self, key: &[u8]) -> Result<Option<EventId>, StoreError> {
        if let Some(id) = self.stored.get(key) {
            return Ok(Some(*id));
        }
        let stored = self.shelf.spaces.dedup.get(key);
        match stored.map_err(|e| self.shelf.failed(e))? {
            Some(value) => Ok(Some(format::read_dedup_value(&value)?.0)),
            None => Ok(None),
        }
    }

    fn append_event(
        &mut self,
        held: &mut Held,
        event: &NewEvent,
        dedup: Option<Vec<u8>>,
        stored: Option<EventId>,
    ) -> Appended {
        let stream = held.described.id;
        // One that came earlier in this batch was not there to be found.
        let earlier = || self.stored.get(dedup.as_ref()?).copied();
        if let Some(id) = stored.or_else(earlier) {
            return Appended::Duplicate(id);
        }
        let last = held.state.last_created_time;
        let id = EventId {
            sequence: held.state.last_sequence + 1,
            created_time: last.map_or(self.now, |last| self.now.max(UtcMicros(last.0 + 1))),
        };
        let keys = held.described.keys_of(event);
        held.state.events += 1;
        held.state.bytes += entry::put(&mut self.writes, stream, id, event, &keys);
        held.state.last_sequence = id.sequence;
        held.state.last_created_time = Some(id.created_time);
        held.state.newest_event_time = held.state.newest_event_time.max(Some(event.event_time));
        if let Some(key) = dedup {
            self.stored.insert(key, id);
        }
        for (index, key) in &keys {
            held.tiles_over(*index, key, event.event_time, |tile| {
                self.outdated.insert(tile);
            });
        }
        let hashes = keys.iter().map(|(i, key)| (*i, key_hash(key))).collect();
        held.recent.push(id.sequence, event.event_time, hashes);
        Appended::New(id)
    }

    fn put_tiles(
        &mut self,
        held: &mut Held,
        set: usize,
        computed_from: SnapshotPoint,
        tiles: Vec<NewTile>,
    ) -> usize {
        let described = std::sync::Arc::clone(&held.described);
        let (ids, spec) = (described.tile_sets[set], &described.spec.tile_sets[set]);
        let mut kept = 0;
        for tile in tiles {
            let end = UtcMicros(tile.start.0.saturating_add(spec.spans[tile.level]));
            let trimmed = computed_from.removals != held.removals
                && held.state.trimmed_before > Some(tile.start);
            let untouched = held.recent.untouched(
                computed_from.sequence,
                (ids.index, key_hash(&tile.key)),
                (tile.start, end),
            );
            let before_a_restore = computed_from.removals < held.restored;
            if trimmed || before_a_restore || !untouched {
                continue;
            }
            let reach = &mut held.reaches[set];
            if end > *reach {
                *reach = end;
                self.reaches.insert(ids.id, end);
            }
            let key = format::tile_key(ids.id, &tile.key, tile.level, tile.start);
            self.tiles.insert(key, tile.value);
            kept += 1;
        }
        kept
    }

    /// Writes what is in the group.
    fn commit(mut self, core: &mut Core) -> Result<(), StoreError> {
        for (key, offset) in &self.offsets {
            self.writes.insert(Space::Meta, key.as_slice(), &offset[..]);
        }
        for (key, value) in &self.tiles {
            self.writes.insert(Space::Tiles, key.as_slice(), &value[..]);
        }
        for tile in self.outdated {
            // What was put in its place was computed later.
            debug_assert!(!self.tiles.contains_key(&tile));
            self.writes.remove(Space::Tiles, tile);
        }
        for (set, reach) in &self.reaches {
            let key = format::reach_key(*set);
            let reach = reach.0.to_le_bytes();
            self.writes.insert(Space::Meta, key, reach);
        }
        for held in self
            .touched
            .iter()
            .filter_map(|name| core.streams.get(name))
        {
            let key = format::state_key(held.described.id);
            let value = format::encode_state(&held.state, held.removals, &held.newest_kept);
            self.writes.insert(Space::Meta, key, value);
        }
        if self.writes.is_empty() {
            return Ok(());
        }
        self.shelf.check_room()?;
        let batch = self.writes.into_batch(&self.shelf.spaces);
        self.shelf.commit(core, batch)
    }
}

fn answer<T>(reply: Reply<T>, outcome: Result<T, StoreError>) {
    // Who does not wait any more need not know.
    let _ = reply.send(outcome);
}

impl Written {
    /// How many appends are to be told.
    pub(super) fn appends(&self) -> usize {
        let appends = |answer: &&Answer| matches!(answer, Answer::Appended(..));
        self.answers.iter().filter(appends).count()
    }

    /// Tells every request what became of it; of an error each the same.
    pub(super) fn tell(self) {
        for waiting in self.answers {
            let told = self.outcome.as_ref().copied().map_err(StoreError::again);
            match waiting {
                Answer::Appended(appended, reply) => answer(reply, told.map(|()| appended)),
                Answer::Tiles(kept, reply) => answer(reply, told.map(|()| kept)),
            }
        }
        if let Err(error) = self.outcome {
            tracing::error!(%error, "events were not written");
        }
    }
}
