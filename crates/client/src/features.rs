//! Reading features.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use granary_model::{FeatureStatus, FeatureType, UtcMicros};
use granary_proto as pb;
use granary_proto::columns;
use granary_proto::get_features_request::Target as WireTarget;
use granary_proto::stream_features_response::Answer;
use tokio::sync::oneshot;
use tonic::Code;

use crate::client::Client;
use crate::error::ClientError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Service(String),
    /// Each `view.feature` or `view.*`.
    Features(Vec<String>),
}

/// What a read asks.
#[derive(Debug, Clone)]
pub struct GetFeatures {
    pub target: Target,
    /// Key columns by name; one row an entity.
    pub keys: RecordBatch,
    /// Inputs of on-demand views by name: one row an entity, or one for all.
    pub inputs: Vec<(String, ArrayRef)>,
    /// Rows of streams, by the stream's name, that count as already there for
    /// this one read. Columns that are left out are NULL, without a time an event
    /// is at the time of the read.
    pub request_events: Vec<(String, RecordBatch)>,
    /// Default: the server's clock.
    pub as_of: Option<UtcMicros>,
    pub strictly_before: bool,
    /// Name features `view__feature`.
    pub full_names: bool,
    pub event_times: bool,
    pub as_ofs: bool,
    /// Send the keys as one Arrow IPC stream in place of packed columns.
    pub keys_as_ipc: bool,
}

impl GetFeatures {
    /// Values and statuses as of now.
    pub fn new(target: Target, keys: RecordBatch) -> Self {
        Self {
            target,
            keys,
            inputs: Vec::new(),
            request_events: Vec::new(),
            as_of: None,
            strictly_before: false,
            full_names: false,
            event_times: false,
            as_ofs: false,
            keys_as_ipc: false,
        }
    }

    fn encode(&self) -> Result<pb::GetFeaturesRequest, ClientError> {
        let target = match &self.target {
            Target::Service(name) => WireTarget::Service(name.clone()),
            Target::Features(list) => WireTarget::Features(pb::FeatureList {
                features: list.clone(),
            }),
        };
        let mut request = pb::GetFeaturesRequest {
            target: Some(target),
            as_of: self.as_of.map(|t| t.0),
            strictly_before: self.strictly_before,
            full_names: self.full_names,
            include_event_times: self.event_times,
            include_as_of: self.as_ofs,
            ..pb::GetFeaturesRequest::default()
        };
        for (name, values) in &self.inputs {
            let column = columns::encode_column(name, values).map_err(ClientError::request)?;
            request.inputs.push(column);
        }
        for (stream, rows) in &self.request_events {
            request.request_events.push(pb::RequestEvents {
                stream: stream.clone(),
                columns: columns::encode_columns(rows).map_err(ClientError::request)?,
            });
        }
        if self.keys_as_ipc {
            request.keys_arrow_ipc =
                columns::encode_ipc(&self.keys).map_err(ClientError::request)?;
        } else {
            request.keys = columns::encode_columns(&self.keys).map_err(ClientError::request)?;
        }
        Ok(request)
    }
}

/// The time that the values of a column are as of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AsOf {
    /// It was not asked for.
    Unknown,
    All(UtcMicros),
    Rows(Vec<UtcMicros>),
}

/// One feature for all entities.
#[derive(Debug, Clone)]
pub struct FeatureColumn {
    pub name: String,
    pub view: String,
    pub view_version: u32,
    pub data_type: FeatureType,
    /// NULL where the status is not `Present`.
    pub values: ArrayRef,
    pub statuses: Arc<Vec<FeatureStatus>>,
    /// Of timestamped views, where asked for.
    pub event_times: Option<Vec<Option<UtcMicros>>>,
    pub as_of: AsOf,
}

/// What a read answers.
#[derive(Debug, Clone)]
pub struct ReadAnswer {
    /// The catalog snapshot that answered.
    pub snapshot: u64,
    /// The time of the read.
    pub as_of: UtcMicros,
    pub entities: usize,
    pub features: Vec<FeatureColumn>,
    /// By alias, where asked for: what the views behind the features are as of.
    /// A view that is not here is as of the read.
    pub views: Vec<(String, AsOf)>,
}

impl ReadAnswer {
    /// The values alone, one column a feature.
    pub fn to_batch(&self) -> Result<RecordBatch, ClientError> {
        let fields: Vec<Field> = self
            .features
            .iter()
            .map(|f| Field::new(&f.name, f.values.data_type().clone(), true))
            .collect();
        let arrays = self
            .features
            .iter()
            .map(|f| Arc::clone(&f.values))
            .collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
            .map_err(|error| ClientError::Answer(error.to_string()))
    }

    fn decode(answer: pb::GetFeaturesResponse) -> Result<Self, ClientError> {
        let entities = answer.entities as usize;
        let features = answer.features.into_iter();
        Ok(Self {
            snapshot: answer.snapshot,
            as_of: UtcMicros(answer.as_of),
            entities,
            features: features
                .map(|feature| decode_feature(feature, entities))
                .collect::<Result<_, _>>()?,
            views: { answer.views.into_iter() }
                .map(|view| (view.alias, decode_as_of(&view.as_of)))
                .collect(),
        })
    }
}

fn decode_feature(
    feature: pb::FeatureColumn,
    entities: usize,
) -> Result<FeatureColumn, ClientError> {
    let data_type = columns::decode_type(&feature.r#type.unwrap_or_default());
    let data_type = data_type.map_err(ClientError::answer)?;
    let values = feature.values.unwrap_or_default();
    let values = columns::decode_values(values, &data_type).map_err(ClientError::answer)?;
    let statuses = columns::decode_statuses(&feature.statuses, entities);
    let times = |count: usize| count == 0 || count == entities;
    if values.len() != entities || !times(feature.event_times.len()) {
        let message = format!("{}: not one value an entity", feature.name);
        return Err(ClientError::Answer(message));
    }
    let present = |t: &i64| (*t != i64::MIN).then_some(UtcMicros(*t));
    let event_times = (!feature.event_times.is_empty())
        .then(|| feature.event_times.iter().map(present).collect());
    let as_of = decode_as_of(&feature.as_of);
    Ok(FeatureColumn {
        name: feature.name,
        view: feature.view,
        view_version: feature.view_version,
        data_type,
        values,
        statuses: Arc::new(statuses.map_err(ClientError::answer)?),
        event_times,
        as_of,
    })
}

fn decode_as_of(times: &[i64]) -> AsOf {
    match times {
        [] => AsOf::Unknown,
        [t] => AsOf::All(UtcMicros(*t)),
        rows => AsOf::Rows(rows.iter().copied().map(UtcMicros).collect()),
    }
}

impl Client {
    /// Reads features of many entities at once.
    pub async fn get_features(&self, request: &GetFeatures) -> Result<ReadAnswer, ClientError> {
        let request = self.bounded(request.encode()?);
        let answer = self.features().get_features(request).await?;
        ReadAnswer::decode(answer.into_inner())
    }

    /// The same as one Arrow batch: keys, then one column a feature with its
    /// `__status`, and `__event_time` and `__as_of` where asked for.
    pub async fn get_features_batch(
        &self,
        request: &GetFeatures,
    ) -> Result<RecordBatch, ClientError> {
        let mut message = request.encode()?;
        message.set_encoding(pb::Encoding::ArrowIpc);
        message.include_keys = true;
        let answer = self.features().get_features(self.bounded(message)).await?;
        columns::decode_ipc(&answer.into_inner().arrow_ipc).map_err(ClientError::answer)
    }

    /// Answers in the order of the requests. One that fails is an error of its
    /// own and the stream goes on; it ends when the requests do, or after an
    /// error of the stream itself. Dropping the answers ends the requests.
    pub async fn stream_features(
        &self,
        requests: impl Stream<Item = GetFeatures> + Send + 'static,
    ) -> Result<BoxStream<'static, Result<ReadAnswer, ClientError>>, ClientError> {
        // What cannot be encoded is sent as an empty request, which the server
        // refuses in its place.
        let messages = requests.map(|request| request.encode().unwrap_or_default());
        // The transport keeps a call open while its requests may go on.
        let (wanted, unwanted) = oneshot::channel::<()>();
        let messages = messages.take_until(unwanted);
        let answers = self
            .features()
            .stream_features(self.named(messages))
            .await?;
        let answers = answers.into_inner().map(move |item| {
            let _wanted = &wanted;
            match item?.answer {
                Some(Answer::Response(answer)) => ReadAnswer::decode(answer),
                Some(Answer::Error(error)) => {
                    let code = Code::from_i32(error.code);
                    Err(ClientError::from_code(code, &error.message))
                }
                None => Err(ClientError::Answer("an item without an answer".into())),
            }
        });
        Ok(answers.boxed())
    }
}
