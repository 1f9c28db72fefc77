//! How often each value was seen: a multiset, which values can leave again.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::function::StateFieldsArgs;
use datafusion::logical_expr::utils::format_state_name;
use datafusion::scalar::ScalarValue;

use crate::asof::order::one_nan;

/// A value, as bytes that sort as the values do.
pub(super) type Value = Arc<[u8]>;

/// What a value costs in a map besides its bytes.
const VALUE_BYTES: usize = 64;

/// A change of how much a value counts.
pub(super) struct Change<'a> {
    pub(super) value: &'a Value,
    pub(super) before: u64,
    pub(super) after: u64,
}

/// Values with the number of their occurrences, NULL aside. All NaNs are one
/// value.
#[derive(Debug)]
pub(super) struct Frequencies {
    converter: RowConverter,
    occurrences: HashMap<Value, u64>,
    /// Of DISTINCT every value counts once.
    distinct: bool,
    /// How many values count how much.
    tallies: BTreeMap<u64, u64>,
    total: u64,
    value_bytes: usize,
}

impl Frequencies {
    pub(super) fn new(data_type: &DataType, distinct: bool) -> Result<Self> {
        Ok(Self {
            converter: RowConverter::new(vec![SortField::new(data_type.clone())])?,
            occurrences: HashMap::default(),
            distinct,
            tallies: BTreeMap::new(),
            total: 0,
            value_bytes: 0,
        })
    }

    /// What all values together count.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Counts with the number of values that have it, ascending.
    pub(super) fn tallies(&self) -> &BTreeMap<u64, u64> {
        &self.tallies
    }

    pub(super) fn add(&mut self, values: &ArrayRef, changed: impl FnMut(Change)) -> Result<()> {
        self.apply(values, |occurrences, _| occurrences + 1, changed)
    }

    /// Values that were added before.
    pub(super) fn remove(&mut self, values: &ArrayRef, changed: impl FnMut(Change)) -> Result<()> {
        let less = |occurrences: u64, _| occurrences.saturating_sub(1);
        self.apply(values, less, changed)
    }

    /// Goes through the values that are not NULL: `occurrences` of one and its
    /// row give the new number.
    fn apply(
        &mut self,
        values: &ArrayRef,
        occurrences: impl Fn(u64, usize) -> u64,
        mut changed: impl FnMut(Change),
    ) -> Result<()> {
        let rows = self.converter.convert_columns(&[one_nan(values)])?;
        let nulls = values.logical_nulls();
        for (index, row) in rows.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(index)) {
                continue;
            }
            let known = self.occurrences.get_key_value(row.data());
            let (value, before) = match known {
                Some((value, occurrences)) => (value.clone(), *occurrences),
                None => (Value::from(row.data()), 0),
            };
            let after = occurrences(before, index);
            self.set(&value, before, after);
            let (before, after) = (self.counted(before), self.counted(after));
            if before != after {
                self.tally(before, after);
                changed(Change {
                    value: &value,
                    before,
                    after,
                });
            }
        }
        Ok(())
    }

    fn set(&mut self, value: &Value, before: u64, after: u64) {
        match (before, after) {
            (0, 0) => {}
            (_, 0) => {
                self.occurrences.remove(value);
                self.value_bytes -= value.len() + VALUE_BYTES;
            }
            _ => {
                self.occurrences.insert(value.clone(), after);
                if before == 0 {
                    self.value_bytes += value.len() + VALUE_BYTES;
                }
            }
        }
    }

    fn counted(&self, occurrences: u64) -> u64 {
        match self.distinct {
            true => occurrences.min(1),
            false => occurrences,
        }
    }

    fn tally(&mut self, before: u64, after: u64) {
        self.total = self.total - before + after;
        if let Some(values) = self.tallies.get_mut(&before) {
            *values -= 1;
            if *values == 0 {
                self.tallies.remove(&before);
            }
        }
        if after > 0 {
            *self.tallies.entry(after).or_default() += 1;
        }
    }

    /// An array of these values.
    pub(super) fn array<'a>(&self, values: impl Iterator<Item = &'a Value>) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let rows: Vec<_> = values.map(|value| parser.parse(value)).collect();
        let columns = self.converter.convert_rows(rows)?;
        let [array] = <[ArrayRef; 1]>::try_from(columns)
            .map_err(|_| DataFusionError::Internal("a row of one value".into()))?;
        Ok(array)
    }

    /// Values and their occurrences, as two lists.
    pub(super) fn state(&self) -> Result<Vec<ScalarValue>> {
        let values = self.array(self.occurrences.keys())?;
        let occurrences: UInt64Array = self.occurrences.values().copied().collect();
        Ok([values, Arc::new(occurrences)]
            .map(|list| SingleRowListArrayBuilder::new(list).build_list_scalar())
            .to_vec())
    }

    pub(super) fn state_fields(arguments: &StateFieldsArgs) -> Vec<FieldRef> {
        let value = arguments.input_fields[0].data_type().clone();
        [("values", value), ("occurrences", DataType::UInt64)]
            .map(|(name, item)| {
                let name = format_state_name(arguments.name, name);
                Arc::new(Field::new_list(
                    name,
                    Field::new_list_field(item, true),
                    true,
                ))
            })
            .to_vec()
    }

    /// States of others, a row each.
    pub(super) fn merge(
        &mut self,
        states: &[ArrayRef],
        mut changed: impl FnMut(Change),
    ) -> Result<()> {
        let (values, occurrences) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in (0..values.len()).filter(|row| values.is_valid(*row)) {
            let more = occurrences.value(row);
            let more: &UInt64Array = more.as_primitive::<UInt64Type>();
            self.apply(
                &values.value(row),
                |occurrences, index| occurrences + more.value(index),
                &mut changed,
            )?;
        }
        Ok(())
    }

    pub(super) fn size(&self) -> usize {
        size_of_val(self) + self.converter.size() + self.value_bytes
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};

    use super::*;

    fn texts(values: &[Option<&str>]) -> ArrayRef {
        Arc::new(values.iter().copied().collect::<StringArray>())
    }

    fn tallies(frequencies: &Frequencies) -> Vec<(u64, u64)> {
        frequencies
            .tallies()
            .iter()
            .map(|(a, b)| (*a, *b))
            .collect()
    }

    #[test]
    fn what_leaves_is_as_if_it_had_never_come() {
        let mut some = Frequencies::new(&DataType::Utf8, false).unwrap();
        some.add(&texts(&[Some("a"), None, Some("b"), Some("a")]), |_| {})
            .unwrap();
        assert_eq!((some.total(), tallies(&some)), (3, vec![(1, 1), (2, 1)]));
        some.remove(&texts(&[Some("a"), None, Some("b")]), |_| {})
            .unwrap();
        assert_eq!((some.total(), tallies(&some)), (1, vec![(1, 1)]));
        some.remove(&texts(&[Some("a")]), |_| {}).unwrap();
        let none = Frequencies::new(&DataType::Utf8, false).unwrap();
        assert_eq!((some.total(), tallies(&some)), (0, vec![]));
        assert_eq!(some.value_bytes, none.value_bytes);
    }

    #[test]
    fn merged_states_are_as_if_seen_together() {
        let part = |values: &[Option<&str>]| {
            let mut part = Frequencies::new(&DataType::Utf8, true).unwrap();
            part.add(&texts(values), |_| {}).unwrap();
            part
        };
        let mut all = part(&[Some("a"), Some("b"), Some("b")]);
        let other = part(&[Some("b"), Some("c")]).state().unwrap();
        let states: Vec<ArrayRef> = other.iter().map(|s| s.to_array().unwrap()).collect();
        all.merge(&states, |_| {}).unwrap();
        assert_eq!((all.total(), tallies(&all)), (3, vec![(1, 3)]));
        assert_eq!(all.occurrences.values().sum::<u64>(), 5);
    }

    #[test]
    fn every_nan_is_one_value() {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, -f64::NAN, 1.0]));
        let mut some = Frequencies::new(&DataType::Float64, false).unwrap();
        some.add(&values, |_| {}).unwrap();
        assert_eq!(tallies(&some), [(1, 1), (2, 1)]);
    }
}
