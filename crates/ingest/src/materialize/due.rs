//! What one run of one view has to do, given what is committed.

use granary_engine::{RunMode, RunScope};
use granary_model::{Interval, UtcMicros, ViewKind};

/// What a view's offline table says of its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Committed {
    /// Greatest T; `None`: never run.
    pub watermark: Option<UtcMicros>,
    /// T of every snapshot run, ascending.
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

/// Timestamped views run from the watermark on, snapshot views once a T;
/// `force` and `lookback` replace.
pub(super) fn decide(kind: ViewKind, committed: &Committed, wanted: Wanted) -> Decision {
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
    if kind == ViewKind::Snapshot {
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
        None if wanted.force => return scope(wanted.previous, RunMode::Replace),
        _ => {}
    }
    if wanted.as_of <= watermark {
        return Decision::Skip(format!("materialised up to {watermark} already"));
    }
    scope(Some(watermark), RunMode::Append)
}
