//! `granary describe`: the objects, or one of them in full.

use std::process::ExitCode;

use anyhow::bail;
use granary_catalog::describe::{ObjectDescription, describe, summaries};
use granary_catalog::{ObjectKind, Snapshot};
use granary_engine::{OfflineTable, RunRecord};
use granary_ingest::why_not;
use granary_model::{did_you_mean, json};
use serde::Serialize;

use super::materialize::RunRecordJson;
use crate::args::Listing;
use crate::failure::Outcome;
use crate::output::{self, human, table};
use crate::project::Project;
use crate::stream_status::{self, StreamJson};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  granary describe\n  granary describe customer_spend\n  granary describe customer_spend --runs 30 --output json"
)]
pub struct Args {
    /// The object [default: list them all]
    pub name: Option<String>,

    /// How many of the newest runs
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub runs: usize,

    /// The form of the description
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

pub async fn run(project: &Project, args: &Args) -> Outcome {
    let snapshot = project.snapshot().await?;
    match &args.name {
        None => list(&snapshot, args.output)?,
        Some(name) => show(project, &snapshot, name, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(snapshot: &Snapshot, form: Listing) -> anyhow::Result<()> {
    let objects = summaries(&snapshot.definitions);
    if form == Listing::Json {
        return output::print_json(&serde_json::json!({
            "snapshot": snapshot.number,
            "objects": objects,
        }));
    }
    let mut listed = table::table(["name", "kind", "version", "owner", "comment"]);
    for object in objects {
        listed.add_row([
            object.name,
            object.kind.as_str().to_owned(),
            object.version.map(|v| v.to_string()).unwrap_or_default(),
            object.owner.unwrap_or_default(),
            object.comment.unwrap_or_default(),
        ]);
    }
    table::align_right(&mut listed, [2]);
    output::print(listed.to_string())?;
    Ok(())
}

#[derive(Serialize)]
struct Described<'a> {
    snapshot: u64,
    #[serde(flatten)]
    object: &'a ObjectDescription,
    versions: Vec<VersionJson>,
    runs: Vec<RunRecordJson<'a>>,
    /// Of a stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<StreamJson<'a>>,
}

#[derive(Serialize)]
struct VersionJson {
    version: u32,
    fingerprint: String,
    since_snapshot: u64,
    since: String,
}

async fn show(
    project: &Project,
    snapshot: &Snapshot,
    name: &str,
    args: &Args,
) -> anyhow::Result<()> {
    let definitions = &snapshot.definitions;
    let folded = name.to_lowercase();
    let found = describe(definitions, name).or_else(|| describe(definitions, &folded));
    let Some(object) = found else {
        let all = summaries(definitions);
        let near = did_you_mean(name, all.iter().map(|o| o.name.as_str()));
        bail!("there is no object {name:?}{near}");
    };
    let view = definitions.feature_views.get(&object.summary.name);
    let view = view.filter(|view| why_not(view).is_none());
    let runs = match view {
        Some(view) => match OfflineTable::open(&project.engine()?, view).await? {
            Some(offline) => offline.runs(args.runs).await?,
            None => Vec::new(),
        },
        None => Vec::new(),
    };
    let stream = match object.summary.kind {
        ObjectKind::Stream => stream_status::of_project(project, snapshot).await,
        _ => Vec::new(),
    };
    let stream = stream.iter().find(|s| s.name == object.summary.name);
    let versions = snapshot.versions.get(&object.summary.name);
    let versions = versions.into_iter().flatten().map(|v| VersionJson {
        version: v.version,
        fingerprint: v.fingerprint.to_string(),
        since_snapshot: v.since_snapshot,
        since: v.since.to_string(),
    });
    let described = Described {
        snapshot: snapshot.number,
        object: &object,
        versions: versions.collect(),
        runs: runs.iter().map(RunRecordJson::new).collect(),
        events: stream.map(StreamJson::new),
    };
    match args.output {
        Listing::Json => output::print_json(&described)?,
        Listing::Table => {
            let mut words = in_words(&described, view.map(|_| runs.as_slice()));
            if let Some(stream) = stream {
                words.push_str(&format!("\n\n{}", stream_status::in_words(stream)));
            }
            output::print(words)?;
        }
    }
    Ok(())
}

/// `runs`: of a view that is run.
fn in_words(described: &Described<'_>, runs: Option<&[RunRecord]>) -> String {
    let object = described.object;
    let summary = &object.summary;
    let mut parts = vec![heading(object)];
    if !object.columns.is_empty() {
        parts.push(columns(object));
    }
    if !object.sql.is_empty() {
        parts.push(object.sql.trim().to_owned());
    }
    if !described.versions.is_empty() {
        let lines = described.versions.iter().rev().map(|v| {
            format!(
                "  {} since {} (snapshot {}, {})",
                v.version, v.since, v.since_snapshot, v.fingerprint
            )
        });
        parts.push(format!(
            "versions:\n{}",
            lines.collect::<Vec<_>>().join("\n")
        ));
    }
    if let Some(runs) = runs {
        if runs.is_empty() {
            parts.push(format!(
                "runs: none; `granary materialize {}` makes the first",
                summary.name
            ));
        } else {
            parts.push(format!("runs, newest first:\n{}", run_table(runs)));
        }
    }
    if let Some(newest) = runs
        .and_then(<[_]>::first)
        .filter(|r| !r.columns.is_empty())
    {
        let statistics = statistics(newest);
        parts.push(format!("columns of the newest run:\n{statistics}"));
    }
    parts.join("\n\n")
}

/// Kind, name, comment and everything that is said in a line.
fn heading(object: &ObjectDescription) -> String {
    let summary = &object.summary;
    let mut text = format!("{} {}", summary.kind.as_str(), summary.name);
    if let Some(version) = summary.version {
        text.push_str(&format!(", version {version}"));
    }
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let value = value.replace('\n', &format!("\n  {:<15} ", ""));
            text.push_str(&format!("\n  {name:<15} {value}"));
        }
    };
    line("comment", summary.comment.as_deref().unwrap_or_default());
    line("owner", summary.owner.as_deref().unwrap_or_default());
    for (name, value) in &object.properties {
        line(name, value);
    }
    let tags = object.tags.iter().map(|(k, v)| format!("{k} = {v}"));
    line("tags", &tags.collect::<Vec<_>>().join(", "));
    line("depends on", &object.depends_on.join(", "));
    line("used by", &object.used_by.join(", "));
    text
}

fn columns(object: &ObjectDescription) -> String {
    let has_source = object.columns.iter().any(|c| c.source.is_some());
    let has_comment = object.columns.iter().any(|c| c.comment.is_some());
    let mut header = vec!["column", "type", "role"];
    header.extend(has_source.then_some("source"));
    header.extend(has_comment.then_some("comment"));
    let mut shown = table::table(header);
    for column in &object.columns {
        let mut row = vec![
            column.name.clone(),
            column.data_type.clone(),
            column.role.as_str().to_owned(),
        ];
        row.extend(has_source.then(|| column.source.clone().unwrap_or_default()));
        row.extend(has_comment.then(|| column.comment.clone().unwrap_or_default()));
        shown.add_row(row);
    }
    shown.to_string()
}

fn run_table(runs: &[RunRecord]) -> String {
    let mut shown = table::table(["as of", "from", "rows", "left out", "committed at", "mode"]);
    for run in runs {
        shown.add_row([
            run.as_of.to_string(),
            run.from.map(|t| t.to_string()).unwrap_or_default(),
            human::count(run.rows),
            human::count(run.null_keys + run.null_event_times + run.future_event_times),
            run.committed_at.to_string(),
            format!("{:?}", run.mode).to_lowercase(),
        ]);
    }
    table::align_right(&mut shown, [2, 3]);
    shown.to_string()
}

fn statistics(run: &RunRecord) -> String {
    let mut shown = table::table(["column", "NULLs", "min", "max", "mean", "distinct"]);
    let number = arrow::array::Float64Array::from_iter(run.columns.iter().map(|c| c.mean));
    for (row, column) in run.columns.iter().enumerate() {
        shown.add_row([
            column.name.clone(),
            human::count(column.nulls),
            column.min.clone().unwrap_or_default(),
            column.max.clone().unwrap_or_default(),
            json::text(&number, row).unwrap_or_default(),
            column
                .distinct
                .map(|n| format!("~{}", human::count(n)))
                .unwrap_or_default(),
        ]);
    }
    table::align_right(&mut shown, 1..=5);
    shown.to_string()
}
