//! Online reads over gRPC: what a server's core does, against a bare tonic
//! service and one over Redis, and how it holds under a day's load, overload,
//! changes, unfair callers and restarts. The binary runs the whole table, the
//! bench of the same name a small form of each row.
//!
//! Servers are processes of their own, pinned to one core and under load one at a
//! time; the generator has another. A figure is the median of rounds in which the
//! sides alternate.

mod against;
mod answers;
mod bare;
mod bench;
mod changes;
mod client;
mod http;
mod load;
mod overload;
mod project;
mod redis;
mod report;

mod roles;
mod stored;
mod strain;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use granary_testing::project::BoxError;

use self::bench::Bench;
use self::project::{Keys, Size};
use self::report::Row;
use self::roles::Role;
use crate::process;

const GENERATOR_CORE: usize = 0;
/// What a small form is run with; whoever runs it may say otherwise.
const SMALL: &str = "--customers 50000 --large-customers 200000 --rounds 2 --seconds 1 \
                     --sustained-seconds 3";

/// Online reads over gRPC, as a table of Markdown.
#[derive(Debug, Clone, Parser)]
#[command(args_override_self = true, subcommand_negates_reqs = true)]
pub struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    customers: usize,
    /// Customers of the large project.
    #[arg(long, default_value_t = 20_000_000)]
    large_customers: usize,
    /// Entities of a request.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    entities: Vec<usize>,
    /// How often the sides alternate.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one side's turn.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Length of a day's load and of overload.
    #[arg(long, default_value_t = 60)]
    sustained_seconds: u64,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests under way at once on each connection, for the greatest rate.
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    /// How keys are drawn.
    #[arg(long, value_enum, default_value_t)]
    keys: Keys,
    /// What to run [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// Where the table is written [default: standard output]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Where projects are made, and found again by the next run [default: a folder
    /// that is removed]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// A name on the PATH, or a file; rows against Redis are skipped without it.
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
    /// Cargo says this to a bench.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Rate, CPU time and p99 against bare tonic.
    Bare,
    /// Rate against a tonic service over Redis.
    Redis,
    /// Ten billion entities a day.
    Day,
    /// Windowed and on-demand views in the service.
    Computed,
    /// The large project.
    Large,
    /// Twice what can be answered.
    Overload,
    /// A view and the catalog change meanwhile.
    Changes,
    /// One caller floods, another does not.
    Fairness,
    /// The first read after a restart.
    Cold,
    /// Metrics and logs on and off.
    Observability,
}

impl Options {
    fn runs(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }

    /// The project of most scenarios.
    fn usual(&self) -> Size {
        Size {
            customers: self.customers,
            has_all: true,
        }
    }

    fn large(&self) -> Size {
        Size {
            customers: self.large_customers,
            has_all: false,
        }
    }
}

/// Runs the whole table, or what the command line says.
pub fn main() -> Result<(), BoxError> {
    run(Options::parse())
}

/// Runs a small form of the table.
pub fn small() -> Result<(), BoxError> {
    let small = SMALL.split_whitespace().map(OsString::from);
    let mut given = std::env::args_os();
    let program = given.next();
    run(Options::parse_from(
        program.into_iter().chain(small).chain(given),
    ))
}

fn run(options: Options) -> Result<(), BoxError> {
    granary_engine::memory::bound_arenas();
    if let Some(role) = &options.role {
        return role.run();
    }
    process::pin_to_core(GENERATOR_CORE).map_err(|error| {
        format!("the generator needs a core of its own, number {GENERATOR_CORE}: {error}")
    })?;
    // What waits and what polls take turns: see `load`.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(table(options))
}

async fn table(options: Options) -> Result<(), BoxError> {
    let mut bench = Bench::new(options)?;
    let mut failed = Vec::new();
    for scenario in Scenario::value_variants() {
        if !bench.options.runs(*scenario) {
            continue;
        }
        let ran = match scenario {
            Scenario::Bare => against::bare(&mut bench).await,
            Scenario::Redis => against::redis(&mut bench).await,
            Scenario::Day => strain::day(&mut bench).await,
            Scenario::Computed => against::computed(&mut bench).await,
            Scenario::Large => against::large(&mut bench).await,
            Scenario::Overload => overload::overload(&mut bench).await,
            Scenario::Changes => changes::changes(&mut bench).await,
            Scenario::Fairness => strain::fairness(&mut bench).await,
            Scenario::Cold => changes::cold(&mut bench).await,
            Scenario::Observability => against::observability(&mut bench).await,
        };
        if let Err(error) = ran {
            let what = format!("{scenario:?}").to_lowercase();
            let row = Row::new(&what, format!("failed: {error}"));
            bench.report.row(row.condition("to run", false));
            failed.push(what);
        }
    }
    bench.write()?;
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("failed: {}", failed.join(", ")).into()),
    }
}
