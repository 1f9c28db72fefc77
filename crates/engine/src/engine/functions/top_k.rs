//! `top_k(x, k)`: a list of the k most frequent values, the most frequent first,
//! of equally frequent ones the smaller first (NaN highest). Fewer than k
//! distinct values make a shorter list. NULL is not counted; of no values the
//! result is NULL.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use datafusion::scalar::ScalarValue;

use super::arguments;
use super::frequencies::{Change, Frequencies, Value};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TopK {
    signature: Signature,
}

impl TopK {
    pub(super) const NAME: &'static str = "top_k";

    pub(super) fn new() -> Self {
        Self {
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for TopK {
    fn name(&self) -> &str {
        Self::NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        arguments::value_and_count(Self::NAME, types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let item = Field::new_list_field(types[0].clone(), true);
        Ok(DataType::List(Arc::new(item)))
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(TopKAccumulator {
            k: arguments::planned(Self::NAME, arguments.exprs, 1, arguments::count)?,
            none: ScalarValue::try_from(arguments.return_type())?,
            frequencies: Frequencies::new(
                arguments.expr_fields[0].data_type(),
                arguments.is_distinct,
            )?,
            ranking: BTreeSet::new(),
        }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        Ok(Frequencies::state_fields(&arguments))
    }
}

type Ranking = BTreeSet<(Reverse<u64>, Value)>;

#[derive(Debug)]
struct TopKAccumulator {
    k: usize,
    none: ScalarValue,
    frequencies: Frequencies,
    /// The order of the result, kept up with every change.
    ranking: Ranking,
}

fn rank(ranking: &mut Ranking) -> impl FnMut(Change) {
    |change| {
        if change.before > 0 {
            ranking.remove(&(Reverse(change.before), change.value.clone()));
        }
        if change.after > 0 {
            ranking.insert((Reverse(change.after), change.value.clone()));
        }
    }
}

impl Accumulator for TopKAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.frequencies.add(&values[0], rank(&mut self.ranking))
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.frequencies.remove(&values[0], rank(&mut self.ranking))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.frequencies.merge(states, rank(&mut self.ranking))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.ranking.is_empty() {
            return Ok(self.none.clone());
        }
        let first = self.ranking.iter().take(self.k).map(|(_, value)| value);
        let list = SingleRowListArrayBuilder::new(self.frequencies.array(first)?);
        Ok(list.build_list_scalar())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.frequencies.state()
    }

    fn size(&self) -> usize {
        let ranked = size_of::<(Reverse<u64>, Value)>() * self.ranking.len();
        size_of_val(self) + self.frequencies.size() + ranked
    }
}
