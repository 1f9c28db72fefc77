//! The items of a stored list.

use super::encode::list_head;
use super::fixed::Fixed;
use super::shape::{Scalar, damaged};
use crate::error::StoreError;

/// A list's bytes, checked to be whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredList<'r> {
    pub(super) count: usize,
    valid: &'r [u8],
    /// Fixed-width items, or the ends of items of variable length.
    items: &'r [u8],
    data: &'r [u8],
}

impl<'r> StoredList<'r> {
    pub(super) fn of(item: Scalar, bytes: &'r [u8]) -> Result<Self, StoreError> {
        let whole = || {
            let count = i32::read(bytes)? as u32 as usize;
            let width = match item {
                Scalar::Fixed(native) => native.width(),
                Scalar::Bytes => 4,
            };
            let (head, rest) = bytes.split_at_checked(list_head(count))?;
            let (items, data) = rest.split_at_checked(count.checked_mul(width)?)?;
            let list = Self {
                count,
                valid: &head[4..],
                items,
                data,
            };
            let data_bytes = match item {
                Scalar::Fixed(_) => 0,
                Scalar::Bytes => count.checked_sub(1).map_or(0, |last| list.end(last)),
            };
            (data.len() == data_bytes).then_some(list)
        };
        whole().ok_or_else(|| damaged(format_args!("a list of {} bytes", bytes.len())))
    }

    pub(super) fn is_valid(&self, item: usize) -> bool {
        self.valid[item / 8] & (1 << (item % 8)) != 0
    }

    /// Of an item below `count`; the list's items are `T`.
    pub(super) fn fixed<T: Fixed>(&self, item: usize) -> T {
        T::read(&self.items[item * T::WIDTH..]).unwrap_or_default()
    }

    /// Of an item below `count`; the list's items are of variable length.
    pub(super) fn bytes(&self, item: usize) -> Result<&'r [u8], StoreError> {
        let start = item.checked_sub(1).map_or(0, |before| self.end(before));
        self.data
            .get(start..self.end(item))
            .ok_or_else(|| damaged(format_args!("item {item} of a list")))
    }

    fn end(&self, item: usize) -> usize {
        self.fixed::<i32>(item) as u32 as usize
    }
}
