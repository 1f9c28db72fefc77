//! Online reads over gRPC: 1, 10 and 100 entities × 50 features of 5 views,
//! against a bare tonic service that decodes the same request and answers fixed
//! bytes of the same length. The servers run in processes of their own on one
//! core, one at a time under load, alternating; the generator has the other core.

#![allow(
    clippy::print_stdout,
    reason = "a benchmark reports on standard output"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Parser, Subcommand, ValueEnum};
use granary_benches::data;
use granary_benches::load::{self, Seen, Target};
use granary_benches::process::{Server, median, pin_to_core};
use granary_benches::raw::BareService;
use granary_engine::EngineSettings;
use granary_ingest::{MaterializeRequest, MaterializerSettings};
use granary_model::SystemClock;
use granary_proto::{
    Column, DataType, GetFeaturesRequest, Int64Values, Type, Values, get_features_request, values,
};
use granary_server::{Components, Listeners, ServerSettings};
use granary_serving::ServingSettings;
use granary_testing::TestProject;
use granary_testing::project::BoxError;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

#[derive(Parser)]
#[command(about = "Online reads over gRPC, against a bare tonic service")]
struct Arguments {
    #[arg(long, default_value_t = 1_000_000)]
    customers: usize,
    /// Entities of a request.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    entities: Vec<usize>,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one side's turn.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests under way at once on each connection, for the greatest rate.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// How keys are drawn.
    #[arg(long, value_enum, default_value_t)]
    keys: Keys,
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Keys {
    #[default]
    Uniform,
    /// Zipf with exponent 1.1.
    Skewed,
}

#[derive(Subcommand)]
enum Side {
    /// Granary's server (started by the benchmark).
    Granary { folder: PathBuf },
    /// The bare service; answers the bytes of a file (started by the benchmark).
    Bare { answer: PathBuf },
}

const VIEWS: usize = 5;
/// Ten features of each view: 4 DOUBLE, 2 BIGINT, INT, BOOLEAN, TIMESTAMP, VARCHAR;
/// two of them NULL in every tenth row or so.
const FEATURES: [(&str, &str); data::FEATURES] = [
    ("amount", "f0"),
    ("limit", "CASE WHEN f1 < 100000 THEN NULL ELSE f1 END"),
    ("score", "f2 / 1000000"),
    ("ratio", "f3 / (f4 + 1)"),
    ("count", "f8"),
    ("cents", "CAST(f5 AS BIGINT)"),
    ("days", "CAST(f6 / 3000 AS INT)"),
    ("good", "f7 > 300000"),
    ("seen", "at"),
    ("segment", "CASE WHEN f8 < 1000 THEN NULL ELSE f9 END"),
];
const SERVER_CORE: usize = 0;
const GENERATOR_CORE: usize = 1;

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    granary_engine::memory::bound_arenas();
    match &arguments.side {
        Some(Side::Granary { folder }) => pinned(SERVER_CORE)?.block_on(granary(folder)),
        Some(Side::Bare { answer }) => pinned(SERVER_CORE)?.block_on(bare(answer)),
        None => {
            let folder = tempfile::tempdir()?;
            let preparing = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            preparing.block_on(prepare(folder.path(), arguments.customers))?;
            drop(preparing);
            pinned(GENERATOR_CORE)?.block_on(compare(&arguments, folder.path()))
        }
    }
}

/// A runtime on one core: a thread for its tasks, and those that it blocks on.
fn pinned(core: usize) -> Result<Runtime, BoxError> {
    pin_to_core(core)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(1).enable_all().build()?)
}

async fn compare(arguments: &Arguments, folder: &Path) -> Result<(), BoxError> {
    let program = std::env::current_exe()?;
    let ours = Server::start(Command::new(&program).arg("granary").arg(folder))?;
    for entities in arguments.entities.iter().copied() {
        let requests = Arc::new(requests(entities, arguments));
        let answer = load::call(&load::connect(&ours.address).await?, requests[0].clone()).await?;
        let file = folder.join("answer");
        std::fs::write(&file, &answer)?;
        let bare = Server::start(Command::new(&program).arg("bare").arg(&file))?;
        println!(
            "{entities} entities x {} features: request {} bytes, answer {} bytes",
            VIEWS * FEATURES.len(),
            requests[0].len(),
            answer.len()
        );
        let target = |server: &Server| Target {
            address: server.address.clone(),
            pid: server.pid(),
            requests: Arc::clone(&requests),
            connections: arguments.connections,
            duration: Duration::from_secs(arguments.seconds),
        };
        let mut rounds = Rounds::default();
        for _ in 0..arguments.rounds {
            rounds
                .bare
                .push(target(&bare).closed(arguments.in_flight).await?);
            rounds
                .ours
                .push(target(&ours).closed(arguments.in_flight).await?);
        }
        // Half of what ours can do at most, for both.
        let rates: Vec<f64> = rounds.ours.iter().map(Seen::of_a_core).collect();
        let half = median(&rates) / 2.0;
        for _ in 0..arguments.rounds {
            rounds.half_bare.push(target(&bare).open(half).await?);
            rounds.half_ours.push(target(&ours).open(half).await?);
        }
        rounds.report(half);
    }
    Ok(())
}

/// What each side did, round by round.
#[derive(Default)]
struct Rounds {
    ours: Vec<Seen>,
    bare: Vec<Seen>,
    half_ours: Vec<Seen>,
    half_bare: Vec<Seen>,
}

impl Rounds {
    fn report(&self, half: f64) {
        let micros = |d: Duration| d.as_secs_f64() * 1e6;
        println!(
            "  {:34} {:>10} {:>10} {:>6}  spread of the ratio",
            "", "granary", "bare", "ratio"
        );
        let sides = (&self.ours, &self.bare);
        row("requests/s of a core, by CPU time", sides, Seen::of_a_core);
        row("server CPU us/request", sides, |s| micros(s.server_cpu));
        row("requests/s as loaded", sides, |s| s.requests_per_second);
        row("generator, share of its core", sides, |s| s.generator);
        println!("  at {half:.0} requests/s:");
        let sides = (&self.half_ours, &self.half_bare);
        row("p50 us", sides, |s| micros(s.p50));
        row("p99 us", sides, |s| micros(s.p99));
        row("requests/s", sides, |s| s.requests_per_second);
    }
}

fn row(name: &str, (ours, bare): (&Vec<Seen>, &Vec<Seen>), of: impl Fn(&Seen) -> f64) {
    let middle = |seen: &[Seen]| median(&seen.iter().map(&of).collect::<Vec<_>>());
    let mut ratios: Vec<f64> = ours.iter().zip(bare).map(|(a, b)| of(a) / of(b)).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "  {name:34} {:10.1} {:10.1} {:6.2}  {:.2} to {:.2}",
        middle(ours),
        middle(bare),
        median(&ratios),
        ratios.first().unwrap_or(&f64::NAN),
        ratios.last().unwrap_or(&f64::NAN),
    );
}

/// Encoded requests.
fn requests(entities: usize, arguments: &Arguments) -> Vec<Bytes> {
    let mut random = StdRng::seed_from_u64(13);
    let customers = arguments.customers as i64;
    let zipf = Zipf::new(arguments.customers, 1.1);
    let mut key = || match arguments.keys {
        Keys::Uniform => random.random_range(0..customers),
        // Spread over the key range: the hot ones are not neighbours.
        Keys::Skewed => (zipf.rank(random.random()) as i64).wrapping_mul(2_654_435_761) % customers,
    };
    let mut one = || {
        let ids = (0..entities).map(|_| key()).collect();
        let request = GetFeaturesRequest {
            target: Some(get_features_request::Target::Service("wide".to_owned())),
            keys: vec![Column {
                name: "customer_id".to_owned(),
                r#type: Some(DataType {
                    r#type: Type::Bigint.into(),
                    ..DataType::default()
                }),
                values: Some(Values {
                    values: Some(values::Values::Int64s(Int64Values { values: ids })),
                    validity: Bytes::new(),
                }),
            }],
            ..GetFeaturesRequest::default()
        };
        Bytes::from(request.encode_to_vec())
    };
    // Enough not to read the same rows again and again.
    let count = (200_000 / entities).max(10_000);
    (0..count).map(|_| one()).collect()
}

/// Ranks from 0, each the less likely the greater it is.
struct Zipf {
    /// Up to each rank, inclusive.
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(ranks: usize, exponent: f64) -> Self {
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-exponent));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            cumulative: sums.collect(),
        }
    }

    /// `uniform`: from 0 to 1.
    fn rank(&self, uniform: f64) -> usize {
        let all = self.cumulative.last().copied().unwrap_or_default();
        self.cumulative.partition_point(|sum| *sum < uniform * all)
    }
}

fn definitions() -> Result<String, std::fmt::Error> {
    let mut sql = String::from(
        "CREATE ENTITY customer KEY (customer_id BIGINT);
         CREATE EXTERNAL TABLE facts STORED AS PARQUET LOCATION 'facts.parquet';\n",
    );
    for view in 0..VIEWS {
        let features = FEATURES.map(|(name, of)| format!("{of} AS v{view}_{name}"));
        writeln!(
            sql,
            "CREATE FEATURE VIEW view{view} ENTITY customer EVENT TIME at TTL INTERVAL '{} days' \
             AS SELECT customer_id, at, {} FROM facts;",
            // Of some views some rows are too old.
            3650 - 800 * view,
            features.join(", ")
        )?;
    }
    let list = |item: &dyn Fn(usize) -> String| (0..VIEWS).map(item).collect::<Vec<_>>().join(", ");
    writeln!(
        sql,
        "CREATE FEATURE SERVICE wide AS SELECT {} FROM {};",
        list(&|view| format!("view{view}.*")),
        list(&|view| format!("view{view}"))
    )?;
    Ok(sql)
}

async fn prepare(folder: &Path, customers: usize) -> Result<(), BoxError> {
    data::write_facts(&folder.join("facts.parquet"), customers, customers, 7)
        .map_err(|e| e.to_string())?;
    let project = TestProject::open(folder, EngineSettings::default(), Arc::new(SystemClock))?;
    project.apply(&[("wide.sql", &definitions()?)]).await?;
    project.materialize(MaterializeRequest::default()).await?;
    Ok(())
}

async fn bare(answer: &Path) -> Result<(), BoxError> {
    let answer = Bytes::from(std::fs::read(answer)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    listener_ready(&listener)?;
    // As Granary's server.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    granary_server::transport()
        .add_service(BareService::new(answer))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

fn listener_ready(listener: &TcpListener) -> Result<(), BoxError> {
    println!("ready {}", listener.local_addr()?);
    Ok(())
}

async fn granary(folder: &Path) -> Result<(), BoxError> {
    let project = TestProject::open(folder, EngineSettings::default(), Arc::new(SystemClock))?;
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    let components = Components {
        reader: Arc::new(project.reader(ServingSettings::default()).await?),
        catalog: project.catalog.clone(),
        streams: project.streams.clone(),
        consumers: Vec::new(),
        materializer: project.materializer(MaterializerSettings::default()),
        engine: project.engine.clone(),
        store: project.store.clone(),
        clock: project.clock.clone(),
    };
    listener_ready(&grpc)?;
    let listeners = Listeners { grpc, http: None };
    granary_server::serve(
        components,
        ServerSettings::default(),
        listeners,
        std::future::pending(),
    )
    .await?;
    Ok(())
}
