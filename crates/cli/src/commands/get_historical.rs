//! `granary get-historical`: a training set for the rows of a spine, from the
//! project in this process or from a server.

use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::future::{FutureExt, Shared};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use granary_catalog::Snapshot;
use granary_client::{Client, GetHistorical, HistoricalReport, Reporter, Target, WithoutRun};
use granary_engine::training::explain::{explain, time_split};
use granary_engine::training::output::{OutputFormat, OutputTarget, Written, write};
use granary_engine::training::{Spine, TrainingOptions, TrainingRequest, TrainingSet};
use granary_engine::{Engine, EngineError, InputColumn, SpineEvents};
use granary_model::bytes;
use granary_serving::ReadTarget;
use granary_serving::training::{backfill, select};
use serde::Serialize;

use super::{get, serve};
use crate::args::Listing;
use crate::environment;
use crate::failure::Outcome;
use crate::output::{self, human};
use crate::progress::RowCount;
use crate::project::{self, Project};

/// One `--request-events`: STREAM, or STREAM='SELECT .. FROM spine'.
#[derive(Debug, Clone)]
pub struct SpineEventsArgument(SpineEvents);

impl FromStr for SpineEventsArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stream, query) = match text.split_once('=') {
            Some((stream, query)) => (stream, Some(query.trim())),
            None => (text, None),
        };
        if stream.trim().is_empty() || query.is_some_and(str::is_empty) {
            return Err("it is of the form STREAM or STREAM='SELECT .. FROM spine'".to_owned());
        }
        Ok(Self(SpineEvents {
            stream: stream.trim().to_owned(),
            query: query.map(str::to_owned),
        }))
    }
}

#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("target").required(true).args(["service", "features"])),
    group(clap::ArgGroup::new("rows").required(true).args(["spine", "spine_sql"])),
    after_help = "\
The spine has the keys, a time, the inputs of on-demand views by their names, and any further columns,
as labels. Each of its rows comes out once, in
order, its own columns untouched; each feature is the value as of the row's time. Files are Parquet, CSV
(.csv, .csv.gz, .tsv) or Arrow IPC (.arrow, .arrows), by their names.

Examples:
  granary get-historical --spine loans.parquet --service risk_admission --out training.parquet
  granary get-historical --spine loans.csv --features customer_spend.amount_30d,customer_profile.* \\
    --time granted_at --out training.csv --statuses
  granary get-historical --spine-sql \"SELECT customer_id, due_at AS event_time, paid FROM installments\" \\
    --service collections --before --out training/          # a Delta table
  granary get-historical --spine loans.parquet --service risk_admission --explain
  granary get-historical --spine loans.parquet --service risk_admission --out training.parquet \\
    --endpoint http://127.0.0.1:7420"
)]
pub struct Args {
    /// The file with the rows: keys, a time, any further columns
    #[arg(long, value_name = "FILE")]
    pub spine: Option<String>,

    /// A query over the project's sources and views that gives the rows
    #[arg(long, value_name = "SQL", conflicts_with = "endpoint")]
    pub spine_sql: Option<String>,

    /// The feature service
    #[arg(short, long, value_name = "NAME")]
    pub service: Option<String>,

    /// Features, each view.feature or view.*
    #[arg(short, long, value_name = "VIEW.FEATURE", value_delimiter = ',')]
    pub features: Vec<String>,

    /// The spine's column with the time of each row
    #[arg(long, value_name = "COLUMN", default_value = "event_time")]
    pub time: String,

    /// Where the training set goes: .parquet, .csv, .arrow, .arrows, or a folder/ for a Delta table
    #[arg(long, value_name = "FILE", required_unless_present = "explain")]
    pub out: Option<String>,

    /// The form of the training set, if the name of FILE does not tell: parquet, csv, arrow, arrows, delta
    #[arg(long, value_name = "FORMAT", requires = "out")]
    pub format: Option<OutputFormat>,

    /// Replace what is there
    #[arg(long)]
    pub overwrite: bool,

    /// Add a column with the status of each feature
    #[arg(long)]
    pub statuses: bool,

    /// Name features view__feature
    #[arg(long)]
    pub full_names: bool,

    /// Only what happened before the time of the row, not at it
    #[arg(long)]
    pub before: bool,

    /// Leave out what was written down after the time of the row
    #[arg(long)]
    pub known_at_the_time: bool,

    /// Of views that runs write: as of the refresh that a service would have answered from
    #[arg(long)]
    pub as_served: bool,

    /// Make each row of the spine an event of a stream, for that row only; STREAM='SELECT .. FROM spine' maps
    /// columns. Other events are taken strictly before the time of the row then
    #[arg(long, value_name = "STREAM")]
    pub request_events: Vec<SpineEventsArgument>,

    /// Bound of the memory that queries hold, as 512MB or 2GB; beyond it they spill
    #[arg(long, value_name = "SIZE", value_parser = bytes::parse, conflicts_with = "endpoint")]
    pub memory: Option<u64>,

    /// Print the plan; with --out, after the run, with what each operator did
    #[arg(long, conflicts_with = "endpoint")]
    pub explain: bool,

    /// Ask a server in place of the project in this folder
    #[arg(short, long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// The name to ask a server under [default: the user]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub client: Option<String>,

    /// The form of the summary
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

impl Args {
    fn target(&self) -> anyhow::Result<Option<OutputTarget>> {
        let out = self.out.as_deref();
        let target = out.map(|out| OutputTarget::new(out, self.format, self.overwrite));
        Ok(target.transpose()?)
    }
}

/// Resolves when the command is to end.
type Stop = Shared<futures::future::BoxFuture<'static, ()>>;

pub async fn run(folder: Option<&Path>, args: Args) -> Outcome {
    let stop: Stop = serve::stop_signal()?.boxed().shared();
    let started = Instant::now();
    let computing = Computing::begin(folder, &args, stop.clone()).await?;
    let Some(target) = args.target()? else {
        if let Source::Project { set, .. } = &computing.source {
            output::print(explain(set.plan(), false).trim_end())?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Computing {
        schema,
        rows,
        engine,
        source,
    } = computing;
    let columns = schema.fields().len();
    let progress = RowCount::on_stderr("computing the training set");
    let told = |rows| progress.rows(rows);
    let rows = until(stop, rows);
    let written = write(engine.stores(), schema, rows, &target, &told).await;
    progress.end();
    let written = written?;
    let summary = Summary {
        location: args.out.as_deref().unwrap_or_default(),
        format: target.format(),
        written,
        columns,
        elapsed: started.elapsed(),
        report: source.report(),
    };
    match args.output {
        Listing::Json => output::print_json(&summary.json())?,
        Listing::Table => summary.print(&args.time)?,
    }
    if let (true, Source::Project { set, .. }) = (args.explain, &source) {
        print_analysis(set, &summary);
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows, until the command is to end: then an error, so that nothing is left.
fn until(
    stop: Stop,
    rows: BoxStream<'static, anyhow::Result<RecordBatch>>,
) -> impl futures::Stream<Item = anyhow::Result<RecordBatch>> + Send {
    let stopped = Arc::new(AtomicBool::new(false));
    let is_stopped = Arc::clone(&stopped);
    let stop = stop.map(move |()| stopped.store(true, Ordering::Relaxed));
    let farewell = stream::once(async move {
        let stopped = is_stopped.load(Ordering::Relaxed);
        stopped.then(|| Err(interrupted()))
    });
    rows.take_until(stop)
        .chain(farewell.filter_map(async |last| last))
}

fn interrupted() -> anyhow::Error {
    anyhow!("interrupted; nothing was written")
}

/// A training set whose rows can be read.
struct Computing {
    schema: SchemaRef,
    rows: BoxStream<'static, anyhow::Result<RecordBatch>>,
    /// Whose stores the output goes to.
    engine: Engine,
    source: Source,
}

/// What tells about the rows once they were read.
enum Source {
    Project {
        set: Box<TrainingSet>,
        snapshot: Arc<Snapshot>,
    },
    Server(Reporter),
}

impl Computing {
    async fn begin(folder: Option<&Path>, args: &Args, stop: Stop) -> anyhow::Result<Self> {
        let begin = async {
            match &args.endpoint {
                Some(endpoint) => Self::of_server(endpoint, args).await,
                None => Self::of_project(Project::open(folder)?, args).await,
            }
        };
        tokio::select! {
            begun = begin => begun,
            () = stop => Err(interrupted()),
        }
    }

    /// Whoever can read the project's files may read its features.
    async fn of_project(mut project: Project, args: &Args) -> anyhow::Result<Self> {
        if let Some(memory) = args.memory {
            project.config.engine.memory_bytes_max = memory;
        }
        let engine = project.engine()?;
        if let Some(target) = args.target()? {
            target.check(engine.stores()).await?;
        }
        let snapshot = project.snapshot().await?;
        let target = match &args.service {
            Some(service) => ReadTarget::Service(service.clone()),
            None => ReadTarget::Features(args.features.clone()),
        };
        let selected = select(&snapshot, &target, args.full_names)?;
        let spine = match (&args.spine, &args.spine_sql) {
            (Some(file), _) => Spine::File(file.clone()),
            (None, sql) => Spine::Sql(sql.clone().unwrap_or_default()),
        };
        let request = TrainingRequest {
            spine,
            time: args.time.clone(),
            from: selected.from,
            features: selected.features,
            options: TrainingOptions {
                strictly_before: args.before,
                known_at_the_time: args.known_at_the_time,
                as_served: args.as_served,
                statuses: args.statuses,
                full_names: args.full_names,
            },
            request_events: args.request_events.iter().map(|e| e.0.clone()).collect(),
        };
        let set = engine.training_set(&snapshot.definitions, request).await?;
        let rows: BoxStream<'static, _> = match &args.out {
            None => stream::empty().boxed(),
            Some(_) => {
                let rows = set.execute()?;
                let failed = |error| EngineError::from_query("training set", error).into();
                rows.map_err(failed).boxed()
            }
        };
        Ok(Self {
            schema: set.schema(),
            rows,
            engine,
            source: Source::Project {
                set: Box::new(set),
                snapshot,
            },
        })
    }

    async fn of_server(endpoint: &str, args: &Args) -> anyhow::Result<Self> {
        let engine = project::engine_without_project()?;
        if let Some(target) = args.target()? {
            target.check(engine.stores()).await?;
        }
        let name = args.client.clone().unwrap_or_else(environment::user);
        let client = Client::connect(endpoint).await?.with_name(&name);
        let target = match &args.service {
            Some(service) => Target::Service(service.clone()),
            None => Target::Features(args.features.clone()),
        };
        // A CSV file tells no types: keys and inputs take those that are asked for.
        let expected = get::expected_columns(&client, &target).await?;
        let inputs = expected.inputs.into_iter().map(|column| InputColumn {
            column,
            // What is missing the server says.
            needed: false,
        });
        let inputs: Vec<InputColumn> = inputs.collect();
        let file = args.spine.as_deref().unwrap_or_default();
        let spine = engine.spine_rows(file, Some(&args.time), &expected.keys, &inputs);
        let spine = spine.await?;
        let spine_schema = spine.schema();
        let named = file.to_owned();
        let spine = spine.map_err(move |error| EngineError::from_query(&named, error));
        let events = args.request_events.iter().map(|events| {
            let granary_engine::SpineEvents { stream, query } = events.0.clone();
            granary_client::SpineEvents { stream, query }
        });
        let request = GetHistorical {
            target,
            time: args.time.clone(),
            strictly_before: args.before,
            known_at_the_time: args.known_at_the_time,
            as_served: args.as_served,
            statuses: args.statuses,
            full_names: args.full_names,
            request_events: events.collect(),
        };
        let answer = client.get_historical(&request, spine_schema, spine).await?;
        Ok(Self {
            schema: Arc::clone(&answer.schema),
            source: Source::Server(answer.reporter()),
            rows: answer.rows.map_err(Into::into).boxed(),
            engine,
        })
    }
}

impl Source {
    fn report(&self) -> HistoricalReport {
        let (set, snapshot) = match self {
            Self::Server(reporter) => return reporter.report().cloned().unwrap_or_default(),
            Self::Project { set, snapshot } => (set, snapshot),
        };
        let report = set.report();
        let without_run = report.without_run.iter().map(|without| WithoutRun {
            view: without.view.clone(),
            rows: without.rows,
            backfill: backfill(&snapshot.definitions, without),
        });
        let null_keys = report.null_keys.iter().filter(|(_, rows)| *rows > 0);
        HistoricalReport {
            snapshot: snapshot.number,
            rows: report.rows,
            null_times: report.null_times,
            null_keys: null_keys.cloned().collect(),
            notes: set.notes(),
            without_run: without_run.collect(),
        }
    }
}

/// What is told of a training set that was written.
struct Summary<'a> {
    location: &'a str,
    format: OutputFormat,
    written: Written,
    columns: usize,
    elapsed: Duration,
    report: HistoricalReport,
}

impl Summary<'_> {
    fn print(&self, time: &str) -> anyhow::Result<()> {
        output::print(format!(
            "{} × {} columns to {} ({}) in {:.1?}",
            human::counted(self.written.rows, "row"),
            self.columns,
            self.location,
            bytes::display(self.written.bytes),
            self.elapsed
        ))?;
        let report = &self.report;
        for note in &report.notes {
            eprintln!("note: {note}");
        }
        if report.null_times > 0 {
            let rows = human::counted(report.null_times, "row");
            eprintln!("note: {time} is NULL in {rows}: their features are NULL");
        }
        for (key, rows) in &report.null_keys {
            let rows = human::counted(*rows, "row");
            eprintln!("note: {key} is NULL in {rows}: what is read by it is NULL there");
        }
        for without in &report.without_run {
            let fills = match without.backfill.as_str() {
                "" => String::new(),
                command => format!("; this fills them:\n  {command}"),
            };
            eprintln!(
                "note: {} has no run at or before the time of {}, whose features of it are NULL{fills}",
                without.view,
                human::counted(without.rows, "row"),
            );
        }
        Ok(())
    }

    fn json(&self) -> impl Serialize {
        let report = &self.report;
        let null_keys = report.null_keys.iter();
        let without_run = report.without_run.iter().map(|without| {
            serde_json::json!({
                "view": without.view,
                "rows": without.rows,
                "backfill": without.backfill,
            })
        });
        serde_json::json!({
            "location": self.location,
            "format": self.format.to_string(),
            "rows": self.written.rows,
            "columns": self.columns,
            "bytes": self.written.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "snapshot": report.snapshot,
            "null_times": report.null_times,
            "null_keys": null_keys.cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "notes": report.notes,
            "without_run": without_run.collect::<Vec<_>>(),
        })
    }
}

/// To stderr: the summary may be for a program.
fn print_analysis(set: &TrainingSet, summary: &Summary<'_>) {
    let split = time_split(set.plan());
    eprintln!("{}", explain(set.plan(), true).trim_end());
    eprintln!(
        "read {:.1?}, sort {:.1?}, aggregate {:.1?}, other {:.1?} (of all threads together); write {:.1?}; elapsed {:.1?}",
        split.read,
        split.sort,
        split.aggregate,
        split.other,
        summary.written.write_time,
        summary.elapsed
    );
}
