//! The execution: parts of the spine, for each a pass over the events and then
//! bucket after bucket, on all cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::common::runtime::SpawnedTask;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ScopedTimerGuard, SpillMetrics, Time,
};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;
use tokio::sync::Mutex;
use tokio::sync::mpsc::Sender;

use super::AsOfWindowSpec;
use super::answers::{Answers, Results};
use super::bucket::{Piece, aggregate};
use super::dealer::{Deal, Dealer};
use super::program::Program;
use super::sorted::Sorted;
use super::store::Store;
use crate::asof::compact::row_bytes;
use crate::asof::parts::{Parts, RowCost, column, is_exhausted};
use crate::asof::spine::Spine;
use crate::asof::time::micros;

/// What a row of the spine costs besides its own bytes and its results.
const ROW_BYTES: usize = 64;
/// What a text or a list takes, roughly.
const VARIABLE_BYTES: usize = 64;
/// Share of the memory pool for events that wait for their bucket's turn.
const HELD_SHARE: usize = 2;
/// Bytes of all chunks in the making, before they are put in order, at most.
const CHUNK_BYTES_MAX: usize = 64 << 20;
/// Share for those of the memory for events, one in so many.
const CHUNK_SHARE: usize = 8;
/// Bytes below which a chunk is more work than use.
const CHUNK_BYTES_MIN: usize = 16 << 10;
/// What an event in a bucket takes besides its own bytes, those of a copy
/// included: order, masks, trees of kernels.
const EVENT_BYTES: usize = 64;
/// What a position takes for each output: its range and its result.
const POSITION_BYTES: usize = 32;

/// Times and counts of an execution.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) elapsed: Time,
    /// Waiting for events: what their plan takes.
    pub(super) read: Time,
    /// Dealing events out and sorting them.
    pub(super) sort: Time,
    pub(super) aggregate: Time,
    pub(super) spine_parts: Count,
    pub(super) event_rows: Count,
    pub(super) spills: SpillMetrics,
}

impl Metrics {
    fn sorting(&self) -> [ScopedTimerGuard<'_>; 2] {
        [self.elapsed.timer(), self.sort.timer()]
    }

    fn aggregating(&self) -> [ScopedTimerGuard<'_>; 2] {
        [self.elapsed.timer(), self.aggregate.timer()]
    }
}

/// Everything but the spine's stream.
pub(super) struct Work {
    pub(super) spec: Arc<AsOfWindowSpec>,
    pub(super) program: Arc<Program>,
    pub(super) events: Arc<dyn ExecutionPlan>,
    pub(super) schema: SchemaRef,
    pub(super) baseline: BaselineMetrics,
    pub(super) metrics: Metrics,
    pub(super) context: Arc<TaskContext>,
}

impl Work {
    pub(super) async fn run(
        self,
        spine: SendableRecordBatchStream,
        sender: Sender<Result<RecordBatch>>,
    ) -> Result<()> {
        let row_cost = RowCost {
            spine: ROW_BYTES,
            results: self.result_bytes(),
        };
        let mut parts = Parts::new(spine, "AsOfWindowExec", row_cost, self.context.clone());
        loop {
            let part = parts.next().await?;
            if part.is_empty() {
                return Ok(());
            }
            let answers = match self.answer(&part).await {
                Err(error) if is_exhausted(&error) && parts.halve(&part) => continue,
                answers => answers?,
            };
            let mut start = 0;
            for batch in &part {
                let timer = self.metrics.elapsed.timer();
                let rows = start..start + batch.num_rows();
                start = rows.end;
                let batch = answers.batch(&self.schema, batch, rows)?;
                timer.done();
                self.baseline.record_output(batch.num_rows());
                if sender.send(Ok(batch)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// What the results of a row take, roughly.
    fn result_bytes(&self) -> usize {
        let fields = self.schema.fields();
        let outputs = &fields[fields.len() - self.program.output_count..];
        let bytes = |output: &FieldRef| {
            let width = output.data_type().primitive_width();
            width.unwrap_or(VARIABLE_BYTES) + 1
        };
        outputs.iter().map(bytes).sum()
    }

    async fn answer(&self, part: &[RecordBatch]) -> Result<Answers> {
        self.metrics.spine_parts.add(1);
        let timer = self.metrics.elapsed.timer();
        let on = self.spec.on.iter();
        let keys: Vec<ArrayRef> = on
            .map(|(expression, _)| column(expression, part))
            .collect::<Result<_>>()?;
        let times = micros(&column(&self.spec.time, part)?)?;
        let spine = Arc::new(Spine::new(&keys, &times)?);
        let (spec, program) = (self.spec.clone(), self.program.clone());
        let held_bytes_max = match self.context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / HELD_SHARE,
            _ => usize::MAX,
        };
        let deal = Deal::new(spec, program, spine.clone(), held_bytes_max);
        let deal = Arc::new(deal);
        timer.done();
        // Before events take what there is.
        let results = self.reservation("results");
        results.try_grow(spine.position_count() * self.result_bytes())?;
        let results = Arc::new(Taken {
            reservation: results,
            bytes: AtomicUsize::new(0),
        });
        let mut found = Vec::new();
        if spine.position_count() > 0 {
            let store = Arc::new(self.deal(&deal).await?);
            found = self.aggregate(&deal, &store, &results).await?;
        }
        let _timer = self.metrics.elapsed.timer();
        Answers::new(&self.program, &spine, found, results)
    }

    fn reservation(&self, what: &str) -> MemoryReservation {
        MemoryConsumer::new(format!("AsOfWindowExec[{what}]")).register(self.context.memory_pool())
    }

    /// One pass over the events.
    async fn deal(&self, deal: &Arc<Deal>) -> Result<Store> {
        let held = MemoryConsumer::new("AsOfWindowExec[events]").with_can_spill(true);
        let store = Store::new(
            deal.schema.clone(),
            deal.buckets.count(),
            deal.held_bytes_max,
            held.register(self.context.memory_pool()),
            self.context.runtime_env().disk_manager.clone(),
            self.metrics.spills.clone(),
        );
        let store = Arc::new(Mutex::new(store));
        // A plan with exchanges in it can be executed once only: each pass has its own.
        let events = reset_plan_states(self.events.clone())?;
        let partitions = events.output_partitioning().partition_count();
        let chunk_bytes_max = CHUNK_BYTES_MAX.min(deal.held_bytes_max / CHUNK_SHARE);
        let chunk_bytes_max = (chunk_bytes_max / partitions.max(1)).max(CHUNK_BYTES_MIN);
        let mut passes = Vec::new();
        for partition in 0..partitions {
            let pass = Pass {
                dealer: Dealer::new(deal.clone(), chunk_bytes_max),
                store: store.clone(),
                reservation: self.reservation(&partition.to_string()),
                metrics: self.metrics.clone(),
            };
            let stream = events.execute(partition, self.context.clone())?;
            passes.push(SpawnedTask::spawn(pass.run(stream)));
        }
        for pass in passes {
            joined(pass).await?;
        }
        let store = Arc::into_inner(store).map(Mutex::into_inner);
        store.ok_or_else(|| DataFusionError::Internal("a pass over events goes on".into()))
    }

    /// All buckets, the largest first, each on the next core that is free.
    async fn aggregate(
        &self,
        deal: &Arc<Deal>,
        store: &Arc<Store>,
        results: &Arc<Taken>,
    ) -> Result<Vec<Results>> {
        let mut order: Vec<usize> = (0..deal.buckets.count()).collect();
        order.retain(|bucket| store.rows(*bucket) > 0);
        order.sort_by_key(|bucket| std::cmp::Reverse(store.rows(*bucket)));
        let order = Arc::new(order);
        let next = Arc::new(AtomicUsize::new(0));
        let cores = self.context.session_config().target_partitions();
        let workers: Vec<_> = (0..cores.min(order.len()))
            .map(|core| {
                let worker = Worker {
                    deal: deal.clone(),
                    store: store.clone(),
                    order: order.clone(),
                    next: next.clone(),
                    reservation: self.reservation(&format!("bucket {core}")),
                    results: results.clone(),
                    metrics: self.metrics.clone(),
                };
                SpawnedTask::spawn(worker.run())
            })
            .collect();
        let mut found = Vec::new();
        for worker in workers {
            found.extend(joined(worker).await?);
        }
        Ok(found)
    }
}

async fn joined<T: 'static>(task: SpawnedTask<Result<T>>) -> Result<T> {
    let result = task.join_unwind().await;
    result.map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))?
}

/// Memory that is reserved before it is needed.
pub(super) struct Taken {
    reservation: MemoryReservation,
    bytes: AtomicUsize,
}

impl Taken {
    /// More than was reserved is asked for.
    fn take(&self, bytes: usize) -> Result<()> {
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match taken.checked_sub(self.reservation.size()) {
            Some(missing) => self.reservation.try_grow(missing),
            None => Ok(()),
        }
    }
}

/// A pass over one partition of the events.
struct Pass {
    dealer: Dealer,
    store: Arc<Mutex<Store>>,
    reservation: MemoryReservation,
    metrics: Metrics,
}

impl Pass {
    async fn run(mut self, mut stream: SendableRecordBatchStream) -> Result<()> {
        loop {
            let timer = self.metrics.read.timer();
            let batch = stream.next().await.transpose()?;
            timer.done();
            let Some(batch) = batch else {
                break;
            };
            self.metrics.event_rows.add(batch.num_rows());
            let timers = self.metrics.sorting();
            let due = self.dealer.offer(&batch)?;
            drop(timers);
            // What is in hand must be put in order, reserved or not.
            self.reservation.resize(2 * self.dealer.bytes());
            if due {
                self.flush().await?;
            }
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        let timers = self.metrics.sorting();
        let chunk = self.dealer.chunk()?;
        drop(timers);
        if let Some(chunk) = chunk {
            let mut store = self.store.lock().await;
            let _timers = self.metrics.sorting();
            store.push(chunk)?;
        }
        self.reservation.free();
        Ok(())
    }
}

/// Aggregates buckets.
struct Worker {
    deal: Arc<Deal>,
    store: Arc<Store>,
    order: Arc<Vec<usize>>,
    next: Arc<AtomicUsize>,
    reservation: MemoryReservation,
    results: Arc<Taken>,
    metrics: Metrics,
}

impl Worker {
    async fn run(self) -> Result<Vec<Results>> {
        let mut found = Vec::new();
        loop {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(bucket) = self.order.get(next) else {
                return Ok(found);
            };
            self.bucket(*bucket, &mut found)?;
            self.reservation.free();
            // A cancelled query ends here.
            tokio::task::yield_now().await;
        }
    }

    /// Piece after piece: what does not fit into memory is halved.
    fn bucket(&self, bucket: usize, found: &mut Vec<Results>) -> Result<()> {
        let spine = &self.deal.spine;
        let whole = Piece::of(spine, self.deal.buckets.groups(bucket));
        let mut pieces = vec![whole.clone()];
        while let Some(piece) = pieces.pop() {
            if piece.positions.is_empty() {
                continue;
            }
            let outputs = match self.piece(bucket, &piece, piece == whole) {
                Err(error) if is_exhausted(&error) => {
                    self.reservation.free();
                    let halves = piece.halves(&self.deal.program, spine);
                    let (first, second) = halves.ok_or(error)?;
                    pieces.push(second);
                    pieces.push(first);
                    continue;
                }
                outputs => outputs?,
            };
            let bytes = outputs.iter().map(row_bytes).sum();
            self.results.take(bytes)?;
            found.push((piece, outputs));
        }
        Ok(())
    }

    fn piece(&self, bucket: usize, piece: &Piece, whole: bool) -> Result<Vec<ArrayRef>> {
        let program = &self.deal.program;
        let timers = self.metrics.sorting();
        let mut batches = Vec::new();
        let mut rows = if whole { self.store.rows(bucket) } else { 0 };
        self.reserve(piece, rows)?;
        for batch in self.store.batches(bucket) {
            let mut batch = batch?;
            if !whole {
                batch = self.deal.within(piece, &batch)?;
                rows += batch.num_rows();
                self.reserve(piece, rows)?;
            }
            batches.push(batch);
        }
        if batches.is_empty() {
            batches.push(RecordBatch::new_empty(self.deal.schema.clone()));
        }
        let sorted = Sorted::new(program, piece.groups.clone(), batches)?;
        drop(timers);
        let _timers = self.metrics.aggregating();
        aggregate(program, &self.deal.spine, piece, &sorted)
    }

    fn reserve(&self, piece: &Piece, rows: usize) -> Result<()> {
        let copies = if self.deal.program.copies() { 3 } else { 2 };
        let event = copies * self.store.row_bytes() + EVENT_BYTES;
        let position = self.deal.program.output_count * POSITION_BYTES;
        let bytes = rows * event + piece.positions.len() * position;
        self.reservation.try_resize(bytes)
    }
}
