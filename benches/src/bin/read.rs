//! Online reads over gRPC, 1, 10 and 100 entities x 50 features of 5 views,
//! against a bare tonic service that decodes the same request and answers fixed
//! bytes of the same length. Both servers run in processes of their own, one at
//! a time under load, alternating; the same generator loads both.

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
use clap::{Parser, Subcommand};
use granary_benches::data;
use granary_benches::load::{self, Load, Seen};
use granary_benches::process::{Server, median};
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
use tonic::transport::server::TcpIncoming;

#[derive(Parser)]
#[command(about = "Online reads over gRPC, against a bare tonic service")]
struct Arguments {
    #[arg(long, default_value_t = 500_000)]
    entities: usize,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of one side's turn.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests under way at once on each connection.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Subcommand)]
enum Side {
    /// Granary's server (started by the benchmark).
    Granary { folder: PathBuf },
    /// The bare service; answers the bytes of a file (started by the benchmark).
    Bare { answer: PathBuf },
}

const VIEWS: usize = 5;

fn main() -> Result<(), BoxError> {
    let arguments = Arguments::parse();
    granary_engine::memory::bound_arenas();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match &arguments.side {
        Some(Side::Granary { folder }) => runtime.block_on(granary(folder)),
        Some(Side::Bare { answer }) => runtime.block_on(bare(answer)),
        None => runtime.block_on(compare(&arguments)),
    }
}

async fn compare(arguments: &Arguments) -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    prepare(folder.path(), arguments.entities).await?;
    let program = std::env::current_exe()?;
    let ours = Server::start(Command::new(&program).arg("granary").arg(folder.path()))?;
    for entities in [1, 10, 100] {
        let requests = Arc::new(requests(entities, arguments.entities, 13));
        let answer = load::call(&load::connect(&ours.address).await?, requests[0].clone()).await?;
        let file = folder.path().join("answer");
        std::fs::write(&file, &answer)?;
        let bare = Server::start(Command::new(&program).arg("bare").arg(&file))?;
        println!(
            "{entities} entities x {} features: request {} bytes, answer {} bytes",
            VIEWS * data::FEATURES,
            requests[0].len(),
            answer.len()
        );
        let turn = Load {
            connections: arguments.connections,
            in_flight: arguments.in_flight,
            duration: Duration::from_secs(arguments.seconds),
        };
        let (mut seen_ours, mut seen_bare) = (Vec::new(), Vec::new());
        for _ in 0..arguments.rounds {
            seen_bare.push(load::run(&bare.address, bare.pid(), requests.clone(), turn).await?);
            seen_ours.push(load::run(&ours.address, ours.pid(), requests.clone(), turn).await?);
        }
        report(&seen_ours, &seen_bare);
    }
    Ok(())
}

/// Encoded requests for random entities.
fn requests(entities: usize, of: usize, seed: u64) -> Vec<Bytes> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut one = || {
        let ids = (0..entities)
            .map(|_| random.random_range(0..of as i64))
            .collect();
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
    (0..1000).map(|_| one()).collect()
}

fn report(ours: &[Seen], bare: &[Seen]) {
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    let middle =
        |seen: &[Seen], of: &dyn Fn(&Seen) -> f64| median(&seen.iter().map(of).collect::<Vec<_>>());
    let row = |name: &str, of: &dyn Fn(&Seen) -> f64| {
        let ratios: Vec<f64> = ours.iter().zip(bare).map(|(a, b)| of(a) / of(b)).collect();
        println!(
            "  {name:24} granary {:10.1}  bare {:10.1}  ratio {:.2}",
            middle(ours, of),
            middle(bare, of),
            median(&ratios)
        );
    };
    row("requests/s", &|s| s.requests_per_second);
    row("p50 us", &|s| micros(s.p50));
    row("p99 us", &|s| micros(s.p99));
    row("server cpu us/request", &|s| micros(s.server_cpu));
}

fn definitions() -> Result<String, std::fmt::Error> {
    let mut sql = String::from(
        "CREATE ENTITY customer KEY (customer_id BIGINT);
         CREATE EXTERNAL TABLE facts STORED AS PARQUET LOCATION 'facts.parquet';\n",
    );
    for view in 0..VIEWS {
        let features = (0..data::FEATURES)
            .map(|f| format!("f{f} AS v{view}_f{f}"))
            .collect::<Vec<_>>()
            .join(", ");
        writeln!(
            sql,
            "CREATE FEATURE VIEW view{view} ENTITY customer EVENT TIME at AS SELECT customer_id, at, {features} FROM facts;"
        )?;
    }
    let all = (0..VIEWS)
        .map(|view| format!("view{view}.*"))
        .collect::<Vec<_>>()
        .join(", ");
    let from = (0..VIEWS)
        .map(|view| format!("view{view}"))
        .collect::<Vec<_>>()
        .join(", ");
    writeln!(
        sql,
        "CREATE FEATURE SERVICE wide AS SELECT {all} FROM {from};"
    )?;
    Ok(sql)
}

async fn prepare(folder: &Path, entities: usize) -> Result<(), BoxError> {
    data::write_facts(&folder.join("facts.parquet"), entities, entities, 7)
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
    // As Granary's server: else small answers wait for acknowledgements.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
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
