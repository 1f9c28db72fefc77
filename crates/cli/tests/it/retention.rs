//! What is kept of streams, and why, as `plan`, `status` and `describe` tell it.

use serde_json::{Value, json};

use crate::project::Project;
use crate::serve::Server;

const SQL: &str = "\
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE STREAM tap (customer_id BIGINT, at TIMESTAMP) EVENT TIME at;
CREATE STREAM unread (customer_id BIGINT, at TIMESTAMP) EVENT TIME at;
CREATE STREAM card_event (event_id VARCHAR, customer_id BIGINT, at TIMESTAMP)
  EVENT TIME at DEDUPLICATE BY (event_id) HISTORY card_history;

CREATE FEATURE VIEW tap_counts ENTITY customer EVENT TIME at
AS SELECT customer_id, count(*) OVER d7 AS taps_7d, count(*) OVER d30 AS taps_30d
   FROM tap
   WINDOW d7 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW),
          d30 AS (PARTITION BY customer_id ORDER BY at RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW);
CREATE FEATURE VIEW last_taps ENTITY customer EVENT TIME at
AS SELECT customer_id, count(*) OVER five AS taps
   FROM tap WINDOW five AS (PARTITION BY customer_id ORDER BY at ROWS BETWEEN 4 PRECEDING AND CURRENT ROW);
CREATE FEATURE VIEW cards_ever ENTITY customer EVENT TIME at
AS SELECT customer_id, count(*) OVER ever AS cards
   FROM card_event WINDOW ever AS (PARTITION BY customer_id ORDER BY at);
";

const DAYS: &str = "30 days behind the newest event";
const FIVE: &str = "the newest 5 a key of customer_id";

fn project() -> Project {
    let project = Project::empty();
    // Nothing changes between one look and the next.
    let quiet = "[streams]\nflush_seconds = 0\ntrim_seconds = 0\n";
    project.write("granary.toml", quiet);
    project.write("sql/streams.sql", SQL);
    project
}

fn push(project: &Project, stream: &str, rows: &str) {
    project.write("rows.csv", rows);
    let path = project.path("rows.csv");
    let pushed = ["push", stream, "--file", path.to_str().unwrap()];
    project.granary(&pushed).succeeded();
}

#[test]
fn a_plan_says_which_streams_lose_events() {
    let project = project();
    let note = format!(
        "stream tap has no HISTORY: it keeps {DAYS}, {FIVE} \
         (last_taps needs {FIVE}; tap_counts needs {DAYS}), and other events go for good"
    );
    let planned = project.granary(&["plan", "--output", "json"]).json();
    assert_eq!(planned["notes"], json!([note]));
    for command in [&["plan"][..], &["apply", "--yes"]] {
        let run = project.granary(command);
        let line = format!("note: {note}");
        assert!(run.succeeded().stdout.contains(&line), "{run:#?}");
    }
    let unchanged = project.granary(&["plan"]);
    assert!(!unchanged.stdout.contains("note:"), "{unchanged:#?}");
    project.write(
        "sql/streams.sql",
        SQL.replace(
            "at;\nCREATE STREAM unread",
            "at HISTORY tap_history;\nCREATE STREAM unread",
        ),
    );
    let planned = project.granary(&["plan", "--output", "json"]).json();
    assert_eq!(planned["notes"], json!([]), "{planned}");
}

#[test]
fn what_stored_events_are_of_cannot_change() {
    let project = project().applied();
    let changes = [
        (
            "unread (customer_id BIGINT",
            "unread (customer_id VARCHAR",
            "its columns",
        ),
        ("BY (event_id)", "BY (event_id, customer_id)", "its columns"),
        (
            "HISTORY card_history",
            "HISTORY other_history",
            "its HISTORY",
        ),
    ];
    // While there are none it can.
    for (old, new, _) in changes {
        project.write("sql/streams.sql", SQL.replace(old, new));
        project.granary(&["plan"]).succeeded();
    }
    project.write("sql/streams.sql", SQL);
    push(&project, "unread", "customer_id,at\n1,2026-01-01\n");
    push(
        &project,
        "card_event",
        "event_id,customer_id,at\ne1,1,2026-01-01\n",
    );
    for served in [false, true] {
        let server = served.then(|| Server::start(&project));
        for (old, new, what) in changes {
            let changed = SQL.replace(old, new);
            assert_ne!(changed, SQL);
            project.write("sql/streams.sql", changed);
            for command in [&["plan"][..], &["apply", "--yes"]] {
                project
                    .granary(command)
                    .failed(1, &["has events, up to number 1: ", what]);
            }
        }
        drop(server);
    }
}

#[test]
fn streams_tell_what_they_keep_and_why() {
    let project = project().applied();
    for served in [false, true] {
        let server = served.then(|| Server::start(&project));
        push(
            &project,
            "tap",
            "customer_id,at\n1,2026-01-01\n2,2026-01-02\n",
        );
        let cards = "event_id,customer_id,at\na,1,2026-01-01\nb,1,2026-01-02\n";
        push(&project, "card_event", cards);
        let status = project.granary(&["status", "--output", "json"]).json();
        let streams = status["streams"].as_array().unwrap().clone();
        let [cards, taps, unread] = &streams[..] else {
            panic!("{status}");
        };
        let named = |stream: &Value, expected: Value| {
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(&stream[name], value, "{name} of {stream}");
            }
        };
        let events = [2, 4][usize::from(served)];
        named(
            taps,
            json!({"stream": "tap", "events": events, "last_sequence": events, "flushed": 0,
                   "newest_event_time": "2026-01-02T00:00:00Z", "history": null,
                   "trimmed_before": null, "retention": format!("{DAYS}, {FIVE}"),
                   "needed_by": {"last_taps": FIVE, "tap_counts": DAYS}}),
        );
        named(
            cards,
            json!({"stream": "card_event", "events": 2, "history": "card_history",
                   "retention": "everything", "needed_by": {"cards_ever": "everything"}}),
        );
        named(
            unread,
            json!({"events": 0, "retention": "everything", "needed_by": {}}),
        );
        for stream in &streams {
            let name = stream["stream"].as_str().unwrap();
            let described = project
                .granary(&["describe", name, "--output", "json"])
                .json();
            assert_eq!(&described["events"], stream);
        }
        let described = project.granary(&["describe", "tap"]);
        for line in [
            format!("retention       {DAYS}, {FIVE}"),
            format!("needed by       tap_counts: {DAYS}"),
            "newest event    2026-01-02T00:00:00Z".to_owned(),
            "flushed         the stream has no HISTORY".to_owned(),
        ] {
            assert!(
                described.stdout.contains(&line),
                "no {line:?} in {described:#?}"
            );
        }
        let status = project.granary(&["status"]);
        assert!(status.stdout.contains(FIVE), "{status:#?}");
        drop(server);
    }
}

#[test]
fn a_plan_says_what_comes_after_events_are_gone() {
    let project = Project::empty();
    let often = "[streams]\nflush_seconds = 0\ntrim_seconds = 1\n";
    project.write("granary.toml", often);
    let days = SQL.split("CREATE FEATURE VIEW last_taps").next().unwrap();
    project.write("sql/streams.sql", days);
    let project = project.applied();
    let _server = Server::start(&project);
    push(
        &project,
        "tap",
        "customer_id,at\n1,2025-11-01\n1,2026-01-02\n",
    );
    let trimmed = || {
        let status = project.granary(&["status", "--output", "json"]).json();
        let streams = status["streams"].as_array().unwrap().clone();
        let tap = streams.iter().find(|stream| stream["stream"] == "tap");
        let before = tap.unwrap()["trimmed_before"].as_str()?.to_owned();
        Some(before)
    };
    let before = (0..40).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(500));
        trimmed()
    });
    let before = before.expect("a trim comes every second");
    assert_eq!(before, "2025-11-01T00:00:00.000001Z");
    let sql = SQL.replace(
        "at;\nCREATE STREAM unread",
        "at HISTORY tap_history;\nCREATE STREAM unread",
    );
    for (sql, told) in [
        (
            SQL,
            format!("last_taps needs {FIVE}: its reads are out of range"),
        ),
        (
            &sql,
            format!(
                "its HISTORY begins after them; last_taps needs {FIVE}: its reads are out of range"
            ),
        ),
    ] {
        project.write("sql/streams.sql", sql);
        let note = format!("stream tap has lost events before {before}: {told}");
        let planned = project.granary(&["plan", "--output", "json"]).json();
        let notes = planned["notes"].as_array().unwrap();
        assert!(notes.contains(&json!(note)), "{planned}");
    }
}
