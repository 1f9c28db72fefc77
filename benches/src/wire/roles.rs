//! What the benchmark runs in processes of their own: the servers, each pinned to
//! one core, and the work on a project that goes on beside them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use clap::Subcommand;
use granary_ingest::MaterializerSettings;
use granary_proto::features_server::FeaturesServer;
use granary_server::{Components, Listeners, ServerSettings};
use granary_serving::ServingSettings;
use granary_testing::project::BoxError;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::Code;
use tonic::transport::server::TcpIncoming;
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::EnvFilter;

use super::bare::BareService;
use super::client::Client;
use super::project::{self, Keys, Service, Size};
use super::redis::RedisService;
use crate::process::{Server, give_way, pin_to_core, unpin};

/// Not the first, which systems give their own work and interrupts.
pub const SERVER_CORE: usize = 1;
/// What the command logs when it serves.
const LOGGED: &str = "warn,granary=info";

/// Started by the benchmark itself.
#[derive(Debug, Clone, Subcommand)]
pub enum Role {
    /// Granary's server.
    #[command(hide = true)]
    Granary {
        folder: PathBuf,
        /// With HTTP: metrics and readiness.
        #[arg(long)]
        http: bool,
        /// With the command's logs, on standard error.
        #[arg(long)]
        logs: bool,
    },
    /// A bare tonic service that answers the bytes of a file.
    #[command(hide = true)]
    Bare { answer: PathBuf },
    /// A tonic service over Redis.
    #[command(hide = true)]
    Redis { socket: PathBuf, template: PathBuf },
    /// Makes a project.
    #[command(hide = true)]
    Prepare {
        folder: PathBuf,
        customers: usize,
        #[arg(long)]
        all: bool,
    },
    /// Materialises a view anew.
    #[command(hide = true)]
    Materialize { folder: PathBuf },
    /// Commits a catalog snapshot.
    #[command(hide = true)]
    Apply {
        folder: PathBuf,
        customers: usize,
        #[arg(long)]
        extra: bool,
    },
}

impl Role {
    pub fn run(&self) -> Result<(), BoxError> {
        match self {
            Self::Granary { folder, http, logs } => {
                if *logs {
                    log();
                }
                // As `granary serve` does.
                granary_server::answer_soon();
                pinned()?.block_on(granary(folder, *http))
            }
            Self::Bare { answer } => pinned()?.block_on(bare(answer)),
            Self::Redis { socket, template } => pinned()?.block_on(redis(socket, template)),
            Self::Prepare {
                folder,
                customers,
                all,
            } => {
                let size = Size {
                    customers: *customers,
                    has_all: *all,
                };
                unpin()?;
                Runtime::new()?.block_on(project::prepare(folder, size))
            }
            Self::Materialize { folder } => beside()?.block_on(project::materialize_daily(folder)),
            Self::Apply {
                folder,
                customers,
                extra,
            } => {
                let size = Size {
                    customers: *customers,
                    has_all: true,
                };
                beside()?.block_on(project::apply(folder, size, *extra))
            }
        }
    }
}

/// A runtime on the servers' core: a thread for its tasks, and those that it
/// blocks on. All of them trace alike: where nobody said so, nothing, and not to
/// the `log` crate, as libraries do until somebody says so.
fn pinned() -> Result<Runtime, BoxError> {
    // Fails where somebody did.
    let _ = tracing::subscriber::set_global_default(NoSubscriber::default());
    pin_to_core(SERVER_CORE)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(1).enable_all().build()?)
}

/// The same for work that goes on beside a server and gives way to it.
fn beside() -> Result<Runtime, BoxError> {
    give_way()?;
    pinned()
}

/// This program, to be started in a role.
pub fn command(role: &str) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(role);
    Ok(command)
}

/// What a server has beside gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    Http,
    HttpAndLogs,
}

pub fn start_granary(folder: &Path, beside: Beside) -> std::io::Result<Server> {
    let mut command = command("granary")?;
    command.arg(folder);
    if beside != Beside::Nothing {
        command.arg("--http");
    }
    if beside == Beside::HttpAndLogs {
        command.arg("--logs").stderr(Stdio::null());
    }
    Server::start(&mut command)
}

/// Has a server read as many customers as the requests of a measurement do, so that the
/// pages of their rows are in memory, as the server maps them.
pub async fn warm(server: &Server, size: Size) -> Result<(), BoxError> {
    let client = Client::connect(&server.address, None).await?;
    for request in project::requests(Service::Wide, 100, size.customers, Keys::Uniform) {
        match client.ask(request).await {
            Ok(_) => {}
            // The disk takes longer than a read may; the next one finds the page.
            Err(failed) => match failed.code() {
                Code::DeadlineExceeded | Code::ResourceExhausted => {}
                _ => return Err(failed.into()),
            },
        }
    }
    Ok(())
}

fn log() {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(LOGGED))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

async fn granary(folder: &Path, has_http: bool) -> Result<(), BoxError> {
    // The machine may page out the files that it takes for cold, as it does not Redis's memory.
    let project = project::open(folder)?.with_memory_lock()?;
    let grpc = TcpListener::bind("127.0.0.1:0").await?;
    let http = match has_http {
        true => Some(TcpListener::bind("127.0.0.1:0").await?),
        false => None,
    };
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
    ready(&grpc, http.as_ref())?;
    granary_server::serve(
        components,
        ServerSettings::default(),
        Listeners { grpc, http },
        std::future::pending(),
    )
    .await?;
    Ok(())
}

fn ready(grpc: &TcpListener, http: Option<&TcpListener>) -> Result<(), BoxError> {
    let grpc = grpc.local_addr()?;
    match http {
        Some(http) => println!("ready {grpc} {}", http.local_addr()?),
        None => println!("ready {grpc}"),
    }
    Ok(())
}

async fn bare(answer: &Path) -> Result<(), BoxError> {
    let answer = Bytes::from(std::fs::read(answer)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(&listener, None)?;
    // As Granary's server.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    granary_server::transport()
        .add_service(BareService::new(answer))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

async fn redis(socket: &Path, template: &Path) -> Result<(), BoxError> {
    let service = RedisService::open(socket, &std::fs::read(template)?).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    ready(&listener, None)?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    granary_server::transport()
        .add_service(FeaturesServer::new(service).max_encoding_message_size(usize::MAX))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}
