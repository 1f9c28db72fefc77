//! Functions of our own: `as_of()`, the T of a run, a read or a session; and two
//! that only plans call: [`ranked`] makes values that order as ties are decided,
//! [`OnlyRow`] fails a query that gives two rows of a key.

use std::sync::Arc;

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::datatypes::{DataType, TimeUnit, UInt64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;
use granary_model::types::UTC;
use granary_model::{FeatureView, UtcMicros, json};

use crate::asof::order::one_nan;
use crate::error::EngineError;

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

/// A predicate over (the number of a row among those of its key, the key
/// columns): true of the first row, an error that names the key of a second.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct OnlyRow {
    signature: Signature,
    view: String,
    keys: Vec<String>,
    as_of: UtcMicros,
}

impl OnlyRow {
    pub(crate) fn new(view: &FeatureView, as_of: UtcMicros) -> Self {
        Self {
            // It may fail, so no rule may move or drop it.
            signature: Signature::variadic_any(Volatility::Volatile),
            view: view.name.clone(),
            keys: view.keys.iter().map(|key| key.name.clone()).collect(),
            as_of,
        }
    }
}

impl ScalarUDFImpl for OnlyRow {
    fn name(&self) -> &str {
        "_only_row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let (numbers, keys) = arrays
            .split_first()
            .ok_or_else(|| DataFusionError::Internal("_only_row takes a number".into()))?;
        let numbers = datafusion::common::cast::as_primitive_array::<UInt64Type>(numbers)?;
        let Some(row) = numbers.values().iter().position(|n| *n > 1) else {
            let all = BooleanArray::from(vec![true; numbers.len()]);
            return Ok(ColumnarValue::Array(Arc::new(all)));
        };
        let parts = self.keys.iter().zip(keys).map(|(name, values)| {
            let value = json::text(values, row).unwrap_or_default();
            format!("{name} = {value}")
        });
        Err(DataFusionError::External(Box::new(
            EngineError::DuplicateKeys {
                view: self.view.clone(),
                as_of: self.as_of,
                rows: 1,
                examples: parts.collect::<Vec<_>>().join(", "),
            },
        )))
    }
}
