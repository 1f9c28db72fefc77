//! Statistics of columns in one streaming pass: what a run records of its
//! columns, and what Delta Lake wants to know of each file.
//!
//! A summary sees every batch once and is merged over files and partitions.
//! Minimum, maximum and mean leave NaN out; infinities count. It knows nothing
//! of files or tables.

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::compute;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType,
};
use datafusion::common::hash_utils::{HLL_RANDOM_STATE, create_hashes};
use datafusion::scalar::ScalarValue;
use granary_model::{UtcMicros, json};
use serde_json::Value;

use super::distinct::DistinctSketch;
use super::log::Stamp;
use super::{AS_OF_COLUMN, CREATED_COLUMN, ColumnStatistics};
use crate::error::EngineError;

/// Longer texts are cut in the record of a run.
const TEXT_CHARS_MAX: usize = 256;
/// Longer texts make no bounds of a file: pruning by them is not worth their size.
const FILE_BOUND_BYTES_MAX: usize = 64;

type Bounds = Option<(ScalarValue, ScalarValue)>;

/// What is known of one column so far.
#[derive(Debug, Clone)]
pub(crate) struct ColumnSummary {
    name: String,
    data_type: DataType,
    rows: u64,
    nulls: u64,
    nans: u64,
    /// Smallest and greatest value.
    bounds: Bounds,
    /// Of numbers, and of booleans with true as 1.
    sum: f64,
    distinct: DistinctSketch,
    hashes: Vec<u64>,
}

impl ColumnSummary {
    pub(crate) fn new(name: &str, data_type: &DataType) -> Self {
        Self {
            name: name.to_owned(),
            data_type: data_type.clone(),
            rows: 0,
            nulls: 0,
            nans: 0,
            bounds: None,
            sum: 0.0,
            distinct: DistinctSketch::default(),
            hashes: Vec::new(),
        }
    }

    /// `column` has the type that the summary was made for.
    pub(crate) fn update(&mut self, column: &ArrayRef) -> Result<(), EngineError> {
        self.rows += column.len() as u64;
        self.nulls += column.null_count() as u64;
        if column.null_count() == column.len() {
            return Ok(());
        }
        self.hashes.clear();
        self.hashes.resize(column.len(), 0);
        create_hashes([column], &HLL_RANDOM_STATE, &mut self.hashes)
            .map_err(|error| EngineError::from_query(&self.name, error))?;
        match column.nulls() {
            None => self.hashes.iter().for_each(|h| self.distinct.add(*h)),
            Some(nulls) => nulls
                .valid_indices()
                .for_each(|i| self.distinct.add(self.hashes[i])),
        }
        let found = self.measure(column);
        self.widen(found);
        Ok(())
    }

    /// Adds to the sum and returns the smallest and the greatest value.
    fn measure(&mut self, column: &ArrayRef) -> Bounds {
        match &self.data_type {
            DataType::Boolean => {
                let values = column.as_boolean();
                self.sum += values.true_count() as f64;
                let scalar = |v| Some(ScalarValue::Boolean(Some(v?)));
                let low = scalar(compute::min_boolean(values))?;
                Some((low, scalar(compute::max_boolean(values))?))
            }
            DataType::Int16 => self.integers(column.as_primitive::<Int16Type>()),
            DataType::Int32 => self.integers(column.as_primitive::<Int32Type>()),
            DataType::Int64 => self.integers(column.as_primitive::<Int64Type>()),
            DataType::Date32 => self.integers(column.as_primitive::<Date32Type>()),
            DataType::Timestamp(_, _) => {
                self.integers(column.as_primitive::<TimestampMicrosecondType>())
            }
            DataType::Decimal128(_, scale) => {
                let values = column.as_primitive::<Decimal128Type>();
                let unit = 10f64.powi(i32::from(*scale));
                let numbers = values.iter().flatten().map(|v| v as f64 / unit);
                self.sum += numbers.sum::<f64>();
                self.bounds_of(values)
            }
            DataType::Float32 => {
                let (low, high) = self.floats(column.as_primitive::<Float32Type>())?;
                Some(((low as f32).into(), (high as f32).into()))
            }
            DataType::Float64 => {
                let (low, high) = self.floats(column.as_primitive::<Float64Type>())?;
                Some((low.into(), high.into()))
            }
            DataType::Utf8 => {
                let values = column.as_string::<i32>();
                let low = compute::min_string(values)?.into();
                Some((low, compute::max_string(values)?.into()))
            }
            DataType::Binary => {
                let values = column.as_binary::<i32>();
                let scalar = |v: Option<&[u8]>| Some(ScalarValue::Binary(Some(v?.to_vec())));
                let low = scalar(compute::min_binary(values))?;
                Some((low, scalar(compute::max_binary(values))?))
            }
            _ => None,
        }
    }

    fn bounds_of<T>(&self, values: &PrimitiveArray<T>) -> Bounds
    where
        T: ArrowPrimitiveType,
        T::Native: ArrowNativeTypeOp,
    {
        let scalar = |v| ScalarValue::new_primitive::<T>(v, &self.data_type).ok();
        Some((
            scalar(Some(compute::min(values)?))?,
            scalar(Some(compute::max(values)?))?,
        ))
    }

    fn integers<T>(&mut self, values: &PrimitiveArray<T>) -> Bounds
    where
        T: ArrowPrimitiveType,
        T::Native: ArrowNativeTypeOp + Into<i64>,
    {
        self.sum += match values.null_count() {
            0 => values
                .values()
                .iter()
                .map(|v| (*v).into() as f64)
                .sum::<f64>(),
            _ => values.iter().flatten().map(|v| v.into() as f64).sum(),
        };
        self.bounds_of(values)
    }

    fn floats<T>(&mut self, values: &PrimitiveArray<T>) -> Option<(f64, f64)>
    where
        T: ArrowPrimitiveType,
        T::Native: Into<f64>,
    {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut sum, mut nans) = (0.0, 0u64);
        let mut see = |value: f64| {
            if value.is_nan() {
                nans += 1;
            } else {
                low = low.min(value);
                high = high.max(value);
                sum += value;
            }
        };
        match values.null_count() {
            0 => values.values().iter().for_each(|v| see((*v).into())),
            _ => values.iter().flatten().for_each(|v| see(v.into())),
        }
        self.sum += sum;
        self.nans += nans;
        (low <= high).then_some((low, high))
    }

    fn widen(&mut self, found: Bounds) {
        match (&mut self.bounds, found) {
            (_, None) => {}
            (bounds @ None, found) => *bounds = found,
            (Some(bounds), Some((low, high))) => {
                if low < bounds.0 {
                    bounds.0 = low;
                }
                if high > bounds.1 {
                    bounds.1 = high;
                }
            }
        }
    }

    /// Takes in what another summary of the same column has seen.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.nulls += other.nulls;
        self.nans += other.nans;
        self.sum += other.sum;
        self.distinct.merge(&other.distinct);
        self.widen(other.bounds.clone());
    }

    /// For the record of a run.
    pub(crate) fn finish(&self) -> ColumnStatistics {
        let counted = self.rows - self.nulls - self.nans;
        let numeric = self.data_type.is_numeric() || self.data_type == DataType::Boolean;
        let mean = (numeric && counted > 0).then(|| self.sum / counted as f64);
        ColumnStatistics {
            name: self.name.clone(),
            nulls: self.nulls,
            min: self.bounds.as_ref().and_then(|b| text(&b.0)),
            max: self.bounds.as_ref().and_then(|b| text(&b.1)),
            mean: mean.filter(|m| m.is_finite()),
            distinct: Some(self.distinct.estimate().min(self.rows - self.nulls)),
        }
    }

    /// The bounds as Delta Lake's protocol writes them for a file, where they
    /// are safe to skip by: none for floats with NaN or infinities, times
    /// rounded outwards to milliseconds.
    fn file_bounds(&self) -> Option<(Value, Value)> {
        let (low, high) = self.bounds.as_ref()?;
        match (low, high) {
            (
                ScalarValue::TimestampMicrosecond(Some(low), _),
                ScalarValue::TimestampMicrosecond(Some(high), _),
            ) => delta_times(*low, *high),
            (ScalarValue::Decimal128(..), _) => {
                let number = |bound| serde_json::from_str(&text(bound)?).ok();
                Some((number(low)?, number(high)?))
            }
            (ScalarValue::Utf8(Some(a)), ScalarValue::Utf8(Some(b))) => {
                let short = a.len().max(b.len()) <= FILE_BOUND_BYTES_MAX;
                short.then(|| (Value::from(a.as_str()), Value::from(b.as_str())))
            }
            (ScalarValue::Boolean(_) | ScalarValue::Binary(_), _) => None,
            (ScalarValue::Float32(_) | ScalarValue::Float64(_), _) if self.nans > 0 => None,
            _ => {
                let value = |bound: &ScalarValue| {
                    let value = json::value(&bound.to_array().ok()?, 0);
                    let date = self.data_type == DataType::Date32;
                    // Infinities are text in our JSON: not to be skipped by.
                    (date || value.is_number()).then_some(value)
                };
                Some((value(low)?, value(high)?))
            }
        }
    }
}

/// The statistics of a file as Delta Lake's protocol has them in `add.stats`;
/// of a run's file with its stamp.
pub(crate) fn file_statistics(
    rows: u64,
    columns: &[ColumnSummary],
    stamp: Option<Stamp>,
) -> String {
    let mut low = serde_json::Map::new();
    let mut high = serde_json::Map::new();
    let mut nulls = serde_json::Map::new();
    for column in columns {
        if matches!(column.data_type, DataType::List(_)) {
            continue;
        }
        nulls.insert(column.name.clone(), column.nulls.into());
        if let Some((min, max)) = column.file_bounds() {
            low.insert(column.name.clone(), min);
            high.insert(column.name.clone(), max);
        }
    }
    let stamped = |s: Stamp| [(AS_OF_COLUMN, s.as_of), (CREATED_COLUMN, s.created)];
    let stamped = stamp.into_iter().flat_map(stamped);
    for (name, t) in stamped.filter(|_| rows > 0) {
        nulls.insert(name.to_owned(), 0.into());
        if let Some((min, max)) = delta_times(t.0, t.0) {
            low.insert(name.to_owned(), min);
            high.insert(name.to_owned(), max);
        }
    }
    serde_json::json!({
        "numRecords": rows, "minValues": low, "maxValues": high, "nullCount": nulls,
    })
    .to_string()
}

/// Times as Delta Lake's protocol writes bounds, rounded outwards to milliseconds.
fn delta_times(low: i64, high: i64) -> Option<(Value, Value)> {
    let value = |micros: i64| {
        let text = UtcMicros(micros).to_string();
        text.ends_with('Z').then_some(Value::String(text))
    };
    let low = low.div_euclid(1000).saturating_mul(1000);
    let high = high.saturating_add(999).div_euclid(1000);
    Some((value(low)?, value(high.saturating_mul(1000))?))
}

fn text(bound: &ScalarValue) -> Option<String> {
    let text = json::text(&bound.to_array().ok()?, 0)?;
    Some(match text.char_indices().nth(TEXT_CHARS_MAX) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    })
}
