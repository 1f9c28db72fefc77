//! Training sets: a spine goes up, its rows with features come down.

use std::mem;
use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use granary_proto as pb;
use granary_proto::get_historical_request::Part as Up;
use granary_proto::get_historical_response::Part as Down;
use granary_proto::historical_options::Target as WireTarget;
use tokio::sync::oneshot;
use tonic::Streaming;

use crate::client::Client;
use crate::error::ClientError;
use crate::features::Target;

/// The spine is sent in messages of at most this size.
const MESSAGE_BYTES: usize = 1 << 20;

/// What a training set is asked to be.
#[derive(Debug, Clone)]
pub struct GetHistorical {
    pub target: Target,
    /// The spine's column with the time of each row.
    pub time: String,
    pub strictly_before: bool,
    pub known_at_the_time: bool,
    pub as_served: bool,
    pub statuses: bool,
    /// Name features `view__feature`.
    pub full_names: bool,
    /// Rows of the spine that count as events of a stream, each for itself; other
    /// events are taken strictly before the time of the row then.
    pub request_events: Vec<SpineEvents>,
}

/// Makes each row of the spine an event of a stream, for that row only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpineEvents {
    pub stream: String,
    /// A query over `spine` that gives the stream's columns; `None`: by name.
    pub query: Option<String>,
}

impl GetHistorical {
    /// As of each row's `event_time`.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            time: "event_time".to_owned(),
            strictly_before: false,
            known_at_the_time: false,
            as_served: false,
            statuses: false,
            full_names: false,
            request_events: Vec::new(),
        }
    }

    fn encode(&self) -> pb::GetHistoricalRequest {
        let target = match &self.target {
            Target::Service(name) => WireTarget::Service(name.clone()),
            Target::Features(list) => WireTarget::Features(pb::FeatureList {
                features: list.clone(),
            }),
        };
        let events = self.request_events.iter().map(|events| pb::SpineEvents {
            stream: events.stream.clone(),
            query: events.query.clone().unwrap_or_default(),
        });
        let options = pb::HistoricalOptions {
            target: Some(target),
            time_column: self.time.clone(),
            strictly_before: self.strictly_before,
            known_at_the_time: self.known_at_the_time,
            as_served: self.as_served,
            statuses: self.statuses,
            full_names: self.full_names,
            request_events: events.collect(),
        };
        pb::GetHistoricalRequest {
            part: Some(Up::Options(options)),
        }
    }
}

/// Rows at or before whose time a snapshot view has no run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutRun {
    pub view: String,
    pub rows: u64,
    /// The command that would fill them; empty where none would.
    pub backfill: String,
}

/// What is known of a training set when its rows have ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoricalReport {
    /// The catalog snapshot that answered.
    pub snapshot: u64,
    pub rows: u64,
    /// Rows whose time is NULL.
    pub null_times: u64,
    /// Key columns of the spine with NULLs, and in how many rows.
    pub null_keys: Vec<(String, u64)>,
    pub notes: Vec<String>,
    pub without_run: Vec<WithoutRun>,
}

/// A training set on its way.
pub struct HistoricalAnswer {
    /// The spine's own columns, then the features.
    pub schema: SchemaRef,
    /// Each row of the spine once, in order. Dropping them cancels the call.
    pub rows: BoxStream<'static, Result<RecordBatch, ClientError>>,
    report: Arc<OnceLock<HistoricalReport>>,
}

impl std::fmt::Debug for HistoricalAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoricalAnswer")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// Tells the report of an answer whose rows were taken out of it.
#[derive(Debug, Clone)]
pub struct Reporter(Arc<OnceLock<HistoricalReport>>);

impl Reporter {
    /// `None` before the rows have ended.
    pub fn report(&self) -> Option<&HistoricalReport> {
        self.0.get()
    }
}

impl HistoricalAnswer {
    pub fn reporter(&self) -> Reporter {
        Reporter(Arc::clone(&self.report))
    }
}

/// Why a spine was not sent to its end.
type Unsent = oneshot::Receiver<String>;

impl Client {
    /// Builds the training set of a spine, whose rows are sent as they are
    /// taken from `spine`. An error of the spine ends the call and is its error.
    pub async fn get_historical<E: std::fmt::Display>(
        &self,
        request: &GetHistorical,
        schema: SchemaRef,
        spine: impl Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    ) -> Result<HistoricalAnswer, ClientError> {
        let (tell, unsent) = oneshot::channel();
        let parts = upload(&schema, spine, tell)?;
        let messages = stream::iter([request.encode()]).chain(parts);
        // The transport keeps a call open while its requests may go on.
        let (wanted, unwanted) = oneshot::channel::<()>();
        let messages = messages.take_until(unwanted);
        let mut client = self.historical();
        let call = client.get_historical(self.named(messages));
        let answer = call.await?.into_inner();
        Receiving {
            answer,
            unsent: Some(unsent),
            decoder: StreamDecoder::new(),
            rest: Buffer::default(),
            report: Arc::default(),
            _wanted: wanted,
        }
        .begin()
        .await
    }
}

/// The spine as messages. After an error there is no message more, nor an end:
/// whoever waits for the answer is told, and gives the call up.
fn upload<E: std::fmt::Display>(
    schema: &SchemaRef,
    spine: impl Stream<Item = Result<RecordBatch, E>> + Send + 'static,
    tell: oneshot::Sender<String>,
) -> Result<impl Stream<Item = pb::GetHistoricalRequest> + Send + 'static, ClientError> {
    let writer = StreamWriter::try_new(Vec::new(), schema);
    let writer = writer.map_err(|error| ClientError::Request(error.to_string()))?;
    let spine = spine.map(|batch| batch.map_err(|error| error.to_string()));
    let state = Some((spine.boxed(), writer, tell));
    let parts = stream::unfold(state, async |state| {
        let (mut spine, mut writer, tell) = state?;
        let written = match spine.next().await {
            Some(Ok(batch)) => writer.write(&batch).map(|()| false),
            Some(Err(error)) => {
                let _ = tell.send(error);
                return std::future::pending().await;
            }
            None => writer.finish().map(|()| true),
        };
        match written {
            Ok(ended) => {
                let bytes = Bytes::from(mem::take(writer.get_mut()));
                let cuts = (0..bytes.len()).step_by(MESSAGE_BYTES);
                let parts = cuts.map(move |at| {
                    let part = bytes.slice(at..bytes.len().min(at + MESSAGE_BYTES));
                    pb::GetHistoricalRequest {
                        part: Some(Up::Spine(part)),
                    }
                });
                let parts = stream::iter(parts.collect::<Vec<_>>());
                Some((parts, (!ended).then_some((spine, writer, tell))))
            }
            Err(error) => {
                let _ = tell.send(error.to_string());
                std::future::pending().await
            }
        }
    });
    Ok(parts.flatten())
}

/// An answer that is being read.
struct Receiving {
    answer: Streaming<pb::GetHistoricalResponse>,
    unsent: Option<Unsent>,
    decoder: StreamDecoder,
    rest: Buffer,
    report: Arc<OnceLock<HistoricalReport>>,
    /// Dropping it ends the messages.
    _wanted: oneshot::Sender<()>,
}

impl Receiving {
    /// Reads up to the schema.
    async fn begin(mut self) -> Result<HistoricalAnswer, ClientError> {
        let mut first = None;
        let schema = loop {
            if let Some(schema) = self.decoder.schema() {
                break schema;
            }
            match self.next().await? {
                Some(batch) => first = Some(batch),
                None => break self.decoder.schema().ok_or_else(no_rows)?,
            }
        };
        let report = Arc::clone(&self.report);
        let rest = stream::try_unfold(self, async |mut receiving| {
            let batch = receiving.next().await?;
            Ok(batch.map(|batch| (batch, receiving)))
        });
        let rows = stream::iter(first.map(Ok)).chain(rest);
        Ok(HistoricalAnswer {
            schema,
            rows: rows.boxed(),
            report,
        })
    }

    /// The next batch; `None` after the report. Returns too when the schema
    /// became known, with a batch of no rows.
    async fn next(&mut self) -> Result<Option<RecordBatch>, ClientError> {
        loop {
            let known = self.decoder.schema().is_some();
            let decoded = self.decoder.decode(&mut self.rest);
            let decoded = decoded.map_err(|error| ClientError::Answer(error.to_string()))?;
            if let Some(batch) = decoded {
                return Ok(Some(batch));
            }
            if let (false, Some(schema)) = (known, self.decoder.schema()) {
                return Ok(Some(RecordBatch::new_empty(schema)));
            }
            match self.message().await? {
                Some(Down::Rows(bytes)) => self.rest = Buffer::from(bytes),
                Some(Down::Report(report)) => {
                    let _ = self.report.set(decode(report));
                    return Ok(None);
                }
                None if self.report.get().is_some() => return Ok(None),
                None => return Err(no_rows()),
            }
        }
    }

    async fn message(&mut self) -> Result<Option<Down>, ClientError> {
        let message = match &mut self.unsent {
            None => self.answer.message().await,
            Some(unsent) => tokio::select! {
                message = self.answer.message() => message,
                told = unsent => match told {
                    Ok(told) => return Err(ClientError::Request(told)),
                    // All was sent.
                    Err(_) => {
                        self.unsent = None;
                        self.answer.message().await
                    }
                },
            },
        };
        match message? {
            Some(message) => Ok(Some(message.part.ok_or_else(no_rows)?)),
            None => Ok(None),
        }
    }
}

fn no_rows() -> ClientError {
    ClientError::Answer("the training set broke off before its end".into())
}

fn decode(report: pb::HistoricalReport) -> HistoricalReport {
    let null_keys = report.null_keys.into_iter();
    let without_run = report.without_run.into_iter();
    HistoricalReport {
        snapshot: report.snapshot,
        rows: report.rows,
        null_times: report.null_times,
        null_keys: null_keys.map(|key| (key.column, key.rows)).collect(),
        notes: report.notes,
        without_run: without_run
            .map(|without| WithoutRun {
                view: without.view,
                rows: without.rows,
                backfill: without.backfill,
            })
            .collect(),
    }
}
