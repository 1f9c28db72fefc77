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
use serde::{Deserialize, Serialize};

use crate::live::LiveTime;

/// What must stay of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    Everything,
    Bounded(Bounds),
}

/// An event stays that any of these needs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// How far behind the newest event RANGE frames begin.
    pub ranges: Vec<Interval>,
    /// By index: so many of the newest events of each of its keys.
    pub newest: BTreeMap<String, usize>,
}

/// What is there of a stream that events went from.
#[expect(missing_debug_implementations, reason = "it asks a function")]
#[derive(Clone, Copy)]
pub struct KeptEvents<'a> {
    /// From this event time on all are there.
    pub from: UtcMicros,
    /// From when on whoever looks finds the newest events of each key; `None`:
    /// always.
    pub newest_from: Option<UtcMicros>,
    /// By index: how many of them, if so many ever came.
    pub newest: &'a dyn Fn(&str) -> usize,
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

    /// Nothing at all.
    pub fn nothing() -> Self {
        Self::Bounded(Bounds::default())
    }

    /// Whether this keeps all that another needs, whatever the events are.
    pub fn covers(&self, other: &Self) -> bool {
        let (bounds, other) = match (self, other) {
            (Self::Everything, _) => return true,
            (Self::Bounded(_), Self::Everything) => return false,
            (Self::Bounded(bounds), Self::Bounded(other)) => (bounds, other),
        };
        let reaches = |range| bounds.ranges.iter().any(|own| is_as_long(own, range));
        let holds = |(index, events)| bounds.newest.get(index).is_some_and(|own| own >= events);
        other.ranges.iter().all(reaches) && other.newest.iter().all(holds)
    }

    /// Whether all that is needed for an answer at a time is still there.
    pub fn is_kept(&self, kept: KeptEvents<'_>, time: LiveTime) -> bool {
        let Self::Bounded(bounds) = self else {
            return false;
        };
        let is_late_enough = kept.newest_from.is_none_or(|from| time.last() >= from);
        let mut newest = bounds.newest.iter();
        let mut ranges = bounds.ranges.iter();
        newest.all(|(index, n)| is_late_enough && (kept.newest)(index) >= *n)
            && ranges.all(|range| range.before(time.as_of) >= kept.from)
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

    /// As `30 days behind the newest event, the newest 5 a key of customer_id`;
    /// `keys`: what is said of the keys of an index, by its name.
    pub fn in_words(&self, keys: impl Fn(&str) -> String) -> String {
        let Self::Bounded(bounds) = self else {
            return "everything".to_owned();
        };
        let longest = bounds.ranges.iter().min_by_key(|r| r.before(UtcMicros(0)));
        let range = longest.map(|range| format!("{range} behind the newest event"));
        let newest = bounds.newest.iter();
        let newest = newest.map(|(index, n)| format!("the newest {n} a key of {}", keys(index)));
        let parts: Vec<String> = range.into_iter().chain(newest).collect();
        match parts.is_empty() {
            true => "nothing".to_owned(),
            false => parts.join(", "),
        }
    }
}

/// Whether a range is as long as another whichever months they begin in.
fn is_as_long(own: &Interval, other: &Interval) -> bool {
    let micros = |range: &Interval, days_of_a_month: i64| {
        let days = i64::from(range.months) * days_of_a_month + i64::from(range.days);
        i128::from(days) * i128::from(MICROS_PER_DAY) + i128::from(range.micros)
    };
    match own.months == other.months {
        true => micros(own, 0) >= micros(other, 0),
        false => micros(own, 28) >= micros(other, 31),
    }
}

/// By the names of the indexes.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.in_words(str::to_owned))
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
    fn more_covers_less() {
        let month = Retention::range(Interval {
            months: 1,
            ..Interval::ZERO
        });
        let newest = |events| Retention::newest("customer", events);
        let cases = [
            (Retention::Everything, days(9).and(newest(3)), true),
            (days(9), Retention::Everything, false),
            (days(9), days(9), true),
            (days(9), days(10), false),
            (days(31), month.clone(), true),
            (days(30), month.clone(), false),
            (month.clone(), month.clone(), true),
            (month.clone(), days(28), true),
            (month, days(29), false),
            (newest(3), newest(2), true),
            (newest(2), newest(3), false),
            (newest(3), Retention::newest("device", 1), false),
            (newest(3), days(1), false),
            (days(9).and(newest(3)), days(2).and(newest(1)), true),
            (Retention::nothing(), days(1), false),
            (Retention::nothing(), Retention::nothing(), true),
        ];
        for (own, other, covers) in cases {
            assert_eq!(own.covers(&other), covers, "{own} / {other}");
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
