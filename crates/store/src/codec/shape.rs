//! Where each part of a row stands, worked out once from the layout.

use granary_model::FeatureType;

use super::RowLayout;
use super::fixed::{Fixed, with_native};
use crate::error::StoreError;

/// The row format that this version writes, and the newest that it reads.
pub(super) const ROW_FORMAT: u8 = 1;

/// How a fixed-width value is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Native {
    /// One byte, 0 or 1.
    Bool,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
}

impl Native {
    pub(super) fn width(self) -> usize {
        with_native!(self, T => T::WIDTH)
    }
}

/// What stands in a feature's slot, or an item of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Fixed(Native),
    Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    Scalar(Scalar),
    List(Scalar),
    /// Lists of lists: no feature has this type.
    Refused,
}

impl Cell {
    pub(super) fn of(data_type: &FeatureType) -> Self {
        match data_type {
            FeatureType::List(item) => scalar_of(item).map_or(Self::Refused, Self::List),
            plain => scalar_of(plain).map_or(Self::Refused, Self::Scalar),
        }
    }

    /// Bytes of the slot; cells of variable length keep where they end.
    fn slot_width(self) -> usize {
        match self {
            Self::Scalar(Scalar::Fixed(native)) => native.width(),
            Self::Scalar(Scalar::Bytes) | Self::List(_) | Self::Refused => END_WIDTH,
        }
    }

    pub(super) fn is_var(self) -> bool {
        !matches!(self, Self::Scalar(Scalar::Fixed(_)))
    }
}

fn scalar_of(data_type: &FeatureType) -> Option<Scalar> {
    Some(match data_type {
        FeatureType::Boolean => Scalar::Fixed(Native::Bool),
        FeatureType::SmallInt => Scalar::Fixed(Native::I16),
        FeatureType::Int | FeatureType::Date => Scalar::Fixed(Native::I32),
        FeatureType::BigInt | FeatureType::Timestamp => Scalar::Fixed(Native::I64),
        FeatureType::Real => Scalar::Fixed(Native::F32),
        FeatureType::Double => Scalar::Fixed(Native::F64),
        FeatureType::Decimal { .. } => Scalar::Fixed(Native::I128),
        FeatureType::Varchar | FeatureType::Varbinary => Scalar::Bytes,
        FeatureType::List(_) => return None,
    })
}

/// Width of a slot that says where a value of variable length ends.
const END_WIDTH: usize = 4;

/// A guess of what a value of variable length takes.
const USUAL_VAR_BYTES: usize = 16;

/// One feature's place in a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) cell: Cell,
    /// Byte offset of the slot in the row.
    pub(super) at: usize,
    /// Slot of the nearest earlier feature of variable length.
    previous_var: Option<usize>,
    /// Byte and mask of the bit that says the value is there.
    valid_byte: usize,
    valid_mask: u8,
}

impl Slot {
    #[inline]
    pub(super) fn is_valid(&self, row: &[u8]) -> bool {
        row[self.valid_byte] & self.valid_mask != 0
    }

    #[inline]
    pub(super) fn set_valid(&self, row: &mut [u8]) {
        row[self.valid_byte] |= self.valid_mask;
    }
}

/// Where the parts of a row stand.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) event_time_at: Option<usize>,
    pub(super) created_time_at: Option<usize>,
    /// Header, bitmap and slots: what every row has.
    pub(super) fixed_bytes: usize,
    /// Room for most rows.
    pub(super) usual_bytes: usize,
    bitmap_at: usize,
    pub(super) slots: Vec<Slot>,
    last_var: Option<usize>,
}

impl Shape {
    pub(super) fn of(layout: &RowLayout) -> Self {
        let mut at = 1;
        let mut time = |there: bool| {
            let here = there.then_some(at);
            at += if there { 8 } else { 0 };
            here
        };
        let event_time_at = time(layout.event_time);
        let created_time_at = time(layout.created_time);
        let bitmap_at = at;
        at += layout.features.len().div_ceil(8);
        let mut last_var = None;
        let mut slots = Vec::with_capacity(layout.features.len());
        for (index, feature) in layout.features.iter().enumerate() {
            let cell = Cell::of(&feature.data_type);
            slots.push(Slot {
                cell,
                at,
                previous_var: last_var,
                valid_byte: bitmap_at + index / 8,
                valid_mask: 1 << (index % 8),
            });
            if cell.is_var() {
                last_var = Some(at);
            }
            at += cell.slot_width();
        }
        let vars = slots.iter().filter(|slot: &&Slot| slot.cell.is_var());
        Self {
            event_time_at,
            created_time_at,
            fixed_bytes: at,
            usual_bytes: at + vars.count() * USUAL_VAR_BYTES,
            bitmap_at,
            slots,
            last_var,
        }
    }

    /// Whether it is of this format, and neither too short nor too long.
    #[inline]
    fn is_whole(&self, row: &[u8]) -> bool {
        let var_bytes = match row.len().checked_sub(self.fixed_bytes) {
            Some(bytes) => bytes,
            None => return false,
        };
        let due = self.last_var.map_or(0, |at| end_at(row, at));
        row.first() == Some(&ROW_FORMAT) && var_bytes == due
    }

    /// Refuses a row that is not whole.
    #[inline]
    pub(super) fn check(&self, row: &[u8]) -> Result<(), StoreError> {
        match self.is_whole(row) {
            true => Ok(()),
            false => Err(self.not_whole(row)),
        }
    }

    #[cold]
    fn not_whole(&self, row: &[u8]) -> StoreError {
        match row.first() {
            Some(&ROW_FORMAT) => {}
            Some(format) => {
                return damaged(format_args!(
                    "row format {format}, this version reads {ROW_FORMAT}"
                ));
            }
            None => return damaged(format_args!("an empty row")),
        }
        if row.len() < self.fixed_bytes {
            return damaged(format_args!(
                "{} bytes, its layout has at least {}",
                row.len(),
                self.fixed_bytes
            ));
        }
        let var_bytes = self.last_var.map_or(0, |at| end_at(row, at));
        damaged(format_args!(
            "{} bytes where {} are due",
            row.len(),
            self.fixed_bytes.saturating_add(var_bytes)
        ))
    }

    /// Of a checked row which of its first 64 features are valid.
    #[inline]
    pub(super) fn valid_bits(&self, row: &[u8]) -> u64 {
        let bitmap = &row[self.bitmap_at..];
        match bitmap.first_chunk() {
            // Bits beyond the bitmap belong to no feature.
            Some(bits) => u64::from_le_bytes(*bits),
            None => bitmap
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        }
    }

    /// Of a checked row.
    pub(super) fn event_time(&self, row: &[u8]) -> Option<i64> {
        self.event_time_at.and_then(|at| i64::read(&row[at..]))
    }

    /// Of a checked row; a NULL created time was stored as the event time.
    pub(super) fn created_time(&self, row: &[u8]) -> Option<i64> {
        self.created_time_at.and_then(|at| i64::read(&row[at..]))
    }

    /// The bytes of a value of variable length in a checked row.
    pub(super) fn var<'r>(&self, row: &'r [u8], slot: &Slot) -> Result<&'r [u8], StoreError> {
        self.var_of(row, row.len() - self.fixed_bytes, slot)
    }

    /// The same of a row with so many bytes of data, which others may follow. A NULL
    /// ends where it begins.
    #[inline]
    pub(super) fn var_of<'r>(
        &self,
        row: &'r [u8],
        data: usize,
        slot: &Slot,
    ) -> Result<&'r [u8], StoreError> {
        let start = slot.previous_var.map_or(0, |at| end_at(row, at));
        let end = end_at(row, slot.at);
        let value = match end <= data {
            true => row[self.fixed_bytes..].get(start..end),
            false => None,
        };
        value.ok_or_else(|| not_there(start, end))
    }
}

#[cold]
fn not_there(start: usize, end: usize) -> StoreError {
    damaged(format_args!("a value from byte {start} to {end}"))
}

/// Of a row that holds its slots.
#[inline]
fn end_at(row: &[u8], at: usize) -> usize {
    i32::read(&row[at..]).map_or(usize::MAX, |end| end as u32 as usize)
}

pub(super) fn damaged(what: std::fmt::Arguments<'_>) -> StoreError {
    StoreError::DamagedRow(what.to_string())
}
