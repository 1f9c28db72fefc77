//! The rows of each frame, among rows in memory that are sorted by PARTITION BY
//! and ORDER BY.
//!
//! NULLs stand together at one end of a partition: a distance leads from NULL to
//! NULL only, and from a value never to NULL; UNBOUNDED PRECEDING and the row
//! itself include them as sorted.

use std::ops::Range;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::IntervalMonthDayNano;
use datafusion::error::{DataFusionError, Result};
use datafusion::scalar::ScalarValue;

use super::axis::{Axis, Search};
use super::frame::{Edge, Frame};
use crate::asof::kernels::RowRange;

/// Sorted rows in memory, as frames look at them.
pub(super) struct Sorted {
    /// PARTITION BY partitions, ascending, of all rows. Of the first the
    /// beginning may be gone, of the last the end may be yet to come.
    pub(super) partitions: Vec<RowRange>,
    /// For each row the end of its peers, and their start.
    peers: Vec<RowRange>,
    /// The column that distances are along, with its options.
    axis: Option<(ArrayRef, SortOptions)>,
}

impl Sorted {
    /// `order`: ORDER BY columns, where any frame looks at them.
    pub(super) fn new(
        partition_by: &[ArrayRef],
        order: &[(ArrayRef, SortOptions)],
        row_count: usize,
        looks_at_peers: bool,
    ) -> Result<Self> {
        let partitions = equal_rows(partition_by, row_count)?;
        let peers = match looks_at_peers {
            true => {
                let order = order.iter().map(|(column, _)| column.clone());
                let all: Vec<ArrayRef> = partition_by.iter().cloned().chain(order).collect();
                equal_rows(&all, row_count)?
            }
            false => Vec::new(),
        };
        Ok(Self {
            partitions,
            peers,
            axis: order.first().cloned(),
        })
    }

    /// Where the last group of peers starts.
    pub(super) fn last_peers(&self) -> u32 {
        self.peers.last().map_or(0, |peers| peers.start)
    }

    /// The frames of these rows, all of which must be complete.
    pub(super) fn frames(&self, frame: &Frame, rows: &RowRange) -> Result<Vec<RowRange>> {
        match frame {
            Frame::Partition => Ok(self.each(rows, |_, partition| partition.clone())),
            Frame::Rows { start, end } => Ok(self.each(rows, |row, partition| {
                let back = |rows: u64| {
                    let rows = u32::try_from(rows).unwrap_or(u32::MAX);
                    row.saturating_sub(rows).max(partition.start)
                };
                let end = match u64::from(row - partition.start) < *end {
                    true => partition.start,
                    false => back(*end) + 1,
                };
                start.map_or(partition.start, back).min(end)..end
            })),
            Frame::Range { start, end } => self.by_value(start, end, rows),
        }
    }

    fn each(
        &self,
        rows: &RowRange,
        mut frame: impl FnMut(u32, &RowRange) -> RowRange,
    ) -> Vec<RowRange> {
        let mut frames = Vec::with_capacity(rows.len());
        let first = self.partitions.partition_point(|p| p.end <= rows.start);
        for partition in &self.partitions[first..] {
            let within = partition.start.max(rows.start)..partition.end.min(rows.end);
            frames.extend(within.map(|row| frame(row, partition)));
            if partition.end >= rows.end {
                break;
            }
        }
        frames
    }

    fn by_value(&self, start: &Edge, end: &Edge, rows: &RowRange) -> Result<Vec<RowRange>> {
        let axis = match (start, end) {
            (Edge::Distance(_), _) | (_, Edge::Distance(_)) => Some(self.axis()?),
            _ => None,
        };
        let targets = |edge: &Edge| match (edge, &axis) {
            (Edge::Distance(distance), Some(axis)) => axis.targets(distance, rows).map(Some),
            _ => Ok(None),
        };
        let (starts, ends) = (targets(start)?, targets(end)?);
        let mut peers = self.peers[self.peers.partition_point(|p| p.end <= rows.start)..].iter();
        let mut current = peers.next().cloned().unwrap_or_default();
        let mut search = axis.as_ref().map(Search::new);
        Ok(self.each(rows, |row, partition| {
            while current.end <= row {
                current = peers.next().cloned().unwrap_or(row..row + 1);
            }
            let index = (row - rows.start) as usize;
            let found = search.as_mut().map(|search| {
                search.values_of(partition);
                search.frame(row, &starts, &ends, index)
            });
            let start = match start {
                Edge::Unbounded => partition.start,
                Edge::Peers => current.start,
                Edge::Distance(_) => found.as_ref().and_then(|f| f.0).unwrap_or(current.start),
            };
            let end = match end {
                Edge::Distance(_) => found.and_then(|f| f.1).unwrap_or(current.end),
                _ => current.end,
            };
            start.min(end)..end
        }))
    }

    fn axis(&self) -> Result<Axis> {
        let (column, options) = self
            .axis
            .as_ref()
            .ok_or_else(|| DataFusionError::Internal("a RANGE frame without ORDER BY".into()))?;
        Axis::new(column.clone(), *options)
    }

    /// The first row that frames of `row` and of any later row can reach.
    pub(super) fn reach(&self, distance: &ScalarValue, row: u32) -> Result<u32> {
        let axis = self.axis()?;
        let Some(partition) = self.partitions.iter().find(|p| p.contains(&row)) else {
            return Ok(row);
        };
        let targets = Some(axis.targets(&with_slack(distance), &(row..row + 1))?);
        let mut search = Search::new(&axis);
        search.values_of(partition);
        Ok(search
            .frame(row, &targets, &None, 0)
            .0
            .unwrap_or(row)
            .min(row))
    }
}

/// Calendar months shorten a distance by up to some days from one row to the
/// next: March 30, 23:00 and March 31 lead back to the end of February, in the
/// other order. Time zones add some hours.
fn with_slack(distance: &ScalarValue) -> ScalarValue {
    match distance {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano {
                days: interval.days.saturating_add(4),
                ..*interval
            }))
        }
        other => other.clone(),
    }
}

/// Runs of rows that are equal in all columns.
fn equal_rows(columns: &[ArrayRef], row_count: usize) -> Result<Vec<RowRange>> {
    if row_count == 0 {
        return Ok(Vec::new());
    }
    if columns.is_empty() {
        let all = 0..row_count as u32;
        return Ok(Vec::from([all]));
    }
    let ranges = arrow::compute::partition(columns)?.ranges();
    let small = |range: Range<usize>| range.start as u32..range.end as u32;
    Ok(ranges.into_iter().map(small).collect())
}
