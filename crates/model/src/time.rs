//! Instants: UTC microseconds, everywhere.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};
use serde::{Deserialize, Serialize};

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UtcMicros(pub i64);

impl UtcMicros {
    pub const MIN: Self = Self(i64::MIN);
    pub const MAX: Self = Self(i64::MAX);
}

/// RFC 3339 with `Z`, with as many digits of a second as it needs (0, 3 or 6).
impl fmt::Display for UtcMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_timestamp_micros(self.0) {
            Some(t) => f.write_str(&t.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{}us", self.0),
        }
    }
}

/// What was wrong with the text of a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time; write it as 2026-01-31, 2026-01-31T08:30:00Z or 2026-01-31T08:30:00+02:00"
)]
pub struct TimeError(pub String);

impl FromStr for UtcMicros {
    type Err = TimeError;

    /// A time without a zone is UTC, a date is its midnight.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let trimmed = text.trim();
        if let Ok(t) = DateTime::parse_from_rfc3339(trimmed) {
            return Ok(Self(t.timestamp_micros()));
        }
        // RFC 3339 asks for seconds and for minutes of the zone; SQL does not.
        for format in [
            "%Y-%m-%dT%H:%M:%S%.f%#z",
            "%Y-%m-%d %H:%M:%S%.f%#z",
            "%Y-%m-%dT%H:%M%#z",
            "%Y-%m-%d %H:%M%#z",
        ] {
            if let Ok(t) = DateTime::parse_from_str(trimmed, format) {
                return Ok(Self(t.timestamp_micros()));
            }
        }
        for format in [
            "%Y-%m-%dT%H:%M:%S%.f",
            "%Y-%m-%d %H:%M:%S%.f",
            "%Y-%m-%dT%H:%M",
            "%Y-%m-%d %H:%M",
        ] {
            if let Ok(t) = NaiveDateTime::parse_from_str(trimmed, format) {
                return Ok(Self(t.and_utc().timestamp_micros()));
            }
        }
        if let Ok(d) = NaiveDate::parse_from_str(trimmed, "%Y-%m-%d") {
            let midnight = d
                .and_hms_opt(0, 0, 0)
                .ok_or_else(|| TimeError(text.into()))?;
            return Ok(Self(midnight.and_utc().timestamp_micros()));
        }
        Err(TimeError(text.into()))
    }
}

#[cfg(test)]
mod tests;
