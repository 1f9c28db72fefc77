//! The customers of a shop at the first of each month, from its invoices.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use granary_engine::TrainingOptions;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{Training, floats, integers, near};
use crate::lender::raw::{DAY, folder, instant};

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE sheet STORED AS PARQUET LOCATION 'data/year_2009_2010.parquet';
CREATE VIEW lines AS
SELECT CAST(\"Customer ID\" AS BIGINT) AS customer_id, CAST(\"Invoice\" AS VARCHAR) AS invoice,
       arrow_cast(to_timestamp(CAST(\"InvoiceDate\" AS VARCHAR)), 'Timestamp(Microsecond, None)') AS at,
       CAST(\"Quantity\" AS DOUBLE) * CAST(\"Price\" AS DOUBLE) AS amount
FROM sheet;
EVENT TIME OF lines IS at;
CREATE FEATURE VIEW customer_window ENTITY customer EVENT TIME at
AS SELECT customer_id,
          count(*)                OVER m1 AS lines_1m,
          count(DISTINCT invoice) OVER m3 AS invoices_3m,
          sum(amount)             OVER m3 AS amount_3m,
          sum(amount) FILTER (WHERE amount < 0) OVER ever AS returned
   FROM lines
   WINDOW m1 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW),
          m3 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '3 months' PRECEDING AND CURRENT ROW),
          ever AS (PARTITION BY customer_id ORDER BY at);
";

const SPINE: &str = "SELECT customer_id, event_time
  FROM (SELECT DISTINCT customer_id FROM lines WHERE customer_id IS NOT NULL)
  CROSS JOIN (SELECT DISTINCT date_trunc('month', at) + INTERVAL '1 month' AS event_time FROM lines)
  ORDER BY event_time, customer_id";

struct Line {
    invoice: String,
    at: i64,
    amount: f64,
}

fn lines(data: &Path) -> BTreeMap<i64, Vec<Line>> {
    let file = std::fs::File::open(data.join("year_2009_2010.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mut lines: BTreeMap<i64, Vec<Line>> = BTreeMap::new();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column =
            |name: &str, to: DataType| cast(batch.column_by_name(name).unwrap(), &to).unwrap();
        let customers = column("Customer ID", DataType::Float64);
        let (invoices, dates) = (
            column("Invoice", DataType::Utf8),
            column("InvoiceDate", DataType::Utf8),
        );
        let (quantities, prices) = (
            column("Quantity", DataType::Float64),
            column("Price", DataType::Float64),
        );
        for row in 0..batch.num_rows() {
            if customers.is_null(row) {
                continue;
            }
            let number =
                |column: &arrow::array::ArrayRef| column.as_primitive::<Float64Type>().value(row);
            lines
                .entry(number(&customers) as i64)
                .or_default()
                .push(Line {
                    invoice: invoices.as_string::<i32>().value(row).to_owned(),
                    at: instant(dates.as_string::<i32>().value(row)),
                    amount: number(&quantities) * number(&prices),
                });
        }
    }
    lines
}

/// `t`, the first of a month, less so many months.
fn months_before(t: i64, months: u32) -> i64 {
    let at = chrono::DateTime::from_timestamp_micros(t).unwrap();
    let before = at.checked_sub_months(chrono::Months::new(months)).unwrap();
    before.timestamp_micros()
}

#[tokio::test(flavor = "multi_thread")]
async fn customers_are_as_they_were_at_each_month() {
    let Some(data) = folder("online_retail_ii") else {
        return;
    };
    let lines = lines(&data);
    let training = Training::new(&data, SQL).await;
    let views = ["customer_window"];
    let rows = training
        .set(SPINE, &views, TrainingOptions::default())
        .await;
    let (customers, times) = (
        integers(&rows, "customer_id"),
        integers(&rows, "event_time"),
    );
    let (counts, invoices) = (integers(&rows, "lines_1m"), integers(&rows, "invoices_3m"));
    let (amounts, returned) = (floats(&rows, "amount_3m"), floats(&rows, "returned"));
    assert_eq!(rows.num_rows() % lines.len(), 0);
    assert!(rows.num_rows() > 50_000, "{}", rows.num_rows());
    let sum = |amounts: &[f64]| (!amounts.is_empty()).then(|| amounts.iter().sum::<f64>());
    for row in 0..rows.num_rows() {
        let (customer, t) = (customers[row].unwrap(), times[row].unwrap());
        let seen: Vec<&Line> = lines[&customer]
            .iter()
            .filter(|line| line.at <= t)
            .collect();
        let since = |months| {
            seen.iter()
                .filter(move |line| line.at >= months_before(t, months))
        };
        let of_3: Vec<f64> = since(3).map(|line| line.amount).collect();
        let negative = seen
            .iter()
            .map(|line| line.amount)
            .filter(|amount| *amount < 0.0);
        let negative: Vec<f64> = negative.collect();
        let told = format!("customer {customer} at {}", t / DAY);
        assert_eq!(counts[row], Some(since(1).count() as i64), "{told}");
        let distinct: BTreeSet<&str> = since(3).map(|line| line.invoice.as_str()).collect();
        assert_eq!(invoices[row], Some(distinct.len() as i64), "{told}");
        let scale = |amounts: &[f64]| amounts.iter().map(|amount| amount.abs()).sum::<f64>();
        assert!(near(amounts[row], sum(&of_3), scale(&of_3)), "{told}");
        assert!(
            near(returned[row], sum(&negative), scale(&negative)),
            "{told}"
        );
    }
}
