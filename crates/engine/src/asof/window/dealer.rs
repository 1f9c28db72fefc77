//! One pass over a partition of the events: which of them can matter to the
//! spine, dealt out to buckets by key.

use std::mem::take;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, interleave};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::AsOfWindowSpec;
use super::bucket::Piece;
use super::program::Program;
use crate::asof::compact::{compact, row_bytes};
use crate::asof::keys::NO_GROUP;
use crate::asof::spine::Spine;
use crate::asof::time::micros;

/// Rows of a chunk where memory allows.
pub(super) const CHUNK_ROWS: usize = 1 << 18;
/// Buckets at most.
const BUCKETS_MAX: usize = 256;
/// Bytes of a bucket in memory below which more buckets are more work than use.
const BUCKET_BYTES_MIN: usize = 64 << 10;

/// Columns of dealt events before the kept ones.
pub(super) const GROUP: usize = 0;
pub(super) const TIME: usize = 1;
/// Only where created times are kept.
pub(super) const CREATED: usize = 2;

/// What the dealers of a pass share.
#[derive(Debug)]
pub(super) struct Deal {
    pub(super) spec: Arc<AsOfWindowSpec>,
    pub(super) program: Arc<Program>,
    pub(super) spine: Arc<Spine>,
    pub(super) buckets: Buckets,
    /// Bytes of dealt events in memory at most, whatever the pool would give.
    pub(super) held_bytes_max: usize,
    /// The first and the last time that can matter, a group each.
    reach: Vec<(i64, i64)>,
    /// Of dealt events.
    pub(super) schema: SchemaRef,
}

/// Groups by bucket: neighbours share one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buckets {
    shift: u32,
    groups: u32,
}

impl Buckets {
    /// `held_bytes_max`: of all buckets together, in memory.
    fn new(groups: usize, held_bytes_max: usize) -> Self {
        let count_max = (held_bytes_max / BUCKET_BYTES_MIN).clamp(1, BUCKETS_MAX);
        let width = groups.div_ceil(count_max).next_power_of_two();
        Self {
            shift: width.trailing_zeros(),
            groups: groups as u32,
        }
    }

    pub(super) fn count(&self) -> usize {
        (self.groups as usize).div_ceil(1 << self.shift)
    }

    fn of(&self, group: u32) -> usize {
        (group >> self.shift) as usize
    }

    pub(super) fn groups(&self, bucket: usize) -> std::ops::Range<u32> {
        let start = (bucket as u32) << self.shift;
        let end = u64::from(start) + (1 << self.shift);
        start..u32::try_from(end).unwrap_or(u32::MAX).min(self.groups)
    }
}

impl Deal {
    pub(super) fn new(
        spec: Arc<AsOfWindowSpec>,
        program: Arc<Program>,
        spine: Arc<Spine>,
        held_bytes_max: usize,
    ) -> Self {
        let mut fields = vec![
            Arc::new(Field::new("group", DataType::UInt32, false)),
            Arc::new(Field::new("time", DataType::Int64, false)),
        ];
        if program.known_at_the_time {
            fields.push(Arc::new(Field::new("created", DataType::Int64, false)));
        }
        fields.extend(program.schema.fields().iter().cloned());
        let groups = 0..spine.group_count() as u32;
        let reach = groups
            .map(|group| program.reach(&spine.times()[spine.positions(group)]))
            .collect();
        Self {
            buckets: Buckets::new(spine.group_count(), held_bytes_max),
            held_bytes_max,
            schema: Arc::new(Schema::new(fields)),
            reach,
            spec,
            program,
            spine,
        }
    }

    /// The dealt events that matter to a piece of their bucket.
    pub(super) fn within(&self, piece: &Piece, events: &RecordBatch) -> Result<RecordBatch> {
        // Times ascend within a group only; what no position of it can see was
        // not dealt.
        let (first, last) = match piece.groups.len() {
            1 => {
                let times = &self.spine.times()[piece.positions.clone()];
                self.program.reach(times)
            }
            _ => (i64::MIN, i64::MAX),
        };
        let groups = events.column(GROUP).as_primitive::<UInt32Type>().values();
        let times = events.column(TIME).as_primitive::<Int64Type>().values();
        let matters = groups
            .iter()
            .zip(times)
            .map(|(group, time)| piece.groups.contains(group) && (first..=last).contains(time));
        let matters: BooleanBuffer = matters.collect();
        Ok(filter_record_batch(
            events,
            &BooleanArray::new(matters, None),
        )?)
    }
}

/// Deals out the events of one partition.
#[derive(Debug)]
pub(super) struct Dealer {
    deal: Arc<Deal>,
    /// Bytes of a chunk at most, before it is copied into order.
    chunk_bytes_max: usize,
    /// The kept columns of batches.
    pending: Vec<Vec<ArrayRef>>,
    pending_bytes: usize,
    /// Rows of the pending batches that matter.
    picked: Picked,
}

/// Events by place, of one length.
#[derive(Debug, Default)]
struct Picked {
    groups: Vec<u32>,
    times: Vec<i64>,
    /// Empty where created times are not kept.
    created: Vec<i64>,
    /// Batch and row.
    sources: Vec<(u32, u32)>,
}

/// Events in the order of buckets.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) events: RecordBatch,
    /// Rows of bucket b: `starts[b]..starts[b + 1]`.
    starts: Vec<usize>,
}

impl Chunk {
    pub(super) fn rows(&self, bucket: usize) -> usize {
        self.starts[bucket + 1] - self.starts[bucket]
    }

    pub(super) fn slice(&self, bucket: usize) -> RecordBatch {
        self.events.slice(self.starts[bucket], self.rows(bucket))
    }
}

impl Dealer {
    pub(super) fn new(deal: Arc<Deal>, chunk_bytes_max: usize) -> Self {
        Self {
            deal,
            chunk_bytes_max,
            pending: Vec::new(),
            pending_bytes: 0,
            picked: Picked::default(),
        }
    }

    /// Takes in a batch; whether a chunk is due.
    pub(super) fn offer(&mut self, batch: &RecordBatch) -> Result<bool> {
        let spec = &self.deal.spec;
        let evaluate = |expression: &Arc<dyn PhysicalExpr>| {
            expression.evaluate(batch)?.into_array(batch.num_rows())
        };
        let on = spec.on.iter();
        let keys = on
            .map(|(_, expression)| evaluate(expression))
            .collect::<Result<Vec<_>>>()?;
        let mut groups = Vec::with_capacity(batch.num_rows());
        self.deal.spine.find(&keys, &mut groups)?;
        let times = micros(&evaluate(&spec.event_time)?)?;
        let created = match (&spec.created_time, self.deal.program.known_at_the_time) {
            (Some(created), true) => Some(micros(&evaluate(created)?)?),
            _ => None,
        };
        let before = self.picked.groups.len();
        self.pick(&groups, &times, created.as_ref());
        if self.picked.groups.len() > before {
            let kept = self.deal.program.kept.iter();
            let columns: Vec<ArrayRef> = kept.map(|at| batch.column(*at).clone()).collect();
            self.pending_bytes += columns.iter().map(row_bytes).sum::<usize>();
            self.pending.push(columns);
        }
        Ok(self.picked.groups.len() >= CHUNK_ROWS || self.bytes() >= self.chunk_bytes_max)
    }

    /// Bytes of what is pending.
    pub(super) fn bytes(&self) -> usize {
        self.pending_bytes + self.picked.groups.len() * size_of::<(u32, i64, i64, u32, u32)>()
    }

    fn pick(&mut self, groups: &[u32], times: &Int64Array, created: Option<&Int64Array>) {
        let batch = self.pending.len() as u32;
        let valid = times.nulls();
        for (row, group) in groups.iter().enumerate() {
            if *group == NO_GROUP || valid.is_some_and(|valid| valid.is_null(row)) {
                continue;
            }
            let time = times.values()[row];
            let (first, last) = self.deal.reach[*group as usize];
            if time < first || time > last {
                continue;
            }
            if let Some(created) = created {
                let created = if created.is_valid(row) {
                    created.values()[row]
                } else {
                    time
                };
                if created > last {
                    continue;
                }
                self.picked.created.push(created);
            }
            self.picked.groups.push(*group);
            self.picked.times.push(time);
            self.picked.sources.push((batch, row as u32));
        }
    }

    /// What is pending, in the order of buckets; `None`: nothing.
    pub(super) fn chunk(&mut self) -> Result<Option<Chunk>> {
        let picked = take(&mut self.picked);
        let pending = take(&mut self.pending);
        self.pending_bytes = 0;
        if picked.groups.is_empty() {
            return Ok(None);
        }
        let (starts, places) = self.places(&picked.groups);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(placed(&picked.groups, &places))),
            Arc::new(Int64Array::from(placed(&picked.times, &places))),
        ];
        if self.deal.program.known_at_the_time {
            let created = placed(&picked.created, &places);
            columns.push(Arc::new(Int64Array::from(created)));
        }
        let mut sources = vec![(0, 0); places.len()];
        for (place, (batch, row)) in places.iter().zip(picked.sources) {
            sources[*place as usize] = (batch as usize, row as usize);
        }
        for column in 0..self.deal.program.kept.len() {
            let arrays: Vec<&dyn Array> = pending.iter().map(|p| p[column].as_ref()).collect();
            columns.push(compact(interleave(&arrays, &sources)?));
        }
        let events = RecordBatch::try_new(self.deal.schema.clone(), columns)?;
        Ok(Some(Chunk { events, starts }))
    }

    /// Where buckets start, and the place of each row: a counting sort.
    fn places(&self, groups: &[u32]) -> (Vec<usize>, Vec<u32>) {
        let buckets = self.deal.buckets;
        let mut starts = vec![0; buckets.count() + 1];
        for group in groups {
            starts[buckets.of(*group) + 1] += 1;
        }
        for bucket in 1..starts.len() {
            starts[bucket] += starts[bucket - 1];
        }
        let mut next = starts.clone();
        let place = |group: &u32| {
            let next = &mut next[buckets.of(*group)];
            *next += 1;
            *next as u32 - 1
        };
        let places = groups.iter().map(place).collect();
        (starts, places)
    }
}

fn placed<T: Copy + Default>(values: &[T], places: &[u32]) -> Vec<T> {
    let mut placed = vec![T::default(); values.len()];
    for (value, place) in values.iter().zip(places) {
        placed[*place as usize] = *value;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_all_groups_once() {
        let counts = [0, 1, 255, 256, 257, 1000, 100_000];
        let of_memory = |bytes| counts.map(|groups| Buckets::new(groups, bytes));
        for buckets in [0, 100_000, 1 << 20, usize::MAX]
            .into_iter()
            .flat_map(of_memory)
        {
            assert!(buckets.count() <= BUCKETS_MAX);
            let covered = (0..buckets.count()).flat_map(|bucket| {
                let covered = buckets.groups(bucket);
                assert!(covered.clone().all(|group| buckets.of(group) == bucket));
                covered
            });
            assert!(covered.eq(0..buckets.groups));
        }
    }
}
