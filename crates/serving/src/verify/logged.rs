//! Served reads as rows of a log, and back.
//!
//! A row an entity: `_read_at` (when it was read), `_snapshot` (of the catalog),
//! `_caller`, the keys, the inputs, then of each feature its value and
//! `<feature>__status`, and of each view that is not live what it was as of,
//! `<view>__as_of`. An entity is logged always or never, by the hash of its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::{cast, filter_record_batch, take, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use granary_catalog::Snapshot;
use granary_engine::Engine;
use granary_model::definitions::{Column, Definitions, ServiceFeature};
use granary_model::types::UTC;
use granary_model::{FeatureStatus, FeatureType, UtcMicros};
use granary_store::EntityKeys;

use super::sample::hash_of_key;
use super::served::{Served, ServedFeature};
use super::wrong;
use crate::error::ServingError;
use crate::read::{ReadRequest, ReadResponse, ReadTarget};
use crate::training::{Selected, select};

/// When a row was read.
pub const READ_AT: &str = "_read_at";
const SNAPSHOT: &str = "_snapshot";
const CALLER: &str = "_caller";
/// Where the keys begin, behind those three.
const KEYS: usize = 3;

/// A read that is to be logged once it is answered.
#[derive(Debug)]
pub struct LoggedRead {
    pub service: String,
    caller: String,
    keys: RecordBatch,
    inputs: Vec<(String, ArrayRef)>,
}

impl LoggedRead {
    /// Of a service as of now, with stored events only; other reads are not logged.
    pub fn of(request: &ReadRequest) -> Option<Self> {
        let ReadTarget::Service(service) = &request.target else {
            return None;
        };
        let plain = request.as_of.is_none()
            && !request.strictly_before
            && request.request_events.is_empty();
        plain.then(|| Self {
            service: service.clone(),
            caller: request.caller.name.clone(),
            keys: request.keys.clone(),
            inputs: request.inputs.clone(),
        })
    }
}

/// A service as its log has it.
#[derive(Debug)]
pub struct LoggedService {
    schema: SchemaRef,
    keys: Vec<Column>,
    inputs: Vec<Column>,
    features: Vec<LoggedFeature>,
    /// Aliases of views that are not live.
    views: Vec<String>,
}

#[derive(Debug)]
struct LoggedFeature {
    name: String,
    data_type: FeatureType,
    view_alias: String,
}

impl LoggedService {
    /// # Errors
    ///
    /// `ServingError::Invalid` where two columns would have one name.
    pub async fn of(
        engine: &Engine,
        snapshot: &Snapshot,
        service: &str,
    ) -> Result<Self, ServingError> {
        let definitions = &snapshot.definitions;
        let target = ReadTarget::Service(service.to_owned());
        let selected = select(snapshot, &target, true)?;
        let full_names = select(snapshot, &target, false).is_err();
        let request = definitions.request_columns(&selected.from);
        let inputs = request.inputs.into_iter();
        let inputs = inputs.filter(|input| request.keys.iter().all(|key| key.name != input.name));
        let features = selected.features.iter().map(|feature| LoggedFeature {
            name: feature.answered_as(full_names),
            data_type: type_of(definitions, &selected, feature),
            view_alias: feature.view_alias.clone(),
        });
        let features = features.collect();
        let expanded = engine.expand(definitions, &selected.from, &selected.features, true);
        let views = expanded.await?.from.into_iter().filter(|bound| {
            let view = definitions.feature_views.get(&bound.view);
            view.is_some_and(|view| !view.is_live())
        });
        let mut logged = Self {
            schema: Arc::new(Schema::empty()),
            inputs: inputs.collect(),
            keys: request.keys,
            features,
            views: views.map(|bound| bound.alias).collect(),
        };
        logged.schema = logged.columns(service)?;
        Ok(logged)
    }

    /// Of the rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn keys(&self) -> &[Column] {
        &self.keys
    }

    fn columns(&self, service: &str) -> Result<SchemaRef, ServingError> {
        let time = FeatureType::Timestamp;
        let mut columns = vec![
            Column::new(READ_AT, time.clone()),
            Column::new(SNAPSHOT, FeatureType::BigInt),
            Column::new(CALLER, FeatureType::Varchar),
        ];
        columns.extend(self.keys.iter().chain(&self.inputs).cloned());
        for feature in &self.features {
            columns.push(Column::new(&feature.name, feature.data_type.clone()));
            let status = format!("{}__status", feature.name);
            columns.push(Column::new(status, FeatureType::Varchar));
        }
        let times = self.views.iter().map(|alias| as_of_column(alias));
        columns.extend(times.map(|name| Column::new(name, time.clone())));
        let mut names: Vec<&str> = columns.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(ServingError::Invalid(format!(
                "{service}: its reads cannot be logged: two columns would be named {:?}",
                twice[0]
            )));
        }
        let fields: Vec<Field> = columns.iter().map(Column::to_field).collect();
        Ok(Arc::new(Schema::new(fields)))
    }

    /// The rows of an answer that belong to a sample of this share of all keys.
    pub fn rows(
        &self,
        read: &LoggedRead,
        response: &ReadResponse,
        share: f64,
    ) -> Result<RecordBatch, ServingError> {
        let entities = response.entities;
        let mut columns: Vec<ArrayRef> = vec![
            times((0..entities).map(|_| response.as_of)),
            Arc::new(Int64Array::from(vec![response.snapshot as i64; entities])),
            Arc::new(StringArray::from(vec![read.caller.as_str(); entities])),
        ];
        for column in self.keys.iter().chain(&self.inputs) {
            columns.push(given(read, column, entities)?);
        }
        for (feature, answered) in self.features.iter().zip(&response.features) {
            if feature.data_type != answered.data_type {
                return Err(ServingError::Invalid(format!(
                    "{}: {} was answered of {}",
                    feature.name, answered.data_type, feature.data_type
                )));
            }
            columns.push(Arc::clone(&answered.values));
            let statuses = answered.statuses.iter().map(|status| Some(status.as_str()));
            columns.push(Arc::new(statuses.collect::<StringArray>()));
        }
        for alias in &self.views {
            let view = response.views.iter().find(|view| *view.alias == **alias);
            columns.push(times((0..entities).map(|row| match view {
                Some(view) => view.as_of.of_row(row),
                None => response.as_of,
            })));
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), columns);
        let rows = rows.map_err(|e| wrong(&e))?;
        filter_record_batch(&rows, &self.sampled(&rows, share)?).map_err(|e| wrong(&e))
    }

    /// Whether each row's key is in the sample; without a key it is not.
    fn sampled(&self, rows: &RecordBatch, share: f64) -> Result<BooleanArray, ServingError> {
        if self.keys.is_empty() {
            return Ok(vec![false; rows.num_rows()].into());
        }
        let keys = rows.columns()[KEYS..KEYS + self.keys.len()].to_vec();
        let keys = EntityKeys::encode(&self.keys, &keys)?;
        let sampled = (0..rows.num_rows()).map(|row| {
            let key = keys.get(row);
            // 2^64 times the share; the greatest hash is in where all are.
            key.is_some_and(|key| share >= 1.0 || (hash_of_key(key) as f64) < share * 2f64.powi(64))
        });
        Ok(sampled.collect::<Vec<bool>>().into())
    }

    /// What logged rows tell, by catalog snapshot.
    pub fn served(&self, rows: &RecordBatch) -> Result<Vec<Served>, ServingError> {
        let mut snapshots: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, number) in rows
            .column(1)
            .as_primitive::<Int64Type>()
            .iter()
            .enumerate()
        {
            let number = number.unwrap_or_default();
            snapshots.entry(number).or_default().push(row as u32);
        }
        let served = snapshots.into_iter().map(|(number, places)| {
            let rows = take_record_batch(rows, &UInt32Array::from(places));
            self.of_snapshot(number.unsigned_abs(), &rows.map_err(|e| wrong(&e))?)
        });
        served.collect()
    }

    fn of_snapshot(&self, snapshot: u64, rows: &RecordBatch) -> Result<Served, ServingError> {
        let read_at = times_of(rows.column(0));
        let asked = KEYS..KEYS + self.keys.len() + self.inputs.len();
        let first = asked.end;
        let request = rows.project(&asked.collect::<Vec<_>>());
        let after = first + 2 * self.features.len();
        let views = self.views.iter().enumerate();
        let views: Vec<(String, Vec<UtcMicros>)> = views
            .map(|(place, alias)| (alias.clone(), times_of(rows.column(after + place))))
            .collect();
        let features = self.features.iter().enumerate().map(|(place, feature)| {
            let statuses = rows.column(first + 2 * place + 1).as_string::<i32>();
            let mut as_of = views
                .iter()
                .filter(|(alias, _)| *alias == feature.view_alias);
            ServedFeature {
                name: feature.name.clone(),
                values: Arc::clone(rows.column(first + 2 * place)),
                statuses: (0..rows.num_rows())
                    .map(|row| status(statuses.value(row)))
                    .collect(),
                as_of: as_of.next().map_or(&read_at, |(_, times)| times).clone(),
                comparable: None,
            }
        });
        Ok(Served {
            snapshot,
            request: request.map_err(|e| wrong(&e))?,
            features: features.collect(),
            read_at,
            views,
        })
    }
}

/// A column of the request, in its type, a row an entity.
fn given(read: &LoggedRead, column: &Column, entities: usize) -> Result<ArrayRef, ServingError> {
    let data_type = column.data_type.to_arrow();
    let inputs = read.inputs.iter().find(|(name, _)| *name == column.name);
    let found = read.keys.column_by_name(&column.name);
    let Some(found) = found.or(inputs.map(|(_, values)| values)) else {
        return Ok(new_null_array(&data_type, entities));
    };
    let typed = cast(found, &data_type).map_err(|e| wrong(&e))?;
    match typed.len() == 1 && entities != 1 {
        true => {
            let all = UInt64Array::from_value(0, entities);
            take(&typed, &all, None).map_err(|e| wrong(&e))
        }
        false => Ok(typed),
    }
}

/// What a selected feature is.
fn type_of(
    definitions: &Definitions,
    selected: &Selected,
    feature: &ServiceFeature,
) -> FeatureType {
    if let Some(aggregate) = &feature.aggregate {
        return aggregate.data_type.clone();
    }
    let mut from = selected.from.iter();
    let bound = from.find(|bound| bound.alias == feature.view_alias);
    let view = bound.map_or(feature.view_alias.as_str(), |bound| &bound.view);
    let stored = definitions.feature_views.get(view);
    let computed = definitions.on_demand_views.get(view);
    let stored = stored.and_then(|view| view.feature(&feature.feature));
    let computed = computed.and_then(|view| {
        let mut features = view.features.iter();
        features.find(|column| column.name == feature.feature)
    });
    stored
        .or(computed)
        .map_or(FeatureType::Varchar, |column| column.data_type.clone())
}

fn as_of_column(alias: &str) -> String {
    format!("{}__as_of", alias.replace('.', "__"))
}

fn times(times: impl Iterator<Item = UtcMicros>) -> ArrayRef {
    let times = TimestampMicrosecondArray::from_iter_values(times.map(|t| t.0));
    Arc::new(times.with_timezone(UTC))
}

fn times_of(column: &ArrayRef) -> Vec<UtcMicros> {
    let times = column.as_primitive::<TimestampMicrosecondType>();
    times.values().iter().copied().map(UtcMicros).collect()
}

fn status(name: &str) -> FeatureStatus {
    let known = [
        FeatureStatus::Present,
        FeatureStatus::NullValue,
        FeatureStatus::OutsideMaxAge,
    ];
    let mut known = known.into_iter().filter(|status| status.as_str() == name);
    known.next().unwrap_or(FeatureStatus::NotFound)
}
