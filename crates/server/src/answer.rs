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

use out::{FIXED64, Out, VARINT_BYTES_MAX, put_one, put_varint};

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
) -> Result<Encoded, Unwritten> {
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
    fn with_capacity(answer: &Answer, headings: &[Vec<u8>]) -> Self {
        let headings: usize = headings.iter().map(|heading| heading.len() + 24).sum();
        let values = answer.width() * answer.entities * 10;
        let mut bytes = Out::with_capacity(FRAME_HEAD_BYTES + 64 + headings + values);
        bytes.put(&[0; FRAME_HEAD_BYTES]);
        Self {
            bytes,
            validity: Vec::new(),
            statuses: Vec::with_capacity(answer.entities),
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
                let put = |to: &mut [u8], value: u8| put_one(to, [u8::from(value != 0)]);
                self.put_packed::<u8, 1>(field::BOOLS, column, put);
            }
            FeatureType::SmallInt => {
                let put = |to: &mut [u8], n: i16| put_varint(to, zigzag(n.into()));
                self.put_packed::<_, VARINT_BYTES_MAX>(field::INT32S, column, put);
            }
            FeatureType::Int | FeatureType::Date => {
                let put = |to: &mut [u8], n: i32| put_varint(to, zigzag(n.into()));
                self.put_packed::<_, VARINT_BYTES_MAX>(field::INT32S, column, put);
            }
            FeatureType::BigInt => {
                let put = |to: &mut [u8], n: i64| put_varint(to, zigzag(n));
                self.put_packed::<_, VARINT_BYTES_MAX>(field::INT64S, column, put);
            }
            FeatureType::Real => {
                let put = |to: &mut [u8], n: f32| put_one(to, n.to_le_bytes());
                self.put_packed::<_, 4>(field::FLOATS, column, put);
            }
            FeatureType::Double => {
                let put = |to: &mut [u8], n: f64| put_one(to, n.to_le_bytes());
                self.put_packed::<_, 8>(field::DOUBLES, column, put);
            }
            FeatureType::Decimal { .. } => {
                let put = |to: &mut [u8], n: i128| put_one(to, n.to_le_bytes());
                self.put_packed::<_, 16>(field::DECIMALS, column, put);
            }
            FeatureType::Timestamp => {
                let put = |to: &mut [u8], n: i64| put_one(to, n.to_le_bytes());
                self.put_packed::<_, 8>(field::TIMESTAMPS, column, put);
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
    /// there is none. One takes at most `MOST` bytes, as `put` writes it at the
    /// start of what it is given; it gives how many they are.
    #[inline]
    fn put_packed<T: Fixed, const MOST: usize>(
        &mut self,
        field: u32,
        column: Packed<'_>,
        put: impl Fn(&mut [u8], T) -> usize,
    ) {
        let Packed { rows, about } = column;
        let message = self.bytes.open(field, about + 2);
        if rows.is_empty() {
            return self.bytes.close(message);
        }
        let packed = self.bytes.open(field::ITEMS, about);
        let to = self.bytes.room(rows.len() * MOST);
        let mut at = 0;
        if let Some(values) = rows.all_values::<T>() {
            self.statuses.push(FeatureStatus::Present as u8);
            for value in values {
                at += put(&mut to[at..], value);
            }
        } else {
            for (status, value) in rows.values::<T>() {
                self.statuses.push(status as u8);
                at += put(&mut to[at..], value.unwrap_or_default());
            }
            put_validity(&self.statuses, &mut self.validity);
        }
        self.bytes.advance(at);
        self.bytes.close(packed);
        self.bytes.close(message);
    }

    /// Values of variable length, an entry each.
    fn put_items(
        &mut self,
        field: u32,
        column: Packed<'_>,
        is_right: impl Fn(&[u8]) -> bool,
    ) -> Result<(), Unwritten> {
        let message = self.bytes.open(field, column.about);
        for (status, value) in column.rows.bytes_values() {
            let value = value?;
            self.statuses.push(status as u8);
            let value = value.unwrap_or_default();
            if !is_right(value) {
                let reason = "a VARCHAR that is not UTF-8".to_owned();
                return Err(StoreError::DamagedRow(reason).into());
            }
            self.bytes.put_bytes(field::ITEMS, value);
        }
        put_validity(&self.statuses, &mut self.validity);
        self.bytes.close(message);
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

/// A bit a value, lowest first; nothing where all are there.
fn put_validity(statuses: &[u8], to: &mut Vec<u8>) {
    let is_valid = |status: u8| status == FeatureStatus::Present as u8;
    if statuses.iter().all(|status| is_valid(*status)) {
        return;
    }
    let bytes = statuses.chunks(8).map(|statuses| {
        let bits = statuses.iter().enumerate();
        bits.fold(0, |byte, (at, status)| {
            byte | u8::from(is_valid(*status)) << at
        })
    });
    to.extend(bytes);
}
