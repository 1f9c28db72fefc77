//! Rows as bytes: the layout of a view version's online rows.
//!
//! This module knows nothing of keys or stores: it turns record batches into
//! rows, decides which of two rows is the greater, and turns rows into Arrow
//! columns.
//!
//! # Format 1
//!
//! All numbers are little endian.
//!
//! | part | bytes |
//! |---|---|
//! | format | 1: the value 1 |
//! | event time | 8, where the layout has one: UTC microseconds |
//! | created time | 8, where the layout has one; a NULL is stored as the event time |
//! | validity | one bit a feature, lowest bit first, 0 is NULL |
//! | slots | one a feature, at an offset that the layout alone decides |
//! | data | the values of variable length, in feature order |
//!
//! The slot of BOOLEAN is 1 byte, SMALLINT 2, INT, DATE and REAL 4, BIGINT,
//! TIMESTAMP and DOUBLE 8, DECIMAL 16 (the unscaled value). The slot of
//! VARCHAR, VARBINARY and lists is the 4-byte offset at which the value ends in
//! `data`; it begins where the one before it ends. A list is its count
//! (4 bytes), one validity bit an item, then the items: fixed widths side by
//! side, or 4-byte ends and then the bytes. NULL slots and items are zero, so
//! rows of equal content have equal bytes.
//!
//! A new format gets the next number in the first byte; readers tell a row of a
//! format that they do not know from a damaged one by it.

use std::cmp::Ordering;

use arrow::array::RecordBatch;
use granary_model::definitions::{Column, FeatureView};
use granary_model::{UtcMicros, ViewKind};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::rows::EncodedRows;

mod compare;
mod decode;
mod encode;
mod fixed;
mod list;
mod shape;

pub use decode::{DecodedRows, RowColumn, RowDecoder, RowReader};
pub use fixed::Fixed;
use shape::Shape;

/// Which columns a row has, in which order, and how they are laid out.
///
/// A row: event time (timestamped views), created time (where the view has
/// one), then the features in SELECT order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowLayout {
    pub event_time: bool,
    pub created_time: bool,
    pub features: Vec<Column>,
}

impl RowLayout {
    /// The layout of a view's online rows. Comments are left out: they change
    /// without a new version.
    pub fn of(view: &FeatureView) -> Self {
        let timestamped = view.kind == ViewKind::Timestamped;
        Self {
            event_time: timestamped && view.event_time.is_some(),
            created_time: timestamped && view.created_time.is_some(),
            features: view
                .features
                .iter()
                .map(|f| Column::new(f.name.clone(), f.data_type.clone()))
                .collect(),
        }
    }

    /// Encodes the rows of a batch that has the view's columns by name: event
    /// time and created time (`times` names them), then the features. Columns
    /// of another Arrow type are cast; a value that does not fit is an error,
    /// a NULL event time as well.
    pub fn encode(
        &self,
        batch: &RecordBatch,
        event_time: Option<&str>,
        created_time: Option<&str>,
    ) -> Result<EncodedRows, StoreError> {
        encode::encode(self, batch, event_time, created_time)
    }

    /// Of two rows of one key the greatest: by event time, then created time
    /// (NULL counts as the event time), then the features in order, NULL
    /// lowest, NaN highest. Many rows: [`RowOrder`].
    pub fn join<'a>(&self, a: &'a [u8], b: &'a [u8]) -> Result<&'a [u8], StoreError> {
        RowOrder::new(self).join(a, b)
    }
}

/// The order of the rows of one layout, prepared once for many rows.
#[derive(Debug, Clone)]
pub struct RowOrder {
    shape: Shape,
}

impl RowOrder {
    pub fn new(layout: &RowLayout) -> Self {
        Self {
            shape: Shape::of(layout),
        }
    }

    /// `Equal` only for rows of equal bytes.
    pub fn compare(&self, a: &[u8], b: &[u8]) -> Result<Ordering, StoreError> {
        compare::compare(&self.shape, a, b)
    }

    /// The greater row.
    pub fn join<'a>(&self, a: &'a [u8], b: &'a [u8]) -> Result<&'a [u8], StoreError> {
        Ok(match self.compare(a, b)? {
            Ordering::Less => b,
            Ordering::Equal | Ordering::Greater => a,
        })
    }

    /// `None` where the layout has no event time.
    pub fn event_time(&self, row: &[u8]) -> Result<Option<UtcMicros>, StoreError> {
        self.shape.check(row)?;
        Ok(self.shape.event_time(row).map(UtcMicros))
    }

    /// Refuses a row that cannot be of this layout.
    pub fn check(&self, row: &[u8]) -> Result<(), StoreError> {
        self.shape.check(row)
    }
}

#[cfg(test)]
mod tests;
