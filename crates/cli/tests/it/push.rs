//! Pushes of every format, and who owns the events meanwhile.

use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::project::{Project, Run};
use crate::serve::Server;

const STREAMS: &str = "\
CREATE STREAM card_event (event_id VARCHAR, customer_id BIGINT, amount DOUBLE, price DECIMAL(8, 2),
                          token VARBINARY, tags VARCHAR[], at TIMESTAMP)
  EVENT TIME at DEDUPLICATE BY (event_id);

CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE FEATURE VIEW customer_events ENTITY customer
AS SELECT customer_id, count(*) AS events, sum(amount) AS amount FROM card_event GROUP BY customer_id;
";

const CSV: &str = "\
at,event_id,customer_id,amount,price,token,tags
2026-01-01T10:00:00+02:00,a,1,1.5,2.25,AP8=,\"[\"\"x\"\", null]\"
2026-01-02 10:00:00,b,2,,3,,
";

const JSON: &str = r#"
{"event_id": "a", "customer_id": 1, "amount": 1.5, "price": "2.25", "token": "AP8=", "tags": ["x", null], "at": "2026-01-01T08:00:00Z"}

{"event_id": "b", "customer_id": 2, "amount": null, "price": 3, "token": null, "tags": null, "at": "2026-01-02T10:00:00"}
"#;

fn project() -> Project {
    let project = Project::empty();
    project.write("granary.toml", "");
    project.write("sql/streams.sql", STREAMS);
    project.applied()
}

/// The rows of [`CSV`] without their lists, which are NULL.
fn rows() -> RecordBatch {
    let day = 86_400_000_000_i64;
    let times = [
        1_767_225_600_000_000 + 8 * day / 24,
        1_767_225_600_000_000 + day + 10 * day / 24,
    ];
    let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    let prices = Decimal128Array::from(vec![225, 300]).with_precision_and_scale(8, 2);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("at", Arc::new(times)),
        ("event_id", Arc::new(StringArray::from(vec!["a", "b"]))),
        ("customer_id", Arc::new(Int64Array::from(vec![1, 2]))),
        (
            "amount",
            Arc::new(Float64Array::from(vec![Some(1.5), None])),
        ),
        ("price", Arc::new(prices.unwrap())),
        (
            "token",
            Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255]), None])),
        ),
        (
            "tags",
            arrow::array::new_null_array(
                &arrow::datatypes::DataType::new_list(arrow::datatypes::DataType::Utf8, true),
                2,
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
        .unwrap()
}

fn push(project: &Project, arguments: &[&str]) -> Run {
    let all = [&["push", "card_event", "--output", "json"], arguments].concat();
    project.granary(&all)
}

fn counts(pushed: &Value) -> [u64; 3] {
    ["appended", "duplicates", "refused"].map(|name| pushed[name].as_u64().unwrap())
}

fn stored(project: &Project) -> Value {
    project
        .query("SELECT event_id, amount, price, token, tags, at FROM card_event ORDER BY event_id")
}

#[test]
fn every_format_gives_the_same_events() {
    let batch = rows();
    let mut parquet = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
    parquet.write(&batch).unwrap();
    let mut file = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    file.finish().unwrap();
    let mut ipc = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    ipc.write(&batch).unwrap();
    let files = [
        ("events.csv", CSV.as_bytes().to_vec(), "csv"),
        ("events.jsonl", JSON.as_bytes().to_vec(), "json"),
        ("events.parquet", parquet.into_inner().unwrap(), "parquet"),
        ("events.arrow", file.into_inner().unwrap(), "arrow"),
        ("events.arrows", ipc.into_inner().unwrap(), "arrow"),
    ];
    for (name, content, format) in files {
        let project = project();
        project.write(name, &content);
        let path = project.path(name);
        let pushed = push(&project, &["--file", path.to_str().unwrap()]).json();
        assert_eq!(counts(&pushed), [2, 0, 0], "{name}: {pushed}");
        let tags = match format {
            "csv" | "json" => json!(["x", null]),
            _ => Value::Null,
        };
        let expected = json!([
            {"event_id": "a", "amount": 1.5, "price": "2.25", "token": "AP8=", "tags": tags,
             "at": "2026-01-01T08:00:00Z"},
            {"event_id": "b", "amount": null, "price": "3.00", "token": null, "tags": null,
             "at": "2026-01-02T10:00:00Z"},
        ]);
        assert_eq!(stored(&project), expected, "{name}");

        // Once more, from stdin, by one row a batch.
        let arguments = [
            "push",
            "card_event",
            "--format",
            format,
            "--batch-rows",
            "1",
            "-o",
            "json",
        ];
        let mut command = project.command(&arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&content).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{name}: {ended:?}");
        let pushed: Value = serde_json::from_slice(&ended.stdout).unwrap();
        assert_eq!(counts(&pushed), [0, 2, 0], "{name}: {pushed}");
    }
}

#[test]
fn bad_rows_are_named_and_the_good_ones_beside_them_stay() {
    let project = project();
    let csv = format!(
        "{CSV}soon,c,3,1,1,,\n2026-01-03,d,4,1,1.005,,\n,e,5,1,1,,\n2026-01-04,f,6,1,1,,\n"
    );
    project.write("bad.csv", csv);
    let bad = project.path("bad.csv");
    let run = project.granary(&["push", "card_event", "--file", bad.to_str().unwrap()]);
    run.failed(
        1,
        &[
            "line 4: at expects TIMESTAMP, got \"soon\"",
            "line 5: price expects DECIMAL(8, 2), got \"1.005\"",
            "line 6: at is NULL",
        ],
    );
    assert!(run.stdout.contains("3 events appended"), "{run:#?}");

    let json = "{\"event_id\": \"g\"}\nnot json\n[1]\n{\"colour\": 1}\n";
    project.write("bad.jsonl", json);
    let bad = project.path("bad.jsonl");
    let run = project.granary(&["push", "card_event", "--file", bad.to_str().unwrap()]);
    run.failed(
        1,
        &[
            "line 1: column \"customer_id\" is missing",
            "line 2: not JSON",
            "line 3: not a JSON object",
            "line 4: the stream has no column \"colour\"",
        ],
    );
    for (name, content, told) in [
        (
            "missing.csv",
            "event_id,at\n",
            "column \"customer_id\" is missing",
        ),
        ("odd.csv", "event_id,amounts\n", "did you mean \"amount\"?"),
        ("events.txt", "x", "unknown format"),
    ] {
        project.write(name, content);
        let path = project.path(name);
        let path = path.to_str().unwrap();
        push(&project, &["--file", path]).failed(1, &[name, told]);
    }
    push(&project, &["--file", "nothing.csv"]).failed(1, &["no such file"]);
    push(&project, &[]).failed(2, &["--format"]);
    let unknown = project.granary(&["push", "card_events", "--file", "x.csv"]);
    unknown.failed(1, &["did you mean \"card_event\"?"]);
}

#[test]
fn commands_beside_a_server_go_through_it() {
    let project = project();
    project.write("events.csv", CSV);
    project.write("more.csv", CSV.replace(",a,", ",c,").replace(",b,", ",d,"));
    let (events, more) = (project.path("events.csv"), project.path("more.csv"));
    let server = Server::start(&project);
    let pushed = push(&project, &["--file", events.to_str().unwrap()]).json();
    assert_eq!(counts(&pushed), [2, 0, 0]);
    let through = ["--file", more.to_str().unwrap(), "--endpoint", &server.grpc];
    assert_eq!(counts(&push(&project, &through).json()), [2, 0, 0]);
    let count = project.query("SELECT count(*) AS n, max(amount) AS most FROM card_event");
    assert_eq!(count, json!([{"n": 4, "most": 1.5}]));
    let status = project.granary(&["status", "--output", "json"]).json();
    assert_eq!(status["streams"][0]["events"], 4, "{status}");
    project.granary(&["materialize"]).succeeded();
    project.write("spine.csv", "customer_id,event_time\n1,2099-01-01\n");
    let (spine, out) = (project.path("spine.csv"), project.path("set.csv"));
    let spine_sql = "SELECT customer_id, at AS event_time FROM card_event";
    let historical = project.granary(&[
        "get-historical",
        "--spine-sql",
        spine_sql,
        "--features",
        "customer_events.*",
        "--out",
        out.to_str().unwrap(),
        "--output",
        "json",
    ]);
    assert_eq!(historical.json()["rows"], 4);
    let asked = [
        "get",
        "--features",
        "customer_events.events",
        "--key",
        "customer_id=1",
    ];
    let got = project.granary(&[&asked[..], &["--output", "json"]].concat());
    got.succeeded();
    drop(spine);
    // Killed, it leaves nothing that keeps the next command out.
    server.stop("-KILL");
    let count = project.query("SELECT count(*) AS n FROM card_event");
    assert_eq!(count, json!([{"n": 4}]));
    let again = push(&project, &["--file", events.to_str().unwrap()]).json();
    assert_eq!(counts(&again), [0, 2, 0]);
}

#[test]
fn two_commands_at_once_wait_for_each_other() {
    let project = project();
    let children: Vec<Child> = (0..3)
        .map(|n| {
            let name = format!("{n}.csv");
            project.write(&name, CSV.replace(",a,", &format!(",{n},")));
            let path = project.path(&name);
            let mut command =
                project.command(&["push", "card_event", "--file", path.to_str().unwrap()]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for child in children {
        let ended = child.wait_with_output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
    }
    assert_eq!(
        project.query("SELECT count(*) AS n FROM card_event"),
        json!([{"n": 4}])
    );
}

#[test]
fn a_command_that_reads_no_stream_opens_none() {
    let project = project();
    let events = project.path(".granary/events");
    for arguments in [
        &["plan"][..],
        &["describe", "customer_events"],
        &["sql", "SELECT 1"],
    ] {
        project.granary(arguments).succeeded();
        assert!(!events.exists(), "{arguments:?}");
    }
    let small = Project::small().applied().materialized();
    let server = Server::start(&small);
    small.granary(&["status"]).succeeded();
    server.stop("-TERM");
    assert!(!small.path(".granary/events").exists());
}
