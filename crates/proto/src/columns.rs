//! Wire columns to Arrow arrays and back: every type, both ways, in one place.
//!
//! `types.proto` says how values lie on the wire. Numbers are moved or copied
//! in bulk; a NULL row travels as zero, "" or an empty list, whatever an array
//! holds in its slot. What comes from the wire is checked before it becomes an
//! array: lengths, offsets, ranges.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BinaryArray, BooleanArray, Decimal128Array,
    ListArray, PrimitiveArray, RecordBatch, RecordBatchOptions, StringArray, UInt32Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{cast, concat_batches, take};
use arrow::datatypes::{
    ArrowNativeType, DataType as ArrowType, Date32Type, Field, Float32Type, Float64Type, Int16Type,
    Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use granary_model::types::UTC;
use granary_model::{FeatureStatus, FeatureType};

use crate::values::Values as Packed;
use crate::{
    BoolValues, BytesValues, Column, DataType, DecimalValues, DoubleValues, FloatValues,
    Int32Values, Int64Values, ListValues, StringValues, TimestampValues, Type, Values,
};

/// What is wrong with a column that came over the wire, or cannot go over it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ColumnError(pub String);

impl From<ArrowError> for ColumnError {
    fn from(error: ArrowError) -> Self {
        Self(error.to_string())
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, ColumnError> {
    Err(ColumnError(message.into()))
}

pub fn encode_type(data_type: &FeatureType) -> DataType {
    let plain = |t: Type| DataType {
        r#type: t.into(),
        ..DataType::default()
    };
    match data_type {
        FeatureType::Boolean => plain(Type::Boolean),
        FeatureType::SmallInt => plain(Type::Smallint),
        FeatureType::Int => plain(Type::Int),
        FeatureType::BigInt => plain(Type::Bigint),
        FeatureType::Real => plain(Type::Real),
        FeatureType::Double => plain(Type::Double),
        FeatureType::Decimal { precision, scale } => DataType {
            precision: u32::from(*precision),
            scale: i32::from(*scale),
            ..plain(Type::Decimal)
        },
        FeatureType::Varchar => plain(Type::Varchar),
        FeatureType::Varbinary => plain(Type::Varbinary),
        FeatureType::Date => plain(Type::Date),
        FeatureType::Timestamp => plain(Type::Timestamp),
        FeatureType::List(element) => DataType {
            element: Some(Box::new(encode_type(element))),
            ..plain(Type::List)
        },
    }
}

/// An unspecified type is an error here; see [`decode_column`] for columns without one.
pub fn decode_type(data_type: &DataType) -> Result<FeatureType, ColumnError> {
    let Ok(known) = Type::try_from(data_type.r#type) else {
        return wrong(format!("no type has the number {}", data_type.r#type));
    };
    Ok(match known {
        Type::Unspecified => return wrong("the type is not specified"),
        Type::Boolean => FeatureType::Boolean,
        Type::Smallint => FeatureType::SmallInt,
        Type::Int => FeatureType::Int,
        Type::Bigint => FeatureType::BigInt,
        Type::Real => FeatureType::Real,
        Type::Double => FeatureType::Double,
        Type::Decimal => {
            let precision = u8::try_from(data_type.precision).ok();
            let precision = precision.filter(|p| (1..=38).contains(p));
            let scale = i8::try_from(data_type.scale).ok();
            match (precision, scale) {
                (Some(precision), Some(scale)) => FeatureType::Decimal { precision, scale },
                _ => return wrong("a DECIMAL has 1 to 38 digits"),
            }
        }
        Type::Varchar => FeatureType::Varchar,
        Type::Varbinary => FeatureType::Varbinary,
        Type::Date => FeatureType::Date,
        Type::Timestamp => FeatureType::Timestamp,
        Type::List => match data_type.element.as_deref() {
            Some(element) if element.r#type() != Type::List => {
                FeatureType::List(Box::new(decode_type(element)?))
            }
            _ => return wrong("a LIST has an element type that is not a LIST"),
        },
    })
}

/// A named column of any Arrow type that has a feature type.
pub fn encode_column(name: &str, array: &ArrayRef) -> Result<Column, ColumnError> {
    let Some(data_type) = FeatureType::from_arrow(array.data_type()) else {
        return wrong(format!("{name}: {} has no type here", array.data_type()));
    };
    let plain = data_type.to_arrow();
    let values = if *array.data_type() == plain {
        encode_values(array, &data_type)?
    } else {
        encode_values(&cast(array, &plain)?, &data_type)?
    };
    Ok(Column {
        name: name.to_owned(),
        r#type: Some(encode_type(&data_type)),
        values: Some(values),
    })
}

/// A column without a type has the natural one of its values: `int64s` are
/// BIGINT, `strings` VARCHAR, and so on; decimals and lists must say theirs.
pub fn decode_column(column: Column) -> Result<(String, ArrayRef), ColumnError> {
    let Column {
        name,
        r#type,
        values,
    } = column;
    let values = values.unwrap_or_default();
    // By its number: one that is not known here is no unspecified one.
    let specified = r#type.filter(|t| t.r#type != Type::Unspecified as i32);
    let data_type = match specified {
        Some(t) => decode_type(&t),
        None => natural_type(&values),
    };
    let array = data_type.and_then(|t| decode_values(values, &t));
    match array {
        Ok(array) => Ok((name, array)),
        Err(error) => wrong(format!("{name}: {error}")),
    }
}

fn natural_type(values: &Values) -> Result<FeatureType, ColumnError> {
    Ok(match &values.values {
        Some(Packed::Bools(_)) => FeatureType::Boolean,
        Some(Packed::Int32s(_)) => FeatureType::Int,
        Some(Packed::Int64s(_)) => FeatureType::BigInt,
        Some(Packed::Floats(_)) => FeatureType::Real,
        Some(Packed::Doubles(_)) => FeatureType::Double,
        Some(Packed::Strings(_)) => FeatureType::Varchar,
        Some(Packed::Binaries(_)) => FeatureType::Varbinary,
        Some(Packed::Timestamps(_)) => FeatureType::Timestamp,
        Some(Packed::Decimals(_) | Packed::Lists(_)) | None => {
            return wrong("the type is not specified");
        }
    })
}

/// Columns of one length as a batch; none at all is a batch of no rows.
pub fn decode_columns(columns: Vec<Column>) -> Result<RecordBatch, ColumnError> {
    let mut fields = Vec::with_capacity(columns.len());
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for column in columns {
        let (name, array) = decode_column(column)?;
        if let Some(first) = arrays.first()
            && first.len() != array.len()
        {
            let message = format!("{name} has {} rows, not {}", array.len(), first.len());
            return wrong(message);
        }
        fields.push(Field::new(name, array.data_type().clone(), true));
        arrays.push(array);
    }
    let rows = arrays.first().map_or(0, Array::len);
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let schema = Arc::new(Schema::new(fields));
    Ok(RecordBatch::try_new_with_options(schema, arrays, &options)?)
}

pub fn encode_columns(batch: &RecordBatch) -> Result<Vec<Column>, ColumnError> {
    let names = batch.schema_ref().fields().iter().map(|f| f.name());
    names
        .zip(batch.columns())
        .map(|(name, array)| encode_column(name, array))
        .collect()
}

/// One byte a status; one byte only where all are alike.
pub fn encode_statuses(statuses: &[FeatureStatus]) -> Bytes {
    match statuses.split_first() {
        Some((first, rest)) if rest.iter().all(|s| s == first) => vec![*first as u8].into(),
        _ => statuses
            .iter()
            .map(|s| *s as u8)
            .collect::<Vec<u8>>()
            .into(),
    }
}

pub fn decode_statuses(bytes: &[u8], rows: usize) -> Result<Vec<FeatureStatus>, ColumnError> {
    let status = |byte: &u8| match byte {
        1 => Ok(FeatureStatus::Present),
        2 => Ok(FeatureStatus::NullValue),
        3 => Ok(FeatureStatus::NotFound),
        4 => Ok(FeatureStatus::OutsideMaxAge),
        _ => wrong(format!("{byte} is not a status")),
    };
    match bytes {
        [alike] if rows != 1 => Ok(vec![status(alike)?; rows]),
        _ if bytes.len() == rows => bytes.iter().map(status).collect(),
        _ => wrong(format!("{} statuses for {rows} rows", bytes.len())),
    }
}

/// One Arrow IPC stream of one batch.
pub fn encode_ipc(batch: &RecordBatch) -> Result<Bytes, ColumnError> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// All batches of an Arrow IPC stream as one. Arrays share the bytes; lengths
/// that the stream claims are believed only as far as there are bytes.
pub fn decode_ipc(bytes: &Bytes) -> Result<RecordBatch, ColumnError> {
    // arrow panics at some garbled streams. The decoder and everything that it
    // made are dropped with the panic, so nothing half-made is seen.
    std::panic::catch_unwind(|| read_ipc(bytes))
        .unwrap_or_else(|_| wrong("the Arrow IPC stream is damaged"))
}

fn read_ipc(bytes: &Bytes) -> Result<RecordBatch, ColumnError> {
    let mut buffer = Buffer::from(bytes.clone());
    let mut decoder = StreamDecoder::new();
    let mut batches = Vec::new();
    while !buffer.is_empty() {
        batches.extend(decoder.decode(&mut buffer)?);
    }
    decoder.finish()?;
    let Some(schema) = decoder.schema() else {
        return wrong("the Arrow IPC stream has no schema");
    };
    match <[RecordBatch; 1]>::try_from(batches) {
        Ok([batch]) => Ok(batch),
        Err(batches) => Ok(concat_batches(&schema, &batches)?),
    }
}

/// `array` is of exactly `data_type`'s Arrow type.
pub fn encode_values(array: &ArrayRef, data_type: &FeatureType) -> Result<Values, ColumnError> {
    if *array.data_type() != data_type.to_arrow() {
        return wrong(format!("{} is not a {data_type}", array.data_type()));
    }
    let values = match data_type {
        FeatureType::Boolean => {
            let bools = array.as_boolean();
            let values = (0..bools.len())
                .map(|row| bools.is_valid(row) && bools.value(row))
                .collect();
            Packed::Bools(BoolValues { values })
        }
        FeatureType::SmallInt => Packed::Int32s(Int32Values {
            values: numbers::<Int16Type>(array)
                .into_iter()
                .map(i32::from)
                .collect(),
        }),
        FeatureType::Int => Packed::Int32s(Int32Values {
            values: numbers::<Int32Type>(array),
        }),
        FeatureType::Date => Packed::Int32s(Int32Values {
            values: numbers::<Date32Type>(array),
        }),
        FeatureType::BigInt => Packed::Int64s(Int64Values {
            values: numbers::<Int64Type>(array),
        }),
        FeatureType::Real => Packed::Floats(FloatValues {
            values: numbers::<Float32Type>(array),
        }),
        FeatureType::Double => Packed::Doubles(DoubleValues {
            values: numbers::<Float64Type>(array),
        }),
        FeatureType::Timestamp => Packed::Timestamps(TimestampValues {
            values: numbers::<TimestampMicrosecondType>(array),
        }),
        FeatureType::Decimal { .. } => {
            let numbers = numbers::<arrow::datatypes::Decimal128Type>(array);
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            Packed::Decimals(DecimalValues {
                values: bytes.into(),
            })
        }
        FeatureType::Varchar => {
            let texts = array.as_string::<i32>().iter();
            let values = texts.map(|text| text.unwrap_or_default().to_owned());
            Packed::Strings(StringValues {
                values: values.collect(),
            })
        }
        FeatureType::Varbinary => {
            let texts = array.as_binary::<i32>().iter();
            let values = texts.map(|bytes| Bytes::copy_from_slice(bytes.unwrap_or_default()));
            Packed::Binaries(BytesValues {
                values: values.collect(),
            })
        }
        FeatureType::List(element) => {
            Packed::Lists(Box::new(encode_lists(array.as_list(), element)?))
        }
    };
    Ok(Values {
        values: Some(values),
        validity: validity(array.nulls()),
    })
}

/// The numbers of an array, zero where it is NULL.
fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef) -> Vec<T::Native> {
    let array = array.as_primitive::<T>();
    let mut values = array.values().to_vec();
    if let Some(nulls) = array.nulls().filter(|n| n.null_count() > 0) {
        for (value, valid) in values.iter_mut().zip(nulls) {
            if !valid {
                *value = T::Native::usize_as(0);
            }
        }
    }
    values
}

fn validity(nulls: Option<&NullBuffer>) -> Bytes {
    match nulls.filter(|n| n.null_count() > 0) {
        None => Bytes::new(),
        Some(nulls) => {
            let bits = nulls.inner().sliced();
            let mut bytes = bits[..nulls.len().div_ceil(8)].to_vec();
            // What lies beyond the last row is noise.
            if let (Some(last), used @ 1..) = (bytes.last_mut(), nulls.len() % 8) {
                *last &= (1 << used) - 1;
            }
            bytes.into()
        }
    }
}

fn encode_lists(lists: &ListArray, element: &FeatureType) -> Result<ListValues, ColumnError> {
    let ranges = lists.value_offsets().windows(2).enumerate();
    let mut offsets = Vec::with_capacity(lists.len() + 1);
    offsets.push(0_u32);
    let mut hidden = false;
    let mut end = 0_u32;
    for (row, range) in ranges.clone() {
        let length = (range[1] - range[0]) as u32;
        if lists.is_valid(row) {
            end += length;
        } else {
            hidden |= length > 0;
        }
        offsets.push(end);
    }
    let first = lists.value_offsets()[0];
    let elements = if hidden {
        // Elements that only NULL lists have do not travel.
        let valid = ranges.filter(|(row, _)| lists.is_valid(*row));
        let kept = valid.flat_map(|(_, range)| range[0] as u32..range[1] as u32);
        take(lists.values(), &UInt32Array::from_iter_values(kept), None)?
    } else {
        lists.values().slice(first as usize, end as usize)
    };
    Ok(ListValues {
        offsets,
        elements: Some(Box::new(encode_values(&elements, element)?)),
    })
}

/// Checks and takes over values of a known type.
pub fn decode_values(values: Values, data_type: &FeatureType) -> Result<ArrayRef, ColumnError> {
    let Values { values, validity } = values;
    let nulls = |rows: usize| decode_validity(&validity, rows);
    Ok(match (data_type, values) {
        (_, None) if validity.is_empty() => arrow::array::new_empty_array(&data_type.to_arrow()),
        (FeatureType::Boolean, Some(Packed::Bools(v))) => {
            let nulls = nulls(v.values.len())?;
            Arc::new(BooleanArray::new(v.values.into(), nulls))
        }
        (FeatureType::SmallInt, Some(Packed::Int32s(v))) => {
            let narrow = v.values.into_iter().map(i16::try_from);
            let Ok(narrow) = narrow.collect::<Result<Vec<i16>, _>>() else {
                return wrong("a value is out of the range of SMALLINT");
            };
            primitive::<Int16Type>(narrow, nulls)?
        }
        (FeatureType::Int, Some(Packed::Int32s(v))) => primitive::<Int32Type>(v.values, nulls)?,
        (FeatureType::Date, Some(Packed::Int32s(v))) => primitive::<Date32Type>(v.values, nulls)?,
        (FeatureType::BigInt, Some(Packed::Int64s(v))) => primitive::<Int64Type>(v.values, nulls)?,
        (FeatureType::Real, Some(Packed::Floats(v))) => primitive::<Float32Type>(v.values, nulls)?,
        (FeatureType::Double, Some(Packed::Doubles(v))) => {
            primitive::<Float64Type>(v.values, nulls)?
        }
        (FeatureType::Timestamp, Some(Packed::Timestamps(v))) => {
            let nulls = nulls(v.values.len())?;
            let times: PrimitiveArray<TimestampMicrosecondType> =
                PrimitiveArray::new(v.values.into(), nulls);
            Arc::new(times.with_timezone(UTC))
        }
        (FeatureType::Decimal { precision, scale }, Some(Packed::Decimals(v))) => {
            decode_decimals(&v.values, (*precision, *scale), nulls)?
        }
        (FeatureType::Varchar, Some(Packed::Strings(v))) => {
            let nulls = nulls(v.values.len())?;
            let texts = StringArray::from_iter_values(v.values);
            let (offsets, bytes, _) = texts.into_parts();
            Arc::new(StringArray::new(offsets, bytes, nulls))
        }
        (FeatureType::Varbinary, Some(Packed::Binaries(v))) => {
            let nulls = nulls(v.values.len())?;
            let (offsets, bytes, _) = BinaryArray::from_iter_values(v.values).into_parts();
            Arc::new(BinaryArray::new(offsets, bytes, nulls))
        }
        (FeatureType::List(element), Some(Packed::Lists(v))) => decode_lists(*v, element, nulls)?,
        (_, given) => {
            let given = given.as_ref().map_or("no values", packed_name);
            return wrong(format!("values of a {data_type} do not come as {given}"));
        }
    })
}

/// The field of `Values` that holds them.
fn packed_name(values: &Packed) -> &'static str {
    match values {
        Packed::Bools(_) => "bools",
        Packed::Int32s(_) => "int32s",
        Packed::Int64s(_) => "int64s",
        Packed::Floats(_) => "floats",
        Packed::Doubles(_) => "doubles",
        Packed::Decimals(_) => "decimals",
        Packed::Strings(_) => "strings",
        Packed::Binaries(_) => "binaries",
        Packed::Timestamps(_) => "timestamps",
        Packed::Lists(_) => "lists",
    }
}

fn primitive<T: ArrowPrimitiveType>(
    values: Vec<T::Native>,
    nulls: impl Fn(usize) -> Result<Option<NullBuffer>, ColumnError>,
) -> Result<ArrayRef, ColumnError> {
    let nulls = nulls(values.len())?;
    Ok(Arc::new(PrimitiveArray::<T>::new(values.into(), nulls)))
}

fn decode_validity(bytes: &Bytes, rows: usize) -> Result<Option<NullBuffer>, ColumnError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.len() != rows.div_ceil(8) {
        return wrong(format!("{} bytes of validity for {rows} rows", bytes.len()));
    }
    let bits = BooleanBuffer::new(Buffer::from(bytes.clone()), 0, rows);
    Ok(Some(NullBuffer::new(bits)))
}

fn decode_decimals(
    bytes: &Bytes,
    (precision, scale): (u8, i8),
    nulls: impl Fn(usize) -> Result<Option<NullBuffer>, ColumnError>,
) -> Result<ArrayRef, ColumnError> {
    let (numbers, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return wrong("a DECIMAL has 16 bytes a row");
    }
    let numbers: Vec<i128> = numbers.iter().map(|n| i128::from_le_bytes(*n)).collect();
    let nulls = nulls(numbers.len())?;
    let array = Decimal128Array::new(numbers.into(), nulls);
    let array = array.with_precision_and_scale(precision, scale)?;
    array.validate_decimal_precision(precision)?;
    Ok(Arc::new(array))
}

fn decode_lists(
    lists: ListValues,
    element: &FeatureType,
    nulls: impl Fn(usize) -> Result<Option<NullBuffer>, ColumnError>,
) -> Result<ArrayRef, ColumnError> {
    let elements = decode_values(lists.elements.map(|e| *e).unwrap_or_default(), element)?;
    let ascending = lists.offsets.windows(2).all(|w| w[0] <= w[1]);
    let starts = lists.offsets.first() == Some(&0);
    let ends = lists.offsets.last().map(|end| *end as usize) == Some(elements.len());
    if !(ascending && starts && ends) || i32::try_from(elements.len()).is_err() {
        return wrong("offsets of lists go up from 0 to the number of elements");
    }
    let offsets: ScalarBuffer<i32> = lists.offsets.iter().map(|o| *o as i32).collect();
    let nulls = nulls(offsets.len() - 1)?;
    let ArrowType::List(field) = FeatureType::List(Box::new(element.clone())).to_arrow() else {
        return wrong("a list has the Arrow type of lists");
    };
    let offsets = OffsetBuffer::new(offsets);
    Ok(Arc::new(ListArray::try_new(
        field, offsets, elements, nulls,
    )?))
}

#[cfg(test)]
mod tests;
