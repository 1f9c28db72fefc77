//! Older events of another system: into the history, and into what reads see.

use std::time::Duration;

use granary_model::{Clock, SystemClock, UtcMicros};
use serde_json::{Value, json};

use crate::project::{Project, Run};
use crate::serve::Server;

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;

const STREAM: &str = "\
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE STREAM card_event (event_id VARCHAR, customer_id BIGINT, amount DOUBLE, at TIMESTAMP)
  EVENT TIME at DEDUPLICATE BY (event_id) HISTORY card_history;
CREATE STREAM bare (event_id VARCHAR, at TIMESTAMP) EVENT TIME at;
CREATE STREAM tap (customer_id BIGINT, at TIMESTAMP) EVENT TIME at HISTORY tap_history;
";

/// A view of the events of two days, and of so many.
fn view(days: u32) -> String {
    let window = |days| {
        format!(
            "(PARTITION BY customer_id ORDER BY at
              RANGE BETWEEN INTERVAL '{days} days' PRECEDING AND CURRENT ROW)"
        )
    };
    format!(
        "CREATE FEATURE VIEW spend ENTITY customer EVENT TIME at
         AS SELECT customer_id, count(*) OVER few AS few, count(*) OVER all_of_them AS many,
                   sum(amount) OVER all_of_them AS amount
            FROM card_event WINDOW few AS {}, all_of_them AS {};",
        window(2),
        window(days)
    )
}

fn project() -> Project {
    let project = Project::empty();
    project.write("granary.toml", "");
    project.write("sql/streams.sql", STREAM);
    project.write("sql/view.sql", view(90));
    project.applied()
}

/// Rows of customer 1.
fn csv(events: &[(&str, f64, UtcMicros)]) -> String {
    let row = |(id, amount, at): &(&str, f64, UtcMicros)| format!("{id},1,{amount},{at}\n");
    let rows: String = events.iter().map(row).collect();
    format!("event_id,customer_id,amount,at\n{rows}")
}

fn push(project: &Project, stream: &str, content: &str, more: &[&str]) -> Run {
    project.write("events.csv", content);
    let path = project.path("events.csv");
    let arguments = ["push", stream, "--file", path.to_str().unwrap()];
    project.granary(&[&arguments, more].concat())
}

fn counts(run: &Run) -> Value {
    let told = run.json();
    let names = ["appended", "history", "duplicates", "refused"];
    names.map(|name| told[name].clone()).into()
}

/// The features of customer 1 as of a time, as a read answers them.
fn read(project: &Project, as_of: &str) -> Run {
    project.granary(&[
        "get",
        "--features",
        "spend.*",
        "--key",
        "customer_id=1",
        "--as-of",
        as_of,
        "--output",
        "json",
    ])
}

fn values(answer: &Value) -> Value {
    let columns = answer["columns"].as_array().unwrap().iter();
    let features = columns.filter(|column| column["name"] != "customer_id");
    features.map(|column| column["values"][0].clone()).collect()
}

/// The same of a training set.
fn trained(project: &Project, as_of: &str) -> Value {
    project.write("spine.csv", format!("customer_id,event_time\n1,{as_of}\n"));
    let (spine, out) = (project.path("spine.csv"), project.path("set.csv"));
    let run = project.granary(&[
        "get-historical",
        "--spine",
        spine.to_str().unwrap(),
        "--features",
        "spend.*",
        "--out",
        out.to_str().unwrap(),
        "--overwrite",
    ]);
    run.succeeded();
    let set = std::fs::read_to_string(out).unwrap();
    let row = set.lines().nth(1).unwrap();
    let numbers = row.split(',').skip(2).map(str::parse::<f64>);
    json!(numbers.map(Result::unwrap).collect::<Vec<_>>())
}

/// What a read and a training set must both say.
fn agree(project: &Project, as_of: &str, expected: [f64; 3]) {
    // A server sees what is applied a little later.
    let mut told = None;
    for _ in 0..100 {
        let run = read(project, as_of);
        if run.code == 0 {
            let found = values(&run.json());
            let numbers = found.as_array().unwrap().iter().map(Value::as_f64);
            if numbers.eq(expected.map(Some)) {
                assert_eq!(trained(project, as_of), json!(expected));
                return;
            }
        }
        told = Some(run);
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{told:#?}, not {expected:?}");
}

#[test]
fn older_events_count_in_reads_and_training_sets_alike() {
    for served in [false, true] {
        let project = project();
        let server = served.then(|| Server::start(&project));
        let now = SystemClock.now();
        let ago = |micros: i64| UtcMicros(now.0 - micros);
        let as_of = now.to_string();
        let json = ["--output", "json"];
        let live = csv(&[("a", 1.0, ago(HOUR)), ("b", 2.0, ago(DAY))]);
        let pushed = push(&project, "card_event", &live, &json);
        assert_eq!(counts(&pushed), json!([2, 0, 0, 0]));
        agree(&project, &as_of, [2.0, 2.0, 3.0]);

        // One of them is live already, another comes twice, one is beyond the window.
        let older = csv(&[
            ("c", 4.0, ago(10 * DAY)),
            ("d", 8.0, ago(80 * DAY)),
            ("b", 100.0, ago(DAY)),
            ("e", 16.0, ago(100 * DAY)),
            ("c", 100.0, ago(10 * DAY)),
        ]);
        let into = ["--history", "--output", "json"];
        let pushed = push(&project, "card_event", &older, &into);
        assert_eq!(counts(&pushed), json!([0, 3, 2, 0]));
        agree(&project, &as_of, [2.0, 4.0, 15.0]);
        let again = push(&project, "card_event", &older, &into);
        assert_eq!(counts(&again), json!([0, 0, 5, 0]));

        // Live events after them, of which two are in the history.
        let live = csv(&[("f", 32.0, ago(2 * HOUR)), ("d", 100.0, ago(80 * DAY))]);
        let pushed = push(&project, "card_event", &live, &json);
        assert_eq!(counts(&pushed), json!([1, 0, 1, 0]));
        agree(&project, &as_of, [3.0, 5.0, 47.0]);

        project.write("sql/view.sql", view(365));
        project.granary(&["apply", "--yes"]).succeeded();
        agree(&project, &as_of, [3.0, 6.0, 63.0]);
        let all = "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM card_event";
        assert_eq!(project.query(all), json!([{"n": 6, "ids": 6}]));
        if let Some(server) = server {
            let (code, told) = server.stop("-TERM");
            assert_eq!(code, Some(0), "{told}");
        }
    }
}

#[test]
fn rows_that_no_column_tells_apart_come_once_a_file() {
    let project = project();
    let rows = "customer_id,at\n1,2026-01-01\n1,2026-01-01\n2,2026-01-01\n";
    let into = ["--history", "--output", "json", "--batch-rows", "1"];
    assert_eq!(
        counts(&push(&project, "tap", rows, &into)),
        json!([0, 3, 0, 0])
    );
    assert_eq!(
        counts(&push(&project, "tap", rows, &into)),
        json!([0, 0, 3, 0])
    );
    let count = project.query("SELECT count(*) AS n FROM tap");
    assert_eq!(count, json!([{"n": 3}]));
}

#[test]
fn what_cannot_go_into_a_history_is_told() {
    let project = project();
    for served in [false, true] {
        let server = served.then(|| Server::start(&project));
        let endpoint = server.as_ref().map(|server| server.grpc.clone());
        let mut into = vec!["--history"];
        if let Some(endpoint) = &endpoint {
            into.extend(["--endpoint", endpoint]);
        }
        push(&project, "bare", "event_id,at\na,2026-01-01\n", &into)
            .failed(1, &["stream bare has no HISTORY", "`HISTORY bare_history`"]);
        let rows = "\
_created,event_id,customer_id,amount,at
2026-01-02,a,1,1,2026-01-01
soon,b,1,1,2026-01-01
2099-01-01,c,1,1,2026-01-01
,d,1,1,2026-01-01
2026-01-02,e,1,1,
2026-01-02,f,1,much,2026-01-01
2026-01-02,g,1,1,2099-01-01
";
        let run = push(&project, "card_event", rows, &into);
        run.failed(
            1,
            &[
                "line 3: _created expects TIMESTAMP, got \"soon\"",
                "line 4: _created is 2099-01-01T00:00:00Z",
                "line 6: at is NULL",
                "line 7: amount expects DOUBLE, got \"much\"",
                "line 8: at is 2099-01-01T00:00:00Z",
            ],
        );
        let told = match served {
            false => "2 events into the history, 0 there already, 5 refused",
            true => "0 events into the history, 2 there already, 5 refused",
        };
        assert!(run.stdout.contains(told), "{run:#?}");
        let without = rows.replace("amount", "amounts");
        push(&project, "card_event", &without, &into).failed(1, &["did you mean \"amount\"?"]);
        push(&project, "card_event", "event_id,at\n", &into)
            .failed(1, &["column \"customer_id\" is missing"]);
        let live = &into[1..];
        push(&project, "card_event", rows, live)
            .failed(1, &["the stream has no column \"_created\""]);
    }
    let created = "SELECT event_id, _created FROM card_history ORDER BY event_id";
    let expected = json!([
        {"event_id": "a", "_created": "2026-01-02T00:00:00Z"},
        {"event_id": "d", "_created": "2026-01-01T00:00:00Z"},
    ]);
    assert_eq!(project.query(created), expected);
}
