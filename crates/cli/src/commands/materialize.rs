//! `granary materialize`: computes views and fills the online store.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use granary_engine::{RunMode, RunRecord};
use granary_ingest::{Backfill, MaterializeRequest, RunOutcome, WhenClaimed};
use granary_model::{Interval, UtcMicros, bytes};
use serde::Serialize;

use crate::args::Listing;
use crate::failure::{FAILED, Outcome, with_causes};
use crate::output::{self, human, table};
use crate::progress;
use crate::project::Project;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A timestamped view goes on from its watermark; a run that was committed before is skipped.

Examples:
  granary materialize
  granary materialize customer_spend --as-of 2026-01-31T00:00:00Z
  granary materialize customer_spend --from 2025-01-01 --to 2026-01-01 --every '1 month'
  granary materialize --lookback '2 days'      # read late rows again")]
pub struct Args {
    /// Feature views [default: all that are materialised]
    pub views: Vec<String>,

    /// T of the run: nothing later is seen [default: now]
    #[arg(long, value_name = "TIME", conflicts_with_all = ["from", "to", "every"])]
    pub as_of: Option<UtcMicros>,

    /// The first T of a backfill
    #[arg(long, value_name = "TIME", requires = "to", requires = "every")]
    pub from: Option<UtcMicros>,

    /// The last T of a backfill
    #[arg(long, value_name = "TIME", requires = "from")]
    pub to: Option<UtcMicros>,

    /// From one T of a backfill to the next, as '1 day', '12 hours', '1 month'
    #[arg(long, value_name = "INTERVAL", requires = "from", value_parser = interval)]
    pub every: Option<Interval>,

    /// How far before the watermark rows are read again, for those that came late
    #[arg(long, value_name = "INTERVAL", value_parser = interval)]
    pub lookback: Option<Interval>,

    /// Compute again what is committed, and replace it
    #[arg(long)]
    pub force: bool,

    /// Allow a past run to read sources without an event time as they are now
    #[arg(long)]
    pub current_state: bool,

    /// Wait for another materialisation of the same view instead of being refused
    #[arg(long)]
    pub wait: bool,

    /// Bound of the memory that queries hold, as 512MB or 2GB; beyond it they spill
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse)]
    pub memory: Option<u64>,

    /// The form of the summary
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

fn interval(text: &str) -> Result<Interval, String> {
    text.parse::<Interval>().map_err(|e| e.to_string())
}

impl Args {
    fn request(&self) -> MaterializeRequest {
        let backfill = match (self.from, self.to, self.every) {
            (Some(from), Some(to), Some(every)) => Some(Backfill { from, to, every }),
            _ => None,
        };
        MaterializeRequest {
            views: self.views.clone(),
            as_of: self.as_of,
            backfill,
            lookback: self.lookback,
            force: self.force,
            current_state: self.current_state,
            when_claimed: if self.wait {
                WhenClaimed::Wait
            } else {
                WhenClaimed::Refuse
            },
        }
    }
}

pub async fn run(mut project: Project, args: Args) -> Outcome {
    if let Some(memory) = args.memory {
        project.config.engine.memory_bytes_max = memory;
    }
    let engine = project.engine()?;
    let snapshot = project.snapshot().await?;
    let store = project.online_store()?;
    let materializer = project.materializer(&engine, &store)?;
    let started = Instant::now();
    let outcomes = materializer
        .materialize(&snapshot, args.request(), progress::on_stderr())
        .await?;
    match args.output {
        Listing::Json => {
            let runs: Vec<_> = outcomes.iter().map(RunJson::new).collect();
            output::print_json(&serde_json::json!({ "runs": runs }))?;
        }
        Listing::Table if outcomes.is_empty() => {
            output::print("No view is materialised: nothing to do.")?;
        }
        Listing::Table => output::print(summary(&outcomes).to_string())?,
    }
    for outcome in &outcomes {
        print_notices(outcome);
    }
    eprintln!("{} in {:.1?}", in_words(&outcomes), started.elapsed());
    let failed = outcomes
        .iter()
        .any(|o| matches!(o, RunOutcome::Failed { .. } | RunOutcome::NotStarted { .. }));
    Ok(if failed {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn in_words(outcomes: &[RunOutcome]) -> String {
    let number = |which: fn(&RunOutcome) -> bool| outcomes.iter().filter(|o| which(o)).count();
    let counts = [
        (
            number(|o| matches!(o, RunOutcome::Committed(_))),
            "committed",
        ),
        (
            number(|o| matches!(o, RunOutcome::Skipped { .. })),
            "skipped",
        ),
        (number(|o| matches!(o, RunOutcome::Failed { .. })), "failed"),
        (
            number(|o| matches!(o, RunOutcome::NotStarted { .. })),
            "not started",
        ),
    ];
    let told: Vec<String> = counts
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    if told.is_empty() {
        "nothing".into()
    } else {
        told.join(", ")
    }
}

fn summary(outcomes: &[RunOutcome]) -> comfy_table::Table {
    let mut shown = table::table(["view", "after", "as of", "result", "rows"]);
    for outcome in outcomes {
        let row = RunJson::new(outcome);
        shown.add_row([
            row.view,
            row.run
                .and_then(|r| r.from)
                .map_or(String::new(), |t| t.to_string()),
            row.as_of.unwrap_or_default(),
            match row.reason {
                Some(reason) if !matches!(outcome, RunOutcome::Failed { .. }) => {
                    format!("{}: {reason}", row.result)
                }
                _ => row.result.to_owned(),
            },
            row.run.map(|r| human::count(r.rows)).unwrap_or_default(),
        ]);
    }
    table::align_right(&mut shown, [4]);
    shown
}

/// What a person should know of a run although it went well.
fn print_notices(outcome: &RunOutcome) {
    let run = match outcome {
        RunOutcome::Committed(run) => run,
        RunOutcome::Failed { view, error, .. } => {
            let error = anyhow::Error::from(Arc::clone(error));
            let told = with_causes(&error);
            if told.starts_with(view.as_str()) {
                eprintln!("error: {told}");
            } else {
                eprintln!("error: {view}: {told}");
            }
            return;
        }
        RunOutcome::Skipped { .. } | RunOutcome::NotStarted { .. } => return,
    };
    let view = &run.view;
    if run.null_keys > 0 {
        let rows = human::counted(run.null_keys, "row");
        eprintln!("note: {view}: left out {rows} with a NULL key");
    }
    if run.null_event_times > 0 {
        let rows = human::counted(run.null_event_times, "row");
        eprintln!("note: {view}: left out {rows} with a NULL event time");
    }
    if run.future_event_times > 0 {
        let rows = human::counted(run.future_event_times, "row");
        eprintln!(
            "note: {view}: left out {rows} with an event time in the future (a run after it takes them in)"
        );
    }
    if !run.current_state.is_empty() {
        let sources = run.current_state.join(", ");
        eprintln!(
            "note: {view}: {sources} read as it is now, not as of {}",
            run.as_of
        );
    }
    for (stream, before) in &run.trimmed {
        eprintln!(
            "warning: {view}: {stream} has lost events before {before}: where the view reads further back, its rows are of what is left"
        );
    }
    for column in &run.later_than_event {
        eprintln!(
            "warning: {view}: {column} holds times later than the row's event time: a leak in the making, if a row is dated before its {column} was known"
        );
    }
}

#[derive(Serialize)]
struct RunJson<'a> {
    view: String,
    as_of: Option<String>,
    /// `committed`, `skipped`, `failed`, `not started`
    result: &'static str,
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(serialize_with = "run_json")]
    run: Option<&'a RunRecord>,
}

impl<'a> RunJson<'a> {
    fn new(outcome: &'a RunOutcome) -> Self {
        let ended = |view: &str, as_of: Option<UtcMicros>, result, reason| Self {
            view: view.to_owned(),
            as_of: as_of.map(|t| t.to_string()),
            result,
            reason,
            run: None,
        };
        match outcome {
            RunOutcome::Committed(run) => Self {
                run: Some(run),
                ..ended(&run.view, Some(run.as_of), "committed", None)
            },
            RunOutcome::Skipped {
                view,
                as_of,
                reason,
            } => ended(view, Some(*as_of), "skipped", Some(reason.clone())),
            RunOutcome::Failed { view, as_of, error } => {
                ended(view, Some(*as_of), "failed", Some(error.to_string()))
            }
            RunOutcome::NotStarted { view, because_of } => {
                let reason = format!("{because_of} failed");
                ended(view, None, "not started", Some(reason))
            }
        }
    }
}

fn run_json<S: serde::Serializer>(
    run: &Option<&RunRecord>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    run.map(RunRecordJson::new).serialize(serializer)
}

/// A committed run for programs: times as text, as in all of our JSON.
#[derive(Debug, Serialize)]
pub struct RunRecordJson<'a> {
    version: u32,
    mode: RunMode,
    from: Option<String>,
    as_of: String,
    committed_at: String,
    offline_version: u64,
    rows: u64,
    null_keys: u64,
    null_event_times: u64,
    future_event_times: u64,
    current_state: &'a [String],
    later_than_event: &'a [String],
    /// Streams by name, and before which time they lost events.
    trimmed: BTreeMap<&'a str, String>,
    columns: &'a [granary_engine::ColumnStatistics],
}

impl<'a> RunRecordJson<'a> {
    pub fn new(run: &'a RunRecord) -> Self {
        Self {
            version: run.version,
            mode: run.mode,
            from: run.from.map(|t| t.to_string()),
            as_of: run.as_of.to_string(),
            committed_at: run.committed_at.to_string(),
            offline_version: run.offline_version,
            rows: run.rows,
            null_keys: run.null_keys,
            null_event_times: run.null_event_times,
            future_event_times: run.future_event_times,
            current_state: &run.current_state,
            later_than_event: &run.later_than_event,
            trimmed: { run.trimmed.iter() }
                .map(|(stream, before)| (stream.as_str(), before.to_string()))
                .collect(),
            columns: &run.columns,
        }
    }
}
