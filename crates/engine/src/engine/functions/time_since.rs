//! `time_since(t [, unit])`: how long before `as_of()` a time was.
//!
//! Seconds, DOUBLE, without a unit. With one, which is a constant, whole ones,
//! BIGINT, rounded down: a day has 24 hours. Negative where t is later, NULL of
//! NULL; a DATE is its midnight in UTC.
//!
//! The call stands in a query until the query's types are settled. From there on
//! it is a difference to `as_of()` like any other that SQL may spell, so what
//! looks for `as_of()` in a plan, or puts another t in its place, need not know
//! of it.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, new_null_array};
use datafusion::arrow::compute::binary;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::utils::take_function_args;
use datafusion::common::{DFSchema, internal_err, plan_err};
use datafusion::error::Result;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};
use datafusion::scalar::ScalarValue;
use granary_model::interval::MICROS_PER_DAY;

use super::arguments;
use crate::asof::micros;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// The call as it stands in SQL.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeSince {
    signature: Signature,
}

impl TimeSince {
    const NAME: &str = "time_since";

    pub(super) fn new() -> Self {
        let arguments = vec![TypeSignature::Any(1), TypeSignature::Any(2)];
        Self {
            signature: Signature::one_of(arguments, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for TimeSince {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        internal_err!("the type of {} is that of its unit", Self::NAME)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let unit = match args.scalar_arguments {
            [_, Some(unit), ..] => Some(Unit::read(Self::NAME, unit)?),
            [_, None, ..] => Some(Unit::Seconds),
            _ => None,
        };
        if let Some(time) = args.arg_fields.first() {
            check_time(arguments::plain(time.data_type()))?;
        }
        let data_type = Elapsed::new(unit).data_type();
        Ok(Arc::new(Field::new(Self::NAME, data_type, true)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{} was not taken apart", Self::NAME)
    }
}

fn check_time(data_type: DataType) -> Result<()> {
    match data_type {
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Null => Ok(()),
        other => plan_err!(
            "{}: t must be a TIMESTAMP or a DATE, got {other}",
            TimeSince::NAME
        ),
    }
}

/// Makes a call the difference of t and `as_of()`.
#[derive(Debug)]
pub(in crate::engine) struct TakeTimeSinceApart {
    as_of: Arc<ScalarUDF>,
}

impl TakeTimeSinceApart {
    pub(in crate::engine) fn new(as_of: Arc<ScalarUDF>) -> Self {
        Self { as_of }
    }
}

impl FunctionRewrite for TakeTimeSinceApart {
    fn name(&self) -> &str {
        TimeSince::NAME
    }

    fn rewrite(
        &self,
        expression: Expr,
        _schema: &DFSchema,
        _config: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let (time, unit) = match &expression {
            Expr::ScalarFunction(call) if call.name() == TimeSince::NAME => match &call.args[..] {
                [time] => (time.clone(), None),
                [time, _] => {
                    let unit = arguments::in_sql(TimeSince::NAME, &call.args, 1, Unit::read)?;
                    (time.clone(), unit)
                }
                // The signature refuses it.
                _ => return Ok(Transformed::no(expression)),
            },
            _ => return Ok(Transformed::no(expression)),
        };
        let elapsed = ScalarUDF::from(Elapsed::new(unit));
        let as_of = self.as_of.call(Vec::new());
        Ok(Transformed::yes(elapsed.call(vec![time, as_of])))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Unit {
    Seconds,
    Minutes,
    Hours,
    Days,
}

impl Unit {
    fn read(function: &str, value: &ScalarValue) -> Result<Self> {
        match value.try_as_str().flatten() {
            Some("seconds") => Ok(Self::Seconds),
            Some("minutes") => Ok(Self::Minutes),
            Some("hours") => Ok(Self::Hours),
            Some("days") => Ok(Self::Days),
            _ => {
                let rule = "'seconds', 'minutes', 'hours' or 'days', written as a constant";
                arguments::refused(function, "unit", rule, &value.to_string())
            }
        }
    }

    fn micros(self) -> i64 {
        match self {
            Self::Seconds => MICROS_PER_SECOND,
            Self::Minutes => 60 * MICROS_PER_SECOND,
            Self::Hours => 3_600 * MICROS_PER_SECOND,
            Self::Days => MICROS_PER_DAY,
        }
    }
}

/// `_seconds_between(a, b)` and its like: from a to b.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Elapsed {
    signature: Signature,
    /// `None`: seconds, not whole ones.
    unit: Option<Unit>,
}

impl Elapsed {
    fn new(unit: Option<Unit>) -> Self {
        Self {
            signature: Signature::any(2, Volatility::Immutable),
            unit,
        }
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        let whole = [Unit::Seconds, Unit::Minutes, Unit::Hours, Unit::Days];
        let units = [None].into_iter().chain(whole.map(Some));
        units.map(Self::new)
    }

    fn data_type(&self) -> DataType {
        match self.unit {
            None => DataType::Float64,
            Some(_) => DataType::Int64,
        }
    }

    fn between(&self, a: &Int64Array, b: &Int64Array) -> Result<ArrayRef> {
        Ok(match self.unit {
            None => Arc::new(binary::<_, _, _, Float64Type>(a, b, |a, b| {
                b.saturating_sub(a) as f64 / MICROS_PER_SECOND as f64
            })?),
            Some(unit) => {
                let micros = unit.micros();
                Arc::new(binary::<_, _, _, Int64Type>(a, b, |a, b| {
                    b.saturating_sub(a).div_euclid(micros)
                })?)
            }
        })
    }
}

impl ScalarUDFImpl for Elapsed {
    fn name(&self) -> &str {
        match self.unit {
            None => "_seconds_between",
            Some(Unit::Seconds) => "_whole_seconds_between",
            Some(Unit::Minutes) => "_whole_minutes_between",
            Some(Unit::Hours) => "_whole_hours_between",
            Some(Unit::Days) => "_whole_days_between",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.data_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [a, b] = take_function_args(self.name(), &args.args)?;
        let rows = args.number_rows;
        let (a, b) = (a.to_array(rows)?, b.to_array(rows)?);
        if a.data_type().is_null() {
            return Ok(ColumnarValue::Array(new_null_array(
                &self.data_type(),
                rows,
            )));
        }
        Ok(ColumnarValue::Array(
            self.between(&micros(&a)?, &micros(&b)?)?,
        ))
    }
}
