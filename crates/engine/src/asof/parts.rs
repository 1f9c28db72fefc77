//! The spine in parts that fit into memory, each of which costs one pass over
//! the events.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use futures::StreamExt;

use super::compact::row_bytes;

/// Share of the free memory that a part may take, one in so many.
const PART_SHARE: usize = 4;
/// Bytes of a part where the pool is unbounded.
const PART_BYTES_MAX: usize = 1 << 30;

/// What a row of a part costs besides its own bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowCost {
    /// Bytes that are reserved with the part.
    pub(super) spine: usize,
    /// Bytes that whoever works the part off will reserve.
    pub(super) results: usize,
}

/// Parts of a spine, one in memory at a time.
pub(super) struct Parts {
    spine: SendableRecordBatchStream,
    ready: VecDeque<Vec<RecordBatch>>,
    row_cost: RowCost,
    context: Arc<TaskContext>,
    reservation: MemoryReservation,
}

impl Parts {
    pub(super) fn new(
        spine: SendableRecordBatchStream,
        operator: &str,
        row_cost: RowCost,
        context: Arc<TaskContext>,
    ) -> Self {
        let consumer = MemoryConsumer::new(format!("{operator}[spine]"));
        Self {
            spine,
            ready: VecDeque::new(),
            row_cost,
            reservation: consumer.register(context.memory_pool()),
            context,
        }
    }

    /// Batches, as many as fit; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<RecordBatch>> {
        if let Some(part) = self.ready.pop_front() {
            return Ok(part);
        }
        self.reservation.free();
        let pool = self.context.memory_pool();
        let bytes_max = match pool.memory_limit() {
            // Other operators of a plan hold parts of their own.
            MemoryLimit::Finite(bytes) => bytes.saturating_sub(pool.reserved()) / PART_SHARE,
            _ => PART_BYTES_MAX,
        };
        let mut part = Vec::new();
        let mut results = 0;
        while self.reservation.size() + results < bytes_max.max(1) {
            let Some(batch) = self.spine.next().await.transpose()? else {
                break;
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let rows = batch.num_rows();
            let bytes: usize = batch.columns().iter().map(row_bytes).sum();
            let bytes = bytes + rows * self.row_cost.spine;
            results += rows * self.row_cost.results;
            // A batch in hand must be worked off, reserved or not.
            self.reservation.grow(bytes);
            part.push(batch);
        }
        Ok(part)
    }

    /// Puts a part back as two: half of the spine needs half of the memory.
    /// `false`: it is one row.
    pub(super) fn halve(&mut self, part: &[RecordBatch]) -> bool {
        let (first, second) = match part {
            [] => return false,
            [one] => {
                let middle = one.num_rows() / 2;
                if middle == 0 {
                    return false;
                }
                let second = one.slice(middle, one.num_rows() - middle);
                (vec![one.slice(0, middle)], vec![second])
            }
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                (first.to_vec(), second.to_vec())
            }
        };
        self.ready.push_front(second);
        self.ready.push_front(first);
        true
    }
}

/// An expression over all batches of a part.
pub(super) fn column(expression: &Arc<dyn PhysicalExpr>, part: &[RecordBatch]) -> Result<ArrayRef> {
    let evaluate = |batch: &RecordBatch| expression.evaluate(batch)?.into_array(batch.num_rows());
    let arrays = part.iter().map(evaluate).collect::<Result<Vec<_>>>()?;
    let arrays: Vec<_> = arrays.iter().map(AsRef::as_ref).collect();
    Ok(concat(&arrays)?)
}

/// Whether it is memory that is missing.
pub(super) fn is_exhausted(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ResourcesExhausted(_))
}
