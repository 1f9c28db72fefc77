//! Which rows are in memory. Rows gather until they make a chunk; of these the
//! complete ones are answered, and those that no later frame reaches are let go.
//!
//! A chunk is at least as long as what it carries over, so that every row is
//! looked at a bounded number of times. A long partition is held as far as frames
//! reach; where that is its beginning, aggregates with a small state run along
//! ([`super::running`]), and for others the memory pool is the bound.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, MutableArrayData, RecordBatch, RecordBatchOptions, make_array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::BaselineMetrics;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use futures::StreamExt;
use tokio::sync::mpsc::Sender;

use super::answers::{RunRows, Runs, Windows};
use super::sorted::Sorted;
use crate::asof::kernels::RowRange;

/// Batches that are answered at once, if the memory allows.
const CHUNK_BATCHES: usize = 8;
/// A partition of more batches is run along rather than held.
const HELD_BATCHES: usize = 16;

pub(super) fn run(
    input: SendableRecordBatchStream,
    windows: Windows,
    partition: usize,
    context: &Arc<TaskContext>,
    baseline: BaselineMetrics,
) -> SendableRecordBatchStream {
    let consumer = MemoryConsumer::new(format!("PrecedingWindowsExec[{partition}]"));
    let mut builder = RecordBatchReceiverStreamBuilder::new(windows.output().clone(), 2);
    let work = Work {
        reservation: consumer.register(context.memory_pool()),
        batch_rows: context.session_config().batch_size(),
        sender: builder.tx(),
        windows,
        baseline,
        rows: Vec::new(),
        carried: 0,
        answered: 0,
        runs: None,
    };
    builder.spawn(work.run(input));
    builder.build()
}

struct Work {
    windows: Windows,
    reservation: MemoryReservation,
    batch_rows: usize,
    baseline: BaselineMetrics,
    sender: Sender<Result<RecordBatch>>,
    /// Extended rows; the first `carried` ones are of one partition and have
    /// been looked at before.
    rows: Vec<RecordBatch>,
    carried: usize,
    /// So many of the first rows have been answered.
    answered: u32,
    /// Of the partition of the first row.
    runs: Option<Runs>,
}

impl Work {
    async fn run(mut self, mut input: SendableRecordBatchStream) -> Result<()> {
        let chunk_rows = CHUNK_BATCHES * self.batch_rows;
        while let Some(batch) = input.next().await.transpose()? {
            if batch.num_rows() == 0 {
                continue;
            }
            self.rows.push(self.windows.columns().extend(&batch)?);
            let waiting = self.row_count() - self.carried;
            let exhausted = self.reserve().is_err();
            if (exhausted || waiting >= chunk_rows.max(self.carried)) && !self.step(false).await? {
                return Ok(());
            }
            if exhausted {
                self.reserve().map_err(|error| self.too_long(&error))?;
            }
        }
        self.step(true).await?;
        Ok(())
    }

    fn row_count(&self) -> usize {
        self.rows.iter().map(RecordBatch::num_rows).sum()
    }

    /// Room for the rows and for the chunk that they are joined to.
    fn reserve(&mut self) -> Result<()> {
        let rows: usize = self.rows.iter().map(get_record_batch_memory_size).sum();
        let runs = self.runs.as_ref().map_or(0, Runs::size);
        self.reservation.try_resize(2 * rows + runs)
    }

    fn too_long(&self, error: &DataFusionError) -> DataFusionError {
        DataFusionError::ResourcesExhausted(format!(
            "windows need {} rows of {} in memory at once; frames that start nearer need fewer. {error}",
            self.row_count(),
            self.windows.partition_words(),
        ))
    }

    /// Answers what can be answered; `false`: nobody listens any more.
    async fn step(&mut self, ended: bool) -> Result<bool> {
        let answers = {
            let elapsed = self.baseline.elapsed_compute().clone();
            let _timer = elapsed.timer();
            self.answer(ended)?
        };
        for start in (0..answers.num_rows()).step_by(self.batch_rows) {
            let rows = self.batch_rows.min(answers.num_rows() - start);
            self.baseline.record_output(rows);
            if self
                .sender
                .send(Ok(answers.slice(start, rows)))
                .await
                .is_err()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn answer(&mut self, ended: bool) -> Result<RecordBatch> {
        let rows = concat_batches(self.windows.columns().schema(), &self.rows)?;
        let row_count = u32::try_from(rows.num_rows()).map_err(|_| {
            let error = DataFusionError::ResourcesExhausted("4294967295 rows at most".into());
            self.too_long(&error)
        })?;
        let sorted = self.windows.sorted(&rows)?;
        let Some(last) = sorted.partitions.last().cloned() else {
            return Ok(RecordBatch::new_empty(self.windows.output().clone()));
        };
        let first_end = sorted.partitions[0].end;
        let goes_on = first_end == last.end && self.runs.is_some();
        let long = last.len() > HELD_BATCHES * self.batch_rows && self.windows.can_run();
        let mut begun = match long && !goes_on && !ended && last.start >= self.answered {
            true => Some(self.windows.runs(last.start)?),
            false => None,
        };
        let running = goes_on || begun.is_some();
        let until = match ended {
            true => row_count,
            false => self.complete(&sorted, &last, running),
        };
        let until = until.max(self.answered);
        let answered = self.answered..until;
        let mut runs = Vec::new();
        if let Some(of_first) = &mut self.runs {
            let rows = self.answered..until.min(first_end);
            runs.push(RunRows {
                runs: of_first,
                rows,
            });
        }
        if let Some(of_last) = &mut begun {
            let rows = last.start.max(self.answered)..until;
            runs.push(RunRows {
                runs: of_last,
                rows,
            });
        }
        let answers = self.windows.answer(&rows, &sorted, &answered, &mut runs)?;
        if !goes_on {
            self.runs = begun;
        }
        if ended {
            self.rows.clear();
            self.reservation.free();
            return Ok(answers);
        }
        let keep = self
            .windows
            .reach(&sorted, &last, until, self.runs.as_ref())?;
        if let Some(runs) = &mut self.runs {
            runs.forget(keep);
        }
        self.answered = until - keep;
        self.carried = (row_count - keep) as usize;
        self.rows = vec![compact(&rows.slice(keep as usize, self.carried))?];
        // What was let go is free from here on; more is asked for with the next rows.
        let bytes: usize = self.rows.iter().map(get_record_batch_memory_size).sum();
        let runs = self.runs.as_ref().map_or(0, Runs::size);
        let _ = self.reservation.try_resize(bytes + runs);
        Ok(answers)
    }

    /// The end of the rows that can be answered though more may come.
    fn complete(&self, sorted: &Sorted, last: &RowRange, running: bool) -> u32 {
        let mut until = last.end;
        if self.windows.looks_at_peers() {
            until = sorted.last_peers();
        }
        if self.windows.looks_at_partition() || (self.windows.can_run() && !running) {
            until = last.start;
        }
        until.max(last.start)
    }
}

/// Rows that hold no memory of others.
fn compact(rows: &RecordBatch) -> Result<RecordBatch> {
    let compact = |column: &ArrayRef| -> Result<ArrayRef> {
        Ok(match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => {
                let data = column.to_data();
                let mut copy = MutableArrayData::new(vec![&data], false, data.len());
                copy.try_extend(0, 0, data.len())?;
                make_array(copy.freeze())
            }
        })
    };
    let columns = rows.columns().iter().map(compact).collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    Ok(RecordBatch::try_new_with_options(
        rows.schema(),
        columns,
        &options,
    )?)
}
