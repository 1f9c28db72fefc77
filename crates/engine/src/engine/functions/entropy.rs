//! `entropy(x)`: Shannon's entropy −Σ p·log2(p) of the values' shares p of the
//! rows with a value, in bits as DuckDB and ClickHouse have it (times ln 2 in
//! nats). One value is 0, n equally frequent ones log2(n). NULL is not counted; of
//! no values the result is NULL.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

use super::arguments::plain;
use super::frequencies::Frequencies;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Entropy {
    signature: Signature,
}

impl Entropy {
    pub(super) const NAME: &'static str = "entropy";

    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for Entropy {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match types {
            [value] => Ok(vec![plain(value)]),
            _ => plan_err!("entropy(x) takes 1 argument, got {}", types.len()),
        }
    }

    fn return_type(&self, _types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let frequencies =
            Frequencies::new(arguments.expr_fields[0].data_type(), arguments.is_distinct)?;
        Ok(Box::new(EntropyAccumulator { frequencies }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(Frequencies::state_fields(&arguments))
    }
}

#[derive(Debug)]
struct EntropyAccumulator {
    frequencies: Frequencies,
}

impl Accumulator for EntropyAccumulator {
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

    /// Over the counts in their order, so that equal counts give equal bits.
    fn evaluate(&mut self) -> Result<ScalarValue> {
        let total = self.frequencies.total();
        if total == 0 {
            return Ok(ScalarValue::Float64(None));
        }
        let total = total as f64;
        let of_count = |(count, values): (&u64, &u64)| {
            let inverse = total / *count as f64;
            *values as f64 * inverse.log2() / inverse
        };
        let entropy: f64 = self.frequencies.tallies().iter().map(of_count).sum();
        // A sum of no terms would be −0.0.
        Ok(ScalarValue::Float64(Some(entropy + 0.0)))
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.frequencies.state()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.frequencies.size()
    }
}
