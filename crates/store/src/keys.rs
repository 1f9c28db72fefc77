//! Entity keys as bytes that sort like the key columns do.
//!
//! This module knows nothing of stores: what a store cannot keep as a key (too
//! long, say) is that store's business.
//!
//! # Format
//!
//! The columns one after another, in the order of the entity's key:
//!
//! | type | bytes |
//! |---|---|
//! | SMALLINT, INT, BIGINT | 2, 4 or 8 bytes, big endian, sign bit flipped |
//! | DATE | days since 1970-01-01 as an INT |
//! | VARCHAR, VARBINARY | the bytes with each `00` written as `00 FF`, then `00 00` |
//!
//! Numbers have a fixed width and strings end in a pair that no escaped string
//! contains, so no encoding is a prefix of another one of the same columns, and
//! byte order is the order of the columns, the first column first. The
//! terminator sorts before everything that could go on, so `a` < `a\0` < `aa`.
//! An encoded key is never empty. NULL has no encoding: a key with a NULL in
//! any column is flagged, and is no key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Date32Type, Int16Type, Int32Type, Int64Type};
use granary_model::FeatureType;
use granary_model::definitions::Column;

use crate::error::StoreError;

/// The encoded keys of a batch of entities.
///
/// Byte order of encoded keys is the order of the key columns, ascending,
/// strings and binaries byte by byte: the order that DataFusion sorts in, so
/// that rows sorted by their key columns can be appended in key order.
#[derive(Debug, Clone)]
pub struct EntityKeys {
    bytes: Vec<u8>,
    /// One more than keys.
    offsets: Vec<usize>,
    /// NULL in any key column.
    nulls: Vec<bool>,
}

impl Default for EntityKeys {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            offsets: vec![0],
            nulls: Vec::new(),
        }
    }
}

impl EntityKeys {
    /// Encodes key columns, in the order of `columns`. Narrower integers
    /// widen; any other difference of type is `StoreError::KeyType`. Views,
    /// dictionaries and large strings count as their plain type.
    pub fn encode(columns: &[Column], arrays: &[ArrayRef]) -> Result<Self, StoreError> {
        if columns.is_empty() || columns.len() != arrays.len() {
            return Err(StoreError::Codec(format!(
                "{} key columns given for a key of {}",
                arrays.len(),
                columns.len()
            )));
        }
        let entities = arrays[0].len();
        if arrays.iter().any(|a| a.len() != entities) {
            return Err(StoreError::Codec(
                "the key columns differ in length".to_owned(),
            ));
        }
        let plain = columns
            .iter()
            .zip(arrays)
            .map(|(column, array)| plain_array(column, array))
            .collect::<Result<Vec<_>, _>>()?;
        let nulls = null_flags(&plain, entities);
        if let [only] = plain.as_slice()
            && let Some(values) = only.as_primitive_opt::<Int64Type>()
        {
            return Ok(Self::from_bigints(values.values(), nulls));
        }
        let parts = plain
            .iter()
            .map(KeyPart::of)
            .collect::<Result<Vec<_>, _>>()?;
        let mut keys = Self {
            bytes: Vec::with_capacity(entities * 16),
            offsets: Vec::with_capacity(entities + 1),
            nulls,
        };
        keys.offsets.push(0);
        for row in 0..entities {
            if !keys.nulls[row] {
                for part in &parts {
                    part.append(row, &mut keys.bytes);
                }
            }
            keys.offsets.push(keys.bytes.len());
        }
        Ok(keys)
    }

    fn from_bigints(values: &[i64], nulls: Vec<bool>) -> Self {
        let mut bytes = vec![0; values.len() * 8];
        for (slot, value) in bytes.chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&flip_i64(*value));
        }
        Self {
            bytes,
            offsets: (0..=values.len()).map(|row| row * 8).collect(),
            nulls,
        }
    }

    pub fn len(&self) -> usize {
        self.nulls.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nulls.is_empty()
    }

    /// `None` for a NULL key.
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        (!self.nulls[row]).then(|| &self.bytes[self.offsets[row]..self.offsets[row + 1]])
    }

    /// `None` for each NULL key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Option<&[u8]>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// The first NULL key.
    pub fn first_null(&self) -> Option<usize> {
        self.nulls.iter().position(|null| *null)
    }

    /// The keys at `rows`, in that order.
    pub fn gather(&self, rows: &[usize]) -> Self {
        rows.iter().map(|row| self.get(*row)).collect()
    }
}

/// From keys that are encoded already; `None` for a NULL key.
impl<'a> FromIterator<Option<&'a [u8]>> for EntityKeys {
    fn from_iter<I: IntoIterator<Item = Option<&'a [u8]>>>(encoded: I) -> Self {
        let mut keys = Self::default();
        for key in encoded {
            keys.bytes.extend_from_slice(key.unwrap_or_default());
            keys.offsets.push(keys.bytes.len());
            keys.nulls.push(key.is_none());
        }
        keys
    }
}

/// One key column, of the type that the entity declares.
enum KeyPart<'a> {
    SmallInt(&'a [i16]),
    /// INT and DATE.
    Int(&'a [i32]),
    BigInt(&'a [i64]),
    Bytes(BinaryArray),
}

impl<'a> KeyPart<'a> {
    fn of(array: &'a ArrayRef) -> Result<Self, StoreError> {
        Ok(match array.data_type() {
            DataType::Int16 => Self::SmallInt(array.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Self::Int(array.as_primitive::<Int32Type>().values()),
            DataType::Date32 => Self::Int(array.as_primitive::<Date32Type>().values()),
            DataType::Int64 => Self::BigInt(array.as_primitive::<Int64Type>().values()),
            DataType::Utf8 => Self::Bytes(array.as_string::<i32>().clone().into()),
            DataType::Binary => Self::Bytes(array.as_binary::<i32>().clone()),
            other => {
                return Err(StoreError::Codec(format!("{other} cannot be a key")));
            }
        })
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::SmallInt(values) => {
                out.extend_from_slice(&(values[row] ^ i16::MIN).to_be_bytes());
            }
            Self::Int(values) => out.extend_from_slice(&(values[row] ^ i32::MIN).to_be_bytes()),
            Self::BigInt(values) => out.extend_from_slice(&flip_i64(values[row])),
            Self::Bytes(values) => append_escaped(values.value(row), out),
        }
    }
}

fn flip_i64(value: i64) -> [u8; 8] {
    (value ^ i64::MIN).to_be_bytes()
}

fn append_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut pieces = bytes.split(|byte| *byte == 0);
    if let Some(first) = pieces.next() {
        out.extend_from_slice(first);
    }
    for piece in pieces {
        out.extend_from_slice(&[0x00, 0xFF]);
        out.extend_from_slice(piece);
    }
    out.extend_from_slice(&[0x00, 0x00]);
}

/// The array in the one Arrow type that the column's type has.
fn plain_array(column: &Column, array: &ArrayRef) -> Result<ArrayRef, StoreError> {
    let wanted = column.data_type.to_arrow();
    if *array.data_type() == wanted && column.data_type.is_key() {
        return Ok(Arc::clone(array));
    }
    let mismatch = |given: String| StoreError::KeyType {
        column: column.name.clone(),
        expected: column.data_type.to_string(),
        given,
    };
    // A column of nothing but NULL literals has no type to disagree with.
    if *array.data_type() != DataType::Null {
        let given = FeatureType::from_arrow(array.data_type())
            .ok_or_else(|| mismatch(array.data_type().to_string()))?;
        if !column.data_type.is_key() || !column.data_type.accepts_key(&given) {
            return Err(mismatch(given.to_string()));
        }
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, &wanted, &strict).map_err(|error| mismatch(error.to_string()))
}

fn null_flags(arrays: &[ArrayRef], entities: usize) -> Vec<bool> {
    let union = arrays.iter().fold(None, |all, array| {
        NullBuffer::union(all.as_ref(), array.logical_nulls().as_ref())
    });
    match union {
        None => vec![false; entities],
        Some(nulls) => nulls.iter().map(|valid| !valid).collect(),
    }
}

#[cfg(test)]
mod tests;
