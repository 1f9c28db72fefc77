//! What lenders compute: days past due, and points or weights of evidence from a
//! table that stands in the SQL.
//!
//! | function | is |
//! |---|---|
//! | `days_past_due(due, paid, t)` | whole days from the due date to when it was paid, else to t; 0 before it is due |
//! | `binned(x, bounds, values)` | the value of the bin that x lies in: bounds ascend, there is one value more than bounds, a bin begins at its bound |
//!
//! `binned` is a scorecard's line (points) or a weight-of-evidence coding
//! (ln(goods/bads) of each bin): `binned(age, [25, 35, 50], [12, 18, 25, 31])`.
//! NULL is in no bin: NULL, which `coalesce(.., points)` gives points.

use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, Float64Array, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Date32Type, Field, Float64Type};
use datafusion::common::exec_err;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DaysPastDue {
    signature: Signature,
}

impl DaysPastDue {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(3, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for DaysPastDue {
    fn name(&self) -> &str {
        "days_past_due"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [due, paid, t] = take_function_args(self.name(), &args.args)?;
        // Days as UTC has them.
        let days = |value: &ColumnarValue| -> Result<_> {
            Ok(cast(&value.to_array(args.number_rows)?, &DataType::Date32)?)
        };
        let (due, paid, t) = (days(due)?, days(paid)?, days(t)?);
        let [due, paid, t] = [&due, &paid, &t].map(AsArray::as_primitive::<Date32Type>);
        let all = due.iter().zip(paid.iter().zip(t));
        let late = all.map(|(due, (paid, t))| {
            let until = match (paid, t) {
                (Some(paid), Some(t)) => paid.min(t),
                (Some(paid), None) => paid,
                (None, t) => t?,
            };
            Some((i64::from(until) - i64::from(due?)).max(0))
        });
        Ok(ColumnarValue::Array(Arc::new(late.collect::<Int64Array>())))
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Binned {
    signature: Signature,
}

impl Binned {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(3, Volatility::Immutable),
        }
    }
}

/// Which bin x lies in.
fn bin(x: f64, bounds: &Float64Array) -> usize {
    bounds.values().partition_point(|bound| *bound <= x)
}

impl ScalarUDFImpl for Binned {
    fn name(&self) -> &str {
        "binned"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [x, bounds, values] = take_function_args(self.name(), &args.args)?;
        let rows = args.number_rows;
        let list = DataType::List(Arc::new(Field::new("item", DataType::Float64, true)));
        let x = cast(&x.to_array(rows)?, &DataType::Float64)?;
        let bounds = cast(&bounds.to_array(rows)?, &list)?;
        let values = cast(&values.to_array(rows)?, &list)?;
        let (bounds, values) = (bounds.as_list::<i32>(), values.as_list::<i32>());
        let mut found: Vec<Option<f64>> = Vec::with_capacity(rows);
        for (row, x) in x.as_primitive::<Float64Type>().iter().enumerate() {
            if bounds.is_null(row) || values.is_null(row) {
                found.push(None);
                continue;
            }
            let (bounds, values) = (bounds.value(row), values.value(row));
            let bounds = bounds.as_primitive::<Float64Type>();
            let ascending = bounds.values().windows(2).all(|two| two[0] < two[1]);
            if bounds.null_count() > 0 || !ascending {
                return exec_err!("binned: the bounds must ascend, without NULL");
            }
            if values.len() != bounds.len() + 1 {
                return exec_err!(
                    "binned: {} bounds make {} bins, and there are {} values",
                    bounds.len(),
                    bounds.len() + 1,
                    values.len()
                );
            }
            let values = values.as_primitive::<Float64Type>();
            let at = x.filter(|x| !x.is_nan()).map(|x| bin(x, bounds));
            found.push(
                at.filter(|at| values.is_valid(*at))
                    .map(|at| values.value(at)),
            );
        }
        Ok(ColumnarValue::Array(Arc::new(Float64Array::from(found))))
    }
}
