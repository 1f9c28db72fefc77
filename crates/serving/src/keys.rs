//! From a request's key columns to the arrays that a plan's groups take.
//!
//! Every mistake is told with the column's name and both types, before
//! anything is fetched.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use granary_model::definitions::Column;
use granary_model::{FeatureType, did_you_mean};

use crate::error::ServingError;

/// The request's columns in the order of `expected`, each in exactly the
/// expected type; narrower integers are widened.
pub(crate) fn bind(
    expected: &[Column],
    request: &RecordBatch,
) -> Result<Vec<ArrayRef>, ServingError> {
    let schema = request.schema_ref();
    for (position, field) in schema.fields().iter().enumerate() {
        if !expected.iter().any(|c| c.name == *field.name()) {
            return Err(unknown(expected, field.name()));
        }
        if schema.index_of(field.name()).ok() != Some(position) {
            let message = format!("the key column {} is given twice", field.name());
            return Err(ServingError::Invalid(message));
        }
    }
    expected
        .iter()
        .map(|column| {
            let given = request.column_by_name(&column.name).ok_or_else(|| {
                ServingError::Invalid(format!(
                    "the key column {} ({}) is missing",
                    column.name, column.data_type
                ))
            })?;
            bind_column(column, given)
        })
        .collect()
}

fn unknown(expected: &[Column], name: &str) -> ServingError {
    let takes: Vec<String> = expected
        .iter()
        .map(|c| format!("{} {}", c.name, c.data_type))
        .collect();
    let near = did_you_mean(name, expected.iter().map(|c| c.name.as_str()));
    let takes = takes.join(", ");
    ServingError::Invalid(format!(
        "unknown key column {name:?}{near} (this read takes {takes})"
    ))
}

fn bind_column(column: &Column, given: &ArrayRef) -> Result<ArrayRef, ServingError> {
    let wanted = column.data_type.to_arrow();
    if *given.data_type() == wanted {
        return Ok(given.clone());
    }
    let mismatch = |given: String| {
        let Column {
            name, data_type, ..
        } = column;
        ServingError::Invalid(format!("{name} expects {data_type}, got {given}"))
    };
    match FeatureType::from_arrow(given.data_type()) {
        // A column of nothing but NULLs has no type of its own.
        None if *given.data_type() == DataType::Null => {}
        Some(t) if column.data_type.accepts_key(&t) => {}
        Some(t) => return Err(mismatch(t.to_string())),
        None => return Err(mismatch(given.data_type().to_string())),
    }
    cast(given, &wanted).map_err(|e| mismatch(e.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Array, Int32Array, Int64Array, NullArray, StringArray};

    use super::*;

    fn expected() -> Vec<Column> {
        vec![
            Column::new("customer_id", FeatureType::BigInt),
            Column::new("phone", FeatureType::Varchar),
        ]
    }

    fn check(columns: Vec<(&str, ArrayRef)>) -> Result<Vec<ArrayRef>, String> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        bind(&expected(), &batch).map_err(|e| e.to_string())
    }

    fn ints() -> ArrayRef {
        Arc::new(Int64Array::from(vec![1, 2]))
    }

    fn texts() -> ArrayRef {
        Arc::new(StringArray::from(vec!["a", "b"]))
    }

    #[test]
    fn columns_come_in_the_plan_s_order_and_integers_widen() {
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let bound = check(vec![("phone", texts()), ("customer_id", narrow)]).unwrap();
        assert_eq!(bound[0].as_ref(), ints().as_ref());
        assert_eq!(bound[1].as_ref(), texts().as_ref());
        let nulls: ArrayRef = Arc::new(NullArray::new(2));
        let bound = check(vec![("phone", texts()), ("customer_id", nulls)]).unwrap();
        assert_eq!(bound[0].null_count(), 2);
    }

    #[test]
    fn mistakes_name_the_column() {
        for (columns, message) in [
            (
                vec![("customer_id", texts()), ("phone", texts())],
                "customer_id expects BIGINT, got VARCHAR",
            ),
            (
                vec![("customer_id", ints())],
                "the key column phone (VARCHAR) is missing",
            ),
            (
                vec![("customer_id", ints()), ("phne", texts())],
                "unknown key column \"phne\"; did you mean \"phone\"? (this read takes customer_id BIGINT, phone VARCHAR)",
            ),
            (
                vec![("customer_id", ints()), ("customer_id", ints())],
                "the key column customer_id is given twice",
            ),
        ] {
            assert_eq!(check(columns).unwrap_err(), message);
        }
    }
}
