//! t of a row of the spine.

use arrow::array::{ArrayRef, Int64Array};
use arrow::compute::CastOptions;
use arrow::compute::cast_with_options;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use granary_model::types::UTC;
use granary_model::{Interval, UtcMicros};

use crate::asof::{micros, timestamps};

/// Makes TIMESTAMP, UTC microseconds, of a time of any type, text among them;
/// with an interval, the newest multiple of it up to then.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SpineTime {
    signature: Signature,
    refreshed_every: Option<Interval>,
}

impl SpineTime {
    pub(super) fn new(refreshed_every: Option<Interval>) -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
            refreshed_every,
        }
    }

    fn times(&self, given: &ArrayRef) -> Result<Int64Array> {
        let timed = match given.data_type() {
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                let strict = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                cast_with_options(given, &time_type(), &strict)?
            }
            _ => given.clone(),
        };
        let times = micros(&timed)?;
        Ok(match self.refreshed_every {
            None => times,
            Some(every) => times
                .iter()
                .map(|t| every.newest_multiple(UtcMicros(t?)).map(|t| t.0))
                .collect(),
        })
    }
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

impl ScalarUDFImpl for SpineTime {
    fn name(&self) -> &str {
        "spine_time"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(time_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [given] = &args.args[..] else {
            return Err(DataFusionError::Internal(
                "spine_time takes one time".into(),
            ));
        };
        let given = given.to_array(args.number_rows)?;
        Ok(ColumnarValue::Array(timestamps(self.times(&given)?)))
    }
}
