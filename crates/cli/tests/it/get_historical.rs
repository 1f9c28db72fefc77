//! Training sets on the command line: what comes out, what is told, what is refused.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arrow::util::pretty::pretty_format_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::json;

use crate::project::{Project, Run};
use crate::serve::Server;

/// Labels of three customers, and of one that nobody knows.
const SPINE: &str = "\
customer_id,event_time,label
3,2026-03-01T00:00:00Z,1
1,2026-01-20T00:00:00Z,0
9,2026-02-01T00:00:00Z,1
1,2026-02-01T00:00:00Z,0
,2026-02-01T00:00:00Z,1
2,,0
";

/// The features of `limits` at those times, without any run of `customer_rows`.
const EXPECTED: &str = "\
customer_id,event_time,label,balance,number,rows_seen,total
3,2026-03-01T00:00:00Z,1,0.25,c,,
1,2026-01-20T00:00:00Z,0,10.5,a,,
9,2026-02-01T00:00:00Z,1,,,,
1,2026-02-01T00:00:00Z,0,20.5,b,,
,2026-02-01T00:00:00Z,1,,,,
2,,0,,,,
";

fn project() -> Project {
    let project = Project::small().applied();
    project.write("spine.csv", SPINE);
    project
}

/// `granary get-historical` with files of the project's folder.
fn historical(project: &Project, arguments: &[&str]) -> Run {
    Run::of(&mut command(project, arguments))
}

fn command(project: &Project, arguments: &[&str]) -> Command {
    let mut all = vec!["get-historical"];
    all.extend_from_slice(arguments);
    let mut command = project.command(&all);
    command.current_dir(project.folder());
    command
}

fn read(project: &Project, name: &str) -> String {
    fs::read_to_string(project.path(name)).unwrap()
}

#[test]
fn each_row_comes_out_once_with_its_features() {
    let project = project();
    let from_spine = ["--spine", "spine.csv", "--service", "limits"];
    let run = historical(&project, &[&from_spine[..], &["--out", "set.csv"]].concat());
    assert!(
        run.succeeded()
            .stdout
            .starts_with("6 rows × 7 columns to set.csv"),
        "{run:?}"
    );
    assert_eq!(read(&project, "set.csv"), EXPECTED);
    for note in [
        "note: event_time is NULL in 1 row",
        "note: customer_id is NULL in 1 row",
        "customer_rows has no run at or before the time of 5 rows",
        "granary materialize customer_rows --from 2026-01-20T00:00:00Z --to 2026-03-01T00:00:00Z --every '1 day'",
    ] {
        assert!(run.stderr.contains(note), "no {note:?} in {run:?}");
    }

    // What is said to fill the gap does.
    let backfill = "materialize customer_rows --from 2026-01-20 --to 2026-03-01 --every";
    let backfill: Vec<&str> = backfill.split(' ').chain(["1 day"]).collect();
    project.granary(&backfill).succeeded();
    let list =
        "--features customer_rows.rows_seen,customer_balance.phone --out b.csv --output json";
    let list: Vec<&str> = list.split(' ').collect();
    let run = historical(&project, &[&["--spine", "spine.csv"][..], &list].concat());
    assert_eq!(run.json()["without_run"], json!([]), "{run:?}");
    assert_eq!(run.json()["null_keys"], json!({"customer_id": 1}));
    assert_eq!(
        read(&project, "b.csv"),
        "customer_id,event_time,label,rows_seen,phone\n\
         3,2026-03-01T00:00:00Z,1,1,c\n\
         1,2026-01-20T00:00:00Z,0,1,a\n\
         9,2026-02-01T00:00:00Z,1,,\n\
         1,2026-02-01T00:00:00Z,0,2,b\n\
         ,2026-02-01T00:00:00Z,1,,\n\
         2,,0,,\n"
    );
}

#[test]
fn options_change_what_is_seen_and_named() {
    let project = project();
    let sql = "SELECT 1 AS customer_id, TIMESTAMP '2026-02-01T00:00:00' AS t";
    let features = [
        "--features",
        "customer_balance.balance",
        "--time",
        "t",
        "--out",
        "a.csv",
    ];
    let run = |more: &[&str]| {
        let fixed = ["--spine-sql", sql, "--overwrite"];
        historical(&project, &[&fixed[..], &features, more].concat()).succeeded();
        read(&project, "a.csv")
    };
    assert_eq!(
        run(&[]),
        "customer_id,t,balance\n1,2026-02-01T00:00:00,20.5\n"
    );
    assert_eq!(
        run(&["--before"]),
        "customer_id,t,balance\n1,2026-02-01T00:00:00,10.5\n"
    );
    assert_eq!(
        run(&["--statuses", "--full-names", "--known-at-the-time"]),
        "customer_id,t,customer_balance__balance,customer_balance__balance__status\n\
         1,2026-02-01T00:00:00,20.5,PRESENT\n"
    );
}

#[test]
fn every_format_is_written_and_replaced_only_if_said() {
    let project = project();
    let fixed = [
        "--spine",
        "spine.csv",
        "--features",
        "customer_balance.balance",
        "--out",
    ];
    for name in ["a.parquet", "a.csv", "a.arrow", "a.arrows", "table/"] {
        let run = |more: &[&str]| historical(&project, &[&fixed[..], &[name], more].concat());
        run(&[]).succeeded();
        run(&[]).failed(1, &[name, "exists already; --overwrite replaces it"]);
        run(&["--overwrite"]).succeeded();
    }
    let file = fs::File::open(project.path("a.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build();
    let batches: Vec<_> = reader.unwrap().map(Result::unwrap).collect();
    let shown = pretty_format_batches(&batches).unwrap().to_string();
    assert!(
        shown.contains("| 1           | 2026-01-20T00:00:00Z | 0     | 10.5    |"),
        "{shown}"
    );
    let mut names: Vec<String> = fs::read_dir(project.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("a.") || name.starts_with(".a"))
        .collect();
    names.sort();
    assert_eq!(names, ["a.arrow", "a.arrows", "a.csv", "a.parquet"]);
}

#[test]
fn the_plan_is_shown_before_and_after() {
    let project = project();
    let fixed = ["--spine", "spine.csv", "--service", "limits", "--explain"];
    let plan = historical(&project, &fixed);
    assert!(plan.succeeded().stdout.contains("AsOfJoinExec"), "{plan:?}");
    let run = historical(&project, &[&fixed[..], &["--out", "a.csv"]].concat());
    for part in [
        "AsOfJoinExec",
        "metrics=[",
        "read ",
        "sort ",
        "aggregate ",
        "write ",
    ] {
        assert!(
            run.succeeded().stderr.contains(part),
            "no {part:?} in {run:?}"
        );
    }
}

#[test]
fn what_is_wrong_is_told() {
    let project = project();
    project.write("cut.parquet", "PAR1 and no more");
    project.write("wrong.csv", "customer_id,event_time\nx,2026-01-01\n");
    let spine = ["--spine", "spine.csv"];
    let service = ["--service", "limits"];
    let out = ["--out", "o.csv"];
    let balance = ["--features", "customer_balance.balance"];
    for (arguments, code, parts) in [
        ([&service[..], &out, &[]], 2, vec!["--spine"]),
        ([&spine, &service, &[]], 2, vec!["--out"]),
        ([&spine, &out, &[]], 2, vec!["--service"]),
        (
            [&["--spine", "none.csv"], &service, &out],
            1,
            vec!["none.csv: no such file"],
        ),
        (
            [&["--spine", "cut.parquet"], &service, &out],
            1,
            vec!["cut.parquet: it is no whole PARQUET file"],
        ),
        (
            [&["--spine", "wrong.csv"], &balance, &out],
            1,
            vec!["wrong.csv: line 2: customer_id expects BIGINT, got \"x\""],
        ),
        (
            [&spine, &["--service", "limit"], &out],
            1,
            vec!["unknown feature service \"limit\"; did you mean \"limits\"?"],
        ),
        (
            [&spine, &["--features", "customer_balance.balanc"], &out],
            1,
            vec!["unknown feature \"customer_balance.balanc\"; did you mean \"balance\"?"],
        ),
        (
            [&spine, &balance, &["--out", "o.xlsx"]],
            1,
            vec!["o.xlsx: the name tells no format"],
        ),
        (
            [&spine, &balance, &["--out", "o", "--format", "xml"]],
            2,
            vec!["\"xml\" is no format"],
        ),
        (
            [&spine, &balance, &["--out", "o.csv", "--time", "event_tim"]],
            1,
            vec!["spine.csv: no time column \"event_tim\"; did you mean \"event_time\"?"],
        ),
        (
            [
                &spine,
                &balance,
                &["--out", "o.csv", "--request-events", "card"],
            ],
            1,
            vec!["request events of card: there is no such stream"],
        ),
    ] {
        historical(&project, &arguments.concat()).failed(code, &parts);
    }
    assert!(!project.path("o.csv").exists());
}

/// Rows enough that nobody waits for them.
#[test]
fn an_interrupted_run_leaves_nothing() {
    let project = project();
    let sql = "SELECT value % 3 + 1 AS customer_id, to_timestamp(value) AS event_time, value AS id
               FROM generate_series(1, 2000000000)";
    let features = ["--features", "customer_balance.balance"];
    for out in ["big.csv", "big.parquet", "big/"] {
        let arguments = [&["--spine-sql", sql][..], &features, &["--out", out]].concat();
        let mut command = command(&project, &arguments);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let child = child.unwrap();
        // Until something is there to be left.
        let begun = Instant::now();
        while !left(&project) && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-INT", &id])
                .status()
                .unwrap()
                .success()
        );
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(told.contains("interrupted; nothing was written"), "{told}");
        assert!(!left(&project), "{out}");
    }
}

/// Whether any file of an output is there.
fn left(project: &Project) -> bool {
    let entries = fs::read_dir(project.folder()).unwrap();
    let mut names = entries.map(|entry| entry.unwrap());
    names.any(|entry| {
        let name = entry.file_name().into_string().unwrap();
        let folder = entry.path();
        name.contains("big") && (folder.is_file() || fs::read_dir(folder).unwrap().count() > 0)
    })
}

#[test]
fn a_server_gives_the_same() {
    let project = project();
    let server = Server::start(&project);
    let fixed = [
        "--spine",
        "spine.csv",
        "--service",
        "limits",
        "--out",
        "a.csv",
    ];
    let remote = ["--endpoint", &server.grpc, "--output", "json"];
    let run = historical(&project, &[&fixed[..], &remote].concat());
    assert_eq!(run.json()["rows"], 6, "{run:?}");
    assert_eq!(run.json()["null_times"], 1);
    assert_eq!(run.json()["without_run"][0]["rows"], 5);
    assert_eq!(read(&project, "a.csv"), EXPECTED);
    let unknown = [
        "--spine",
        "spine.csv",
        "--service",
        "limit",
        "--out",
        "b.csv",
    ];
    historical(&project, &[&unknown[..], &remote].concat()).failed(
        1,
        &["unknown feature service \"limit\"; did you mean \"limits\"?"],
    );
    assert!(!project.path("b.csv").exists());
}
