//! Streams: pushing events and older ones, what is known of them, and reading them whole.

use std::collections::BTreeMap;
use std::fmt;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use granary_model::UtcMicros;
use granary_proto as pb;
use granary_proto::columns;
use granary_proto::push_stream_response::Answer;
use tokio::sync::oneshot;
use tonic::{Code, Streaming};

use crate::client::Client;
use crate::error::ClientError;

/// Rows to append to a stream.
#[derive(Debug, Clone)]
pub struct Push {
    pub stream: String,
    /// Every column of the stream, by name.
    pub rows: RecordBatch,
    /// Also ask for the sequence and created time of each row.
    pub ids: bool,
    /// Send packed columns in place of one Arrow IPC stream.
    pub as_columns: bool,
}

impl Push {
    /// Rows as Arrow IPC, without their numbers in the answer.
    pub fn new(stream: impl Into<String>, rows: RecordBatch) -> Self {
        Self {
            stream: stream.into(),
            rows,
            ids: false,
            as_columns: false,
        }
    }

    fn encode(&self) -> Result<pb::PushRequest, ClientError> {
        let mut request = pb::PushRequest {
            stream: self.stream.clone(),
            include_ids: self.ids,
            ..pb::PushRequest::default()
        };
        if self.as_columns {
            request.columns = columns::encode_columns(&self.rows).map_err(ClientError::request)?;
        } else {
            request.arrow_ipc = columns::encode_ipc(&self.rows).map_err(ClientError::request)?;
        }
        Ok(request)
    }
}

/// What became of pushed rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PushAnswer {
    pub appended: u64,
    pub duplicates: u64,
    /// Rows that are too old to be kept and are in the history only.
    pub history: u64,
    /// Positions of refused rows, and why.
    pub refused: Vec<(usize, String)>,
    /// Of each row, where asked for; `None` of refused rows.
    pub ids: Vec<Option<EventNumber>>,
}

/// What an event got when it was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventNumber {
    /// Counts the events of its stream from 1.
    pub sequence: u64,
    pub created_time: UtcMicros,
}

impl PushAnswer {
    fn decode(answer: pb::PushResponse) -> Self {
        let refused = answer.refused_rows.into_iter();
        let ids = answer.sequences.into_iter().zip(answer.created_times);
        let id = |(sequence, created): (u64, i64)| {
            let created_time = UtcMicros(created);
            (sequence > 0).then_some(EventNumber {
                sequence,
                created_time,
            })
        };
        Self {
            appended: answer.appended,
            duplicates: answer.duplicates,
            history: answer.history,
            refused: refused.map(|r| (r.row as usize, r.reason)).collect(),
            ids: ids.map(id).collect(),
        }
    }
}

/// What became of a call of older events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryAnswer {
    /// Rows that are in the history now.
    pub added: u64,
    /// Rows that were there, or came earlier in the call.
    pub duplicates: u64,
    pub refused: u64,
    /// Positions of refused rows in the call, and why: the first of them.
    pub reasons: Vec<(usize, String)>,
}

/// What is known of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    pub name: String,
    /// Events kept.
    pub events: u64,
    /// Bytes of what is kept, indexes apart.
    pub bytes: u64,
    /// 0 before the first event.
    pub last_sequence: u64,
    pub last_created_time: Option<UtcMicros>,
    pub newest_event_time: Option<UtcMicros>,
    /// Up to which sequence events are in the history table.
    pub flushed: u64,
    /// Events before it may be gone from what is kept.
    pub trimmed_before: Option<UtcMicros>,
    /// What it lost.
    pub lost: Option<LostEvents>,
    /// What is kept, in words.
    pub retention: String,
    /// What each live view needs of that, in words, by its name.
    pub needed_by: BTreeMap<String, String>,
    /// The name of its history table.
    pub history: Option<String>,
    /// Why it could not be opened as it is defined; nothing else may be known
    /// then.
    pub not_open: Option<String>,
}

/// Which events a stream had and has no more: what went while it had no HISTORY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostEvents {
    /// Some of those before this time are gone.
    pub before: UtcMicros,
    /// From when on whoever looks finds the newest events of each key,
    pub newest_from: UtcMicros,
    /// and by index how many of them for certain.
    pub newest_kept: BTreeMap<String, u64>,
}

impl LostEvents {
    fn decode(lost: pb::LostEvents) -> Self {
        Self {
            before: UtcMicros(lost.before),
            newest_from: UtcMicros(lost.newest_from),
            newest_kept: lost.newest_kept.into_iter().collect(),
        }
    }
}

impl Client {
    /// Appends rows; they are durable when this returns.
    pub async fn push(&self, push: &Push) -> Result<PushAnswer, ClientError> {
        let request = self.bounded(push.encode()?);
        let answer = self.streams().push(request).await?;
        Ok(PushAnswer::decode(answer.into_inner()))
    }

    /// Answers in the order of the pushes. One that fails is an error of its
    /// own and the stream goes on; it ends when the pushes do, or after an error
    /// of the stream itself. Dropping the answers ends the pushes.
    pub async fn push_stream(
        &self,
        pushes: impl Stream<Item = Push> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<PushAnswer, ClientError>>, ClientError> {
        // What cannot be encoded is sent as an empty request, which the server
        // refuses in its place.
        let messages = pushes.map(|push| push.encode().unwrap_or_default());
        // The transport keeps a call open while its requests may go on.
        let (wanted, unwanted) = oneshot::channel::<()>();
        let messages = messages.take_until(unwanted);
        let answers = self.streams().push_stream(self.named(messages)).await?;
        let answers = answers.into_inner().map(move |item| {
            let _wanted = &wanted;
            match item?.answer {
                Some(Answer::Response(answer)) => Ok(PushAnswer::decode(answer)),
                Some(Answer::Error(error)) => {
                    let code = Code::from_i32(error.code);
                    Err(ClientError::from_code(code, &error.message))
                }
                None => Err(ClientError::Answer("an item without an answer".into())),
            }
        });
        Ok(answers.boxed())
    }

    /// Takes older events of another system into the history of a stream, all in
    /// one commit: rows of its columns, and perhaps `_created`. What was not
    /// answered may be sent again.
    pub async fn push_history(
        &self,
        stream: &str,
        batches: &[RecordBatch],
    ) -> Result<HistoryAnswer, ClientError> {
        let request = |rows: &RecordBatch| {
            let arrow_ipc = columns::encode_ipc(rows).map_err(ClientError::request)?;
            let stream = stream.to_owned();
            Ok::<_, ClientError>(pb::PushHistoryRequest { stream, arrow_ipc })
        };
        let requests = batches.iter().map(request);
        let requests: Vec<_> = requests.collect::<Result<_, _>>()?;
        let request = self.named(stream::iter(requests));
        let mut answers = self.streams().push_history(request).await?.into_inner();
        let answer = answers.message().await?;
        let answer = answer.ok_or_else(|| ClientError::Answer("none was given".into()))?;
        let reasons = answer.refused_rows.into_iter();
        Ok(HistoryAnswer {
            added: answer.added,
            duplicates: answer.duplicates,
            refused: answer.refused,
            reasons: reasons.map(|r| (r.row as usize, r.reason)).collect(),
        })
    }

    /// The events of a stream that are acknowledged now and not in its history,
    /// in any order, with these of its columns and `_created`. For commands of
    /// the server's machine.
    pub async fn scan_stream(
        &self,
        stream: &str,
        columns: Vec<String>,
    ) -> Result<ScannedStream, ClientError> {
        let request = self.named(pb::ScanRequest {
            stream: stream.to_owned(),
            columns,
        });
        let mut answer = self.streams().scan(request).await?.into_inner();
        let first = answer.message().await?.unwrap_or_default();
        let scanning = Scanning {
            answer,
            decoder: StreamDecoder::new(),
            rest: Buffer::from(first.arrow_ipc),
        };
        let batches = stream::try_unfold(scanning, async |mut scanning| {
            let batch = scanning.next().await?;
            Ok(batch.map(|batch| (batch, scanning)))
        });
        Ok(ScannedStream {
            flushed: first.flushed,
            lost: first.lost.map(LostEvents::decode),
            kept: batches.boxed(),
        })
    }

    /// What is known of each stream, by name.
    pub async fn list_streams(&self) -> Result<Vec<StreamInfo>, ClientError> {
        let request = self.bounded(pb::ListStreamsRequest {});
        let answer = self.streams().list_streams(request).await?;
        let streams = answer.into_inner().streams.into_iter();
        let streams = streams.map(|state| StreamInfo {
            name: state.stream,
            events: state.events,
            bytes: state.bytes,
            last_sequence: state.last_sequence,
            last_created_time: state.last_created_time.map(UtcMicros),
            newest_event_time: state.newest_event_time.map(UtcMicros),
            flushed: state.flushed,
            trimmed_before: state.trimmed_before.map(UtcMicros),
            lost: state.lost.map(LostEvents::decode),
            retention: state.retention,
            needed_by: state.needed_by.into_iter().collect(),
            history: (!state.history.is_empty()).then_some(state.history),
            not_open: (!state.not_open.is_empty()).then_some(state.not_open),
        });
        Ok(streams.collect())
    }
}

/// Events that were scanned.
pub struct ScannedStream {
    /// Up to this number events are in the history table, and not in `kept`.
    pub flushed: u64,
    /// What the stream lost.
    pub lost: Option<LostEvents>,
    pub kept: BoxStream<'static, Result<RecordBatch, ClientError>>,
}

impl fmt::Debug for ScannedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScannedStream")
            .field("flushed", &self.flushed)
            .finish_non_exhaustive()
    }
}

/// Events that are being read.
struct Scanning {
    answer: Streaming<pb::ScanResponse>,
    decoder: StreamDecoder,
    rest: Buffer,
}

impl Scanning {
    /// `None` after the end of the Arrow stream.
    async fn next(&mut self) -> Result<Option<RecordBatch>, ClientError> {
        let unreadable = |error: arrow::error::ArrowError| ClientError::Answer(error.to_string());
        loop {
            let batch = self.decoder.decode(&mut self.rest).map_err(unreadable)?;
            if batch.is_some() {
                return Ok(batch);
            }
            match self.answer.message().await? {
                Some(part) => self.rest = Buffer::from(part.arrow_ipc),
                None => {
                    self.decoder.finish().map_err(unreadable)?;
                    return Ok(None);
                }
            }
        }
    }
}
