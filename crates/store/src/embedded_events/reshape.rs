//! Takes a stream to what a spec says: makes it, fills new indexes, drops what
//! is not named any more.
//!
//! A new index is filled in bounded steps beside appends, under an id that is
//! noted for removal until the end; the last step, with the change of what the
//! stream is, locks appends out. Killed in between, it leaves an id to clear.

use std::sync::Arc;

use fjall::{OwnedWriteBatch as WriteBatch, Readable};
use granary_model::UtcMicros;

use super::format::{self, Id, LogEvent, NewestKept};
use super::shelf::{Core, Described, Held, Recent, Shelf, TileSet};
use crate::error::StoreError;
use crate::events::{EventRef, KeyOf, StreamSpec, StreamState, make_distinct};

/// What an id to remove was of.
pub(super) const STREAM: &[u8] = b"stream";
pub(super) const INDEX: &[u8] = b"index";
pub(super) const TILES: &[u8] = b"tiles";

/// A change from what a stream was to what it is to be.
struct Change {
    to: Described,
    /// Position and id of the indexes to fill.
    fill: Vec<(usize, Id)>,
    /// Ids that are not used any more.
    drop: Vec<(Id, &'static [u8])>,
    next_id: Id,
}

impl Change {
    fn new(core: &Core, spec: &Arc<StreamSpec>) -> Self {
        let old = core.streams.get(&spec.name).map(|held| &*held.described);
        let mut next_id = core.next_id;
        let mut fresh = || {
            next_id += 1;
            next_id
        };
        let id = old.map_or_else(&mut fresh, |old| old.id);
        let mut fill = Vec::new();
        let mut indexes = Vec::new();
        for (position, index) in spec.indexes.iter().enumerate() {
            let known = old.and_then(|old| Some(old.indexes[old.spec.index(&index.name)?]));
            indexes.push(known.unwrap_or_else(|| {
                let id = fresh();
                fill.push((position, id));
                id
            }));
        }
        let mut tile_sets = Vec::new();
        for set in &spec.tile_sets {
            let index = spec.index(&set.index).map_or(0, |at| indexes[at]);
            let known = old.and_then(|old| {
                let at = old.spec.tile_set(&set.name, set.version)?;
                let same = old.spec.tile_sets[at] == *set && old.tile_sets[at].index == index;
                same.then_some(old.tile_sets[at])
            });
            tile_sets.push(known.unwrap_or_else(|| TileSet { id: fresh(), index }));
        }
        let mut drop: Vec<(Id, &'static [u8])> = Vec::new();
        if let Some(old) = old {
            let gone = old.indexes.iter().filter(|id| !indexes.contains(id));
            drop.extend(gone.map(|id| (*id, INDEX)));
            let gone = old.tile_sets.iter().filter(|set| !tile_sets.contains(set));
            drop.extend(gone.map(|set| (set.id, TILES)));
        }
        Self {
            to: Described {
                id,
                spec: Arc::clone(spec),
                indexes,
                tile_sets,
            },
            fill,
            drop,
            next_id,
        }
    }
}

/// Gives what the stream is now, and the epoch of its handles.
pub(super) fn open_stream(
    shelf: &Shelf,
    spec: StreamSpec,
    keys: &dyn KeyOf,
) -> Result<(Arc<Described>, u64), StoreError> {
    spec.check()?;
    let spec = Arc::new(spec);
    let _upkeep = shelf.upkeep();
    let mut core = shelf.core();
    if let Some(held) = core.streams.get(&spec.name) {
        if held.described.spec == spec {
            return Ok((Arc::clone(&held.described), held.epoch));
        }
        check_columns(held, &spec)?;
    }
    shelf.check_room()?;
    let change = Change::new(&core, &spec);
    let events = core.streams.get(&spec.name).map_or(0, |h| h.state.events);
    let mut filled = 0;
    if events > 0 && !change.fill.is_empty() {
        let mut batch = shelf.spaces.db.batch();
        put_next_id(shelf, &mut batch, change.next_id);
        for (_, id) in &change.fill {
            batch.insert(&shelf.spaces.meta, format::drop_key(*id), INDEX);
        }
        core.next_id = change.next_id;
        shelf.commit(&mut core, batch)?;
        drop(core);
        filled = fill_beside_appends(shelf, &change, keys)?;
        core = shelf.core();
        // Events that the columns do not fit may have come first.
        if let Some(held) = core.streams.get(&spec.name) {
            check_columns(held, &spec)?;
        }
    }
    let mut batch = shelf.spaces.db.batch();
    let mut state = StreamState::default();
    let mut removals = 0;
    let mut newest_kept = NewestKept::default();
    if let Some(held) = core.streams.get(&spec.name) {
        state = held.state;
        removals = held.removals;
        newest_kept = held.newest_kept.clone();
        if !change.fill.is_empty() {
            fill(shelf, &mut batch, &change, filled, usize::MAX, keys)?;
        }
    }
    finish(
        shelf,
        &mut core,
        batch,
        change,
        (state, removals, newest_kept),
    )
}

fn check_columns(held: &Held, spec: &StreamSpec) -> Result<(), StoreError> {
    let stored = &held.described.spec.columns;
    if held.state.events > 0 && *stored != spec.columns {
        return Err(StoreError::StreamColumns {
            stream: spec.name.clone(),
            stored: stored.clone(),
            given: spec.columns.clone(),
        });
    }
    Ok(())
}

fn finish(
    shelf: &Shelf,
    core: &mut Core,
    mut batch: WriteBatch,
    change: Change,
    (state, removals, newest_kept): (StreamState, u64, NewestKept),
) -> Result<(Arc<Described>, u64), StoreError> {
    let meta = &shelf.spaces.meta;
    let described = Arc::new(change.to);
    let name = &described.spec.name;
    let text = serde_json::to_vec(&*described).map_err(|e| StoreError::Codec(e.to_string()))?;
    batch.insert(meta, format::stream_key(name), text);
    put_next_id(shelf, &mut batch, change.next_id);
    let state_value = format::encode_state(&state, removals, &newest_kept);
    batch.insert(meta, format::state_key(described.id), state_value);
    for (_, id) in &change.fill {
        batch.remove(meta, format::drop_key(*id));
    }
    for (id, what) in &change.drop {
        batch.insert(meta, format::drop_key(*id), *what);
        batch.remove(meta, format::reach_key(*id));
    }
    shelf.commit(core, batch)?;
    shelf.drop_ids(change.drop.iter().map(|(id, _)| *id));
    core.next_id = change.next_id;
    core.epochs += 1;
    let old = core.streams.remove(name);
    let reaches = described.tile_sets.iter().map(|set| {
        let held = old.as_ref()?;
        let at = held.described.tile_sets.iter().position(|old| old == set)?;
        Some(held.reaches[at])
    });
    let held = Held {
        epoch: core.epochs,
        state,
        removals,
        restored: removals,
        newest_kept,
        reaches: reaches.map(|r| r.unwrap_or(UtcMicros::MIN)).collect(),
        // It knows nothing of the keys of new indexes.
        recent: old
            .filter(|_| change.fill.is_empty())
            .map_or_else(|| Recent::after(state.last_sequence), |old| old.recent),
        described: Arc::clone(&described),
    };
    core.streams.insert(name.clone(), held);
    Ok((described, core.epochs))
}

fn put_next_id(shelf: &Shelf, batch: &mut WriteBatch, next: Id) {
    batch.insert(&shelf.spaces.meta, format::NEXT_ID, next.to_be_bytes());
}

/// Fills until few events are left; gives the last sequence that is done.
fn fill_beside_appends(
    shelf: &Shelf,
    change: &Change,
    keys: &dyn KeyOf,
) -> Result<u64, StoreError> {
    let step = shelf.settings.step_events_max.max(1);
    let mut done = 0;
    loop {
        let mut batch = shelf.spaces.db.batch();
        let filled = fill(shelf, &mut batch, change, done, step, keys)?;
        if filled.events == 0 {
            return Ok(done);
        }
        let mut core = shelf.core();
        shelf.check_room()?;
        shelf.commit(&mut core, batch)?;
        done = filled.last;
        if filled.events < step {
            return Ok(done);
        }
    }
}

struct Filled {
    events: usize,
    /// The last sequence.
    last: u64,
}

/// Puts the events after a sequence, at most `limit`, into the new indexes, and
/// their keys into the log, from where a trim takes them.
fn fill(
    shelf: &Shelf,
    batch: &mut WriteBatch,
    change: &Change,
    after: u64,
    limit: usize,
    keys: &dyn KeyOf,
) -> Result<Filled, StoreError> {
    let spaces = &shelf.spaces;
    let stream = change.to.id;
    let now = spaces.db.snapshot();
    let range = format::log_key(stream, after + 1)..=format::log_key(stream, u64::MAX);
    let mut filled = Filled {
        events: 0,
        last: after,
    };
    for entry in now.range(&spaces.log, range).take(limit) {
        let (log_key, value) = entry.into_inner().map_err(|e| shelf.failed(e))?;
        let mut event = LogEvent::decode(&value)?;
        let before = event.keys.len();
        filled.events += 1;
        filled.last = format::log_key_sequence(&log_key)?;
        let lent = EventRef {
            event_time: event.event_time,
            created_time: event.created_time,
            sequence: filled.last,
            payload: event.payload,
        };
        for (position, index) in &change.fill {
            let mut found = keys.keys_of(*position, lent)?;
            make_distinct(&mut found);
            for key in found {
                let prefix = format::index_prefix(*index, &key);
                let entry = format::index_key(&prefix, event.event_time, filled.last);
                let value = format::index_value(event.created_time, event.payload);
                batch.insert(&spaces.index, entry, value);
                event.keys.push((*index, key.to_vec().into()));
            }
        }
        if event.keys.len() > before {
            batch.insert(&spaces.log, log_key, event.encode());
        }
    }
    Ok(filled)
}

/// Forgets a stream; what it held is cleared by trims.
pub(super) fn drop_stream(shelf: &Shelf, name: &str) -> Result<(), StoreError> {
    let _upkeep = shelf.upkeep();
    let mut core = shelf.core();
    let Some(held) = core.streams.get(name) else {
        return Ok(());
    };
    let described = Arc::clone(&held.described);
    let meta = &shelf.spaces.meta;
    let mut batch = shelf.spaces.db.batch();
    batch.remove(meta, format::stream_key(name));
    batch.remove(meta, format::state_key(described.id));
    for entry in meta.prefix(format::offset_key(described.id, "")) {
        batch.remove(meta, entry.key().map_err(|e| shelf.failed(e))?);
    }
    let indexes = described.indexes.iter().map(|id| (*id, INDEX));
    let tile_sets = described.tile_sets.iter().map(|set| (set.id, TILES));
    let ids: Vec<_> = indexes
        .chain(tile_sets)
        .chain([(described.id, STREAM)])
        .collect();
    for (id, what) in &ids {
        batch.insert(meta, format::drop_key(*id), *what);
        batch.remove(meta, format::reach_key(*id));
    }
    shelf.drop_ids(ids.iter().map(|(id, _)| *id));
    shelf.commit(&mut core, batch)?;
    core.streams.remove(name);
    Ok(())
}
