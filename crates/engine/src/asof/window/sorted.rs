//! Events of some keys, by key and time.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array,
};
use arrow::compute::{concat, filter, take};
use arrow::datatypes::{Int64Type, UInt32Type};
use datafusion::error::{DataFusionError, Result};

use super::dealer::{CREATED, GROUP, TIME};
use super::program::Program;
use crate::asof::kernels::selection::true_rows;
use crate::asof::order::RowOrder;

/// Sorted events of a range of groups.
#[derive(Debug, Clone)]
pub(super) struct Sorted {
    /// Events of the n-th group: `starts[n]..starts[n + 1]`.
    starts: Vec<u32>,
    /// Ascending within a group.
    pub(super) times: Vec<i64>,
    /// Empty where created times are not kept.
    pub(super) created: Vec<i64>,
    /// The kept columns.
    pub(super) events: RecordBatch,
}

impl Sorted {
    /// `batches` are dealt events of these groups, in any order.
    pub(super) fn new(
        program: &Program,
        groups: Range<u32>,
        batches: Vec<RecordBatch>,
    ) -> Result<Self> {
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if u32::try_from(rows).is_err() {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{rows} events fall to {} keys, 4294967295 at most are possible",
                groups.len()
            )));
        }
        let (starts, mut placed) = place(&groups, &batches, rows);
        for bounds in starts.windows(2) {
            let events = &mut placed[bounds[0] as usize..bounds[1] as usize];
            if !events.is_sorted_by_key(|(time, _)| *time) {
                // Stable: files that are sorted by time are runs that it finds.
                events.sort_by_key(|(time, _)| *time);
            }
        }
        let first = if program.known_at_the_time {
            CREATED + 1
        } else {
            TIME + 1
        };
        let mut columns: Vec<ArrayRef> = (first..first + program.kept.len())
            .map(|at| column(&batches, at))
            .collect::<Result<_>>()?;
        break_ties(program, &starts, &mut placed, &columns, rows)?;
        let order: UInt32Array = placed
            .iter()
            .map(|(_, row)| *row)
            .collect::<Vec<_>>()
            .into();
        let created = match program.known_at_the_time {
            true => {
                let created = take(&column(&batches, CREATED)?, &order, None)?;
                created.as_primitive::<Int64Type>().values().to_vec()
            }
            false => Vec::new(),
        };
        drop(batches);
        for column in &mut columns {
            // One at a time: the unsorted column goes at once.
            *column = take(column, &order, None)?;
        }
        Ok(Self {
            times: placed.into_iter().map(|(time, _)| time).collect(),
            events: of_rows(program, columns, rows)?,
            starts,
            created,
        })
    }

    /// The events that are true in the mask.
    pub(super) fn filtered(&self, mask: &BooleanArray) -> Result<Self> {
        let kept = true_rows(mask);
        let mask = BooleanArray::new(kept.clone(), None);
        let keep = |values: &[i64]| -> Vec<i64> {
            kept.set_indices()
                .filter_map(|row| values.get(row))
                .copied()
                .collect()
        };
        let mut starts = vec![0];
        let mut total = 0;
        for bounds in self.starts.windows(2) {
            let (start, end) = (bounds[0] as usize, bounds[1] as usize);
            total += kept.slice(start, end - start).count_set_bits() as u32;
            starts.push(total);
        }
        let columns = self.events.columns().iter();
        let columns = columns.map(|column| Ok(filter(column, &mask)?));
        let rows = RecordBatchOptions::new().with_row_count(Some(total as usize));
        Ok(Self {
            times: keep(&self.times),
            created: keep(&self.created),
            events: RecordBatch::try_new_with_options(
                self.events.schema(),
                columns.collect::<Result<_>>()?,
                &rows,
            )?,
            starts,
        })
    }

    /// Rows of the n-th group.
    pub(super) fn group(&self, n: usize) -> Range<usize> {
        self.starts[n] as usize..self.starts[n + 1] as usize
    }
}

fn of_rows(program: &Program, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let rows = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = program.schema.clone();
    Ok(RecordBatch::try_new_with_options(schema, columns, &rows)?)
}

fn column(batches: &[RecordBatch], at: usize) -> Result<ArrayRef> {
    let arrays: Vec<&dyn Array> = batches.iter().map(|b| b.column(at).as_ref()).collect();
    Ok(concat(&arrays)?)
}

/// Where groups start, and (time, row) by group: a counting sort.
fn place(groups: &Range<u32>, batches: &[RecordBatch], rows: usize) -> (Vec<u32>, Vec<(i64, u32)>) {
    let of_batch = |batch: &RecordBatch| {
        let of_rows = batch.column(GROUP).as_primitive::<UInt32Type>();
        of_rows.values().clone()
    };
    let mut starts = vec![0u32; groups.len() + 1];
    for batch in batches {
        for group in &of_batch(batch) {
            starts[(group - groups.start) as usize + 1] += 1;
        }
    }
    for n in 1..starts.len() {
        starts[n] += starts[n - 1];
    }
    let mut next = starts.clone();
    let mut placed = vec![(0i64, 0u32); rows];
    let mut row = 0;
    for batch in batches {
        let times = batch.column(TIME).as_primitive::<Int64Type>().values();
        for (group, time) in of_batch(batch).iter().zip(times) {
            let next = &mut next[(group - groups.start) as usize];
            placed[*next as usize] = (*time, row);
            *next += 1;
            row += 1;
        }
    }
    (starts, placed)
}

/// Orders events of equal time, where some aggregate minds it.
fn break_ties(
    program: &Program,
    starts: &[u32],
    placed: &mut [(i64, u32)],
    columns: &[ArrayRef],
    rows: usize,
) -> Result<()> {
    let Some(order) = &program.order else {
        return Ok(());
    };
    let mut compare: Option<RowOrder> = None;
    for bounds in starts.windows(2) {
        let events = &mut placed[bounds[0] as usize..bounds[1] as usize];
        for ties in events.chunk_by_mut(|a, b| a.0 == b.0) {
            if ties.len() < 2 {
                continue;
            }
            let compare = match &compare {
                Some(compare) => compare,
                None => {
                    let events = of_rows(program, columns.to_vec(), rows)?;
                    let values = order
                        .iter()
                        .map(|e| e.evaluate(&events)?.into_array(rows))
                        .collect::<Result<Vec<_>>>()?;
                    compare.insert(RowOrder::new(&values, &values)?)
                }
            };
            ties.sort_by(|a, b| compare.compare(a.1 as usize, b.1 as usize));
        }
    }
    Ok(())
}
