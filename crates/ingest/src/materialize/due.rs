//! What one run of one view has to do, given what is committed.

use granary_engine::{RunMode, RunScope};
use granary_model::{Interval, UtcMicros};

/// What a view's offline table says of its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Committed {
    /// Greatest T; `None`: never run.
    pub watermark: Option<UtcMicros>,
    /// T of every run, ascending; of an incremental view the greatest alone.
    pub times: Vec<UtcMicros>,
}

/// How a request wants its runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub as_of: UtcMicros,
    /// T of the run before this one in the same backfill.
    pub previous: Option<UtcMicros>,
    pub lookback: Option<Interval>,
    pub force: bool,
    pub current_state: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Run(RunScope),
    Skip(String),
}

/// Incremental views run from the watermark on, `lookback` replaces; all others
/// run once a T, whole. `force` replaces.
pub(super) fn decide(incremental: bool, committed: &Committed, wanted: Wanted) -> Decision {
    let scope = |from, mode| {
        Decision::Run(RunScope {
            as_of: wanted.as_of,
            from,
            current_state: wanted.current_state,
            mode,
        })
    };
    let Some(watermark) = committed.watermark else {
        return scope(None, RunMode::Append);
    };
    if !incremental {
        let done = committed.times.binary_search(&wanted.as_of).is_ok();
        return match (done, wanted.force) {
            (false, _) => scope(None, RunMode::Append),
            (true, true) => scope(None, RunMode::Replace),
            (true, false) => Decision::Skip(format!(
                "the run as of {} is committed already",
                wanted.as_of
            )),
        };
    }
    let late_from = wanted.lookback.map(|lookback| lookback.before(watermark));
    match late_from {
        Some(from) if from < wanted.as_of => return scope(Some(from), RunMode::Replace),
        _ if wanted.force => return scope(wanted.previous, RunMode::Replace),
        _ => {}
    }
    if wanted.as_of <= watermark {
        return Decision::Skip(format!("materialised up to {watermark} already"));
    }
    scope(Some(watermark), RunMode::Append)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(n: i64) -> UtcMicros {
        UtcMicros(n * granary_model::interval::MICROS_PER_DAY)
    }

    /// As of day 20 unless `change` says otherwise.
    fn check(
        incremental: bool,
        times: &[i64],
        change: impl FnOnce(&mut Wanted),
        expected: Option<(Option<i64>, RunMode)>,
    ) {
        let committed = Committed {
            watermark: times.last().copied().map(day),
            times: times.iter().copied().map(day).collect(),
        };
        let mut wanted = Wanted {
            as_of: day(20),
            previous: None,
            lookback: None,
            force: false,
            current_state: false,
        };
        change(&mut wanted);
        let found = match decide(incremental, &committed, wanted) {
            Decision::Run(scope) => {
                assert_eq!(scope.as_of, wanted.as_of);
                Some((scope.from, scope.mode))
            }
            Decision::Skip(reason) => {
                assert!(reason.contains("already"), "{reason}");
                None
            }
        };
        let expected = expected.map(|(from, mode)| (from.map(day), mode));
        assert_eq!(found, expected, "{incremental} {times:?} {wanted:?}");
    }

    fn lookback(days: i32) -> impl Fn(&mut Wanted) {
        move |w| {
            w.lookback = Some(Interval {
                days,
                ..Interval::ZERO
            });
        }
    }

    #[test]
    fn incremental_views_go_on_from_the_watermark() {
        use RunMode::{Append, Replace};
        let incremental = true;
        check(incremental, &[], |_| {}, Some((None, Append)));
        check(incremental, &[10], |_| {}, Some((Some(10), Append)));
        check(incremental, &[20], |_| {}, None);
        check(incremental, &[25], |_| {}, None);
        check(incremental, &[], |w| w.force = true, Some((None, Append)));
        check(
            incremental,
            &[25],
            |w| w.force = true,
            Some((None, Replace)),
        );
        let second = |w: &mut Wanted| {
            w.force = true;
            w.previous = Some(day(15));
        };
        check(incremental, &[15], second, Some((Some(15), Replace)));
        check(incremental, &[], lookback(3), Some((None, Append)));
        check(incremental, &[10], lookback(3), Some((Some(7), Replace)));
        check(incremental, &[20], lookback(3), Some((Some(17), Replace)));
        check(incremental, &[22], lookback(3), Some((Some(19), Replace)));
        check(incremental, &[30], lookback(3), None);
    }

    #[test]
    fn other_views_run_once_a_time() {
        use RunMode::{Append, Replace};
        let incremental = false;
        check(incremental, &[], |_| {}, Some((None, Append)));
        check(incremental, &[10], |_| {}, Some((None, Append)));
        check(incremental, &[10, 30], |_| {}, Some((None, Append)));
        check(incremental, &[10, 20, 30], |_| {}, None);
        check(
            incremental,
            &[10, 20, 30],
            |w| w.force = true,
            Some((None, Replace)),
        );
        check(incremental, &[10], |w| w.force = true, Some((None, Append)));
        check(incremental, &[10, 20], lookback(3), None);
    }
}
