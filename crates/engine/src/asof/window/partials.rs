//! Aggregates that are put together from what is known of spans of time, see
//! [`AsOfWindows::partials`].

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat;
use arrow::row::{RowConverter, SortField};
use datafusion::error::Result;

use super::calls::Window;
use super::memory::{AsOfWindows, GroupedEvents};
use super::sorted::Sorted;
use crate::asof::frame::Frame;
use crate::asof::kernels::RowRange;
use crate::asof::spine::Spine;

/// The aggregates over RANGE frames that can be merged, and the columns of
/// their partials side by side.
#[derive(Debug)]
pub struct MergedAggregates {
    calls: Vec<MergedCall>,
    /// The frames that they are over, each once.
    frames: Vec<Frame>,
    converter: RowConverter,
}

#[derive(Debug)]
struct MergedCall {
    set: usize,
    /// Place in the set's plain calls.
    call: usize,
    columns: Range<usize>,
    /// Their frames are places in [`MergedAggregates::frames`].
    windows: Vec<Window>,
}

/// Partials of consecutive spans: a column each, a row a span.
pub type PartialRows = Vec<ArrayRef>;

impl AsOfWindows {
    /// `ordered`: partials are always merged in the order of their events; else
    /// aggregates that mind it are left out. `None`: nothing can be merged.
    pub fn merged(&self, ordered: bool) -> Result<Option<MergedAggregates>> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut calls = Vec::new();
        let mut fields: Vec<SortField> = Vec::new();
        for (set, program) in self.program.sets.iter().enumerate() {
            for (call, shared) in program.plain.shared().iter().enumerate() {
                let Some(types) = shared.call.partial_types()? else {
                    continue;
                };
                let columns: Vec<SortField> = types.into_iter().map(SortField::new).collect();
                let is_told = ordered || !shared.call.minds_order();
                if !is_told || !RowConverter::supports_fields(&columns) {
                    continue;
                }
                let windows = shared.windows.iter();
                let windows = windows.filter(|w| program.frames[w.frame].is_by_time());
                let mut own = Vec::new();
                for window in windows {
                    let frame = program.frames[window.frame];
                    let known = frames.iter().position(|known| *known == frame);
                    own.push(Window {
                        frame: known.unwrap_or(frames.len()),
                        outputs: window.outputs.clone(),
                    });
                    if known.is_none() {
                        frames.push(frame);
                    }
                }
                if own.is_empty() {
                    continue;
                }
                let first = fields.len();
                fields.extend(columns);
                calls.push(MergedCall {
                    set,
                    call,
                    columns: first..fields.len(),
                    windows: own,
                });
            }
        }
        if calls.is_empty() {
            return Ok(None);
        }
        Ok(Some(MergedAggregates {
            calls,
            frames,
            converter: RowConverter::new(fields)?,
        }))
    }

    /// What is known of the events of one group in each of some spans [from, to)
    /// of event times.
    pub fn partials(
        &self,
        merged: &MergedAggregates,
        (spine, group): (&Spine, u32),
        found: &[GroupedEvents],
        spans: &[Range<i64>],
    ) -> Result<PartialRows> {
        let mut dealt = vec![RecordBatch::new_empty(self.schema.clone())];
        for grouped in found {
            dealt.push(self.dealt(spine, grouped)?);
        }
        let sorted = Sorted::new(&self.program, group..group + 1, dealt)?;
        let mut columns = Vec::new();
        for of_set in merged.calls.chunk_by(|a, b| a.set == b.set) {
            let set = &self.program.sets[of_set[0].set];
            let filtered = set.filter.as_ref().map(|filter| {
                let events = &sorted.events;
                let mask = filter.evaluate(events)?.into_array(events.num_rows())?;
                sorted.filtered(mask.as_boolean())
            });
            let filtered = filtered.transpose()?;
            let sorted = filtered.as_ref().unwrap_or(&sorted);
            let before = |t: i64| sorted.times.partition_point(|time| *time < t) as u32;
            let ranges = spans
                .iter()
                .map(|span| before(span.start)..before(span.end));
            let ranges: Vec<RowRange> = ranges.collect();
            let calls = of_set.iter().map(|call| call.call);
            columns.extend(set.plain.partials(calls, &sorted.events, &ranges)?);
        }
        Ok(columns)
    }

    /// The partials that ranges of consecutive ones come to.
    pub fn merge(
        &self,
        merged: &MergedAggregates,
        partials: &PartialRows,
        ranges: &[RowRange],
    ) -> Result<PartialRows> {
        let mut columns = Vec::with_capacity(partials.len());
        for call in &merged.calls {
            let kernel = &self.program.sets[call.set].plain.shared()[call.call].call;
            columns.extend(kernel.merge(&partials[call.columns.clone()], ranges)?);
        }
        Ok(columns)
    }

    /// The aggregates of one key and time, one value each with its place among
    /// all of the spec. `ranges`: of each of [`MergedAggregates::frames`] the
    /// partials that it is made of.
    pub fn finish(
        &self,
        merged: &MergedAggregates,
        partials: &PartialRows,
        ranges: &[RowRange],
    ) -> Result<Vec<(usize, ArrayRef)>> {
        let mut outputs = Vec::new();
        for call in &merged.calls {
            let kernel = &self.program.sets[call.set].plain.shared()[call.call].call;
            let frames = call.windows.iter();
            let frames = frames.map(|window| ranges[window.frame].clone());
            let frames: Vec<RowRange> = frames.collect();
            let whole = kernel.merge(&partials[call.columns.clone()], &frames)?;
            let values = kernel.finish(&whole)?;
            for (row, window) in call.windows.iter().enumerate() {
                let places = window.outputs.iter();
                outputs.extend(places.map(|place| (*place, values.slice(row, 1))));
            }
        }
        Ok(outputs)
    }
}

impl MergedAggregates {
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The places of the aggregates among all of the spec.
    pub fn outputs(&self) -> impl Iterator<Item = usize> {
        let windows = self.calls.iter().flat_map(|call| &call.windows);
        windows.flat_map(|window| window.outputs.iter().copied())
    }

    /// Each row of partials as bytes.
    pub fn encode(&self, partials: &PartialRows) -> Result<Vec<Vec<u8>>> {
        let rows = self.converter.convert_columns(partials)?;
        Ok(rows.iter().map(|row| row.data().to_vec()).collect())
    }

    /// Fails for bytes that [`Self::encode`] did not make of the same aggregates.
    pub fn decode<'b>(&self, rows: impl Iterator<Item = &'b [u8]>) -> Result<PartialRows> {
        let parser = self.converter.parser();
        let rows = rows.map(|row| parser.parse(row));
        Ok(self.converter.convert_rows(rows)?)
    }

    /// Several after another.
    pub fn concat(&self, parts: &[PartialRows]) -> Result<PartialRows> {
        let first = match parts {
            [] => return self.decode(std::iter::empty()),
            [one] => return Ok(one.clone()),
            [first, ..] => first,
        };
        let columns = (0..first.len()).map(|at| {
            let arrays: Vec<&dyn Array> = parts.iter().map(|part| part[at].as_ref()).collect();
            Ok(concat(&arrays)?)
        });
        columns.collect()
    }
}
