//! `top_share(x, k)`: the share, 0 to 1, of the rows with a value that the k most
//! frequent values hold. NULL is not counted; of no values the result is NULL.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

use super::arguments;
use super::frequencies::Frequencies;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TopShare {
    signature: Signature,
}

impl TopShare {
    pub(super) const NAME: &'static str = "top_share";

    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for TopShare {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        arguments::value_and_count(Self::NAME, types)
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(TopShareAccumulator {
            k: arguments::planned(Self::NAME, arguments.exprs, 1, arguments::count)?,
            frequencies: Frequencies::new(
                arguments.expr_fields[0].data_type(),
                arguments.is_distinct,
            )?,
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(Frequencies::state_fields(&arguments))
    }
}

#[derive(Debug)]
struct TopShareAccumulator {
    k: usize,
    frequencies: Frequencies,
}

impl Accumulator for TopShareAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.frequencies.add(&values[0], |_| {})
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.frequencies.remove(&values[0], |_| {})
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.frequencies.merge(states, |_| {})
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let total = self.frequencies.total();
        if total == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let (mut left, mut held) = (self.k as u64, 0);
        for (count, values) in self.frequencies.tallies().iter().rev() {
            let taken = left.min(*values);
            held += count * taken;
            left -= taken;
            if left == 0 {
                break;
            }
        }
        Ok(ScalarValue::Float64(Some(held as f64 / total as f64)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.frequencies.state()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.frequencies.size()
    }
}
