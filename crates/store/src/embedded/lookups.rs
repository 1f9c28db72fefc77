//! Reads of many keys from many generations, their visits to memory under way
//! side by side.
//!
//! A row is found in two visits to memory, that of its slot and that of its
//! record, and each takes longer than all of the work on it. So keys go in
//! groups, three of them under way, each a step before the next: its slots are
//! asked for; they are looked at and its records asked for; its rows are handed
//! over. While rows are handed over, memory works for the groups behind them.
//! What is asked for is asked for in a row, with no other work between: a visit
//! begins with the look-up of an address, and a core has those of its next few
//! hundred instructions under way at once.
//!
//! Generations whose rows lie side by side (`bundle.rs`) are looked up together.

use std::ops::Range;
use std::sync::Arc;

use super::base::{BaseFile, Candidate, KeyHash, LINE_BYTES};
use super::bundle::{Bundle, BundledRows, Membership};
use super::bundling::{Bundles, OpenBundles};
use super::generation::EmbeddedGeneration;
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{Generation, RowSink};

/// Lines of memory that are under way for one step: several times as many as
/// a core waits for at once, and a quarter of what its first cache holds.
const LINES_UNDER_WAY: usize = 128;
/// Keys that take a step together, at most.
const GROUP_MAX: usize = 32;
/// Groups under way: one a step.
const GROUPS: usize = 3;
/// Files looked into in one pass over the keys.
const SOURCES_MAX: usize = 64;
/// Bytes of a bundle's record that are asked for before it is looked at, at most.
const ASKED_BYTES_MAX: usize = 32 * LINE_BYTES;

/// A generation that its base alone answers.
struct Taker<'a> {
    index: usize,
    base: &'a BaseFile,
    default_row: Option<&'a [u8]>,
    membership: Membership,
    /// The bytes of a bundle's record to ask for on behalf of its row and of those
    /// right behind it.
    asked: Range<usize>,
}

/// A file that is looked into.
struct Source<'a> {
    file: &'a BaseFile,
    /// Whose file it is; a base has one taker, and its records are rows.
    bundle: Option<&'a Bundle>,
    /// In the order of its members.
    takers: Range<usize>,
    /// Bytes from a record's beginning that are always asked for.
    head: usize,
    /// All bytes of a record that are asked for, by takers too.
    asked: usize,
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
            asked: 0..0,
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
        let head = taker.base.usual_bytes();
        Self {
            file: taker.base,
            bundle: None,
            takers: position..position + 1,
            head,
            asked: head,
        }
    }

    fn bundle(bundle: &'a Bundle, takers: &mut [Taker<'a>], positions: Range<usize>) -> Self {
        let rows = takers.iter_mut().map(|taker| {
            let usual = bundle.usual(taker.membership.member());
            (usual, &mut taker.asked)
        });
        let (head, asked) = ask_for(bundle.usual(0).start, rows);
        Self {
            file: bundle.file(),
            bundle: Some(bundle),
            takers: positions,
            head,
            asked,
        }
    }

    /// Lines of memory that a look-up visits, about.
    fn lines(&self) -> usize {
        2 + self.asked / LINE_BYTES
    }
}

/// What to ask for of a record: some rows, in their order, and of what lies
/// between them less than a line. A row's part holds those right behind it too,
/// whose own is empty, and the head those right behind it. Gives the head's end,
/// and how many bytes are asked for.
fn ask_for<'t>(
    head: usize,
    rows: impl Iterator<Item = (Range<usize>, &'t mut Range<usize>)>,
) -> (usize, usize) {
    let mut head = 0..head.min(ASKED_BYTES_MAX);
    let mut asked = head.end;
    let mut last = &mut head;
    for (row, of_row) in rows {
        if row.start >= last.end + LINE_BYTES {
            *of_row = row.start..row.start;
            last = of_row;
        }
        let more = row.end.saturating_sub(last.end);
        let more = more.min(ASKED_BYTES_MAX - asked);
        last.end += more;
        asked += more;
    }
    (head.end, asked)
}

/// The keys of a read on their way through some files.
struct Lookups<'a> {
    keys: &'a EntityKeys,
    sources: &'a [Source<'a>],
    takers: &'a [Taker<'a>],
    /// Keys that take a step together.
    group: usize,
    /// Of the keys under way.
    hashes: Vec<KeyHash>,
    /// Of each of them one a source.
    candidates: Vec<Option<Candidate>>,
}

impl<'a> Lookups<'a> {
    fn new(keys: &'a EntityKeys, sources: &'a [Source<'a>], takers: &'a [Taker<'a>]) -> Self {
        let lines: usize = sources.iter().map(Source::lines).sum();
        let group = (LINES_UNDER_WAY / lines.max(1)).clamp(1, GROUP_MAX);
        let places = keys.len().min(GROUPS * group);
        Self {
            keys,
            sources,
            takers,
            group,
            hashes: vec![KeyHash::default(); places],
            candidates: vec![None; places * sources.len()],
        }
    }

    fn run(mut self, sink: &mut dyn RowSink) -> Result<(), StoreError> {
        let groups = self.keys.len().div_ceil(self.group);
        for step in 0..groups + GROUPS - 1 {
            let earlier = |steps| step.checked_sub(steps).filter(|group| *group < groups);
            if let Some(group) = earlier(0) {
                self.begin(group);
            }
            if let Some(group) = earlier(1) {
                self.find(group);
            }
            if let Some(group) = earlier(2) {
                self.hand_over(group, sink)?;
            }
        }
        Ok(())
    }

    /// The keys of a group that are not NULL: each with its entity and its place
    /// among those under way.
    #[inline]
    fn members(&self, group: usize) -> impl Iterator<Item = (usize, usize, &'a [u8])> + use<'a> {
        let keys = self.keys;
        let first = group * self.group;
        let entities = first..(first + self.group).min(keys.len());
        let places = group % GROUPS * self.group..;
        let members = entities.zip(places);
        members.filter_map(move |(entity, place)| Some((entity, place, keys.get(entity)?)))
    }

    /// Asks for the slots.
    #[inline]
    fn begin(&mut self, group: usize) {
        for (_, place, key) in self.members(group) {
            let hash = KeyHash::of(key);
            self.hashes[place] = hash;
            for source in self.sources {
                source.file.prefetch(hash);
            }
        }
    }

    /// Looks at the slots, then asks for the records: for the first line of each
    /// before the rest, so that their addresses are looked up side by side.
    #[inline]
    fn find(&mut self, group: usize) {
        let width = self.sources.len();
        for (_, place, _) in self.members(group) {
            let hash = self.hashes[place];
            let candidates = &mut self.candidates[place * width..];
            for (source, candidate) in self.sources.iter().zip(candidates) {
                *candidate = source.file.candidate(hash);
            }
        }
        self.each_found(group, |source, found| {
            source.file.prefetch_record(found, 0..1);
        });
        self.each_found(group, |source, found| {
            source.file.prefetch_record(found, 0..source.head);
            for taker in &self.takers[source.takers.clone()] {
                source.file.prefetch_record(found, taker.asked.clone());
            }
        });
    }

    #[inline]
    fn each_found(&self, group: usize, each: impl Fn(&Source<'a>, Candidate)) {
        for (_, place, _) in self.members(group) {
            let candidates = &self.candidates[place * self.sources.len()..];
            for (source, candidate) in self.sources.iter().zip(candidates) {
                if let Some(found) = *candidate {
                    each(source, found);
                }
            }
        }
    }

    /// Looks at the records, and gives the rows away.
    #[inline]
    fn hand_over(&self, group: usize, sink: &mut dyn RowSink) -> Result<(), StoreError> {
        let mut members = self.members(group);
        members.try_for_each(|member| self.hand_over_one(member, sink))
    }

    #[inline]
    fn hand_over_one(
        &self,
        (entity, place, key): (usize, usize, &[u8]),
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever rows are wanted, each byte of the head and of them is asked for,
    /// once, and less than a line between two of them.
    #[test]
    fn wanted_rows_are_asked_for() {
        let head = 40;
        let ends = [90, 153, 300, 301, 400, 464, 600];
        let starts = [head].into_iter().chain(ends);
        let rows: Vec<_> = starts.zip(ends).map(|(start, end)| start..end).collect();
        for wanted in 0..1_u32 << rows.len() {
            let is_wanted = |at: &usize| wanted >> at & 1 == 1;
            let wanted: Vec<_> = (0..rows.len()).filter(is_wanted).collect();
            let mut asked = vec![0..0; wanted.len()];
            let usual = wanted.iter().map(|at| rows[*at].clone());
            let (of_all, bytes) = ask_for(head, usual.zip(&mut asked));
            asked.push(0..of_all);
            let count = |byte: usize| asked.iter().filter(|asked| asked.contains(&byte)).count();
            let is_needed = |byte| byte < head || wanted.iter().any(|at| rows[*at].contains(&byte));
            let mut beside = 0;
            for byte in 0..700 {
                assert!(count(byte) <= 1, "{wanted:?}: {byte}");
                beside = match is_needed(byte) {
                    true => 0,
                    false => beside + count(byte),
                };
                assert!(!is_needed(byte) || count(byte) == 1, "{wanted:?}: {byte}");
                assert!(beside < LINE_BYTES, "{wanted:?}: {byte}");
            }
            assert_eq!(bytes, (0..700).map(count).sum::<usize>());
        }
    }

    #[test]
    fn a_long_record_is_not_asked_for_as_a_whole() {
        let (mut first, mut second) = (0..0, 0..0);
        let rows = [(8..5_000, &mut first), (9_000..9_001, &mut second)];
        assert_eq!(
            ask_for(8, rows.into_iter()),
            (ASKED_BYTES_MAX, ASKED_BYTES_MAX)
        );
        assert!(first.is_empty() && second.is_empty());
    }
}
