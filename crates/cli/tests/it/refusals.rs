//! What is refused, with which exit code and which words.

use std::fs;

use crate::project::{Project, Run};

#[test]
fn without_a_project_nothing_goes() {
    let nowhere = Project::empty();
    for command in ["plan", "apply", "materialize", "status", "serve"] {
        let run = nowhere.granary(&[command]);
        run.failed(1, &["no granary.toml in", "granary init"]);
    }
    let mut inside = nowhere.command(&["plan"]);
    let program = inside.get_program().to_owned();
    inside = std::process::Command::new(program);
    inside.arg("plan").current_dir(nowhere.folder());
    Run::of(&mut inside).failed(1, &["or above; run `granary init`"]);
}

#[test]
fn a_project_is_found_from_a_folder_inside() {
    let project = Project::small();
    let program = project.command(&[]).get_program().to_owned();
    let mut inside = std::process::Command::new(program);
    inside.arg("plan").current_dir(project.path("sql"));
    Run::of(&mut inside).succeeded();
}

#[test]
fn init_leaves_what_is_there_alone() {
    let project = Project::example();
    project.granary(&["init"]).failed(1, &["--force"]);
    project.granary(&["init", "--force"]).succeeded();

    let other = Project::empty();
    other.write("notes.txt", "mine");
    other
        .granary(&["init"])
        .failed(1, &["notes.txt", "--force"]);
    assert!(!other.path("granary.toml").exists());
    other.granary(&["init", "--force"]).succeeded();
    assert_eq!(fs::read_to_string(other.path("notes.txt")).unwrap(), "mine");
}

#[test]
fn settings_are_refused_by_file_line_and_key() {
    let project = Project::small();
    project.write("granary.toml", "root = '.granary'\n[engine]\nmemory = 1\n");
    project
        .granary(&["plan"])
        .failed(1, &["granary.toml:3:1", "`memory`"]);
}

#[test]
fn usage_errors_end_with_2() {
    let project = Project::small();
    for arguments in [
        &["nonsense"][..],
        &["get", "--key", "customer_id=1"],
        &["get", "--service", "limits"],
        &["get", "--service", "limits", "--key", "customer_id"],
        &[
            "get",
            "--service",
            "a",
            "--features",
            "b.c",
            "--key",
            "customer_id=1",
        ],
        &["materialize", "--as-of", "yesterday"],
        &["materialize", "--from", "2026-01-01"],
        &["materialize", "--lookback", "soon"],
        &["plan", "--output", "yaml"],
    ] {
        project.granary(arguments).failed(2, &["error"]);
    }
}

#[test]
fn definitions_are_refused_with_place_and_all_at_once() {
    let project = Project::small();
    project.write(
        "sql/wrong.sql",
        "CREATE FEATURE VIEW a ENTITY custmer AS SELECT 1 AS customer_id, 2 AS x;\n\
         CREATE ENTITY b KEY (id BIGNT);\n\
         CREATE FEATURE VIEW c ENTITY customer AS SELECT customer_id, nothing FROM balances;\n",
    );
    let parts = [
        "sql/wrong.sql:1",
        "custmer",
        "sql/wrong.sql:2",
        "BIGNT",
        "sql/wrong.sql:3",
        "nothing",
    ];
    project.granary(&["plan"]).failed(1, &parts);
    project.granary(&["apply", "--yes"]).failed(1, &parts);
    let json = project.granary(&["plan", "--output", "json"]);
    let told: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let lines: Vec<u64> = told["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["line"].as_u64().unwrap())
        .collect();
    assert_eq!(lines, [1, 2, 3], "{told}");
    project.granary(&["status"]).failed(1, &["granary apply"]);
}

#[test]
fn text_that_is_not_utf_8_is_named_by_file_and_byte() {
    let project = Project::small();
    project.write("sql/latin.sql", b"-- caf\xe9\n");
    project
        .granary(&["plan"])
        .failed(1, &["sql/latin.sql", "byte 6", "UTF-8"]);
}

#[test]
fn apply_asks_or_is_refused() {
    let project = Project::small();
    project.granary(&["apply"]).failed(1, &["--yes"]);
    project
        .granary(&["status"])
        .failed(1, &["nothing is applied yet"]);
}

#[test]
fn reads_of_what_is_not_there_are_refused_by_name() {
    let project = Project::small().applied().materialized();
    let get = |target: &[&str], key: &str| {
        let mut arguments = vec!["get"];
        arguments.extend_from_slice(target);
        arguments.extend_from_slice(&["--key", key]);
        project.granary(&arguments)
    };
    get(&["--service", "limit"], "customer_id=1").failed(1, &["\"limit\"", "\"limits\""]);
    get(&["--features", "customer_balance.balanc"], "customer_id=1").failed(1, &["balanc"]);
    get(&["--features", "nothing.x"], "customer_id=1").failed(1, &["nothing"]);
    get(&["--features", "balance"], "customer_id=1").failed(1, &["view.feature"]);
    get(&["--service", "limits"], "customer_id=abc").failed(1, &["customer_id expects BIGINT"]);
    get(&["--service", "limits"], "customr_id=1").failed(1, &["customr_id", "customer_id"]);
    let arguments = [
        "get",
        "--service",
        "limits",
        "--key",
        "customer_id=1",
        "--key",
        "other=x",
    ];
    project.granary(&arguments).failed(1, &["other"]);
    let uneven = [
        "get",
        "--service",
        "limits",
        "--key",
        "customer_id=1,2",
        "--key",
        "other=x",
    ];
    project.granary(&uneven).failed(2, &["zipped"]);

    project
        .granary(&["materialize", "customer_balanc"])
        .failed(1, &["customer_balanc", "customer_balance"]);
    project
        .granary(&["describe", "limit"])
        .failed(1, &["\"limit\"", "\"limits\""]);
    project
        .granary(&["sql", "SELECT x FROM customer_balance"])
        .failed(1, &["x"]);
    project
        .granary(&["sql", "DROP TABLE balances"])
        .failed(1, &["granary apply"]);
    project.granary(&["sql", ""]).failed(2, &["no statement"]);
}

#[test]
fn a_view_that_never_ran_is_told_by_name() {
    let project = Project::small().applied();
    let run = project.granary(&["get", "--service", "limits", "--key", "customer_id=1"]);
    run.failed(1, &["customer_balance", "granary materialize"]);
}

#[test]
fn a_run_as_of_the_future_is_refused() {
    let project = Project::small().applied();
    let run = project.granary(&["materialize", "--as-of", "2999-01-01"]);
    run.failed(1, &["future"]);
}

#[test]
fn missing_and_broken_sources_are_named() {
    let project = Project::small().applied();
    project.write(
        "data/balances.csv",
        "customer_id,at,balance,phone\n1,2026-01-01T00:00:00Z,10.5,a\n2,2026-01-01T00:00:00Z,ten,b\n",
    );
    let run = project.granary(&["materialize", "customer_balance"]);
    run.failed(1, &["customer_balance", "balances.csv", "line 3", "ten"]);

    fs::remove_file(project.path("data/balances.csv")).unwrap();
    let run = project.granary(&["materialize", "customer_balance"]);
    run.failed(1, &["customer_balance", "balances.csv"]);
}

#[test]
fn a_parquet_file_cut_short_is_named() {
    let project = Project::small().applied();
    let copy = "COPY balances TO 'data/balances.parquet' STORED AS PARQUET";
    let copy = copy.replace("data/", &format!("{}/", project.path("data").display()));
    project.granary(&["sql", &copy]).succeeded();
    let whole = fs::read(project.path("data/balances.parquet")).unwrap();
    project.write(
        "sql/cut.sql",
        "CREATE EXTERNAL TABLE parquet_balances STORED AS PARQUET LOCATION 'data/balances.parquet';\n\
         CREATE FEATURE VIEW cut ENTITY customer EVENT TIME at\n\
         AS SELECT customer_id, at, balance FROM parquet_balances;\n",
    );
    project.granary(&["apply", "--yes"]).succeeded();
    fs::write(
        project.path("data/balances.parquet"),
        &whole[..whole.len() / 2],
    )
    .unwrap();
    project
        .granary(&["materialize", "cut"])
        .failed(1, &["cut", "balances.parquet"]);
    // The file whole again, nothing was lost.
    fs::write(project.path("data/balances.parquet"), &whole).unwrap();
    project.granary(&["materialize", "cut"]).succeeded();
}

#[test]
fn a_broken_statement_does_not_hide_behind_what_it_would_have_defined() {
    let project = Project::small();
    let broken = crate::project::SMALL.replace("(customer_id BIGINT);", "(customer_id BIGNT);");
    project.write("sql/balances.sql", broken);
    project.write("sql/wrong.sql", "CREATE ENTITY flag KEY (is_set BOOLEAN);");
    let plan = project.granary(&["plan"]);
    plan.failed(
        1,
        &["sql/balances.sql:1", "BIGNT", "sql/wrong.sql:1", "BOOLEAN"],
    );
    assert!(!plan.stderr.contains("unknown entity"), "{plan:#?}");
}

#[test]
fn sources_are_looked_at_before_anything_is_applied() {
    let project = Project::small();
    fs::remove_file(project.path("data/balances.csv")).unwrap();
    let parts = ["sql/balances.sql:4", "data/balances.csv"];
    project.granary(&["plan"]).failed(1, &parts);
    project.granary(&["apply", "--yes"]).failed(1, &parts);
}

#[test]
fn a_source_that_changed_its_columns_is_named() {
    let project = Project::small();
    let inferred = crate::project::SMALL.replace(
        "balances (customer_id BIGINT, at TIMESTAMP, balance DOUBLE, phone VARCHAR)",
        "balances",
    );
    project.write("sql/balances.sql", inferred);
    let project = project.applied().materialized();
    let renamed = crate::project::BALANCES.replace("at,balance", "at,amount");
    project.write("data/balances.csv", renamed);
    let run = project.granary(&["materialize", "--force"]);
    run.failed(1, &["balances", "schema changed", "column balance is gone"]);
    // What was served before is served still.
    let arguments = ["get", "--service", "limits", "--key", "customer_id=1"];
    assert!(
        project
            .granary(&arguments)
            .succeeded()
            .stdout
            .contains("20.5")
    );
}

#[test]
fn a_catalog_of_a_newer_version_is_left_alone() {
    let project = Project::small().applied();
    let path = project.path(".granary/catalog/00000000000000000001.json");
    let text = fs::read_to_string(&path).unwrap();
    let newer = text.replacen("\"format\": 1,", "\"format\": 99,", 1);
    assert_ne!(text, newer);
    fs::write(&path, newer).unwrap();
    for command in [
        &["plan"][..],
        &["apply", "--yes"],
        &["status"],
        &["materialize"],
    ] {
        project.granary(command).failed(1, &["newer version", "99"]);
    }
}

#[test]
fn nothing_is_served_before_the_first_apply() {
    let project = Project::small();
    let run = project.granary(&["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    run.failed(1, &["apply"]);
    let run = project.granary(&["get", "--service", "limits", "--key", "customer_id=1"]);
    run.failed(1, &["apply"]);
}
