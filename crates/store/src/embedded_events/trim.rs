//! Removal in bounded steps: of old events, and of what was dropped.

use std::collections::{HashMap, HashSet};

use fjall::{Keyspace, Readable, Snapshot, UserValue};
use granary_model::UtcMicros;

use super::format::{self, LogEvent, NewestKept};
use super::reshape::{INDEX, STREAM};
use super::shelf::{Described, Shelf};
use crate::error::StoreError;
use crate::events::{TrimCursor, TrimPolicy, TrimStep};

/// One step: first of what was dropped, then of old events.
pub(super) fn step(
    shelf: &Shelf,
    described: &Described,
    epoch: u64,
    policy: &TrimPolicy,
    from: Option<TrimCursor>,
) -> Result<TrimStep, StoreError> {
    let _upkeep = shelf.upkeep();
    let name = &described.spec.name;
    let flushed = {
        let mut core = shelf.core();
        core.check_writable()?;
        core.held(name, epoch)?.state.flushed
    };
    let from = from.unwrap_or(TrimCursor {
        event_time: UtcMicros::MIN,
        sequence: 0,
    });
    if clear_dropped(shelf)? {
        return Ok(TrimStep {
            removed: 0,
            next: Some(from),
        });
    }
    let old = find_old(shelf, described, policy, flushed, from)?;
    remove(shelf, described, epoch, policy, &old)?;
    Ok(TrimStep {
        removed: old.events.len() as u64,
        next: old.next,
    })
}

/// Events to remove: event time, sequence, log entry.
struct Old {
    events: Vec<(UtcMicros, u64, UserValue)>,
    next: Option<TrimCursor>,
}

fn find_old(
    shelf: &Shelf,
    described: &Described,
    policy: &TrimPolicy,
    flushed: u64,
    from: TrimCursor,
) -> Result<Old, StoreError> {
    let spaces = &shelf.spaces;
    let now = spaces.db.snapshot();
    let first = format::times_key(
        described.id,
        from.event_time,
        from.sequence.saturating_add(1),
    );
    let end = format::times_key(described.id, policy.older_than, 0);
    let mut kept = Kept {
        shelf,
        now: &now,
        described,
        policy,
        since: HashMap::new(),
    };
    let mut old = Old {
        events: Vec::new(),
        next: None,
    };
    if first >= end {
        return Ok(old);
    }
    let mut looked_at = 0;
    for entry in now.range(&spaces.times, first..end) {
        let key = entry.key().map_err(|e| shelf.failed(e))?;
        let (event_time, sequence) = format::time_and_sequence(&key)?;
        looked_at += 1;
        if looked_at >= shelf.settings.step_events_max.max(1) {
            old.next = Some(TrimCursor {
                event_time,
                sequence,
            });
        }
        if !described.spec.history || sequence <= flushed {
            let logged = now.get(&spaces.log, format::log_key(described.id, sequence));
            let logged = logged.map_err(|e| shelf.failed(e))?.ok_or_else(|| {
                StoreError::DamagedRow(format!("event {sequence} is not in the log"))
            })?;
            if !kept.keeps(&LogEvent::decode(&logged)?)? {
                old.events.push((event_time, sequence, logged));
            }
        }
        if old.next.is_some() {
            break;
        }
    }
    Ok(old)
}

/// Which events the policy keeps although they are old.
struct Kept<'a> {
    shelf: &'a Shelf,
    now: &'a Snapshot,
    described: &'a Described,
    policy: &'a TrimPolicy,
    /// By position in `keep_newest` and key: the event time from which on
    /// events stay.
    since: HashMap<(usize, Vec<u8>), UtcMicros>,
}

impl Kept<'_> {
    fn keeps(&mut self, event: &LogEvent<'_>) -> Result<bool, StoreError> {
        for (position, (index, newest)) in self.policy.keep_newest.iter().enumerate() {
            let id = self.described.indexes[*index];
            for (_, key) in event.keys.iter().filter(|(index, _)| *index == id) {
                let place = (position, key.to_vec());
                let since = match self.since.get(&place) {
                    Some(since) => *since,
                    None => {
                        let since = self.nth_newest(id, key, *newest)?;
                        self.since.insert(place, since);
                        since
                    }
                };
                if event.event_time >= since {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Event time of the n-th newest event of a key before the policy's time; of
    /// fewer the oldest time.
    fn nth_newest(&self, index: u32, key: &[u8], n: usize) -> Result<UtcMicros, StoreError> {
        let Some(before) = n.checked_sub(1) else {
            return Ok(UtcMicros::MAX);
        };
        let first = format::index_prefix(index, key);
        let end = format::index_key(&first, self.policy.older_than, 0);
        let entries = self.now.range(&self.shelf.spaces.index, first..end);
        match entries.rev().nth(before) {
            Some(entry) => {
                let key = entry.key().map_err(|e| self.shelf.failed(e))?;
                Ok(format::time_and_sequence(&key)?.0)
            }
            None => Ok(UtcMicros::MIN),
        }
    }
}

fn remove(
    shelf: &Shelf,
    described: &Described,
    epoch: u64,
    policy: &TrimPolicy,
    old: &Old,
) -> Result<(), StoreError> {
    let spaces = &shelf.spaces;
    let stream = described.id;
    let mut core = shelf.core();
    let held = core.held(&described.spec.name, epoch)?;
    let mut state = held.state;
    let newest = old.events.iter().map(|(event_time, ..)| *event_time).max();
    let indexes = described.indexes.iter().enumerate();
    let newest_kept = NewestKept::of(indexes.map(|(at, id)| {
        let kept = held.newest_kept.get(&held.state, *id);
        (*id, kept.min(policy.newest_kept(at)))
    }));
    let is_less = policy.lessens(&described.spec, &mut state, newest);
    let is_known = state == held.state && newest_kept == held.newest_kept;
    if old.events.is_empty() && (is_known || !is_less) {
        return Ok(());
    }
    let removals = held.removals + u64::from(!old.events.is_empty());
    let mut batch = spaces.db.batch();
    let mut tiles = HashSet::new();
    for (event_time, sequence, logged) in &old.events {
        let event = LogEvent::decode(logged)?;
        state.events -= 1;
        state.bytes = state.bytes.saturating_sub(event.bytes());
        batch.remove(&spaces.log, format::log_key(stream, *sequence));
        let times_key = format::times_key(stream, *event_time, *sequence);
        batch.remove(&spaces.times, times_key);
        if let Some(key) = &event.dedup_key {
            batch.remove(&spaces.dedup, format::dedup_key(stream, key));
        }
        for (index, key) in &event.keys {
            let prefix = format::index_prefix(*index, key);
            let entry = format::index_key(&prefix, *event_time, *sequence);
            batch.remove(&spaces.index, entry);
            held.tiles_over(*index, key, *event_time, |tile| {
                tiles.insert(tile);
            });
        }
    }
    for tile in tiles {
        batch.remove(&spaces.tiles, tile);
    }
    let value = format::encode_state(&state, removals, &newest_kept);
    batch.insert(&spaces.meta, format::state_key(stream), value);
    shelf.commit(&mut core, batch)?;
    let held = core.held(&described.spec.name, epoch)?;
    held.state = state;
    held.removals = removals;
    held.newest_kept = newest_kept;
    Ok(())
}

/// One step of clearing what dropped streams, indexes and tile sets left; true
/// if it had something to do.
pub(super) fn clear_dropped(shelf: &Shelf) -> Result<bool, StoreError> {
    let spaces = &shelf.spaces;
    let Some(entry) = spaces.meta.prefix(format::DROP_PREFIX).next() else {
        return Ok(false);
    };
    let (record, what) = entry.into_inner().map_err(|e| shelf.failed(e))?;
    let id = format::id_at_end(&record)?;
    let mut batch = spaces.db.batch();
    let places: &[&Keyspace] = match &what[..] {
        STREAM => &[&spaces.log, &spaces.times, &spaces.dedup],
        INDEX => &[&spaces.index],
        _ => &[&spaces.tiles],
    };
    let mut room = shelf.settings.step_events_max.max(1);
    for place in places {
        for entry in place.prefix(id.to_be_bytes()).take(room) {
            batch.remove(place, entry.key().map_err(|e| shelf.failed(e))?);
            room -= 1;
        }
    }
    if room > 0 {
        batch.remove(&spaces.meta, record);
    }
    shelf.commit(&mut shelf.core(), batch)?;
    Ok(true)
}

/// Removes every tile of a set.
pub(super) fn drop_tiles(
    shelf: &Shelf,
    described: &Described,
    epoch: u64,
    set: usize,
) -> Result<(), StoreError> {
    let _upkeep = shelf.upkeep();
    let tiles = &shelf.spaces.tiles;
    let id = described.tile_sets[set].id;
    loop {
        let mut core = shelf.core();
        core.held(&described.spec.name, epoch)?;
        let mut batch = shelf.spaces.db.batch();
        let step = shelf.settings.step_events_max.max(1);
        for entry in tiles.prefix(id.to_be_bytes()).take(step) {
            batch.remove(tiles, entry.key().map_err(|e| shelf.failed(e))?);
        }
        let done = batch.len() < step;
        shelf.commit(&mut core, batch)?;
        if done {
            return Ok(());
        }
    }
}
