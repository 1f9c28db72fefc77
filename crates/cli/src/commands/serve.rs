//! `granary serve`: gRPC and HTTP until a signal says stop.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use granary_ingest::OpenEvents;
use granary_server::{Components, Listeners};
use granary_store::OnlineStore;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::consumers;
use crate::events;
use crate::failure::Outcome;
use crate::output;
use crate::project::Project;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A new catalog snapshot or a finished materialisation is picked up without a restart. SIGTERM or Ctrl-C
stops accepting and finishes the reads under way; a second one stops at once. HTTP has /metrics,
/healthz and /readyz.

Examples:
  granary serve
  granary serve --grpc 0.0.0.0:7420 --http 0.0.0.0:7421 --refresh
  granary get --service risk_admission --key customer_id=1 --endpoint http://127.0.0.1:7420")]
pub struct Args {
    /// Address and port of gRPC; port 0 takes a free one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS")]
    pub grpc: Option<String>,

    /// Address and port of HTTP; port 0 takes a free one [default: 127.0.0.1:7421]
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<String>,

    /// Log the reads of this share of all keys, 0 to 1, under the root: `granary verify --logged` replays them
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub log_reads: Option<f64>,

    /// Also run what REFRESH EVERY says is due
    #[arg(long)]
    pub refresh: bool,
}

pub async fn run(project: Project, args: Args) -> Outcome {
    let config = &project.config.serve;
    let grpc = bind(args.grpc.as_ref().unwrap_or(&config.grpc), "gRPC").await?;
    let http = bind(args.http.as_ref().unwrap_or(&config.http), "HTTP").await?;
    let mut settings = config.server.clone();
    settings.refresh_views |= args.refresh;
    settings.log_reads = args.log_reads.unwrap_or(settings.log_reads);

    let store = project.served_store()?;
    let components = components(&project, &store, grpc.local_addr()?).await?;
    // Before the addresses are told: whoever reads them may stop us.
    let stop = stop_signal()?;
    output::print(format!(
        "gRPC http://{}\nHTTP http://{}",
        grpc.local_addr()?,
        http.local_addr()?
    ))?;
    let listeners = Listeners {
        grpc,
        http: Some(http),
    };
    granary_server::serve(components, settings, listeners, stop).await?;
    Ok(ExitCode::SUCCESS)
}

fn share(text: &str) -> Result<f64, String> {
    let share = text
        .parse::<f64>()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is no share; it is a number from 0 to 1"))
}

/// What a server of this project works with; it owns the events of streams,
/// where the definitions have any, and is found at `address`.
pub async fn components(
    project: &Project,
    store: &Arc<dyn OnlineStore>,
    address: SocketAddr,
) -> anyhow::Result<Components> {
    let streams = Arc::new(events::streams(project, Some(endpoint(address))));
    let opened = OpenEvents(Arc::clone(streams.opened()));
    let engine = project.engine_over(Arc::new(opened))?;
    events::open_for_server(project, &engine, &streams).await?;
    Ok(Components {
        reader: Arc::new(project.reader(&engine, store, streams.opened()).await?),
        materializer: project.materializer(&engine, store)?,
        store: Arc::clone(store),
        catalog: project.catalog()?,
        clock: Arc::clone(&project.clock),
        consumers: consumers::of_project(project, &streams)?,
        engine,
        streams,
    })
}

/// How commands of this machine reach an address that is served.
fn endpoint(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        });
    }
    format!("http://{address}")
}

pub async fn bind(address: &str, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve {what} on {address}"))
}

/// Resolves at the first SIGTERM or Ctrl-C; the second ends the process.
pub fn stop_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        next().await;
        eprintln!("stopping; again to stop at once");
        tokio::spawn(async move {
            next().await;
            std::process::exit(i32::from(crate::failure::FAILED));
        });
    })
}
