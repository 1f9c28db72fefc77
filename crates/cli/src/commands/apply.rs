//! `granary apply`: commits the project's definitions, all or nothing.

use std::io::{self, BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::bail;
use granary_catalog::{ChangeAction, ObjectKind, Plan};
use granary_ingest::why_not;

use super::plan::{Proposal, in_words, propose};
use crate::failure::{FAILED, Outcome};
use crate::project::Project;
use crate::{environment, output};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of two applies at once one wins; the other ends with exit code 4 and is to plan again.\n\nExamples:\n  granary apply\n  granary apply --yes         # does not ask; for scripts"
)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,

    /// Who commits, in the history [default: the user]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
}

pub async fn run(project: &Project, args: &Args) -> Outcome {
    let Proposal { plan, notes } = &match propose(project).await? {
        Ok(proposal) => proposal,
        Err(diagnostics) => {
            eprintln!("{diagnostics}");
            eprintln!("error: nothing was applied");
            return Ok(ExitCode::from(FAILED));
        }
    };
    output::print(in_words(plan, notes))?;
    if plan.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if !args.yes && !agreed()? {
        eprintln!("Nothing was applied.");
        return Ok(ExitCode::from(FAILED));
    }
    let by = args.by.clone().unwrap_or_else(environment::user);
    let snapshot = project.catalog()?.commit(plan, &by).await?;
    output::print(format!(
        "Applied: the catalog is at snapshot {}.",
        snapshot.number
    ))?;
    if let Some(next) = to_materialize(plan) {
        output::print(next)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn agreed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("stdin is not a terminal to ask on; pass --yes to apply without asking");
    }
    eprint!("Apply? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// What is left to do: new versions go live once they are materialised.
fn to_materialize(plan: &Plan) -> Option<String> {
    let views = &plan.next.feature_views;
    let is_run = |name: &str| views.get(name).is_some_and(|view| why_not(view).is_none());
    let new = plan.changes.iter().filter(|c| {
        c.object == ObjectKind::FeatureView
            && matches!(c.action, ChangeAction::Create | ChangeAction::Replace)
            && is_run(&c.name)
    });
    let names: Vec<&str> = new.map(|c| c.name.as_str()).collect();
    match names.len() {
        0 => None,
        1..=5 => Some(format!("Next: granary materialize {}", names.join(" "))),
        _ => Some("Next: granary materialize".into()),
    }
}
