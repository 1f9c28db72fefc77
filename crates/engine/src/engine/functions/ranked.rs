//! Values that order as ties are decided: every NaN is one.

use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::asof::order::one_nan;

/// A float, or a list of floats, as values of it rank: every NaN alike.
pub(crate) fn ranked(value: Expr) -> Expr {
    ScalarUDF::from(OneNan::new()).call(vec![value])
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct OneNan {
    signature: Signature,
}

impl OneNan {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for OneNan {
    fn name(&self) -> &str {
        "_one_nan"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(one_nan(&arrays[0])))
    }
}
