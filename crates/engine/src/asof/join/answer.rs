//! From winners to rows: which run a row asks for, what is too old, and the
//! output columns in the order of the spine.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int8Array, Int64Array, RecordBatch, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use granary_model::types::UTC;
use granary_model::{FeatureStatus, Interval, UtcMicros};

use super::winners::{Slot, Winners, gather};
use super::{AsOfJoinSpec, AsOfLookup, Match, Run};
use crate::asof::spine::Spine;

/// The time that a row's events are matched by: t itself, or that of its run.
pub(super) fn matched(asked: &Int64Array, spec: &AsOfJoinSpec) -> Int64Array {
    let refreshed = |t: Option<i64>| match spec.refreshed_every {
        Some(every) => every.newest_multiple(UtcMicros(t?)).map(|t| t.0),
        None => t,
    };
    match &spec.matching {
        Match::Latest if spec.refreshed_every.is_none() => asked.clone(),
        Match::Latest => asked.iter().map(refreshed).collect(),
        Match::Runs(runs) => {
            let newest = |t| newest_run(runs, refreshed(t)?, spec);
            asked.iter().map(newest).collect()
        }
    }
}

fn newest_run(runs: &[Run], t: i64, spec: &AsOfJoinSpec) -> Option<i64> {
    let seen = runs.partition_point(|run| match spec.strictly_before {
        true => run.as_of.0 < t,
        false => run.as_of.0 <= t,
    });
    runs[..seen]
        .iter()
        .rev()
        .find(|run| !spec.known_at_the_time || run.committed.0 <= t)
        .map(|run| run.as_of.0)
}

/// What a part of the spine found: an answer for each lookup.
pub(super) struct Answers(Vec<Answer>);

struct Answer {
    winners: Option<Winners>,
    /// A row of the part each; `None`: nothing was found.
    found: Vec<Option<Found>>,
}

#[derive(Clone, Copy)]
struct Found {
    slot: Slot,
    fresh: bool,
}

impl Answers {
    /// `winners`: of each lookup; none where there were no events at all.
    pub(super) fn new(
        spine: &Spine,
        asked: &Int64Array,
        winners: Vec<Winners>,
        spec: &AsOfJoinSpec,
    ) -> Self {
        let mut winners = winners.into_iter();
        let lookups = spec.lookups.iter();
        let answers = lookups.map(|lookup| Answer::new(spine, asked, winners.next(), lookup.ttl));
        Self(answers.collect())
    }

    /// The output for one batch of the spine, whose rows these are in the part.
    pub(super) fn batch(
        &self,
        spec: &AsOfJoinSpec,
        schema: &SchemaRef,
        batch: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        for (answer, lookup) in self.0.iter().zip(&spec.lookups) {
            answer.add(lookup, schema, rows.clone(), &mut columns)?;
        }
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

impl Answer {
    fn new(
        spine: &Spine,
        asked: &Int64Array,
        winners: Option<Winners>,
        ttl: Option<Interval>,
    ) -> Self {
        let mut found = vec![None; spine.row_count()];
        let slots = winners.as_ref().map_or(&[][..], Winners::slots);
        for (slot, row) in slots.iter().zip(spine.rows()) {
            if slot.is_empty() {
                continue;
            }
            let row = *row as usize;
            let oldest = ttl.map(|ttl| ttl.before(UtcMicros(asked.value(row))));
            found[row] = Some(Found {
                slot: *slot,
                fresh: oldest.is_none_or(|oldest| slot.event_time >= oldest.0),
            });
        }
        Self { winners, found }
    }

    fn add(
        &self,
        lookup: &AsOfLookup,
        schema: &SchemaRef,
        rows: Range<usize>,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<()> {
        let found = &self.found[rows];
        let kept = self.winners.as_ref().map_or(&[][..], Winners::kept);
        let picked: Vec<(usize, usize)> = found
            .iter()
            .map(|found| match found {
                Some(Found { slot, fresh: true }) => (slot.batch as usize, slot.row as usize),
                _ => (kept.len(), 0),
            })
            .collect();
        for (index, value) in lookup.values.iter().enumerate() {
            if value.name.is_some() {
                let null = new_null_array(schema.field(columns.len()).data_type(), 1);
                columns.push(gather(kept, index, Some(&null), &picked)?);
            }
        }
        let times: TimestampMicrosecondArray = found
            .iter()
            .map(|found| found.map(|found| found.slot.event_time))
            .collect();
        columns.push(Arc::new(times.with_timezone(UTC)));
        columns.push(statuses(found));
        Ok(())
    }
}

fn statuses(found: &[Option<Found>]) -> ArrayRef {
    let status = |found: &Option<Found>| match found {
        Some(Found { fresh: true, .. }) => FeatureStatus::Present,
        Some(Found { fresh: false, .. }) => FeatureStatus::OutsideMaxAge,
        None => FeatureStatus::NotFound,
    };
    let numbers: Int8Array = found
        .iter()
        .map(|found| Some(status(found) as i8))
        .collect();
    debug_assert_eq!(numbers.null_count(), 0);
    Arc::new(numbers)
}
