//! `granary plan`: what apply would change, and what that costs.

use std::process::ExitCode;
use std::sync::Arc;

use granary_catalog::{Change, ChangeAction, Plan, Snapshot};
use granary_model::{Diagnostic, Diagnostics};
use serde::Serialize;

use crate::args::Listing;
use crate::failure::{FAILED, Outcome, PENDING};
use crate::output;
use crate::project::Project;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  granary plan\n  granary plan --exit-code    # exits with 3 where changes are pending\n  granary plan --output json"
)]
pub struct Args {
    /// The form of the plan
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,

    /// Exit with 3 if there are changes
    #[arg(long)]
    pub exit_code: bool,
}

/// Compares the project's files with the newest snapshot. Wrong definitions
/// are the inner error.
pub async fn propose(project: &Project) -> anyhow::Result<Result<Plan, Diagnostics>> {
    let engine = project.engine()?;
    let latest: Option<Arc<Snapshot>> = project.catalog()?.latest().await?;
    let checked = project.check(&engine).await?;
    Ok(checked.map(|definitions| Plan::new(latest.as_deref(), definitions)))
}

pub async fn run(project: &Project, args: &Args) -> Outcome {
    let plan = match propose(project).await? {
        Ok(plan) => plan,
        Err(diagnostics) => {
            if args.output == Listing::Json {
                let errors: Vec<_> = diagnostics.iter().map(DiagnosticJson::new).collect();
                output::print_json(&serde_json::json!({ "errors": errors }))?;
            }
            eprintln!("{diagnostics}");
            return Ok(ExitCode::from(FAILED));
        }
    };
    match args.output {
        Listing::Json => output::print_json(&PlanJson {
            base: plan.base,
            changes: &plan.changes,
        })?,
        Listing::Table => output::print(in_words(&plan))?,
    }
    if args.exit_code && !plan.is_empty() {
        return Ok(ExitCode::from(PENDING));
    }
    Ok(ExitCode::SUCCESS)
}

/// The changes, one a line, and a count of each sort.
pub fn in_words(plan: &Plan) -> String {
    if plan.is_empty() {
        return match plan.base {
            0 => "Nothing is defined, and nothing is applied.".into(),
            base => format!("No changes: the files say what snapshot {base} says."),
        };
    }
    let mut lines = vec![match plan.base {
        0 => "Against an empty catalog:".to_owned(),
        base => format!("Against snapshot {base}:"),
    }];
    for change in &plan.changes {
        let mark = match change.action {
            ChangeAction::Create => '+',
            ChangeAction::Alter => '~',
            ChangeAction::Replace => '!',
            ChangeAction::Drop => '-',
        };
        lines.push(format!("  {mark} {}", change_in_words(change)));
    }
    let number = |action| plan.changes.iter().filter(|c| c.action == action).count();
    lines.push(format!(
        "{} to create, {} to alter, {} to replace, {} to drop",
        number(ChangeAction::Create),
        number(ChangeAction::Alter),
        number(ChangeAction::Replace),
        number(ChangeAction::Drop),
    ));
    lines.join("\n")
}

/// `replace feature view customer_balance: query changed, version 3, needs a backfill`
pub fn change_in_words(change: &Change) -> String {
    let verb = match change.action {
        ChangeAction::Create => "create",
        ChangeAction::Alter => "alter",
        ChangeAction::Replace => "replace",
        ChangeAction::Drop => "drop",
    };
    let text = format!("{verb} {} {change}", change.object.as_str());
    text.trim_end_matches([':', ' ']).to_owned()
}

#[derive(Serialize)]
struct PlanJson<'a> {
    /// The snapshot that the plan is made from; 0: none.
    base: u64,
    changes: &'a [Change],
}

/// A diagnostic for programs: an editor can jump to it.
#[derive(Serialize)]
struct DiagnosticJson<'a> {
    message: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
    column: Option<u32>,
    help: Option<&'a str>,
}

impl<'a> DiagnosticJson<'a> {
    fn new(diagnostic: &'a Diagnostic) -> Self {
        let span = diagnostic.span.as_ref();
        Self {
            message: &diagnostic.message,
            file: span.map(|s| s.file.path.as_str()),
            line: span.map(|s| s.start.line),
            column: span.map(|s| s.start.column),
            help: diagnostic.help.as_deref(),
        }
    }
}
