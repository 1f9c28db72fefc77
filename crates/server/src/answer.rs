//! Answers as the bytes of a `GetFeaturesResponse`, written from where the values
//! lie: no message is made of them first.
//!
//! What does not depend on the entities, names and types, is written once a plan.
//! What prost would write of the same answer is the same, byte for byte but for
//! empty fields; a test holds that.

use arrow::array::{Array, ArrayRef};
use bytes::Bytes;
use granary_model::{FeatureStatus, FeatureType, UtcMicros};
use granary_proto as pb;
use granary_proto::{ColumnError, columns};
use granary_serving::{Answer, AnswerColumn, ColumnValues};
use granary_store::codec::Fixed;
use granary_store::{RowColumn, StoreError};
use prost::Message as _;

use crate::metrics::StatusCounts;
use crate::wire::{self, Form};

mod out;

use out::{FIXED64, Out, VARINT_BYTES_MAX, put_varint};

/// Numbers of fields: of `StreamFeaturesResponse`, `GetFeaturesResponse`,
/// `FeatureColumn`, `Values` and the messages in it.
mod field {
    pub const RESPONSE: u32 = 1;

    pub const SNAPSHOT: u32 = 1;
    pub const ENTITIES: u32 = 2;
    pub const FEATURES: u32 = 3;
    pub const KEYS: u32 = 5;
    pub const AS_OF: u32 = 6;
    pub const VIEWS: u32 = 7;

    pub const VALUES: u32 = 5;
    pub const STATUSES: u32 = 6;
    pub const EVENT_TIMES: u32 = 7;
    pub const COLUMN_AS_OF: u32 = 8;

    pub const BOOLS: u32 = 1;
    pub const INT32S: u32 = 2;
    pub const INT64S: u32 = 3;
    pub const FLOATS: u32 = 4;
    pub const DOUBLES: u32 = 5;
    pub const DECIMALS: u32 = 6;
    pub const STRINGS: u32 = 7;
    pub const BINARIES: u32 = 8;
    pub const TIMESTAMPS: u32 = 9;
    pub const VALIDITY: u32 = 15;

    /// The one field of each message that holds values.
    pub const ITEMS: u32 = 1;
}

/// The beginning of each column of a plan: name, type, view and version.
#[derive(Debug)]
struct Headings {
    short: Vec<Vec<u8>>,
    full: Vec<Vec<u8>>,
    /// What one entity's values mostly take on the wire, in half bytes.
    entity_halves: usize,
}

impl Headings {
    fn of(answer: &Answer) -> Self {
        let all = |full_names| {
            let columns = answer.columns();
            let headings = columns.map(|column| heading(&column, full_names).encode_to_vec());
            headings.collect()
        };
        // A value, and half a byte for its validity and status.
        let halves = |column: AnswerColumn<'_>| usual_bytes(&column.planned.data_type) * 2 + 1;
        Self {
            short: all(false),
            full: all(true),
            entity_halves: answer.columns().map(halves).sum(),
        }
    }
}

fn heading(column: &AnswerColumn<'_>, full_names: bool) -> pb::FeatureColumn {
    let planned = column.planned;
    pb::FeatureColumn {
        name: planned.answered_as(full_names).to_string(),
        r#type: Some(columns::encode_type(&planned.data_type)),
        view: planned.view.to_string(),
        view_version: planned.view_version,
        ..pb::FeatureColumn::default()
    }
}

/// What went wrong with a value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwritten {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Column(#[from] ColumnError),
}

/// The answer's message, with columns; counts the statuses of its values.
pub(crate) fn write(
    answer: &Answer,
    form: &Form,
    counts: &mut StatusCounts,
) -> Result<Encoded, Unwritten> {
    let made;
    let headings = match answer.kept(|| Headings::of(answer)) {
        Some(kept) => kept,
        None => {
            made = Headings::of(answer);
            &made
        }
    };
    let values = headings.entity_halves * answer.entities / 2;
    let headings = match answer.full_names {
        true => &headings.full,
        false => &headings.short,
    };
    let mut out = Message::with_capacity(answer.entities, headings, values);
    out.bytes.put_number(field::SNAPSHOT, answer.snapshot());
    let entities = u32::try_from(answer.entities).unwrap_or(u32::MAX);
    out.bytes.put_number(field::ENTITIES, u64::from(entities));
    for (column, heading) in answer.columns().zip(headings) {
        out.put_column(&column, heading, (form, counts))?;
    }
    let mut out = out.bytes;
    if let Some(keys) = &form.keys {
        for key in columns::encode_columns(keys)? {
            out.put_bytes(field::KEYS, &key.encode_to_vec());
        }
    }
    if answer.as_of.0 != 0 {
        out.put_key(field::AS_OF, FIXED64);
        out.put(&answer.as_of.0.to_le_bytes());
    }
    if form.as_of {
        for view in answer.views() {
            let view = wire::encode_view(&view).encode_to_vec();
            out.put_bytes(field::VIEWS, &view);
        }
    }
    Ok(Encoded(out.finish()))
}

/// An encoded message, behind the room that gRPC's frame around it takes.
#[derive(Debug)]
pub(crate) struct Encoded(Vec<u8>);

/// Of a frame, before its message: whether it is compressed, and its length.
pub(crate) const FRAME_HEAD_BYTES: usize = 5;

impl Encoded {
    pub fn of(message: &impl prost::Message) -> Self {
        let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + message.encoded_len());
        bytes.resize(FRAME_HEAD_BYTES, 0);
        bytes.extend_from_slice(&message.encode_to_vec());
        Self(bytes)
    }

    pub fn message(&self) -> &[u8] {
        &self.0[FRAME_HEAD_BYTES..]
    }

    /// The frame; `None` for a message of more than a frame holds, 4 GiB.
    pub fn framed(self) -> Option<Bytes> {
        let Self(mut frame) = self;
        let length = u32::try_from(frame.len() - FRAME_HEAD_BYTES).ok()?;
        // Not compressed.
        frame[0] = 0;
        frame[1..FRAME_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        Some(frame.into())
    }
}

/// One answer in a stream: the message `StreamFeaturesResponse`.
pub(crate) fn write_item(response: &Encoded) -> Encoded {
    let response = response.message();
    let mut out = Out::with_capacity(FRAME_HEAD_BYTES + response.len() + 8);
    out.put(&[0; FRAME_HEAD_BYTES]);
    out.put_bytes(field::RESPONSE, response);
    Encoded(out.finish())
}

#[inline]
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// A message that is being written, and memory that one column after the other uses.
#[derive(Debug)]
struct Message {
    bytes: Out,
    validity: Vec<u8>,
    /// One an entity, or one where it is known that all are alike.
    statuses: Vec<u8>,
}

impl Message {
    /// For columns of about so many bytes of values.
    fn with_capacity(entities: usize, headings: &[Vec<u8>], values: usize) -> Self {
        let headings: usize = headings.iter().map(|heading| heading.len() + 24).sum();
        // A column of varints has room for the longest while it is written.
        let last = entities * VARINT_BYTES_MAX;
        let mut bytes = Out::with_capacity(FRAME_HEAD_BYTES + 64 + headings + values + last);
        bytes.put(&[0; FRAME_HEAD_BYTES]);
        Self {
            bytes,
            validity: Vec::new(),
            statuses: Vec::with_capacity(entities),
        }
    }

    fn put_column(
        &mut self,
        column: &AnswerColumn<'_>,
        heading: &[u8],
        (form, counts): (&Form, &mut StatusCounts),
    ) -> Result<(), Unwritten> {
        self.validity.clear();
        self.statuses.clear();
        let data_type = &column.planned.data_type;
        let entities = match column.values {
            ColumnValues::Rows(rows) => rows.len(),
            ColumnValues::Array { values, .. } => values.len(),
        };
        let about = entities * usual_bytes(data_type);
        let whole = self
            .bytes
            .open(field::FEATURES, heading.len() + about + FIELDS_BYTES);
        self.bytes.put(heading);
        let values = self.bytes.open(field::VALUES, about + FIELDS_BYTES);
        match column.values {
            ColumnValues::Rows(rows) => self.put_rows(rows, data_type, about)?,
            ColumnValues::Array { values, statuses } => {
                self.put_array(values, data_type)?;
                let statuses = statuses.iter().map(|status| *status as u8);
                self.statuses.extend(statuses);
            }
        }
        if !self.validity.is_empty() {
            self.bytes.put_bytes(field::VALIDITY, &self.validity);
        }
        self.bytes.close(values);
        match self.statuses.as_slice() {
            [alike] => counts.add_alike(*alike, entities),
            each => counts.add(each),
        }
        if form.statuses
            && let Some((first, rest)) = self.statuses.split_first()
        {
            let statuses = match rest.iter().all(|status| status == first) {
                true => &self.statuses[..1],
                false => &self.statuses,
            };
            self.bytes.put_bytes(field::STATUSES, statuses);
        }
        if form.event_times
            && let Some(times) = column.event_times()
        {
            let times = times.iter().map(|t| t.unwrap_or(UtcMicros::MIN).0);
            self.bytes.put_times(field::EVENT_TIMES, times);
        }
        if form.as_of {
            let times = wire::as_ofs(column.as_of);
            self.bytes.put_times(field::COLUMN_AS_OF, times.into_iter());
        }
        self.bytes.close(whole);
        Ok(())
    }

    fn put_array(&mut self, array: &ArrayRef, data_type: &FeatureType) -> Result<(), Unwritten> {
        let values = columns::encode_values(array, data_type)?;
        self.bytes.put(&values.encode_to_vec());
        Ok(())
    }

    /// The values, but for their validity.
    fn put_rows(
        &mut self,
        rows: RowColumn<'_>,
        data_type: &FeatureType,
        about: usize,
    ) -> Result<(), Unwritten> {
        let column = Packed { rows, about };
        match data_type {
            FeatureType::Boolean => {
                let put = |n: u8| [u8::from(n != 0)];
                self.put_fixed(field::BOOLS, column, put);
            }
            FeatureType::SmallInt => {
                self.put_varints(field::INT32S, column, |n: i16| zigzag(n.into()));
            }
            FeatureType::Int | FeatureType::Date => {
                self.put_varints(field::INT32S, column, |n: i32| zigzag(n.into()));
            }
            FeatureType::BigInt => self.put_varints(field::INT64S, column, zigzag),
            FeatureType::Real => self.put_fixed(field::FLOATS, column, f32::to_le_bytes),
            FeatureType::Double => self.put_fixed(field::DOUBLES, column, f64::to_le_bytes),
            FeatureType::Decimal { .. } => {
                self.put_fixed(field::DECIMALS, column, i128::to_le_bytes);
            }
            FeatureType::Timestamp => {
                self.put_fixed(field::TIMESTAMPS, column, i64::to_le_bytes);
            }
            FeatureType::Varchar => self.put_items(field::STRINGS, column, |written| {
                // All ASCII is text. The length of a long value is not ASCII.
                match written.is_ascii() {
                    true => Ok(()),
                    false => check_text(rows),
                }
            })?,
            FeatureType::Varbinary => self.put_items(field::BINARIES, column, |_| Ok(()))?,
            FeatureType::List(_) => {
                self.put_array(&rows.to_array()?, data_type)?;
                self.statuses
                    .extend(rows.statuses().map(|status| status as u8));
            }
        }
        Ok(())
    }

    /// Values of a fixed width on the wire, zero where there is none.
    #[inline]
    fn put_fixed<T: Fixed, const BYTES: usize>(
        &mut self,
        field: u32,
        column: Packed<'_>,
        encode: impl Fn(T) -> [u8; BYTES],
    ) {
        let values = column.rows.fixed_values();
        let bytes = column.rows.len() * BYTES;
        self.put_packed(field, column, |out| {
            let places = out.room(bytes).as_chunks_mut().0;
            for (to, value) in places.iter_mut().zip(values) {
                *to = encode(value);
            }
            out.advance(bytes);
        });
    }

    /// The same of values that are varints on the wire.
    #[inline]
    fn put_varints<T: Fixed>(&mut self, field: u32, column: Packed<'_>, encode: impl Fn(T) -> u64) {
        let values = column.rows.fixed_values();
        let most = column.rows.len() * VARINT_BYTES_MAX;
        self.put_packed(field, column, |out| {
            let to = out.room(most);
            let mut at = 0;
            for value in values {
                at += put_varint(&mut to[at..], encode(value));
            }
            out.advance(at);
        });
    }

    /// Values that `put` writes one after the other, as one entry of their field.
    #[inline]
    fn put_packed(&mut self, field: u32, column: Packed<'_>, put: impl FnOnce(&mut Out)) {
        let Packed { rows, about } = column;
        let message = self.bytes.open(field, about + 2);
        if !rows.is_empty() {
            let packed = self.bytes.open(field::ITEMS, about);
            put(&mut self.bytes);
            self.bytes.close(packed);
            self.note_statuses(rows);
        }
        self.bytes.close(message);
    }

    /// Values of variable length, an entry each; `check` gets what was written.
    fn put_items(
        &mut self,
        field: u32,
        column: Packed<'_>,
        check: impl FnOnce(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let message = self.bytes.open(field, column.about);
        let begin = self.bytes.len();
        let bytes = &mut self.bytes;
        column
            .rows
            .each_bytes(|value| bytes.put_bytes(field::ITEMS, value))?;
        check(self.bytes.since(begin))?;
        self.bytes.close(message);
        if !column.rows.is_empty() {
            self.note_statuses(column.rows);
        }
        Ok(())
    }

    /// Of a column with an entity at least.
    #[inline]
    fn note_statuses(&mut self, rows: RowColumn<'_>) {
        if rows.is_everywhere() {
            self.statuses.push(FeatureStatus::Present as u8);
        } else {
            let statuses = rows.statuses().map(|status| status as u8);
            self.statuses.extend(statuses);
            put_validity(&self.statuses, &mut self.validity);
        }
    }
}

/// Refuses a VARCHAR that is none.
fn check_text(rows: RowColumn<'_>) -> Result<(), StoreError> {
    let mut is_text = true;
    rows.each_bytes(|value| is_text &= std::str::from_utf8(value).is_ok())?;
    let refused = || StoreError::DamagedRow("a VARCHAR that is not UTF-8".to_owned());
    is_text.then_some(()).ok_or_else(refused)
}

/// A column, and about how many bytes its values take.
#[derive(Clone, Copy)]
struct Packed<'a> {
    rows: RowColumn<'a>,
    about: usize,
}

/// What keys and lengths of a column's fields take, about.
const FIELDS_BYTES: usize = 8;

/// Bytes of most values on the wire.
fn usual_bytes(data_type: &FeatureType) -> usize {
    match data_type {
        FeatureType::Boolean => 1,
        FeatureType::SmallInt => 2,
        FeatureType::Int | FeatureType::Date => 3,
        FeatureType::BigInt | FeatureType::Real => 4,
        FeatureType::Double | FeatureType::Timestamp => 8,
        FeatureType::Varchar | FeatureType::Varbinary => 10,
        FeatureType::Decimal { .. } => 16,
        FeatureType::List(_) => 32,
    }
}

/// A bit a value, lowest first; nothing where all are there.
fn put_validity(statuses: &[u8], to: &mut Vec<u8>) {
    let present = |status: &&u8| **status == FeatureStatus::Present as u8;
    if statuses.iter().filter(present).count() < statuses.len() {
        let (eights, rest) = statuses.as_chunks();
        to.extend(eights.iter().map(present_bits));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            to.push(present_bits(&last));
        }
    }
}

/// Of eight statuses, below 128, a bit for each that is PRESENT.
#[inline]
fn present_bits(statuses: &[u8; 8]) -> u8 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let other = u64::from_le_bytes(*statuses) ^ (EACH * FeatureStatus::Present as u64);
    // The highest bit of a byte, where it is PRESENT.
    let present = !(other + EACH * 0x7F) & (EACH * 0x80);
    // All of them side by side in the highest byte.
    ((present >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity_is_a_bit_a_value() {
        let present = FeatureStatus::Present as u8;
        for case in 0..4_u32.pow(6) {
            let statuses: Vec<u8> = (0..11)
                .map(|at| 1 + (case >> (at * 7 % 12) & 3) as u8)
                .collect();
            let mut found = Vec::new();
            put_validity(&statuses, &mut found);
            let is_valid = |at: usize| statuses[at] == present;
            if (0..11).all(is_valid) {
                assert!(found.is_empty());
                continue;
            }
            assert_eq!(found.len(), 2);
            for at in 0..16 {
                let expected = at < 11 && is_valid(at);
                assert_eq!(found[at / 8] >> (at % 8) & 1 == 1, expected, "{statuses:?}");
            }
        }
    }
}
