//! The as-of contract as files that can be read: `rules/<rule>.slt` each shows
//! one rule of what a value as of t is, over a few rows.
//!
//! A file is blocks, parted by blank lines; `#` begins a comment.
//!
//! - `table NAME [EVENT TIME column [CREATED TIME column]]`: a Parquet table of the query that follows.
//! - `define`: statements of a project.
//! - `run VIEW TIME`: materialises.
//! - `training OPTION.. view.feature..`: a training set for the spine that the
//!   query gives (its time column is `event_time`), then `----` and the rows:
//!   the spine's columns and the features, `|` between them.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use granary_engine::{RunMode, RunScope, Spine, TrainingOptions, TrainingRequest};

use crate::project::Project;
use crate::training::{define, listed};

#[tokio::test]
async fn every_rule_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rules");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "a file a rule");
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        wrong.extend(
            rule(&text)
                .await
                .into_iter()
                .map(|w| format!("{name}: {w}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a file expects otherwise than it is.
async fn rule(text: &str) -> Vec<String> {
    let mut project = Project::new();
    let mut statements = String::new();
    let mut wrong = Vec::new();
    let mut checks = 0;
    for block in text.split("\n\n") {
        let lines: Vec<&str> = block
            .lines()
            .filter(|line| !line.starts_with('#'))
            .collect();
        let Some((head, body)) = lines.split_first() else {
            continue;
        };
        let body = body.join("\n");
        let words: Vec<&str> = head.split_whitespace().collect();
        match words[..] {
            ["table", name, ref rest @ ..] => {
                project.table_from_sql(name, &body, None).await;
                statements += &format!(
                    "CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{name}.parquet';\n"
                );
                if let [_, _, column, created @ ..] = rest {
                    let created = created.join(" ");
                    statements += &format!("EVENT TIME OF {name} IS {column} {created};\n");
                }
            }
            ["define"] => {
                statements += &body;
                define(&mut project, &statements).await;
            }
            ["run", view, time] => run(&project, view, time).await,
            ["training", ref asked @ ..] => {
                let (spine, expected) = body.split_once("\n----").unwrap();
                let given = rows(&project, spine, asked).await;
                let expected: Vec<&str> = expected.lines().filter(|l| !l.is_empty()).collect();
                checks += 1;
                if given != expected {
                    let given = given.join("\n");
                    wrong.push(format!(
                        "{head}\n{given}\nexpected\n{}",
                        expected.join("\n")
                    ));
                }
            }
            _ => panic!("unknown: {head}"),
        }
    }
    assert!(checks > 0, "a rule without a training set");
    wrong
}

async fn run(project: &Project, view: &str, time: &str) {
    let scope = RunScope {
        as_of: time.parse().unwrap(),
        from: None,
        current_state: true,
        mode: RunMode::Append,
    };
    let view = &project.definitions.feature_views[view];
    let run = project
        .engine
        .run(&project.definitions, view, scope, &|_| {});
    run.await.unwrap();
}

async fn rows(project: &Project, spine: &str, asked: &[&str]) -> Vec<String> {
    let (features, options): (Vec<&str>, Vec<&str>) =
        asked.iter().copied().partition(|word| word.contains('.'));
    let has = |option: &str| options.contains(&option);
    let (from, features) = listed(&project.definitions, &features);
    let request = TrainingRequest {
        spine: Spine::Sql(spine.into()),
        time: "event_time".into(),
        from,
        features,
        options: TrainingOptions {
            strictly_before: has("strictly_before"),
            known_at_the_time: has("known_at_the_time"),
            as_served: has("as_served"),
            statuses: has("statuses"),
            full_names: has("full_names"),
        },
        request_events: Vec::new(),
    };
    let set = project.engine.training_set(&project.definitions, request);
    let set = set.await.unwrap();
    let batches: Vec<RecordBatch> = set.execute().unwrap().try_collect().await.unwrap();
    batches.iter().flat_map(shown).collect()
}

fn shown(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let columns = batch.columns().iter();
    let columns: Vec<_> = columns
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap())
        .collect();
    let row = |row: usize| {
        let values: Vec<String> = columns.iter().map(|c| c.value(row).to_string()).collect();
        values.join("|")
    };
    (0..batch.num_rows()).map(row).collect()
}

#[tokio::test]
async fn a_wrong_expectation_is_told() {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rules/02_as_of_includes_t.slt"),
    );
    let text = text.unwrap().replace("|20.0", "|21.0");
    assert!(!rule(&text).await.is_empty());
}
