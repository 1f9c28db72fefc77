//! Whether the newest events of a key are all that its aggregates need.
//!
//! Frames that reach back a time need the events since then; frames that count
//! events (ROWS, MAX EVENTS) the newest so many rows. A key with a million
//! events is so read by its newest few.

use granary_model::{Interval, UtcMicros};

use super::LiveTime;
use crate::asof::{AsOfWindowSpec, Frame, FrameBounds, WindowAggregate};
use crate::retention::Retention;

/// What some aggregates of a view need, each of their frames.
#[derive(Debug)]
pub(super) struct Needed {
    frames: Vec<FrameNeeds>,
    /// Some frame needs all events.
    whole: bool,
}

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
    /// Of the aggregates at the places that are `asked`.
    pub(super) fn of(spec: &AsOfWindowSpec, asked: impl Fn(usize) -> bool) -> Self {
        let sets = spec.sets.iter();
        let frames = sets.flat_map(|set| {
            let needs = |a: &WindowAggregate| match (FrameNeeds::of(&a.frame), &set.filter) {
                (Some(needs), None) => Some(needs),
                // Which rows count is not known of the newest.
                (Some(needs), Some(_)) => needs.since.map(|_| FrameNeeds {
                    newest: None,
                    ..needs
                }),
                (None, _) => None,
            };
            set.aggregates.iter().map(needs).collect::<Vec<_>>()
        });
        let frames = frames.enumerate().filter(|(place, _)| asked(*place));
        let frames: Vec<Option<FrameNeeds>> = frames.map(|(_, needs)| needs).collect();
        let whole = frames.iter().any(Option::is_none);
        let mut frames: Vec<FrameNeeds> = frames.into_iter().flatten().collect();
        frames.dedup();
        Self { frames, whole }
    }

    pub(super) fn nothing(&self) -> bool {
        self.frames.is_empty() && !self.whole
    }

    /// Whether these need every event that all do.
    pub(super) fn are_as_long_as(&self, all: &Self) -> bool {
        let first = |frame: &FrameNeeds| {
            let since = frame.since.filter(|_| frame.newest.is_none());
            since.map(|since| since.before(UtcMicros(0)))
        };
        let longest = |needed: &Self| needed.frames.iter().filter_map(first).min();
        self.whole || (!all.whole && longest(self).is_some() && longest(self) <= longest(all))
    }

    /// Whether rows are counted, so that the newest few may do. Else one scan of a
    /// time is less work.
    pub(super) fn newest_may_do(&self) -> bool {
        !self.whole && self.frames.iter().any(|frame| frame.newest.is_some())
    }

    /// Whether a key is decided by its rows of these times, where events at or
    /// before `oldest` may not have been found.
    pub(super) fn are_met(&self, time: LiveTime, times: &[i64], oldest: UtcMicros) -> bool {
        let met = |frame: &FrameNeeds| frame.are_met(time, times, oldest.0);
        !self.whole && self.frames.iter().all(met)
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
