//! The service `Historical`: a spine comes up, its training set goes down.
//!
//! The spine is kept on disk until it is whole, so that a long one holds no
//! memory; rows are sent as they are computed, no faster than they are taken.
//! Whoever goes away takes the work along.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use granary_catalog::Snapshot;
use granary_engine::training::{
    Spine, SpineEvents, Spool, TrainingOptions, TrainingRequest, TrainingSet,
};
use granary_engine::{Engine, EngineError};
use granary_model::ErrorKind;
use granary_proto as pb;
use granary_proto::get_historical_request::Part as Up;
use granary_proto::get_historical_response::Part as Down;
use granary_proto::historical_options::Target;
use granary_proto::historical_server::Historical;
use granary_serving::training::{Selected, backfill};
use granary_serving::{ReadTarget, Reader, ServingError};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::edge::panicked;
use crate::features::caller;
use crate::items::OpenStream;
use crate::metrics::Metrics;
use crate::settings::ServerSettings;
use crate::status::{IntoStatus, status};

/// The time column of a request that names none.
const EVENT_TIME: &str = "event_time";
/// Rows are sent in messages of at most this size.
const MESSAGE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct HistoricalRpc {
    pub reader: Arc<Reader>,
    pub engine: Engine,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<ServerSettings>,
    /// One a training set that may be computed at a time.
    pub permits: Arc<Semaphore>,
    /// One an open stream.
    pub streams: Arc<Semaphore>,
    /// Told when the server shuts down.
    pub closing: CancellationToken,
    /// The threads that compute.
    pub beside: Handle,
}

type Answer = BoxStream<'static, Result<pb::GetHistoricalResponse, Status>>;

#[tonic::async_trait]
impl Historical for HistoricalRpc {
    type GetHistoricalStream = Answer;

    async fn get_historical(
        &self,
        request: Request<Streaming<pb::GetHistoricalRequest>>,
    ) -> Result<Response<Answer>, Status> {
        let caller = caller(&request)?;
        let held = self.hold()?;
        let mut parts = request.into_inner();
        let asked = decode(first(&mut parts).await?)?;
        let snapshot = self.reader.snapshot();
        let selected = self
            .reader
            .select(&snapshot, &caller, &asked.target, asked.options.full_names)
            .map_err(IntoStatus::into_status)?;
        let answer = self.clone().answer(parts, asked, snapshot, selected);
        // A panic is a bug of one request and must not take its connection along.
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let answer = answer.map(move |part| {
            let _held = &held;
            part.unwrap_or_else(|_| Err(panicked()))
        });
        let answer = computed_on(&self.beside, answer);
        let closed = self.closing.clone();
        let farewell = stream::once(async move {
            let message = "the server is shutting down; ask again";
            let closed = closed.is_cancelled();
            closed.then(|| Err(status(ErrorKind::Unavailable, message.to_owned())))
        });
        let answer = answer
            .take_until(self.closing.clone().cancelled_owned())
            .chain(farewell.filter_map(async |last| last));
        Ok(Response::new(answer.boxed()))
    }
}

/// One message down, or why there are no more.
type Part = Result<pb::GetHistoricalResponse, Status>;

/// The same stream, polled by other threads, two parts ahead; dropped, it takes their
/// work along. One that breaks off there ends with an error.
fn computed_on(
    threads: &Handle,
    parts: impl Stream<Item = Part> + Send + 'static,
) -> BoxStream<'static, Part> {
    let (sender, receiver) = mpsc::channel(1);
    let computing = threads.spawn(async move {
        let mut parts = pin!(parts);
        while let Some(part) = parts.next().await {
            if sender.send(part).await.is_err() {
                break;
            }
        }
    });
    let computing = AbortOnDropHandle::new(computing);
    stream::unfold(Some((receiver, computing)), async |computed| {
        let (mut receiver, computing) = computed?;
        if let Some(part) = receiver.recv().await {
            return Some((part, Some((receiver, computing))));
        }
        let broken = computing.await.err()?;
        tracing::error!(%broken, "a training set was broken off");
        Some((Err(panicked()), None))
    })
    .boxed()
}

/// What a request asks.
struct Asked {
    target: ReadTarget,
    time: String,
    options: TrainingOptions,
    request_events: Vec<SpineEvents>,
}

impl HistoricalRpc {
    fn hold(&self) -> Result<(OpenStream, OwnedSemaphorePermit), Status> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            let bound = self.settings.concurrent_training_sets_max;
            let message = format!("{bound} training sets are under way; try again");
            status(ErrorKind::ResourceExhausted, message)
        })?;
        let open = OpenStream::new(&self.streams, &self.metrics, &self.settings)?;
        Ok((open, permit))
    }

    fn answer(
        self,
        parts: Streaming<pb::GetHistoricalRequest>,
        asked: Asked,
        snapshot: Arc<Snapshot>,
        selected: Selected,
    ) -> impl futures::Stream<Item = Result<pb::GetHistoricalResponse, Status>> + Send {
        let metrics = Arc::clone(&self.metrics);
        let planned = async move {
            let spine = self.receive(parts).await?;
            let request = TrainingRequest {
                spine,
                time: asked.time,
                from: selected.from,
                features: selected.features,
                options: asked.options,
                request_events: asked.request_events,
            };
            let set = self.engine.training_set(&snapshot.definitions, request);
            let set = set.await.map_err(refused)?;
            rows(set, snapshot, metrics)
        };
        stream::once(planned).try_flatten()
    }

    /// Keeps the spine on disk until it is whole.
    async fn receive(
        &self,
        mut parts: Streaming<pb::GetHistoricalRequest>,
    ) -> Result<Spine, Status> {
        let bound = self.settings.spine_bytes_max;
        let patience = self.settings.request_time_max();
        let mut decoder = StreamDecoder::new();
        let mut spool: Option<Spool> = None;
        let mut bytes = 0;
        loop {
            let part = tokio::time::timeout(patience, parts.message()).await;
            let part = part.map_err(|_| {
                let message = format!("no part of the spine within {patience:?}");
                status(ErrorKind::DeadlineExceeded, message)
            })?;
            let Some(part) = part? else { break };
            let Some(Up::Spine(part)) = part.part else {
                return Err(invalid("only parts of the spine may follow the options"));
            };
            bytes += part.len() as u64;
            if bytes > bound {
                let message = format!("the spine is over the bound of {bound} bytes");
                return Err(status(ErrorKind::ResourceExhausted, message));
            }
            let mut part = Buffer::from(part);
            while let Some(batch) = decoder
                .decode(&mut part)
                .map_err(|error| wrong_spine(&error))?
            {
                self.spool(&mut spool, batch.schema())?
                    .write(&batch)
                    .map_err(refused)?;
            }
        }
        decoder.finish().map_err(|error| wrong_spine(&error))?;
        let schema = decoder.schema();
        let schema = schema.ok_or_else(|| invalid("the spine is missing: send an Arrow stream"))?;
        self.spool(&mut spool, schema)?;
        match spool {
            Some(spool) => spool.finish().map_err(refused),
            None => Err(invalid("the spine is missing")),
        }
    }

    fn spool<'a>(
        &self,
        spool: &'a mut Option<Spool>,
        schema: SchemaRef,
    ) -> Result<&'a mut Spool, Status> {
        match spool {
            Some(spool) => Ok(spool),
            None => Ok(spool.insert(self.engine.spool(schema).map_err(refused)?)),
        }
    }
}

fn invalid(message: &str) -> Status {
    status(ErrorKind::InvalidArgument, message.to_owned())
}

fn wrong_spine(error: &arrow::error::ArrowError) -> Status {
    invalid(&format!("the spine is no Arrow stream: {error}"))
}

fn refused(error: EngineError) -> Status {
    ServingError::from(error).into_status()
}

/// The options, which come first.
async fn first(
    parts: &mut Streaming<pb::GetHistoricalRequest>,
) -> Result<pb::HistoricalOptions, Status> {
    match parts.message().await?.and_then(|part| part.part) {
        Some(Up::Options(options)) => Ok(options),
        _ => Err(invalid("the first message must hold the options")),
    }
}

fn decode(options: pb::HistoricalOptions) -> Result<Asked, Status> {
    let events = options
        .request_events
        .into_iter()
        .map(|events| SpineEvents {
            stream: events.stream,
            query: (!events.query.is_empty()).then_some(events.query),
        });
    let target = match options.target {
        Some(Target::Service(name)) if !name.is_empty() => ReadTarget::Service(name),
        Some(Target::Features(list)) => ReadTarget::Features(list.features),
        _ => return Err(invalid("name a feature service or a list of features")),
    };
    Ok(Asked {
        target,
        request_events: events.collect(),
        time: match options.time_column.as_str() {
            "" => EVENT_TIME.to_owned(),
            named => named.to_owned(),
        },
        options: TrainingOptions {
            strictly_before: options.strictly_before,
            known_at_the_time: options.known_at_the_time,
            as_served: options.as_served,
            statuses: options.statuses,
            full_names: options.full_names,
        },
    })
}

/// Rows being sent: what encodes them, and whether they have ended.
struct Sending {
    set: TrainingSet,
    rows: BoxStream<'static, Result<arrow::array::RecordBatch, EngineError>>,
    writer: StreamWriter<Vec<u8>>,
    metrics: Arc<Metrics>,
    snapshot: Arc<Snapshot>,
}

/// The rows of a training set as messages, then its report.
fn rows(
    set: TrainingSet,
    snapshot: Arc<Snapshot>,
    metrics: Arc<Metrics>,
) -> Result<impl futures::Stream<Item = Result<pb::GetHistoricalResponse, Status>> + Send, Status> {
    let computed = set.execute().map_err(refused)?;
    let computed = computed.map_err(|error| EngineError::from_query("training set", error));
    let writer =
        StreamWriter::try_new(Vec::new(), &set.schema()).map_err(|error| unsent(&error))?;
    let sending = Sending {
        rows: computed.boxed(),
        set,
        writer,
        metrics,
        snapshot,
    };
    let messages = stream::try_unfold(Some(sending), async |sending| {
        let Some(mut sending) = sending else {
            return Ok::<_, Status>(None);
        };
        let (mut messages, ended) = match sending.rows.next().await.transpose().map_err(refused)? {
            Some(batch) => {
                sending
                    .writer
                    .write(&batch)
                    .map_err(|error| unsent(&error))?;
                sending
                    .metrics
                    .training_rows
                    .inc_by(batch.num_rows() as u64);
                (Vec::new(), false)
            }
            None => {
                sending.writer.finish().map_err(|error| unsent(&error))?;
                (
                    vec![Down::Report(report(&sending.set, &sending.snapshot))],
                    true,
                )
            }
        };
        let bytes = Bytes::from(std::mem::take(sending.writer.get_mut()));
        let cuts = (0..bytes.len()).step_by(MESSAGE_BYTES);
        let parts = cuts.map(|at| bytes.slice(at..bytes.len().min(at + MESSAGE_BYTES)));
        messages.splice(0..0, parts.map(Down::Rows));
        let messages = messages
            .into_iter()
            .map(|part| Ok(pb::GetHistoricalResponse { part: Some(part) }));
        Ok(Some((stream::iter(messages), (!ended).then_some(sending))))
    });
    Ok(messages.try_flatten())
}

fn unsent(error: &arrow::error::ArrowError) -> Status {
    status(ErrorKind::Internal, format!("rows cannot be sent: {error}"))
}

fn report(set: &TrainingSet, snapshot: &Snapshot) -> pb::HistoricalReport {
    let report = set.report();
    let null_keys = report.null_keys.into_iter().filter(|(_, rows)| *rows > 0);
    let without_run = report.without_run.iter();
    pb::HistoricalReport {
        snapshot: snapshot.number,
        rows: report.rows,
        null_times: report.null_times,
        null_keys: null_keys
            .map(|(column, rows)| pb::NullKeys { column, rows })
            .collect(),
        notes: set.notes(),
        without_run: without_run
            .map(|without| pb::WithoutRun {
                view: without.view.clone(),
                rows: without.rows,
                backfill: backfill(&snapshot.definitions, without),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_breaks_off_on_other_threads_does_not_end_as_if_it_were_whole() {
        let whole = stream::iter([Ok(pb::GetHistoricalResponse::default())]);
        let broken = whole.clone().chain(stream::once(async { panic!("a bug") }));
        let threads = Handle::current();
        assert_eq!(computed_on(&threads, whole).count().await, 1);
        let parts: Vec<Part> = computed_on(&threads, broken).collect().await;
        assert!(matches!(parts.as_slice(), [Ok(_), Err(_)]), "{parts:?}");
    }
}
