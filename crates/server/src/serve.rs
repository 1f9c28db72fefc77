//! A server from the first connection to the last answer.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use granary_catalog::Catalog;
use granary_engine::Engine;
use granary_ingest::{Consumer, Materializer, Streams};
use granary_model::{Clock, ErrorKind};
use granary_proto as pb;
use granary_proto::catalog_server::CatalogServer;
use granary_proto::historical_server::HistoricalServer;
use granary_proto::materialization_server::MaterializationServer;
use granary_proto::streams_server::StreamsServer;
use granary_serving::Reader;
use granary_store::OnlineStore;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tracing::{info, warn};

use crate::admission::{Admission, Working};
use crate::background::Background;
use crate::beside::Beside;
use crate::bodies::Bodies;
use crate::catalog::CatalogRpc;
use crate::connections::Connections;
use crate::edge::Edge;
use crate::features::{FeaturesRpc, FeaturesService};
use crate::historical::HistoricalRpc;
use crate::http::{HttpState, router};
use crate::items::Items;
use crate::materialization::MaterializationRpc;
use crate::metrics::Metrics;
use crate::read_log::{ReadLogger, read_log};
use crate::runs::Materializations;
use crate::settings::ServerSettings;
use crate::streams::StreamsRpc;
use crate::unread::Unread;

/// What health checks name: "" is the whole server.
const HEALTH_NAMES: [&str; 6] = [
    "",
    "granary.v1.Features",
    "granary.v1.Catalog",
    "granary.v1.Materialization",
    "granary.v1.Historical",
    "granary.v1.Streams",
];

/// What a server works with; the binary picks and makes them.
#[derive(Debug)]
pub struct Components {
    pub reader: Arc<Reader>,
    pub materializer: Materializer,
    pub engine: Engine,
    pub store: Arc<dyn OnlineStore>,
    pub catalog: Catalog,
    /// The engine reads streams by what is open here.
    pub streams: Arc<Streams>,
    /// They run for as long as the server does.
    pub consumers: Vec<Consumer>,
    pub clock: Arc<dyn Clock>,
}

/// Sockets that are bound already, so that whoever binds them knows the ports.
#[derive(Debug)]
pub struct Listeners {
    pub grpc: TcpListener,
    pub http: Option<TcpListener>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    #[error("HTTP: {0}")]
    Http(#[from] std::io::Error),
    #[error("{0}")]
    Setup(String),
}

impl ServerError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Http(_) => ErrorKind::Unavailable,
            Self::Setup(_) => ErrorKind::Internal,
        }
    }
}

/// Serves until `shutdown` resolves, then stops accepting, reports NOT_SERVING,
/// lets streams end after the requests that they have, finishes the reads under
/// way for at most `shutdown_seconds_max`, and stops materialisations, which
/// are as safe to stop as to kill.
pub async fn serve(
    components: Components,
    settings: ServerSettings,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let settings = Arc::new(settings);
    let metrics = Metrics::new(&components.consumers);
    let metrics = Arc::new(metrics.map_err(|e| ServerError::Setup(e.to_string()))?);
    let closing = CancellationToken::new();
    let tasks = TaskTracker::new();
    let (ready_sender, ready) = watch::channel(false);
    let health = HealthReporter::new();
    let beside = Beside::start()?;
    report(&health, false).await;

    let log = read_log(&components, &settings, &metrics, (&tasks, &closing));
    let (admission, _working) = admission(&settings, &metrics);
    let edge = grpc(
        (&components, log),
        &settings,
        &metrics,
        &admission,
        (&health, &closing),
        beside.handle(),
    )?;
    let state = HttpState {
        metrics: Arc::clone(&metrics),
        reader: Arc::clone(&components.reader),
        ready: ready.clone(),
        closing: closing.clone(),
    };
    let grpc = Connections::new(edge, closing.clone()).serve(listeners.grpc);
    let transports = transports(grpc, (listeners.http, state));

    let background = Background {
        reader: Arc::clone(&components.reader),
        materializer: components.materializer,
        store: components.store,
        catalog: components.catalog,
        engine: components.engine,
        streams: components.streams,
        clock: components.clock,
        metrics: Arc::clone(&metrics),
        settings: Arc::clone(&settings),
        closing: closing.clone(),
        beside: beside.handle().clone(),
    };
    background.start(&tasks, ready_sender).await;
    background.consume(&tasks, components.consumers);
    tasks.spawn(watch_ready(health.clone(), ready, closing.clone()));

    let bound = Duration::from_secs(settings.shutdown_seconds_max);
    let close = async {
        shutdown.await;
        info!("shutting down");
        closing.cancel();
        take_leave(&health).await;
        tokio::time::sleep(bound).await;
    };
    let served = tokio::select! {
        served = transports => served,
        () = close => {
            let in_flight = metrics.in_flight.get();
            warn!(?bound, in_flight, "some requests or connections did not end in time");
            Ok(())
        }
    };
    // A transport that failed ends the rest as well.
    closing.cancel();
    tasks.close();
    tasks.wait().await;
    served
}

/// The queue of requests, and its tasks.
fn admission(settings: &ServerSettings, metrics: &Arc<Metrics>) -> (Arc<Admission>, Working) {
    let workers = Handle::current().metrics().num_workers();
    let admission = Admission::new(settings, workers, Arc::clone(metrics));
    let working = Working::start(&admission, workers);
    (admission, working)
}

/// The gRPC services behind the edge.
fn grpc(
    (components, log): (&Components, Option<ReadLogger>),
    settings: &Arc<ServerSettings>,
    metrics: &Arc<Metrics>,
    admission: &Arc<Admission>,
    (health, closing): (&HealthReporter, &CancellationToken),
    beside: &Handle,
) -> Result<Edge, ServerError> {
    let streams = Arc::new(Semaphore::new(settings.concurrent_streams_max.max(1)));
    let items = Items {
        metrics: Arc::clone(metrics),
        settings: Arc::clone(settings),
        admission: Arc::clone(admission),
        streams: Arc::clone(&streams),
        closing: closing.clone(),
    };
    let features = FeaturesRpc {
        reader: Arc::clone(&components.reader),
        items: items.clone(),
        log,
        request_bytes_max: settings.request_bytes_max,
    };
    let features = Arc::new(features);
    let pushes = StreamsRpc {
        streams: Arc::clone(&components.streams),
        items,
        history: Arc::default(),
    };
    let materialization = MaterializationRpc {
        runs: Arc::new(runs(components, settings, metrics, (closing, beside))),
        metrics: Arc::clone(metrics),
        settings: Arc::clone(settings),
        streams: Arc::clone(&streams),
        closing: closing.clone(),
    };
    let historical = HistoricalRpc {
        reader: Arc::clone(&components.reader),
        engine: components.engine.clone(),
        metrics: Arc::clone(metrics),
        settings: Arc::clone(settings),
        permits: Arc::new(Semaphore::new(settings.concurrent_training_sets_max.max(1))),
        streams,
        closing: closing.clone(),
        beside: beside.clone(),
    };
    let catalog = CatalogRpc {
        reader: Arc::clone(&components.reader),
        engine: components.engine.clone(),
    };
    let reflection = reflection()?;
    let health = tonic_health::server::HealthService::from_health_reporter(health.clone());
    let routes = Routes::new(FeaturesService(Arc::clone(&features)))
        .add_service(CatalogServer::new(catalog))
        .add_service(MaterializationServer::new(materialization))
        .add_service(
            HistoricalServer::new(historical)
                .max_decoding_message_size(settings.request_bytes_max)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(
            StreamsServer::new(pushes)
                .max_decoding_message_size(settings.request_bytes_max)
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection);
    Ok(Edge {
        settings: Arc::clone(settings),
        metrics: Arc::clone(metrics),
        admission: Arc::clone(admission),
        bodies: Bodies::new(settings.request_bytes_max, settings.concurrent_requests_max),
        unread: Unread::new(
            metrics.unread_answer_bytes.clone(),
            settings.unread_answer_bytes_max,
        ),
        features,
        routes: routes.prepare(),
    })
}

/// The materialisations that clients start.
fn runs(
    components: &Components,
    settings: &Arc<ServerSettings>,
    metrics: &Arc<Metrics>,
    (closing, beside): (&CancellationToken, &Handle),
) -> Materializations {
    Materializations::new(
        (
            components.materializer.clone(),
            Arc::clone(&components.reader),
            Arc::clone(&components.clock),
        ),
        Arc::clone(metrics),
        Arc::clone(settings),
        (closing.clone(), beside.clone()),
    )
}

/// Tells clients of the services.
fn reflection() -> Result<ServerReflectionServer<impl ServerReflection>, ServerError> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|e| ServerError::Setup(e.to_string()))
}

/// Serves gRPC until that has ended, and HTTP as long: whoever watches how the server ends
/// does so to the end.
async fn transports(
    grpc: impl Future<Output = ()>,
    (listener, state): (Option<TcpListener>, HttpState),
) -> Result<(), ServerError> {
    let (ended, is_ended) = oneshot::channel::<Infallible>();
    let grpc = async {
        grpc.await;
        drop(ended);
        Ok(())
    };
    let http = async {
        if let Some(listener) = listener {
            let is_ended = async { drop(is_ended.await) };
            axum::serve(listener, router(state))
                .with_graceful_shutdown(is_ended)
                .await?;
        }
        Ok(())
    };
    tokio::try_join!(grpc, http).map(drop)
}

async fn take_leave(health: &HealthReporter) {
    report(health, false).await;
    // Whoever watches the health hears of it and is let go.
    for name in HEALTH_NAMES {
        health.clone().clear_service_status(name).await;
    }
}

async fn report(health: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Reports SERVING when reads can be answered, unless the server closes before.
async fn watch_ready(
    health: HealthReporter,
    mut ready: watch::Receiver<bool>,
    closing: CancellationToken,
) {
    let reporting = async {
        if ready.wait_for(|ready| *ready).await.is_ok() {
            report(&health, true).await;
            info!("ready");
        }
    };
    closing.run_until_cancelled(reporting).await;
}
