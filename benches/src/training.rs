//! Input and definitions of the benchmark of training sets.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::data::START_MICROS;

const DAY_MICROS: i64 = 86_400_000_000;
/// Events lie in so many days.
pub const DAYS: i64 = 180;
/// Users that half of the events fall on, the lower numbers more than the others.
const HOT_USERS: i64 = 1_000;
/// DOUBLE columns beside `amount`.
const DOUBLES: usize = 8;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn time(name: &str) -> Field {
    Field::new(
        name,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        false,
    )
}

fn writer(path: &Path, schema: &SchemaRef) -> Result<ArrowWriter<File>, std::io::Error> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(1 << 20))
        .build();
    let file = File::create(path)?;
    ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(std::io::Error::other)
}

/// Writes events to one Parquet file: `user_id BIGINT, event_time TIMESTAMP,
/// amount DOUBLE, kind INT, x0..x7 DOUBLE`. Half of them are of few users, a
/// tenth of those of a single one. `sorted`: by time, else in no order.
pub fn write_events(path: &Path, rows: usize, users: i64, sorted: bool, seed: u64) -> Outcome {
    let mut fields = vec![
        Field::new("user_id", DataType::Int64, false),
        time("event_time"),
        Field::new("amount", DataType::Float64, false),
        Field::new("kind", DataType::Int32, false),
    ];
    fields.extend((0..DOUBLES).map(|i| Field::new(format!("x{i}"), DataType::Float64, false)));
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut writer = writer(path, &schema)?;
    let mut random = StdRng::seed_from_u64(seed);
    // Times by a fixed step, so that both orders hold the same times.
    let step = DAYS * DAY_MICROS / rows.max(1) as i64;
    for start in (0..rows).step_by(1 << 16) {
        let count = (rows - start).min(1 << 16);
        let times = (start..start + count).map(|row| {
            let place = match sorted {
                true => row,
                // A permutation: the factor is prime, and no divisor of the rows.
                false => (row as u128 * 2_654_435_761 % rows as u128) as usize,
            };
            START_MICROS + place as i64 * step
        });
        let times: Vec<i64> = times.collect();
        let ids = (0..count).map(|_| {
            if random.random_bool(0.5) {
                let skewed = random.random::<f64>().powi(3);
                (skewed * HOT_USERS as f64) as i64
            } else {
                random.random_range(0..users)
            }
        });
        let ids: Vec<i64> = ids.collect();
        let mut amounts = || -> ArrayRef {
            let cents = (0..count).map(|_| random.random_range(0..100_000_000_i64) as f64 / 100.0);
            Arc::new(Float64Array::from_iter_values(cents))
        };
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(ids)),
            Arc::new(TimestampMicrosecondArray::from(times)),
            amounts(),
        ];
        let doubles: Vec<ArrayRef> = (0..DOUBLES).map(|_| amounts()).collect();
        let kinds = (0..count).map(|_| random.random_range(0..100));
        columns.push(Arc::new(Int32Array::from_iter_values(kinds)));
        columns.extend(doubles);
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
    }
    writer.close()?;
    Ok(())
}

/// Writes the rows to train on: `row_id BIGINT, user_id BIGINT, event_time
/// TIMESTAMP, label INT`, any user as likely as any other, in no order of times.
pub fn write_spine(path: &Path, rows: usize, users: i64, seed: u64) -> Outcome {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("row_id", DataType::Int64, false),
        Field::new("user_id", DataType::Int64, false),
        time("event_time"),
        Field::new("label", DataType::Int32, false),
    ]));
    let mut writer = writer(path, &schema)?;
    let mut random = StdRng::seed_from_u64(seed);
    for start in (0..rows).step_by(1 << 16) {
        let count = (rows - start).min(1 << 16);
        let ids = (0..count).map(|_| random.random_range(0..users));
        let ids = Int64Array::from_iter_values(ids.collect::<Vec<_>>());
        let times = (0..count).map(|_| START_MICROS + random.random_range(0..DAYS * DAY_MICROS));
        let times = TimestampMicrosecondArray::from_iter_values(times.collect::<Vec<_>>());
        let labels = (0..count).map(|_| random.random_range(0..2));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(
                (start..start + count).map(|r| r as i64),
            )),
            Arc::new(ids),
            Arc::new(times),
            Arc::new(Int32Array::from_iter_values(labels.collect::<Vec<_>>())),
        ];
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
    }
    writer.close()?;
    Ok(())
}

/// What is computed of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// The latest event of the user: 10 features.
    Latest,
    /// 10 aggregates over 7, 30 and 90 days.
    Windows,
}

impl Case {
    /// The output's feature columns, of one view.
    pub fn features(self) -> Vec<String> {
        match self {
            Self::Latest => {
                let doubles = (0..DOUBLES).map(|i| format!("x{i}"));
                ["amount".into(), "kind".into()]
                    .into_iter()
                    .chain(doubles)
                    .collect()
            }
            Self::Windows => {
                let names = AGGREGATES.iter().map(|(name, _, _)| (*name).to_owned());
                names.collect()
            }
        }
    }
}

/// Name, aggregate, and days of its window.
const AGGREGATES: [(&str, &str, u32); 10] = [
    ("count_7d", "count(*)", 7),
    ("count_30d", "count(*)", 30),
    ("count_90d", "count(*)", 90),
    ("amount_7d", "sum(amount)", 7),
    ("amount_30d", "sum(amount)", 30),
    ("amount_90d", "sum(amount)", 90),
    ("x0_avg_30d", "avg(x0)", 30),
    ("x0_min_90d", "min(x0)", 90),
    ("x0_max_90d", "max(x0)", 90),
    ("x0_max_7d", "max(x0)", 7),
];

/// Definitions over a file of events: `views` views named `v0`, `v1`, .. of
/// the case; of several windowed ones each but the first over a part of the events.
pub fn definitions(case: Case, views: usize, events: &Path) -> String {
    let mut sql = format!(
        "CREATE ENTITY usr KEY (user_id BIGINT);\n\
         CREATE EXTERNAL TABLE events STORED AS PARQUET LOCATION '{}';\n",
        events.display()
    );
    for view in 0..views {
        sql += &format!(
            "CREATE FEATURE VIEW v{view} ENTITY usr EVENT TIME event_time AS SELECT user_id, "
        );
        match case {
            Case::Latest => {
                let names = case.features().join(", ");
                sql += &format!("event_time, {names} FROM events");
            }
            Case::Windows => {
                let calls =
                    AGGREGATES.map(|(name, call, days)| format!("{call} OVER d{days} AS {name}"));
                let windows = [7, 30, 90].map(|days| {
                    format!(
                        "d{days} AS (PARTITION BY user_id ORDER BY event_time \
                         RANGE BETWEEN INTERVAL '{days} days' PRECEDING AND CURRENT ROW)"
                    )
                });
                sql += &format!("{} FROM events ", calls.join(", "));
                if view > 0 {
                    sql += &format!("WHERE kind >= {view} ");
                }
                sql += &format!("WINDOW {}", windows.join(", "));
            }
        }
        sql += ";\n";
    }
    sql
}
