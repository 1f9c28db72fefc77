//! Aggregates of our own: in GROUP BY, over windows, and what they refuse.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringArray};
use arrow::datatypes::{DataType, Float64Type, IntervalMonthDayNano, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use granary_engine::asof::kernels::{Call, RowRange};
use granary_engine::{Joins, TrainingOptions};
use proptest::prelude::*;

use crate::project::{Project, at};
use crate::training::{define, training};

/// A session as of 2026-01-31.
fn session() -> SessionContext {
    let project = Project::new();
    project
        .engine
        .context(Some(at("2026-01-31")), Joins::default())
}

/// The rows of a query as text, columns separated by `|`.
pub(crate) async fn rows(context: &SessionContext, sql: &str) -> Vec<String> {
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in &batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
            .collect();
        for row in 0..batch.num_rows() {
            let cells: Vec<String> = columns.iter().map(|c| c.value(row).to_string()).collect();
            rows.push(cells.join("|"));
        }
    }
    rows
}

async fn refusal(sql: &str) -> String {
    let planned = session().sql(sql).await;
    let ended = match planned {
        Ok(frame) => frame.collect().await.map(|_| ()),
        Err(error) => Err(error),
    };
    ended.unwrap_err().strip_backtrace()
}

const VISITS: &str = "
    CREATE TABLE visits AS SELECT column1 AS id, column2 AS place, column3 AS amount, to_timestamp(column4) AS at
    FROM (VALUES
      (1, 'b', 1.0, '2026-01-01'), (1, 'a', 2.0, '2026-01-02'), (1, 'c', 4.0, '2026-01-03'),
      (1, 'a', 8.0, '2026-01-04'), (1, NULL, 16.0, '2026-01-05'), (1, 'b', 32.0, '2026-01-06'),
      (2, NULL, 1.0, '2026-01-01'), (2, NULL, NULL, '2026-01-02'),
      (3, 'z', 3.0, '2026-01-30'))";

async fn visits() -> SessionContext {
    let context = session();
    context.sql(VISITS).await.unwrap().collect().await.unwrap();
    context
}

#[tokio::test]
async fn the_most_frequent_come_first_and_of_equals_the_smaller() {
    let sql = "SELECT id, top_k(place, 1), top_k(place, 2), top_k(place, 9), top_share(place, 1), \
               top_share(place, 2) FROM visits GROUP BY id ORDER BY id";
    assert_eq!(
        rows(&visits().await, sql).await,
        [
            "1|[a]|[a, b]|[a, b, c]|0.4|0.8",
            "2|NULL|NULL|NULL|NULL|NULL",
            "3|[z]|[z]|[z]|1.0|1.0",
        ]
    );
}

#[tokio::test]
async fn entropy_is_in_bits() {
    let sql = "SELECT entropy(x), entropy(y), entropy(z), entropy(DISTINCT y) FROM \
               (VALUES (1, 'a', 0.5), (2, 'a', 0.5), (3, 'b', 0.5), (4, 'b', NULL)) AS t (x, y, z)";
    assert_eq!(rows(&session(), sql).await, ["2.0|1.0|0.0|1.0"]);
    let skewed = "SELECT entropy(x) FROM (VALUES (1), (1), (1), (2)) AS t (x)";
    let expected = 2.0 - 0.75 * 3f64.log2();
    let found: f64 = rows(&session(), skewed).await[0].parse().unwrap();
    assert!((found - expected).abs() < 1e-15);
    let none = "SELECT entropy(x), top_k(x, 1) FROM (VALUES (1)) AS t (x) WHERE x > 1";
    assert_eq!(rows(&session(), none).await, ["NULL|NULL"]);
}

#[tokio::test]
async fn distinct_counts_a_value_once_and_filter_rows() {
    let sql = "SELECT top_k(DISTINCT place, 2), top_share(DISTINCT place, 2), \
               top_k(place, 2) FILTER (WHERE amount > 2) FROM visits WHERE id = 1";
    assert_eq!(
        rows(&visits().await, sql).await,
        ["[a, b]|0.6666666666666666|[a, b]"]
    );
}

#[tokio::test]
async fn a_decayed_sum_halves_with_each_half_life() {
    let sql = "SELECT decayed_sum(amount, INTERVAL '10 days', at), \
               decayed_sum(amount, INTERVAL '1 day', at, to_timestamp('2026-01-03')) \
               FROM visits WHERE id = 1";
    let found = rows(&visits().await, sql).await;
    // The 3rd is 28 days before the session's time.
    let weights = |half_life: f64, t: f64, days: &[(f64, f64)]| -> f64 {
        let weight = |(day, x): &(f64, f64)| x * (-(t - day) / half_life).exp2();
        days.iter().map(weight).sum()
    };
    let all = [
        (1.0, 1.0),
        (2.0, 2.0),
        (3.0, 4.0),
        (4.0, 8.0),
        (5.0, 16.0),
        (6.0, 32.0),
    ];
    let expected = [weights(10.0, 31.0, &all), weights(1.0, 3.0, &all[..3])];
    for (found, expected) in found[0].split('|').zip(expected) {
        let found: f64 = found.parse().unwrap();
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }
    let columns = "SELECT * FROM (SELECT decayed_sum(amount, INTERVAL '1 day', at) FROM visits)";
    let frame = visits().await.sql(columns).await.unwrap();
    let name = frame.schema().field(0).name().clone();
    assert!(name.starts_with("decayed_sum(visits.amount,"), "{name}");
    assert!(!name.contains("as_of"), "{name}");
}

#[tokio::test]
async fn wrong_arguments_are_named() {
    let of = |call: &str| format!("SELECT {call} FROM (VALUES (1, 2.0, now())) AS t (k, x, at)");
    for (call, words) in [
        ("top_k(x, 0)", "top_k: k must be a whole number above 0"),
        ("top_k(x, -3)", "above 0, written as a constant, got -3"),
        (
            "top_k(x, k)",
            "argument 2 must be written as a constant, got t.k",
        ),
        (
            "top_k(x, 'a')",
            "k must be a whole number above 0, written as a constant, got a",
        ),
        ("top_k(x)", "top_k(x, k) takes 2 arguments, got 1"),
        (
            "top_share(x, 1.5)",
            "top_share: k must be a whole number above 0",
        ),
        (
            "top_share(x, 0) OVER (ORDER BY at)",
            "top_share: k must be a whole number above 0",
        ),
        ("entropy(x, 1)", "entropy(x) takes 1 argument, got 2"),
        (
            "decayed_sum(x, INTERVAL '1 day')",
            "takes the times of a window: write OVER (.. ORDER BY event_time)",
        ),
        (
            "decayed_sum(x, INTERVAL '1 month', at)",
            "half_life must be an interval above 0 without months",
        ),
        (
            "decayed_sum(x, INTERVAL '-1 day', at)",
            "half_life must be an interval above 0",
        ),
        ("decayed_sum(x, 7, at)", "as in INTERVAL '7 days', got 7"),
        (
            "decayed_sum(x, INTERVAL '1 day', x)",
            "event_time must be a time, got",
        ),
        (
            "decayed_sum('a', INTERVAL '1 day', at)",
            "x must be a number, got",
        ),
        (
            "decayed_sum(DISTINCT x, INTERVAL '1 day', at)",
            "does not take DISTINCT",
        ),
        (
            "decayed_sum(x, INTERVAL '1 day') OVER (PARTITION BY k)",
            "needs ORDER BY the event time alone, ascending",
        ),
        (
            "decayed_sum(x, INTERVAL '1 day') OVER (ORDER BY at DESC)",
            "needs ORDER BY the event time alone, ascending",
        ),
        (
            "decayed_sum(x, INTERVAL '1 day') OVER (ORDER BY at ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)",
            "needs a frame that ends with CURRENT ROW or .. PRECEDING",
        ),
    ] {
        let told = refusal(&of(call)).await;
        assert!(told.contains(words), "{call}: {told}");
    }
}

/// Over ranges of `values`, as the windows call it.
fn evaluate(name: &str, values: &ArrayRef, constant: ScalarValue, ranges: &[RowRange]) -> ArrayRef {
    let times: Vec<i64> = (0..values.len() as i64)
        .map(|row| row / 3 * 1_000_000)
        .collect();
    let times = arrow::array::TimestampMicrosecondArray::from(times).with_timezone("UTC");
    let batch = super::asof::batch(vec![("x", values.clone()), ("at", Arc::new(times))]);
    let constants = constant.to_array_of_size(values.len()).unwrap();
    let (mut inputs, x) = (vec![values.clone()], Arc::new(Column::new("x", 0)));
    let mut arguments: Vec<Arc<dyn PhysicalExpr>> = vec![x];
    if name != "entropy" {
        inputs.push(constants);
        arguments.push(Arc::new(Literal::new(constant)));
    }
    if name == "decayed_latest" {
        inputs.push(batch.column(1).clone());
        arguments.push(Arc::new(Column::new("at", 1)));
    }
    let function = session().state().aggregate_functions()[name].clone();
    let call = Call::try_new(function, arguments, batch.schema()).unwrap();
    call.evaluate(&inputs, None, ranges).unwrap()
}

/// Frequencies in the order of `top_k`.
fn ranked(values: &StringArray, range: &RowRange) -> Vec<(u64, String)> {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for value in range.clone().filter_map(|row| {
        let row = row as usize;
        values.is_valid(row).then(|| values.value(row))
    }) {
        *counts.entry(value).or_default() += 1;
    }
    let mut ranked: Vec<(u64, String)> = counts.into_iter().map(|(v, n)| (n, v.into())).collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked
}

fn sliding() -> impl Strategy<Value = Vec<RowRange>> {
    let steps = prop::collection::vec((0..4u32, 0..3u32), 1..40);
    steps.prop_map(|steps| {
        let mut range = 0..0;
        let step = |(of_end, of_start): (u32, u32)| {
            range.end = (range.end + of_end).min(60);
            range.start = (range.start + of_start).min(range.end);
            range.clone()
        };
        steps.into_iter().map(step).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frequencies_slide_exactly(
        letters in prop::collection::vec(prop::option::weighted(0.9, prop::sample::select(vec!["a", "b", "c", "dd", "e"])), 60),
        ranges in sliding(),
        k in 1..4usize,
    ) {
        let values: ArrayRef = Arc::new(StringArray::from(letters));
        let k_scalar = ScalarValue::Int64(Some(k as i64));
        let lists = evaluate("top_k", &values, k_scalar.clone(), &ranges);
        let shares = evaluate("top_share", &values, k_scalar.clone(), &ranges);
        let entropies = evaluate("entropy", &values, k_scalar, &ranges);
        let shares: &Float64Array = shares.as_primitive::<Float64Type>();
        let entropies: &Float64Array = entropies.as_primitive::<Float64Type>();
        for (row, range) in ranges.iter().enumerate() {
            let ranked = ranked(values.as_string::<i32>(), range);
            if ranked.is_empty() {
                prop_assert!(lists.is_null(row) && shares.is_null(row) && entropies.is_null(row));
                continue;
            }
            let list = lists.as_list::<i32>().value(row);
            let list: Vec<&str> = list.as_string::<i32>().iter().flatten().collect();
            let expected: Vec<&str> = ranked.iter().take(k).map(|(_, v)| v.as_str()).collect();
            prop_assert_eq!(list, expected);
            let total = ranked.iter().map(|(n, _)| *n).sum::<u64>() as f64;
            let held = ranked.iter().take(k).map(|(n, _)| *n).sum::<u64>() as f64;
            prop_assert_eq!(shares.value(row), held / total);
            let entropy: f64 = ranked.iter().map(|(n, _)| *n as f64 / total).map(|p| -p * p.log2()).sum();
            prop_assert!((entropies.value(row) - entropy).abs() < 1e-12);
        }
    }

    /// Six events in two half-lives; a NaN, an infinity and 1e17 leave no trace.
    #[test]
    fn decayed_sums_are_as_of_the_newest_event(
        values in prop::collection::vec(prop::sample::select(vec![
            None, Some(0.0), Some(1e-3), Some(1.0), Some(-5.0), Some(1e17), Some(f64::NAN), Some(f64::INFINITY),
        ]), 60),
        ranges in sliding(),
    ) {
        let array: ArrayRef = Arc::new(Float64Array::from(values.clone()));
        let second = IntervalMonthDayNano::new(0, 0, 1_000_000_000);
        let half_life = ScalarValue::IntervalMonthDayNano(Some(second));
        let found = evaluate("decayed_latest", &array, half_life, &ranges);
        let found = found.as_struct();
        for (row, range) in ranges.iter().enumerate() {
            let events: Vec<(i64, f64)> = range
                .clone()
                .filter_map(|row| Some((i64::from(row) / 3, values[row as usize]?)))
                .collect();
            prop_assert_eq!(found.is_valid(row), !events.is_empty());
            let Some((newest, _)) = events.last() else { continue };
            let decayed = |(at, x): &(i64, f64)| x * (-((newest - at) as f64)).exp2();
            let expected: f64 = events.iter().map(decayed).sum();
            let slack: f64 = events.iter().map(decayed).map(f64::abs).sum::<f64>() * 1e-12;
            let sum = found.column(0).as_primitive::<Float64Type>().value(row);
            let at = found.column(1);
            prop_assert_eq!(at.data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
            prop_assert!(
                (sum.is_nan() && expected.is_nan()) || sum == expected || (sum - expected).abs() <= slack,
                "{} instead of {}", sum, expected
            );
        }
    }
}

#[tokio::test]
async fn windowed_views_take_them_as_of_each_row() {
    let mut project = Project::new();
    let visits = "SELECT * FROM (VALUES
        (1, 'b', 8.0, TIMESTAMP '2025-01-01T00:00:00Z'), (1, 'a', 2.0, TIMESTAMP '2025-01-02T00:00:00Z'),
        (1, 'a', NULL, TIMESTAMP '2025-01-03T00:00:00Z'), (1, 'c', 1.0, TIMESTAMP '2025-01-05T00:00:00Z'),
        (2, NULL, 1.0, TIMESTAMP '2025-01-02T00:00:00Z')) AS t (customer_id, place, amount, at)";
    project.table_from_sql("visits", visits, None).await;
    let definitions = "
        CREATE ENTITY customer KEY (customer_id BIGINT);
        CREATE EXTERNAL TABLE visits STORED AS PARQUET LOCATION 'visits.parquet';
        CREATE FEATURE VIEW habits ENTITY customer EVENT TIME at
          AS SELECT customer_id, top_k(place, 2) OVER ever AS places, top_share(place, 1) OVER ever AS share,
                    entropy(place) OVER ever AS bits,
                    decayed_sum(amount, INTERVAL '1 day') OVER ever AS recent,
                    decayed_sum(amount, INTERVAL '1 day') FILTER (WHERE place = 'a') OVER d2 / 2 AS half_of_a
             FROM visits
             WINDOW ever AS (PARTITION BY customer_id ORDER BY at),
                    d2 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '2 days' PRECEDING AND CURRENT ROW);";
    define(&mut project, definitions).await;
    let described: Vec<String> = project.definitions.feature_views["habits"]
        .windows
        .iter()
        .map(|window| window.aggregate.clone())
        .collect();
    assert!(
        described.iter().any(|d| d.starts_with("decayed_sum(")),
        "{described:?}"
    );
    assert!(
        !described.iter().any(|d| d.contains("decayed_latest")),
        "{described:?}"
    );
    let spine = "SELECT * FROM (VALUES
        (1, TIMESTAMP '2025-01-04T00:00:00Z'), (1, TIMESTAMP '2025-01-02T12:00:00Z'),
        (1, TIMESTAMP '2024-12-31T00:00:00Z'), (2, TIMESTAMP '2025-01-03T00:00:00Z')) AS t (customer_id, event_time)";
    let list = [
        "habits.places",
        "habits.share",
        "habits.bits",
        "habits.recent",
        "habits.half_of_a",
    ];
    let (rows, _) = training(&project, spine, &list, TrainingOptions::default()).await;
    insta::assert_snapshot!(rows);
}
