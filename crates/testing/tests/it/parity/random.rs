//! Made-up events and definitions over them.
//!
//! Events lie on a grid of hours, so that there are ties and ends of windows
//! that events lie on; a few customers have most of them; keys, times and
//! values are NULL now and then, and floats are what floats may be.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use granary_model::{FeatureView, UtcMicros};
use parquet::arrow::ArrowWriter;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

const HOUR: i64 = 3_600_000_000;
/// 2025-01-27: windows of a month cross the end of one.
const START: i64 = 1_737_936_000_000_000;
/// Hours that events lie in.
const HOURS: i64 = 240;

#[derive(Debug, Clone)]
pub struct Event {
    id: Option<i64>,
    shop: Option<&'static str>,
    hour: Option<i64>,
    written: Option<i64>,
    amount: Option<f64>,
    n: Option<i32>,
    tag: Option<&'static str>,
    flag: Option<bool>,
    /// The file that it is in.
    file: usize,
}

fn event() -> impl Strategy<Value = Event> {
    let id = prop_oneof![
        6 => Just(Some(1)), 2 => Just(Some(2)), 1 => Just(Some(3)), 1 => Just(Some(-4)),
        1 => Just(None),
    ];
    let shop = prop_oneof![4 => Just(Some("a")), 2 => Just(Some("")), 1 => Just(None)];
    let hour = prop_oneof![
        6 => (0..HOURS).prop_map(Some), 3 => (0..6_i64).prop_map(|h| Some(h * 24)), 1 => Just(None),
    ];
    let amounts = [
        0.0,
        -0.0,
        1.5,
        -2.25,
        3.0,
        1e-3,
        1e17,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let amount = prop_oneof![
        8 => select(amounts[2..5].to_vec()).prop_map(Some), 2 => select(amounts.to_vec()).prop_map(Some),
        1 => Just(None),
    ];
    let columns = (
        option::weighted(0.8, 0..72_i64),
        amount,
        option::weighted(0.8, -3..6_i32),
        option::weighted(0.8, select(vec!["x", "y", "z", ""])),
        option::weighted(0.9, any::<bool>()),
        0..3_usize,
    );
    (id, shop, hour, columns).prop_map(|(id, shop, hour, (later, amount, n, tag, flag, file))| {
        Event {
            id,
            shop,
            hour,
            written: hour.zip(later).map(|(hour, later)| hour + later),
            amount,
            n,
            tag,
            flag,
            file,
        }
    })
}

/// Writes the events into a few files, in the order that they come in.
pub fn write(folder: &Path, events: &[Event]) {
    let folder = folder.join("events");
    std::fs::create_dir(&folder).unwrap();
    for (file, batch) in batches(events).into_iter().enumerate() {
        let path = folder.join(format!("{file}.parquet"));
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
}

/// A batch a file.
pub fn batches(events: &[Event]) -> Vec<RecordBatch> {
    let of_file = |file| events.iter().filter(move |event| event.file == file);
    (0..3)
        .map(|file| batch(&of_file(file).collect::<Vec<_>>()))
        .collect()
}

fn batch(events: &[&Event]) -> RecordBatch {
    let times = |of: fn(&Event) -> Option<i64>| -> ArrayRef {
        let micros = events.iter().map(|e| of(e).map(|hour| START + hour * HOUR));
        Arc::new(
            micros
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        )
    };
    let columns: [(&str, ArrayRef); 8] = [
        (
            "id",
            Arc::new(events.iter().map(|e| e.id).collect::<Int64Array>()),
        ),
        (
            "shop",
            Arc::new(events.iter().map(|e| e.shop).collect::<StringArray>()),
        ),
        ("at", times(|e| e.hour)),
        ("written", times(|e| e.written)),
        (
            "amount",
            Arc::new(events.iter().map(|e| e.amount).collect::<Float64Array>()),
        ),
        (
            "n",
            Arc::new(events.iter().map(|e| e.n).collect::<Int32Array>()),
        ),
        (
            "tag",
            Arc::new(events.iter().map(|e| e.tag).collect::<StringArray>()),
        ),
        (
            "flag",
            Arc::new(events.iter().map(|e| e.flag).collect::<BooleanArray>()),
        ),
    ];
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// Which entities a view is of.
const ENTITIES: [(&str, &str); 3] = [
    ("customer", "id"),
    ("shop", "shop"),
    ("customer, shop", "id, shop"),
];

/// Every key of a view in every combination, keys that no event has, and NULL.
pub fn keys(view: &FeatureView) -> String {
    let ids =
        "SELECT id FROM events UNION SELECT CAST(77 AS BIGINT) UNION SELECT CAST(NULL AS BIGINT)";
    let shops = "SELECT shop FROM events UNION SELECT 'nowhere' UNION SELECT CAST(NULL AS VARCHAR)";
    match view.keys.len() {
        2 => format!("SELECT * FROM ({ids}) CROSS JOIN ({shops})"),
        _ if view.keys[0].name == "id" => ids.to_owned(),
        _ => shops.to_owned(),
    }
}

const AGGREGATES: [&str; 25] = [
    "count(*)",
    "count(n)",
    "count(DISTINCT tag)",
    "sum(n)",
    "sum(amount)",
    "sum(DISTINCT n)",
    "avg(amount)",
    "min(amount)",
    "max(n)",
    "min(tag)",
    "max(at)",
    "stddev(amount)",
    "median(n)",
    "bool_or(flag)",
    "first_value(tag)",
    "last_value(amount)",
    "nth_value(n, 2)",
    "array_agg(tag)",
    "string_agg(tag, ',')",
    "top_k(tag, 2)",
    "entropy(tag)",
    "decayed_sum(n, INTERVAL '2 days')",
    "corr(n, n)",
    "covar_pop(n, n)",
    "bit_xor(n)",
];

/// DataFusion refuses FILTER on these over windows.
fn takes_no_filter(aggregate: &str) -> bool {
    let name = aggregate.split('(').next();
    matches!(name, Some("first_value" | "last_value" | "nth_value"))
}

const FRAMES: [&str; 9] = [
    "",
    "RANGE BETWEEN INTERVAL '24 hours' PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN INTERVAL '4 days' PRECEDING AND INTERVAL '1 day' PRECEDING",
    "RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW",
    "RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL '36 hours' PRECEDING",
    "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
    "ROWS BETWEEN 4 PRECEDING AND 1 PRECEDING",
    "ROWS UNBOUNDED PRECEDING",
];

/// How an aggregate stands in an expression.
const EXPRESSIONS: [&str; 4] = [
    "{}",
    "{}",
    "CASE WHEN count(*) OVER w0 > 1 THEN {} END",
    "coalesce({}, {})",
];

#[derive(Debug, Clone)]
enum View {
    Windowed {
        entity: usize,
        frames: Vec<&'static str>,
        /// Expression, aggregate, whether it has a FILTER, its window.
        features: Vec<(&'static str, &'static str, bool, usize)>,
        filter: Option<&'static str>,
        max_events: Option<u8>,
        then_by: bool,
    },
    Timestamped {
        entity: usize,
        columns: Vec<&'static str>,
        filter: Option<&'static str>,
        ttl_hours: Option<u8>,
        created_time: bool,
    },
}

fn filter() -> impl Strategy<Value = Option<&'static str>> {
    option::weighted(
        0.3,
        select(vec!["flag", "n > 0", "tag <> 'x'", "amount < 2"]),
    )
}

fn windowed() -> impl Strategy<Value = View> {
    let feature = (
        select(EXPRESSIONS.to_vec()),
        select(AGGREGATES.to_vec()),
        prop::bool::weighted(0.3),
        0..3_usize,
    );
    (
        0..ENTITIES.len(),
        vec(select(FRAMES.to_vec()), 1..4),
        vec(feature, 1..6),
        filter(),
        option::weighted(0.2, 1..5_u8),
        prop::bool::weighted(0.3),
    )
        .prop_map(
            |(entity, frames, features, filter, max_events, then_by)| View::Windowed {
                entity,
                frames,
                features,
                filter,
                max_events,
                then_by,
            },
        )
}

fn timestamped() -> impl Strategy<Value = View> {
    let columns = select(vec!["amount", "n", "tag", "flag", "n * 2", "upper(tag)"]);
    (
        0..ENTITIES.len(),
        vec(columns, 1..4),
        filter(),
        option::weighted(0.4, 1..100_u8),
        any::<bool>(),
    )
        .prop_map(
            |(entity, columns, filter, ttl_hours, created_time)| View::Timestamped {
                entity,
                columns,
                filter,
                ttl_hours,
                created_time,
            },
        )
}

impl View {
    fn sql(&self, number: usize) -> String {
        match self {
            Self::Windowed { .. } => self.windowed_sql(number),
            Self::Timestamped {
                entity,
                columns,
                filter,
                ttl_hours,
                created_time,
            } => {
                let (entity, keys) = ENTITIES[*entity];
                let ttl = ttl_hours.map_or(String::new(), |h| format!(" TTL INTERVAL '{h} hours'"));
                let (clause, column) = match created_time {
                    true => (" CREATED TIME written", ", written"),
                    false => ("", ""),
                };
                let columns = columns.iter().enumerate();
                let columns = columns.map(|(i, column)| format!("{column} AS v{number}_{i}"));
                format!(
                    "CREATE FEATURE VIEW v{number} ENTITY {entity} EVENT TIME at{clause}{ttl}\n\
                     AS SELECT {keys}, at{column}, {} FROM events{};\n",
                    columns.collect::<Vec<_>>().join(", "),
                    filter.map_or(String::new(), |f| format!(" WHERE {f}")),
                )
            }
        }
    }

    fn windowed_sql(&self, number: usize) -> String {
        let Self::Windowed {
            entity,
            frames,
            features,
            filter,
            max_events,
            then_by,
        } = self
        else {
            return String::new();
        };
        let (entity, keys) = ENTITIES[*entity];
        let max_events = max_events.map_or(String::new(), |n| format!(" MAX EVENTS {n}"));
        let then_by = if *then_by { " THEN BY (n, tag)" } else { "" };
        let features = features.iter().enumerate();
        let features = features.map(|(i, (expression, aggregate, filtered, window))| {
            let filter = match *filtered && !takes_no_filter(aggregate) {
                true => " FILTER (WHERE flag)",
                false => "",
            };
            let window = window % frames.len();
            let value = expression.replace("{}", &format!("{aggregate}{filter} OVER w{window}"));
            format!("{value} AS v{number}_{i}")
        });
        let features: Vec<String> = features.collect();
        let windows = frames.iter().enumerate();
        let windows =
            windows.map(|(i, f)| format!("w{i} AS (PARTITION BY {keys} ORDER BY at {f})"));
        format!(
            "CREATE FEATURE VIEW v{number} ENTITY {entity} EVENT TIME at{then_by}{max_events}\n\
             AS SELECT {keys}, {}\n FROM events{}\n WINDOW {};\n",
            features.join(", "),
            filter.map_or(String::new(), |f| format!(" WHERE {f}")),
            windows.collect::<Vec<_>>().join(", "),
        )
    }
}

#[derive(Debug, Clone)]
pub struct Case {
    pub events: Vec<Event>,
    views: Vec<View>,
    /// T of the runs in hours, with minutes between the events or without.
    hours: Vec<(i64, bool)>,
    event_time_of: bool,
}

impl Case {
    pub fn sql(&self) -> String {
        let mut sql =
            "CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION 'events/';\n".to_owned();
        if self.event_time_of {
            sql += "EVENT TIME OF events IS at;\n";
        }
        sql + &self.views_sql()
    }

    /// The same over a stream.
    pub fn live_sql(&self) -> String {
        self.stream_sql("")
    }

    /// `clauses`: of the stream, further ones.
    pub fn stream_sql(&self, clauses: &str) -> String {
        format!(
            "CREATE STREAM events (id BIGINT, shop VARCHAR, at TIMESTAMP, written TIMESTAMP, \
             amount DOUBLE, n INT, tag VARCHAR, flag BOOLEAN) EVENT TIME at{clauses};\n{}",
            self.views_sql()
        )
    }

    fn views_sql(&self) -> String {
        let mut sql =
            "CREATE ENTITY customer KEY (id BIGINT);\nCREATE ENTITY shop KEY (shop VARCHAR);\n"
                .to_owned();
        let views = self.views.iter().enumerate();
        sql.extend(views.map(|(number, view)| view.sql(number)));
        sql
    }

    /// Ascending, each once.
    pub fn times(&self) -> Vec<UtcMicros> {
        let at = |(hour, between): &(i64, bool)| START + hour * HOUR + i64::from(*between) * 7;
        let mut times: Vec<_> = self.hours.iter().map(at).map(UtcMicros).collect();
        times.sort();
        times.dedup();
        times
    }
}

pub fn case() -> impl Strategy<Value = Case> {
    let views = vec(prop_oneof![3 => windowed(), 2 => timestamped()], 1..5);
    let hours = vec((-2..HOURS + 24, prop::bool::weighted(0.2)), 1..4);
    let event_time_of = any::<bool>();
    (vec(event(), 0..80), views, hours, event_time_of).prop_map(
        |(events, views, hours, event_time_of)| Case {
            events,
            views,
            hours,
            event_time_of,
        },
    )
}
