//! `granary demo`: a lender's year made from a seed, defined, materialised,
//! served, pushed to and read, and then left serving.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use granary_ingest::{MaterializeRequest, RunOutcome};
use granary_model::interval::MICROS_PER_DAY;
use granary_server::Listeners;

use super::plan::propose;
use super::serve;
use crate::demo::{World, frauds, project, tour, write_tables};
use crate::failure::{FAILED, Outcome};
use crate::output::{self, human};
use crate::progress;
use crate::project::Project;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The same seed and day make the same data.

Examples:
  granary demo
  granary demo --customers 10000 --once")]
pub struct Args {
    /// How many customers the lender has
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    pub customers: u32,

    /// What the data is made from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// The project folder to make; one that an earlier demo made is replaced
    #[arg(long, value_name = "DIR", default_value = "granary-demo")]
    pub dir: PathBuf,

    /// Address and port of gRPC; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7420")]
    pub grpc: String,

    /// Address and port of HTTP; port 0 takes any that is free
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7421")]
    pub http: String,

    /// End after the reads, rather than serving until Ctrl-C
    #[arg(long)]
    pub once: bool,
}

pub async fn run(args: Args) -> Outcome {
    let started = Instant::now();
    // Bound first: a port that is taken is better known before the work than after it.
    let grpc = serve::bind(&args.grpc, "gRPC").await?;
    let http = serve::bind(&args.http, "HTTP").await?;
    let address = grpc.local_addr()?;
    let endpoint = format!("http://{address}");

    project::lay(&args.dir)?;
    let project = Project::open(Some(&args.dir))?;
    let world = generate(&project, &args)?;
    define(&project).await?;
    let engine = project.engine()?;
    let store = project.online_store()?;
    if !materialize(&project, &engine, &store).await? {
        return Ok(ExitCode::from(FAILED));
    }

    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let shutdown = async move {
        // Told to stop, or whoever would tell is gone: either way the end.
        let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
    };
    let components = serve::components(&project, &store, address).await?;
    let settings = project.config.serve.server.clone();
    let listeners = Listeners {
        grpc,
        http: Some(http),
    };
    let server = tokio::spawn(granary_server::serve(
        components, settings, listeners, shutdown,
    ));
    tour::show(&endpoint, &world).await?;
    frauds::show(&endpoint, &world, project.clock.now()).await?;
    output::print(format!(
        "\nFrom the start to these answers: {:.1} s.",
        started.elapsed().as_secs_f64()
    ))?;
    next_steps(&args, (!args.once).then_some(endpoint.as_str()), &world)?;
    if !args.once {
        output::print("\nServing until Ctrl-C.")?;
        serve::stop_signal()?.await;
    }
    stop.send_replace(true);
    server.await??;
    Ok(ExitCode::SUCCESS)
}

fn generate(project: &Project, args: &Args) -> anyhow::Result<World> {
    let began = Instant::now();
    let now = project.clock.now().0;
    let world = World {
        seed: args.seed,
        customers: i64::from(args.customers),
        end: now - now.rem_euclid(MICROS_PER_DAY),
    };
    let tables = write_tables(&world, &project.folder.join("data"))?;
    let rows: usize = tables.iter().map(|(_, rows)| rows).sum();
    let names: Vec<String> = tables
        .iter()
        .map(|(name, rows)| format!("{name} {}", human::count(*rows as u64)))
        .collect();
    output::print(format!(
        "Generated {} rows in {:.1} s: {}.",
        human::count(rows as u64),
        began.elapsed().as_secs_f64(),
        names.join(", ")
    ))?;
    Ok(world)
}

async fn define(project: &Project) -> anyhow::Result<()> {
    let began = Instant::now();
    let plan = match propose(project).await? {
        Ok(proposal) => proposal.plan,
        Err(diagnostics) => bail!("{diagnostics}"),
    };
    let snapshot = project.catalog()?.commit(&plan, "demo").await?;
    let views = &snapshot.definitions.feature_views;
    let features: usize = views.values().map(|view| view.features.len()).sum();
    output::print(format!(
        "Applied {} feature views with {features} features and {} services in {:.1} s.",
        views.len(),
        snapshot.definitions.services.len(),
        began.elapsed().as_secs_f64()
    ))?;
    Ok(())
}

/// Whether every view was materialised; what failed was told as it did.
async fn materialize(
    project: &Project,
    engine: &granary_engine::Engine,
    store: &std::sync::Arc<dyn granary_store::OnlineStore>,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    let materializer = project.materializer(engine, store)?;
    let snapshot = project.snapshot().await?;
    let outcomes = materializer
        .materialize(
            &snapshot,
            MaterializeRequest::default(),
            progress::on_stderr(),
        )
        .await?;
    let mut rows = 0;
    let mut is_whole = true;
    for outcome in &outcomes {
        match outcome {
            RunOutcome::Committed(record) => rows += record.rows,
            RunOutcome::Skipped { .. } => {}
            RunOutcome::Failed { .. } | RunOutcome::NotStarted { .. } => is_whole = false,
        }
    }
    output::print(format!(
        "Materialised {} rows in {:.1} s.",
        human::count(rows),
        began.elapsed().as_secs_f64()
    ))?;
    Ok(is_whole)
}

/// `endpoint`: of the server, while it runs.
fn next_steps(args: &Args, endpoint: Option<&str>, world: &World) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot tell the program's path")?;
    let granary = format!("{} -C {}", program.display(), args.dir.display());
    output::print("\nTry next:")?;
    for (service, keys) in tour::key_arguments(world)? {
        output::print(format!("  {granary} get --service {service} {keys}"))?;
    }
    let endpoint = endpoint.map_or(String::new(), |endpoint| format!(" --endpoint {endpoint}"));
    for command in [
        format!(
            "get{endpoint} --features 'account_income.*' --key account_id=100000001 --output json"
        ),
        "sql \"SELECT * FROM account_income ORDER BY income_monthly DESC LIMIT 5\"".to_owned(),
        "describe risk_admission".to_owned(),
        "status".to_owned(),
    ] {
        output::print(format!("  {granary} {command}"))?;
    }
    Ok(())
}
