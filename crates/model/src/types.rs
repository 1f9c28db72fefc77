//! The types of keys and features, their SQL names and their Arrow types.
//!
//! Source: the type names are those of the SQL standard; the Arrow types are
//! what DataFusion gives them, except TIMESTAMP, which is always
//! `Timestamp(Microsecond, "UTC")`, since that is what Delta Lake stores.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use serde::{Deserialize, Serialize};

/// A type that a key, a feature or an input may have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureType {
    Boolean,
    SmallInt,
    Int,
    BigInt,
    Real,
    Double,
    Decimal { precision: u8, scale: i8 },
    Varchar,
    Varbinary,
    Date,
    Timestamp,
    List(Box<FeatureType>),
}

/// The zone that every TIMESTAMP carries in Arrow.
pub const UTC: &str = "UTC";

impl FeatureType {
    /// The one Arrow type that values of this type have everywhere.
    pub fn to_arrow(&self) -> DataType {
        match self {
            Self::Boolean => DataType::Boolean,
            Self::SmallInt => DataType::Int16,
            Self::Int => DataType::Int32,
            Self::BigInt => DataType::Int64,
            Self::Real => DataType::Float32,
            Self::Double => DataType::Float64,
            Self::Decimal { precision, scale } => DataType::Decimal128(*precision, *scale),
            Self::Varchar => DataType::Utf8,
            Self::Varbinary => DataType::Binary,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            Self::List(item) => {
                DataType::List(Arc::new(Field::new("element", item.to_arrow(), true)))
            }
        }
    }

    /// The type that a column of the given Arrow type is stored as, or `None`
    /// where `apply` refuses it.
    ///
    /// Views and dictionaries become their plain type; unsigned integers the
    /// next wider signed one (UInt64 becomes DECIMAL(20, 0)); timestamps of any
    /// unit and zone become TIMESTAMP; decimals have 38 digits at most.
    pub fn from_arrow(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::UInt8 => Self::SmallInt,
            DataType::Int32 | DataType::UInt16 => Self::Int,
            DataType::Int64 | DataType::UInt32 => Self::BigInt,
            DataType::UInt64 => Self::Decimal {
                precision: 20,
                scale: 0,
            },
            DataType::Float16 | DataType::Float32 => Self::Real,
            DataType::Float64 => Self::Double,
            DataType::Decimal32(p, s)
            | DataType::Decimal64(p, s)
            | DataType::Decimal128(p, s)
            | DataType::Decimal256(p, s) => return decimal(*p, *s),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Varchar,
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Self::Varbinary,
            DataType::Date32 | DataType::Date64 => Self::Date,
            DataType::Timestamp(_, _) => Self::Timestamp,
            DataType::Dictionary(_, value) => return Self::from_arrow(value),
            DataType::List(f)
            | DataType::LargeList(f)
            | DataType::ListView(f)
            | DataType::LargeListView(f)
            | DataType::FixedSizeList(f, _) => {
                let item = Self::from_arrow(f.data_type())?;
                if matches!(item, Self::List(_)) {
                    return None;
                }
                Self::List(Box::new(item))
            }
            _ => return None,
        })
    }

    /// Whether an entity key may have this type.
    pub fn is_key(&self) -> bool {
        matches!(
            self,
            Self::BigInt
                | Self::Int
                | Self::SmallInt
                | Self::Varchar
                | Self::Varbinary
                | Self::Date
        )
    }

    /// Whether a key column of type `given` may be used where `self` is asked
    /// for: the same type, or a narrower integer.
    pub fn accepts_key(&self, given: &Self) -> bool {
        let width = |t: &Self| match t {
            Self::SmallInt => Some(2),
            Self::Int => Some(4),
            Self::BigInt => Some(8),
            _ => None,
        };
        self == given || matches!((width(given), width(self)), (Some(from), Some(to)) if from <= to)
    }

    /// Whether a request's input of type `given` may be used where `self` is
    /// asked for: what a key may be, and any number where a number with a
    /// fraction is asked for, a date as its midnight, lists of such.
    pub fn accepts_input(&self, given: &Self) -> bool {
        let is_integer = |t: &Self| Self::BigInt.accepts_key(t);
        match (self, given) {
            (Self::List(item), Self::List(given)) => item.accepts_input(given),
            (Self::Double, Self::Real | Self::Decimal { .. })
            | (Self::Real, Self::Decimal { .. })
            | (Self::Timestamp, Self::Date) => true,
            (Self::Double | Self::Real | Self::Decimal { .. }, given) if is_integer(given) => true,
            (
                Self::Decimal { precision, scale },
                Self::Decimal {
                    precision: digits,
                    scale: fraction,
                },
            ) => {
                let whole = i16::from(*precision) - i16::from(*scale);
                fraction <= scale && i16::from(*digits) - i16::from(*fraction) <= whole
            }
            _ => self.accepts_key(given),
        }
    }
}

/// A negative scale (digits before the point that are all 0) becomes more digits,
/// since Delta Lake has none.
fn decimal(precision: u8, scale: i8) -> Option<FeatureType> {
    let zeros = if scale < 0 { scale.unsigned_abs() } else { 0 };
    let precision = precision.checked_add(zeros)?;
    (1..=38)
        .contains(&precision)
        .then_some(FeatureType::Decimal {
            precision,
            scale: scale.max(0),
        })
}

/// The SQL name: `BIGINT`, `DECIMAL(12, 2)`, `VARCHAR[]`.
impl fmt::Display for FeatureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "BOOLEAN",
            Self::SmallInt => "SMALLINT",
            Self::Int => "INT",
            Self::BigInt => "BIGINT",
            Self::Real => "REAL",
            Self::Double => "DOUBLE",
            Self::Decimal { precision, scale } => {
                return write!(f, "DECIMAL({precision}, {scale})");
            }
            Self::Varchar => "VARCHAR",
            Self::Varbinary => "VARBINARY",
            Self::Date => "DATE",
            Self::Timestamp => "TIMESTAMP",
            Self::List(item) => return write!(f, "{item}[]"),
        })
    }
}

#[cfg(test)]
mod tests;
