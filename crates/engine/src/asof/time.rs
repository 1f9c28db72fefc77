//! Event times of any type as UTC microseconds.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit};
use datafusion::error::{DataFusionError, Result};
use granary_model::interval::MICROS_PER_DAY;
use granary_model::types::UTC;

/// Microseconds of an array of times. A time without a zone is UTC, a date is
/// its midnight, and finer values count as the microsecond that they lie in.
pub(crate) fn micros(array: &ArrayRef) -> Result<Int64Array> {
    let (raw, scale): (DataType, fn(i64) -> i64) = match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            (DataType::Int64, |v| v.saturating_mul(1_000_000))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) | DataType::Date64 => {
            (DataType::Int64, |v| v.saturating_mul(1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => (DataType::Int64, |v| v),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => (DataType::Int64, |v| v.div_euclid(1_000)),
        DataType::Date32 => (DataType::Int32, |v| v.saturating_mul(MICROS_PER_DAY)),
        other => {
            return Err(DataFusionError::Plan(format!(
                "{other} is no time: a TIMESTAMP or a DATE is needed"
            )));
        }
    };
    let raw = cast(array, &raw)?;
    Ok(match raw.data_type() {
        DataType::Int32 => raw
            .as_primitive::<Int32Type>()
            .unary(|v| scale(i64::from(v))),
        _ if matches!(
            array.data_type(),
            DataType::Timestamp(TimeUnit::Microsecond, _)
        ) =>
        {
            raw.as_primitive::<Int64Type>().clone()
        }
        _ => raw.as_primitive::<Int64Type>().unary(scale),
    })
}

/// Microseconds as the TIMESTAMP of Granary.
pub(crate) fn timestamps(micros: Int64Array) -> ArrayRef {
    let (_, values, nulls) = micros.into_parts();
    Arc::new(TimestampMicrosecondArray::new(values, nulls).with_timezone(UTC))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Date64Array, StringArray, TimestampNanosecondArray};

    use super::*;

    #[test]
    fn finer_times_round_down_before_1970_too() {
        let nanos: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![
            Some(-1),
            Some(1_999),
            None,
        ]));
        let expected = Int64Array::from(vec![Some(-1), Some(1), None]);
        assert_eq!(micros(&nanos).unwrap(), expected);
    }

    #[test]
    fn a_date_is_its_midnight() {
        let days: ArrayRef = Arc::new(Date32Array::from(vec![-1, 1]));
        let expected = Int64Array::from(vec![-MICROS_PER_DAY, MICROS_PER_DAY]);
        assert_eq!(micros(&days).unwrap(), expected);
        let millis: ArrayRef = Arc::new(Date64Array::from(vec![86_400_000]));
        assert_eq!(micros(&millis).unwrap().value(0), MICROS_PER_DAY);
    }

    #[test]
    fn text_is_no_time() {
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        assert!(micros(&text).unwrap_err().to_string().contains("no time"));
    }
}
