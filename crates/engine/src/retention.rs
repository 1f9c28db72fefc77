//! How much of a stream its live views need.
//!
//! A RANGE frame needs the events of its length behind the read; reads are as
//! of the newest event or later, so what is kept is counted back from the
//! newest event time and no clock has a say. A ROWS frame needs the newest
//! events of each key. An unbounded frame needs everything.
//!
//! This module knows nothing of where events are kept.

use std::collections::BTreeMap;
use std::fmt;

use granary_model::interval::MICROS_PER_DAY;
use granary_model::{Interval, UtcMicros};

/// What must stay of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retention {
    Everything,
    Bounded(Bounds),
}

/// An event stays that any of these needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// How far behind the newest event RANGE frames begin.
    pub ranges: Vec<Interval>,
    /// By index: so many of the newest events of each of its keys.
    pub newest: BTreeMap<String, usize>,
}

/// A month is up to three days shorter than another, so that a frame of months
/// that ends later may begin earlier.
const MONTHS_DIFFER_MICROS: i64 = 3 * MICROS_PER_DAY;

impl Retention {
    /// The events at most so far behind the newest.
    pub fn range(range: Interval) -> Self {
        Self::Bounded(Bounds {
            ranges: vec![range],
            newest: BTreeMap::new(),
        })
    }

    /// The newest `events` events of each key of an index.
    pub fn newest(index: &str, events: usize) -> Self {
        Self::Bounded(Bounds {
            ranges: Vec::new(),
            newest: BTreeMap::from([(index.to_owned(), events)]),
        })
    }

    /// What either needs.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (Self::Bounded(mut bounds), Self::Bounded(other)) = (self, other) else {
            return Self::Everything;
        };
        for range in other.ranges {
            if !bounds.ranges.contains(&range) {
                bounds.ranges.push(range);
            }
        }
        for (index, events) in other.newest {
            let most = bounds.newest.entry(index).or_default();
            *most = events.max(*most);
        }
        Self::Bounded(bounds)
    }

    /// The first event time that a RANGE frame may reach, by the newest event
    /// time of the stream; `None` where there is no such bound.
    pub fn oldest(&self, newest: UtcMicros) -> Option<UtcMicros> {
        let Self::Bounded(bounds) = self else {
            return None;
        };
        let begin = |range: &Interval| {
            let begin = range.before(newest);
            match range.months {
                0 => begin,
                _ => UtcMicros(begin.0.saturating_sub(MONTHS_DIFFER_MICROS)),
            }
        };
        bounds.ranges.iter().map(begin).min()
    }
}

/// As `30 days behind the newest event, the newest 5 a key of customer`.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Bounded(bounds) = self else {
            return f.write_str("everything");
        };
        let longest = bounds.ranges.iter().min_by_key(|r| r.before(UtcMicros(0)));
        let range = longest.map(|range| format!("{range} behind the newest event"));
        let newest = bounds.newest.iter();
        let newest = newest.map(|(index, n)| format!("the newest {n} a key of {index}"));
        let parts: Vec<String> = range.into_iter().chain(newest).collect();
        match parts.is_empty() {
            true => f.write_str("nothing"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(days: i32) -> Retention {
        Retention::range(Interval {
            days,
            ..Interval::ZERO
        })
    }

    fn at(text: &str) -> UtcMicros {
        text.parse().unwrap_or(UtcMicros::MIN)
    }

    #[test]
    fn the_longest_range_counts_and_months_with_care() {
        let months = Retention::range(Interval {
            months: 1,
            ..Interval::ZERO
        });
        let cases = [
            (days(7), Some("2025-03-24")),
            (days(7).and(days(30)), Some("2025-03-01")),
            (days(7).and(months), Some("2025-02-25")),
            (
                days(7).and(Retention::newest("customer", 3)),
                Some("2025-03-24"),
            ),
            (Retention::newest("customer", 3), None),
            (days(7).and(Retention::Everything), None),
        ];
        for (retention, oldest) in cases {
            let found = retention.oldest(at("2025-03-31"));
            assert_eq!(found, oldest.map(at), "{retention}");
        }
    }

    #[test]
    fn retention_is_told_in_words() {
        let newest = Retention::newest("customer", 3).and(Retention::newest("customer", 5));
        let both = days(7).and(newest).and(days(30));
        let expected = "30 days behind the newest event, the newest 5 a key of customer";
        assert_eq!(both.to_string(), expected);
    }
}
