//! One dictionary a column for a whole file.
//!
//! Batches of one column each have a dictionary of their own, which an Arrow
//! IPC file cannot hold: there a dictionary may grow and never change. So every
//! batch is written with one that grows by the values that are new.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, UInt64Array, make_array, new_empty_array,
};
use arrow::compute::{CastOptions, cast_with_options, concat, take};
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;

use super::encode::EncodeError;

/// The dictionaries of a file so far.
pub(super) struct Dictionaries(Vec<Growing>);

struct Growing {
    column: usize,
    name: String,
    converter: RowConverter,
    /// Place of each value, by its row form.
    places: HashMap<Vec<u8>, u64>,
    values: ArrayRef,
}

impl Dictionaries {
    /// Refuses a dictionary inside of another type, by the column's name.
    pub(super) fn new(schema: &Schema) -> Result<Self, EncodeError> {
        let mut all = Vec::new();
        for (column, field) in schema.fields().iter().enumerate() {
            let name = field.name();
            match field.data_type() {
                DataType::Dictionary(_, values) if !holds_dictionary(values) => {
                    all.push(Growing {
                        column,
                        name: name.clone(),
                        converter: RowConverter::new(vec![SortField::new(
                            values.as_ref().clone(),
                        )])?,
                        places: HashMap::new(),
                        values: new_empty_array(values),
                    });
                }
                nested if holds_dictionary(nested) => {
                    return Err(DataFusionError::Plan(format!(
                        "column {name} holds dictionaries inside of its values, which an Arrow file \
                         has no form for: write .arrows or .parquet"
                    ))
                    .into());
                }
                _ => {}
            }
        }
        Ok(Self(all))
    }

    /// The same values, over the file's dictionaries.
    pub(super) fn unify(&mut self, batch: RecordBatch) -> Result<RecordBatch, EncodeError> {
        if self.0.is_empty() {
            return Ok(batch);
        }
        let mut columns = batch.columns().to_vec();
        for growing in &mut self.0 {
            let column = &mut columns[growing.column];
            *column = growing.unify(column)?;
        }
        Ok(RecordBatch::try_new(batch.schema(), columns)?)
    }
}

fn holds_dictionary(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(..) => true,
        DataType::Struct(fields) => fields.iter().any(|f| holds_dictionary(f.data_type())),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => holds_dictionary(item.data_type()),
        DataType::Union(fields, _) => fields.iter().any(|(_, f)| holds_dictionary(f.data_type())),
        DataType::RunEndEncoded(_, values) => holds_dictionary(values.data_type()),
        _ => false,
    }
}

impl Growing {
    fn unify(&mut self, column: &ArrayRef) -> Result<ArrayRef, EncodeError> {
        let dictionary = column.as_any_dictionary();
        let places = self.take_in(dictionary.values())?;
        let keys = dictionary.normalized_keys();
        let keys: UInt64Array = keys
            .into_iter()
            .enumerate()
            .map(|(row, key)| column.is_valid(row).then(|| places[key]))
            .collect();
        let DataType::Dictionary(key_type, _) = column.data_type() else {
            return Ok(Arc::clone(column));
        };
        let options = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let keys = cast_with_options(&keys, key_type, &options).map_err(|_| {
            DataFusionError::Plan(format!(
                "column {} has {} values, too many for a dictionary of {key_type}: write .arrows or \
                 .parquet",
                self.name,
                self.values.len(),
            ))
        })?;
        let keys = keys.to_data();
        let data = keys
            .into_builder()
            .data_type(column.data_type().clone())
            .add_child_data(self.values.to_data())
            .build()?;
        Ok(make_array(data))
    }

    /// The place of each value, those that are new behind the others.
    fn take_in(&mut self, values: &ArrayRef) -> Result<Vec<u64>, EncodeError> {
        let rows = self
            .converter
            .convert_columns(std::slice::from_ref(values))?;
        let mut new = Vec::new();
        let mut places = Vec::with_capacity(values.len());
        for (row, value) in rows.iter().enumerate() {
            let next = self.places.len() as u64;
            let place = match self.places.get(value.as_ref()) {
                Some(place) => *place,
                None => {
                    self.places.insert(value.as_ref().to_vec(), next);
                    new.push(row as u64);
                    next
                }
            };
            places.push(place);
        }
        if !new.is_empty() {
            let new = take(values, &UInt64Array::from(new), None)?;
            self.values = concat(&[self.values.as_ref(), new.as_ref()])?;
        }
        Ok(places)
    }
}
