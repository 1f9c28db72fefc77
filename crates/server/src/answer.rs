//! Answers as the bytes of a `GetFeaturesResponse`, written from where the values
//! lie: no message is made of them first.
//!
//! What does not depend on the entities, names and types, is written once a plan.
//! What prost would write of the same answer is the same, byte for byte but for
//! empty fields; a test holds that.

use granary_model::{FeatureType, UtcMicros};
use granary_proto as pb;
use granary_proto::{ColumnError, columns};
use granary_serving::{Answer, AnswerColumn, ColumnValues};
use granary_store::codec::Fixed;
use granary_store::{RowColumn, StoreError};
use prost::Message;
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
    let about: usize = headings.iter().map(|heading| heading.len() + 16).sum();
    let mut out = Vec::with_capacity(64 + about + answer.width() * answer.entities * 10);
    put_number(&mut out, field::SNAPSHOT, answer.snapshot());
    let entities = u32::try_from(answer.entities).unwrap_or(u32::MAX);
    put_number(&mut out, field::ENTITIES, u64::from(entities));
    let mut part = Part::default();
    for (column, heading) in answer.columns().zip(headings) {
        part.fill(&column)?;
        counts.add(&part.statuses);
        part.finish(&column, form);
        put_key(&mut out, field::FEATURES, BYTES);
        put_varint(&mut out, (heading.len() + part.len()) as u64);
        out.extend_from_slice(heading);
        part.append_to(&mut out);
    }
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

fn put_message(out: &mut Vec<u8>, field: u32, message: &impl Message) {
    put_bytes(out, field, &message.encode_to_vec());
}

fn put_times(out: &mut Vec<u8>, field: u32, times: impl ExactSizeIterator<Item = i64>) {
    if times.len() > 0 {
        put_key(out, field, BYTES);
        put_varint(out, times.len() as u64 * 8);
        times.for_each(|t| out.extend_from_slice(&t.to_le_bytes()));
    }
}

#[inline]
fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63).cast_unsigned()
}

/// What of a column depends on the entities; its memory is used again for the
/// next column.
#[derive(Debug, Default)]
struct Part {
    /// The values, as the repeated field of their message.
    data: Vec<u8>,
    validity: Vec<u8>,
    /// The message `Values`.
    values: Vec<u8>,
    statuses: Vec<u8>,
    /// Event times and as-ofs.
    times: Vec<u8>,
}

impl Part {
    /// Values and their statuses.
    fn fill(&mut self, column: &AnswerColumn<'_>) -> Result<(), Unwritten> {
        self.data.clear();
        self.validity.clear();
        self.values.clear();
        self.statuses.clear();
        self.times.clear();
        let data_type = &column.planned.data_type;
        match column.values {
            ColumnValues::Rows(rows) => self.fill_rows(rows, data_type)?,
            ColumnValues::Array { values, statuses } => {
                self.statuses
                    .extend(statuses.iter().map(|status| *status as u8));
                columns::encode_values(values, data_type)?
                    .encode(&mut self.values)
                    .map_err(|error| ColumnError(error.to_string()))?;
            }
        }
        Ok(())
    }

    /// What of the statuses is sent, and times.
    fn finish(&mut self, column: &AnswerColumn<'_>, form: &Form) {
        if !form.statuses {
            self.statuses.clear();
        } else if let Some((first, rest)) = self.statuses.split_first()
            && rest.iter().all(|status| status == first)
        {
            self.statuses.truncate(1);
        }
        if let (true, Some(times)) = (form.event_times, column.event_times) {
            let times = times.iter().map(|t| t.unwrap_or(UtcMicros::MIN).0);
            put_times(&mut self.times, field::EVENT_TIMES, times);
        }
        if form.as_of {
            let times = wire::as_ofs(column.as_of);
            put_times(&mut self.times, field::COLUMN_AS_OF, times.into_iter());
        }
    }

    fn fill_rows(&mut self, rows: RowColumn<'_>, data_type: &FeatureType) -> Result<(), Unwritten> {
        let (kind, is_packed) = match data_type {
            FeatureType::Boolean => {
                self.put_all(rows, |out, value: u8| out.push(u8::from(value != 0)));
                (field::BOOLS, true)
            }
            FeatureType::SmallInt => {
                self.put_all(rows, |out, n: i16| put_varint(out, zigzag(n.into())));
                (field::INT32S, true)
            }
            FeatureType::Int | FeatureType::Date => {
                self.put_all(rows, |out, n: i32| put_varint(out, zigzag(n.into())));
                (field::INT32S, true)
            }
            FeatureType::BigInt => {
                self.put_all(rows, |out, n: i64| put_varint(out, zigzag(n)));
                (field::INT64S, true)
            }
            FeatureType::Real => {
                self.put_all(rows, |out, n: f32| out.extend_from_slice(&n.to_le_bytes()));
                (field::FLOATS, true)
            }
            FeatureType::Double => {
                self.put_all(rows, |out, n: f64| out.extend_from_slice(&n.to_le_bytes()));
                (field::DOUBLES, true)
            }
            FeatureType::Decimal { .. } => {
                self.put_all(rows, |out, n: i128| out.extend_from_slice(&n.to_le_bytes()));
                (field::DECIMALS, true)
            }
            FeatureType::Timestamp => {
                self.put_all(rows, |out, n: i64| out.extend_from_slice(&n.to_le_bytes()));
                (field::TIMESTAMPS, true)
            }
            FeatureType::Varchar => {
                self.put_bytes_of(rows, |bytes| std::str::from_utf8(bytes).is_ok())?;
                (field::STRINGS, false)
            }
            FeatureType::Varbinary => {
                self.put_bytes_of(rows, |_| true)?;
                (field::BINARIES, false)
            }
            FeatureType::List(_) => {
                let array = rows.to_array()?;
                self.statuses
                    .extend(rows.statuses().map(|status| status as u8));
                return columns::encode_values(&array, data_type)?
                    .encode(&mut self.values)
                    .map_err(|error| ColumnError(error.to_string()).into());
            }
        };
        self.put_values(kind, is_packed);
        Ok(())
    }

    /// Values of a fixed width and their statuses; zero where there is none.
    #[inline]
    fn put_all<T: Fixed>(&mut self, rows: RowColumn<'_>, put: impl Fn(&mut Vec<u8>, T)) {
        let mut valid = Bits::default();
        for (status, value) in rows.values::<T>() {
            self.statuses.push(status as u8);
            valid.push(value.is_some(), &mut self.validity);
            put(&mut self.data, value.unwrap_or_default());
        }
        valid.finish(&mut self.validity);
    }

    fn put_bytes_of(
        &mut self,
        rows: RowColumn<'_>,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Unwritten> {
        let mut valid = Bits::default();
        for (status, value) in rows.bytes_values() {
            let value = value?;
            self.statuses.push(status as u8);
            valid.push(value.is_some(), &mut self.validity);
            let value = value.unwrap_or_default();
            if !is_right(value) {
                let reason = "a VARCHAR that is not UTF-8".to_owned();
                return Err(StoreError::DamagedRow(reason).into());
            }
            put_bytes(&mut self.data, field::ITEMS, value);
        }
        valid.finish(&mut self.validity);
        Ok(())
    }

    /// `Values` of what was put. Packed numbers are one entry of their field.
    fn put_values(&mut self, kind: u32, is_packed: bool) {
        let length = self.data.len() as u64;
        put_key(&mut self.values, kind, BYTES);
        if is_packed && length > 0 {
            let head = 1 + encoded_len_varint(length) as u64;
            put_varint(&mut self.values, head + length);
            put_bytes(&mut self.values, field::ITEMS, &self.data);
        } else {
            put_varint(&mut self.values, length);
            self.values.extend_from_slice(&self.data);
        }
        if !self.validity.is_empty() {
            put_bytes(&mut self.values, field::VALIDITY, &self.validity);
        }
    }

    /// Bytes of [`Self::append_to`].
    fn len(&self) -> usize {
        let bytes_field = |bytes: usize| 1 + encoded_len_varint(bytes as u64) + bytes;
        let statuses = match self.statuses.is_empty() {
            true => 0,
            false => bytes_field(self.statuses.len()),
        };
        bytes_field(self.values.len()) + statuses + self.times.len()
    }

    fn append_to(&self, out: &mut Vec<u8>) {
        put_bytes(out, field::VALUES, &self.values);
        if !self.statuses.is_empty() {
            put_bytes(out, field::STATUSES, &self.statuses);
        }
        out.extend_from_slice(&self.times);
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
