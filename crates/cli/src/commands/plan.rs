//! `granary plan`: what apply would change, and what that costs.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use granary_catalog::{Change, ChangeAction, Plan, Snapshot};
use granary_engine::{Bounds, LiveTime, Retention, StreamNeeds};
use granary_model::{Definitions, Diagnostic, Diagnostics, UtcMicros};
use serde::Serialize;

use crate::args::Listing;
use crate::events::{ProjectEvents, known_lost};
use crate::failure::{FAILED, Outcome, PENDING};
use crate::output::{self, human};
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

/// What live views need of each stream.
type Needs = BTreeMap<String, StreamNeeds>;

/// What the files would change, and what is to be known of it.
pub struct Proposal {
    pub plan: Plan,
    pub notes: Vec<String>,
}

/// Compares the project's files with the newest snapshot. Wrong definitions
/// are the inner error.
pub async fn propose(project: &Project) -> anyhow::Result<Result<Proposal, Diagnostics>> {
    let engine = project.engine()?;
    let latest: Option<Arc<Snapshot>> = project.catalog()?.latest().await?;
    let definitions = match project.check(&engine).await? {
        Ok(definitions) => definitions,
        Err(diagnostics) => return Ok(Err(diagnostics)),
    };
    if let Some(latest) = &latest {
        stored_streams(project, latest, &definitions).await?;
    }
    let needs = engine.stream_needs(&definitions).await?;
    let mut notes = trimmed_streams(&needs, &definitions);
    let plan = Plan::new(latest.as_deref(), definitions);
    if let Some(latest) = &latest {
        notes.extend(lost_events(project, latest, (&plan, &needs)).await?);
    }
    Ok(Ok(Proposal { plan, notes }))
}

/// What changes and needs events that a stream lost while it had no HISTORY, and
/// that time does not bring.
async fn lost_events(
    project: &Project,
    latest: &Snapshot,
    (plan, needs): (&Plan, &Needs),
) -> anyhow::Result<Vec<String>> {
    let changes = |name: &str| plan.changes.iter().any(|change| change.name == name);
    let lasts = |need: &Retention| match need {
        Retention::Everything => true,
        Retention::Bounded(bounds) => !bounds.newest.is_empty(),
    };
    let mut asking: BTreeMap<&str, Asking<'_>> = BTreeMap::new();
    for (name, old) in &latest.definitions.streams {
        let Some(new) = plan.next.streams.get(name) else {
            continue;
        };
        let views = needs.get(name).into_iter().flat_map(|needs| &needs.views);
        let asked = Asking {
            gets_history: old.history.is_none() && new.history.is_some(),
            views: views
                .filter(|(view, need)| changes(view) && lasts(need))
                .collect(),
        };
        if asked.gets_history || !asked.views.is_empty() {
            asking.insert(name, asked);
        }
    }
    if asking.is_empty() {
        return Ok(Vec::new());
    }
    let statuses = ProjectEvents::new(project.clone()).statuses().await?;
    let notes = statuses.into_iter().filter_map(|stream| {
        let asked = asking.get(stream.name.as_str())?;
        let lost = known_lost(stream.lost?);
        let mut told = Vec::new();
        if asked.gets_history {
            told.push("its HISTORY begins after them".to_owned());
        }
        for (view, need) in &asked.views {
            // What RANGE frames need comes with time.
            let lasting = match need {
                Retention::Everything => Retention::Everything,
                Retention::Bounded(bounds) => Retention::Bounded(Bounds {
                    ranges: Vec::new(),
                    newest: bounds.newest.clone(),
                }),
            };
            let now = LiveTime {
                as_of: UtcMicros::MAX,
                strictly_before: false,
            };
            if !lost.spares(&lasting, now) {
                let words = needs[&stream.name].in_words(need);
                told.push(format!("{view} needs {words}: its reads are out of range"));
            }
        }
        let (name, before) = (&stream.name, lost.before);
        let told = (!told.is_empty()).then(|| told.join("; "))?;
        Some(format!(
            "stream {name} has lost events before {before}: {told}"
        ))
    });
    Ok(notes.collect())
}

/// What a plan asks of a stream's past.
struct Asking<'n> {
    gets_history: bool,
    views: Vec<(&'n String, &'n Retention)>,
}

/// Fails for a stream that has events and would be defined so that they could not
/// be read any more.
async fn stored_streams(
    project: &Project,
    latest: &Snapshot,
    definitions: &Definitions,
) -> anyhow::Result<()> {
    let changed = latest.definitions.streams.iter().filter_map(|(name, old)| {
        let new = definitions.streams.get(name)?;
        let renamed = matches!((&old.history, &new.history), (Some(a), b) if b.as_ref() != Some(a));
        let change = match old.stored_as() == new.stored_as() {
            false => "its columns, EVENT TIME and DEDUPLICATE BY are those",
            true if renamed => "its HISTORY is that",
            true => return None,
        };
        Some((name, change))
    });
    let changed: Vec<_> = changed.collect();
    if changed.is_empty() {
        return Ok(());
    }
    let statuses = ProjectEvents::new(project.clone()).statuses().await?;
    for (name, change) in changed {
        let events = statuses.iter().find(|stream| stream.name == *name);
        let events = events.map_or(0, |stream| stream.last_sequence);
        if events > 0 {
            bail!(
                "stream {name} has events, up to number {}: {change} of its events and cannot \
                 change; define a new stream under another name",
                human::count(events)
            );
        }
    }
    Ok(())
}

/// Streams whose events go for good: live views need only some of them, and there
/// is no HISTORY that would have the others.
fn trimmed_streams(needs: &Needs, definitions: &Definitions) -> Vec<String> {
    let trimmed = |(name, needs): (&String, &StreamNeeds)| {
        let has_history = definitions.streams.get(name)?.history.is_some();
        if has_history || needs.retention == Retention::Everything {
            return None;
        }
        let of_view =
            |(view, need): (&String, &Retention)| format!("{view} needs {}", needs.in_words(need));
        let views: Vec<String> = needs.views.iter().map(of_view).collect();
        Some(format!(
            "stream {name} has no HISTORY: it keeps {} ({}), and other events go for good",
            needs.in_words(&needs.retention),
            views.join("; ")
        ))
    };
    needs.iter().filter_map(trimmed).collect()
}

pub async fn run(project: &Project, args: &Args) -> Outcome {
    let Proposal { plan, notes } = match propose(project).await? {
        Ok(proposal) => proposal,
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
            notes: &notes,
        })?,
        Listing::Table => output::print(in_words(&plan, &notes))?,
    }
    if args.exit_code && !plan.is_empty() {
        return Ok(ExitCode::from(PENDING));
    }
    Ok(ExitCode::SUCCESS)
}

/// The changes, one a line, a count of each sort, and the notes.
pub fn in_words(plan: &Plan, notes: &[String]) -> String {
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
    lines.extend(notes.iter().map(|note| format!("note: {note}")));
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
    notes: &'a [String],
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
