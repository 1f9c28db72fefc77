//! An entity's rows as the Redis peer keeps them: one value an entity, with the
//! rows of all views in it, and the answer that is made of such values.
//!
//! A value is, view after view: the event time (i64, the least where there is no
//! row, and then no more of this view), a bit a feature that is NULL (u16), and
//! the values that are not: 8 bytes for DOUBLE, BIGINT and TIMESTAMP, 4 for INT, 1
//! for BOOLEAN, a length (u16) and the bytes for VARCHAR. Little endian. This knows
//! nothing of Granary's stores.

use bytes::{Buf, BufMut, Bytes};
use granary_proto::values::Values as Packed;
use granary_proto::{
    BoolValues, DataType, DoubleValues, FeatureColumn, GetFeaturesResponse, Int32Values,
    Int64Values, Status, StringValues, TimestampValues, Type, Values,
};
use granary_testing::project::BoxError;

use super::project;

/// The event time of a row that is not there.
const ABSENT: i64 = i64::MIN;
const DAY_MICROS: i64 = 86_400_000_000;

/// What answers look like: names and types, taken from one of Granary's.
#[derive(Debug)]
pub struct Layout {
    snapshot: u64,
    views: Vec<View>,
}

#[derive(Debug)]
struct View {
    max_age_micros: i64,
    /// Without values.
    columns: Vec<(Type, FeatureColumn)>,
}

impl Layout {
    pub fn of(answer: &GetFeaturesResponse) -> Self {
        let mut views: Vec<View> = Vec::new();
        let mut last = None;
        for column in &answer.features {
            if last != Some(&column.view) {
                last = Some(&column.view);
                views.push(View {
                    max_age_micros: project::ttl_days(views.len()) as i64 * DAY_MICROS,
                    columns: Vec::new(),
                });
            }
            let kind = column
                .r#type
                .as_ref()
                .map_or(Type::Unspecified, DataType::r#type);
            let heading = FeatureColumn {
                values: None,
                statuses: Bytes::new(),
                event_times: Vec::new(),
                ..column.clone()
            };
            if let Some(view) = views.last_mut() {
                view.columns.push((kind, heading));
            }
        }
        let snapshot = answer.snapshot;
        Self { snapshot, views }
    }

    /// The value of each entity of an answer that has event times.
    pub fn values(&self, answer: &GetFeaturesResponse) -> Result<Vec<Vec<u8>>, BoxError> {
        (0..answer.entities as usize)
            .map(|row| self.value(answer, row))
            .collect()
    }

    fn value(&self, answer: &GetFeaturesResponse, row: usize) -> Result<Vec<u8>, BoxError> {
        let mut value = Vec::new();
        let mut columns = answer.features.iter();
        for view in &self.views {
            let of_view: Vec<_> = columns.by_ref().take(view.columns.len()).collect();
            let time = of_view.first().and_then(|first| first.event_times.get(row));
            let time = *time.ok_or("an answer without event times")?;
            value.put_i64_le(time);
            if time == ABSENT {
                continue;
            }
            let mut nulls = 0_u16;
            let mut rest = Vec::new();
            for (at, column) in of_view.iter().enumerate() {
                let values = column.values.as_ref().ok_or("a column without values")?;
                match is_valid(values, row) {
                    true => put_value(&mut rest, values, row)?,
                    false => nulls |= 1 << at,
                }
            }
            value.put_u16_le(nulls);
            value.put_slice(&rest);
        }
        Ok(value)
    }

    /// The answer of entities, by their values. `now`: UTC microseconds.
    pub fn answer(
        &self,
        found: &[Option<Vec<u8>>],
        now: i64,
    ) -> Result<GetFeaturesResponse, BoxError> {
        let mut building: Vec<Vec<Building>> = Vec::with_capacity(self.views.len());
        for view in &self.views {
            let columns = view.columns.iter();
            building.push(
                columns
                    .map(|(kind, _)| Building::new(*kind, found.len()))
                    .collect::<Result<_, _>>()?,
            );
        }
        for value in found {
            let mut value = value.as_deref().unwrap_or_default();
            for (view, columns) in self.views.iter().zip(&mut building) {
                read_view(view, columns, &mut value, now)?;
            }
        }
        let mut features = Vec::with_capacity(project::FEATURES_READ);
        for (view, columns) in self.views.iter().zip(building) {
            for ((_, heading), column) in view.columns.iter().zip(columns) {
                features.push(column.finish(heading));
            }
        }
        Ok(GetFeaturesResponse {
            snapshot: self.snapshot,
            entities: found.len() as u32,
            features,
            as_of: now,
            ..GetFeaturesResponse::default()
        })
    }
}

fn read_view(
    view: &View,
    columns: &mut [Building],
    value: &mut &[u8],
    now: i64,
) -> Result<(), BoxError> {
    let time = match value.is_empty() {
        true => ABSENT,
        false => value.try_get_i64_le()?,
    };
    let nulls = match time {
        ABSENT => u16::MAX,
        _ => value.try_get_u16_le()?,
    };
    let without = match time {
        ABSENT => Some(Status::NotFound),
        time if time < now - view.max_age_micros => Some(Status::OutsideMaxAge),
        _ => None,
    };
    for (at, column) in columns.iter_mut().enumerate() {
        let is_null = nulls & (1 << at) != 0;
        let status = match is_null {
            true => Status::NullValue,
            false => Status::Present,
        };
        column.push(without.unwrap_or(status), is_null, value)?;
    }
    Ok(())
}

pub fn is_valid(values: &Values, row: usize) -> bool {
    values.validity.is_empty() || values.validity[row / 8] >> (row % 8) & 1 == 1
}

fn put_value(to: &mut Vec<u8>, values: &Values, row: usize) -> Result<(), BoxError> {
    match values.values.as_ref() {
        Some(Packed::Doubles(v)) => to.put_f64_le(v.values[row]),
        Some(Packed::Int64s(v)) => to.put_i64_le(v.values[row]),
        Some(Packed::Timestamps(v)) => to.put_i64_le(v.values[row]),
        Some(Packed::Int32s(v)) => to.put_i32_le(v.values[row]),
        Some(Packed::Bools(v)) => to.put_u8(u8::from(v.values[row])),
        Some(Packed::Strings(v)) => {
            let text = v.values[row].as_bytes();
            to.put_u16_le(u16::try_from(text.len())?);
            to.put_slice(text);
        }
        _ => return Err("the peer has no such type".into()),
    }
    Ok(())
}

fn push_number<T: Default>(to: &mut Vec<T>, value: Option<T>, shown: bool) {
    to.push(value.filter(|_| shown).unwrap_or_default());
}

/// A column of an answer under way.
struct Building {
    values: Packed,
    statuses: Vec<u8>,
    validity: Vec<u8>,
    has_null: bool,
}

impl Building {
    fn new(kind: Type, rows: usize) -> Result<Self, BoxError> {
        let values = match kind {
            Type::Double => Packed::Doubles(DoubleValues {
                values: Vec::with_capacity(rows),
            }),
            Type::Bigint => Packed::Int64s(Int64Values {
                values: Vec::with_capacity(rows),
            }),
            Type::Timestamp => Packed::Timestamps(TimestampValues {
                values: Vec::with_capacity(rows),
            }),
            Type::Int => Packed::Int32s(Int32Values {
                values: Vec::with_capacity(rows),
            }),
            Type::Boolean => Packed::Bools(BoolValues {
                values: Vec::with_capacity(rows),
            }),
            Type::Varchar => Packed::Strings(StringValues {
                values: Vec::with_capacity(rows),
            }),
            other => return Err(format!("the peer has no type {other:?}").into()),
        };
        Ok(Self {
            values,
            statuses: Vec::with_capacity(rows),
            validity: vec![0; rows.div_ceil(8)],
            has_null: false,
        })
    }

    /// Takes the value off the stored ones, unless it is NULL there.
    fn push(&mut self, status: Status, is_null: bool, from: &mut &[u8]) -> Result<(), BoxError> {
        let row = self.statuses.len();
        self.statuses.push(status as u8);
        let shown = status == Status::Present;
        match shown {
            true => self.validity[row / 8] |= 1 << (row % 8),
            false => self.has_null = true,
        }
        // A stored value is taken off even where it is too old to be shown.
        match &mut self.values {
            Packed::Doubles(v) => {
                let value = (!is_null).then(|| from.try_get_f64_le());
                push_number(&mut v.values, value.transpose()?, shown);
            }
            Packed::Int64s(Int64Values { values })
            | Packed::Timestamps(TimestampValues { values }) => {
                let value = (!is_null).then(|| from.try_get_i64_le());
                push_number(values, value.transpose()?, shown);
            }
            Packed::Int32s(v) => {
                let value = (!is_null).then(|| from.try_get_i32_le());
                push_number(&mut v.values, value.transpose()?, shown);
            }
            Packed::Bools(v) => {
                let value = !is_null && from.try_get_u8()? != 0;
                v.values.push(shown && value);
            }
            Packed::Strings(v) => {
                let mut text = String::new();
                if !is_null {
                    let length = usize::from(from.try_get_u16_le()?);
                    let (bytes, rest) = from.split_at_checked(length).ok_or("a text is cut")?;
                    *from = rest;
                    if shown {
                        std::str::from_utf8(bytes)?.clone_into(&mut text);
                    }
                }
                v.values.push(text);
            }
            _ => return Err("the peer has no such type".into()),
        }
        Ok(())
    }

    fn finish(self, heading: &FeatureColumn) -> FeatureColumn {
        let alike = match self.statuses.split_first() {
            Some((first, rest)) => rest.iter().all(|status| status == first),
            None => false,
        };
        let mut statuses = self.statuses;
        if alike {
            statuses.truncate(1);
        }
        let validity = match self.has_null {
            true => self.validity.into(),
            false => Bytes::new(),
        };
        FeatureColumn {
            values: Some(Values {
                values: Some(self.values),
                validity,
            }),
            statuses: statuses.into(),
            ..heading.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::answers::difference;
    use super::*;

    const AT: i64 = 1_767_225_600_000_000;

    fn column(name: &str, kind: Type, values: Packed) -> FeatureColumn {
        FeatureColumn {
            name: name.to_owned(),
            r#type: Some(DataType {
                r#type: kind.into(),
                ..DataType::default()
            }),
            view: "view0".to_owned(),
            view_version: 1,
            values: Some(Values {
                values: Some(values),
                // The second of three is NULL, the third has no row.
                validity: Bytes::from_static(&[0b001]),
            }),
            statuses: Bytes::from_static(&[1, 2, 3]),
            event_times: vec![AT, AT, ABSENT],
            as_of: Vec::new(),
        }
    }

    fn answer() -> GetFeaturesResponse {
        let texts = vec!["é".to_owned(), String::new(), String::new()];
        let features = vec![
            column(
                "a",
                Type::Double,
                Packed::Doubles(DoubleValues {
                    values: vec![1.5, 0.0, 0.0],
                }),
            ),
            column(
                "b",
                Type::Varchar,
                Packed::Strings(StringValues { values: texts }),
            ),
            column(
                "c",
                Type::Boolean,
                Packed::Bools(BoolValues {
                    values: vec![true, false, false],
                }),
            ),
            column(
                "d",
                Type::Int,
                Packed::Int32s(Int32Values {
                    values: vec![-7, 0, 0],
                }),
            ),
        ];
        GetFeaturesResponse {
            snapshot: 3,
            entities: 3,
            features,
            ..GetFeaturesResponse::default()
        }
    }

    fn stored(layout: &Layout, answer: &GetFeaturesResponse) -> Vec<Option<Vec<u8>>> {
        let values = layout.values(answer).unwrap();
        values.into_iter().map(Some).collect()
    }

    #[test]
    fn what_was_stored_is_answered() {
        let answer = answer();
        let layout = Layout::of(&answer);
        let mut found = stored(&layout, &answer);
        let again = layout.answer(&found, AT + 1).unwrap();
        assert_eq!(difference(&answer, &again), None);
        // A customer that Redis does not have is one without rows.
        found[2] = None;
        let again = layout.answer(&found, AT + 1).unwrap();
        assert_eq!(difference(&answer, &again), None);
    }

    #[test]
    fn what_is_too_old_is_not_shown() {
        let answer = answer();
        let layout = Layout::of(&answer);
        let late = AT + project::ttl_days(0) as i64 * DAY_MICROS + 1;
        let old = layout.answer(&stored(&layout, &answer), late).unwrap();
        let text = &old.features[1];
        assert_eq!(text.statuses, Bytes::from_static(&[4, 4, 3]));
        let values = text.values.as_ref().unwrap();
        assert_eq!(values.validity, Bytes::from_static(&[0]));
        let empty = vec![String::new(); 3];
        let empty = Packed::Strings(StringValues { values: empty });
        assert_eq!(values.values, Some(empty));
        assert!(difference(&answer, &old).is_some());
    }
}
