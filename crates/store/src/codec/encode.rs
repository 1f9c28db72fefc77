//! Record batches to rows, a column at a time.
//!
//! Lengths first, so that the whole batch is written into one buffer; then each
//! column writes its slots down the rows, with its type decided once.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, ListArray, RecordBatch,
};
use arrow::buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType,
};
use granary_model::FeatureType;

use super::RowLayout;
use super::fixed::Fixed;
use super::shape::{Cell, ROW_FORMAT, Scalar, Shape};
use crate::error::StoreError;
use crate::rows::EncodedRows;

pub(super) fn encode(
    layout: &RowLayout,
    batch: &RecordBatch,
    event_time: Option<&str>,
    created_time: Option<&str>,
) -> Result<EncodedRows, StoreError> {
    let shape = Shape::of(layout);
    let event_times = layout
        .event_time
        .then(|| time_column(batch, event_time, "event time"))
        .transpose()?;
    if let Some(row) = event_times.as_ref().and_then(first_null) {
        return Err(StoreError::Codec(format!(
            "row {row}: the event time is NULL"
        )));
    }
    let created_times = layout
        .created_time
        .then(|| time_column(batch, created_time, "created time"))
        .transpose()?;
    let columns = layout
        .features
        .iter()
        .map(|f| Values::of(&column(batch, &f.name, &f.data_type)?, &f.data_type))
        .collect::<Result<Vec<_>, _>>()?;

    let mut frame = Frame::new(&shape, &columns, batch.num_rows())?;
    if let (Some(at), Some(times)) = (shape.event_time_at, &event_times) {
        let times = times.as_primitive::<TimestampMicrosecondType>();
        frame.write_all(at, |row| times.value(row));
    }
    if let (Some(at), Some(created)) = (shape.created_time_at, &created_times) {
        let created = created.as_primitive::<TimestampMicrosecondType>();
        let events = event_times
            .as_ref()
            .map(AsArray::as_primitive::<TimestampMicrosecondType>);
        frame.write_all(at, |row| {
            if created.is_valid(row) {
                created.value(row)
            } else {
                events.map_or(i64::MIN, |e| e.value(row))
            }
        });
    }
    for (index, values) in columns.iter().enumerate() {
        frame.write_column(&shape, index, values);
    }
    Ok(frame.finish())
}

fn first_null(array: &ArrayRef) -> Option<usize> {
    (array.null_count() > 0)
        .then(|| (0..array.len()).find(|row| array.is_null(*row)))
        .flatten()
}

fn time_column(
    batch: &RecordBatch,
    name: Option<&str>,
    what: &str,
) -> Result<ArrayRef, StoreError> {
    let name = name.ok_or_else(|| {
        StoreError::Codec(format!(
            "the layout has a {what}, and no column was named for it"
        ))
    })?;
    column(batch, name, &FeatureType::Timestamp)
}

/// The column in the one Arrow type of its feature type.
fn column(
    batch: &RecordBatch,
    name: &str,
    data_type: &FeatureType,
) -> Result<ArrayRef, StoreError> {
    let array = batch
        .column_by_name(name)
        .ok_or_else(|| StoreError::Codec(format!("the batch has no column {name:?}")))?;
    let wanted = data_type.to_arrow();
    if *array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, &wanted, &strict)
        .map_err(|error| StoreError::Codec(format!("column {name:?}: {error}")))
}

/// A column's values with its type decided.
enum Values {
    Bool(BooleanArray),
    I16(Natives<i16>),
    I32(Natives<i32>),
    I64(Natives<i64>),
    I128(Natives<i128>),
    F32(Natives<f32>),
    F64(Natives<f64>),
    Bytes(BinaryArray),
    List(Lists),
}

struct Natives<T: Fixed> {
    values: ScalarBuffer<T>,
    nulls: Option<NullBuffer>,
}

struct Lists {
    offsets: OffsetBuffer<i32>,
    nulls: Option<NullBuffer>,
    items: Box<Values>,
}

fn natives<P: ArrowPrimitiveType>(array: &ArrayRef) -> Natives<P::Native>
where
    P::Native: Fixed,
{
    let array = array.as_primitive::<P>();
    Natives {
        values: array.values().clone(),
        nulls: array.nulls().cloned(),
    }
}

impl Values {
    fn of(array: &ArrayRef, data_type: &FeatureType) -> Result<Self, StoreError> {
        if Cell::of(data_type) == Cell::Refused {
            return Err(StoreError::Codec(format!("{data_type} cannot be stored")));
        }
        Ok(match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            DataType::Int16 => Self::I16(natives::<Int16Type>(array)),
            DataType::Int32 => Self::I32(natives::<Int32Type>(array)),
            DataType::Date32 => Self::I32(natives::<Date32Type>(array)),
            DataType::Int64 => Self::I64(natives::<Int64Type>(array)),
            DataType::Timestamp(_, _) => Self::I64(natives::<TimestampMicrosecondType>(array)),
            DataType::Decimal128(_, _) => Self::I128(natives::<Decimal128Type>(array)),
            DataType::Float32 => Self::F32(natives::<Float32Type>(array)),
            DataType::Float64 => Self::F64(natives::<Float64Type>(array)),
            DataType::Utf8 => Self::Bytes(array.as_string::<i32>().clone().into()),
            DataType::Binary => Self::Bytes(array.as_binary::<i32>().clone()),
            DataType::List(_) => {
                let list: &ListArray = array.as_list();
                let FeatureType::List(item) = data_type else {
                    return Err(StoreError::Codec(format!(
                        "a list where {data_type} is due"
                    )));
                };
                Self::List(Lists {
                    offsets: list.offsets().clone(),
                    nulls: list.nulls().cloned(),
                    items: Box::new(Self::of(list.values(), item)?),
                })
            }
            other => return Err(StoreError::Codec(format!("{other} cannot be stored"))),
        })
    }

    /// Bytes that each row needs in the data part, added to `lengths`.
    fn add_var_lengths(&self, lengths: &mut [usize]) {
        match self {
            Self::Bytes(array) => {
                for (row, length) in lengths.iter_mut().enumerate() {
                    *length += if array.is_valid(row) {
                        array.value_length(row) as usize
                    } else {
                        0
                    };
                }
            }
            Self::List(lists) => {
                for (row, length) in lengths.iter_mut().enumerate() {
                    *length += lists.range(row).map_or(0, |range| lists.row_bytes(range));
                }
            }
            _ => {}
        }
    }
}

/// Bytes before the items of a list: count and validity.
pub(super) fn list_head(count: usize) -> usize {
    4 + count.div_ceil(8)
}

impl Lists {
    /// `None` for a NULL list.
    fn range(&self, row: usize) -> Option<std::ops::Range<usize>> {
        is_valid(self.nulls.as_ref(), row)
            .then(|| self.offsets[row] as usize..self.offsets[row + 1] as usize)
    }

    fn row_bytes(&self, range: std::ops::Range<usize>) -> usize {
        let count = range.len();
        list_head(count)
            + match &*self.items {
                Values::Bool(_) => count,
                Values::I16(_) => count * i16::WIDTH,
                Values::I32(_) => count * i32::WIDTH,
                Values::I64(_) => count * i64::WIDTH,
                Values::I128(_) => count * i128::WIDTH,
                Values::F32(_) => count * f32::WIDTH,
                Values::F64(_) => count * f64::WIDTH,
                Values::Bytes(array) => range
                    .map(|item| {
                        4 + if array.is_valid(item) {
                            array.value_length(item) as usize
                        } else {
                            0
                        }
                    })
                    .sum(),
                // Refused when the column was resolved.
                Values::List(_) => 0,
            }
    }

    /// Into `out`, which has `row_bytes` zero bytes.
    fn write(&self, range: std::ops::Range<usize>, out: &mut [u8]) {
        let count = range.len();
        (count as u32 as i32).write(out);
        let (head, items) = out.split_at_mut(list_head(count));
        let valid = &mut head[4..];
        match &*self.items {
            Values::Bool(array) => {
                for (index, item) in range.enumerate() {
                    if array.is_valid(item) {
                        valid[index / 8] |= 1 << (index % 8);
                        items[index] = u8::from(array.value(item));
                    }
                }
            }
            Values::I16(natives) => natives.write_items(range, valid, items),
            Values::I32(natives) => natives.write_items(range, valid, items),
            Values::I64(natives) => natives.write_items(range, valid, items),
            Values::I128(natives) => natives.write_items(range, valid, items),
            Values::F32(natives) => natives.write_items(range, valid, items),
            Values::F64(natives) => natives.write_items(range, valid, items),
            Values::Bytes(array) => {
                let (ends, data) = items.split_at_mut(count * 4);
                let mut end = 0;
                for (index, item) in range.enumerate() {
                    if array.is_valid(item) {
                        valid[index / 8] |= 1 << (index % 8);
                        let value = array.value(item);
                        data[end..end + value.len()].copy_from_slice(value);
                        end += value.len();
                    }
                    (end as u32 as i32).write(&mut ends[index * 4..]);
                }
            }
            Values::List(_) => {}
        }
    }
}

impl<T: Fixed> Natives<T> {
    fn write_items(&self, range: std::ops::Range<usize>, valid: &mut [u8], items: &mut [u8]) {
        for (index, item) in range.enumerate() {
            if is_valid(self.nulls.as_ref(), item) {
                valid[index / 8] |= 1 << (index % 8);
                self.values[item].write(&mut items[index * T::WIDTH..]);
            }
        }
    }
}

fn is_valid(nulls: Option<&NullBuffer>, row: usize) -> bool {
    nulls.is_none_or(|nulls| nulls.is_valid(row))
}

/// The rows of a batch while they are written.
struct Frame {
    bytes: Vec<u8>,
    /// One more than rows.
    offsets: Vec<usize>,
    /// Where the next value of variable length goes, counted from the row's data.
    ends: Vec<usize>,
}

impl Frame {
    fn new(shape: &Shape, columns: &[Values], rows: usize) -> Result<Self, StoreError> {
        let mut lengths = vec![0; rows];
        for values in columns {
            values.add_var_lengths(&mut lengths);
        }
        let mut offsets = Vec::with_capacity(rows + 1);
        let mut end = 0;
        offsets.push(0);
        for (row, length) in lengths.iter().enumerate() {
            if *length > MAX_DATA_BYTES {
                return Err(StoreError::Codec(format!(
                    "row {row}: {length} bytes of strings and lists, a row holds up to {MAX_DATA_BYTES}"
                )));
            }
            end += shape.fixed_bytes + length;
            offsets.push(end);
        }
        let mut bytes = vec![0; end];
        for start in &offsets[..rows] {
            bytes[*start] = ROW_FORMAT;
        }
        Ok(Self {
            bytes,
            offsets,
            ends: vec![0; rows],
        })
    }

    fn rows(&self) -> usize {
        self.ends.len()
    }

    fn write_all(&mut self, at: usize, value: impl Fn(usize) -> i64) {
        for row in 0..self.rows() {
            value(row).write(&mut self.bytes[self.offsets[row] + at..]);
        }
    }

    fn write_column(&mut self, shape: &Shape, index: usize, values: &Values) {
        match values {
            Values::Bool(array) => {
                self.write_fixed(shape, index, array.nulls(), |row| {
                    u8::from(array.value(row))
                });
            }
            Values::I16(n) => self.write_fixed(shape, index, n.nulls.as_ref(), |r| n.values[r]),
            Values::I32(n) => self.write_fixed(shape, index, n.nulls.as_ref(), |r| n.values[r]),
            Values::I64(n) => self.write_fixed(shape, index, n.nulls.as_ref(), |r| n.values[r]),
            Values::I128(n) => self.write_fixed(shape, index, n.nulls.as_ref(), |r| n.values[r]),
            Values::F32(n) => self.write_fixed(shape, index, n.nulls.as_ref(), |r| n.values[r]),
            Values::F64(n) => self.write_fixed(shape, index, n.nulls.as_ref(), |r| n.values[r]),
            Values::Bytes(array) => self.write_var(
                shape,
                index,
                |row| {
                    array
                        .is_valid(row)
                        .then(|| array.value_length(row) as usize)
                },
                |row, out| out.copy_from_slice(array.value(row)),
            ),
            Values::List(lists) => self.write_var(
                shape,
                index,
                |row| lists.range(row).map(|range| lists.row_bytes(range)),
                |row, out| {
                    if let Some(range) = lists.range(row) {
                        lists.write(range, out);
                    }
                },
            ),
        }
    }

    fn write_fixed<T: Fixed>(
        &mut self,
        shape: &Shape,
        index: usize,
        nulls: Option<&NullBuffer>,
        value: impl Fn(usize) -> T,
    ) {
        let slot = &shape.slots[index];
        debug_assert!(matches!(slot.cell, Cell::Scalar(Scalar::Fixed(n)) if n.width() == T::WIDTH));
        for row in 0..self.rows() {
            if is_valid(nulls, row) {
                let row_bytes = &mut self.bytes[self.offsets[row]..];
                slot.set_valid(row_bytes);
                value(row).write(&mut row_bytes[slot.at..]);
            }
        }
    }

    fn write_var(
        &mut self,
        shape: &Shape,
        index: usize,
        length: impl Fn(usize) -> Option<usize>,
        write: impl Fn(usize, &mut [u8]),
    ) {
        let slot = &shape.slots[index];
        for row in 0..self.rows() {
            let row_bytes = &mut self.bytes[self.offsets[row]..self.offsets[row + 1]];
            if let Some(length) = length(row) {
                slot.set_valid(row_bytes);
                let start = shape.fixed_bytes + self.ends[row];
                write(row, &mut row_bytes[start..start + length]);
                self.ends[row] += length;
            }
            (self.ends[row] as u32 as i32).write(&mut row_bytes[slot.at..]);
        }
    }

    fn finish(self) -> EncodedRows {
        EncodedRows::from_parts(self.bytes, self.offsets)
    }
}

/// Bound of the data part of a row.
const MAX_DATA_BYTES: usize = 1 << 30;
