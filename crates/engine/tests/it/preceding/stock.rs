//! Where DataFusion's own windows are wrong or refuse, and that all else stays.

use granary_engine::EngineSettings;

use super::{ours, ours_with, refusal, rows, stock};

const T: &str = "CREATE TABLE t AS SELECT column1 AS k, column2 AS o, column3 AS x, column4 AS y, column5 AS s FROM (VALUES
    (1, 1, 10, 1.0, 'a'), (1, 2, 10, 2.0, 'b'), (1, 3, 20, 3.5, 'a'), (1, 4, 30, 3.0, 'c'),
    (2, 1, 5, 1.5, 'z'), (2, 2, NULL, 2.5, 'z'), (2, 3, 7, 0.5, 'y'))";

/// One value a row of `t`, in the order of (k, o).
async fn values(context: &datafusion::prelude::SessionContext, call: &str) -> Vec<String> {
    let sql = format!("SELECT v FROM (SELECT k, o, {call} AS v FROM t) ORDER BY k, o");
    rows(context, &sql).await
}

const W: &str = "OVER (PARTITION BY k ORDER BY o)";

#[tokio::test]
async fn distinct_counts_in_nth_value() {
    let (stock, ours) = (stock(T).await, ours(T).await);
    let second = format!("nth_value(DISTINCT x, 2) {W}");
    // The second 10 is the second row, but no second value.
    let wrong = ["NULL", "10", "10", "10", "NULL", "NULL", "NULL"];
    let right = ["NULL", "NULL", "20", "20", "NULL", "NULL", "NULL"];
    assert_eq!(values(&stock, &second).await, wrong);
    assert_eq!(values(&ours, &second).await, right);
}

#[tokio::test]
async fn filter_counts_in_first_last_and_nth_value() {
    let (stock, ours) = (stock(T).await, ours(T).await);
    for (call, right) in [
        (
            "first_value(x) FILTER (WHERE x > 10)",
            ["NULL", "NULL", "20", "20", "NULL", "NULL", "NULL"],
        ),
        (
            "last_value(o) FILTER (WHERE s <> 'a')",
            ["NULL", "2", "2", "4", "1", "2", "3"],
        ),
        (
            "nth_value(o, 2) FILTER (WHERE s = 'a' OR s = 'z')",
            ["NULL", "NULL", "3", "3", "NULL", "2", "2"],
        ),
    ] {
        let call = format!("{call} {W}");
        assert_eq!(values(&ours, &call).await, right, "{call}");
        let sql = format!("SELECT {call} FROM t");
        let told = refusal(&stock, &sql).await.unwrap();
        assert!(
            told.contains("FILTER clause can only be used with aggregate"),
            "{told}"
        );
    }
}

const MOVING: &str = "OVER (PARTITION BY k ORDER BY o ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";

/// With the values over `MOVING` in `t`. DataFusion refuses these.
const REFUSED: [(&str, [&str; 7]); 6] = [
    (
        "string_agg(s, '+')",
        ["a", "a+b", "b+a", "a+c", "z", "z+z", "z+y"],
    ),
    (
        "approx_percentile_cont(y, 0.5)",
        ["1.0", "1.5", "2.75", "3.25", "1.5", "2.0", "1.5"],
    ),
    (
        "approx_median(y)",
        ["1.0", "1.5", "2.75", "3.25", "1.5", "2.0", "1.5"],
    ),
    ("approx_distinct(s)", ["1", "2", "2", "2", "1", "1", "2"]),
    (
        "bool_or(x > 10)",
        ["false", "false", "true", "true", "false", "false", "false"],
    ),
    ("bit_or(o)", ["1", "3", "3", "7", "1", "3", "3"]),
];

/// Others, which it does not refuse.
const TAKEN: [(&str, [&str; 7]); 9] = [
    (
        "corr(o, y)",
        ["NULL", "1.0", "1.0", "-1.0", "NULL", "1.0", "-1.0"],
    ),
    (
        "array_agg(x)",
        [
            "[10]",
            "[10, 10]",
            "[10, 20]",
            "[20, 30]",
            "[5]",
            "[5, NULL]",
            "[NULL, 7]",
        ],
    ),
    (
        "array_agg(DISTINCT x)",
        [
            "[10]",
            "[10]",
            "[10, 20]",
            "[20, 30]",
            "[5]",
            "[5, NULL]",
            "[NULL, 7]",
        ],
    ),
    (
        "median(x)",
        ["10.0", "10.0", "15.0", "25.0", "5.0", "5.0", "7.0"],
    ),
    ("count(DISTINCT s)", ["1", "2", "2", "2", "1", "1", "2"]),
    ("sum(DISTINCT x)", ["10", "10", "30", "50", "5", "5", "7"]),
    (
        "avg(DISTINCT x) FILTER (WHERE o > 1)",
        ["NULL", "10.0", "15.0", "25.0", "NULL", "NULL", "7.0"],
    ),
    (
        "first_value(x) IGNORE NULLS",
        ["10", "10", "10", "20", "5", "5", "7"],
    ),
    (
        "top_k(s, 1)",
        ["[a]", "[a]", "[a]", "[a]", "[z]", "[z]", "[y]"],
    ),
];

#[tokio::test]
async fn aggregates_that_cannot_retract_work_in_frames_that_move() {
    let (stock, ours) = (stock(T).await, ours(T).await);
    for (call, right) in REFUSED {
        let call = format!("{call} {MOVING}");
        let told = refusal(&stock, &format!("SELECT {call} FROM t")).await;
        assert!(told.is_some(), "{call} works in DataFusion by now");
        assert_eq!(values(&ours, &call).await, right, "{call}");
    }
    for (call, right) in TAKEN {
        let call = format!("{call} {MOVING}");
        assert_eq!(values(&ours, &call).await, right, "{call}");
    }
}

#[tokio::test]
async fn what_is_no_number_leaves_with_its_row() {
    let t = "CREATE TABLE t AS SELECT 1 AS k, column1 AS o, column2 AS x FROM (VALUES
        (1, 1.0), (2, 'NaN'::DOUBLE), (3, 2.0), (4, 3.0), (5, 'Infinity'::DOUBLE), (6, 1e17), (7, 1e-3), (8, 1.0))";
    let frame = "OVER (ORDER BY o ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)";
    let (stock, ours) = (stock(t).await, ours(t).await);
    let sum = format!("sum(x) {frame}");
    let right = ["1.0", "NaN", "NaN", "5.0", "inf", "inf", "1e17", "1.001"];
    assert_eq!(values(&ours, &sum).await, right);
    assert_eq!(values(&stock, &sum).await[2..], ["NaN"; 6]);
    let mean = values(&ours, &format!("avg(x) {frame}")).await;
    assert_eq!(mean[3..], ["2.5", "inf", "inf", "5e16", "0.5005"]);
}

#[tokio::test]
async fn a_decayed_sum_is_as_of_its_row() {
    let t = "CREATE TABLE t AS SELECT column1 AS k, to_timestamp(column2) AS o, column3 AS x FROM (VALUES
        (1, '2026-01-01', 8.0), (1, '2026-01-02', 2.0), (1, '2026-01-04', NULL), (1, '2026-01-05', 1.0),
        (2, '2026-01-05', 1.0))";
    let ours = ours(t).await;
    let ever = format!("decayed_sum(x, INTERVAL '1 day') {W}");
    assert_eq!(
        values(&ours, &ever).await,
        ["8.0", "6.0", "1.5", "1.75", "1.0"]
    );
    let two_days = "decayed_sum(x, INTERVAL '1 day') FILTER (WHERE x < 8) OVER (PARTITION BY k ORDER BY o \
                    RANGE BETWEEN INTERVAL '2 days' PRECEDING AND INTERVAL '1 day' PRECEDING)";
    assert_eq!(
        values(&ours, two_days).await,
        ["NULL", "NULL", "0.5", "NULL", "NULL"]
    );
    let frame = ours.sql(&format!("SELECT {ever} FROM t")).await.unwrap();
    assert!(
        frame
            .schema()
            .field(0)
            .name()
            .starts_with("decayed_sum(t.x,")
    );
}

/// Names, types, order of columns and values stay as they are.
#[tokio::test]
async fn all_else_stays_as_it_is() {
    let (stock, ours) = (stock(T).await, ours(T).await);
    for select in [
        "row_number() OVER w, sum(x) OVER w, lag(x) OVER w, count(*) OVER w FROM t WINDOW w AS (PARTITION BY k ORDER BY o)",
        "*, min(x) OVER (PARTITION BY k), max(o) OVER (), first_value(s) OVER (PARTITION BY s ORDER BY o DESC, k) FROM t",
        "last_value(x) OVER (PARTITION BY k ORDER BY o ROWS BETWEEN CURRENT ROW AND 1 FOLLOWING), \
         last_value(x) OVER (PARTITION BY k ORDER BY o) AS l, count(x) OVER (PARTITION BY k ORDER BY o GROUPS 1 PRECEDING), k FROM t",
        "k, sum(sum(x)) OVER (ORDER BY k), avg(count(*)) OVER (ORDER BY k DESC) FROM t GROUP BY k",
        "sum(x) OVER (ORDER BY o RANGE BETWEEN 2 PRECEDING AND 1 PRECEDING) - x AS d, t.k FROM t WHERE x > 5",
        "count(x) OVER (PARTITION BY k + 1 ORDER BY o * -1) c1, nth_value(x, 2) OVER (PARTITION BY k ORDER BY o) FROM t",
        "a.k, count(*) OVER (PARTITION BY a.k ORDER BY b.o ROWS 1 PRECEDING) FROM t a JOIN t b ON a.x = b.x",
        "count(*) OVER w + 1, count(*) OVER w FROM t WINDOW w AS (PARTITION BY k ORDER BY o)",
        "sum(x) FILTER (WHERE y > 1) OVER (PARTITION BY k ORDER BY o) FROM (SELECT * FROM t WHERE k = 1)",
        "x, sum(1) OVER (ROWS UNBOUNDED PRECEDING), min(y) OVER (PARTITION BY k) FROM (SELECT * FROM t ORDER BY k, o)",
    ] {
        let sql = format!("SELECT {select}");
        let (of_stock, of_ours) = (
            stock.sql(&sql).await.unwrap(),
            ours.sql(&sql).await.unwrap(),
        );
        assert_eq!(
            of_stock.schema().as_arrow(),
            of_ours.schema().as_arrow(),
            "{sql}"
        );
        let plan = of_ours.clone().create_physical_plan().await.unwrap();
        assert_eq!(
            plan.schema(),
            of_stock.create_physical_plan().await.unwrap().schema()
        );
        let shown = datafusion::physical_plan::displayable(plan.as_ref())
            .indent(false)
            .to_string();
        assert!(shown.contains("PrecedingWindowsExec"), "{shown}");
        let (mut left, mut right) = (rows(&stock, &sql).await, rows(&ours, &sql).await);
        left.sort();
        right.sort();
        assert_eq!(left, right, "{sql}");
    }
    for wrong in [
        "sum(x) OVER (ORDER BY o ROWS BETWEEN 1 PRECEDING AND 2 PRECEDING) FROM t",
        "sum(x) OVER (ORDER BY o RANGE BETWEEN 1 PRECEDING AND 2 PRECEDING) FROM t",
        "sum(x) OVER (ORDER BY o ROWS BETWEEN CURRENT ROW AND 2 PRECEDING) FROM t",
        "sum(x) OVER (ORDER BY o, k RANGE BETWEEN 2 PRECEDING AND CURRENT ROW) FROM t",
    ] {
        let sql = format!("SELECT {wrong}");
        let (left, right) = (refusal(&stock, &sql).await, refusal(&ours, &sql).await);
        assert!(left.is_some(), "{sql}");
        assert_eq!(left, right);
    }
}

#[tokio::test]
async fn plans_show_it() {
    let ours = ours(T).await;
    let sql = "EXPLAIN SELECT row_number() OVER w, first_value(s) FILTER (WHERE x > 1) OVER w, \
               count(DISTINCT s) OVER (PARTITION BY k ORDER BY o RANGE BETWEEN 2 PRECEDING AND CURRENT ROW), \
               sum(x) OVER (ORDER BY o DESC ROWS 3 PRECEDING) \
               FROM t WINDOW w AS (PARTITION BY k ORDER BY o)";
    let plans = rows(&ours, sql).await.join("\n");
    insta::assert_snapshot!(plans);
}

/// An order that begins as the window's does, or ends as it does, is not the
/// window's.
#[tokio::test]
async fn rows_are_put_into_another_order_after_the_window() {
    let one = EngineSettings {
        target_partitions: 1,
        ..EngineSettings::default()
    };
    let (stock, ours, one) = (stock(T).await, ours(T).await, ours_with(one, T).await);
    for sql in [
        "SELECT k, y, sum(x) OVER (PARTITION BY k ORDER BY o) FROM t ORDER BY k, y",
        "SELECT s, o, sum(x) OVER (PARTITION BY k ORDER BY o) FROM t ORDER BY s, o, k",
        "SELECT k, o, sum(x) OVER (PARTITION BY k ORDER BY o), count(*) OVER (PARTITION BY s ORDER BY o)
         FROM t ORDER BY k, o",
    ] {
        let right = rows(&stock, sql).await;
        assert_eq!(rows(&ours, sql).await, right, "{sql}");
        assert_eq!(rows(&one, sql).await, right, "{sql}");
    }
}
