//! Sums that halve with a half-life: `decayed_sum` as of the newest event of a range.
//!
//! A sum stands with the time that it is as of. Two are added as of the later of
//! both, so that no weight ever exceeds 1 and none is divided by: what a frame
//! leaves behind is gone without a trace.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, StructArray, TimestampMicrosecondArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNanoType, TimestampMicrosecondType};
use datafusion::error::{DataFusionError, Result};
use granary_model::interval::MICROS_PER_DAY;
use granary_model::types::UTC;

use super::RowRange;
use super::tree::{Part, Tree};

/// A decayed sum as of a time. Times and half-lives are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Decayed {
    sum: f64,
    /// `i64::MIN`: of no events.
    at: i64,
    half_life: i64,
}

impl Decayed {
    pub(crate) fn none(half_life: i64) -> Self {
        Self {
            sum: -0.0,
            at: i64::MIN,
            half_life,
        }
    }

    pub(crate) fn event(x: f64, at: i64, half_life: i64) -> Self {
        Self {
            sum: x,
            at,
            half_life,
        }
    }

    pub(crate) fn half_life(&self) -> i64 {
        self.half_life
    }

    /// The sum as of the newest event, and the time of that.
    pub(crate) fn latest(&self) -> Option<(f64, i64)> {
        (self.at > i64::MIN).then_some((self.sum, self.at))
    }

    /// The sum as of `t`, which is not before the newest event.
    pub(crate) fn as_of(&self, t: i64) -> Option<f64> {
        self.latest().map(|_| self.sum_at(t))
    }

    fn sum_at(&self, t: i64) -> f64 {
        // An infinity lasts, though its weight may become 0.
        if t == self.at || self.sum.is_infinite() {
            return self.sum;
        }
        let age = (i128::from(t) - i128::from(self.at)) as f64;
        self.sum * (-age / self.half_life as f64).exp2()
    }

    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        let (older, newer) = if self.at <= other.at {
            (self, other)
        } else {
            (other, self)
        };
        match older.latest() {
            None => newer,
            Some(_) => Self {
                sum: older.sum_at(newer.at) + newer.sum,
                ..newer
            },
        }
    }

    /// An array of `{sum, at}`, NULL for no events.
    pub(crate) fn array(
        decayed: impl Iterator<Item = Self>,
        result: &DataType,
    ) -> Result<ArrayRef> {
        let DataType::Struct(fields) = result else {
            return Err(DataFusionError::Internal(format!(
                "a decayed sum is no {result}"
            )));
        };
        let (sums, times): (Vec<_>, Vec<_>) = decayed.map(|d| d.latest().unzip()).unzip();
        let nulls = NullBuffer::from_iter(times.iter().map(Option::is_some));
        let times = TimestampMicrosecondArray::from(times).with_timezone(UTC);
        let columns: Vec<ArrayRef> = vec![Arc::new(Float64Array::from(sums)), Arc::new(times)];
        let array = StructArray::try_new(fields.clone(), columns, Some(nulls))?;
        Ok(Arc::new(array))
    }
}

impl Part for Decayed {
    const EMPTY: Self = Self {
        sum: -0.0,
        at: i64::MIN,
        half_life: 1,
    };

    fn then(self, next: Self) -> Self {
        self.plus(next)
    }
}

/// Of `x`, a constant half-life and the events' times, none of them NULL.
pub(super) fn latest(
    inputs: &[ArrayRef],
    ranges: &[RowRange],
    result: &DataType,
) -> Result<ArrayRef> {
    let x = inputs[0].as_primitive::<Float64Type>().values();
    let half_lives = inputs[1]
        .as_primitive::<IntervalMonthDayNanoType>()
        .values();
    let times = inputs[2]
        .as_primitive::<TimestampMicrosecondType>()
        .values();
    let half_life = half_lives.first().map_or(1, |interval| {
        i64::from(interval.days) * MICROS_PER_DAY + interval.nanoseconds / 1_000
    });
    let events = x.iter().zip(times);
    let events = events.map(|(x, at)| Decayed::event(*x, *at, half_life));
    let tree = Tree::new(events.collect());
    Decayed::array(ranges.iter().map(|range| tree.combine(range)), result)
}
