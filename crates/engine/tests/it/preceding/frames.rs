//! Frames of random tables against frames looked up row by row, from the words of
//! the SQL standard.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{ours_with, rows};
use crate::asof::RUNTIME;
use granary_engine::EngineSettings;

/// (id, k, o): id is unique, o is quarters or NULL.
type Row = (i64, Option<i64>, Option<i64>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Edge {
    Unbounded,
    Current,
    Preceding(i64),
}

#[derive(Debug, Clone)]
struct Window {
    rows: bool,
    start: Edge,
    end: Edge,
    descending: bool,
    nulls_first: bool,
    axis: Axis,
}

/// What o is in the table, and how a distance is written.
#[derive(Debug, Clone, Copy)]
enum Axis {
    Int,
    Unsigned,
    Double,
    Real,
    Decimal,
    Timestamp,
    Date,
}

impl Axis {
    fn column(self) -> &'static str {
        match self {
            Self::Int => "o",
            Self::Unsigned => "arrow_cast(o + 100, 'UInt8')",
            Self::Double => "CAST(o AS DOUBLE) / 4",
            Self::Real => "CAST(o AS REAL) / 4",
            Self::Decimal => "CAST(o AS DECIMAL(10, 2)) / 4",
            Self::Timestamp => "to_timestamp_micros(o * 3600000000)",
            Self::Date => "DATE '2024-02-20' + o",
        }
    }

    fn distance(self, n: i64) -> String {
        match self {
            Self::Int | Self::Unsigned => n.to_string(),
            Self::Double | Self::Real => format!("{}", n as f64 / 4.0),
            Self::Decimal => format!("'{}'", n as f64 / 4.0),
            Self::Timestamp => format!("INTERVAL '{n} hours'"),
            Self::Date => format!("INTERVAL '{n} days'"),
        }
    }
}

impl Window {
    fn sql(&self) -> String {
        let edge = |edge: Edge| match edge {
            Edge::Unbounded => "UNBOUNDED PRECEDING".into(),
            Edge::Current => "CURRENT ROW".into(),
            Edge::Preceding(n) if self.rows => format!("{n} PRECEDING"),
            Edge::Preceding(n) => format!("{} PRECEDING", self.axis.distance(n)),
        };
        let unit = if self.rows { "ROWS" } else { "RANGE" };
        let direction = if self.descending { "DESC" } else { "ASC" };
        let nulls = if self.nulls_first { "FIRST" } else { "LAST" };
        // Positions of equal rows are told by the id.
        let more = if self.rows { ", id" } else { "" };
        format!(
            "OVER (PARTITION BY k ORDER BY o {direction} NULLS {nulls}{more} {unit} BETWEEN {} AND {})",
            edge(self.start),
            edge(self.end)
        )
    }

    fn order(&self, a: &Row, b: &Row) -> Ordering {
        let ordering = match (a.2, b.2) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) if self.nulls_first => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => self.order(b, a).reverse(),
            (Some(a), Some(b)) if self.descending => b.cmp(&a),
            (Some(a), Some(b)) => a.cmp(&b),
        };
        match self.rows {
            true => ordering.then(a.0.cmp(&b.0)),
            false => ordering,
        }
    }

    /// Whether `other` is in the frame of `row`, of its partition in order.
    fn holds(&self, partition: &[Row], row: usize, other: usize) -> bool {
        if self.rows {
            let back = row as i64 - other as i64;
            let after_start = match self.start {
                Edge::Unbounded => true,
                Edge::Current => back <= 0,
                Edge::Preceding(n) => back <= n,
            };
            return after_start
                && match self.end {
                    Edge::Unbounded => false,
                    Edge::Current => back >= 0,
                    Edge::Preceding(n) => back >= n,
                };
        }
        let (row, other) = (&partition[row], &partition[other]);
        // How far the other lies before the row, where that can be said.
        let before = match (row.2, other.2) {
            (Some(row), Some(other)) if self.descending => Some(other - row),
            (Some(row), Some(other)) => Some(row - other),
            _ => None,
        };
        let is_peer = self.order(other, row) == Ordering::Equal;
        let is_earlier = self.order(other, row) == Ordering::Less;
        let after_start = match self.start {
            Edge::Unbounded => true,
            Edge::Current => !is_earlier,
            // From NULL a distance leads to NULL only.
            Edge::Preceding(n) => {
                before.map_or(is_peer || !is_earlier && row.2.is_none(), |b| b <= n)
            }
        };
        after_start
            && match self.end {
                Edge::Unbounded => false,
                Edge::Current => is_earlier || is_peer,
                Edge::Preceding(n) => before.map_or(is_earlier || is_peer, |b| b >= n),
            }
    }

    /// The ids of each row's frame, ascending, by id.
    fn frames(&self, table: &[Row]) -> Vec<(i64, Vec<i64>)> {
        let mut frames = Vec::new();
        for row in table {
            let mut partition: Vec<Row> = table.iter().filter(|r| r.1 == row.1).copied().collect();
            partition.sort_by(|a, b| self.order(a, b));
            let place = partition.iter().position(|r| r.0 == row.0).unwrap();
            let held = (0..partition.len()).filter(|other| self.holds(&partition, place, *other));
            let mut ids: Vec<i64> = held.map(|other| partition[other].0).collect();
            ids.sort_unstable();
            frames.push((row.0, ids));
        }
        frames.sort_unstable();
        frames
    }
}

fn edges() -> impl Strategy<Value = (Edge, Edge)> {
    let end = prop_oneof![Just(Edge::Current), (0..4i64).prop_map(Edge::Preceding)];
    let start = prop_oneof![
        Just(Edge::Unbounded),
        Just(Edge::Current),
        (0..6i64).prop_map(Edge::Preceding)
    ];
    (start, end).prop_filter("a start before the end", |(start, end)| {
        match (start, end) {
            (Edge::Current, Edge::Preceding(_)) => false,
            (Edge::Preceding(start), Edge::Preceding(end)) => start >= end,
            _ => true,
        }
    })
}

fn windows() -> impl Strategy<Value = Window> {
    let axes = prop::sample::select(vec![
        Axis::Int,
        Axis::Unsigned,
        Axis::Double,
        Axis::Real,
        Axis::Decimal,
        Axis::Timestamp,
        Axis::Date,
    ]);
    (any::<bool>(), edges(), any::<bool>(), any::<bool>(), axes).prop_map(
        |(rows, (start, end), descending, nulls_first, axis)| Window {
            rows,
            start,
            end,
            descending,
            nulls_first,
            axis,
        },
    )
}

fn tables() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        prop::option::weighted(0.9, 0..3i64),
        prop::option::weighted(0.85, -6..14i64),
    );
    prop::collection::vec(row, 1..120).prop_map(|rows| {
        let numbered = rows.into_iter().zip(0..);
        numbered.map(|((k, o), id)| (id, k, o)).collect()
    })
}

fn literal(value: Option<i64>) -> String {
    value.map_or("CAST(NULL AS BIGINT)".into(), |value| value.to_string())
}

fn check(table: &[Row], windows: &[Window], batch_rows: usize) {
    let values: Vec<String> = table
        .iter()
        .map(|(id, k, o)| format!("({id}, {}, {})", literal(*k), literal(*o)))
        .collect();
    let settings = EngineSettings {
        batch_rows,
        target_partitions: 2,
        ..EngineSettings::default()
    };
    let create = format!(
        "CREATE TABLE t AS SELECT * FROM (VALUES {}) AS t (id, k, o)",
        values.join(", ")
    );
    let context = RUNTIME.block_on(ours_with(settings, &create));
    for window in windows {
        let (over, axis) = (window.sql(), window.axis.column());
        // The second is run along long partitions, the first must hold them.
        for select in [
            format!(
                "coalesce(array_sort(array_agg(id) {over}), []), count(DISTINCT id % 10) {over}"
            ),
            format!("count(*) {over}, sum(id) FILTER (WHERE id % 2 = 0) {over}, max(id) {over}"),
        ] {
            let sql =
                format!("SELECT id, {select} FROM (SELECT id, k, {axis} AS o FROM t) ORDER BY id");
            let lists = select.contains("array_agg");
            let found = RUNTIME.block_on(rows(&context, &sql));
            let frames = window.frames(table).into_iter();
            let expected: Vec<String> = frames
                .map(|(id, ids)| match lists {
                    true => format!("{id}|{}", listed(&ids)),
                    false => format!("{id}|{}", summed(&ids)),
                })
                .collect();
            assert_eq!(found, expected, "{sql}\n{table:?}");
        }
    }
}

fn listed(ids: &[i64]) -> String {
    let digits: std::collections::HashSet<i64> = ids.iter().map(|id| id % 10).collect();
    format!("{ids:?}|{}", digits.len())
}

fn summed(ids: &[i64]) -> String {
    let even: Vec<i64> = ids.iter().copied().filter(|id| id % 2 == 0).collect();
    let or_null = |value: Option<i64>| value.map_or("NULL".into(), |value| value.to_string());
    let sum = (!even.is_empty()).then(|| even.iter().sum());
    format!(
        "{}|{}|{}",
        ids.len(),
        or_null(sum),
        or_null(ids.iter().max().copied())
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_are_those_of_the_standard(
        table in tables(),
        windows in prop::collection::vec(windows(), 1..4),
        batch_rows in prop::sample::select(vec![1, 2, 8192]),
    ) {
        check(&table, &windows, batch_rows);
    }
}

#[test]
fn calendar_months_lead_back_by_the_calendar() {
    let table = "CREATE TABLE t AS SELECT column1 AS id, to_timestamp(column2) AS o FROM (VALUES
        (1, '2026-02-28T00:00:00'), (2, '2026-02-28T12:00:00'), (3, '2026-02-28T23:30:00'),
        (4, '2026-03-30T23:00:00'), (5, '2026-03-31T00:00:00'), (6, '2026-03-31T13:00:00'), (7, '2026-04-01T00:00:00'))";
    let sql = "SELECT id, array_agg(id) OVER (ORDER BY o RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW) \
               FROM t ORDER BY id";
    let context = RUNTIME.block_on(ours_with(EngineSettings::default(), table));
    assert_eq!(
        RUNTIME.block_on(rows(&context, sql)),
        [
            "1|[1]",
            "2|[1, 2]",
            "3|[1, 2, 3]",
            "4|[3, 4]",
            "5|[1, 2, 3, 4, 5]",
            "6|[3, 4, 5, 6]",
            "7|[4, 5, 6, 7]",
        ]
    );
}
