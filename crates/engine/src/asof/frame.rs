//! Frames of windows: which events of a key, sorted by time, an aggregate as of
//! t is over.
//!
//! `RANGE BETWEEN a PRECEDING AND b PRECEDING` is [t − a, t − b], closed at both
//! ends. `ROWS` ranks the events up to t from the newest: CURRENT ROW is rank 1,
//! n PRECEDING is rank n + 1.

use std::fmt;
use std::ops::Range;

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

    /// The events of the frame as of t, of a key's events with these ascending
    /// times. `strictly_before` leaves out those at t; then a frame that ends
    /// before t keeps the end that it has.
    pub fn events(&self, times: &[i64], t: i64, strictly_before: bool) -> Range<usize> {
        let known = match strictly_before {
            true => times.partition_point(|time| *time < t),
            false => times.partition_point(|time| *time <= t),
        };
        let frame = match self.bounds {
            FrameBounds::Range { start, end } => {
                let first = start.map_or(0, |start| {
                    let from = start.before(UtcMicros(t)).0;
                    times.partition_point(|time| *time < from)
                });
                let until = end.before(UtcMicros(t)).0;
                first..times.partition_point(|time| *time <= until).min(known)
            }
            FrameBounds::Rows { start, end } => {
                let back = |n: u64| known.saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
                let first = start.map_or(0, |start| back(start.saturating_add(1)));
                first..back(end)
            }
        };
        self.newest(frame)
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

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bounds {
            FrameBounds::Range { start, end } => {
                f.write_str("RANGE ")?;
                match start {
                    None => f.write_str("UNBOUNDED")?,
                    Some(start) => write!(f, "{start}")?,
                }
                write!(f, " TO {end}")?;
            }
            FrameBounds::Rows { start, end } => {
                f.write_str("ROWS ")?;
                match start {
                    None => f.write_str("UNBOUNDED")?,
                    Some(start) => write!(f, "{start}")?,
                }
                write!(f, " TO {end}")?;
            }
        }
        match self.events_max {
            Some(max) => write!(f, " MAX {max}"),
            None => Ok(()),
        }
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
    fn a_maximum_keeps_the_newest() {
        let frame = Frame {
            events_max: Some(2),
            ..Frame::UNBOUNDED
        };
        assert_eq!(events(frame, 30), [2..4, 1..3]);
        assert_eq!(events(frame, 10), [0..1, 0..0]);
    }
}
