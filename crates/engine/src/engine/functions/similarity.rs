//! `jaro_winkler(a, b)`: how alike two texts are, 0 to 1, by Jaro and Winkler:
//! for names that were typed or transcribed. Characters count as they are; fold
//! case before. DataFusion has `levenshtein` itself.

use std::sync::Arc;

use datafusion::arrow::array::{AsArray, Float64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct JaroWinkler {
    signature: Signature,
}

impl JaroWinkler {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::string(2, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for JaroWinkler {
    fn name(&self) -> &str {
        "jaro_winkler"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [a, b] = take_function_args(self.name(), &args.args)?;
        let text = |value: &ColumnarValue| -> Result<_> {
            Ok(cast(&value.to_array(args.number_rows)?, &DataType::Utf8)?)
        };
        let (a, b) = (text(a)?, text(b)?);
        let both = a.as_string::<i32>().iter().zip(b.as_string::<i32>());
        let alike = both.map(|(a, b)| Some(strsim::jaro_winkler(a?, b?)));
        Ok(ColumnarValue::Array(Arc::new(
            alike.collect::<Float64Array>(),
        )))
    }
}
