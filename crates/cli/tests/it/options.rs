//! Forms of output, help, completion, and what goes to which stream.

use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::project::{Project, Run};

#[test]
fn help_of_every_command_has_examples() {
    let project = Project::empty();
    let help = project.granary(&["--help"]);
    help.succeeded();
    for command in [
        "init",
        "plan",
        "apply",
        "materialize",
        "get",
        "get-historical",
        "sql",
        "describe",
        "status",
        "history",
        "serve",
        "completions",
    ] {
        assert!(
            help.stdout.contains(command),
            "{command} is not in {help:?}"
        );
        let own = project.granary(&[command, "--help"]);
        assert!(own.succeeded().stdout.contains("Examples:"), "{command}");
    }
    let script = project.granary(&["completions", "bash"]);
    assert!(script.succeeded().stdout.contains("materialize"));
}

#[test]
fn sql_has_four_forms() {
    let project = Project::small().applied();
    let sql = "SELECT customer_id, at, phone FROM balances ORDER BY customer_id, at LIMIT 2";
    let run = |form: &str| project.granary(&["sql", sql, "--output", form]);
    assert_eq!(
        run("csv").succeeded().stdout,
        "customer_id,at,phone\n1,2026-01-01T00:00:00,a\n1,2026-02-01T00:00:00,b\n"
    );
    assert_eq!(
        run("json").json(),
        serde_json::json!([
            {"customer_id": 1, "at": "2026-01-01T00:00:00Z", "phone": "a"},
            {"customer_id": 1, "at": "2026-02-01T00:00:00Z", "phone": "b"},
        ])
    );
    assert!(run("table").succeeded().stdout.contains("(2 rows)"));

    let output = project
        .command(&["sql", sql, "--output", "arrow"])
        .output()
        .unwrap();
    let reader = arrow::ipc::reader::StreamReader::try_new(&output.stdout[..], None).unwrap();
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 2);
}

#[test]
fn sql_takes_files_and_stdin_and_a_time() {
    let project = Project::small();
    // Before the first apply the files' definitions are there to explore.
    project.write(
        "q.sql",
        "SELECT 1 AS a; SELECT count(*) AS b FROM balances;",
    );
    let file = project.path("q.sql").display().to_string();
    let run = project.granary(&["sql", "-f", &file, "--output", "csv"]);
    assert_eq!(run.succeeded().stdout, "a\n1\nb\n4\n");

    let mut piped = project.command(&["sql", "--output", "csv"]);
    let mut piped = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped
        .stdin
        .take()
        .unwrap()
        .write_all(b"SELECT 2 AS c;")
        .unwrap();
    let output = piped.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "c\n2\n");

    let sql = "SELECT count(*) AS n FROM balances";
    let past = project.granary(&["sql", sql, "--as-of", "2026-01-20", "--output", "csv"]);
    assert_eq!(past.succeeded().stdout, "n\n2\n");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let project = Project::small().applied();
    let sql = "SELECT * FROM generate_series(1, 200000)";
    let mut command = project.command(&["sql", sql, "--output", "csv"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0_u8; 16];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.stderr.is_empty(), "{ended:?}");
}

#[test]
fn progress_and_notices_go_to_stderr() {
    let project = Project::small();
    project.write(
        "data/balances.csv",
        "customer_id,at,balance,phone\n,2026-01-01T00:00:00Z,1,a\n1,2026-01-01T00:00:00Z,2,b\n",
    );
    let project = project.applied();
    let run = project.granary(&["materialize", "customer_balance", "--output", "json"]);
    let runs = run.json();
    assert_eq!(runs["runs"][0]["run"]["null_keys"], 1);
    for part in ["left out 1 row with a NULL key", "customer_balance as of"] {
        assert!(run.stderr.contains(part), "{run:?}");
    }
}

#[test]
fn get_in_arrow_holds_keys_values_statuses_and_times() {
    let project = Project::small().applied().materialized();
    let arguments = [
        "get",
        "--service",
        "limits",
        "--key",
        "customer_id=1,9",
        "--output",
        "arrow",
    ];
    let output = project.command(&arguments).output().unwrap();
    let reader = arrow::ipc::reader::StreamReader::try_new(&output.stdout[..], None).unwrap();
    let schema = reader.schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(
        names,
        [
            "customer_id",
            "balance",
            "balance__status",
            "balance__event_time",
            "number",
            "number__status",
            "number__event_time",
            "rows_seen",
            "rows_seen__status",
            "total",
            "total__status"
        ]
    );
}

#[test]
fn logs_come_when_asked_for() {
    let project = Project::small();
    let mut asked = project.command(&["plan"]);
    asked.env("GRANARY_LOG", "granary=loud");
    let run = Run::of(&mut asked);
    assert!(run.succeeded().stderr.contains("GRANARY_LOG"), "{run:?}");
}

#[test]
fn apply_names_what_is_to_be_materialised_and_nothing_else() {
    let project = Project::small();
    project.write(
        "sql/phones.sql",
        "CREATE ENTITY phone KEY (phone VARCHAR);\n\
         CREATE FEATURE VIEW phone_rows ENTITY phone\n\
         AS SELECT coalesce(phone, '') AS phone, count(*) AS uses FROM balances GROUP BY 1;\n\
         CREATE FEATURE VIEW phone_now ENTITY phone SERVE QUERY\n\
         AS SELECT phone, count(*) AS uses_now FROM balances GROUP BY phone;\n",
    );
    let run = project.granary(&["apply", "--yes"]);
    let next = "Next: granary materialize customer_balance customer_rows phone_rows\n";
    assert!(run.succeeded().stdout.ends_with(next), "{run:?}");

    // The empty string is a key, however the shell hands it over; NULL is none.
    project.granary(&["materialize"]).succeeded();
    let keys = ["phone=", "phone=''", "phone=NULL"].map(|key| {
        let arguments = ["get", "--features", "phone_rows.uses", "--key", key];
        let run = project.granary(&[&arguments[..], &["--output", "json"]].concat());
        run.json()["columns"][1]["statuses"][0].clone()
    });
    assert_eq!(keys, ["PRESENT", "PRESENT", "NOT_FOUND"]);
}

#[test]
fn the_status_shows_the_version_that_answers() {
    let project = Project::small().applied().materialized();
    let sql = std::fs::read_to_string(project.path("sql/balances.sql")).unwrap();
    project.write(
        "sql/balances.sql",
        sql.replace("count(*)", "count(balance)"),
    );
    let project = project.applied();
    let status = project.granary(&["status"]);
    let answers = "answers until version 2 has run";
    assert!(status.succeeded().stdout.contains(answers), "{status:?}");
    let status = project.granary(&["status", "--output", "json"]).json();
    let rows = &status["views"][1];
    assert_eq!(
        (&rows["version"], &rows["online"]),
        (&2.into(), &Value::Null)
    );
    assert_eq!(rows["older_online"]["version"], 1);
    assert!(status["views"][0].get("older_online").is_none());
    project.granary(&["materialize"]).succeeded();
    let status = project.granary(&["status"]);
    assert!(
        !status.succeeded().stdout.contains("answers until"),
        "{status:?}"
    );
}

#[test]
fn hashes_are_keyed_by_the_environment() {
    let project = Project::small();
    let query = [
        "sql",
        "SELECT keyed_hash('+49301234567') AS h",
        "--output",
        "json",
    ];
    project
        .granary(&query)
        .failed(1, &["keyed_hash needs a salt: set GRANARY_SALT"]);
    let hashed = |salt: &str| {
        let mut command = project.command(&query);
        Run::of(command.env("GRANARY_SALT", salt))
            .succeeded()
            .stdout
            .clone()
    };
    assert_eq!(hashed("a"), hashed("a"));
    assert_ne!(hashed("a"), hashed("b"));
}
