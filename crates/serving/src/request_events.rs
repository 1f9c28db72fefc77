//! Request events: rows of streams that count as already there for one read.
//!
//! They are bound like inputs, in the stream's own columns: a column that is
//! not given is NULL, and an event without a time is at the time of the read.
//! Which of them are stored already only a snapshot of the stream can tell;
//! that is asked once a read, so all views of it see the same events.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, Scalar, TimestampMicrosecondArray,
    new_null_array,
};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast, concat_batches, filter_record_batch, is_not_null};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::error::ArrowError;
use bytes::Bytes;
use granary_model::definitions::Stream;
use granary_model::types::UTC;
use granary_model::{Definitions, FeatureType, UtcMicros, did_you_mean};
use granary_store::OpenStream;
use granary_store::events::EventSnapshot;

use crate::error::ServingError;
use crate::keys::bind_column;
use crate::plan::ReadPlan;
use crate::reader::ReadTime;

/// The request events of a read, by stream.
#[derive(Debug, Default)]
pub(crate) struct RequestEvents(BTreeMap<String, Unstored>);

/// Events of one stream, each dedup key once, none after the time of the read.
#[derive(Debug, Clone)]
struct Unstored {
    /// [`Stream::row_schema`].
    events: RecordBatch,
    /// Of each event.
    dedup_keys: Vec<Option<Bytes>>,
}

impl RequestEvents {
    /// `definitions`: what streams there are.
    pub fn bind(
        plan: &ReadPlan,
        definitions: &Definitions,
        given: &[(String, RecordBatch)],
        time: ReadTime,
    ) -> Result<Self, ServingError> {
        let mut of_streams: BTreeMap<String, (&OpenStream, Vec<RecordBatch>)> = BTreeMap::new();
        for (name, rows) in given {
            let stream = stream_of(plan, definitions, name)?;
            let failed = |e: ServingError| wrong(name, &e.to_string());
            let bound = columns(&stream.definition, rows, time.as_of).map_err(failed)?;
            let (_, bound_rows) = of_streams
                .entry(name.clone())
                .or_insert((stream, Vec::new()));
            bound_rows.push(bound);
        }
        let streams = of_streams.into_iter().map(|(name, (stream, rows))| {
            let failed = |e: ArrowError| wrong(&name, &e.to_string());
            let events = concat_batches(&stream.definition.row_schema(), &rows).map_err(failed)?;
            let events = Unstored::of(stream, &events, time.as_of)?;
            Ok((name, events))
        });
        Ok(Self(streams.collect::<Result<_, ServingError>>()?))
    }

    /// Those of a stream that are not stored, `None` where there are none.
    /// Stored are those of event time up to `cut`, the last that the read sees.
    pub async fn unstored(
        &self,
        stream: &str,
        snapshot: &dyn EventSnapshot,
        cut: UtcMicros,
    ) -> Result<Option<RecordBatch>, ServingError> {
        let Some(events) = self.0.get(stream) else {
            return Ok(None);
        };
        let keys = events.dedup_keys.iter().flatten();
        let keys: Vec<&[u8]> = keys.map(AsRef::as_ref).collect();
        let mut stored = snapshot.duplicates(&keys).await?.into_iter();
        let is_new = events.dedup_keys.iter().map(|key| {
            let stored = key.as_ref().and_then(|_| stored.next().flatten());
            stored.is_none_or(|(_, event_time)| event_time > cut)
        });
        events.only(is_new.collect()).map(Some)
    }
}

impl Unstored {
    /// An event after the time of the read is not seen; of the events of one
    /// dedup key the first counts.
    fn of(
        stream: &OpenStream,
        events: &RecordBatch,
        as_of: UtcMicros,
    ) -> Result<Self, ServingError> {
        let name = &stream.definition.name;
        let times = events.column_by_name(&stream.definition.event_time);
        let times = times.ok_or_else(|| wrong(name, "there is no event time"))?;
        let times = cast(times, &FeatureType::Timestamp.to_arrow());
        let times = times.map_err(|e| wrong(name, &e.to_string()))?;
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let dedup_keys = stream.layout.dedup_keys(events)?;
        let mut known: HashSet<&Bytes> = HashSet::new();
        let counts = dedup_keys.iter().zip(times).map(|(key, time)| {
            time.is_some_and(|time| time <= as_of.0)
                && key.as_ref().is_none_or(|key| known.insert(key))
        });
        let counts: BooleanArray = counts.collect::<Vec<bool>>().into();
        let kept = dedup_keys.iter().zip(counts.values());
        let kept = kept.filter(|(_, counts)| *counts);
        Ok(Self {
            dedup_keys: kept.map(|(key, _)| key.clone()).collect(),
            events: filter_record_batch(events, &counts)
                .map_err(|e| wrong(name, &e.to_string()))?,
        })
    }

    fn only(&self, kept: Vec<bool>) -> Result<RecordBatch, ServingError> {
        filter_record_batch(&self.events, &kept.into())
            .map_err(|e| ServingError::Invalid(format!("request events: {e}")))
    }
}

/// The stream as the plan reads it. An event that no view would see is told: the
/// caller counts on it.
fn stream_of<'p>(
    plan: &'p ReadPlan,
    definitions: &Definitions,
    name: &str,
) -> Result<&'p OpenStream, ServingError> {
    let groups = plan.levels.iter().flat_map(|level| &level.groups);
    let live = groups.flat_map(|group| &group.live);
    let mut read = live.flat_map(|live| &live.sources);
    if let Some(found) = read.find(|source| source.stream.definition.name == name) {
        return Ok(&found.stream);
    }
    if definitions.streams.contains_key(name) {
        return Err(wrong(
            name,
            "no live view of this read is over that stream, so nothing would see them",
        ));
    }
    let near = did_you_mean(name, definitions.streams.keys().map(String::as_str));
    Err(wrong(name, &format!("there is no such stream{near}")))
}

fn wrong(stream: &str, what: &str) -> ServingError {
    ServingError::Invalid(format!("request events of {stream}: {what}"))
}

/// The rows in the columns of the stream's relation.
fn columns(
    stream: &Stream,
    rows: &RecordBatch,
    as_of: UtcMicros,
) -> Result<RecordBatch, ServingError> {
    let known = || stream.columns.iter().map(|column| column.name.as_str());
    let fields = rows.schema_ref().fields();
    for (at, field) in fields.iter().enumerate() {
        let name = field.name();
        if !known().any(|known| known == name) {
            let near = did_you_mean(name, known());
            let message = format!("the stream has no column {name}{near}");
            return Err(ServingError::Invalid(message));
        }
        if fields[..at].iter().any(|other| other.name() == name) {
            let message = format!("the column {name} is given twice");
            return Err(ServingError::Invalid(message));
        }
    }
    let count = rows.num_rows();
    let read_at = |rows| TimestampMicrosecondArray::from_value(as_of.0, rows).with_timezone(UTC);
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(stream.columns.len() + 1);
    for column in &stream.columns {
        let bound = match rows.column_by_name(&column.name) {
            Some(given) => bind_column(column, given, FeatureType::accepts_input)?,
            None => new_null_array(&column.data_type.to_arrow(), count),
        };
        columns.push(match column.name == stream.event_time {
            true => or_at(&bound, &(Arc::new(read_at(1)) as ArrayRef)).map_err(|e| no_event(&e))?,
            false => bound,
        });
    }
    columns.push(Arc::new(read_at(count)));
    RecordBatch::try_new(stream.row_schema(), columns).map_err(|e| no_event(&e))
}

/// The times, and where there is none the time of the read.
fn or_at(times: &ArrayRef, read_at: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let read_at = Scalar::new(cast(read_at, times.data_type())?);
    zip(&is_not_null(times)?, times, &read_at)
}

fn no_event(error: &ArrowError) -> ServingError {
    ServingError::Invalid(error.to_string())
}
