//! Whether the newest events of a key are all that its aggregates need.
//!
//! Frames that reach back a time need the events since then; frames that count
//! events (ROWS, MAX EVENTS) the newest so many rows. A key with a million
//! events is so read by its newest few.

use granary_model::{Interval, UtcMicros};

use super::LiveTime;
use crate::asof::{AsOfWindowSpec, Frame, FrameBounds};
use crate::retention::Retention;

/// What the frames of a view need, each of them.
#[derive(Debug)]
pub(super) struct Needed(Vec<FrameNeeds>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameNeeds {
    /// Events since this long before t will do.
    since: Option<Interval>,
    /// So many of the newest rows that are at least `until` old will do.
    newest: Option<u64>,
    until: Interval,
}

impl FrameNeeds {
    /// `None`: all events.
    fn of(frame: &Frame) -> Option<Self> {
        let (since, newest, until) = match frame.bounds {
            FrameBounds::Range { start, end } => (start, frame.events_max, end),
            FrameBounds::Rows { start, end } => {
                let counted = start.map(|start| start.saturating_add(1));
                let kept = frame.events_max.map(|max| max.saturating_add(end));
                (None, counted.into_iter().chain(kept).min(), Interval::ZERO)
            }
        };
        (since.is_some() || newest.is_some()).then_some(Self {
            since,
            newest,
            until,
        })
    }

    /// What keeps its events, where which rows there are does not depend on t.
    fn retention(self, newest: impl Fn(usize) -> Retention) -> Retention {
        match (self.since, self.newest) {
            (Some(since), _) => Retention::range(since),
            (None, Some(events)) if self.until == Interval::ZERO => {
                newest(usize::try_from(events).unwrap_or(usize::MAX))
            }
            _ => Retention::Everything,
        }
    }

    /// `times`: of the rows found, of which there may be more at or before `oldest`.
    fn are_met(self, time: LiveTime, times: &[i64], oldest: i64) -> bool {
        if self
            .since
            .is_some_and(|since| oldest < since.before(time.as_of).0)
        {
            return true;
        }
        let until = self.until.before(time.as_of).min(time.last()).0;
        let counted = times.iter().filter(|at| oldest < **at && **at <= until);
        self.newest
            .is_some_and(|newest| counted.count() as u64 >= newest)
    }
}

/// What must stay for the frames of a spec; `newest` keeps so many of the newest
/// rows of each key.
pub(super) fn retention(spec: &AsOfWindowSpec, newest: impl Fn(usize) -> Retention) -> Retention {
    let of_set = spec.sets.iter().flat_map(|set| {
        let newest = |events| match set.filter {
            None => newest(events),
            Some(_) => Retention::Everything,
        };
        let frames = set.aggregates.iter().map(|a| FrameNeeds::of(&a.frame));
        frames
            .map(|needs| needs.map_or(Retention::Everything, |needs| needs.retention(newest)))
            .collect::<Vec<_>>()
    });
    of_set.fold(Retention::nothing(), Retention::and)
}

impl Needed {
    /// `None` where the newest events do not tell: some frame needs all, or
    /// which rows there are depends on t.
    pub(super) fn of(spec: &AsOfWindowSpec) -> Option<Self> {
        let sets = spec.sets.iter();
        let aggregates = sets.flat_map(|set| &set.aggregates);
        let needs = aggregates.map(|aggregate| FrameNeeds::of(&aggregate.frame));
        let mut needs = needs.collect::<Option<Vec<_>>>()?;
        // Else one scan of a time is less work.
        let counts = needs.iter().any(|frame| frame.newest.is_some());
        let plain = spec.sets.iter().all(|set| set.filter.is_none());
        needs.dedup();
        (counts && plain).then_some(Self(needs))
    }

    /// Whether a key is decided by its rows of these times, where events at or
    /// before `oldest` may not have been found.
    pub(super) fn are_met(&self, time: LiveTime, times: &[i64], oldest: UtcMicros) -> bool {
        self.0
            .iter()
            .all(|frame| frame.are_met(time, times, oldest.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(frame: Frame, times: &[i64], oldest: i64) -> bool {
        let time = LiveTime {
            as_of: UtcMicros(100),
            strictly_before: false,
        };
        FrameNeeds::of(&frame).unwrap().are_met(time, times, oldest)
    }

    #[test]
    fn rows_need_the_newest_so_many_and_their_ties() {
        let frame = Frame::rows(Some(1), 0);
        assert!(met(frame, &[90, 80, 70], 70));
        assert!(!met(frame, &[90, 80], 80));
        assert!(!met(frame, &[90, 80, 80], 80));
        assert!(!met(frame, &[110, 90, 80], 80));
    }

    #[test]
    fn a_range_needs_what_came_since_or_its_greatest_number() {
        let since = Frame::range(Some(Interval::from_micros(20)), Interval::ZERO);
        assert!(met(since, &[], 79));
        assert!(!met(since, &[85, 80], 80));
        let most = Frame {
            events_max: Some(1),
            ..since
        };
        assert!(met(most, &[85, 84], 84));
        let until = Frame {
            events_max: Some(1),
            ..Frame::range(None, Interval::from_micros(10))
        };
        assert!(!met(until, &[95, 94], 94));
        assert!(met(until, &[95, 90, 89], 89));
    }

    #[test]
    fn a_frame_from_the_first_event_needs_all() {
        assert_eq!(FrameNeeds::of(&Frame::UNBOUNDED), None);
    }
}
