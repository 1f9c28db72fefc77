//! The functions that lenders need, as SQL gives them.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use granary_engine::Joins;

use crate::project::Project;

async fn value(sql: &str) -> String {
    let context = Project::new().engine.context(None, Joins::default());
    let frame = context.sql(&format!("SELECT {sql}")).await;
    let rows = match frame {
        Ok(frame) => frame.collect().await,
        Err(error) => Err(error),
    };
    match rows {
        Ok(rows) => {
            let options = FormatOptions::new().with_null("NULL");
            let shown = ArrayFormatter::try_new(rows[0].column(0), &options).unwrap();
            shown.value(0).to_string()
        }
        Err(error) => error.strip_backtrace(),
    }
}

#[allow(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn functions_give_what_their_tables_say() {
    // The cell of San Francisco is that of H3's own documentation.
    // A session without a time is as of the project's clock.
    for (sql, expected) in [
        (
            "to_hex(h3_cell(37.775938728915946, -122.41795063018799, 9))",
            "8928308280fffff",
        ),
        ("h3_cell(91, 0, 9)", "NULL"),
        ("h3_cell(0, 0, 16)", "NULL"),
        (
            "h3_parent(h3_cell(52.5, 13.4, 9), 7) = h3_cell(52.5, 13.4, 7)",
            "true",
        ),
        ("h3_parent(h3_cell(52.5, 13.4, 7), 9)", "NULL"),
        ("array_length(h3_ring(h3_cell(52.5, 13.4, 8), 1))", "7"),
        (
            "array_has(h3_ring(h3_cell(52.5, 13.4, 8), 2), h3_cell(52.5, 13.4, 8))",
            "true",
        ),
        ("h3_ring(5, 1)", "NULL"),
        (
            "h3_distance(h3_cell(52.5, 13.4, 8), h3_cell(52.5, 13.4, 8))",
            "0",
        ),
        (
            "(SELECT max(h3_distance(h3_cell(52.5, 13.4, 8), c)) FROM (SELECT unnest(h3_ring(h3_cell(52.5, 13.4, 8), 2)) AS c))",
            "2",
        ),
        (
            "h3_distance(h3_cell(52.5, 13.4, 8), h3_cell(52.5, 13.4, 9))",
            "NULL",
        ),
        (
            "round(great_circle_distance(52.5, 13.4, 48.1, 11.6) / 1000)",
            "506.0",
        ),
        ("great_circle_distance(0, 0, 0, 0)", "0.0"),
        ("great_circle_distance(0, 200, 0, 0)", "NULL"),
        ("phone_e164('(030) 123-4567', '49')", "+49301234567"),
        ("phone_e164('nobody', '49')", "NULL"),
        ("round(jaro_winkler('MARTHA', 'MARHTA'), 4)", "0.9611"),
        ("jaro_winkler('a', NULL)", "NULL"),
        (
            "days_past_due(DATE '2026-01-01', DATE '2026-01-11', DATE '2026-02-01')",
            "10",
        ),
        (
            "days_past_due(DATE '2026-01-01', NULL, TIMESTAMP '2026-01-31T12:00:00')",
            "30",
        ),
        (
            "days_past_due(DATE '2026-01-01', DATE '2026-02-11', DATE '2026-01-03')",
            "2",
        ),
        (
            "days_past_due(DATE '2026-01-01', DATE '2025-12-11', DATE '2026-01-03')",
            "0",
        ),
        (
            "days_past_due(NULL, DATE '2025-12-11', DATE '2026-01-03')",
            "NULL",
        ),
        ("binned(24.9, [25, 35, 50], [12, 18, 25, 31])", "12.0"),
        ("binned(25, [25, 35, 50], [12, 18, 25, 31])", "18.0"),
        ("binned(80, [25, 35, 50], [12, 18, 25, 31.5])", "31.5"),
        ("binned(NULL, [25], [12, 18])", "NULL"),
        ("normalize_id(' ab-12 / 34')", "AB1234"),
        ("normalize_id(' - ')", "NULL"),
        ("normalize_id(NULL)", "NULL"),
        ("time_since(as_of() - INTERVAL '90 seconds')", "90.0"),
        ("time_since(as_of() - INTERVAL '1 millisecond')", "0.001"),
        ("time_since(as_of() + INTERVAL '1 hour')", "-3600.0"),
        (
            "time_since(as_of() - INTERVAL '119 seconds', 'minutes')",
            "1",
        ),
        ("time_since(as_of() + INTERVAL '1 second', 'minutes')", "-1"),
        ("time_since(as_of() - INTERVAL '36 hours', 'hours')", "36"),
        ("time_since(as_of() - INTERVAL '36 hours', 'days')", "1"),
        (
            "time_since(as_of() - INTERVAL '1500 milliseconds', 'seconds')",
            "1",
        ),
        ("time_since(NULL)", "NULL"),
        ("time_since(CAST(NULL AS TIMESTAMP), 'days')", "NULL"),
        (
            "time_since(CAST(as_of() AS DATE)) BETWEEN 0 AND 86400",
            "true",
        ),
        ("arrow_typeof(time_since(as_of()))", "Float64"),
        ("arrow_typeof(time_since(as_of(), 'days'))", "Int64"),
        (
            "(SELECT count(*) FILTER (WHERE time_since(t, 'hours') < 2)
              FROM (VALUES (as_of()), (as_of() - INTERVAL '2 hours')) AS e(t))",
            "1",
        ),
    ] {
        assert_eq!(value(sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn wrong_constants_are_told() {
    for (sql, part) in [
        (
            "h3_ring(h3_cell(52.5, 13.4, 8), 1000)",
            "h3_ring takes 0 to 50 steps, got 1000",
        ),
        ("binned(1, [25, 20], [1, 2, 3])", "the bounds must ascend"),
        (
            "binned(1, [25], [1, 2, 3])",
            "1 bounds make 2 bins, and there are 3 values",
        ),
        (
            "time_since(as_of(), 'weeks')",
            "time_since: unit must be 'seconds', 'minutes', 'hours' or 'days', \
             written as a constant, got weeks",
        ),
        (
            "u FROM (VALUES ('days')) AS v(u) WHERE time_since(as_of(), u) > 0",
            "time_since: argument 2 must be written as a constant, got v.u",
        ),
        (
            "time_since(5)",
            "time_since: t must be a TIMESTAMP or a DATE, got Int64",
        ),
    ] {
        let told = value(sql).await;
        assert!(told.contains(part), "{told}");
    }
}
