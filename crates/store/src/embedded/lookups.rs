//! Reads of many keys from many generations, their visits to memory under way
//! side by side.
//!
//! A row is found in two visits to memory, that of its slot and that of its
//! record, and each takes longer than all of the work on it. So keys come one
//! after another, and each goes three steps at a distance from those before and
//! after it: its slot is asked for; its slot is looked at and its record asked
//! for; its row is handed over. While rows are handed over, memory works for the
//! keys behind them.
//!
//! Generations whose rows lie side by side (`bundle.rs`) are looked up together.

use std::ops::Range;
use std::sync::Arc;

use super::base::{BaseFile, Candidate, KeyHash};
use super::bundle::{Bundle, BundledRows, Membership};
use super::bundling::{Bundles, OpenBundles};
use super::generation::EmbeddedGeneration;
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{Generation, RowSink};

/// Lines of memory that are under way for one step: several times as many as
/// a core waits for at once, and a quarter of what its first cache holds.
const LINES_UNDER_WAY: usize = 128;
/// Keys from one step to the next, at most.
const DISTANCE_MAX: usize = 32;
/// Files looked into in one pass over the keys.
const SOURCES_MAX: usize = 64;
/// Lines of a bundle's record that are asked for before it is looked at, at most.
const BUNDLED_LINES_MAX: usize = 32;

/// A generation that its base alone answers.
struct Taker<'a> {
    index: usize,
    base: &'a BaseFile,
    default_row: Option<&'a [u8]>,
    membership: Membership,
    /// Of a bundle's record those that are asked for for its row.
    lines: Range<usize>,
}

/// A file that is looked into.
struct Source<'a> {
    file: &'a BaseFile,
    /// Whose file it is; a base has one taker, and its records are rows.
    bundle: Option<&'a Bundle>,
    /// In the order of its members.
    takers: Range<usize>,
    /// Lines from a record's beginning that are always asked for.
    head_lines: usize,
    /// All lines that a look-up asks for.
    lines: usize,
}

pub(super) fn read_all(
    bundles: &Bundles,
    keys: &EntityKeys,
    generations: &[Arc<dyn Generation>],
    sink: &mut dyn RowSink,
) -> Result<(), StoreError> {
    let mut takers = Vec::with_capacity(generations.len());
    let mut bundled = 0;
    for (index, pinned) in generations.iter().enumerate() {
        let generation = pinned
            .as_any()
            .downcast_ref::<EmbeddedGeneration>()
            .ok_or_else(|| StoreError::foreign(pinned.as_ref()))?;
        let Some(base) = generation.unchanged() else {
            generation.read_changed(index, keys, sink)?;
            continue;
        };
        let membership = generation.membership();
        bundled += usize::from(membership != Membership::NONE);
        takers.push(Taker {
            index,
            base,
            default_row: generation.default_row(),
            membership,
            lines: 0..0,
        });
    }
    let open = (bundled >= 2).then(|| bundles.current());
    let sources = sources(&mut takers, open.as_deref());
    for sources in sources.chunks(SOURCES_MAX) {
        Lookups::new(keys, sources, &takers).run(sink)?;
    }
    Ok(())
}

/// The files that have the rows of all takers: a bundle where two or more are of
/// it, else their bases.
fn sources<'a>(takers: &mut [Taker<'a>], bundles: Option<&'a OpenBundles>) -> Vec<Source<'a>> {
    let mut sources = Vec::with_capacity(takers.len());
    if bundles.is_some() {
        takers.sort_unstable_by_key(|taker| taker.membership);
    }
    let mut first = 0;
    for alike in takers.chunk_by_mut(|a, b| a.membership.serial() == b.membership.serial()) {
        let all = first..first + alike.len();
        first = all.end;
        let bundle = bundles.and_then(|open| open.get(alike[0].membership.serial()));
        match bundle {
            Some(bundle) if alike.len() >= 2 => sources.push(Source::bundle(bundle, alike, all)),
            _ => sources.extend(alike.iter().zip(all).map(Source::base)),
        }
    }
    sources
}

impl<'a> Source<'a> {
    fn base((taker, position): (&Taker<'a>, usize)) -> Self {
        let head_lines = taker.base.record_lines();
        Self {
            file: taker.base,
            bundle: None,
            takers: position..position + 1,
            head_lines,
            lines: 1 + head_lines,
        }
    }

    /// Asks for the lines of the wanted rows, and of none between them.
    fn bundle(bundle: &'a Bundle, takers: &mut [Taker<'a>], positions: Range<usize>) -> Self {
        let head_lines = (bundle.lines(0).0 + 1).min(BUNDLED_LINES_MAX);
        let (mut next, mut lines) = (head_lines, 1 + head_lines);
        for taker in takers {
            let (start, last) = bundle.lines(taker.membership.member());
            let start = start.max(next);
            let room = BUNDLED_LINES_MAX.saturating_sub(lines);
            taker.lines = start..(last + 1).clamp(start, start + room);
            next = taker.lines.end.max(next);
            lines += taker.lines.len();
        }
        Self {
            file: bundle.file(),
            bundle: Some(bundle),
            takers: positions,
            head_lines,
            lines,
        }
    }
}

/// The keys of a read on their way through some files.
struct Lookups<'a> {
    keys: &'a EntityKeys,
    sources: &'a [Source<'a>],
    takers: &'a [Taker<'a>],
    /// Keys from one step to the next.
    distance: usize,
    /// Of the keys under way, in turn.
    hashes: [KeyHash; 2 * DISTANCE_MAX],
    /// Of each of them one a source.
    candidates: [Option<Candidate>; LINES_UNDER_WAY],
}

impl<'a> Lookups<'a> {
    fn new(keys: &'a EntityKeys, sources: &'a [Source<'a>], takers: &'a [Taker<'a>]) -> Self {
        // A source takes two lines or more, so the candidates have room.
        let lines: usize = sources.iter().map(|source| source.lines.max(2)).sum();
        let distance = (LINES_UNDER_WAY / lines.max(1)).clamp(1, DISTANCE_MAX);
        Self {
            keys,
            sources,
            takers,
            distance: distance.min(keys.len()),
            hashes: [KeyHash::default(); 2 * DISTANCE_MAX],
            candidates: [None; LINES_UNDER_WAY],
        }
    }

    fn run(mut self, sink: &mut dyn RowSink) -> Result<(), StoreError> {
        let (entities, distance) = (self.keys.len(), self.distance);
        let under_way = 2 * distance;
        // The place of the key that begins, which is that of the one that ends.
        let mut place = 0;
        for next in 0..entities + under_way {
            if let Some(ends) = next.checked_sub(under_way) {
                self.hand_over(ends, place, sink)?;
            }
            if let Some(between) = next.checked_sub(distance).filter(|at| *at < entities) {
                let half = match place < distance {
                    true => place + distance,
                    false => place - distance,
                };
                self.find(between, half);
            }
            if next < entities {
                self.begin(next, place);
            }
            place = if place + 1 == under_way { 0 } else { place + 1 };
        }
        Ok(())
    }

    /// Asks for the slots of an entity.
    #[inline]
    fn begin(&mut self, entity: usize, place: usize) {
        let Some(key) = self.keys.get(entity) else {
            return;
        };
        let hash = KeyHash::of(key);
        self.hashes[place] = hash;
        for source in self.sources {
            source.file.prefetch(hash);
        }
    }

    /// Looks at the slots, and asks for the records.
    #[inline]
    fn find(&mut self, entity: usize, place: usize) {
        if self.keys.get(entity).is_none() {
            return;
        }
        let hash = self.hashes[place];
        let candidates = &mut self.candidates[place * self.sources.len()..];
        for (source, candidate) in self.sources.iter().zip(candidates) {
            *candidate = source.file.candidate(hash);
            let Some(found) = *candidate else {
                continue;
            };
            source.file.prefetch_record(found, 0..source.head_lines);
            for taker in &self.takers[source.takers.clone()] {
                source.file.prefetch_record(found, taker.lines.clone());
            }
        }
    }

    /// Looks at the records, and gives the rows away.
    #[inline]
    fn hand_over(
        &self,
        entity: usize,
        place: usize,
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        let Some(key) = self.keys.get(entity) else {
            return Ok(());
        };
        let hash = self.hashes[place];
        let candidates = &self.candidates[place * self.sources.len()..];
        for (source, candidate) in self.sources.iter().zip(candidates) {
            let record = match candidate {
                Some(candidate) => source.file.row_from(*candidate, hash, key),
                None => Ok(None),
            };
            let takers = &self.takers[source.takers.clone()];
            let mut give = |taker: &Taker<'_>, row: Option<&[u8]>| {
                if let Some(row) = row.or(taker.default_row) {
                    sink.row(taker.index, entity, row);
                }
            };
            let Some(bundle) = source.bundle else {
                let row = record?;
                takers.iter().for_each(|taker| give(taker, row));
                continue;
            };
            let rows = match record {
                Ok(Some(record)) => bundle.rows(record),
                Ok(None) => Some(BundledRows::default()),
                Err(_) => None,
            };
            match rows {
                Some(rows) => give_bundled(takers, rows, give),
                None => {
                    bundle.set_damaged();
                    for taker in takers {
                        give(taker, taker.base.get(key)?);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Both are in the order of the members.
#[inline]
fn give_bundled(
    takers: &[Taker<'_>],
    rows: BundledRows<'_>,
    mut give: impl FnMut(&Taker<'_>, Option<&[u8]>),
) {
    let mut takers = takers.iter().peekable();
    for (member, row) in rows.enumerate() {
        if takers.peek().is_none() {
            return;
        }
        while let Some(taker) = takers.next_if(|t| t.membership.member() == member) {
            give(taker, row);
        }
    }
    // Of a key that no member has.
    takers.for_each(|taker| give(taker, None));
}
