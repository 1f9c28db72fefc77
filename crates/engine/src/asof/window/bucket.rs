//! The aggregates of one range of keys and times, from their sorted events.

use std::borrow::Cow;
use std::ops::Range;

use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::{interleave, take};
use datafusion::error::{DataFusionError, Result};

use super::anew::Asked;
use super::program::{Anew, Program, SetProgram};
use super::sorted::Sorted;
use crate::asof::frame::{Frame, Sweep};
use crate::asof::kernels::RowRange;
use crate::asof::kernels::tree::{Part, Tree};
use crate::asof::spine::Spine;

/// Groups, and all of their positions or a part of one group's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) groups: Range<u32>,
    pub(super) positions: Range<usize>,
}

impl Piece {
    pub(super) fn of(spine: &Spine, groups: Range<u32>) -> Self {
        let start = spine.positions(groups.start).start;
        let end = spine.positions(groups.end - 1).end;
        Self {
            groups,
            positions: start..end,
        }
    }

    /// Two pieces that need less memory; `None`: there are none, since even one
    /// position of one key needs all of its events.
    pub(super) fn halves(&self, program: &Program, spine: &Spine) -> Option<(Self, Self)> {
        if self.groups.len() > 1 {
            let middle = self.groups.start + self.groups.len() as u32 / 2;
            let first = Self::of(spine, self.groups.start..middle);
            return Some((first, Self::of(spine, middle..self.groups.end)));
        }
        if self.positions.len() < 2 || program.reach.is_none() {
            return None;
        }
        let middle = self.positions.start + self.positions.len() / 2;
        let half = |positions| Self {
            groups: self.groups.clone(),
            positions,
        };
        Some((
            half(self.positions.start..middle),
            half(middle..self.positions.end),
        ))
    }

    /// Positions of a group that are in it.
    fn positions(&self, spine: &Spine, group: u32) -> Range<usize> {
        let all = spine.positions(group);
        all.start.max(self.positions.start)..all.end.min(self.positions.end)
    }
}

/// A column an output, a row a position of the piece.
pub(super) fn aggregate(
    program: &Program,
    spine: &Spine,
    piece: &Piece,
    sorted: &Sorted,
) -> Result<Vec<ArrayRef>> {
    let mut outputs = vec![None; program.output_count];
    for set in &program.sets {
        let sorted = match &set.filter {
            Some(filter) => {
                let events = &sorted.events;
                let mask = filter.evaluate(events)?.into_array(events.num_rows())?;
                Cow::Owned(sorted.filtered(mask.as_boolean())?)
            }
            None => Cow::Borrowed(sorted),
        };
        let bucket = Bucket {
            program,
            spine,
            piece,
            sorted: &sorted,
        };
        bucket.aggregate(set, &mut outputs)?;
    }
    let computed = outputs.into_iter().collect::<Option<Vec<_>>>();
    computed.ok_or_else(|| DataFusionError::Internal("an aggregate was not computed".into()))
}

struct Bucket<'a> {
    program: &'a Program,
    spine: &'a Spine,
    piece: &'a Piece,
    sorted: &'a Sorted,
}

impl Bucket<'_> {
    fn aggregate(&self, set: &SetProgram, outputs: &mut [Option<ArrayRef>]) -> Result<()> {
        if !set.plain.is_empty() {
            let ranges: Vec<Vec<RowRange>> = set.frames.iter().map(|f| self.ranges(f)).collect();
            set.plain
                .evaluate(&self.sorted.events, &ranges, |places, values| {
                    for place in places {
                        outputs[*place] = Some(values.clone());
                    }
                })?;
        }
        for anew in &set.anew {
            let (asked, which) = self.all(anew);
            let which = UInt32Array::from(which);
            let repeat = |_: Option<&ArrayRef>, values: &ArrayRef| Ok(take(values, &which, None)?);
            self.evaluate_anew(anew, &asked, repeat, outputs)?;
        }
        if set.late.is_empty() {
            return Ok(());
        }
        let created = self.sorted.created.iter().copied().map(Created).collect();
        let created = Tree::new(created);
        for late in set.late.iter().filter(|late| !late.calls.is_empty()) {
            let (asked, positions) = self.late(&late.frame, &created);
            if asked.is_empty() {
                continue;
            }
            let mut rows: Vec<(usize, usize)> = (0..self.piece.positions.len())
                .map(|position| (0, position))
                .collect();
            for (row, position) in positions.into_iter().enumerate() {
                rows[position] = (1, row);
            }
            let merge = |plain: Option<&ArrayRef>, values: &ArrayRef| {
                let plain = plain.map_or(values.as_ref(), AsRef::as_ref);
                Ok(interleave(&[plain, values.as_ref()], &rows)?)
            };
            self.evaluate_anew(late, &asked, merge, outputs)?;
        }
        Ok(())
    }

    /// Calls `place` with the column of an output, if it has one, and its new values.
    fn evaluate_anew(
        &self,
        anew: &Anew,
        asked: &[Asked],
        place: impl Fn(Option<&ArrayRef>, &ArrayRef) -> Result<ArrayRef>,
        outputs: &mut [Option<ArrayRef>],
    ) -> Result<()> {
        let mut results = Vec::new();
        let strictly_before = self.program.strictly_before;
        anew.evaluate(self.sorted, asked, strictly_before, |places, values| {
            results.push((places.to_vec(), values));
        })?;
        for (places, values) in results {
            for at in places {
                let placed = place(outputs[at].as_ref(), &values)?;
                outputs[at] = Some(placed);
            }
        }
        Ok(())
    }

    /// Each group of the piece: its events, and its positions.
    fn groups(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        self.piece.groups.clone().enumerate().map(|(n, group)| {
            let positions = self.piece.positions(self.spine, group);
            (self.sorted.group(n), positions)
        })
    }

    /// The events of a frame as of each position.
    fn ranges(&self, frame: &Frame) -> Vec<RowRange> {
        let mut ranges = Vec::with_capacity(self.piece.positions.len());
        for (events, positions) in self.groups() {
            let start = events.start as u32;
            let times = &self.sorted.times[events];
            let mut sweep = Sweep::new(frame, self.program.strictly_before);
            ranges.extend(self.spine.times()[positions].iter().map(|t| {
                let events = sweep.events(times, *t);
                start + events.start as u32..start + events.end as u32
            }));
        }
        ranges
    }

    /// What is asked as of all positions, and which of it each position is:
    /// rows of one key and time are asked once.
    fn all(&self, anew: &Anew) -> (Vec<Asked>, Vec<u32>) {
        let mut asked = Vec::new();
        let mut which = Vec::with_capacity(self.piece.positions.len());
        // What a WHERE that reads t will leave is not known here.
        let all_seen = anew.filter.is_none();
        for (events, positions) in self.groups() {
            let times = &self.sorted.times[events.clone()];
            let mut sweep = Sweep::new(&anew.frame, self.program.strictly_before);
            let mut last = None;
            for t in &self.spine.times()[positions] {
                if last != Some(*t) {
                    sweep.events(times, *t);
                    asked.push(self.asked(&sweep, events.start, *t, all_seen));
                    last = Some(*t);
                }
                which.push(asked.len() as u32 - 1);
            }
        }
        (asked, which)
    }

    /// What is asked as of the positions in whose frame some event was not known
    /// yet, and which those are.
    fn late(&self, frame: &Frame, created: &Tree<Created>) -> (Vec<Asked>, Vec<usize>) {
        let mut asked = Vec::new();
        let mut late = Vec::new();
        for (events, positions) in self.groups() {
            let times = &self.sorted.times[events.clone()];
            let mut sweep = Sweep::new(frame, self.program.strictly_before);
            for position in positions {
                let t = self.spine.times()[position];
                let answer = sweep.events(times, t);
                let deciding = sweep.deciding(&answer);
                let start = events.start as u32;
                let rows = start + deciding.start as u32..start + deciding.end as u32;
                if created.combine(&rows).0 > t {
                    asked.push(self.asked(&sweep, events.start, t, true));
                    late.push(position - self.piece.positions.start);
                }
            }
        }
        (asked, late)
    }

    /// `all_seen`: events that were created up to t are all that there are.
    fn asked(&self, sweep: &Sweep, start: usize, t: i64, all_seen: bool) -> Asked {
        let created = &self.sorted.created;
        let seen =
            |row: usize| all_seen && created.get(start + row).is_none_or(|created| *created <= t);
        let possible = sweep.possible(seen);
        Asked {
            t,
            events: start + possible.start..start + possible.end,
        }
    }
}

/// The greatest created time.
#[derive(Debug, Clone, Copy)]
struct Created(i64);

impl Part for Created {
    const EMPTY: Self = Self(i64::MIN);

    fn then(self, next: Self) -> Self {
        Self(self.0.max(next.0))
    }
}
