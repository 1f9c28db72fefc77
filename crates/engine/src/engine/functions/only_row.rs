//! Fails a query that gives two rows of a key.

use std::sync::Arc;

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use granary_model::{FeatureView, UtcMicros, json};

use crate::error::EngineError;

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
