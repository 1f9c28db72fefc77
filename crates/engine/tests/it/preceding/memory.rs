//! Partitions longer than what is held at once, in little memory.

use granary_engine::EngineSettings;

use super::{ours_with, refusal, rows};

/// One partition of 600,000 rows: 10 MB a column pair, far more than a chunk.
const LONG: &str =
    "CREATE VIEW t AS SELECT value AS o, value % 1000 AS x, 7 AS k FROM generate_series(1, 600000)";

fn small() -> EngineSettings {
    EngineSettings {
        memory_bytes_max: 24 << 20,
        target_partitions: 2,
        ..EngineSettings::default()
    }
}

#[tokio::test]
async fn frames_with_a_start_are_held_as_far_as_they_reach() {
    let context = ours_with(small(), LONG).await;
    let sql = "SELECT count(*), sum(a), sum(b), max(c), sum(d) FROM (SELECT \
               count(*) OVER (PARTITION BY k ORDER BY o ROWS 10 PRECEDING) a, \
               sum(x) OVER (PARTITION BY k ORDER BY o RANGE BETWEEN 999 PRECEDING AND CURRENT ROW) b, \
               array_length(array_agg(x) OVER (PARTITION BY k ORDER BY o ROWS 20 PRECEDING)) c, \
               median(o) OVER (PARTITION BY k ORDER BY o ROWS 2 PRECEDING) - o d FROM t)";
    // A window of 1000 rows holds each x once: 499500; the first 999 are shorter.
    let begun: i64 = (1..1000i64).map(|o| o * (o + 1) / 2).sum();
    let sums = begun + (600_000 - 999) * 499_500;
    let medians = -0.5 - (600_000 - 2) as f64;
    assert_eq!(
        rows(&context, sql).await,
        [format!(
            "600000|{}|{sums}|21|{medians:.1}",
            600_000 * 11 - 55
        )]
    );
}

#[tokio::test]
async fn frames_without_a_start_run_along() {
    let context = ours_with(small(), LONG).await;
    let sql = "SELECT count(*), sum(a), max(b), min(c), max(d), sum(e), sum(f), sum(g) FROM (SELECT \
               count(*) OVER w a, sum(o) OVER w b, first_value(x) OVER w c, \
               max(o) FILTER (WHERE x = 5) OVER w d, \
               last_value(o) OVER (PARTITION BY k ORDER BY o ROWS BETWEEN UNBOUNDED PRECEDING AND 3 PRECEDING) - o e, \
               count(*) OVER (PARTITION BY k ORDER BY o ROWS 1 PRECEDING) f, \
               CAST(avg(x) OVER (PARTITION BY k ORDER BY o ROWS UNBOUNDED PRECEDING) > 400 AS INT) g \
               FROM t WINDOW w AS (PARTITION BY k ORDER BY o))";
    let n = 600_000i64;
    let sum = n * (n + 1) / 2;
    let after: usize = (1..=n)
        .scan(0i64, |sum, o| {
            *sum += o % 1000;
            Some(*sum as f64 / o as f64 > 400.0)
        })
        .filter(|above| *above)
        .count();
    assert_eq!(
        rows(&context, sql).await,
        [format!(
            "{n}|{sum}|{sum}|1|599005|{}|{}|{after}",
            -3 * (n - 3),
            2 * n - 1
        )]
    );
}

/// Many partitions, some of which are run along and others not, end up as they
/// would by themselves.
#[tokio::test]
async fn long_and_short_partitions_lie_side_by_side() {
    let t = "CREATE VIEW t AS SELECT value AS o, CASE WHEN value <= 10 THEN 1 WHEN value <= 300010 THEN 2 \
             WHEN value <= 300020 THEN 3 WHEN value <= 500000 THEN 4 ELSE value END AS k FROM generate_series(1, 500100)";
    let context = ours_with(small(), t).await;
    let sql = "SELECT count(*), min(a), max(a), min(b), max(b), count(DISTINCT k) FROM (SELECT k, \
               count(*) OVER (PARTITION BY k ORDER BY o) - (o - first_value(o) OVER (PARTITION BY k ORDER BY o)) a, \
               sum(1) OVER (PARTITION BY k ORDER BY o) - count(*) OVER (PARTITION BY k ORDER BY o ROWS UNBOUNDED PRECEDING) b \
               FROM t)";
    assert_eq!(rows(&context, sql).await, ["500100|1|1|0|0|104"]);
}

#[tokio::test]
async fn what_must_be_held_and_does_not_fit_is_told() {
    let context = ours_with(small(), LONG).await;
    let sql =
        "SELECT max(a) FROM (SELECT count(DISTINCT x) OVER (PARTITION BY k ORDER BY o) a FROM t)";
    let told = refusal(&context, sql).await.unwrap();
    assert!(told.contains("Resources exhausted"), "{told}");
    assert!(
        told.contains("rows of one partition (PARTITION BY k@"),
        "{told}"
    );
    assert!(
        told.contains("frames that start nearer need fewer"),
        "{told}"
    );
}
