//! Entity keys as bytes that sort like the key columns do.

use arrow::array::ArrayRef;
use granary_model::definitions::Column;

use crate::error::StoreError;

/// The encoded keys of a batch of entities.
///
/// Byte order of encoded keys is the order of the key columns, ascending,
/// strings and binaries byte by byte: the order that DataFusion sorts in, so
/// that rows sorted by their key columns can be appended in key order.
#[derive(Debug, Clone, Default)]
pub struct EntityKeys {
    bytes: Vec<u8>,
    /// One more than keys.
    offsets: Vec<usize>,
    /// NULL in any key column.
    nulls: Vec<bool>,
}

impl EntityKeys {
    /// Encodes key columns, in the order of `columns`. Narrower integers
    /// widen; any other difference of type is `StoreError::KeyType`.
    pub fn encode(_columns: &[Column], _arrays: &[ArrayRef]) -> Result<Self, StoreError> {
        todo!()
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
}
