//! Training sets against DuckDB and Polars from PyPI (`benches/peers/training.py`)
//! on the same files: Parquet in, Parquet out, two threads, the same memory
//! limit where one is given. Every run is a process of its own; the sides
//! alternate and their results are compared. A peer that is not installed is
//! skipped, and that is said.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark reports on standard output"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use clap::{Args, Parser, Subcommand};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use futures::TryStreamExt;
use granary_benches::process::{self, median};
use granary_benches::training::{self, Case};
use granary_engine::training::explain::time_split;
use granary_engine::training::output::{OutputTarget, write};
use granary_engine::training::{Spine, TrainingOptions, TrainingRequest};
use granary_engine::{EngineError, EngineSettings};
use granary_model::SystemClock;
use granary_serving::ReadTarget;
use granary_serving::training::select;
use granary_testing::TestProject;
use granary_testing::project::BoxError;
use serde::{Deserialize, Serialize};

/// A child that could not find the peer.
const ABSENT: i32 = 3;
/// Windows of DuckDB's that take minutes run once.
const SLOW_SECONDS: f64 = 60.0;
/// Floats agree within this part of the value.
const PRECISION: f64 = 1e-9;

#[derive(Parser)]
#[command(about = "Training sets, against DuckDB and Polars")]
struct Arguments {
    #[command(flatten)]
    sizes: Sizes,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Args, Clone)]
struct Sizes {
    #[arg(long, default_value_t = 10_000_000)]
    events: usize,
    #[arg(long, default_value_t = 100_000)]
    users: i64,
    #[arg(long, default_value_t = 1_000_000)]
    spine: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The Python that has the peers.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    #[arg(long, default_value = "benches/peers/training.py")]
    script: PathBuf,
    /// Where input is kept; made where it is not there [default: removed at the end].
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Part {
    /// Against the peers, events sorted by time and not (the default).
    Peers,
    /// 1 M, 10 M and 100 M events under a memory limit.
    Growth {
        #[arg(long, value_delimiter = ',', default_values_t = [1_000_000, 10_000_000, 100_000_000])]
        sizes: Vec<usize>,
        #[arg(long, default_value_t = 2048)]
        memory_mib: u64,
        /// Measure the peers at these sizes as well.
        #[arg(long)]
        peers: bool,
    },
    /// 1, 5 and 25 views over one source in one training set.
    Views {
        #[arg(long, value_delimiter = ',', default_values_t = [1, 5, 25])]
        counts: Vec<usize>,
    },
    /// One run of Granary's side (started by the benchmark).
    #[command(hide = true)]
    Granary(Run),
}

/// One run of ours.
#[derive(Args, Clone)]
struct Run {
    case: Case,
    #[arg(long)]
    events: PathBuf,
    #[arg(long)]
    spine: PathBuf,
    #[arg(long)]
    out: PathBuf,
    #[arg(long, default_value_t = 1)]
    views: usize,
    #[arg(long)]
    memory_mib: Option<u64>,
}

/// What a run tells on its last line.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    version: String,
    seconds: f64,
    #[serde(default)]
    split: Option<String>,
}

/// A run with what the system says of it.
#[derive(Debug, Clone)]
struct Measured {
    told: Told,
    peak_rss_bytes: u64,
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    if let Some(Part::Granary(run)) = &arguments.part {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(8 << 20)
            .enable_all()
            .build()?;
        let told = runtime.block_on(granary(run))?;
        println!("{}", serde_json::to_string(&told)?);
        return Ok(());
    }
    let kept = arguments.sizes.folder.clone();
    let temporary = tempfile::tempdir()?;
    let bench = Bench {
        folder: kept.unwrap_or_else(|| temporary.path().to_owned()),
        sizes: arguments.sizes,
    };
    std::fs::create_dir_all(&bench.folder)?;
    match arguments.part {
        None | Some(Part::Peers) => bench.peers(),
        Some(Part::Growth {
            sizes,
            memory_mib,
            peers,
        }) => bench.growth(&sizes, memory_mib, peers),
        Some(Part::Views { counts }) => bench.views(&counts),
        Some(Part::Granary(_)) => Ok(()),
    }
}

/// Computes one training set.
async fn granary(run: &Run) -> Result<Told, BoxError> {
    let folder = tempfile::tempdir()?;
    let mut settings = EngineSettings {
        target_partitions: 2,
        ..EngineSettings::default()
    };
    if let Some(memory) = run.memory_mib {
        settings.memory_bytes_max = memory << 20;
    }
    let project = TestProject::open(folder.path(), settings, Arc::new(SystemClock))?;
    let sql = training::definitions(run.case, run.views, &run.events);
    let snapshot = project.apply(&[("events.sql", &sql)]).await?;
    let features = (0..run.views).map(|view| format!("v{view}.*")).collect();
    let full_names = run.views > 1;
    let started = Instant::now();
    let selected = select(&snapshot, &ReadTarget::Features(features), full_names)?;
    let request = TrainingRequest {
        spine: Spine::File(run.spine.to_string_lossy().into_owned()),
        time: "event_time".into(),
        from: selected.from,
        features: selected.features,
        options: TrainingOptions {
            full_names,
            ..TrainingOptions::default()
        },
        request_events: Vec::new(),
    };
    let set = project
        .engine
        .training_set(&snapshot.definitions, request)
        .await?;
    let rows = set.execute()?;
    let rows = rows.map_err(|error| EngineError::from_query("training set", error));
    let target = OutputTarget::new(&run.out.to_string_lossy(), None, true)?;
    let stores = project.engine.stores();
    let written = write(stores, set.schema(), rows, &target, &|_| {}).await?;
    let seconds = started.elapsed().as_secs_f64();
    let split = time_split(set.plan());
    Ok(Told {
        version: env!("CARGO_PKG_VERSION").into(),
        seconds,
        split: Some(format!(
            "{:.2} / {:.2} / {:.2} / {:.2} / {:.2}",
            split.read.as_secs_f64(),
            split.sort.as_secs_f64(),
            split.aggregate.as_secs_f64(),
            split.other.as_secs_f64(),
            written.write_time.as_secs_f64(),
        )),
    })
}

/// A side of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Granary,
    /// Arguments of the script.
    Peer(&'static str, &'static str),
}

impl Side {
    fn name(self) -> String {
        match self {
            Self::Granary => "Granary".into(),
            Self::Peer(peer, "latest") => peer.into(),
            Self::Peer(peer, case) => format!("{peer}, {case}"),
        }
    }

    /// Ours first: the others are compared with it.
    fn of(case: Case) -> Vec<Self> {
        let peers: &[Self] = match case {
            Case::Latest => &[
                Self::Peer("duckdb", "latest"),
                Self::Peer("polars", "latest"),
            ],
            Case::Windows => &[
                Self::Peer("duckdb", "range-join"),
                Self::Peer("duckdb", "windows"),
            ],
        };
        [&[Self::Granary], peers].concat()
    }
}

struct Bench {
    folder: PathBuf,
    sizes: Sizes,
}

/// One set of input, and how it is to be worked on.
struct Input {
    case: Case,
    events: PathBuf,
    spine: PathBuf,
    sorted: bool,
    views: usize,
    memory_mib: Option<u64>,
}

impl Bench {
    fn events(&self, rows: usize, sorted: bool) -> Result<PathBuf, BoxError> {
        let order = if sorted { "sorted" } else { "unsorted" };
        let path = self.folder.join(format!("events-{rows}-{order}.parquet"));
        if !path.exists() {
            eprintln!("making {}", path.display());
            let part = path.with_extension("part");
            training::write_events(&part, rows, self.sizes.users, sorted, 7)?;
            std::fs::rename(part, &path)?;
        }
        Ok(path)
    }

    fn spine(&self) -> Result<PathBuf, BoxError> {
        let path = self
            .folder
            .join(format!("spine-{}.parquet", self.sizes.spine));
        if !path.exists() {
            training::write_spine(&path, self.sizes.spine, self.sizes.users, 11)?;
        }
        Ok(path)
    }

    fn input(&self, case: Case, events: usize, sorted: bool) -> Result<Input, BoxError> {
        Ok(Input {
            case,
            events: self.events(events, sorted)?,
            spine: self.spine()?,
            sorted,
            views: 1,
            memory_mib: None,
        })
    }

    /// One run of a side; `None` where it is not installed.
    fn run(&self, side: Side, input: &Input) -> Result<Option<(Measured, PathBuf)>, BoxError> {
        let name = side.name().replace([' ', ','], "");
        let out = self.folder.join(format!("out-{name}.parquet"));
        let mut command = match side {
            Side::Granary => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("granary");
                let case = match input.case {
                    Case::Latest => "latest",
                    Case::Windows => "windows",
                };
                command
                    .arg(case)
                    .args(["--views", &input.views.to_string()]);
                command
            }
            Side::Peer(peer, case) => {
                let mut command = Command::new(&self.sizes.python);
                command.arg(&self.sizes.script).args([peer, case]);
                if input.sorted {
                    command.arg("--sorted");
                }
                command
            }
        };
        command.arg("--events").arg(&input.events);
        command
            .arg("--spine")
            .arg(&input.spine)
            .arg("--out")
            .arg(&out);
        if let Some(memory) = input.memory_mib {
            command.args(["--memory-mib", &memory.to_string()]);
        }
        let Some((told, usage)) = process::run_and_read(&mut command, ABSENT)? else {
            return Ok(None);
        };
        let line = told.lines().last().unwrap_or_default();
        let measured = Measured {
            told: serde_json::from_str(line).map_err(|e| format!("{line:?}: {e}"))?,
            peak_rss_bytes: usage.peak_rss_bytes,
        };
        Ok(Some((measured, out)))
    }

    /// All sides by turns; a line of the table each.
    fn compare(&self, title: &str, input: &Input, sides: &[Side]) -> Result<(), BoxError> {
        let mut runs: Vec<Vec<Measured>> = vec![Vec::new(); sides.len()];
        let mut absent = vec![false; sides.len()];
        let mut differences = vec![String::new(); sides.len()];
        let mut ours = PathBuf::new();
        for round in 0..self.sizes.rounds.max(1) {
            for (place, side) in sides.iter().enumerate() {
                let slow = runs[place]
                    .iter()
                    .any(|run| run.told.seconds > SLOW_SECONDS);
                if absent[place] || slow {
                    continue;
                }
                let Some((measured, out)) = self.run(*side, input)? else {
                    eprintln!("{} is not installed: skipped", side.name());
                    absent[place] = true;
                    continue;
                };
                eprintln!("{title}, round {round}: {} {measured:?}", side.name());
                runs[place].push(measured);
                if *side == Side::Granary {
                    ours = out;
                } else if round == 0 {
                    differences[place] = difference(&ours, &out, input.case)?;
                    std::fs::remove_file(out)?;
                }
            }
        }
        let first = seconds(&runs[0]);
        for (place, side) in sides.iter().enumerate() {
            if absent[place] {
                println!("| {title} | {} | not installed | | | | |", side.name());
                continue;
            }
            let runs = &runs[place];
            let taken = seconds(runs);
            let rss = runs.iter().map(|run| run.peak_rss_bytes).max().unwrap_or(0);
            let told = &runs[0].told;
            println!(
                "| {title} | {} {} | {taken:.2} s | {:.2} | {:.2} GB | {} | {} |",
                side.name(),
                told.version,
                taken / first,
                rss as f64 / 1e9,
                told.split.as_deref().unwrap_or(""),
                differences[place],
            );
        }
        Ok(())
    }

    fn peers(&self) -> Result<(), BoxError> {
        let (events, spine) = (self.sizes.events, self.sizes.spine);
        heading(&format!(
            "{events} events, {} users, {spine} spine rows",
            self.sizes.users
        ));
        for sorted in [true, false] {
            for case in [Case::Latest, Case::Windows] {
                let order = if sorted { "sorted" } else { "unsorted" };
                let input = self.input(case, events, sorted)?;
                self.compare(&format!("{case:?}, {order}"), &input, &Side::of(case))?;
            }
        }
        Ok(())
    }

    fn growth(&self, sizes: &[usize], memory_mib: u64, peers: bool) -> Result<(), BoxError> {
        heading(&format!(
            "{} spine rows, {memory_mib} MiB, events unsorted",
            self.sizes.spine
        ));
        for events in sizes {
            for case in [Case::Latest, Case::Windows] {
                let mut input = self.input(case, *events, false)?;
                input.memory_mib = Some(memory_mib);
                let mut sides = Side::of(case);
                // DuckDB's windows take minutes at the smallest size.
                sides.truncate(if peers { 2 } else { 1 });
                self.compare(&format!("{case:?}, {events} events"), &input, &sides)?;
            }
        }
        Ok(())
    }

    fn views(&self, counts: &[usize]) -> Result<(), BoxError> {
        let (events, spine) = (self.sizes.events, self.sizes.spine);
        heading(&format!("{events} events, unsorted, {spine} spine rows"));
        for case in [Case::Latest, Case::Windows] {
            for views in counts {
                let mut input = self.input(case, events, false)?;
                input.views = *views;
                self.compare(
                    &format!("{case:?}, {views} views"),
                    &input,
                    &[Side::Granary],
                )?;
            }
        }
        Ok(())
    }
}

fn heading(what: &str) {
    println!("\n{what}; medians\n");
    println!(
        "| case | side | time | to ours | peak RSS | CPU s: read / sort / aggregate / other, then write | rows that differ |"
    );
    println!("|---|---|---|---|---|---|---|");
}

fn seconds(runs: &[Measured]) -> f64 {
    let seconds: Vec<f64> = runs.iter().map(|run| run.told.seconds).collect();
    median(&seconds)
}

/// How many rows of two results differ, in words.
fn difference(ours: &Path, theirs: &Path, case: Case) -> Result<String, BoxError> {
    let mut equal = String::from("true");
    for name in case.features() {
        // NULL equals NULL; floats within the precision.
        write!(
            equal,
            " AND ((a.\"{name}\" IS NOT DISTINCT FROM b.\"{name}\") OR
              abs(a.\"{name}\" - b.\"{name}\") <= {PRECISION} * abs(a.\"{name}\"))"
        )?;
    }
    let sql = format!(
        "SELECT count(*) FILTER (WHERE a.row_id IS NULL OR b.row_id IS NULL OR NOT coalesce({equal}, false))
         FROM a FULL JOIN b ON a.row_id = b.row_id"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    let differing = runtime.block_on(async {
        let context = SessionContext::new();
        for (name, path) in [("a", ours), ("b", theirs)] {
            let path = path.to_string_lossy();
            context
                .register_parquet(name, path, ParquetReadOptions::default())
                .await?;
        }
        context.sql(&sql).await?.collect().await
    })?;
    let count = differing[0].column(0).as_primitive::<Int64Type>().value(0);
    Ok(count.to_string())
}
