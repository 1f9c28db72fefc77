//! A run as of T sees nothing later than T, wherever a source stands in the query.

use granary_engine::RunMode;

use crate::project::Project;

const PAYMENTS: &str = "SELECT * FROM (VALUES
    (1, to_timestamp('2024-03-01T00:00:00'), 1.0),
    (1, to_timestamp('2024-12-31T00:00:00'), 2.0),
    (1, to_timestamp('2025-03-01T00:00:00'), 4.0),
    (2, to_timestamp('2025-04-01T00:00:00'), 8.0)) AS t(customer_id, at, amount)";
const CUSTOMERS: &str = "SELECT * FROM (VALUES
    (1, to_timestamp('2020-01-01T00:00:00')),
    (2, to_timestamp('2020-01-01T00:00:00')),
    (3, to_timestamp('2025-01-01T00:00:00'))) AS t(customer_id, joined)";

#[allow(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn a_backfill_of_last_year_does_not_see_this_year() {
    let mut project = Project::new();
    project
        .table_from_sql("payment", PAYMENTS, Some("at"))
        .await;
    project
        .table_from_sql("customer", CUSTOMERS, Some("joined"))
        .await;
    project.table_from_sql("raw_payment", PAYMENTS, None).await;
    let clean = "SELECT customer_id, at, amount * 10 AS tenfold FROM raw_payment";
    project.plain_view("clean", clean, Some("at")).await;
    let cases = [
        (
            "join",
            "SELECT c.customer_id, coalesce(sum(p.amount), 0) AS x FROM customer c
             LEFT JOIN payment p ON p.customer_id = c.customer_id GROUP BY 1",
            ["1|3.0", "2|0.0"].as_slice(),
        ),
        (
            "scalar_subquery",
            "SELECT customer_id, (SELECT max(amount) FROM payment) AS x FROM customer",
            &["1|2.0", "2|2.0"],
        ),
        (
            "exists_subquery",
            "SELECT customer_id, 1 AS x FROM customer WHERE customer_id NOT IN
             (SELECT customer_id FROM payment)",
            &["2|1"],
        ),
        (
            "union_of_two",
            "SELECT customer_id, sum(amount) AS x FROM (SELECT customer_id, amount FROM payment
             UNION ALL SELECT customer_id, tenfold FROM clean) AS u GROUP BY 1",
            &["1|33.0"],
        ),
        (
            "common_table",
            "WITH p AS (SELECT * FROM clean) SELECT customer_id, max(tenfold) AS x FROM p GROUP BY 1",
            &["1|20.0"],
        ),
        (
            "over_window",
            "SELECT customer_id, x FROM (SELECT customer_id, sum(amount) OVER (PARTITION BY customer_id) AS x,
             row_number() OVER (PARTITION BY customer_id ORDER BY at DESC) AS n FROM payment) AS w WHERE n = 1",
            &["1|3.0"],
        ),
        (
            "as_of_function",
            "SELECT customer_id, sum(amount) FILTER (WHERE at > as_of() - INTERVAL '30 days') AS x
             FROM payment GROUP BY customer_id",
            &["1|2.0"],
        ),
        (
            "time_since_function",
            "SELECT customer_id, sum(amount) FILTER (WHERE time_since(at, 'days') < 30) AS x
             FROM payment GROUP BY customer_id",
            &["1|2.0"],
        ),
    ];
    for (name, query, expected) in cases {
        let view = project
            .feature_view(name, &["customer_id"], &[], query)
            .await;
        project
            .run(&view, "2024-12-31", RunMode::Append)
            .await
            .unwrap();
        assert_eq!(project.online(&view, None, None).await, expected, "{name}");
        project
            .run(&view, "2025-12-31", RunMode::Append)
            .await
            .unwrap();
        let now = project.online(&view, None, None).await;
        assert_ne!(now, expected, "{name}: this year's rows change the value");
    }
}

#[tokio::test]
async fn a_view_is_cut_by_its_own_event_time() {
    let mut project = Project::new();
    project.table_from_sql("raw_payment", PAYMENTS, None).await;
    let view = project
        .feature_view("v", &["customer_id"], &["at"], "SELECT * FROM raw_payment")
        .await;
    let record = project
        .run(&view, "2024-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(record.rows, 2);
}

#[tokio::test]
async fn a_view_reads_another_as_of_the_same_time() {
    let mut project = Project::new();
    project
        .table_from_sql("payment", PAYMENTS, Some("at"))
        .await;
    let base = project
        .feature_view(
            "last_payment",
            &["customer_id"],
            &["at"],
            "SELECT * FROM payment",
        )
        .await;
    project
        .run(&base, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    let query = "SELECT customer_id, amount AS x FROM last_payment WHERE customer_id < 5";
    let view = project
        .feature_view("derived", &["customer_id"], &[], query)
        .await;
    for (as_of, expected) in [
        ("2024-03-01", ["1|1.0"].as_slice()),
        ("2025-01-31", &["1|2.0"]),
        ("2025-12-31", &["1|4.0", "2|8.0"]),
    ] {
        project.run(&view, as_of, RunMode::Append).await.unwrap();
        assert_eq!(
            project.online(&view, None, None).await,
            expected,
            "as of {as_of}"
        );
    }
}

#[tokio::test]
async fn ties_go_to_the_greatest_values_with_null_lowest_and_nan_highest() {
    let mut project = Project::new();
    let rows = "SELECT column1 AS id, to_timestamp('2025-01-01T00:00:00') AS at,
        to_timestamp(column2) AS written, column3 AS x, column4 AS y FROM (VALUES
        (1, '2025-01-02T00:00:00', 1.0, 'a'), (1, '2025-01-03T00:00:00', 0.0, 'b'),
        (2, NULL, 9.0, 'a'), (2, '2025-01-03T00:00:00', 0.0, 'b'),
        (3, '2025-01-03T00:00:00', NULL, 'z'), (3, '2025-01-03T00:00:00', -5.0, NULL),
        (4, '2025-01-03T00:00:00', 1e300, 'z'), (4, '2025-01-03T00:00:00', CAST('NaN' AS DOUBLE), NULL),
        (5, '2025-01-03T00:00:00', 1.0, 'a'), (5, '2025-01-03T00:00:00', 1.0, 'b'))";
    project.table_from_sql("raw", rows, None).await;
    let view = project
        .feature_view("v", &["id"], &["at", "written"], "SELECT * FROM raw")
        .await;
    project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(
        project
            .sql(Some("2025-12-31"), "SELECT id, x, y FROM v ORDER BY id")
            .await,
        ["1|0.0|b", "2|0.0|b", "3|-5.0|NULL", "4|NaN|NULL", "5|1.0|b"]
    );
}
