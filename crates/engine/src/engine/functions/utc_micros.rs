//! `utc_micros(time)`: the time as the TIMESTAMP of Granary.
//!
//! A cast from a time without a zone asks for the offset of UTC row by row,
//! which takes longer than to read the column; here the type is relabelled.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::functions::expr_fn::greatest;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use granary_model::types::UTC;

use crate::asof::{micros, timestamps};

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    Arc::new(ScalarUDF::from(UtcMicros {
        signature: Signature::any(1, Volatility::Immutable),
    }))
});

pub(crate) fn utc_micros_function() -> Arc<ScalarUDF> {
    FUNCTION.clone()
}

/// A TIMESTAMP of any unit and zone, or a DATE, as UTC microseconds.
pub(crate) fn utc_micros(time: Expr) -> Expr {
    FUNCTION.call(vec![time])
}

/// The greatest of times, NULL aside.
pub(crate) fn latest_of(times: impl Iterator<Item = Expr>) -> Option<Expr> {
    let mut times: Vec<Expr> = times.map(utc_micros).collect();
    match times.len() {
        0 | 1 => times.pop(),
        _ => Some(greatest(times)),
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct UtcMicros {
    signature: Signature,
}

impl ScalarUDFImpl for UtcMicros {
    fn name(&self) -> &str {
        "utc_micros"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time] = take_function_args(self.name(), &args.args)?;
        let times = micros(&time.to_array(args.number_rows)?)?;
        Ok(ColumnarValue::Array(timestamps(times)))
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        Ok(input[0].sort_properties)
    }
}
