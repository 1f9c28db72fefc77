//! Multiples of an interval after the epoch: when a view is refreshed.
//!
//! Every process, and a training set that asks what was served when, comes to
//! the same times.

use super::Interval;
use crate::UtcMicros;

impl Interval {
    /// This interval, `count` times over; saturates.
    #[must_use]
    pub fn times(&self, count: i32) -> Self {
        Self {
            months: self.months.saturating_mul(count),
            days: self.days.saturating_mul(count),
            micros: self.micros.saturating_mul(i64::from(count)),
        }
    }

    /// The newest multiple after the epoch that is not after `t`; `None` for an
    /// interval that does not get on, or before its first multiple.
    pub fn newest_multiple(&self, t: UtcMicros) -> Option<UtcMicros> {
        let at = |count: i32| self.times(count).after(UtcMicros::default());
        if at(1) <= UtcMicros::default() {
            return None;
        }
        // Multiples ascend: the last one that is not later, by halving.
        let (mut reached, mut beyond) = (0, i32::MAX);
        while beyond - reached > 1 {
            let middle = reached + (beyond - reached) / 2;
            match at(middle) <= t {
                true => reached = middle,
                false => beyond = middle,
            }
        }
        (at(reached) <= t).then(|| at(reached))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> UtcMicros {
        text.parse().unwrap()
    }

    #[test]
    fn refreshes_are_multiples_after_the_epoch() {
        let every = |months, days, hours: i64| Interval {
            months,
            days,
            micros: hours * 3_600_000_000,
        };
        for (interval, now, expected) in [
            (every(0, 1, 0), "2026-03-05T13:00:00Z", Some("2026-03-05")),
            (every(0, 1, 0), "2026-03-05", Some("2026-03-05")),
            (
                every(0, 0, 6),
                "2026-03-05T13:00:00Z",
                Some("2026-03-05T12:00:00Z"),
            ),
            (every(1, 0, 0), "2026-03-05", Some("2026-03-01")),
            (every(12, 0, 0), "2026-03-05", Some("2026-01-01")),
            (every(0, 7, 0), "1970-01-09", Some("1970-01-08")),
            (every(0, 7, 0), "1970-01-02", Some("1970-01-01")),
            (every(0, 7, 0), "1969-12-31", None),
            (Interval::ZERO, "2026-03-05", None),
            (every(0, -1, 0), "2026-03-05", None),
        ] {
            let found = interval.newest_multiple(time(now));
            assert_eq!(found, expected.map(time), "{interval} {now}");
        }
    }

    #[test]
    fn the_newest_multiple_is_that_of_counting_up() {
        let every = Interval {
            months: 1,
            days: 3,
            micros: 7,
        };
        for day in 0..2_000 {
            let now = UtcMicros(day * crate::interval::MICROS_PER_DAY);
            let counted = (0..).map(|n| every.times(n).after(UtcMicros(0)));
            let counted = counted.take_while(|t| *t <= now).last();
            assert_eq!(every.newest_multiple(now), counted, "{now}");
        }
    }
}
