//! SQL intervals: months, days and microseconds, each kept apart.
//!
//! Months and years are calendar arithmetic on an instant (2026-03-31 less one
//! month is 2026-02-28), days are 24 hours, since all times are UTC.

mod multiples;

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Months};
use serde::{Deserialize, Serialize};

use crate::UtcMicros;
use crate::suggest::closest;

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

    /// Longer than nothing, and no part of it negative.
    pub fn is_positive(&self) -> bool {
        *self != Self::ZERO && self.months >= 0 && self.days >= 0 && self.micros >= 0
    }

    /// Months first, then days and microseconds, as in SQL.
    fn shift(&self, t: UtcMicros, sign: i64) -> UtcMicros {
        let months = i64::from(self.months) * sign;
        let rest = i128::from(self.days) * i128::from(MICROS_PER_DAY) + i128::from(self.micros);
        // Reads of every view ask for days, and the calendar is slow.
        let date = (months != 0).then(|| DateTime::from_timestamp_micros(t.0));
        let base = match date.flatten() {
            Some(at) => {
                let count = u32::try_from(months.unsigned_abs()).unwrap_or(u32::MAX);
                let moved = if months < 0 {
                    at.checked_sub_months(Months::new(count))
                } else {
                    at.checked_add_months(Months::new(count))
                };
                let end = if months < 0 { i64::MIN } else { i64::MAX };
                moved.map_or(end, |moved| moved.timestamp_micros())
            }
            // Outside of the calendar, where no data is: months do not count.
            None => t.0,
        };
        let exact = i128::from(base) + rest * i128::from(sign);
        let bounded = exact.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        UtcMicros(i64::try_from(bounded).unwrap_or(base))
    }
}

/// In words that SQL reads too: `2 years 3 days 1 second 500000 microseconds`.
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

/// What was wrong with the text of an interval.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an interval: {reason}")]
pub struct IntervalError {
    pub text: String,
    pub reason: String,
}

/// How many of the base a unit is.
#[derive(Clone, Copy)]
enum Unit {
    Months(i128),
    Days(i128),
    Micros(i128),
}

/// Singular spellings; a plural `s` may follow each.
const UNITS: [(&str, Unit); 32] = [
    ("millennium", Unit::Months(12_000)),
    ("century", Unit::Months(1_200)),
    ("decade", Unit::Months(120)),
    ("year", Unit::Months(12)),
    ("yr", Unit::Months(12)),
    ("y", Unit::Months(12)),
    ("quarter", Unit::Months(3)),
    ("month", Unit::Months(1)),
    ("mon", Unit::Months(1)),
    ("week", Unit::Days(7)),
    ("w", Unit::Days(7)),
    ("day", Unit::Days(1)),
    ("d", Unit::Days(1)),
    ("hour", Unit::Micros(3_600_000_000)),
    ("hr", Unit::Micros(3_600_000_000)),
    ("h", Unit::Micros(3_600_000_000)),
    ("minute", Unit::Micros(60_000_000)),
    ("min", Unit::Micros(60_000_000)),
    ("m", Unit::Micros(60_000_000)),
    ("second", Unit::Micros(1_000_000)),
    ("sec", Unit::Micros(1_000_000)),
    ("s", Unit::Micros(1_000_000)),
    ("millisecond", Unit::Micros(1_000)),
    ("millisec", Unit::Micros(1_000)),
    ("msec", Unit::Micros(1_000)),
    ("ms", Unit::Micros(1_000)),
    ("microsecond", Unit::Micros(1)),
    ("microsec", Unit::Micros(1)),
    ("usec", Unit::Micros(1)),
    ("us", Unit::Micros(1)),
    ("\u{b5}s", Unit::Micros(1)),
    ("\u{3bc}s", Unit::Micros(1)),
];

fn unit(word: &str) -> Option<Unit> {
    let word = word.to_lowercase();
    let singular = word.strip_suffix('s').unwrap_or(&word);
    UNITS
        .iter()
        .find(|(name, _)| *name == word)
        .or_else(|| UNITS.iter().find(|(name, _)| *name == singular))
        .map(|(_, unit)| *unit)
        .or(match word.as_str() {
            "centuries" => Some(Unit::Months(1_200)),
            "millennia" => Some(Unit::Months(12_000)),
            _ => None,
        })
}

/// Whether the word is a unit of time: `day`, `HOURS`, ...
pub(crate) fn is_unit(word: &str) -> bool {
    unit(word).is_some()
}

/// A number with the digits after its point, exactly.
#[derive(Clone, Copy)]
struct Decimal {
    digits: i128,
    scale: u32,
}

impl Decimal {
    /// At most 18 digits and no exponent.
    fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || all.len() > 18 || !all.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits: i128 = all.parse().ok()?;
        Some(Self {
            digits: if negative { -digits } else { digits },
            scale: u32::try_from(fraction.len()).ok()?,
        })
    }

    /// This many times `factor`; `None` where that is no whole number.
    fn times(self, factor: i128) -> Option<i128> {
        let divisor = 10i128.pow(self.scale);
        let product = self.digits * factor;
        (product % divisor == 0).then_some(product / divisor)
    }
}

/// Months, days and microseconds, as they add up.
#[derive(Default)]
struct Sum {
    months: i128,
    days: i128,
    micros: i128,
}

impl Sum {
    fn add(&mut self, amount: Decimal, unit: Unit) -> Result<(), String> {
        match unit {
            Unit::Months(factor) => {
                self.months += amount
                    .times(factor)
                    .ok_or("a part of a month has no fixed length")?;
            }
            Unit::Days(factor) => match amount.times(factor) {
                Some(days) => self.days += days,
                None => {
                    self.micros += amount
                        .times(factor * i128::from(MICROS_PER_DAY))
                        .ok_or("it is finer than a microsecond")?;
                }
            },
            Unit::Micros(factor) => {
                self.micros += amount
                    .times(factor)
                    .ok_or("it is finer than a microsecond")?;
            }
        }
        Ok(())
    }

    /// `hh:mm`, `hh:mm:ss` or `hh:mm:ss.ffffff`, with a sign perhaps.
    fn add_clock(&mut self, word: &str) -> Result<(), String> {
        let wrong = || format!("{word:?} is no time of hours:minutes:seconds");
        let (sign, unsigned) = match word.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, word),
        };
        let parts: Vec<Decimal> = unsigned
            .split(':')
            .map(|part| {
                Decimal::parse(part).filter(|_| part.starts_with(|c: char| c.is_ascii_digit()))
            })
            .collect::<Option<_>>()
            .ok_or_else(wrong)?;
        let (whole, rest) = match &parts[..] {
            [hours, minutes] => (
                hours,
                [
                    *minutes,
                    Decimal {
                        digits: 0,
                        scale: 0,
                    },
                ],
            ),
            [hours, minutes, seconds] => (hours, [*minutes, *seconds]),
            _ => return Err(wrong()),
        };
        let below_60 = |d: &Decimal| d.digits < 60 * 10i128.pow(d.scale);
        if whole.scale > 0 || rest[0].scale > 0 || !rest.iter().all(below_60) {
            return Err(wrong());
        }
        for (amount, factor) in [(*whole, 3600), (rest[0], 60), (rest[1], 1)] {
            self.add(amount, Unit::Micros(sign * factor * 1_000_000))?;
        }
        Ok(())
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    /// `7 days`, `1 month 2 days`, `1.5 hours`, `01:30:00`, `1 day 02:00`. A number
    /// needs a unit; parts of a month are refused, their length being unknown.
    fn from_str(text: &str) -> Result<Self, IntervalError> {
        let error = |reason: String| IntervalError {
            text: text.to_owned(),
            reason,
        };
        let sum = parse_sum(text).map_err(error)?;
        let long = |_| error("it is longer than 292,000 years".to_owned());
        Ok(Self {
            months: i32::try_from(sum.months).map_err(long)?,
            days: i32::try_from(sum.days).map_err(long)?,
            micros: i64::try_from(sum.micros).map_err(long)?,
        })
    }
}

fn parse_sum(text: &str) -> Result<Sum, String> {
    let mut sum = Sum::default();
    let spaced = space_units(text);
    let mut words = spaced.split_whitespace().peekable();
    if words.peek().is_none() {
        return Err("it is empty".to_owned());
    }
    while let Some(word) = words.next() {
        if word.contains(':') {
            sum.add_clock(word)?;
            continue;
        }
        let amount = Decimal::parse(word).ok_or_else(|| match unit(word) {
            Some(_) => format!("a number is missing before {word:?}"),
            None => format!("{word:?} is no number of at most 18 digits"),
        })?;
        let name = words
            .next()
            .ok_or_else(|| format!("{word} of what? a unit is missing, as in \"{word} days\""))?;
        let unit =
            unit(name).ok_or_else(|| match closest(name, UNITS.iter().map(|(n, _)| *n)) {
                Some(meant) => format!("unknown unit {name:?}; did you mean {meant}s?"),
                None => format!("unknown unit {name:?}"),
            })?;
        sum.add(amount, unit)?;
    }
    Ok(sum)
}

/// `1h30min` as `1 h 30 min`.
fn space_units(text: &str) -> String {
    let mut spaced = String::with_capacity(text.len() + 4);
    let mut before = ' ';
    for c in text.chars() {
        let number = |c: char| c.is_ascii_digit() || c == '.';
        if (number(before) && c.is_alphabetic()) || (before.is_alphabetic() && number(c)) {
            spaced.push(' ');
        }
        before = c;
        spaced.push(c);
    }
    spaced
}

#[cfg(test)]
mod tests;
