//! The order of values that decides ties: NULL lowest, NaN highest and equal to
//! every NaN, else as Arrow has it (−0.0 below 0.0).

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DynComparator, ListArray, PrimitiveArray, make_comparator,
};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::error::Result;

/// Compares rows of one set of columns with rows of another, column by column.
pub(crate) struct RowOrder {
    columns: Vec<DynComparator>,
}

impl RowOrder {
    /// Both sides have the same types.
    pub(crate) fn new(left: &[ArrayRef], right: &[ArrayRef]) -> Result<Self> {
        let options = SortOptions {
            descending: false,
            nulls_first: true,
        };
        let compare = |(left, right)| -> Result<DynComparator> {
            Ok(make_comparator(&one_nan(left), &one_nan(right), options)?)
        };
        let columns = left.iter().zip(right).map(compare).collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    pub(crate) fn compare(&self, left: usize, right: usize) -> Ordering {
        let mut ordered = self.columns.iter().map(|compare| compare(left, right));
        ordered
            .find(|ordering| ordering.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl std::fmt::Debug for RowOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RowOrder({} columns)", self.columns.len())
    }
}

/// The array with every NaN the same, positive one, in lists too.
pub(crate) fn one_nan(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float32 => {
            let values: &PrimitiveArray<Float32Type> = array.as_primitive();
            let plain = values.unary::<_, Float32Type>(|x| if x.is_nan() { f32::NAN } else { x });
            Arc::new(plain)
        }
        DataType::Float64 => {
            let values: &PrimitiveArray<Float64Type> = array.as_primitive();
            let plain = values.unary::<_, Float64Type>(|x| if x.is_nan() { f64::NAN } else { x });
            Arc::new(plain)
        }
        DataType::List(field) => {
            let list = array.as_list::<i32>();
            Arc::new(ListArray::new(
                field.clone(),
                list.offsets().clone(),
                one_nan(list.values()),
                list.nulls().cloned(),
            ))
        }
        _ => array.clone(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Float64Array;

    use super::*;

    #[test]
    fn null_is_lowest_and_nan_is_highest_whatever_its_sign() {
        let values: ArrayRef = Arc::new(Float64Array::from(vec![
            None,
            Some(f64::NEG_INFINITY),
            Some(-0.0),
            Some(0.0),
            Some(f64::INFINITY),
            Some(-f64::NAN),
            Some(f64::NAN),
        ]));
        let columns = [values];
        let order = RowOrder::new(&columns, &columns).unwrap();
        for i in 0..7 {
            for j in 0..7 {
                assert_eq!(order.compare(i, j), i.min(5).cmp(&j.min(5)), "{i} {j}");
            }
        }
    }
}
