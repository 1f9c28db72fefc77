//! Reads between the wire's messages and serving's: the only code that knows both.
//!
//! Columns themselves are converted in [`granary_proto::columns`].

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use granary_model::types::UTC;
use granary_model::{Caller, ErrorKind, UtcMicros};
use granary_proto as pb;
use granary_proto::columns;
use granary_proto::get_features_request::Target;
use granary_serving::{Answer, AsOf, ReadRequest, ReadResponse, ReadTarget, ViewAsOf};
use tonic::Status;

use crate::answer::Encoded;
use crate::metrics::StatusCounts;
use crate::status::{IntoStatus, status};

/// How an answer is to be written.
#[derive(Debug)]
pub(crate) struct Form {
    pub arrow_ipc: bool,
    pub event_times: bool,
    pub as_of: bool,
    pub statuses: bool,
    /// The request's keys, where they are to come back.
    pub keys: Option<RecordBatch>,
}

fn invalid(message: &str) -> Status {
    status(ErrorKind::InvalidArgument, message.to_owned())
}

pub(crate) fn decode(
    request: pb::GetFeaturesRequest,
    caller: Caller,
) -> Result<(ReadRequest, Form), Status> {
    let arrow_ipc = match pb::Encoding::try_from(request.encoding) {
        Ok(pb::Encoding::Columns) => false,
        Ok(pb::Encoding::ArrowIpc) => true,
        Err(_) => return Err(invalid("unknown encoding")),
    };
    let target = match request.target {
        Some(Target::Service(name)) if !name.is_empty() => ReadTarget::Service(name),
        Some(Target::Features(list)) => ReadTarget::Features(list.features),
        _ => return Err(invalid("name a feature service or a list of features")),
    };
    let keys = decode_keys(request.keys, &request.keys_arrow_ipc)?;
    // One value for all entities, or one an entity: of any two lengths.
    let inputs = request.inputs.into_iter().map(columns::decode_column);
    let inputs = inputs.collect::<Result<Vec<_>, _>>();
    let events = request.request_events.into_iter().map(decode_events);
    let events = events.collect::<Result<Vec<_>, _>>()?;
    let form = Form {
        arrow_ipc,
        event_times: request.include_event_times,
        as_of: request.include_as_of,
        statuses: !request.omit_statuses,
        keys: request.include_keys.then(|| keys.clone()),
    };
    let read = ReadRequest {
        caller,
        target,
        keys,
        inputs: inputs.map_err(IntoStatus::into_status)?,
        request_events: events,
        as_of: request.as_of.map(UtcMicros),
        strictly_before: request.strictly_before,
        full_names: request.full_names,
    };
    Ok((read, form))
}

fn decode_events(events: pb::RequestEvents) -> Result<(String, RecordBatch), Status> {
    let rows = columns::decode_columns(events.columns);
    let rows = rows.map_err(|error| {
        let message = format!("request events of {}: {error}", events.stream);
        status(ErrorKind::InvalidArgument, message)
    });
    Ok((events.stream, rows?))
}

fn decode_keys(packed: Vec<pb::Column>, ipc: &Bytes) -> Result<RecordBatch, Status> {
    if ipc.is_empty() {
        return columns::decode_columns(packed).map_err(IntoStatus::into_status);
    }
    if !packed.is_empty() {
        return Err(invalid("give keys or keys_arrow_ipc, not both"));
    }
    columns::decode_ipc(ipc).map_err(|error| invalid(&format!("keys_arrow_ipc: {error}")))
}

/// The message of an answer, whose statuses are counted on the way.
pub(crate) fn encode(
    answer: Answer,
    form: &Form,
    counts: &mut StatusCounts,
) -> Result<Encoded, Status> {
    let unwritten = |error: String| status(ErrorKind::Internal, error);
    if !form.arrow_ipc {
        return crate::answer::write(&answer, form, counts).map_err(|e| unwritten(e.to_string()));
    }
    let response = answer.into_response().map_err(IntoStatus::into_status)?;
    for feature in &response.features {
        let statuses: Vec<u8> = feature.statuses.iter().map(|s| *s as u8).collect();
        counts.add(&statuses);
    }
    let ipc = batch(&response, form).and_then(|batch| columns::encode_ipc(&batch));
    let message = pb::GetFeaturesResponse {
        snapshot: response.snapshot,
        entities: u32::try_from(response.entities).unwrap_or(u32::MAX),
        as_of: response.as_of.0,
        arrow_ipc: ipc.map_err(|error| unwritten(error.to_string()))?,
        views: match form.as_of {
            true => response.views.iter().map(encode_view).collect(),
            false => Vec::new(),
        },
        ..pb::GetFeaturesResponse::default()
    };
    Ok(Encoded::of(&message))
}

pub(crate) fn encode_view(view: &ViewAsOf) -> pb::ViewAsOf {
    pb::ViewAsOf {
        alias: view.alias.to_string(),
        as_of: as_ofs(&view.as_of),
    }
}

pub(crate) fn as_ofs(as_of: &AsOf) -> Vec<i64> {
    match as_of {
        AsOf::All(t) => vec![t.0],
        AsOf::Rows(times) => times.iter().map(|t| t.0).collect(),
    }
}

/// The answer as one batch; see `GetFeaturesResponse.arrow_ipc` for its columns.
fn batch(response: &ReadResponse, form: &Form) -> Result<RecordBatch, pb::ColumnError> {
    let mut fields: Vec<Field> = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    let mut add = |name: String, array: ArrayRef| {
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    };
    if let Some(keys) = &form.keys {
        for (field, array) in keys.schema_ref().fields().iter().zip(keys.columns()) {
            add(field.name().clone(), Arc::clone(array));
        }
    }
    for feature in &response.features {
        let name = &feature.name;
        add(name.to_string(), Arc::clone(&feature.values));
        if form.statuses {
            let codes = feature.statuses.iter().map(|s| *s as i8);
            let codes = Int8Array::from_iter_values(codes);
            add(format!("{name}__status"), Arc::new(codes));
        }
        if let (true, Some(times)) = (form.event_times, &feature.event_times) {
            let times = times.iter().map(|t| t.map(|t| t.0));
            add(format!("{name}__event_time"), timestamps(times));
        }
        if form.as_of {
            let rows = 0..response.entities;
            let times = rows.map(|row| Some(feature.as_of.of_row(row).0));
            add(format!("{name}__as_of"), timestamps(times));
        }
    }
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

fn timestamps(times: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let array: TimestampMicrosecondArray = times.collect();
    Arc::new(array.with_timezone(UTC))
}
