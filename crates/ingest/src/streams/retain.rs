//! What is kept of streams: trims, and the upkeep that flushes first.
//!
//! **What goes.** An event goes when no live view needs it (see
//! `granary_engine::retention`), and of a stream with HISTORY not before it is
//! flushed, which the store sees to. A stream that no live view reads keeps
//! everything where it has no HISTORY, since nothing else would have its events;
//! where it has one, the events of the last `keep_days`, so that duplicates are
//! told that long. Until [`Streams::retain`] was called nobody knows what is
//! needed, and nothing goes.
//!
//! What goes by a retention goes when the store is whole for it (see
//! `streams/restore.rs`): events that a new view needs come back first.
//!
//! Event times may be ahead of the clock by `future_seconds_max`, and a read as
//! of now must not lose what such an event pushes out: so long longer everything
//! stays.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use granary_engine::{Lost, Retention};
use granary_model::definitions::Stream;
use granary_model::{Interval, UtcMicros};
use granary_store::events::{StreamState, TrimPolicy};
use tracing::instrument;

use super::source::lost;
use super::{Streams, Writer};
use crate::error::IngestError;

/// What live views need, by stream.
pub(super) type Needs = BTreeMap<String, Retention>;

/// What is known of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamStatus {
    pub name: String,
    /// Events kept, flushed up to, newest event time.
    pub state: StreamState,
    pub lost: Option<Lost>,
    /// What is kept, in words.
    pub retention: String,
    /// What each live view needs of that, in words, by its name.
    pub needed_by: BTreeMap<String, String>,
    /// The name of its history.
    pub history: Option<String>,
    /// Why it could not be opened as it is defined; nothing else may be known
    /// then.
    pub not_open: Option<String>,
}

/// What an upkeep did.
#[derive(Debug, Default)]
pub struct Maintained {
    /// Events that were taken into histories.
    pub flushed: u64,
    /// Events that came back from histories.
    pub restored: u64,
    /// Events that were removed.
    pub removed: u64,
    /// Streams that it failed for: it goes on with the others.
    pub failed: Vec<(String, IngestError)>,
}

/// When the upkeep was last made.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    flushed: Option<UtcMicros>,
    trimmed: Option<UtcMicros>,
}

impl Streams {
    /// Takes what the live views need of each stream that they read.
    pub fn retain(&self, needs: BTreeMap<String, Retention>) {
        *self.needs.write().unwrap_or_else(PoisonError::into_inner) = Some(needs);
    }

    /// What is known of each stream, by name.
    pub async fn statuses(&self) -> Result<Vec<StreamStatus>, IngestError> {
        let mut statuses = BTreeMap::new();
        for (name, not_open) in self.unopened() {
            let status = StreamStatus {
                name: name.clone(),
                not_open: Some(not_open),
                ..StreamStatus::default()
            };
            statuses.insert(name, status);
        }
        for writer in self.all_writers() {
            let snapshot = writer.stream.events.snapshot().await?;
            let definition = &writer.stream.definition;
            let retention = self.retention(definition);
            let needs = writer.needs.as_ref();
            let words = |retention: &Retention| match needs {
                Some(needs) => needs.in_words(retention),
                None => retention.to_string(),
            };
            let views = needs.into_iter().flat_map(|needs| &needs.views);
            let status = statuses.entry(definition.name.clone()).or_default();
            *status = StreamStatus {
                name: definition.name.clone(),
                not_open: status.not_open.take(),
                state: *snapshot.state(),
                lost: lost(snapshot.as_ref(), writer.stream.events.spec()),
                needed_by: views.map(|(view, r)| (view.clone(), words(r))).collect(),
                retention: words(&retention),
                history: definition.history.clone(),
            };
        }
        Ok(statuses.into_values().collect())
    }

    /// Does what is due by the settings: flushes every stream, puts back what is
    /// needed anew, then trims it.
    #[instrument(skip_all)]
    pub async fn maintain(&self, now: UtcMicros) -> Maintained {
        let mut upkeep = self.upkeep.lock().await;
        let flush = is_due(&mut upkeep.flushed, self.settings.flush_seconds, now);
        let trim = is_due(&mut upkeep.trimmed, self.settings.trim_seconds, now);
        let mut done = Maintained::default();
        let names: Vec<String> = self.open.all().keys().cloned().collect();
        for name in names {
            let mut outcome = Ok(());
            if flush {
                let flushed = self.flush(&name).await;
                outcome = flushed.map(|events| done.flushed += events);
            }
            // A history that cannot be written must not fill the disk with
            // what is flushed already.
            if trim {
                let restored = self.restore(&name).await;
                let restored = restored.map(|events| done.restored += events);
                let removed = self.trim(&name).await;
                let removed = removed.map(|events| done.removed += events);
                outcome = outcome.and(restored).and(removed);
            }
            done.failed.extend(outcome.err().map(|error| (name, error)));
        }
        done
    }

    /// Removes what need not be kept; gives the number of events.
    #[instrument(skip_all, err, fields(stream))]
    pub async fn trim(&self, stream: &str) -> Result<u64, IngestError> {
        let (mut removed, mut from) = (0, None);
        loop {
            let writer = self.writer(stream)?;
            let _turn = writer.turn.lock().await;
            let Some(policy) = self.policy(&writer).await? else {
                while writer.stream.events.clear_dropped().await? {}
                return Ok(removed);
            };
            let step = writer.stream.events.trim(&policy, from).await?;
            removed += step.removed;
            from = step.next;
            if from.is_none() {
                return Ok(removed);
            }
        }
    }

    /// What may go now; `None` where nothing may, or nobody knows.
    async fn policy(&self, writer: &Writer) -> Result<Option<TrimPolicy>, IngestError> {
        if self.needs_are_unknown() {
            return Ok(None);
        }
        let events = &writer.stream.events;
        let newest = events.snapshot().await?.state().newest_event_time;
        let retention = self.retention(&writer.stream.definition);
        if !writer.may_trim_to(&retention).await? {
            return Ok(None);
        }
        let (Some(newest), Retention::Bounded(bounds)) = (newest, &retention) else {
            return Ok(None);
        };
        let oldest = retention.oldest(newest).unwrap_or(newest);
        let mut policy = TrimPolicy {
            older_than: self.less_future(oldest),
            keep_newest: Vec::new(),
        };
        let indexes = &events.spec().indexes;
        for (index, newest) in &bounds.newest {
            // An index that is not there yet: what it needs is not known.
            let Some(position) = indexes.iter().position(|spec| spec.name == *index) else {
                return Ok(None);
            };
            policy.keep_newest.push((position, *newest));
        }
        Ok(Some(policy))
    }

    /// The first event time that live views may need; `None` without a bound.
    pub(super) async fn earliest(&self, writer: &Writer) -> Result<Option<UtcMicros>, IngestError> {
        let Some(needed) = self.needed(&writer.stream.definition.name) else {
            return Ok(None);
        };
        // Asked at each push: where no RANGE bounds the stream no event is too old.
        if needed.oldest(UtcMicros::default()).is_none() {
            return Ok(None);
        }
        let newest = writer.stream.events.snapshot().await?;
        let newest = newest.state().newest_event_time;
        let oldest = newest.and_then(|newest| needed.oldest(newest));
        Ok(oldest.map(|oldest| self.less_future(oldest)))
    }

    pub(super) fn less_future(&self, t: UtcMicros) -> UtcMicros {
        let future = i64::from(self.settings.future_seconds_max) * 1_000_000;
        UtcMicros(t.0.saturating_sub(future))
    }

    pub(super) fn needs_are_unknown(&self) -> bool {
        let needs = self.needs.read().unwrap_or_else(PoisonError::into_inner);
        needs.is_none()
    }

    /// What live views need of a stream; `None` where none reads it.
    pub(super) fn needed(&self, stream: &str) -> Option<Retention> {
        let needs = self.needs.read().unwrap_or_else(PoisonError::into_inner);
        needs.as_ref()?.get(stream).cloned()
    }

    pub(super) fn retention(&self, stream: &Stream) -> Retention {
        match (self.needed(&stream.name), &stream.history) {
            (Some(needed), _) => needed,
            (None, None) => Retention::Everything,
            (None, Some(_)) => Retention::range(Interval {
                days: i32::try_from(self.settings.keep_days).unwrap_or(i32::MAX),
                ..Interval::ZERO
            }),
        }
    }
}

/// Whether so many seconds passed since `last`, which is now then; 0: never.
fn is_due(last: &mut Option<UtcMicros>, seconds: u32, now: UtcMicros) -> bool {
    let micros = i64::from(seconds) * 1_000_000;
    let due = seconds > 0 && last.is_none_or(|last| now.0.saturating_sub(last.0) >= micros);
    if due {
        *last = Some(now);
    }
    due
}
