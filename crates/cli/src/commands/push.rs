//! `granary push`: the rows of a file, or of stdin, become events of a stream.
//!
//! Rows are read, typed and sent batch by batch, a few batches under way at a
//! time, so that a long file holds little memory.

mod history;
mod rows;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use arrow::array::{Array, RecordBatch};
use clap::ValueEnum;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use granary_client::{Client, Push, PushAnswer};
use granary_engine::{Engine, RowFormat};
use granary_ingest::{IngestError, Pushed, Streams};
use granary_model::definitions::{self, Column};
use granary_model::{FeatureType, did_you_mean};
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::args::Listing;
use crate::environment;
use crate::events::{Access, ProjectEvents};
use crate::failure::{FAILED, Outcome, usage};
use crate::output::{self, human};
use crate::progress::RowCount;
use crate::project::{self, Project};
use rows::{Place, RowBatches, TypedRows};

/// Batches under way at a time.
const AHEAD: usize = 4;
/// A batch of more bytes is sent in parts.
const BATCH_BYTES: usize = 4 << 20;
/// Refused rows that are told of.
const REASONS_MAX: usize = 10;
/// Stands for stdin.
const STDIN: &str = "-";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Parquet,
    /// With a header.
    Csv,
    /// One object a line.
    Json,
    /// Arrow IPC, a file or a stream.
    Arrow,
}

impl From<Format> for RowFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Parquet => Self::Parquet,
            Format::Csv => Self::Csv,
            Format::Json => Self::Json,
            Format::Arrow => Self::Arrow,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A file has every column of the stream, by name, and no other. In CSV and JSON a TIMESTAMP is RFC 3339,
without a zone UTC; VARBINARY is base64; a list in CSV is a JSON array; no value in CSV is NULL. Rows that
are no events are refused and counted, the good rows beside them are appended.

With --history the rows are older events of another system: they go into the stream's HISTORY, and live views
that reach them count them. A column _created may say when each was written down. An event whose DEDUPLICATE BY
columns are there already counts once, so a file may be pushed again.

A server that owns the project's events is asked, else this command owns them while it runs.

Examples:
  granary push card_event --file events.parquet
  granary push card_event --file events.csv.gz --output json
  kcat -C -e -t cards | granary push card_event --format json
  granary push card_event --history --file last_year.parquet
  granary push card_event --file events.jsonl --endpoint http://127.0.0.1:7420")]
pub struct Args {
    /// The stream
    #[arg(value_name = "STREAM")]
    pub stream: String,

    /// A Parquet, CSV, JSON lines or Arrow IPC file, or - for stdin
    #[arg(short, long, value_name = "PATH", default_value = STDIN)]
    pub file: String,

    /// What the file is [default: by its name]
    #[arg(long, value_enum)]
    pub format: Option<Format>,

    /// Take the rows into the stream's HISTORY, whatever their age
    #[arg(long)]
    pub history: bool,

    /// The most rows of a batch, which is durable as a whole
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub batch_rows: usize,

    /// Send to a server in place of the project in this folder
    #[arg(short, long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// The name to ask a server under [default: the user]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub client: Option<String>,

    /// The form of the summary
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

pub async fn run(folder: Option<&Path>, args: Args) -> Outcome {
    if args.file == STDIN && args.format.is_none() {
        bail!(usage("say what stdin is: --format parquet|csv|json|arrow"));
    }
    let started = Instant::now();
    let target = Target::find(folder, &args).await?;
    // Kept until all is read: stdin lies in it.
    let spooled = (args.file == STDIN).then(spool_stdin).transpose()?;
    let location = match &spooled {
        Some(file) => file.path().display().to_string(),
        None => args.file.clone(),
    };
    let name = match spooled {
        Some(_) => "stdin",
        None => args.file.as_str(),
    };
    let opened = target
        .engine
        .file_rows(&location, args.format.map(RowFormat::from));
    let opened = opened.await.map_err(|error| match spooled {
        Some(_) => anyhow!(error.to_string().replace(&location, name)),
        None => error.into(),
    })?;
    let batches = RowBatches::new(opened, name, &target.columns, args.batch_rows.max(1));
    let progress = RowCount::on_stderr("pushing");
    let summary = match args.history {
        true => history::push(&target, name, batches.typed(), &progress).await,
        false => push(&target, name, batches.typed(), &progress).await,
    };
    progress.end();
    let summary = Summary {
        stream: &target.stream,
        into_history: args.history,
        elapsed: started.elapsed(),
        counts: summary?,
    };
    match args.output {
        Listing::Json => output::print_json(&summary.json())?,
        Listing::Table => summary.print(name)?,
    }
    Ok(match summary.counts.refused {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    })
}

/// Files are read from where they can be read again: a pipe is kept on disk.
fn spool_stdin() -> anyhow::Result<NamedTempFile> {
    let mut file = NamedTempFile::new().context("cannot keep stdin on disk")?;
    io::copy(&mut io::stdin().lock(), &mut file).context("cannot read stdin")?;
    file.flush()?;
    Ok(file)
}

/// Where events go, and what they look like.
struct Target {
    stream: String,
    columns: Vec<Column>,
    /// Whether columns tell the stream's events apart.
    deduplicates: bool,
    /// Reads the file.
    engine: Engine,
    sink: Sink,
}

enum Sink {
    Owned(Arc<Streams>),
    Server(Client),
}

impl Target {
    async fn find(folder: Option<&Path>, args: &Args) -> anyhow::Result<Self> {
        let Some(endpoint) = &args.endpoint else {
            return Self::of_project(Project::open(folder)?, args).await;
        };
        let name = args.client.clone().unwrap_or_else(environment::user);
        let client = Client::connect(endpoint).await?.with_name(&name);
        let described = client.describe(&args.stream).await?;
        if described.listing.kind != granary_client::ObjectKind::Stream {
            bail!("{} is not a stream", args.stream);
        }
        let columns = described.columns.into_iter();
        let columns = columns.filter(|column| column.name != definitions::Stream::CREATED_TIME);
        let columns = columns.map(|column| {
            let data_type = column.data_type.parse().map_err(|_| {
                anyhow!(
                    "{}: the type {} is not known here",
                    column.name,
                    column.data_type
                )
            });
            Ok(Column::new(column.name, data_type?))
        });
        let mut columns: Vec<Column> = columns.collect::<anyhow::Result<_>>()?;
        if args.history {
            let has_history = described.properties.contains_key("history");
            history::check(&described.listing.name, has_history)?;
            columns.push(created_time());
        }
        Ok(Self {
            stream: described.listing.name,
            columns,
            deduplicates: described.properties.contains_key("deduplicate by"),
            engine: project::engine_without_project()?,
            sink: Sink::Server(client),
        })
    }

    async fn of_project(project: Project, args: &Args) -> anyhow::Result<Self> {
        let stream = args.stream.as_str();
        let snapshot = project.snapshot().await?;
        let streams = &snapshot.definitions.streams;
        let found = streams
            .get(stream)
            .or_else(|| streams.get(&stream.to_lowercase()));
        let found = found.ok_or_else(|| {
            let near = did_you_mean(stream, streams.keys().map(String::as_str));
            anyhow!("unknown stream {stream:?}{near}")
        })?;
        let mut columns = found.columns.clone();
        if args.history {
            history::check(&found.name, found.history.is_some())?;
            columns.push(created_time());
        }
        let engine = project.engine_without_events()?;
        let events = ProjectEvents::new(project);
        let sink = match events.access().await? {
            Access::Owned(streams) => Sink::Owned(Arc::clone(streams)),
            Access::Server(client) => Sink::Server(client.clone()),
        };
        Ok(Self {
            stream: found.name.clone(),
            columns,
            deduplicates: !found.deduplicate_by.is_empty(),
            engine,
            sink,
        })
    }

    async fn push(&self, rows: RecordBatch) -> anyhow::Result<PushAnswer> {
        match &self.sink {
            Sink::Server(client) => Ok(client.push(&Push::new(&self.stream, rows)).await?),
            Sink::Owned(streams) => {
                let pushed: Result<_, IngestError> = streams.push(&self.stream, &rows).await;
                let mut answer = PushAnswer::default();
                for (row, outcome) in pushed?.into_iter().enumerate() {
                    match outcome {
                        Pushed::Appended(_) => answer.appended += 1,
                        Pushed::Duplicate(_) => answer.duplicates += 1,
                        Pushed::History(_) => answer.history += 1,
                        Pushed::Refused(reason) => answer.refused.push((row, reason)),
                    }
                }
                Ok(answer)
            }
        }
    }
}

/// Older events may have it; without one it is the event time.
fn created_time() -> Column {
    Column::new(
        definitions::Stream::CREATED_TIME.to_owned(),
        FeatureType::Timestamp,
    )
}

#[derive(Debug, Default)]
struct Counts {
    appended: u64,
    duplicates: u64,
    /// That went to the history: older ones, or too old to be kept.
    history: u64,
    refused: u64,
    /// The first, by place.
    reasons: BTreeMap<Place, String>,
}

impl Counts {
    fn rows(&self) -> u64 {
        self.appended + self.duplicates + self.history + self.refused
    }

    fn refuse(&mut self, place: Place, reason: String) {
        self.refused += 1;
        if self.reasons.len() < REASONS_MAX {
            self.reasons.insert(place, reason);
        }
    }
}

async fn push(
    target: &Target,
    file: &str,
    batches: impl Stream<Item = anyhow::Result<TypedRows>>,
    progress: &RowCount,
) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let parts = batches.map_ok(|rows| stream::iter(parts(rows)).map(anyhow::Ok));
    let answers = parts
        .try_flatten()
        .map_ok(move |part: TypedRows| async move {
            let rows = part.batch.num_rows();
            let answer = match rows {
                0 => PushAnswer::default(),
                _ => target.push(part.batch).await?,
            };
            anyhow::Ok((part.places, part.refused, answer))
        });
    let answers = answers.try_buffered(AHEAD);
    futures::pin_mut!(answers);
    while let Some(answer) = answers.next().await {
        let (places, refused, answer) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let done = human::counted(counts.appended, "event");
                return Err(error.context(format!("{file}: stopped after {done} were appended")));
            }
        };
        counts.appended += answer.appended;
        counts.duplicates += answer.duplicates;
        counts.history += answer.history;
        for (place, reason) in refused {
            counts.refuse(place, reason);
        }
        for (row, reason) in answer.refused {
            if let Some(place) = places.get(row) {
                counts.refuse(*place, reason);
            }
        }
        progress.rows(counts.rows());
    }
    Ok(counts)
}

/// Rows in batches below the bounds of stores and servers.
fn parts(rows: TypedRows) -> Vec<TypedRows> {
    let (bytes, count) = (bytes_of(&rows.batch), rows.batch.num_rows());
    if bytes <= BATCH_BYTES || count <= 1 {
        return vec![rows];
    }
    let half = count / 2;
    let mut places = rows.places;
    let rest = TypedRows {
        batch: rows.batch.slice(half, count - half),
        places: places.split_off(half),
        refused: Vec::new(),
    };
    let first = TypedRows {
        batch: rows.batch.slice(0, half),
        places,
        refused: rows.refused,
    };
    [parts(first), parts(rest)].concat()
}

fn bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    let bytes = columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or(0));
    bytes.sum()
}

struct Summary<'a> {
    stream: &'a str,
    into_history: bool,
    counts: Counts,
    elapsed: Duration,
}

#[derive(Serialize)]
struct Refusal {
    place: String,
    reason: String,
}

impl Summary<'_> {
    fn json(&self) -> impl Serialize {
        let reasons = self.counts.reasons.iter().map(|(place, reason)| Refusal {
            place: place.to_string(),
            reason: reason.clone(),
        });
        serde_json::json!({
            "stream": self.stream,
            "appended": self.counts.appended,
            "duplicates": self.counts.duplicates,
            "history": self.counts.history,
            "refused": self.counts.refused,
            "first_refused": reasons.collect::<Vec<_>>(),
            "seconds": self.elapsed.as_secs_f64(),
        })
    }

    fn print(&self, file: &str) -> io::Result<()> {
        let counts = &self.counts;
        let taken = match (self.into_history, counts.history) {
            (true, older) => format!("{} into the history", human::counted(older, "event")),
            (false, older) => {
                let appended = human::counted(counts.appended, "event");
                let late = human::count(older);
                match older {
                    0 => format!("{appended} appended"),
                    _ => format!("{appended} appended, {late} into the history only"),
                }
            }
        };
        output::print(format!(
            "{}: {taken}, {} there already, {} refused, in {:.1?}",
            self.stream,
            human::count(counts.duplicates),
            human::count(counts.refused),
            self.elapsed
        ))?;
        for (place, reason) in &counts.reasons {
            eprintln!("refused: {file}, {place}: {reason}");
        }
        let told = counts.reasons.len() as u64;
        if counts.refused > told {
            eprintln!(
                "refused: and {} more",
                human::counted(counts.refused - told, "row")
            );
        }
        Ok(())
    }
}
