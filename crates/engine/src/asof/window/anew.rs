//! Aggregates that are computed anew for each t: the events of a frame are
//! copied side by side with t beside each, a bounded number at a time.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::{concat, filter_record_batch, take};
use datafusion::error::Result;
use granary_model::types::UTC;

use super::program::Anew;
use super::sorted::Sorted;
use crate::asof::kernels::RowRange;
use crate::asof::kernels::selection::true_rows;

/// Rows that are copied at once, but for one t with more.
const COPIED_ROWS: usize = 1 << 16;

/// A t, and the events that its frame can be made of: seen are those that were
/// created up to t.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) t: i64,
    pub(super) events: Range<usize>,
}

/// Events copied for several t.
#[derive(Debug, Default)]
struct Block {
    rows: Vec<u32>,
    /// t of each row.
    times: Vec<i64>,
    asked: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    t: i64,
    rows: RowRange,
}

impl Anew {
    /// The aggregates as of each t; `put` is given each result, a value a t, and
    /// the output columns that want it.
    pub(super) fn evaluate(
        &self,
        sorted: &Sorted,
        asked: &[Asked],
        strictly_before: bool,
        mut put: impl FnMut(&[usize], ArrayRef),
    ) -> Result<()> {
        let mut results: Vec<(Vec<usize>, Vec<ArrayRef>)> = Vec::new();
        let mut block = Block::default();
        for (at, one) in asked.iter().enumerate() {
            block.add(sorted, one);
            if block.rows.len() < COPIED_ROWS && at + 1 < asked.len() {
                continue;
            }
            let mut place = 0;
            let block = std::mem::take(&mut block);
            self.evaluate_block(sorted, block, strictly_before, |outputs, values| {
                match results.get_mut(place) {
                    Some((_, blocks)) => blocks.push(values),
                    None => results.push((outputs.to_vec(), vec![values])),
                }
                place += 1;
            })?;
        }
        for (outputs, blocks) in results {
            let blocks: Vec<&dyn Array> = blocks.iter().map(AsRef::as_ref).collect();
            put(&outputs, concat(&blocks)?);
        }
        Ok(())
    }

    fn evaluate_block(
        &self,
        sorted: &Sorted,
        block: Block,
        strictly_before: bool,
        put: impl FnMut(&[usize], ArrayRef),
    ) -> Result<()> {
        let rows = UInt32Array::from(block.rows);
        let mut columns = Vec::with_capacity(self.columns.len() + 1);
        for column in &self.columns {
            columns.push(take(sorted.events.column(*column), &rows, None)?);
        }
        let as_of = TimestampMicrosecondArray::from(block.times).with_timezone(UTC);
        columns.push(Arc::new(as_of));
        let mut events = RecordBatch::try_new(self.schema.clone(), columns)?;
        let mut asked = block.asked;
        let event_times = rows.values().iter().map(|row| sorted.times[*row as usize]);
        let mut event_times: Vec<i64> = event_times.collect();
        if let Some(filter) = &self.filter {
            let kept = filter.evaluate(&events)?.into_array(events.num_rows())?;
            let kept = true_rows(kept.as_boolean());
            let mut flags = kept.iter();
            event_times.retain(|_| flags.next().unwrap_or(false));
            let mut total = 0;
            for segment in &mut asked {
                let (start, length) = (segment.rows.start as usize, segment.rows.len());
                let end = total + kept.slice(start, length).count_set_bits() as u32;
                segment.rows = total..end;
                total = end;
            }
            events = filter_record_batch(&events, &BooleanArray::new(kept, None))?;
        }
        let frame = |segment: &Segment| {
            let times = &event_times[segment.rows.start as usize..segment.rows.end as usize];
            let events = self.frame.events(times, segment.t, strictly_before);
            let start = segment.rows.start;
            start + events.start as u32..start + events.end as u32
        };
        let ranges: Vec<RowRange> = asked.iter().map(frame).collect();
        self.calls.evaluate(&events, &[ranges], put)
    }
}

impl Block {
    fn add(&mut self, sorted: &Sorted, asked: &Asked) {
        let start = self.rows.len() as u32;
        let created = &sorted.created;
        let seen = |row: &usize| created.get(*row).is_none_or(|created| *created <= asked.t);
        let rows = asked.events.clone().filter(seen);
        self.rows.extend(rows.map(|row| row as u32));
        self.times.resize(self.rows.len(), asked.t);
        self.asked.push(Segment {
            t: asked.t,
            rows: start..self.rows.len() as u32,
        });
    }
}
