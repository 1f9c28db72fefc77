//! Whether two values are one.
//!
//! Bit for bit, but floats: those are sums that may have been added up in
//! another order, and are equal within 1e-9 of the greater; NaN and infinities
//! equal themselves only.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use granary_model::{FeatureStatus, json};

/// Of the greater of two floats.
const FLOAT_TOLERANCE: f64 = 1e-9;
/// Floats below this are told apart as if they were as large.
const FLOAT_LEAST: f64 = 1e-6;

/// Whether the values of two columns of one type are equal in two rows of them.
pub fn equal((a, row_a): (&dyn Array, usize), (b, row_b): (&dyn Array, usize)) -> bool {
    if a.data_type() != b.data_type() || a.is_null(row_a) || b.is_null(row_b) {
        return a.data_type() == b.data_type() && a.is_null(row_a) && b.is_null(row_b);
    }
    match a.data_type() {
        DataType::Float64 | DataType::Float32 => equal_floats(float(a, row_a), float(b, row_b)),
        DataType::List(_) => {
            let (a, b) = (
                a.as_list::<i32>().value(row_a),
                b.as_list::<i32>().value(row_b),
            );
            a.len() == b.len() && (0..a.len()).all(|at| equal((&a, at), (&b, at)))
        }
        _ => json::text(a, row_a) == json::text(b, row_b),
    }
}

/// How far two numbers are from each other; `None` where that is no number.
pub fn difference((a, row_a): (&dyn Array, usize), (b, row_b): (&dyn Array, usize)) -> Option<f64> {
    let number = |array: &dyn Array, row: usize| {
        if !array.data_type().is_numeric() || array.is_null(row) {
            return None;
        }
        json::text(array, row)?.parse::<f64>().ok()
    };
    let difference = (number(a, row_a)? - number(b, row_b)?).abs();
    difference.is_finite().then_some(difference)
}

/// A row beyond its TTL may have been swept: both words are right.
pub fn same_status(online: FeatureStatus, trained: &str) -> bool {
    one_absence(online.as_str()) == one_absence(trained)
}

fn one_absence(status: &str) -> &str {
    match status == FeatureStatus::OutsideMaxAge.as_str() {
        true => FeatureStatus::NotFound.as_str(),
        false => status,
    }
}

fn float(array: &dyn Array, row: usize) -> f64 {
    match array.as_primitive_opt::<Float64Type>() {
        Some(array) => array.value(row),
        None => f64::from(array.as_primitive::<Float32Type>().value(row)),
    }
}

fn equal_floats(a: f64, b: f64) -> bool {
    match a.is_finite() && b.is_finite() {
        true => (a - b).abs() <= FLOAT_TOLERANCE * a.abs().max(b.abs()).max(FLOAT_LEAST),
        false => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, StringArray};

    use super::*;

    fn floats(values: [f64; 2]) -> (ArrayRef, ArrayRef) {
        let [a, b] = values.map(|value| Arc::new(Float64Array::from(vec![value])) as ArrayRef);
        (a, b)
    }

    #[test]
    fn floats_are_equal_within_a_billionth() {
        for (values, expected) in [
            ([1.0, 1.0 + 1e-10], true),
            ([1.0, 1.0 + 1e-8], false),
            ([1e17, 1e17 + 64.0], true),
            ([0.0, -0.0], true),
            ([f64::NAN, f64::NAN], true),
            ([f64::NAN, 1.0], false),
            ([f64::INFINITY, f64::INFINITY], true),
            ([f64::INFINITY, f64::NEG_INFINITY], false),
            ([f64::INFINITY, f64::MAX], false),
        ] {
            let (a, b) = floats(values);
            assert_eq!(equal((&a, 0), (&b, 0)), expected, "{values:?}");
        }
    }

    #[test]
    fn all_else_is_equal_as_it_is() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["1", "2", "2"]));
        assert!(equal((&numbers, 0), (&numbers, 0)));
        assert!(!equal((&numbers, 0), (&numbers, 1)));
        assert!(!equal((&numbers, 0), (&numbers, 2)));
        assert!(equal((&numbers, 2), (&numbers, 2)));
        assert!(equal((&texts, 1), (&texts, 2)));
        assert!(!equal((&numbers, 0), (&texts, 0)));
        assert_eq!(difference((&numbers, 0), (&numbers, 1)), Some(1.0));
        assert_eq!(difference((&numbers, 0), (&numbers, 2)), None);
        assert_eq!(difference((&texts, 0), (&texts, 1)), None);
        let list = |values: [f64; 2]| -> ArrayRef {
            let values = values.map(Some).to_vec();
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>([Some(
                values,
            )]))
        };
        assert!(equal(
            (&list([1.0, 2.0]), 0),
            (&list([1.0, 2.0 + 1e-10]), 0)
        ));
        assert!(!equal((&list([1.0, 2.0]), 0), (&list([2.0, 1.0]), 0)));
    }
}
