//! `as_of()`: the T of a run, a read or a session.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::error::Result;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;
use granary_model::UtcMicros;
use granary_model::types::UTC;

pub const AS_OF_FUNCTION: &str = "as_of";

/// Known in every session; the optimizer folds it to a literal, so that it is
/// pushed down into scans like any other.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct AsOf {
    signature: Signature,
    as_of: UtcMicros,
}

impl AsOf {
    pub(super) fn new(as_of: UtcMicros) -> Self {
        Self {
            signature: Signature::nullary(Volatility::Immutable),
            as_of,
        }
    }

    fn value(&self) -> ScalarValue {
        ScalarValue::TimestampMicrosecond(Some(self.as_of.0), Some(UTC.into()))
    }
}

impl ScalarUDFImpl for AsOf {
    fn name(&self) -> &str {
        AS_OF_FUNCTION
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value()))
    }

    fn simplify(&self, _args: Vec<Expr>, _info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(
            self.value(),
            None,
        )))
    }
}
