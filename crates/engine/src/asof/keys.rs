//! Keys as dense group numbers.
//!
//! The spine's keys are numbered once; keys of events are looked up a batch at
//! a time. A single integer key, the usual case, is hashed as it is, or indexed
//! where the keys lie close together; other keys are compared in Arrow's row
//! format.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::HashMap;
use datafusion::error::{DataFusionError, Result};

/// Of a row whose key is NULL or not in the spine.
pub(crate) const NO_GROUP: u32 = u32::MAX;

/// Keys per row up to which integers are indexed rather than hashed.
const SPREAD_MAX: u128 = 8;

/// Keys of a spine, numbered. Keys with many rows tend to appear first: numbers
/// are [`spread`], so that a range of them has its share of such keys.
#[derive(Debug)]
pub(super) struct KeyGroups {
    index: Index,
    len: usize,
}

#[derive(Debug)]
enum Index {
    /// Group of `base + position`.
    Dense { base: i64, groups: Vec<u32> },
    /// Open addressing with linear probing; `shift` leaves the hash's high bits.
    Hashed {
        entries: Vec<(i64, u32)>,
        shift: u32,
    },
    Rows {
        converter: RowConverter,
        groups: HashMap<Vec<u8>, u32>,
    },
}

/// The type that a key is compared as: widths and encodings do not matter.
pub(super) fn compared_as(key: &DataType) -> DataType {
    match key {
        DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => DataType::Int64,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8View,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => DataType::BinaryView,
        DataType::Dictionary(_, values) => compared_as(values),
        other => other.clone(),
    }
}

fn compared(columns: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    let cast_one = |column: &ArrayRef| Ok(cast(column, &compared_as(column.data_type()))?);
    columns.iter().map(cast_one).collect()
}

fn single_integer(columns: &[ArrayRef]) -> Option<&Int64Array> {
    match columns {
        [only] => only.as_primitive_opt::<Int64Type>(),
        _ => None,
    }
}

fn slot_of(key: i64, shift: u32) -> usize {
    // Fibonacci hashing: the high bits of a product with 2^64 / phi.
    (key.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> shift) as usize
}

impl KeyGroups {
    /// Numbers the keys, a column each; also gives the group of every row.
    pub(super) fn build(columns: &[ArrayRef]) -> Result<(Self, Vec<u32>)> {
        let columns = compared(columns)?;
        let (mut groups, mut ids) = match single_integer(&columns) {
            Some(keys) => Self::of_integers(keys),
            None => Self::of_rows(&columns)?,
        };
        let len = groups.len as u32;
        let spread = |group: &mut u32| {
            if *group != NO_GROUP {
                *group = spread(*group, len);
            }
        };
        match &mut groups.index {
            Index::Dense { groups, .. } => groups.iter_mut().for_each(spread),
            Index::Hashed { entries, .. } => entries.iter_mut().for_each(|(_, g)| spread(g)),
            Index::Rows { groups, .. } => groups.values_mut().for_each(spread),
        }
        ids.iter_mut().for_each(spread);
        Ok((groups, ids))
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn of_integers(keys: &Int64Array) -> (Self, Vec<u32>) {
        let bounds = keys
            .iter()
            .flatten()
            .fold(None, |bounds: Option<(i64, i64)>, key| {
                let (low, high) = bounds.unwrap_or((key, key));
                Some((low.min(key), high.max(key)))
            });
        let (low, high) = bounds.unwrap_or((0, 0));
        let span = (i128::from(high) - i128::from(low)).unsigned_abs() + 1;
        let rows = keys.len().max(128) as u128;
        let mut index = if span <= rows * SPREAD_MAX {
            Index::Dense {
                base: low,
                groups: vec![NO_GROUP; span as usize],
            }
        } else {
            let capacity = (keys.len() * 2).next_power_of_two().max(2);
            Index::Hashed {
                entries: vec![(0, NO_GROUP); capacity],
                shift: 64 - capacity.trailing_zeros(),
            }
        };
        let mut len = 0u32;
        let groups = keys
            .iter()
            .map(|key| key.map_or(NO_GROUP, |key| index.number(key, &mut len)))
            .collect();
        let len = len as usize;
        (Self { index, len }, groups)
    }

    fn of_rows(columns: &[ArrayRef]) -> Result<(Self, Vec<u32>)> {
        let fields = columns
            .iter()
            .map(|column| SortField::new(column.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let rows = converter.convert_columns(columns)?;
        let mut groups: HashMap<Vec<u8>, u32> = HashMap::default();
        let mut ids = Vec::with_capacity(rows.num_rows());
        for (at, row) in rows.iter().enumerate() {
            if columns.iter().any(|column| column.is_null(at)) {
                ids.push(NO_GROUP);
                continue;
            }
            let next = groups.len() as u32;
            ids.push(*groups.entry_ref(row.as_ref()).or_insert(next));
        }
        let len = groups.len();
        let index = Index::Rows { converter, groups };
        Ok((Self { index, len }, ids))
    }

    /// The group of each row of `columns`, into `found`.
    pub(super) fn find(&self, columns: &[ArrayRef], found: &mut Vec<u32>) -> Result<()> {
        let columns = compared(columns)?;
        found.clear();
        if let Index::Rows { converter, groups } = &self.index {
            let rows = converter.convert_columns(&columns)?;
            // A key with a NULL in it is never in the map.
            let group = |row: arrow::row::Row<'_>| groups.get(row.as_ref()).copied();
            found.extend(rows.iter().map(|row| group(row).unwrap_or(NO_GROUP)));
            return Ok(());
        }
        let keys = single_integer(&columns).ok_or_else(|| {
            DataFusionError::Internal("keys of events and of the spine differ in type".into())
        })?;
        match &self.index {
            Index::Dense { base, groups } => {
                let group = |key: &i64| {
                    let at = (i128::from(*key) - i128::from(*base)).try_into();
                    at.ok()
                        .and_then(|at: usize| groups.get(at))
                        .copied()
                        .unwrap_or(NO_GROUP)
                };
                found.extend(keys.values().iter().map(group));
            }
            Index::Hashed { entries, shift } => {
                found.extend(keys.values().iter().map(|key| probe(entries, *shift, *key)));
            }
            Index::Rows { .. } => {}
        }
        if let Some(nulls) = keys.nulls().filter(|nulls| nulls.null_count() > 0) {
            for (group, valid) in found.iter_mut().zip(nulls.iter()) {
                if !valid {
                    *group = NO_GROUP;
                }
            }
        }
        Ok(())
    }
}

/// A number below `len` for each number below it: every 256th is a neighbour.
fn spread(number: u32, len: u32) -> u32 {
    const STRIDE: u32 = 256;
    let (turn, place) = (number / STRIDE, number % STRIDE);
    // Places before this one that have one number more than all have.
    place * (len / STRIDE) + place.min(len % STRIDE) + turn
}

fn probe(entries: &[(i64, u32)], shift: u32, key: i64) -> u32 {
    let mut at = slot_of(key, shift);
    // At most half of the entries are taken: an empty one ends every search.
    loop {
        let (found, group) = entries[at];
        if group == NO_GROUP || found == key {
            return group;
        }
        at = (at + 1) & (entries.len() - 1);
    }
}

impl Index {
    /// The group of an integer key, a new one if need be.
    fn number(&mut self, key: i64, next: &mut u32) -> u32 {
        let group = match self {
            Self::Dense { base, groups } => &mut groups[(key - *base) as usize],
            Self::Hashed { entries, shift } => {
                let mut at = slot_of(key, *shift);
                while entries[at].1 != NO_GROUP && entries[at].0 != key {
                    at = (at + 1) & (entries.len() - 1);
                }
                entries[at].0 = key;
                &mut entries[at].1
            }
            Self::Rows { .. } => return NO_GROUP,
        };
        if *group == NO_GROUP {
            *group = *next;
            *next += 1;
        }
        *group
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray, StringViewArray};

    use super::*;

    fn find(groups: &KeyGroups, columns: &[ArrayRef]) -> Vec<u32> {
        let mut found = Vec::new();
        groups.find(columns, &mut found).unwrap();
        found
    }

    #[test]
    fn integers_close_together_and_far_apart() {
        for keys in [vec![5, 7, 5], vec![i64::MIN, i64::MAX, i64::MIN]] {
            let column: ArrayRef = Arc::new(Int64Array::from(keys.clone()));
            let (groups, ids) = KeyGroups::build(&[column]).unwrap();
            assert_eq!(ids, [0, 1, 0]);
            assert_eq!(groups.len(), 2);
            let asked = vec![None, Some(0), Some(keys[1]), Some(keys[0] ^ 2)];
            let asked: ArrayRef = Arc::new(Int64Array::from(asked));
            let expected = match keys[0] {
                5 => [NO_GROUP, NO_GROUP, 1, 1],
                _ => [NO_GROUP, NO_GROUP, 1, NO_GROUP],
            };
            assert_eq!(find(&groups, &[asked]), expected);
        }
    }

    #[test]
    fn widths_and_encodings_do_not_matter() {
        let spine: [ArrayRef; 2] = [
            Arc::new(Int64Array::from(vec![Some(1), Some(1), None])),
            Arc::new(StringViewArray::from(vec!["a", "b", "a"])),
        ];
        let (groups, ids) = KeyGroups::build(&spine).unwrap();
        assert_eq!(ids, [0, 1, NO_GROUP]);
        let events: [ArrayRef; 2] = [
            Arc::new(Int32Array::from(vec![Some(1), None, Some(2)])),
            Arc::new(StringArray::from(vec!["b", "a", "a"])),
        ];
        assert_eq!(find(&groups, &events), [1, NO_GROUP, NO_GROUP]);
    }

    #[test]
    fn numbers_are_spread_and_used_once() {
        for len in [0, 1, 255, 256, 257, 1000, 4096] {
            let mut spread: Vec<u32> = (0..len).map(|number| spread(number, len)).collect();
            if len == 4096 {
                assert_eq!(spread[..3], [0, 16, 32]);
            }
            spread.sort_unstable();
            assert!(spread.into_iter().eq(0..len));
        }
    }

    #[test]
    fn a_key_has_one_number_in_all_columns() {
        let keys: ArrayRef = Arc::new(Int64Array::from_iter_values((0..5000).map(|k| k % 1000)));
        let texts = cast(&keys, &DataType::Utf8).unwrap();
        for column in [keys, texts] {
            let (groups, ids) = KeyGroups::build(std::slice::from_ref(&column)).unwrap();
            assert_eq!(find(&groups, &[column]), ids);
        }
    }

    #[test]
    fn no_keys_at_all() {
        let none: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
        let (groups, _) = KeyGroups::build(&[none]).unwrap();
        let asked: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, -5]));
        assert_eq!(find(&groups, &[asked]), [NO_GROUP; 3]);
    }
}
