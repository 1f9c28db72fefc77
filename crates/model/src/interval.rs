//! SQL intervals: months, days and microseconds, each kept apart.
//!
//! Months and years are calendar arithmetic on an instant (2026-03-31 less one
//! month is 2026-02-28), days are 24 hours, since all times are UTC.

use std::fmt;

use chrono::{DateTime, Months};
use serde::{Deserialize, Serialize};

use crate::UtcMicros;

pub const MICROS_PER_DAY: i64 = 86_400_000_000;

/// A length of time, as SQL writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

impl Interval {
    pub const ZERO: Self = Self {
        months: 0,
        days: 0,
        micros: 0,
    };

    pub fn from_micros(micros: i64) -> Self {
        Self {
            micros,
            ..Self::ZERO
        }
    }

    /// `t` less this interval; saturates at the ends of time.
    pub fn before(&self, t: UtcMicros) -> UtcMicros {
        self.shift(t, -1)
    }

    /// `t` plus this interval; saturates at the ends of time.
    pub fn after(&self, t: UtcMicros) -> UtcMicros {
        self.shift(t, 1)
    }

    fn shift(&self, t: UtcMicros, sign: i64) -> UtcMicros {
        let months = i64::from(self.months) * sign;
        let magnitude = Months::new(months.unsigned_abs().min(u64::from(u32::MAX)) as u32);
        let moved = DateTime::from_timestamp_micros(t.0).and_then(|at| {
            if months < 0 {
                at.checked_sub_months(magnitude)
            } else {
                at.checked_add_months(magnitude)
            }
        });
        let base = match moved {
            Some(at) => at.timestamp_micros(),
            None if months < 0 => i64::MIN,
            None if months > 0 => i64::MAX,
            None => t.0,
        };
        let rest = i64::from(self.days)
            .saturating_mul(MICROS_PER_DAY)
            .saturating_add(self.micros);
        UtcMicros(base.saturating_add(rest.saturating_mul(sign)))
    }
}

/// As SQL would write it: `2 years 3 days 00:00:01.5` in words.
impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.micros / 1_000_000;
        let parts = [
            (i64::from(self.months / 12), "year"),
            (i64::from(self.months % 12), "month"),
            (i64::from(self.days), "day"),
            (seconds / 3600, "hour"),
            (seconds % 3600 / 60, "minute"),
            (seconds % 60, "second"),
            (self.micros % 1_000_000, "microsecond"),
        ];
        let mut first = true;
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count != 0) {
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{}{count} {unit}{plural}", if first { "" } else { " " })?;
            first = false;
        }
        if first {
            f.write_str("0 seconds")
        } else {
            Ok(())
        }
    }
}
