//! The log of what is served: a sample of reads, written off their path.
//!
//! A read hands its answer over and goes on: what finds no room is counted and
//! not logged. One task makes rows of the answers and appends them to the tables
//! of the services every so often, when enough are waiting, and when the server
//! ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use granary_catalog::Catalog;
use granary_engine::{Engine, ReadLog};
use granary_serving::verify::{LoggedRead, LoggedService};
use granary_serving::{Answer, ReadRequest, ServingError};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::background::every;
use crate::metrics::Metrics;
use crate::serve::Components;
use crate::settings::ServerSettings;

/// Answers that wait for the task.
const ANSWERS_AHEAD: usize = 1_024;

/// Where reads hand their answers over. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ReadLogger {
    sender: Sender<(LoggedRead, Answer)>,
    metrics: Arc<Metrics>,
}

impl ReadLogger {
    /// Hands an answer over, unless there is no room.
    pub fn offer(&self, read: LoggedRead, answer: &Answer) {
        if !hand_over(&self.sender, || (read, answer.clone())) {
            let entities = answer.entities as u64;
            self.metrics.read_log.unlogged.inc_by(entities);
        }
    }

    /// What to hand over once a read is answered, if it is to be logged.
    pub fn keep(&self, request: &ReadRequest) -> Option<LoggedRead> {
        LoggedRead::of(request)
    }
}

/// Makes something only where there is room for it; false where there is none.
fn hand_over<T>(to: &Sender<T>, make: impl FnOnce() -> T) -> bool {
    to.try_reserve().map(|place| place.send(make())).is_ok()
}

/// The task that writes.
#[derive(Debug)]
struct LogWriter {
    engine: Engine,
    catalog: Catalog,
    settings: Arc<ServerSettings>,
    metrics: Arc<Metrics>,
    offered: Receiver<(LoggedRead, Answer)>,
    /// By service and catalog snapshot; `None`: it cannot be logged.
    tables: BTreeMap<(String, u64), Option<Arc<Table>>>,
    waiting: BTreeMap<(String, u64), Vec<RecordBatch>>,
    waiting_rows: usize,
}

#[derive(Debug)]
struct Table {
    service: LoggedService,
    log: ReadLog,
}

/// Starts the task, and gives what reads hand their answers to; `None` where
/// nothing is to be logged.
pub(crate) fn read_log(
    components: &Components,
    settings: &Arc<ServerSettings>,
    metrics: &Arc<Metrics>,
    (tasks, closing): (&TaskTracker, &CancellationToken),
) -> Option<ReadLogger> {
    if settings.log_reads <= 0.0 {
        return None;
    }
    let (sender, offered) = mpsc::channel(ANSWERS_AHEAD);
    let writer = LogWriter {
        engine: components.engine.clone(),
        catalog: components.catalog.clone(),
        settings: Arc::clone(settings),
        metrics: Arc::clone(metrics),
        offered,
        tables: BTreeMap::new(),
        waiting: BTreeMap::new(),
        waiting_rows: 0,
    };
    tasks.spawn(writer.run(closing.clone()));
    Some(ReadLogger {
        sender,
        metrics: Arc::clone(metrics),
    })
}

impl LogWriter {
    /// Writes until no read can come any more.
    async fn run(mut self, closing: CancellationToken) {
        let mut ticks = every(Duration::from_secs(self.settings.log_reads_seconds.max(1)));
        let bound = Duration::from_secs(self.settings.shutdown_seconds_max);
        let last = async {
            closing.cancelled().await;
            tokio::time::sleep(bound).await;
        };
        tokio::pin!(last);
        loop {
            tokio::select! {
                read = self.offered.recv() => match read {
                    Some((read, answer)) => self.take(read, answer).await,
                    None => break,
                },
                _ = ticks.tick() => self.flush().await,
                () = &mut last => break,
            }
        }
        self.flush().await;
    }

    async fn take(&mut self, read: LoggedRead, answer: Answer) {
        let key = (read.service.clone(), answer.snapshot());
        let entities = answer.entities as u64;
        let Some(table) = self.table(&key).await else {
            self.metrics.read_log.unlogged.inc_by(entities);
            return;
        };
        let share = self.settings.log_reads;
        let rows = answer.into_response();
        match rows.and_then(|response| table.service.rows(&read, &response, share)) {
            Ok(rows) if rows.num_rows() == 0 => {}
            Ok(rows) => {
                self.waiting_rows += rows.num_rows();
                self.waiting.entry(key).or_default().push(rows);
            }
            Err(error) => {
                self.metrics.read_log.unlogged.inc_by(entities);
                tracing::warn!(service = read.service, %error, "a read is not logged");
            }
        }
        if self.waiting_rows >= self.settings.log_reads_rows_max.max(1) {
            self.flush().await;
        }
    }

    async fn table(&mut self, key: &(String, u64)) -> Option<Arc<Table>> {
        if let Some(known) = self.tables.get(key) {
            return known.clone();
        }
        let (service, snapshot) = key;
        let table = match self.open(service, *snapshot).await {
            Ok(table) => Some(Arc::new(table)),
            Err(error) => {
                tracing::warn!(service, %error, "its reads are not logged");
                // Of another error it may be better with the next read.
                if !matches!(error, ServingError::Invalid(_)) {
                    return None;
                }
                None
            }
        };
        // Of each service the newest two: a read may be answered by an older one.
        let mut older = self.tables.keys().filter(|(name, _)| name == service);
        let oldest = older.next().cloned();
        if let (true, Some(oldest)) = (older.next().is_some(), oldest) {
            self.tables.remove(&oldest);
        }
        self.tables.insert(key.clone(), table.clone());
        table
    }

    async fn open(&self, service: &str, snapshot: u64) -> Result<Table, ServingError> {
        let snapshot = self.catalog.at(snapshot).await?;
        let logged = LoggedService::of(&self.engine, &snapshot, service).await?;
        let log = ReadLog::of(&self.engine, service, Arc::clone(logged.schema()))?;
        Ok(Table {
            service: logged,
            log,
        })
    }

    /// Appends what is waiting; what cannot be is counted and let go.
    async fn flush(&mut self) {
        self.waiting_rows = 0;
        for (key, batches) in std::mem::take(&mut self.waiting) {
            let rows: u64 = batches.iter().map(|batch| batch.num_rows() as u64).sum();
            match self.append(&key, &batches).await {
                Ok(()) => self.metrics.read_log.logged.inc_by(rows),
                Err(error) => {
                    self.metrics.read_log.unlogged.inc_by(rows);
                    tracing::warn!(service = key.0, rows, %error, "reads are not logged");
                }
            }
        }
    }

    async fn append(
        &mut self,
        key: &(String, u64),
        batches: &[RecordBatch],
    ) -> Result<(), ServingError> {
        let Some(table) = self.table(key).await else {
            return Err(ServingError::Invalid("the table is gone".into()));
        };
        let rows = concat_batches(table.service.schema(), batches)
            .map_err(|error| ServingError::Invalid(error.to_string()))?;
        Ok(table.log.append(&rows).await?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use granary_model::{Caller, UtcMicros};
    use granary_serving::ReadTarget;

    use super::*;

    fn request(target: ReadTarget, as_of: Option<UtcMicros>) -> ReadRequest {
        let ids: Int64Array = vec![1, 2].into();
        ReadRequest {
            caller: Caller::named("test"),
            target,
            keys: RecordBatch::try_from_iter([("id", Arc::new(ids) as _)]).unwrap(),
            inputs: Vec::new(),
            request_events: Vec::new(),
            as_of,
            strictly_before: false,
            full_names: false,
        }
    }

    #[test]
    fn a_read_waits_for_nobody_and_what_finds_no_room_is_not_made() {
        let (sender, mut offered) = mpsc::channel(1);
        assert!(hand_over(&sender, || 1));
        assert!(!hand_over(&sender, || panic!("there is no room")));
        assert_eq!(offered.try_recv().unwrap(), 1);
        assert!(offered.try_recv().is_err());
        drop(offered);
        assert!(!hand_over(&sender, || panic!("nobody comes after")));
    }

    #[test]
    fn reads_of_a_list_or_of_another_time_are_not_logged() {
        let metrics = Arc::new(Metrics::new(&[]).unwrap());
        let (sender, _offered) = mpsc::channel(1);
        let logger = ReadLogger { sender, metrics };
        let list = request(ReadTarget::Features(vec!["v.x".into()]), None);
        let past = request(ReadTarget::Service("s".into()), Some(UtcMicros(0)));
        assert!(logger.keep(&list).is_none());
        assert!(logger.keep(&past).is_none());
    }
}
