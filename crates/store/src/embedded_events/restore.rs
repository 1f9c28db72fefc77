//! Sequences set aside, and trimmed events put back under the ids they had.

use std::collections::HashSet;

use super::entry;
use super::format::{self, NewestKept};
use super::shelf::{Described, Shelf};
use super::writes::{Space, Writes};
use crate::error::StoreError;
use crate::events::RestoredEvents;

/// The first of so many sequences that no event is given.
pub(super) fn reserve(
    shelf: &Shelf,
    name: &str,
    epoch: u64,
    sequences: u64,
) -> Result<u64, StoreError> {
    let mut core = shelf.core();
    let held = core.held(name, epoch)?;
    let mut state = held.state;
    let first = state.last_sequence + 1;
    state.last_sequence += sequences;
    let key = format::state_key(held.described.id);
    let value = format::encode_state(&state, held.removals, &held.newest_kept);
    let mut batch = shelf.spaces.db.batch();
    batch.insert(&shelf.spaces.meta, key, value);
    shelf.commit(&mut core, batch)?;
    core.held(name, epoch)?.state = state;
    Ok(first)
}

/// Puts back what is not there; gives how many events that were.
pub(super) fn restore(
    shelf: &Shelf,
    described: &Described,
    epoch: u64,
    mut restored: RestoredEvents,
) -> Result<u64, StoreError> {
    let _upkeep = shelf.upkeep();
    shelf.check_room()?;
    let (spaces, stream) = (&shelf.spaces, described.id);
    let mut core = shelf.core();
    core.check_writable()?;
    let held = core.held(&described.spec.name, epoch)?;
    let mut state = held.state;
    restored.check(&described.spec, state.flushed)?;
    let mut writes = Writes::default();
    let (mut back, mut claimed, mut tiles) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (id, event) in &mut restored.events {
        let there = spaces.log.get(format::log_key(stream, id.sequence));
        let there = there.map_err(|e| shelf.failed(e))?.is_some();
        if there || !back.insert(id.sequence) {
            continue;
        }
        if let Some(key) = &event.dedup_key {
            let key = format::dedup_key(stream, key);
            let other = spaces.dedup.get(&key).map_err(|e| shelf.failed(e))?;
            if other.is_some() || !claimed.insert(key) {
                event.dedup_key = None;
            }
        }
        let keys = described.keys_of(event);
        state.events += 1;
        state.bytes += entry::put(&mut writes, stream, *id, event, &keys);
        state.newest_event_time = state.newest_event_time.max(Some(event.event_time));
        for (index, key) in &keys {
            held.tiles_over(*index, key, event.event_time, |tile| {
                tiles.insert(tile);
            });
        }
    }
    for tile in tiles {
        writes.remove(Space::Tiles, tile);
    }
    let newest_kept = match restored.heals(&mut state) {
        true => NewestKept::default(),
        false => held.newest_kept.clone(),
    };
    if state == held.state {
        return Ok(0);
    }
    // Tiles that were computed before are told from others by this: also
    // where only the mark falls, by which trims tell them.
    let removals = held.removals + 1;
    let value = format::encode_state(&state, removals, &newest_kept);
    writes.insert(Space::Meta, format::state_key(stream), value);
    shelf.commit(&mut core, writes.into_batch(spaces))?;
    let held = core.held(&described.spec.name, epoch)?;
    held.state = state;
    held.removals = removals;
    held.restored = removals;
    held.newest_kept = newest_kept;
    Ok(back.len() as u64)
}
