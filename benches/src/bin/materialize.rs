//! Materialises a timestamped view from Parquet to the offline table and the
//! embedded store, against the bound of the same machine: reading the same
//! Parquet, sorting it by the same columns in DataFusion and writing Parquet
//! with the same compression and row groups, two partitions, the same memory
//! limit. The two alternate, each run in a process of its own.

#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext, col};
use granary_benches::{data, process};
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::SystemClock;
use granary_testing::TestProject;
use granary_testing::project::BoxError;

#[derive(Parser)]
#[command(about = "Materialise 10 M rows, against read + sort + write")]
struct Arguments {
    #[arg(long, default_value_t = 10_000_000)]
    rows: usize,
    #[arg(long, default_value_t = 5_000_000)]
    entities: usize,
    /// Bound of the memory of both sides, in MiB.
    #[arg(long, default_value_t = 2048)]
    memory_mib: u64,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Subcommand)]
enum Side {
    /// One run of Granary's side (started by the benchmark).
    Granary { folder: PathBuf },
    /// One run of the bound (started by the benchmark).
    Bound { folder: PathBuf },
}

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    if matches!(arguments.side, Some(Side::Granary { .. })) {
        // As the binary does.
        granary_engine::memory::bound_arenas();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match &arguments.side {
        Some(Side::Granary { folder }) => runtime.block_on(granary(folder, arguments.memory_mib)),
        Some(Side::Bound { folder }) => runtime.block_on(bound(folder, arguments.memory_mib)),
        None => compare(&arguments),
    }
}

fn compare(arguments: &Arguments) -> Result<(), BoxError> {
    let input = tempfile::tempdir()?;
    let source = input.path().join("facts.parquet");
    data::write_facts(&source, arguments.rows, arguments.entities, 7).map_err(|e| e.to_string())?;
    println!(
        "{} rows x {} features, {} entities, {} MiB of Parquet, memory limit {} MiB",
        arguments.rows,
        data::FEATURES,
        arguments.entities,
        std::fs::metadata(&source)?.len() >> 20,
        arguments.memory_mib,
    );
    let (mut ours, mut bounds, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        let one = run_side("bound", &source, arguments)?;
        let two = run_side("granary", &source, arguments)?;
        for (side, usage) in [("bound", &one), ("granary", &two)] {
            println!(
                "round {round} {side:8} {:6.1} s  {:9.0} rows/s  cpu {:6.1} s  peak RSS {} MiB (anonymous {} MiB)",
                usage.wall.as_secs_f64(),
                arguments.rows as f64 / usage.wall.as_secs_f64(),
                (usage.user + usage.system).as_secs_f64(),
                usage.peak_rss_bytes >> 20,
                usage.peak_anon_bytes >> 20,
            );
        }
        bounds.push(one.wall.as_secs_f64());
        ours.push(two.wall.as_secs_f64());
        ratios.push(two.wall.as_secs_f64() / one.wall.as_secs_f64());
    }
    println!(
        "median: granary {:.1} s, bound {:.1} s, ratio {:.2}",
        process::median(&ours),
        process::median(&bounds),
        process::median(&ratios),
    );
    Ok(())
}

fn run_side(side: &str, source: &Path, arguments: &Arguments) -> Result<process::Usage, BoxError> {
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::symlink(source, folder.path().join("facts.parquet"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--memory-mib", &arguments.memory_mib.to_string(), side])
        .arg(folder.path());
    Ok(process::run(&mut command)?)
}

async fn granary(folder: &Path, memory_mib: u64) -> Result<(), BoxError> {
    let settings = EngineSettings {
        memory_bytes_max: memory_mib << 20,
        target_partitions: 2,
        ..EngineSettings::default()
    };
    let project = TestProject::open(folder, settings, Arc::new(SystemClock))?;
    project.apply(&[("facts.sql", data::DEFINITIONS)]).await?;
    project.materialize(MaterializeRequest::default()).await?;
    Ok(())
}

async fn bound(folder: &Path, memory_mib: u64) -> Result<(), BoxError> {
    let pool = TrackConsumersPool::new(
        FairSpillPool::new((memory_mib << 20) as usize),
        std::num::NonZero::<usize>::MIN,
    );
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(DiskManagerBuilder::default())
        .build_arc()?;
    let mut config = SessionConfig::new().with_target_partitions(2);
    let parquet = &mut config.options_mut().execution.parquet;
    // As `crates/engine/src/offline/write.rs` writes.
    parquet.compression = Some("zstd(1)".to_owned());
    parquet.max_row_group_size = 128 * 1024;
    let session = SessionContext::new_with_config_rt(config, runtime);
    let source = folder.join("facts.parquet");
    let frame = session
        .read_parquet(
            source.to_string_lossy().as_ref(),
            ParquetReadOptions::default(),
        )
        .await?;
    let sorted = frame.sort(vec![
        col("customer_id").sort(true, true),
        col("at").sort(true, true),
    ])?;
    let out = folder.join("sorted.parquet");
    sorted
        .write_parquet(
            &out.to_string_lossy(),
            DataFrameWriteOptions::new().with_single_file_output(true),
            None,
        )
        .await?;
    Ok(())
}
