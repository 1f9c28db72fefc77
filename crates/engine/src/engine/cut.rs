//! The cut: of a relation with an event time, a run as of T sees the rows with
//! event time at or before T, wherever the relation stands in a query.
//!
//! A cut relation is a view over the uncut one whose filter compares the
//! column with a literal of the column's own type, so that the optimizer
//! pushes it down into the scan and Parquet skips row groups by it.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::ident;
use datafusion::scalar::ScalarValue;
use granary_model::UtcMicros;
use granary_model::interval::MICROS_PER_DAY;

/// Whether an event time or a created time may have this type.
pub fn event_time_type(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64
    )
}

/// `column <= t` for an event time column of the given type; `None` where it is no time.
///
/// A timestamp without a zone is UTC and a date is its midnight. Finer values
/// than microseconds count as the microsecond that they lie in.
pub fn no_later_than(column: &str, data_type: &DataType, t: UtcMicros) -> Option<Expr> {
    let literal = match data_type {
        DataType::Timestamp(TimeUnit::Second, zone) => {
            ScalarValue::TimestampSecond(Some(t.0.div_euclid(1_000_000)), zone.clone())
        }
        DataType::Timestamp(TimeUnit::Millisecond, zone) => {
            ScalarValue::TimestampMillisecond(Some(t.0.div_euclid(1_000)), zone.clone())
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            ScalarValue::TimestampMicrosecond(Some(t.0), zone.clone())
        }
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            let nanos = t.0.saturating_mul(1_000).saturating_add(999);
            ScalarValue::TimestampNanosecond(Some(nanos), zone.clone())
        }
        DataType::Date32 => {
            let days = t.0.div_euclid(MICROS_PER_DAY);
            ScalarValue::Date32(Some(days.clamp(i32::MIN.into(), i32::MAX.into()) as i32))
        }
        DataType::Date64 => ScalarValue::Date64(Some(t.0.div_euclid(1_000))),
        _ => return None,
    };
    Some(ident(column).lt_eq(lit(literal)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(data_type: &DataType, t: i64) -> ScalarValue {
        match no_later_than("at", data_type, UtcMicros(t)) {
            Some(Expr::BinaryExpr(compared)) => match *compared.right {
                Expr::Literal(value, _) => value,
                other => panic!("{other}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_literal_has_the_type_of_the_column() {
        let zone = || Some("Europe/Prague".into());
        let types = [
            DataType::Timestamp(TimeUnit::Second, None),
            DataType::Timestamp(TimeUnit::Millisecond, zone()),
            DataType::Timestamp(TimeUnit::Microsecond, zone()),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Date32,
            DataType::Date64,
        ];
        for data_type in types {
            assert_eq!(literal(&data_type, 7).data_type(), data_type);
        }
    }

    #[test]
    fn it_rounds_down_before_1970_too() {
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        assert_eq!(
            literal(&seconds, -1),
            ScalarValue::TimestampSecond(Some(-1), None)
        );
        assert_eq!(
            literal(&DataType::Date32, -1),
            ScalarValue::Date32(Some(-1))
        );
        assert_eq!(
            literal(&DataType::Date32, MICROS_PER_DAY - 1),
            ScalarValue::Date32(Some(0))
        );
    }

    #[test]
    fn text_is_no_time() {
        assert_eq!(no_later_than("at", &DataType::Utf8, UtcMicros(0)), None);
    }
}
