//! From a request's columns, keys and inputs, to the arrays that a plan takes.
//!
//! Every mistake is told with the column's name and both types, before
//! anything is fetched.

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::DataType;
use granary_engine::InputColumn;
use granary_model::definitions::Column;
use granary_model::{FeatureType, did_you_mean};

use crate::error::ServingError;
use crate::plan::ReadPlan;
use crate::read::ReadRequest;

/// The rows of a request in the order of a plan.
#[derive(Debug)]
pub(crate) struct RequestRows {
    pub entities: usize,
    /// Parallel to the plan's `request_keys`.
    pub keys: Vec<ArrayRef>,
    /// Parallel to the plan's `inputs`; `None` for what is not needed nor given.
    pub inputs: Vec<Option<ArrayRef>>,
}

impl RequestRows {
    pub fn bind(plan: &ReadPlan, request: &ReadRequest) -> Result<Self, ServingError> {
        let keys = bind(&plan.request_keys, &request.keys)?;
        // Without a key there are as many entities as values of an input.
        let entities = match plan.request_keys.is_empty() {
            true => request.inputs.iter().map(|(_, values)| values.len()).max(),
            false => None,
        };
        let entities = entities.unwrap_or(request.keys.num_rows());
        let inputs = bind_inputs(&plan.inputs, request, entities)?;
        Ok(Self {
            entities,
            keys,
            inputs,
        })
    }
}

/// The request's inputs in the order of `expected`, one row an entity. A key
/// column of the request is an input of that name too.
fn bind_inputs(
    expected: &[InputColumn],
    request: &ReadRequest,
    entities: usize,
) -> Result<Vec<Option<ArrayRef>>, ServingError> {
    for (at, (name, _)) in request.inputs.iter().enumerate() {
        if !expected.iter().any(|input| input.column.name == *name) {
            return Err(unknown_input(expected, name));
        }
        if request.inputs[..at].iter().any(|(other, _)| other == name) {
            let message = format!("the input {name} is given twice");
            return Err(ServingError::Invalid(message));
        }
    }
    let given = |input: &InputColumn| {
        let mut inputs = request.inputs.iter();
        let found = inputs.find(|(name, _)| *name == input.column.name);
        found
            .map(|(_, values)| values)
            .or_else(|| request.keys.column_by_name(&input.column.name))
    };
    let missing = expected.iter().filter(|i| i.needed && given(i).is_none());
    let missing: Vec<String> = missing.map(|i| in_words(&i.column)).collect();
    if !missing.is_empty() {
        let plural = if missing.len() == 1 { "" } else { "s" };
        let missing = missing.join(", ");
        return Err(ServingError::Invalid(format!(
            "missing input{plural}: {missing}"
        )));
    }
    let bound = expected.iter().map(|input| match given(input) {
        Some(values) => bind_input(&input.column, values, entities).map(Some),
        None => Ok(None),
    });
    bound.collect()
}

fn in_words(column: &Column) -> String {
    format!("{} {}", column.name, column.data_type)
}

fn unknown_input(expected: &[InputColumn], name: &str) -> ServingError {
    let near = did_you_mean(name, expected.iter().map(|i| i.column.name.as_str()));
    let takes: Vec<String> = expected.iter().map(|i| in_words(&i.column)).collect();
    let takes = match takes.is_empty() {
        true => "no inputs".to_owned(),
        false => takes.join(", "),
    };
    ServingError::Invalid(format!(
        "unknown input {name:?}{near} (this read takes {takes})"
    ))
}

fn bind_input(
    column: &Column,
    given: &ArrayRef,
    entities: usize,
) -> Result<ArrayRef, ServingError> {
    let name = &column.name;
    let typed = bind_column(column, given, FeatureType::accepts_input)?;
    match typed.len() {
        rows if rows == entities => Ok(typed),
        1 => {
            let all = UInt64Array::from_value(0, entities);
            take(&typed, &all, None).map_err(|e| ServingError::Invalid(format!("{name}: {e}")))
        }
        rows => Err(ServingError::Invalid(format!(
            "the input {name} has {rows} values, and there are {entities} entities: give one for all, or one for each"
        ))),
    }
}

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
            bind_column(column, given, FeatureType::accepts_key)
        })
        .collect()
}

fn unknown(expected: &[Column], name: &str) -> ServingError {
    let takes: Vec<String> = expected.iter().map(in_words).collect();
    let near = did_you_mean(name, expected.iter().map(|c| c.name.as_str()));
    let takes = takes.join(", ");
    ServingError::Invalid(format!(
        "unknown key column {name:?}{near} (this read takes {takes})"
    ))
}

/// One column in exactly its type.
pub(crate) fn bind_column(
    column: &Column,
    given: &ArrayRef,
    accepts: impl Fn(&FeatureType, &FeatureType) -> bool,
) -> Result<ArrayRef, ServingError> {
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
        Some(t) if accepts(&column.data_type, &t) => {}
        Some(t) => return Err(mismatch(t.to_string())),
        None => return Err(mismatch(given.data_type().to_string())),
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(given, &wanted, &strict).map_err(|e| mismatch(e.to_string()))
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

    fn inputs(given: Vec<(&str, ArrayRef)>) -> Result<Vec<Option<ArrayRef>>, String> {
        let input = |name: &str, data_type, needed| InputColumn {
            column: Column::new(name, data_type),
            needed,
        };
        let expected = [
            input("amount", FeatureType::Double, true),
            input("customer_id", FeatureType::BigInt, true),
            input("note", FeatureType::Varchar, false),
        ];
        let given = given.into_iter().map(|(name, v)| (name.to_owned(), v));
        let request = ReadRequest {
            caller: granary_model::Caller::named("test"),
            target: crate::ReadTarget::Features(Vec::new()),
            keys: RecordBatch::try_from_iter([("customer_id", ints())]).unwrap(),
            inputs: given.collect(),
            request_events: Vec::new(),
            as_of: None,
            strictly_before: false,
            full_names: false,
        };
        bind_inputs(&expected, &request, 2).map_err(|e| e.to_string())
    }

    #[test]
    fn an_input_is_one_for_all_or_one_for_each_or_a_key() {
        let one: ArrayRef = Arc::new(Int32Array::from(vec![5]));
        let bound = inputs(vec![("amount", one)]).unwrap();
        let expected: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![5.0, 5.0]));
        assert_eq!(bound[0].as_ref(), Some(&expected));
        assert_eq!(bound[1].as_ref(), Some(&ints()));
        assert_eq!(bound[2], None);
        let bound = inputs(vec![("amount", ints()), ("note", texts())]).unwrap();
        assert_eq!(bound[2].as_ref(), Some(&texts()));
    }

    #[test]
    fn wrong_inputs_name_themselves() {
        let three: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        for (given, message) in [
            (vec![], "missing input: amount DOUBLE"),
            (
                vec![("amount", texts())],
                "amount expects DOUBLE, got VARCHAR",
            ),
            (
                vec![("amont", ints())],
                "unknown input \"amont\"; did you mean \"amount\"? (this read takes amount DOUBLE, customer_id BIGINT, note VARCHAR)",
            ),
            (
                vec![("amount", ints()), ("amount", ints())],
                "the input amount is given twice",
            ),
            (
                vec![("amount", three)],
                "the input amount has 3 values, and there are 2 entities: give one for all, or one for each",
            ),
        ] {
            assert_eq!(inputs(given).unwrap_err(), message);
        }
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
