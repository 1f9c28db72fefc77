//! Restart with millions of entities in the embedded store: the time from the
//! start of the process until it answers, and the latency of the first random
//! reads with a cold page cache.

#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Int64Array, RecordBatch};
use clap::{Parser, Subcommand};
use granary_benches::{data, process};
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::{Caller, SystemClock};
use granary_serving::{ReadRequest, ReadTarget, ServingSettings};
use granary_testing::TestProject;
use granary_testing::project::BoxError;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[derive(Parser)]
#[command(about = "Time until ready, and the first cold reads")]
struct Arguments {
    #[arg(long, default_value_t = 5_000_000)]
    entities: usize,
    #[arg(long, default_value_t = 10_000)]
    reads: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Subcommand)]
enum Side {
    /// Opens the project and reads (started by the benchmark).
    Open { folder: PathBuf },
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    granary_engine::memory::bound_arenas();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    match &arguments.side {
        Some(Side::Open { folder }) => runtime.block_on(open(folder, &arguments)),
        None => runtime.block_on(rounds(&arguments)),
    }
}

async fn rounds(arguments: &Arguments) -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    data::write_facts(
        &folder.path().join("facts.parquet"),
        arguments.entities,
        arguments.entities,
        7,
    )
    .map_err(|e| e.to_string())?;
    {
        let project = TestProject::open(
            folder.path(),
            EngineSettings::default(),
            Arc::new(SystemClock),
        )?;
        project.apply(&[("facts.sql", data::DEFINITIONS)]).await?;
        project.materialize(MaterializeRequest::default()).await?;
    }
    println!(
        "{} entities, {} cold reads of 1 entity x {} features",
        arguments.entities,
        arguments.reads,
        data::FEATURES
    );
    for round in 1..=arguments.rounds {
        let evicted = process::evict(folder.path())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--entities", &arguments.entities.to_string()]);
        command
            .args(["--reads", &arguments.reads.to_string(), "open"])
            .arg(folder.path());
        println!(
            "round {round}: {} MiB put out of the page cache",
            evicted >> 20
        );
        process::run(&mut command)?;
    }
    Ok(())
}

async fn open(folder: &Path, arguments: &Arguments) -> Result<(), BoxError> {
    let started = Instant::now();
    let project = TestProject::open(folder, EngineSettings::default(), Arc::new(SystemClock))?;
    let reader = project.reader(ServingSettings::default()).await?;
    let mut random = StdRng::seed_from_u64(11);
    let mut ready = None;
    let mut latencies = Histogram::<u64>::new(3)?;
    for _ in 0..arguments.reads {
        let customer = random.random_range(0..arguments.entities as i64);
        let keys: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![customer]));
        let request = ReadRequest {
            caller: Caller::named("benchmark"),
            target: ReadTarget::Features(vec!["customer_facts.*".to_owned()]),
            keys: RecordBatch::try_from_iter([("customer_id", keys)])?,
            inputs: Vec::new(),
            request_events: Vec::new(),
            as_of: None,
            strictly_before: false,
            full_names: false,
        };
        let sent = Instant::now();
        reader.read(request).await?;
        latencies.record(sent.elapsed().as_nanos() as u64)?;
        ready.get_or_insert_with(|| started.elapsed());
    }
    println!(
        "  first answer after {:.3} s; cold reads p50 {:.0} us, p99 {:.0} us, max {:.0} us",
        ready.unwrap_or_default().as_secs_f64(),
        latencies.value_at_quantile(0.50) as f64 / 1e3,
        latencies.value_at_quantile(0.99) as f64 / 1e3,
        latencies.max() as f64 / 1e3,
    );
    Ok(())
}
