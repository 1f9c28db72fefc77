//! `decayed_sum(x, half_life [, event_time [, t]])`: the sum of x · 2^−(age / half_life),
//! the age of a row being t less its event time. Rows after t, and those with a
//! NULL x or time, are not counted; of no rows the result is NULL.
//!
//! In SQL the times may be left out where the call's place tells them, and
//! [`super::CallPlanner`] supplies them:
//!
//! - Over a window ordered by time: `decay(decayed_latest(x, half_life, time) OVER w,
//!   half_life, time)`. What is aggregated, [`DecayedLatest`], is the sum as of the
//!   newest event of the frame, with that event's time. It does not depend on t,
//!   so that windows may slide over it; [`Decay`] brings it to t.
//! - In GROUP BY, with the event time given, t is `as_of()`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StructArray};
use arrow::compute::sum;
use arrow::datatypes::{
    DataType, Field, FieldRef, Fields, Float64Type, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::scalar::ScalarValue;
use granary_model::types::UTC;

use super::arguments::{self, INTERVAL};
use crate::asof::kernels::Decayed;

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// The types of the arguments, of which there are so many at least and at most.
fn coerced(function: &str, types: &[DataType], usual: &[DataType]) -> Result<Vec<DataType>> {
    let words = ["x", "half_life", "event_time", "t"];
    if types.len() < 2 || types.len() > usual.len() {
        let words = words[..usual.len()].join(", ");
        return plan_err!(
            "{function}({words}) does not take {} arguments",
            types.len()
        );
    }
    for (place, (given, word)) in types.iter().zip(words).enumerate() {
        let given = arguments::plain(given);
        let (fits, rule) = match place {
            0 => (given.is_numeric(), "a number"),
            1 => (matches!(given, DataType::Interval(_)), "an interval"),
            _ => (given.is_temporal(), "a time"),
        };
        if !fits && !given.is_null() {
            return plan_err!("{function}: {word} must be {rule}, got {given}");
        }
    }
    Ok(usual[..types.len()].to_vec())
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DecayedSum {
    signature: Signature,
}

impl DecayedSum {
    pub(super) const NAME: &'static str = "decayed_sum";

    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for DecayedSum {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let usual = [DataType::Float64, INTERVAL, time(), time()];
        coerced(Self::NAME, types, &usual)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if arguments.exprs.len() < 4 {
            return plan_err!(
                "decayed_sum has no times here: write decayed_sum(x, half_life, event_time, t)"
            );
        }
        if arguments.is_distinct {
            return plan_err!("decayed_sum does not take DISTINCT");
        }
        let half_life = arguments::planned(Self::NAME, arguments.exprs, 1, arguments::half_life)?;
        Ok(Box::new(SumAccumulator {
            half_life,
            sum: None,
        }))
    }
}

#[derive(Debug)]
struct SumAccumulator {
    half_life: i64,
    sum: Option<f64>,
}

impl SumAccumulator {
    fn add(&mut self, more: Option<f64>) {
        if let Some(more) = more {
            self.sum = Some(self.sum.map_or(more, |sum| sum + more));
        }
    }
}

impl Accumulator for SumAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let x = values[0].as_primitive::<Float64Type>();
        let event_times = values[2].as_primitive::<TimestampMicrosecondType>();
        let t = values[3].as_primitive::<TimestampMicrosecondType>();
        let half_life = self.half_life;
        for ((x, event_time), t) in x.iter().zip(event_times).zip(t) {
            if let (Some(x), Some(event_time), Some(t)) = (x, event_time, t)
                && event_time <= t
            {
                let row = Decayed::event(x, event_time, half_life);
                self.add(row.as_of(t));
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.add(sum(states[0].as_primitive::<Float64Type>()));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.sum))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::Float64(self.sum)])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// `decayed_latest(x, half_life, event_time)`: the decayed sum as of the newest
/// event, and the time of that: `{sum DOUBLE, at TIMESTAMP}`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DecayedLatest {
    signature: Signature,
}

impl DecayedLatest {
    pub(super) const NAME: &'static str = "decayed_latest";

    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    fn result() -> DataType {
        DataType::Struct(Fields::from(vec![
            Field::new("sum", DataType::Float64, true),
            Field::new("at", time(), true),
        ]))
    }
}

impl AggregateUDFImpl for DecayedLatest {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        if types.len() != 3 {
            return plan_err!(
                "decayed_latest(x, half_life, event_time) takes 3 arguments, got {}",
                types.len()
            );
        }
        let usual = [DataType::Float64, INTERVAL, time()];
        coerced(Self::NAME, types, &usual)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(Self::result())
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if arguments.is_distinct {
            return plan_err!("decayed_sum does not take DISTINCT");
        }
        let half_life = arguments::planned(Self::NAME, arguments.exprs, 1, arguments::half_life)?;
        Ok(Box::new(LatestAccumulator {
            decayed: Decayed::none(half_life),
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |name: &str, data_type| {
            let name = format_state_name(arguments.name, name);
            Arc::new(Field::new(name, data_type, true))
        };
        Ok(vec![field("sum", DataType::Float64), field("at", time())])
    }
}

#[derive(Debug)]
struct LatestAccumulator {
    decayed: Decayed,
}

impl LatestAccumulator {
    fn add(&mut self, sums: &ArrayRef, times: &ArrayRef) {
        let sums = sums.as_primitive::<Float64Type>();
        let times = times.as_primitive::<TimestampMicrosecondType>();
        for (sum, at) in sums.iter().zip(times) {
            if let (Some(sum), Some(at)) = (sum, at) {
                let more = Decayed::event(sum, at, self.decayed.half_life());
                self.decayed = self.decayed.plus(more);
            }
        }
    }
}

impl Accumulator for LatestAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], &values[2]);
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.add(&states[0], &states[1]);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let array = Decayed::array(std::iter::once(self.decayed), &DecayedLatest::result())?;
        ScalarValue::try_from_array(&array, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (sum, at) = self.decayed.latest().unzip();
        Ok(vec![
            ScalarValue::Float64(sum),
            ScalarValue::TimestampMicrosecond(at, Some(UTC.into())),
        ])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// `decay(latest, half_life, t)`: a sum as of its newest event, as of t.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Decay {
    signature: Signature,
}

impl Decay {
    pub(super) const NAME: &'static str = "decay";

    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Decay {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let latest = DecayedLatest::result();
        match types {
            [given, DataType::Interval(_), t] if *given == latest && t.is_temporal() => {
                Ok(vec![latest, INTERVAL, time()])
            }
            _ => plan_err!("decay(latest, half_life, t) is part of decayed_sum(x, half_life)"),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, call: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let half_life = match &call.args[1] {
            ColumnarValue::Scalar(value) => value.clone(),
            ColumnarValue::Array(values) if values.is_empty() => {
                let none = Float64Array::new_null(0);
                return Ok(ColumnarValue::Array(Arc::new(none)));
            }
            ColumnarValue::Array(values) => ScalarValue::try_from_array(values, 0)?,
        };
        let half_life = arguments::half_life(DecayedSum::NAME, &half_life)?;
        let latest = call.args[0].to_array(call.number_rows)?;
        let latest: &StructArray = latest.as_struct();
        let t = call.args[2].to_array(call.number_rows)?;
        let sums = latest.column(0).as_primitive::<Float64Type>();
        let times = latest.column(1).as_primitive::<TimestampMicrosecondType>();
        let t = t.as_primitive::<TimestampMicrosecondType>();
        let as_of = |row: usize| {
            let known = latest.is_valid(row) && sums.is_valid(row) && t.is_valid(row);
            let latest =
                known.then(|| Decayed::event(sums.value(row), times.value(row), half_life));
            latest?.as_of(t.value(row))
        };
        let result: Float64Array = (0..call.number_rows).map(as_of).collect();
        Ok(ColumnarValue::Array(Arc::new(result)))
    }
}
