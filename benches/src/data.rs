//! Generated input: facts about customers, as Parquet.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// 2026-01-01T00:00:00Z.
pub const START_MICROS: i64 = 1_767_225_600_000_000;
const HALF_YEAR_MICROS: i64 = 180 * 86_400_000_000;

/// Features of a row: eight numbers, one count and one word.
pub const FEATURES: usize = 10;

/// A timestamped view of all features of a project's `facts.parquet`.
pub const DEFINITIONS: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE facts STORED AS PARQUET LOCATION 'facts.parquet';
CREATE FEATURE VIEW customer_facts ENTITY customer EVENT TIME at
AS SELECT customer_id, at, f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 FROM facts;
";

/// Writes `rows` rows of `entities` customers to one Parquet file, in random
/// order: `customer_id BIGINT, at TIMESTAMP, f0..f7 DOUBLE, f8 BIGINT, f9 VARCHAR`.
/// Every customer has a row if there are enough.
pub fn write_facts(
    path: &Path,
    rows: usize,
    entities: usize,
    seed: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut fields = vec![
        Field::new("customer_id", DataType::Int64, false),
        Field::new(
            "at",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            false,
        ),
    ];
    fields.extend((0..8).map(|i| Field::new(format!("f{i}"), DataType::Float64, true)));
    fields.push(Field::new("f8", DataType::Int64, true));
    fields.push(Field::new("f9", DataType::Utf8, true));
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(1 << 20))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema.clone(), Some(properties))?;
    let mut random = StdRng::seed_from_u64(seed);
    // A permutation of the customers by a multiplier prime to their number.
    let stride = 2_654_435_761_usize;
    for start in (0..rows).step_by(1 << 16) {
        let count = (rows - start).min(1 << 16);
        let customers =
            (start..start + count).map(|row| (row.wrapping_mul(stride) % entities) as i64);
        let times = (0..count).map(|_| START_MICROS + random.random_range(0..HALF_YEAR_MICROS));
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(customers)),
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        ];
        for _ in 0..8 {
            let amounts =
                (0..count).map(|_| (random.random_range(0.0..1e6_f64) * 100.0).round() / 100.0);
            columns.push(Arc::new(Float64Array::from_iter_values(amounts)));
        }
        columns.push(Arc::new(Int64Array::from_iter_values(
            (0..count).map(|_| random.random_range(0..10_000)),
        )));
        let words = (0..count).map(|_| format!("segment-{}", random.random_range(0..1000)));
        columns.push(Arc::new(StringArray::from_iter_values(words)));
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
    }
    writer.close()?;
    Ok(())
}
