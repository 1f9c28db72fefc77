//! Frames of windows: which events of a key, sorted by time, an aggregate as of
//! t is over.
//!
//! `RANGE BETWEEN a PRECEDING AND b PRECEDING` is [t − a, t − b], closed at both
//! ends. `ROWS` ranks the events up to t from the newest: CURRENT ROW is rank 1,
//! n PRECEDING is rank n + 1.

use std::fmt;
use std::ops::Range;

use granary_model::interval::MICROS_PER_DAY;
use granary_model::{Interval, UtcMicros};

/// A frame that ends at or before t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    pub bounds: FrameBounds,
    /// Keeps the newest so many events.
    pub events_max: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameBounds {
    /// Distances from t; no start is UNBOUNDED, `Interval::ZERO` CURRENT ROW.
    Range {
        start: Option<Interval>,
        end: Interval,
    },
    /// `n PRECEDING`; no start is UNBOUNDED, 0 CURRENT ROW.
    Rows { start: Option<u64>, end: u64 },
}

impl Frame {
    /// All events up to t.
    pub const UNBOUNDED: Self = Self {
        bounds: FrameBounds::Range {
            start: None,
            end: Interval::ZERO,
        },
        events_max: None,
    };

    pub fn range(start: Option<Interval>, end: Interval) -> Self {
        let bounds = FrameBounds::Range { start, end };
        Self {
            bounds,
            events_max: None,
        }
    }

    pub fn rows(start: Option<u64>, end: u64) -> Self {
        let bounds = FrameBounds::Rows { start, end };
        Self {
            bounds,
            events_max: None,
        }
    }

    /// Whether what is in the frame is told by event times alone, so that spans of
    /// time can be put together to it.
    pub(crate) fn is_by_time(&self) -> bool {
        self.events_max.is_none() && matches!(self.bounds, FrameBounds::Range { .. })
    }

    /// The events of the frame as of t, of a key's events with these ascending
    /// times. `strictly_before` leaves out those at t; then a frame that ends
    /// before t keeps the end that it has.
    pub fn events(&self, times: &[i64], t: i64, strictly_before: bool) -> Range<usize> {
        Sweep::new(self, strictly_before).events(times, t)
    }

    /// The newest events of a range that may be counted; an inverted range is empty.
    fn newest(&self, frame: Range<usize>) -> Range<usize> {
        let max = self
            .events_max
            .map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let start = frame.start.min(frame.end);
        start.max(frame.end.saturating_sub(max))..frame.end
    }
}

/// A frame that is moved along the events of one key: each bound is sought from
/// where it was, so that ascending times cost one pass together.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    frame: Frame,
    strictly_before: bool,
    start: Option<Shift>,
    end: Shift,
    known: usize,
    first: usize,
    until: usize,
}

impl Sweep {
    pub(super) fn new(frame: &Frame, strictly_before: bool) -> Self {
        let (start, end) = match frame.bounds {
            FrameBounds::Range { start, end } => (start, end),
            FrameBounds::Rows { .. } => (None, Interval::ZERO),
        };
        Self {
            frame: *frame,
            strictly_before,
            start: start.map(Shift::new),
            end: Shift::new(end),
            known: 0,
            first: 0,
            until: 0,
        }
    }

    /// [`Frame::events`]; `times` are the same at each call.
    pub(super) fn events(&mut self, times: &[i64], t: i64) -> Range<usize> {
        self.known = match self.strictly_before {
            true => seek(times, self.known, |time| time < t),
            false => seek(times, self.known, |time| time <= t),
        };
        let frame = match self.frame.bounds {
            FrameBounds::Range { .. } => {
                if let Some(start) = self.start {
                    let from = start.before(t);
                    self.first = seek(times, self.first, |time| time < from);
                }
                let until = self.end.before(t);
                self.until = seek(times, self.until, |time| time <= until);
                self.first..self.until.min(self.known)
            }
            FrameBounds::Rows { start, end } => {
                let back =
                    |n: u64| (self.known).saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
                let first = start.map_or(0, |start| back(start.saturating_add(1)));
                first..back(end)
            }
        };
        self.frame.newest(frame)
    }

    /// The events that decided over the last answer: without one of them it
    /// could have been another.
    pub(super) fn deciding(&self, answer: &Range<usize>) -> Range<usize> {
        match self.frame.bounds {
            FrameBounds::Range { .. } => answer.clone(),
            FrameBounds::Rows { .. } => answer.start..self.known,
        }
    }

    /// The events that the last answer could have been made of if not all of
    /// them existed, where those that do not are not `seen`.
    pub(super) fn possible(&self, seen: impl Fn(usize) -> bool) -> Range<usize> {
        let (events, newest) = match self.frame.bounds {
            FrameBounds::Range { .. } => {
                let end = self.until.min(self.known);
                (self.first.min(end)..end, self.frame.events_max)
            }
            FrameBounds::Rows { start, end } => {
                let counted = start.map(|start| start.saturating_add(1));
                let max = self.frame.events_max.map(|max| max.saturating_add(end));
                let newest = counted.into_iter().chain(max).min();
                (0..self.known, newest)
            }
        };
        let Some(mut wanted) = newest else {
            return events;
        };
        let mut start = events.end;
        while start > events.start && wanted > 0 {
            start -= 1;
            wanted -= u64::from(seen(start));
        }
        start..events.end
    }
}

/// How many of the ascending times are `before` a bound, sought from a guess in
/// steps that double.
fn seek(times: &[i64], guess: usize, before: impl Fn(i64) -> bool) -> usize {
    let mut step = 1;
    let (low, high) = if guess > 0 && !before(times[guess - 1]) {
        let mut high = guess;
        while high >= step && !before(times[high - step]) {
            high -= step;
            step *= 2;
        }
        (high.saturating_sub(step), high)
    } else {
        let mut low = guess;
        while times.get(low + step - 1).is_some_and(|time| before(*time)) {
            low += step;
            step *= 2;
        }
        (low, times.len().min(low + step - 1))
    };
    low + times[low..high].partition_point(|time| before(*time))
}

/// An interval to be taken off many times.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shift {
    Micros(i64),
    /// With months, whose lengths differ.
    Calendar(Interval),
}

impl Shift {
    pub(super) fn new(interval: Interval) -> Self {
        let days = i128::from(interval.days) * i128::from(MICROS_PER_DAY);
        match i64::try_from(days + i128::from(interval.micros)) {
            Ok(micros) if interval.months == 0 => Self::Micros(micros),
            _ => Self::Calendar(interval),
        }
    }

    /// [`Interval::before`].
    pub(super) fn before(self, t: i64) -> i64 {
        match self {
            Self::Micros(micros) => t.saturating_sub(micros),
            Self::Calendar(interval) => interval.before(UtcMicros(t)).0,
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, start, end) = match self.bounds {
            FrameBounds::Range { start, end } => (
                "RANGE",
                start.map(|start| preceding(&start, start == Interval::ZERO)),
                preceding(&end, end == Interval::ZERO),
            ),
            FrameBounds::Rows { start, end } => (
                "ROWS",
                start.map(|start| preceding(&start, start == 0)),
                preceding(&end, end == 0),
            ),
        };
        let start = start.unwrap_or_else(|| "UNBOUNDED PRECEDING".to_owned());
        write!(f, "{units} BETWEEN {start} AND {end}")?;
        match self.events_max {
            Some(max) => write!(f, " MAX EVENTS {max}"),
            None => Ok(()),
        }
    }
}

fn preceding(distance: &dyn fmt::Display, is_none: bool) -> String {
    match is_none {
        true => "CURRENT ROW".to_owned(),
        false => format!("{distance} PRECEDING"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: [i64; 6] = [10, 20, 20, 30, 40, 40];

    fn events(frame: Frame, t: i64) -> [Range<usize>; 2] {
        [false, true].map(|strictly| frame.events(&TIMES, t, strictly))
    }

    #[test]
    fn a_range_is_closed_at_both_ends() {
        let micros = Interval::from_micros;
        let frame = Frame::range(Some(micros(20)), Interval::ZERO);
        assert_eq!(events(frame, 40), [1..6, 1..4]);
        assert_eq!(events(frame, 41), [3..6, 3..6]);
        assert_eq!(events(frame, 9), [0..0, 0..0]);
        let between = Frame::range(Some(micros(20)), micros(10));
        assert_eq!(events(between, 40), [1..4, 1..4]);
        let inverted = Frame::range(Some(micros(5)), micros(15));
        assert!(events(inverted, 40).iter().all(Range::is_empty));
    }

    #[test]
    fn months_are_calendar_arithmetic() {
        let day = |text: &str| text.parse::<UtcMicros>().unwrap().0;
        let times = [day("2026-02-27"), day("2026-02-28"), day("2026-03-31")];
        let month = Interval {
            months: 1,
            ..Interval::ZERO
        };
        let frame = Frame::range(Some(month), Interval::ZERO);
        assert_eq!(frame.events(&times, day("2026-03-31"), false), 1..3);
    }

    #[test]
    fn rows_rank_from_the_newest() {
        assert_eq!(events(Frame::rows(Some(0), 0), 40), [5..6, 3..4]);
        assert_eq!(events(Frame::rows(Some(2), 1), 40), [3..5, 1..3]);
        assert_eq!(events(Frame::rows(None, 1), 20), [0..2, 0..0]);
        assert_eq!(events(Frame::rows(Some(100), 0), 20), [0..3, 0..1]);
        assert!(Frame::rows(Some(1), 3).events(&TIMES, 40, false).is_empty());
    }

    #[test]
    fn a_bound_is_found_from_any_guess() {
        let times: Vec<i64> = (0..70).map(|n| n / 3).collect();
        for bound in -1..26 {
            let expected = times.partition_point(|time| *time < bound);
            for guess in 0..=times.len() {
                let found = seek(&times, guess, |time| time < bound);
                assert_eq!(found, expected, "{bound} from {guess}");
            }
        }
        assert_eq!(seek(&[], 0, |_| true), 0);
    }

    #[test]
    fn a_shift_is_the_interval_to_the_ends_of_time() {
        let intervals = [
            Interval::ZERO,
            Interval::from_micros(i64::MAX),
            Interval {
                days: i32::MAX,
                ..Interval::ZERO
            },
            Interval {
                months: 1,
                days: 2,
                micros: 3,
            },
        ];
        for interval in intervals {
            for t in [i64::MIN, -1, 0, 1_772_236_800_000_000, i64::MAX] {
                let expected = interval.before(UtcMicros(t)).0;
                assert_eq!(Shift::new(interval).before(t), expected, "{t} - {interval}");
            }
        }
    }

    #[test]
    fn a_maximum_keeps_the_newest() {
        let frame = Frame {
            events_max: Some(2),
            ..Frame::UNBOUNDED
        };
        assert_eq!(events(frame, 30), [2..4, 1..3]);
        assert_eq!(events(frame, 10), [0..1, 0..0]);
    }
}
