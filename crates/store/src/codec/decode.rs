//! Rows to the columns of an answer.
//!
//! Rows are copied side by side as they come (the store's memory is only lent)
//! and decoded a column at a time at the end, so that each column's type is
//! decided once and not once a value.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field};
use arrow::error::ArrowError;
use granary_model::types::UTC;
use granary_model::{FeatureStatus, FeatureType, UtcMicros};

use super::RowLayout;
use super::fixed::Fixed;
use super::list::StoredList;
use super::shape::{Cell, Scalar, Shape, Slot, damaged};
use crate::error::StoreError;

/// How rows of a layout become columns, worked out once for many reads.
#[derive(Debug, Clone)]
pub struct RowDecoder {
    layout: Arc<RowLayout>,
    shape: Shape,
    /// Positions of the columns in the layout.
    projection: Vec<usize>,
}

impl RowDecoder {
    /// The features at `projection` of the layout; panics where one is beyond it.
    pub fn new(layout: &Arc<RowLayout>, projection: Vec<usize>) -> Arc<Self> {
        let known = layout.features.len();
        assert!(
            projection.iter().all(|index| *index < known),
            "a layout of {known} features has none of {projection:?}"
        );
        Arc::new(Self {
            layout: Arc::clone(layout),
            shape: Shape::of(layout),
            projection,
        })
    }

    /// Adds a feature of the layout, once however often it is wanted; gives its
    /// place among the columns. Panics where the layout has no such feature.
    pub fn project(&mut self, feature: usize) -> usize {
        let known = self.layout.features.len();
        assert!(
            feature < known,
            "a layout of {known} features has no {feature}"
        );
        let place = self.projection.iter().position(|known| *known == feature);
        place.unwrap_or_else(|| {
            self.projection.push(feature);
            self.projection.len() - 1
        })
    }
}

/// Gathers the rows of one view for one read, and has its columns.
///
/// Rows may come in any order; entities without one are NOT_FOUND.
#[derive(Debug, Clone)]
pub struct RowReader {
    decoder: Arc<RowDecoder>,
    fresh_since: Option<i64>,
    /// The void, then the rows, one after another. The void is a row of which all
    /// is zero, and so every feature NULL: what is not PRESENT is read from it,
    /// and costs no branch a value.
    arena: Vec<u8>,
    entities: Vec<Entity>,
    /// How many are PRESENT.
    present: usize,
    /// Of the layout's first 64 features those that are valid in every row.
    valid_everywhere: u64,
}

/// Where the row of an entity is in the arena, and what holds for all its
/// features, NULLs apart. A row that is not PRESENT has nothing but its time.
#[derive(Debug, Clone, Copy)]
struct Entity {
    start: u32,
    bytes: u32,
    status: FeatureStatus,
}

impl Entity {
    const NOT_FOUND: Self = Self {
        start: 0,
        bytes: 0,
        status: FeatureStatus::NotFound,
    };

    /// Where its features are: in its row, or in the void.
    #[inline]
    fn features_at(&self) -> usize {
        match self.status {
            FeatureStatus::Present => self.start as usize,
            _ => 0,
        }
    }

    /// The status of a feature that has no value.
    #[inline]
    fn without_value(&self) -> FeatureStatus {
        match self.status {
            FeatureStatus::Present => FeatureStatus::NullValue,
            other => other,
        }
    }
}

/// What a read found of one view.
#[derive(Debug, Clone)]
pub struct DecodedRows {
    /// One array a projected feature, each of `entities` values.
    pub values: Vec<ArrayRef>,
    /// One list a projected feature, or shared where all are alike.
    pub statuses: Vec<Arc<Vec<FeatureStatus>>>,
    /// Event time of each entity's row, where the layout has one.
    pub event_times: Option<Vec<Option<UtcMicros>>>,
}

impl RowReader {
    /// `fresh_since`: rows with an earlier event time are OUTSIDE_MAX_AGE
    /// (values NULL, event time given). Without an event time in the layout it
    /// has no effect.
    pub fn new(decoder: &Arc<RowDecoder>, entities: usize, fresh_since: Option<UtcMicros>) -> Self {
        let fresh_since = fresh_since.filter(|_| decoder.layout.event_time);
        let void = decoder.shape.fixed_bytes;
        let mut arena = Vec::with_capacity(void + entities * decoder.shape.usual_bytes);
        arena.resize(void, 0);
        Self {
            arena,
            entities: vec![Entity::NOT_FOUND; entities],
            present: 0,
            valid_everywhere: u64::MAX,
            decoder: Arc::clone(decoder),
            fresh_since: fresh_since.map(|t| t.0),
        }
    }

    /// For rows one after another, however many come: see [`Self::push_next`].
    pub fn growing(decoder: &Arc<RowDecoder>) -> Self {
        Self::new(decoder, 0, None)
    }

    /// One more row behind those before; of a damaged one nothing is kept.
    pub fn push_next(&mut self, row: &[u8]) -> Result<(), StoreError> {
        self.check(row)?;
        let entity = self.keep(row);
        self.entities.push(entity);
        Ok(())
    }

    /// The columns alone, of rows that were pushed one after another.
    pub fn finish_values(self) -> Result<Vec<ArrayRef>, StoreError> {
        let columns = (0..self.decoder.projection.len()).map(|at| {
            let (values, _) = self.column(at).decode()?;
            Ok(values)
        });
        columns.collect()
    }

    /// The row of an entity. A damaged row is an error, and the entity stays
    /// NOT_FOUND.
    #[inline]
    pub fn push(&mut self, entity: usize, row: &[u8]) -> Result<(), StoreError> {
        self.check(row)?;
        let kept = self.keep(row);
        let before = std::mem::replace(&mut self.entities[entity], kept);
        self.present -= usize::from(before.status == FeatureStatus::Present);
        Ok(())
    }

    /// Whether a row is whole, and has room behind those before.
    #[inline]
    fn check(&self, row: &[u8]) -> Result<(), StoreError> {
        self.decoder.shape.check(row)?;
        match self.arena.len() + row.len() <= u32::MAX as usize {
            true => Ok(()),
            false => Err(too_much()),
        }
    }

    /// Of a checked row.
    #[inline]
    fn keep(&mut self, row: &[u8]) -> Entity {
        let shape = &self.decoder.shape;
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(row);
        let is_old = self.fresh_since.is_some_and(|since| {
            let time = shape.event_time(row);
            time.is_some_and(|time| time < since)
        });
        let status = match is_old {
            true => FeatureStatus::OutsideMaxAge,
            false => {
                self.present += 1;
                self.valid_everywhere &= shape.valid_bits(row);
                FeatureStatus::Present
            }
        };
        Entity {
            start,
            bytes: row.len() as u32,
            status,
        }
    }

    /// Makes every row that is there outside its age; what is not there stays
    /// NOT_FOUND.
    pub fn expire(&mut self) {
        self.present = 0;
        for entity in &mut self.entities {
            if entity.status != FeatureStatus::NotFound {
                entity.status = FeatureStatus::OutsideMaxAge;
            }
        }
    }

    /// Event time of each entity's row, where the layout has one.
    pub fn event_times(&self) -> Option<Vec<Option<UtcMicros>>> {
        let times = self.entities.iter().map(|entity| {
            let row = self.bytes(entity)?;
            self.decoder.shape.event_time(row).map(UtcMicros)
        });
        self.decoder.layout.event_time.then(|| times.collect())
    }

    /// Of each entity what holds for all its features, NULLs apart.
    pub fn statuses(&self) -> impl ExactSizeIterator<Item = FeatureStatus> {
        self.entities.iter().map(|entity| entity.status)
    }

    /// One of the projected features, by its place among them.
    #[inline]
    pub fn column(&self, position: usize) -> RowColumn<'_> {
        let index = self.decoder.projection[position];
        let everywhere = self.valid_everywhere.checked_shr(index as u32).unwrap_or(0) & 1 != 0;
        RowColumn {
            reader: self,
            slot: &self.decoder.shape.slots[index],
            data_type: &self.decoder.layout.features[index].data_type,
            everywhere: everywhere && self.present == self.entities.len(),
        }
    }

    /// The columns of all entities. A value that is not what its type says
    /// (text that is not UTF-8) is an error.
    pub fn finish(self) -> Result<DecodedRows, StoreError> {
        let shared = Arc::new(self.statuses().collect::<Vec<_>>());
        let columns = self.decoder.projection.len();
        let mut values = Vec::with_capacity(columns);
        let mut statuses = Vec::with_capacity(columns);
        for position in 0..columns {
            let column = self.column(position);
            let (array, nulls) = column.decode()?;
            values.push(array);
            statuses.push(match nulls {
                0 => Arc::clone(&shared),
                _ => Arc::new(column.statuses().collect()),
            });
        }
        Ok(DecodedRows {
            values,
            statuses,
            event_times: self.event_times(),
        })
    }

    /// `None` where an entity has no row to decode.
    #[inline]
    fn row(&self, entity: usize) -> Option<&[u8]> {
        let entity = &self.entities[entity];
        let is_present = entity.status == FeatureStatus::Present;
        is_present.then(|| self.bytes(entity)).flatten()
    }

    /// `None` where there is no row.
    #[inline]
    fn bytes(&self, entity: &Entity) -> Option<&[u8]> {
        let start = entity.start as usize;
        let row = self.arena.get(start..start + entity.bytes as usize)?;
        (!row.is_empty()).then_some(row)
    }
}

/// One feature of the rows that a read found.
#[derive(Debug, Clone, Copy)]
pub struct RowColumn<'r> {
    reader: &'r RowReader,
    slot: &'r Slot,
    data_type: &'r FeatureType,
    /// Whether every entity has a value.
    everywhere: bool,
}

/// An array, and how many rows were there with the feature NULL.
type Decoded = (ArrayRef, usize);

impl<'r> RowColumn<'r> {
    /// How many entities there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.reader.entities.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The feature as an array, NULL where it is not PRESENT.
    pub fn to_array(&self) -> Result<ArrayRef, StoreError> {
        Ok(self.decode()?.0)
    }

    /// Whether every entity has a value; false is always right.
    #[inline]
    pub fn is_everywhere(&self) -> bool {
        self.everywhere
    }

    /// The value of each entity, and zero, as NULLs are stored, where it has none.
    /// `T` is what the type is stored as: see the table of [`crate::codec`]; a
    /// BOOLEAN is a byte.
    #[inline]
    pub fn fixed_values<T: Fixed>(&self) -> impl ExactSizeIterator<Item = T> + use<'r, T> {
        let (arena, at) = (self.reader.arena.as_slice(), self.slot.at);
        self.reader.entities.iter().map(move |entity| {
            let value = arena.get(entity.features_at() + at..);
            // Rows are whole, and so is the void.
            value.and_then(T::read).unwrap_or_default()
        })
    }

    /// Calls `each` with the value of each entity, of VARCHAR and VARBINARY, and with
    /// no bytes, as NULLs are stored, where it has none. They are not looked into.
    #[inline]
    pub fn each_bytes(&self, mut each: impl FnMut(&'r [u8])) -> Result<(), StoreError> {
        let reader = self.reader;
        let shape = &reader.decoder.shape;
        for entity in &reader.entities {
            let at = entity.features_at();
            let row = reader.arena.get(at..).unwrap_or_default();
            let data = (entity.bytes as usize).saturating_sub(shape.fixed_bytes);
            each(shape.var_of(row, data, self.slot)?);
        }
        Ok(())
    }

    /// Of each entity.
    #[inline]
    pub fn statuses(&self) -> impl ExactSizeIterator<Item = FeatureStatus> + use<'r> {
        let (arena, slot) = (self.reader.arena.as_slice(), *self.slot);
        self.reader.entities.iter().map(move |entity| {
            let row = arena.get(entity.features_at()..);
            match row.is_some_and(|row| slot.is_valid(row)) {
                true => FeatureStatus::Present,
                false => entity.without_value(),
            }
        })
    }

    fn decode(&self) -> Result<Decoded, StoreError> {
        Ok(match self.data_type {
            FeatureType::Boolean => {
                let (bytes, nulls, absent) = self.fixed::<u8>();
                let bits = BooleanBuffer::collect_bool(bytes.len(), |row| bytes[row] != 0);
                (Arc::new(BooleanArray::new(bits, nulls)), absent)
            }
            FeatureType::SmallInt => {
                self.native(|v, n| Ok(Arc::new(Int16Array::try_new(v, n)?)))?
            }
            FeatureType::Int => self.native(|v, n| Ok(Arc::new(Int32Array::try_new(v, n)?)))?,
            FeatureType::Date => self.native(|v, n| Ok(Arc::new(Date32Array::try_new(v, n)?)))?,
            FeatureType::BigInt => self.native(|v, n| Ok(Arc::new(Int64Array::try_new(v, n)?)))?,
            FeatureType::Timestamp => self.native(|v, n| {
                let plain = TimestampMicrosecondArray::try_new(v, n)?;
                Ok(Arc::new(plain.with_timezone(UTC)))
            })?,
            FeatureType::Real => self.native(|v, n| Ok(Arc::new(Float32Array::try_new(v, n)?)))?,
            FeatureType::Double => {
                self.native(|v, n| Ok(Arc::new(Float64Array::try_new(v, n)?)))?
            }
            FeatureType::Decimal { precision, scale } => self.native(|v, n| {
                let plain = Decimal128Array::try_new(v, n)?;
                Ok(Arc::new(
                    plain.with_precision_and_scale(*precision, *scale)?,
                ))
            })?,
            FeatureType::Varchar => {
                let (offsets, bytes, nulls, absent) = self.bytes()?;
                (text(offsets, bytes, nulls)?, absent)
            }
            FeatureType::Varbinary => {
                let (offsets, bytes, nulls, absent) = self.bytes()?;
                let array = BinaryArray::try_new(offsets, bytes, nulls).map_err(not_the_type)?;
                (Arc::new(array), absent)
            }
            FeatureType::List(item) => self.list(item)?,
        })
    }

    fn native<T: Fixed>(
        &self,
        build: impl FnOnce(ScalarBuffer<T>, Option<NullBuffer>) -> Result<ArrayRef, ArrowError>,
    ) -> Result<Decoded, StoreError> {
        let (values, nulls, absent) = self.fixed::<T>();
        let array = build(values.into(), nulls).map_err(not_the_type)?;
        Ok((array, absent))
    }

    /// Values, validity, and the number of rows whose value is NULL.
    fn fixed<T: Fixed>(&self) -> (Vec<T>, Option<NullBuffer>, usize) {
        let values = self.fixed_values().collect();
        let mut absent = 0;
        let valid = self.statuses().map(|status| {
            absent += usize::from(status == FeatureStatus::NullValue);
            status == FeatureStatus::Present
        });
        let valid: Vec<_> = valid.collect();
        (values, null_buffer(&valid), absent)
    }

    /// Calls `each` once an entity, with the value's bytes or `None`; gives
    /// validity and the number of rows whose value is NULL.
    fn each_var(
        &self,
        mut each: impl FnMut(Option<&[u8]>) -> Result<(), StoreError>,
    ) -> Result<(Option<NullBuffer>, usize), StoreError> {
        let entities = self.reader.entities.len();
        let mut valid = Vec::with_capacity(entities);
        let mut absent = 0;
        for entity in 0..entities {
            let value = match self.reader.row(entity) {
                Some(row) if self.slot.is_valid(row) => {
                    Some(self.reader.decoder.shape.var(row, self.slot)?)
                }
                Some(_) => {
                    absent += 1;
                    None
                }
                None => None,
            };
            valid.push(value.is_some());
            each(value)?;
        }
        Ok((null_buffer(&valid), absent))
    }

    #[allow(clippy::type_complexity, reason = "the parts of one Arrow array")]
    fn bytes(&self) -> Result<(OffsetBuffer<i32>, Buffer, Option<NullBuffer>, usize), StoreError> {
        let mut joined = Joined::default();
        let (nulls, absent) = self.each_var(|value| {
            joined.push(value.unwrap_or_default());
            Ok(())
        })?;
        let (offsets, bytes) = joined.finish()?;
        Ok((offsets, bytes, nulls, absent))
    }

    fn list(&self, item: &FeatureType) -> Result<Decoded, StoreError> {
        let Cell::List(scalar) = self.slot.cell else {
            return Err(damaged(format_args!("a list of {item} is not stored")));
        };
        let mut lists = Vec::new();
        let mut lengths = Vec::with_capacity(self.reader.entities.len());
        // Lists borrow from the arena, so they are found again by entity.
        let (nulls, absent) = self.each_var(|value| {
            lengths.push(match value {
                Some(bytes) => StoredList::of(scalar, bytes)?.count,
                None => 0,
            });
            Ok(())
        })?;
        for entity in 0..self.reader.entities.len() {
            if let Some(row) = self.reader.row(entity)
                && self.slot.is_valid(row)
            {
                lists.push(StoredList::of(
                    scalar,
                    self.reader.decoder.shape.var(row, self.slot)?,
                )?);
            }
        }
        let total: usize = lengths.iter().sum();
        if i32::try_from(total).is_err() {
            return Err(too_much());
        }
        let field = Arc::new(Field::new("element", item.to_arrow(), true));
        let items = items_array(item, scalar, &lists, total)?;
        let array = ListArray::try_new(field, OffsetBuffer::from_lengths(lengths), items, nulls)
            .map_err(not_the_type)?;
        Ok((Arc::new(array), absent))
    }
}

/// The items of all lists, one list after another.
fn items_array(
    item: &FeatureType,
    scalar: Scalar,
    lists: &[StoredList<'_>],
    total: usize,
) -> Result<ArrayRef, StoreError> {
    let valid: Vec<bool> = lists
        .iter()
        .flat_map(|list| (0..list.count).map(|i| list.is_valid(i)))
        .collect();
    let nulls = null_buffer(&valid);
    if scalar == Scalar::Bytes {
        let mut joined = Joined::default();
        for list in lists {
            for index in 0..list.count {
                joined.push(list.bytes(index)?);
            }
        }
        let (offsets, bytes) = joined.finish()?;
        return if *item == FeatureType::Varchar {
            text(offsets, bytes, nulls)
        } else {
            let array = BinaryArray::try_new(offsets, bytes, nulls).map_err(not_the_type)?;
            Ok(Arc::new(array))
        };
    }
    Ok(match item.to_arrow() {
        DataType::Boolean => {
            let bytes: Vec<u8> = natives(lists, total);
            let bits = BooleanBuffer::collect_bool(total, |row| bytes[row] != 0);
            Arc::new(BooleanArray::new(bits, nulls))
        }
        DataType::Int16 => Arc::new(Int16Array::new(natives(lists, total).into(), nulls)),
        DataType::Int32 => Arc::new(Int32Array::new(natives(lists, total).into(), nulls)),
        DataType::Date32 => Arc::new(Date32Array::new(natives(lists, total).into(), nulls)),
        DataType::Int64 => Arc::new(Int64Array::new(natives(lists, total).into(), nulls)),
        DataType::Float32 => Arc::new(Float32Array::new(natives(lists, total).into(), nulls)),
        DataType::Float64 => Arc::new(Float64Array::new(natives(lists, total).into(), nulls)),
        DataType::Timestamp(_, _) => Arc::new(
            TimestampMicrosecondArray::new(natives(lists, total).into(), nulls).with_timezone(UTC),
        ),
        DataType::Decimal128(precision, scale) => Arc::new(
            Decimal128Array::new(natives(lists, total).into(), nulls)
                .with_precision_and_scale(precision, scale)
                .map_err(not_the_type)?,
        ),
        other => return Err(damaged(format_args!("a list of {other} is not stored"))),
    })
}

fn natives<T: Fixed>(lists: &[StoredList<'_>], total: usize) -> Vec<T> {
    let mut values = Vec::with_capacity(total);
    for list in lists {
        values.extend((0..list.count).map(|index| list.fixed::<T>(index)));
    }
    values
}

/// Values of variable length, one after another.
struct Joined {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Default for Joined {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            ends: vec![0],
        }
    }
}

impl Joined {
    fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    fn finish(self) -> Result<(OffsetBuffer<i32>, Buffer), StoreError> {
        if i32::try_from(self.bytes.len()).is_err() {
            return Err(too_much());
        }
        let offsets: Vec<i32> = self.ends.iter().map(|end| *end as i32).collect();
        Ok((OffsetBuffer::new(offsets.into()), self.bytes.into()))
    }
}

fn text(
    offsets: OffsetBuffer<i32>,
    bytes: Buffer,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, StoreError> {
    let array = StringArray::try_new(offsets, bytes, nulls).map_err(not_the_type)?;
    Ok(Arc::new(array))
}

fn null_buffer(valid: &[bool]) -> Option<NullBuffer> {
    let buffer = NullBuffer::from(valid);
    (buffer.null_count() > 0).then_some(buffer)
}

#[allow(clippy::needless_pass_by_value, reason = "a target of map_err")]
fn not_the_type(error: ArrowError) -> StoreError {
    damaged(format_args!("{error}"))
}

fn too_much() -> StoreError {
    StoreError::Codec(
        "more than 2 GiB of one feature, or 4 GiB of one view, in one read; ask for fewer entities"
            .into(),
    )
}
