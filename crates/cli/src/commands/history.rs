//! `granary history`: the catalog's snapshots.

use std::process::ExitCode;
use std::sync::Arc;

use granary_catalog::{Change, Plan, Snapshot};
use serde::Serialize;

use super::plan::change_in_words;
use crate::args::Listing;
use crate::failure::Outcome;
use crate::output::{self, table};
use crate::project::Project;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  granary history\n  granary history --limit 3 --output json")]
pub struct Args {
    /// The newest so many snapshots
    #[arg(long, default_value_t = 20)]
    pub limit: usize,

    /// The form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

#[derive(Serialize)]
struct Entry {
    snapshot: u64,
    committed_at: String,
    committed_by: String,
    changes: Vec<Change>,
}

pub async fn run(project: &Project, args: &Args) -> Outcome {
    let catalog = project.catalog()?;
    let mut numbers = catalog.numbers().await?;
    // One more than shown, to tell what the oldest shown one changed.
    let kept = numbers.split_off(numbers.len().saturating_sub(args.limit.saturating_add(1)));
    let mut snapshots: Vec<Arc<Snapshot>> = Vec::new();
    for number in kept {
        snapshots.push(catalog.at(number).await?);
    }
    let mut entries = Vec::new();
    for (i, snapshot) in snapshots.iter().enumerate().rev().take(args.limit) {
        let before = i.checked_sub(1).map(|i| snapshots[i].as_ref());
        entries.push(entry(before, snapshot));
    }
    match args.output {
        Listing::Json => output::print_json(&entries)?,
        Listing::Table if entries.is_empty() => {
            output::print("No snapshots: nothing is applied yet.")?;
        }
        Listing::Table => output::print(shown(&entries).to_string())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn entry(before: Option<&Snapshot>, snapshot: &Snapshot) -> Entry {
    Entry {
        snapshot: snapshot.number,
        committed_at: snapshot.committed_at.to_string(),
        committed_by: snapshot.committed_by.clone(),
        changes: Plan::new(before, snapshot.definitions.clone()).changes,
    }
}

fn shown(entries: &[Entry]) -> comfy_table::Table {
    let mut listed = table::table(["snapshot", "when", "who", "what"]);
    for entry in entries {
        let what: Vec<String> = entry.changes.iter().map(in_words).collect();
        listed.add_row([
            entry.snapshot.to_string(),
            entry.committed_at.clone(),
            entry.committed_by.clone(),
            what.join("\n"),
        ]);
    }
    table::align_right(&mut listed, [0]);
    listed
}

/// What the change did; what it cost then is of no use now.
fn in_words(change: &Change) -> String {
    change_in_words(&Change {
        cost: None,
        ..change.clone()
    })
}
