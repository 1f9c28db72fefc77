//! Which times T a materialisation runs as of.

use granary_model::{Interval, UtcMicros};

use super::MaterializeRequest;
use crate::error::IngestError;

/// Runs of one backfill.
const BACKFILL_RUNS_MAX: usize = 100_000;

/// T = from, from + every, ... up to and including `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backfill {
    pub from: UtcMicros,
    pub to: UtcMicros,
    pub every: Interval,
}

/// When a request runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Times {
    /// Ascending, at least one.
    pub all: Vec<UtcMicros>,
    /// T is the present: sources without an event time are what they are now.
    pub present: bool,
}

impl Times {
    pub(super) fn first(&self) -> UtcMicros {
        self.all.first().copied().unwrap_or_default()
    }

    pub(super) fn last(&self) -> UtcMicros {
        self.all.last().copied().unwrap_or_default()
    }

    pub(super) fn of(request: &MaterializeRequest, now: UtcMicros) -> Result<Self, IngestError> {
        let all = match (request.as_of, request.backfill) {
            (Some(_), Some(_)) => {
                return Err(IngestError::Refused(
                    "either one time (as of) or a backfill (from, to, every), not both".into(),
                ));
            }
            (Some(as_of), None) => vec![as_of],
            (None, Some(backfill)) => backfill.times()?,
            (None, None) => vec![now],
        };
        if let Some(future) = all.last().filter(|t| **t > now) {
            return Err(IngestError::Refused(format!(
                "as of {future} lies in the future (it is {now})"
            )));
        }
        Ok(Self {
            all,
            present: request.as_of.is_none() && request.backfill.is_none(),
        })
    }
}

impl Backfill {
    /// Every T, ascending. Calendar steps are taken from `from`, so that
    /// monthly runs from a 31st stay at the ends of months.
    pub fn times(&self) -> Result<Vec<UtcMicros>, IngestError> {
        let refused = |reason: String| Err(IngestError::Refused(reason));
        if self.to < self.from {
            return refused(format!(
                "the backfill ends ({}) before it begins ({})",
                self.to, self.from
            ));
        }
        if self.every.after(self.from) <= self.from {
            return refused(format!(
                "a backfill every {} never gets on; give an interval greater than 0",
                self.every
            ));
        }
        let mut times = Vec::new();
        for step in 0.. {
            let t = self.every.times(step).after(self.from);
            if t > self.to || times.last().is_some_and(|last| t <= *last) {
                break;
            }
            if times.len() == BACKFILL_RUNS_MAX {
                return refused(format!(
                    "a backfill every {} from {} to {} has more than {BACKFILL_RUNS_MAX} runs",
                    self.every, self.from, self.to
                ));
            }
            times.push(t);
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> UtcMicros {
        text.parse().unwrap()
    }

    fn backfill(from: &str, to: &str, every: Interval) -> Backfill {
        Backfill {
            from: time(from),
            to: time(to),
            every,
        }
    }

    fn every(months: i32, days: i32) -> Interval {
        Interval {
            months,
            days,
            micros: 0,
        }
    }

    #[test]
    fn steps_follow_the_calendar() {
        for (from, to, every, expected) in [
            (
                "2026-01-01",
                "2026-01-03",
                every(0, 1),
                &["2026-01-01", "2026-01-02", "2026-01-03"][..],
            ),
            (
                "2026-01-01",
                "2026-01-02T23:00:00Z",
                every(0, 1),
                &["2026-01-01", "2026-01-02"],
            ),
            (
                "2026-01-31",
                "2026-04-30",
                every(1, 0),
                &["2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30"],
            ),
            ("2026-01-01", "2026-01-01", every(1, 0), &["2026-01-01"]),
        ] {
            let times = backfill(from, to, every).times().unwrap();
            let expected: Vec<_> = expected.iter().map(|t| time(t)).collect();
            assert_eq!(times, expected, "{from} {to} {every}");
        }
    }

    #[test]
    fn what_never_ends_is_refused() {
        for (backfill, words) in [
            (
                backfill("2026-01-02", "2026-01-01", every(0, 1)),
                "before it begins",
            ),
            (
                backfill("2026-01-01", "2026-01-02", Interval::ZERO),
                "greater than 0",
            ),
            (
                backfill("2026-01-01", "2026-01-02", every(0, -1)),
                "greater than 0",
            ),
            (
                backfill("2026-01-01", "2026-01-02", Interval::from_micros(1)),
                "more than 100000 runs",
            ),
        ] {
            let refused = backfill.times().unwrap_err().to_string();
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn a_request_runs_now_unless_it_says_when() {
        let now = time("2026-01-31");
        let of = |request: MaterializeRequest| Times::of(&request, now).map_err(|e| e.to_string());
        let default = MaterializeRequest::default();
        assert_eq!(
            of(default.clone()),
            Ok(Times {
                all: vec![now],
                present: true
            })
        );
        let past = MaterializeRequest {
            as_of: Some(time("2026-01-01")),
            ..default.clone()
        };
        assert_eq!(
            of(past.clone()),
            Ok(Times {
                all: vec![time("2026-01-01")],
                present: false
            })
        );
        let future = MaterializeRequest {
            as_of: Some(time("2026-02-01")),
            ..default
        };
        assert!(of(future).unwrap_err().contains("lies in the future"));
        let both = MaterializeRequest {
            backfill: Some(backfill("2026-01-01", "2026-01-02", every(0, 1))),
            ..past
        };
        assert!(of(both).unwrap_err().contains("not both"));
    }
}
