//! The service `Streams`: events come in, and go out whole.
//!
//! The rows of a push become one batch of Arrow columns, which
//! [`granary_ingest::Streams`] looks at row by row. A scan sends batches as they
//! are read, no faster than they are taken. Older events: `streams/history.rs`.

mod history;

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use granary_engine::{EngineError, Lost, StreamEvents, StreamSource};
use granary_ingest::{IngestError, OpenEvents, Pushed, StreamStatus, Streams};
use granary_model::definitions::Stream;
use granary_model::{ErrorKind, did_you_mean};
use granary_proto as pb;
use granary_proto::columns;
use granary_proto::push_stream_response::Answer;
use granary_proto::streams_server;
use tokio::sync::Mutex;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::{CallerId, Class};
use crate::edge::panicked;
use crate::features::caller;
use crate::items::Items;
use crate::status::{IntoStatus, status};

/// Events are sent in messages of at most this size.
const MESSAGE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub(crate) struct StreamsRpc {
    pub streams: Arc<Streams>,
    pub items: Items,
    /// Held by a call that brings older events.
    pub history: Arc<Mutex<()>>,
}

#[tonic::async_trait]
impl streams_server::Streams for StreamsRpc {
    async fn push(
        &self,
        request: Request<pb::PushRequest>,
    ) -> Result<Response<pb::PushResponse>, Status> {
        let answer = self.append(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    type PushStreamStream = BoxStream<'static, Result<pb::PushStreamResponse, Status>>;

    async fn push_stream(
        &self,
        request: Request<Streaming<pb::PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        let caller = self.items.admission.caller(&caller(&request)?.name);
        let open = self.items.open()?;
        let rpc = self.clone();
        let answer = move |request| rpc.clone().answer(request, caller);
        let answers = self.items.clone().answers(request.into_inner(), answer);
        let answers = answers.inspect(move |_| {
            let _held = &open;
        });
        Ok(Response::new(answers.boxed()))
    }

    type PushHistoryStream = BoxStream<'static, Result<pb::PushHistoryResponse, Status>>;

    async fn push_history(
        &self,
        request: Request<Streaming<pb::PushHistoryRequest>>,
    ) -> Result<Response<Self::PushHistoryStream>, Status> {
        let open = self.items.open()?;
        let taken = self.clone().take_history(request.into_inner());
        let taken = AssertUnwindSafe(taken).catch_unwind();
        let answer = stream::once(async move {
            let _held = open;
            taken.await.unwrap_or_else(|_| Err(panicked()))
        });
        Ok(Response::new(self.items.until_closing(answer)))
    }

    type ScanStream = BoxStream<'static, Result<pb::ScanResponse, Status>>;

    async fn scan(
        &self,
        request: Request<pb::ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        of_this_machine(&request)?;
        let open = self.items.open()?;
        let request = request.into_inner();
        let stream = self.stream(&request.stream)?;
        let projection = projection(&stream, &request.columns)?;
        let source = OpenEvents(Arc::clone(self.streams.opened()));
        let events = source.scan(&stream, &projection).await.map_err(refused)?;
        let parts = parts(&stream, &projection, events)?;
        let parts = self.items.until_closing(parts).inspect(move |_| {
            let _held = &open;
        });
        Ok(Response::new(parts.boxed()))
    }

    async fn list_streams(
        &self,
        _: Request<pb::ListStreamsRequest>,
    ) -> Result<Response<pb::ListStreamsResponse>, Status> {
        let statuses = self.streams.statuses().await;
        let statuses = statuses.map_err(IntoStatus::into_status)?;
        Ok(Response::new(pb::ListStreamsResponse {
            streams: statuses.into_iter().map(encode_status).collect(),
        }))
    }
}

impl StreamsRpc {
    async fn append(&self, request: pb::PushRequest) -> Result<pb::PushResponse, Status> {
        let began = Instant::now();
        let rows = rows(request.columns, &request.arrow_ipc)?;
        let pushed = self.streams.push(&request.stream, &rows).await;
        let pushed = pushed.map_err(IntoStatus::into_status)?;
        let answer = encode(&pushed, request.include_ids);
        self.items.metrics.pushed(&answer, began.elapsed());
        Ok(answer)
    }

    async fn answer(self, request: pb::PushRequest, by: CallerId) -> pb::PushStreamResponse {
        let asked = (Class::StreamedPush, by);
        let answer = match self.items.item(asked, self.append(request)).await {
            Ok(response) => Answer::Response(response),
            Err(error) => Answer::Error(error),
        };
        pb::PushStreamResponse {
            answer: Some(answer),
        }
    }

    fn stream(&self, name: &str) -> Result<Stream, Status> {
        let open = self.streams.opened().all();
        let stream = open.get(name).map(|stream| stream.definition.clone());
        stream.ok_or_else(|| {
            let unknown = IngestError::UnknownStream {
                name: name.to_owned(),
                suggestion: did_you_mean(name, open.keys().map(String::as_str)),
            };
            unknown.into_status()
        })
    }
}

/// Events are not under the grants of features: whoever is on this machine may
/// read them, as it may read the files of the project.
fn of_this_machine<T>(request: &Request<T>) -> Result<(), Status> {
    let ip = |address: Option<std::net::SocketAddr>| address.map(|a| a.ip().to_canonical());
    let peer = ip(request.remote_addr());
    let here = peer.is_some_and(|ip| IpAddr::is_loopback(&ip))
        || (peer.is_some() && peer == ip(request.local_addr()));
    if here {
        return Ok(());
    }
    let message = "events are read by commands of the server's own machine only";
    Err(status(ErrorKind::PermissionDenied, message.to_owned()))
}

fn invalid(message: &str) -> Status {
    status(ErrorKind::InvalidArgument, message.to_owned())
}

fn refused(error: EngineError) -> Status {
    IngestError::from(error).into_status()
}

fn rows(packed: Vec<pb::Column>, ipc: &Bytes) -> Result<RecordBatch, Status> {
    match (packed.is_empty(), ipc.is_empty()) {
        (false, true) => columns::decode_columns(packed).map_err(IntoStatus::into_status),
        (true, false) => {
            columns::decode_ipc(ipc).map_err(|error| invalid(&format!("arrow_ipc: {error}")))
        }
        (true, true) => Err(invalid("there are no rows: give columns or arrow_ipc")),
        (false, false) => Err(invalid("give columns or arrow_ipc, not both")),
    }
}

fn encode(pushed: &[Pushed], ids: bool) -> pb::PushResponse {
    let mut answer = pb::PushResponse::default();
    for (row, outcome) in pushed.iter().enumerate() {
        let id = match outcome {
            Pushed::Appended(id) => {
                answer.appended += 1;
                Some(id)
            }
            Pushed::Duplicate(id) => {
                answer.duplicates += 1;
                Some(id)
            }
            Pushed::History(id) => {
                answer.history += 1;
                Some(id)
            }
            Pushed::Refused(reason) => {
                answer.refused += 1;
                answer.refused_rows.push(refused_row(row, reason.clone()));
                None
            }
        };
        if ids {
            answer.sequences.push(id.map_or(0, |id| id.sequence));
            let created = id.map_or(0, |id| id.created_time.0);
            answer.created_times.push(created);
        }
    }
    answer
}

fn refused_row(row: usize, reason: String) -> pb::RefusedRow {
    pb::RefusedRow {
        row: u32::try_from(row).unwrap_or(u32::MAX),
        reason,
    }
}

fn encode_status(status: StreamStatus) -> pb::StreamState {
    let state = status.state;
    pb::StreamState {
        stream: status.name,
        events: state.events,
        bytes: state.bytes,
        last_sequence: state.last_sequence,
        last_created_time: state.last_created_time.map(|t| t.0),
        newest_event_time: state.newest_event_time.map(|t| t.0),
        flushed: state.flushed,
        trimmed_before: state.trimmed_before.map(|t| t.0),
        lost: status.lost.map(encode_lost),
        not_open: status.not_open.unwrap_or_default(),
        retention: status.retention,
        needed_by: status.needed_by.into_iter().collect(),
        history: status.history.unwrap_or_default(),
    }
}

fn encode_lost(lost: Lost) -> pb::LostEvents {
    let kept = lost.newest_kept.into_iter();
    pb::LostEvents {
        before: lost.before.0,
        newest_from: lost.newest_from.0,
        newest_kept: kept.map(|(index, n)| (index, n as u64)).collect(),
    }
}

/// Positions of columns in the stream's relation.
fn projection(stream: &Stream, columns: &[String]) -> Result<Vec<usize>, Status> {
    let schema = stream.row_schema();
    let place = |name: &String| {
        schema.index_of(name).map_err(|_| {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            let near = did_you_mean(name, known);
            invalid(&format!(
                "stream {} has no column {name}{near}",
                stream.name
            ))
        })
    };
    columns.iter().map(place).collect()
}

/// Batches as one Arrow IPC stream in messages.
fn parts(
    stream: &Stream,
    projection: &[usize],
    events: StreamEvents,
) -> Result<impl futures::Stream<Item = Result<pb::ScanResponse, Status>> + Send + use<>, Status> {
    let unsent = |error: arrow::error::ArrowError| {
        status(
            ErrorKind::Internal,
            format!("events cannot be sent: {error}"),
        )
    };
    let StreamEvents {
        flushed,
        lost,
        kept,
    } = events;
    let lost = lost.map(encode_lost);
    let schema = stream.row_schema().project(projection).map_err(unsent)?;
    let writer = StreamWriter::try_new(Vec::new(), &schema).map_err(unsent)?;
    let messages = stream::try_unfold(Some((kept, writer)), move |state| {
        let lost = lost.clone();
        async move {
            let Some((mut batches, mut writer)) = state else {
                return Ok::<_, Status>(None);
            };
            let ended = match batches.next().await.transpose().map_err(refused)? {
                Some(batch) => writer.write(&batch).map(|()| false),
                None => writer.finish().map(|()| true),
            };
            let ended = ended.map_err(unsent)?;
            let bytes = Bytes::from(std::mem::take(writer.get_mut()));
            let cuts = (0..bytes.len()).step_by(MESSAGE_BYTES);
            let parts = cuts.map(move |at| {
                let arrow_ipc = bytes.slice(at..bytes.len().min(at + MESSAGE_BYTES));
                Ok(pb::ScanResponse {
                    arrow_ipc,
                    flushed,
                    lost: lost.clone(),
                })
            });
            let parts = stream::iter(parts.collect::<Vec<_>>());
            Ok(Some((parts, (!ended).then_some((batches, writer)))))
        }
    });
    Ok(messages.try_flatten())
}
