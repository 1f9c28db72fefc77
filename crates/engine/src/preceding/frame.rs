//! Frames of rows in SQL: which may be taken over.

use std::fmt;

use arrow::datatypes::DataType;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::scalar::ScalarValue;

/// One end of a RANGE frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Edge {
    Unbounded,
    /// CURRENT ROW: the rows that the order does not tell from the row.
    Peers,
    /// `.. PRECEDING`: of the type of the one ORDER BY column, an interval for times.
    Distance(ScalarValue),
}

/// A frame that [`super::PrecedingWindowsExec`] computes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Frame {
    /// By position: so many rows back; no start is UNBOUNDED PRECEDING.
    Rows { start: Option<u64>, end: u64 },
    /// By value. The end is not `Unbounded`.
    Range { start: Edge, end: Edge },
    /// Both ends unbounded.
    Partition,
}

/// Whether a frame ends at or before its row, or is the whole partition.
pub(crate) fn reaches_no_further(frame: &WindowFrame) -> bool {
    use WindowFrameBound::{CurrentRow, Following, Preceding};
    let end = match &frame.end_bound {
        CurrentRow | Preceding(_) => true,
        Following(end) => end.is_null() && frame.start_bound.is_unbounded(),
    };
    frame.units != WindowFrameUnits::Groups && end && !matches!(frame.start_bound, Following(_))
}

impl Frame {
    /// `order`: types of the ORDER BY columns. `None`: the frame is left to
    /// DataFusion, since it is none of ours or since it is invalid, which
    /// DataFusion says.
    pub fn of(frame: &WindowFrame, order: &[DataType]) -> Option<Self> {
        if !reaches_no_further(frame) {
            return None;
        }
        if frame.start_bound.is_unbounded()
            && matches!(frame.end_bound, WindowFrameBound::Following(_))
        {
            return Some(Self::Partition);
        }
        match frame.units {
            WindowFrameUnits::Rows => {
                let start = match rows_back(&frame.start_bound)? {
                    u64::MAX => None,
                    rows => Some(rows),
                };
                let end = rows_back(&frame.end_bound).filter(|end| *end < u64::MAX)?;
                let valid = start.is_none_or(|start| start >= end);
                valid.then_some(Self::Rows { start, end })
            }
            WindowFrameUnits::Range => {
                let start = edge(&frame.start_bound, order)?;
                let end = edge(&frame.end_bound, order)?;
                let valid = match (&start, &end) {
                    (_, Edge::Unbounded) | (Edge::Peers, Edge::Distance(_)) => false,
                    (Edge::Distance(start), Edge::Distance(end)) => !is_shorter(start, end),
                    _ => true,
                };
                valid.then_some(Self::Range { start, end })
            }
            WindowFrameUnits::Groups => None,
        }
    }

    /// Whether frames end at or before their row.
    pub fn ends_with_row(&self) -> bool {
        *self != Self::Partition
    }

    /// Whether the frames of a partition all begin with it.
    pub fn starts_with_partition(&self) -> bool {
        match self {
            Self::Rows { start, .. } => start.is_none(),
            Self::Range { start, .. } => *start == Edge::Unbounded,
            Self::Partition => true,
        }
    }
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = |rows: u64| match rows {
            0 => "CURRENT ROW".to_owned(),
            rows => format!("{rows} PRECEDING"),
        };
        let unbounded = || "UNBOUNDED PRECEDING".to_owned();
        let edge = |edge: &Edge| match edge {
            Edge::Unbounded => unbounded(),
            Edge::Peers => "CURRENT ROW".to_owned(),
            Edge::Distance(distance) => format!("{distance} PRECEDING"),
        };
        match self {
            Self::Rows { start, end } => {
                let start = start.map_or_else(unbounded, rows);
                write!(f, "ROWS {start} TO {}", rows(*end))
            }
            Self::Range { start, end } => write!(f, "RANGE {} TO {}", edge(start), edge(end)),
            Self::Partition => f.write_str("PARTITION"),
        }
    }
}

/// `u64::MAX`: UNBOUNDED PRECEDING.
fn rows_back(bound: &WindowFrameBound) -> Option<u64> {
    match bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(ScalarValue::UInt64(rows)) => Some(rows.unwrap_or(u64::MAX)),
        WindowFrameBound::Preceding(rows) if rows.is_null() => Some(u64::MAX),
        _ => None,
    }
}

fn edge(bound: &WindowFrameBound, order: &[DataType]) -> Option<Edge> {
    match bound {
        WindowFrameBound::CurrentRow => Some(Edge::Peers),
        WindowFrameBound::Preceding(distance) if distance.is_null() => Some(Edge::Unbounded),
        WindowFrameBound::Preceding(distance) => {
            let [column] = order else { return None };
            let fits = match column {
                DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
                    matches!(distance, ScalarValue::IntervalMonthDayNano(_))
                }
                DataType::Float32 | DataType::Float64 | DataType::Decimal128(..) => {
                    distance.data_type() == *column
                }
                integer => integer.is_integer() && distance.data_type() == *column,
            };
            (fits && !is_negative(distance)).then(|| Edge::Distance(distance.clone()))
        }
        WindowFrameBound::Following(_) => None,
    }
}

fn is_negative(distance: &ScalarValue) -> bool {
    match distance {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            interval.months < 0 || interval.days < 0 || interval.nanoseconds < 0
        }
        number => ScalarValue::new_zero(&number.data_type()).is_ok_and(|zero| *number < zero),
    }
}

/// Whether a distance is surely the shorter one: months may be as long as days.
fn is_shorter(a: &ScalarValue, b: &ScalarValue) -> bool {
    match (a, b) {
        (
            ScalarValue::IntervalMonthDayNano(Some(a)),
            ScalarValue::IntervalMonthDayNano(Some(b)),
        ) => a != b && a.months <= b.months && a.days <= b.days && a.nanoseconds <= b.nanoseconds,
        _ => a < b,
    }
}
