//! Answers as the bytes of a `GetFeaturesResponse`, written from where the values
//! lie: no message is made of them first.
//!
//! What does not depend on the entities, names and types, is written once a plan.
//! What prost would write of the same answer is the same, byte for byte but for
//! empty fields; a test holds that.

use arrow::array::{Array, ArrayRef};
use granary_model::{FeatureStatus, FeatureType, UtcMicros};
use granary_proto as pb;
use granary_proto::{ColumnError, columns};
use granary_serving::{Answer, AnswerColumn, ColumnValues};
use granary_store::codec::Fixed;
use granary_store::{RowColumn, StoreError};
use prost::Message as _;
use prost::encoding::encoded_len_varint;

use crate::metrics::StatusCounts;
use crate::wire::{self, Form};

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

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// The beginning of each column of a plan: name, type, view and version.
#[derive(Debug)]
struct Headings {
    short: Vec<Vec<u8>>,
    full: Vec<Vec<u8>>,
}

impl Headings {
    fn of(answer: &Answer) -> Self {
        let all = |full_names| {
            let columns = answer.columns();
            let headings = columns.map(|column| heading(&column, full_names).encode_to_vec());
            headings.collect()
        };
        Self {
            short: all(false),
            full: all(true),
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
) -> Result<Vec<u8>, Unwritten> {
    let made;
    let headings = match answer.kept(|| Headings::of(answer)) {
        Some(kept) => kept,
        None => {
            made = Headings::of(answer);
            &made
        }
    };
    let headings = match answer.full_names {
        true => &headings.full,
        false => &headings.short,
    };
    let mut out = Message::with_capacity(answer, headings);
    put_number(&mut out.bytes, field::SNAPSHOT, answer.snapshot());
    let entities = u32::try_from(answer.entities).unwrap_or(u32::MAX);
    put_number(&mut out.bytes, field::ENTITIES, u64::from(entities));
    for (column, heading) in answer.columns().zip(headings) {
        out.put_column(&column, heading, (form, counts))?;
    }
    let mut out = out.bytes;
    if let Some(keys) = &form.keys {
        for key in columns::encode_columns(keys)? {
            put_message(&mut out, field::KEYS, &key);
        }
    }
    if answer.as_of.0 != 0 {
        put_key(&mut out, field::AS_OF, FIXED64);
        out.extend_from_slice(&answer.as_of.0.to_le_bytes());
    }
    if form.as_of {
        for view in answer.views() {
            put_message(&mut out, field::VIEWS, &wire::encode_view(&view));
        }
    }
    Ok(out)
}

/// One answer in a stream: the message `StreamFeaturesResponse`.
pub(crate) fn write_item(response: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(response.len() + 8);
    put_bytes(&mut out, field::RESPONSE, response);
    out
}

#[inline]
fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
fn put_key(out: &mut Vec<u8>, field: u32, kind: u32) {
    put_varint(out, u64::from(field << 3 | kind));
}

fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_key(out, field, VARINT);
        put_varint(out, value);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_key(out, field, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_message(out: &mut Vec<u8>, field: u32, message: &impl prost::Message) {
    put_bytes(out, field, &message.encode_to_vec());
}

#[inline]
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// A message that is being written, and memory that one column after the other uses.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    validity: Vec<u8>,
    /// One an entity, or one where it is known that all are alike.
    statuses: Vec<u8>,
}

/// A field of a length that is known when it is written.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// Where its content begins, behind as many bytes as its length may take.
    at: usize,
    length_bytes: usize,
}

impl Message {
    fn with_capacity(answer: &Answer, headings: &[Vec<u8>]) -> Self {
        let headings: usize = headings.iter().map(|heading| heading.len() + 24).sum();
        let values = answer.width() * answer.entities * 10;
        Self {
            bytes: Vec::with_capacity(64 + headings + values),
            ..Self::default()
        }
    }

    /// Begins a field of about so many bytes. A guess that is wrong costs a move.
    #[inline]
    fn open(&mut self, field: u32, about: usize) -> Open {
        put_key(&mut self.bytes, field, BYTES);
        let length_bytes = encoded_len_varint(about as u64);
        let at = self.bytes.len() + length_bytes;
        self.bytes.resize(at, 0);
        Open { at, length_bytes }
    }

    #[inline]
    fn close(&mut self, open: Open) {
        let length = self.bytes.len() - open.at;
        let due = encoded_len_varint(length as u64);
        let begin = open.at - open.length_bytes;
        if due != open.length_bytes {
            let end = self.bytes.len();
            // The longer of both fits while it moves.
            self.bytes.resize(end.max(begin + due + length), 0);
            self.bytes.copy_within(open.at..end, begin + due);
            self.bytes.truncate(begin + due + length);
        }
        let mut rest = length as u64;
        for byte in &mut self.bytes[begin..begin + due] {
            *byte = rest as u8 | 0x80;
            rest >>= 7;
        }
        self.bytes[begin + due - 1] &= 0x7F;
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
        let whole = self.open(field::FEATURES, heading.len() + about + FIELDS_BYTES);
        self.bytes.extend_from_slice(heading);
        let values = self.open(field::VALUES, about + FIELDS_BYTES);
        match column.values {
            ColumnValues::Rows(rows) => self.put_rows(rows, data_type, about)?,
            ColumnValues::Array { values, statuses } => {
                self.put_array(values, data_type)?;
                let statuses = statuses.iter().map(|status| *status as u8);
                self.statuses.extend(statuses);
            }
        }
        if !self.validity.is_empty() {
            put_bytes(&mut self.bytes, field::VALIDITY, &self.validity);
        }
        self.close(values);
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
            put_bytes(&mut self.bytes, field::STATUSES, statuses);
        }
        if form.event_times
            && let Some(times) = column.event_times()
        {
            let times = times.iter().map(|t| t.unwrap_or(UtcMicros::MIN).0);
            put_times(&mut self.bytes, field::EVENT_TIMES, times);
        }
        if form.as_of {
            let times = wire::as_ofs(column.as_of);
            put_times(&mut self.bytes, field::COLUMN_AS_OF, times.into_iter());
        }
        self.close(whole);
        Ok(())
    }

    fn put_array(&mut self, array: &ArrayRef, data_type: &FeatureType) -> Result<(), Unwritten> {
        let values = columns::encode_values(array, data_type)?;
        let encoded = values.encode(&mut self.bytes);
        Ok(encoded.map_err(|error| ColumnError(error.to_string()))?)
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
                let put = |out: &mut Vec<u8>, value: u8| out.push(u8::from(value != 0));
                self.put_packed(field::BOOLS, column, put);
            }
            FeatureType::SmallInt => {
                let put = |out: &mut Vec<u8>, n: i16| put_varint(out, zigzag(n.into()));
                self.put_packed(field::INT32S, column, put);
            }
            FeatureType::Int | FeatureType::Date => {
                let put = |out: &mut Vec<u8>, n: i32| put_varint(out, zigzag(n.into()));
                self.put_packed(field::INT32S, column, put);
            }
            FeatureType::BigInt => {
                let put = |out: &mut Vec<u8>, n: i64| put_varint(out, zigzag(n));
                self.put_packed(field::INT64S, column, put);
            }
            FeatureType::Real => {
                let put = |out: &mut Vec<u8>, n: f32| out.extend_from_slice(&n.to_le_bytes());
                self.put_packed(field::FLOATS, column, put);
            }
            FeatureType::Double => {
                let put = |out: &mut Vec<u8>, n: f64| out.extend_from_slice(&n.to_le_bytes());
                self.put_packed(field::DOUBLES, column, put);
            }
            FeatureType::Decimal { .. } => {
                let put = |out: &mut Vec<u8>, n: i128| out.extend_from_slice(&n.to_le_bytes());
                self.put_packed(field::DECIMALS, column, put);
            }
            FeatureType::Timestamp => {
                let put = |out: &mut Vec<u8>, n: i64| out.extend_from_slice(&n.to_le_bytes());
                self.put_packed(field::TIMESTAMPS, column, put);
            }
            FeatureType::Varchar => {
                let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
                self.put_items(field::STRINGS, column, is_text)?;
            }
            FeatureType::Varbinary => self.put_items(field::BINARIES, column, |_| true)?,
            FeatureType::List(_) => {
                self.put_array(&rows.to_array()?, data_type)?;
                self.statuses
                    .extend(rows.statuses().map(|status| status as u8));
            }
        }
        Ok(())
    }

    /// Values of a fixed width, packed into one entry of their field; zero where
    /// there is none.
    #[inline]
    fn put_packed<T: Fixed>(
        &mut self,
        field: u32,
        column: Packed<'_>,
        put: impl Fn(&mut Vec<u8>, T),
    ) {
        let Packed { rows, about } = column;
        let message = self.open(field, about + 2);
        if rows.is_empty() {
            return self.close(message);
        }
        let packed = self.open(field::ITEMS, about);
        if let Some(values) = rows.all_values::<T>() {
            self.statuses.push(FeatureStatus::Present as u8);
            for value in values {
                put(&mut self.bytes, value);
            }
        } else {
            let mut valid = Bits::default();
            for (status, value) in rows.values::<T>() {
                self.statuses.push(status as u8);
                valid.push(value.is_some(), &mut self.validity);
                put(&mut self.bytes, value.unwrap_or_default());
            }
            valid.finish(&mut self.validity);
        }
        self.close(packed);
        self.close(message);
    }

    /// Values of variable length, an entry each.
    fn put_items(
        &mut self,
        field: u32,
        column: Packed<'_>,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Unwritten> {
        let message = self.open(field, column.about);
        let mut valid = Bits::default();
        for (status, value) in column.rows.bytes_values() {
            let value = value?;
            self.statuses.push(status as u8);
            valid.push(value.is_some(), &mut self.validity);
            let value = value.unwrap_or_default();
            if !is_right(value) {
                let reason = "a VARCHAR that is not UTF-8".to_owned();
                return Err(StoreError::DamagedRow(reason).into());
            }
            put_bytes(&mut self.bytes, field::ITEMS, value);
        }
        valid.finish(&mut self.validity);
        self.close(message);
        Ok(())
    }
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

fn put_times(out: &mut Vec<u8>, field: u32, times: impl ExactSizeIterator<Item = i64>) {
    if times.len() > 0 {
        put_key(out, field, BYTES);
        put_varint(out, times.len() as u64 * 8);
        times.for_each(|t| out.extend_from_slice(&t.to_le_bytes()));
    }
}

/// Bits of a validity, lowest first; left out where all are 1.
#[derive(Debug, Default)]
struct Bits {
    byte: u8,
    used: u32,
    has_null: bool,
}

impl Bits {
    #[inline]
    fn push(&mut self, valid: bool, to: &mut Vec<u8>) {
        self.byte |= u8::from(valid) << self.used;
        self.has_null |= !valid;
        self.used += 1;
        if self.used == 8 {
            to.push(self.byte);
            (self.byte, self.used) = (0, 0);
        }
    }

    fn finish(self, to: &mut Vec<u8>) {
        match self.has_null {
            true if self.used > 0 => to.push(self.byte),
            true => {}
            false => to.clear(),
        }
    }
}
