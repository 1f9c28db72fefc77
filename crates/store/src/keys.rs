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
    len: usize,
    bytes: Vec<u8>,
    offsets: Offsets,
    /// Whether a key column is NULL; empty where none is.
    nulls: Vec<bool>,
}

/// Where each key begins and ends.
#[derive(Debug, Clone)]
enum Offsets {
    /// All of this many bytes.
    Fixed(usize),
    /// One more than keys.
    Each(Vec<usize>),
}

impl Default for EntityKeys {
    fn default() -> Self {
        Self::with_capacity(0)
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
        let nulls = plain.iter().fold(None, |all, array| {
            NullBuffer::union(all.as_ref(), array.logical_nulls().as_ref())
        });
        if let [only] = plain.as_slice()
            && let Some(values) = only.as_primitive_opt::<Int64Type>()
        {
            return Ok(Self::from_bigints(values.values(), nulls));
        }
        let parts = plain
            .iter()
            .map(KeyPart::of)
            .collect::<Result<Vec<_>, _>>()?;
        let mut keys = Self::with_capacity(entities);
        for row in 0..entities {
            let is_null = nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            if !is_null {
                for part in &parts {
                    part.append(row, &mut keys.bytes);
                }
            }
            keys.end(is_null);
        }
        Ok(keys)
    }

    fn with_capacity(entities: usize) -> Self {
        let mut offsets = Vec::with_capacity(entities + 1);
        offsets.push(0);
        Self {
            len: 0,
            bytes: Vec::with_capacity(entities * 16),
            offsets: Offsets::Each(offsets),
            nulls: Vec::new(),
        }
    }

    /// Ends the key whose bytes were appended.
    fn end(&mut self, is_null: bool) {
        if let Offsets::Each(offsets) = &mut self.offsets {
            offsets.push(self.bytes.len());
        }
        if is_null || !self.nulls.is_empty() {
            self.nulls.resize(self.len, false);
            self.nulls.push(is_null);
        }
        self.len += 1;
    }

    fn from_bigints(values: &[i64], nulls: Option<NullBuffer>) -> Self {
        let mut bytes = vec![0; values.len() * 8];
        for (slot, value) in bytes.chunks_exact_mut(8).zip(values) {
            slot.copy_from_slice(&flip_i64(*value));
        }
        let nulls = nulls.map(|nulls| nulls.iter().map(|valid| !valid).collect());
        Self {
            len: values.len(),
            bytes,
            offsets: Offsets::Fixed(8),
            nulls: nulls.unwrap_or_default(),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `None` for a NULL key. Panics when there is no such row.
    #[inline]
    pub fn get(&self, row: usize) -> Option<&[u8]> {
        if !self.nulls.is_empty() && self.nulls[row] {
            return None;
        }
        Some(match &self.offsets {
            Offsets::Fixed(bytes) => &self.bytes[row * bytes..(row + 1) * bytes],
            Offsets::Each(offsets) => &self.bytes[offsets[row]..offsets[row + 1]],
        })
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
            keys.end(key.is_none());
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

#[cfg(test)]
mod tests;
