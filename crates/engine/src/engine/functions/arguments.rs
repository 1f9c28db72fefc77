//! Arguments that must be constants: as they stand in SQL, and once planned.

use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalMonthDayNano, IntervalUnit};
use datafusion::common::plan_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::scalar::ScalarValue;
use granary_model::Interval;
use granary_model::interval::MICROS_PER_DAY;

/// The type of intervals in SQL.
pub(super) const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// How an argument reads where it is wrong.
pub(super) fn refused<T>(function: &str, argument: &str, rule: &str, given: &str) -> Result<T> {
    plan_err!("{function}: {argument} must be {rule}, got {given}")
}

const COUNT_RULE: &str = "a whole number above 0, written as a constant";
const HALF_LIFE_RULE: &str =
    "an interval above 0 without months, written as a constant as in INTERVAL '7 days'";

/// k of `function(x, k)`.
pub(super) fn count(function: &str, value: &ScalarValue) -> Result<usize> {
    let count = match value.data_type().is_integer() {
        true => value.cast_to(&DataType::Int64).ok(),
        false => None,
    };
    match count {
        Some(ScalarValue::Int64(Some(k @ 1..))) => Ok(usize::try_from(k).unwrap_or(usize::MAX)),
        _ => refused(function, "k", COUNT_RULE, &value.to_string()),
    }
}

/// A half-life in microseconds; a day has 24 hours.
pub(super) fn half_life(function: &str, value: &ScalarValue) -> Result<i64> {
    let interval = match value.data_type() {
        DataType::Interval(_) => value.cast_to(&INTERVAL).ok(),
        _ => None,
    };
    let given = match interval {
        Some(ScalarValue::IntervalMonthDayNano(given)) => given,
        _ => None,
    };
    match given.and_then(interval_micros) {
        Some(micros @ 1..) => Ok(micros),
        _ => {
            let given = given.map_or_else(|| value.to_string(), in_words);
            refused(function, "half_life", HALF_LIFE_RULE, &given)
        }
    }
}

fn in_words(interval: IntervalMonthDayNano) -> String {
    let interval = Interval {
        months: interval.months,
        days: interval.days,
        micros: interval.nanoseconds / 1_000,
    };
    format!("INTERVAL '{interval}'")
}

fn interval_micros(interval: IntervalMonthDayNano) -> Option<i64> {
    if interval.months != 0 {
        return None;
    }
    let days = i64::from(interval.days).checked_mul(MICROS_PER_DAY)?;
    days.checked_add(interval.nanoseconds / 1_000)
}

/// The constant at a place of a call in SQL. A call with too few arguments is
/// left to the signature.
pub(super) fn in_sql<T>(
    function: &str,
    arguments: &[Expr],
    place: usize,
    read: impl Fn(&str, &ScalarValue) -> Result<T>,
) -> Result<Option<T>> {
    match arguments.get(place) {
        None => Ok(None),
        Some(Expr::Literal(value, _)) => read(function, value).map(Some),
        Some(other) => {
            let rule = "written as a constant";
            let argument = format!("argument {}", place + 1);
            refused(function, &argument, rule, &other.to_string())
        }
    }
}

/// The constant at a place of a planned call.
pub(super) fn planned<T>(
    function: &str,
    arguments: &[Arc<dyn PhysicalExpr>],
    place: usize,
    read: impl Fn(&str, &ScalarValue) -> Result<T>,
) -> Result<T> {
    let argument = arguments.get(place).ok_or_else(|| {
        DataFusionError::Internal(format!("{function} has no argument {}", place + 1))
    })?;
    match argument.downcast_ref::<Literal>() {
        Some(literal) => read(function, literal.value()),
        None => {
            let rule = "written as a constant";
            let name = format!("argument {}", place + 1);
            refused(function, &name, rule, &argument.to_string())
        }
    }
}

/// The types of `function(x, k)`: x as it is, dictionaries aside.
pub(super) fn value_and_count(function: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let [value, k] = types else {
        return plan_err!("{function}(x, k) takes 2 arguments, got {}", types.len());
    };
    if !k.is_integer() {
        return refused(function, "k", COUNT_RULE, &k.to_string());
    }
    Ok(vec![plain(value), DataType::Int64])
}

/// A type without its dictionary.
pub(super) fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, value) => plain(value),
        other => other.clone(),
    }
}
