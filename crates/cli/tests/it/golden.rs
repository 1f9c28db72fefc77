//! From an empty folder to values, by the example project and by a small one
//! whose values are known.

use serde_json::{Value, json};

use crate::project::Project;

#[test]
fn the_example_works_at_once() {
    let above = Project::empty();
    let made = above.granary(&["init", "shop"]);
    let project = above.inner("shop");
    assert!(
        made.succeeded().stdout.contains("granary apply"),
        "{made:?}"
    );

    let pending = project.granary(&["plan", "--exit-code"]);
    assert_eq!(pending.code, 3, "{pending:?}");
    assert!(
        pending
            .stdout
            .contains("create feature view customer_orders")
    );
    project.granary(&["plan"]).succeeded();

    project.granary(&["apply", "--yes"]).succeeded();
    let unchanged = project.granary(&["plan", "--exit-code"]);
    assert!(unchanged.succeeded().stdout.contains("No changes"));
    let again = project.granary(&["apply", "--yes"]);
    assert!(again.succeeded().stdout.contains("No changes"));

    let ran = project.granary(&["materialize"]);
    for view in ["customer_profile", "customer_orders"] {
        assert!(ran.succeeded().stdout.contains(view), "{ran:?}");
    }

    let keys = "customer_id=1,2,3,999";
    let got = project.granary(&["get", "--service", "shop_overview", "--key", keys]);
    assert!(got.succeeded().stdout.contains("amount_30d"), "{got:?}");
    let json = project
        .granary(&[
            "get",
            "--service",
            "shop_overview",
            "--key",
            keys,
            "--output",
            "json",
        ])
        .json();
    let names: Vec<&str> = columns(&json).map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "customer_id",
            "city",
            "monthly_income",
            "orders_30d",
            "amount_30d",
            "categories_30d",
            "last_order_at"
        ]
    );
    let city = column(&json, "city");
    assert_eq!(
        city["statuses"],
        json!(["PRESENT", "PRESENT", "PRESENT", "NOT_FOUND"])
    );
    assert_eq!(city["values"][3], Value::Null);

    let counted = project.query("SELECT count(*) AS n FROM customer_orders");
    assert!(counted[0]["n"].as_i64().unwrap() > 0, "{counted}");
    project.granary(&["describe"]).succeeded();
    project
        .granary(&["describe", "customer_orders"])
        .succeeded();
    project.granary(&["status"]).succeeded();
    project.granary(&["history"]).succeeded();
}

fn columns(answer: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let columns = answer["columns"].as_array().unwrap().iter();
    columns.map(|c| (c["name"].as_str().unwrap(), c))
}

#[track_caller]
fn column<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let found = columns(answer).find(|(n, _)| *n == name);
    found.unwrap_or_else(|| panic!("no {name} in {answer}")).1
}

#[test]
fn values_statuses_and_times_are_those_of_the_file() {
    let project = Project::small().applied().materialized();
    let answer = project
        .granary(&[
            "get",
            "--service",
            "limits",
            "--key",
            "customer_id=1,2,7,",
            "--output",
            "json",
        ])
        .json();
    let expected = json!({"columns": [
        {"name": "customer_id", "values": [1, 2, 7, null]},
        {
            "name": "balance",
            "values": [20.5, -3.0, null, null],
            "statuses": ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND"],
            "event_times": ["2026-02-01T00:00:00Z", "2026-01-15T12:30:00Z", null, null]
        },
        {
            "name": "number",
            "values": ["b", null, null, null],
            "statuses": ["PRESENT", "NULL_VALUE", "NOT_FOUND", "NOT_FOUND"],
            "event_times": ["2026-02-01T00:00:00Z", "2026-01-15T12:30:00Z", null, null]
        },
        {
            "name": "rows_seen",
            "values": [2, 1, null, null],
            "statuses": ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND"],
            "event_times": [null, null, null, null]
        },
        {
            "name": "total",
            "values": ["31.00", "-3.00", null, null],
            "statuses": ["PRESENT", "PRESENT", "NOT_FOUND", "NOT_FOUND"],
            "event_times": [null, null, null, null]
        },
    ]});
    assert_eq!(answer, expected);
}

#[test]
fn features_are_read_by_name_too() {
    let project = Project::small().applied().materialized();
    let read = |more: &[&str]| {
        let mut arguments = vec!["get", "--features"];
        arguments.extend_from_slice(more);
        arguments.extend_from_slice(&["--key", "customer_id=3", "--output", "json"]);
        project.granary(&arguments).json()
    };
    let answer = read(&["customer_rows.rows_seen,customer_balance.balance"]);
    let names: Vec<&str> = columns(&answer).map(|(name, _)| name).collect();
    assert_eq!(names, ["customer_id", "rows_seen", "balance"]);
    assert_eq!(column(&answer, "balance")["values"], json!([0.25]));

    let full = read(&["customer_balance.balance", "--full-names"]);
    assert_eq!(
        column(&full, "customer_balance__balance")["values"],
        json!([0.25])
    );
}

#[test]
fn a_run_as_of_the_past_sees_nothing_later() {
    let project = Project::small().applied();
    let as_of = "2026-01-20T00:00:00Z";
    let ran = project
        .granary(&["materialize", "--as-of", as_of, "--output", "json"])
        .json();
    let rows: Vec<(&str, u64)> = ran["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            (
                r["view"].as_str().unwrap(),
                r["run"]["rows"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(rows.len(), 2, "{ran}");
    assert!(rows.iter().all(|(_, n)| *n == 2), "{ran}");

    let answer = project
        .granary(&[
            "get",
            "--service",
            "limits",
            "--key",
            "customer_id=1,3",
            "--output",
            "json",
        ])
        .json();
    assert_eq!(column(&answer, "balance")["values"], json!([10.5, null]));

    // The same run again is skipped and says so.
    let again = project
        .granary(&["materialize", "--as-of", as_of, "--output", "json"])
        .json();
    let results: Vec<&str> = again["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["result"].as_str().unwrap())
        .collect();
    assert_eq!(results, ["skipped", "skipped"], "{again}");

    // And the rest comes with the next one.
    project.granary(&["materialize"]).succeeded();
    let counted = project.query("SELECT count(*) AS n FROM customer_balance");
    assert_eq!(counted, json!([{"n": 4}]));
}

#[test]
fn status_describe_and_history_tell_what_was_done() {
    let project = Project::small().applied().materialized();
    let status = project.granary(&["status", "--output", "json"]).json();
    assert_eq!(status["snapshot"], 1);
    let view = &status["views"][0];
    assert_eq!(view["view"], "customer_balance");
    assert_eq!(view["kind"], "timestamped");
    assert_eq!(view["online"]["rows"], 3);
    assert_eq!(view["runs"][0]["rows"], 4);

    let described = project
        .granary(&["describe", "customer_balance", "--output", "json"])
        .json();
    assert_eq!(described["kind"], "feature_view");
    assert_eq!(described["owner"], "risk");
    assert_eq!(described["depends_on"], json!(["balances", "customer"]));
    assert_eq!(described["used_by"], json!(["limits"]));
    let roles: Vec<(&str, &str, &str)> = described["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| {
            let text = |key: &str| c[key].as_str().unwrap();
            (text("name"), text("type"), text("role"))
        })
        .collect();
    assert_eq!(
        roles,
        [
            ("customer_id", "BIGINT", "key"),
            ("at", "TIMESTAMP", "event_time"),
            ("balance", "DOUBLE", "feature"),
            ("phone", "VARCHAR", "feature"),
        ]
    );
    assert_eq!(described["versions"][0]["version"], 1);
    let statistics = described["runs"][0]["columns"].as_array().unwrap();
    let balance = statistics.iter().find(|c| c["name"] == "balance").unwrap();
    assert_eq!(
        (&balance["min"], &balance["max"]),
        (&json!("-3.0"), &json!("20.5"))
    );
    let text = project.granary(&["describe", "customer_balance"]);
    assert!(
        text.succeeded()
            .stdout
            .contains("SELECT customer_id, at, balance, phone")
    );

    project.write(
        "sql/more.sql",
        "COMMENT ON FEATURE VIEW customer_balance IS 'money';",
    );
    project
        .granary(&["apply", "--yes", "--by", "ann"])
        .succeeded();
    let history = project.granary(&["history", "--output", "json"]).json();
    let by: Vec<&str> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|h| h["committed_by"].as_str().unwrap())
        .collect();
    assert_eq!(by, ["ann", "tester"]);
    assert_eq!(history[0]["changes"][0]["action"], "alter");
}

#[test]
fn a_changed_view_is_a_new_version() {
    let project = Project::small().applied().materialized();
    let changed = crate::project::SMALL.replace(
        "SELECT customer_id, at, balance, phone",
        "SELECT customer_id, at, balance * 2 AS balance, phone",
    );
    project.write("sql/balances.sql", changed);
    let plan = project.granary(&["plan"]);
    assert!(plan.succeeded().stdout.contains("version 2"), "{plan:?}");
    project.granary(&["apply", "--yes"]).succeeded();

    let read = || {
        let arguments = [
            "get",
            "--service",
            "limits",
            "--key",
            "customer_id=1",
            "--output",
            "json",
        ];
        column(&project.granary(&arguments).json(), "balance")["values"].clone()
    };
    // Readers keep the old version until the new one is there.
    assert_eq!(read(), json!([20.5]));
    project
        .granary(&["materialize", "customer_balance"])
        .succeeded();
    assert_eq!(read(), json!([41.0]));
}
