//! `granary verify`: agreement, differences and how they are told, rows with
//! inputs, a server, and logged reads.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::project::{BALANCES, Project, SMALL};
use crate::serve::Server;

const ON_DEMAND: &str = "\
CREATE ON DEMAND FEATURE VIEW loan INPUT (asked DOUBLE)
AS SELECT asked / nullif(customer_balance.balance, 0) AS part, customer_balance.balance * 2 AS twice
   FROM customer_balance;
CREATE FEATURE SERVICE lending AS SELECT customer_rows.total, loan.* FROM customer_rows, loan;
";

const STREAM: &str = "\
CREATE STREAM tap (customer_id BIGINT, n BIGINT, at TIMESTAMP) EVENT TIME at;
CREATE FEATURE VIEW taps ENTITY customer EVENT TIME at
AS SELECT customer_id, count(*) OVER h AS taps_1h FROM tap
   WINDOW h AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);
CREATE FEATURE SERVICE tapping AS SELECT taps.taps_1h, customer_balance.balance FROM taps, customer_balance;
";

fn project(config: &str, sql: &str) -> Project {
    let project = Project::empty();
    project.write("granary.toml", config);
    project.write("data/balances.csv", BALANCES);
    project.write("sql/balances.sql", format!("{SMALL}{sql}"));
    project.applied().materialized()
}

fn verified(project: &Project, arguments: &[&str]) -> Value {
    let all = [&["verify"], arguments, &["--output", "json"]].concat();
    project.granary(&all).json()
}

fn feature<'r>(report: &'r Value, name: &str) -> &'r Value {
    let features = report["features"].as_array().unwrap();
    { features.iter() }.find(|f| f["feature"] == name).unwrap()
}

#[test]
fn what_agrees_is_told_and_ends_well() {
    let project = project("", "");
    let report = verified(&project, &["limits"]);
    assert_eq!(
        (&report["rows"], &report["compared"], &report["different"]),
        (&json!(3), &json!(12), &json!(0)),
        "{report}"
    );
    assert_eq!(feature(&report, "balance")["present"], 3);
    assert_eq!(feature(&report, "number")["present"], 2);
    let run = project.granary(&["verify", "limits", "--sample", "2"]);
    run.succeeded();
    assert!(
        run.stdout
            .contains("8 values of 2 rows: 8 equal, 0 different"),
        "{run:#?}"
    );
    project
        .granary(&["verify", "limit"])
        .failed(1, &["\"limit\"; did you mean \"limits\"?"]);
}

#[test]
fn a_difference_is_shown_and_ends_with_one() {
    let project = project("", "");
    // The run wrote another value than its source has by now.
    project.write("data/balances.csv", BALANCES.replace("20.5", "23"));
    let run = project.granary(&["verify", "limits"]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(
        run.stdout.contains("balance: customer_id=1 as of "),
        "{run:#?}"
    );
    assert!(
        run.stdout.contains("online 20.5, training 23.0"),
        "{run:#?}"
    );
    let run = project.granary(&["verify", "limits", "--output", "json"]);
    assert_eq!(run.code, 1, "{run:#?}");
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let balance = feature(&report, "balance");
    assert_eq!(balance["equal"], 2);
    assert_eq!(balance["different"], 1);
    assert_eq!(balance["worst_difference"], 2.5);
    let example = &balance["examples"][0];
    assert_eq!(example["request"], json!({"customer_id": 1}));
    assert_eq!(
        example["online"],
        json!({"value": 20.5, "status": "PRESENT"})
    );
    assert_eq!(
        example["training"],
        json!({"value": 23.0, "status": "PRESENT"})
    );
    assert_eq!(report["different"], 1);
}

#[test]
fn inputs_come_from_a_spine() {
    let project = project("", ON_DEMAND);
    let report = verified(&project, &["lending"]);
    assert_eq!(report["left_out"][0]["feature"], "part", "{report}");
    assert!(
        report["left_out"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("asked")
    );
    assert_eq!(feature(&report, "twice")["present"], 3);
    assert_eq!(report["features"].as_array().unwrap().len(), 2);
    project.write(
        "loans.csv",
        "asked,customer_id,label\n10,1,x\n20,1,y\n5,9,z\n,2,\n",
    );
    let loans = project.path("loans.csv");
    let report = verified(&project, &["lending", "--spine", loans.to_str().unwrap()]);
    assert_eq!(report["left_out"], json!([]));
    assert_eq!(report["compared"], 12);
    let sql = "SELECT customer_id, balance AS asked FROM balances";
    let of_query = verified(&project, &["lending", "--spine-sql", sql]);
    assert_eq!(
        (&of_query["rows"], &of_query["left_out"]),
        (&json!(4), &json!([]))
    );
    let sql = "SELECT balance AS asked FROM balances";
    let run = project.granary(&["verify", "lending", "--spine-sql", sql]);
    run.failed(1, &["no key column customer_id"]);
    let part = feature(&report, "part");
    assert_eq!(
        (&part["equal"], &part["present"]),
        (&json!(4), &json!(2)),
        "{report}"
    );
}

#[test]
fn a_server_is_verified_and_its_log_is_replayed() {
    let project = project("[serve.server]\nlog_reads = 1.0\n", STREAM);
    let server = Server::start(&project);
    let now = "{\"customer_id\": 1, \"n\": 1, \"at\": \"2026-01-01\"}\n";
    project.write("taps.jsonl", now);
    let taps = project.path("taps.jsonl");
    let push = ["push", "tap", "--file", taps.to_str().unwrap()];
    project.granary(&push).succeeded();
    let get = |service: &str, key: &str| {
        let arguments = ["get", "--service", service, "--key", key];
        project.granary(&arguments).succeeded();
    };
    get("tapping", "customer_id=1,2,9");
    get("tapping", "customer_id=1");
    get("limits", "customer_id=1,3,NULL");
    // Not as of now: not logged.
    let past = [
        "get",
        "--service",
        "limits",
        "--key",
        "customer_id=1",
        "--as-of",
        "2100-01-01",
    ];
    project.granary(&past).succeeded();
    let report = verified(&project, &["tapping"]);
    assert_eq!(
        (&report["rows"], &report["different"]),
        (&json!(3), &json!(0)),
        "{report}"
    );

    let (code, told) = server.stop("-TERM");
    assert_eq!(code, Some(0), "{told}");
    // Four by hand, and what was verified.
    let report = verified(&project, &["tapping", "--logged"]);
    assert_eq!(
        (&report["rows"], &report["different"]),
        (&json!(7), &json!(0)),
        "{report}"
    );
    assert_eq!(feature(&report, "taps_1h")["equal"], 7);
    let report = verified(&project, &["limits", "--logged", "--since", "2026-01-01"]);
    assert_eq!(
        (&report["rows"], &report["compared"]),
        (&json!(2), &json!(8)),
        "{report}"
    );
    let later = ["verify", "limits", "--logged", "--since", "2100-01-01"];
    project
        .granary(&later)
        .failed(1, &["no reads of it as it is now are logged"]);

    // Of what was served then, the source says something else now.
    project.write("data/balances.csv", BALANCES.replace("0.25", "0.75"));
    let run = project.granary(&["verify", "limits", "--logged"]);
    assert_eq!(run.code, 1, "{run:#?}");
    assert!(run.stdout.contains("customer_id=3 as of "), "{run:#?}");
}

#[test]
fn a_log_survives_a_kill_as_far_as_it_was_written_and_has_the_same_keys_always() {
    let config = "[serve.server]\nlog_reads = 0.5\nlog_reads_seconds = 1\n";
    let project = project(config, "");
    let table = project.path(".granary/reads/limits");
    let keys: Vec<String> = (1..=60).map(|id| id.to_string()).collect();
    let keys = format!("customer_id={}", keys.join(","));
    let mut rows = Vec::new();
    for round in 1..=2 {
        let server = Server::start(&project);
        let endpoint = server.grpc.clone();
        let get = [
            "get",
            "--service",
            "limits",
            "--key",
            &keys,
            "--endpoint",
            &endpoint,
        ];
        project.granary(&get).succeeded();
        let written = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(100));
            let counted = server.http("/metrics");
            let counted = counted
                .lines()
                .find(|l| l.starts_with("granary_logged_reads_total"));
            !counted.unwrap().ends_with(" 0")
        });
        assert!(written, "round {round}");
        server.stop("-KILL");
        let report = verified(&project, &["limits", "--logged"]);
        assert_eq!(report["different"], 0, "{report}");
        rows.push(report["rows"].as_u64().unwrap());
    }
    assert!(rows[0] > 10 && rows[0] < 50, "{rows:?}");
    assert_eq!(rows[1], 2 * rows[0]);
    // One table, and a commit a server.
    let shapes: Vec<_> = fs::read_dir(table).unwrap().collect();
    assert_eq!(shapes.len(), 1);
    let log = shapes[0].as_ref().unwrap().path().join("_delta_log");
    assert_eq!(fs::read_dir(log).unwrap().count(), 2);
}
