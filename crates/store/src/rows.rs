//! Many encoded rows in one buffer.
//!
//! Rows are made and written by the million: one allocation a batch instead of
//! one a row. This module knows nothing of what the bytes mean; see
//! [`crate::codec`].

/// Encoded rows, in the order of the batch that they were made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    /// One more than rows.
    offsets: Vec<usize>,
}

impl EncodedRows {
    /// `offsets`: where each row begins, then the end of the last one; ascending.
    pub(crate) fn from_parts(bytes: Vec<u8>, offsets: Vec<usize>) -> Self {
        debug_assert_eq!(offsets.last().copied(), Some(bytes.len()));
        Self { bytes, offsets }
    }

    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Panics when there is no such row.
    pub fn get(&self, row: usize) -> &[u8] {
        &self.bytes[self.offsets[row]..self.offsets[row + 1]]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// Bytes of all rows together.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Default for EncodedRows {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            offsets: vec![0],
        }
    }
}

impl<R: AsRef<[u8]>> FromIterator<R> for EncodedRows {
    fn from_iter<I: IntoIterator<Item = R>>(rows: I) -> Self {
        let mut encoded = Self::default();
        for row in rows {
            encoded.bytes.extend_from_slice(row.as_ref());
            encoded.offsets.push(encoded.bytes.len());
        }
        encoded
    }
}
