//! A server on ports of its own, over a project in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use granary_client::Client;
use granary_engine::Engine;
use granary_ingest::{Materializer, MaterializerSettings, OpenEvents, StreamSettings, Streams};
use granary_model::{Clock, Definitions, FeatureView, UtcMicros};
use granary_proto::features_client::FeaturesClient;
use granary_server::{Components, Listeners, ServerSettings, serve};
use granary_serving::ServingSettings;
use granary_store::{
    EntityKeys, EventStore, Generation, GenerationState, GenerationWriter, MemoryEventStore,
    OnlineStore, RowLayout, RowSink, StoreError, WriteMode,
};
use granary_testing::TestProject;
use granary_testing::memory::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// A store whose reads wait until they are let through.
#[derive(Debug)]
pub struct GatedStore {
    inner: Arc<dyn OnlineStore>,
    pub gate: Semaphore,
    pub waiting: Semaphore,
    /// Whether reads panic.
    pub broken: AtomicBool,
}

impl GatedStore {
    pub fn shut(inner: Arc<dyn OnlineStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            gate: Semaphore::new(0),
            waiting: Semaphore::new(0),
            broken: AtomicBool::new(false),
        })
    }

    /// Returns when so many more reads have come to the gate.
    pub async fn wait_for_reads(&self, reads: u32) {
        self.waiting.acquire_many(reads).await.unwrap().forget();
    }
}

#[async_trait]
impl OnlineStore for GatedStore {
    async fn generation(
        &self,
        view: &str,
        version: u32,
    ) -> Result<Option<Arc<dyn Generation>>, StoreError> {
        self.inner.generation(view, version).await
    }

    async fn generations(&self) -> Result<Vec<GenerationState>, StoreError> {
        self.inner.generations().await
    }

    async fn read(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        self.waiting.add_permits(1);
        assert!(!self.broken.load(Ordering::SeqCst), "the store is broken");
        self.gate.acquire().await.unwrap().forget();
        self.inner.read(keys, generations, sink).await
    }

    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Box<dyn GenerationWriter>, StoreError> {
        self.inner.writer(view, version, layout, mode).await
    }

    async fn sweep(
        &self,
        view: &str,
        version: u32,
        older_than: UtcMicros,
    ) -> Result<u64, StoreError> {
        self.inner.sweep(view, version, older_than).await
    }

    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        self.inner.drop_version(view, version).await
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        self.inner.refresh().await
    }
}

/// Serves until it is told to stop.
#[derive(Debug)]
pub struct TestServer {
    pub grpc: String,
    pub http: String,
    pub stop: Option<oneshot::Sender<()>>,
    pub ended: JoinHandle<()>,
}

impl TestServer {
    pub async fn start(components: Components, settings: ServerSettings) -> Self {
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let (grpc_at, http_at) = (address(&grpc), address(&http));
        let listeners = Listeners {
            grpc,
            http: Some(http),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            serve(components, settings, listeners, shutdown)
                .await
                .unwrap();
        });
        Self {
            grpc: grpc_at,
            http: http_at,
            stop: Some(stop),
            ended,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.grpc).await.unwrap()
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// For messages that the client would not send.
    pub async fn bare(&self) -> FeaturesClient<Channel> {
        FeaturesClient::new(self.channel().await)
    }

    pub fn begin_shutdown(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// Status line and body of `GET path`.
    pub async fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Waits until the server says that it is ready.
    pub async fn ready(self) -> Self {
        eventually(async || self.get("/readyz").await.0.contains("200")).await;
        self
    }
}

/// The value of a series, once it is so.
pub async fn until(server: &TestServer, series: &str, value: u64) {
    let line = format!("{series} {value}");
    eventually(async || server.get("/metrics").await.1.lines().any(|l| l == line)).await;
}

/// Polls until it is so; for as long as a slow machine could need.
pub async fn eventually(so: impl AsyncFn() -> bool) {
    for _ in 0..2_000 {
        if so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to be");
}

/// `account` and `profile` with a row each of customer 1, and the service
/// `admission` over both.
pub fn small_definitions() -> Definitions {
    let (account, profile) = (account("1"), profile());
    let from = vec![
        bound("account", &account, &[]),
        bound("profile", &profile, &[]),
    ];
    let selected = [
        ("balance", "account", "balance"),
        ("segment", "profile", "segment"),
    ];
    let admission = service("admission", from, &selected);
    definitions(&[account, profile], &[admission])
}

pub async fn small_project() -> MemoryProject {
    let project = MemoryProject::new();
    let snapshot = project.commit(small_definitions()).await;
    let view = |name: &str| -> &FeatureView { &snapshot.definitions.feature_views[name] };
    let rows = account_rows(&[(1, day(5), Some(10.5))]);
    project.publish(view("account"), &rows, day(90)).await;
    let rows = profile_rows(&[(1, Some("gold"), None)]);
    project.publish(view("profile"), &rows, day(91)).await;
    project
}

pub async fn components(project: &MemoryProject, store: Arc<dyn OnlineStore>) -> Components {
    components_with(project, store, ServingSettings::default()).await
}

pub async fn components_with(
    project: &MemoryProject,
    store: Arc<dyn OnlineStore>,
    settings: ServingSettings,
) -> Components {
    let reader = granary_serving::Reader::new(
        project.engine.clone(),
        project.catalog.clone(),
        (store.clone(), Arc::default()),
        project.clock.clone(),
        settings,
    );
    Components {
        reader: Arc::new(reader.await.unwrap()),
        materializer: Materializer::new(
            project.engine.clone(),
            project.catalog.clone(),
            store.clone(),
            project.clock.clone(),
            MaterializerSettings::default(),
        ),
        streams: streams(&project.engine, project.clock.clone()),
        consumers: Vec::new(),
        engine: project.engine.clone(),
        store,
        catalog: project.catalog.clone(),
        clock: project.clock.clone(),
    }
}

/// What a server over a project on disk works with.
pub async fn components_of(project: &TestProject) -> Components {
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    Components {
        reader: Arc::new(reader),
        materializer: project.materializer(MaterializerSettings::default()),
        streams: streams(&project.engine, project.clock.clone()),
        consumers: Vec::new(),
        engine: project.engine.clone(),
        store: project.store.clone(),
        catalog: project.catalog.clone(),
        clock: project.clock.clone(),
    }
}

/// Streams in memory, which the engine reads.
pub fn streams(engine: &Engine, clock: Arc<dyn Clock>) -> Arc<Streams> {
    let store = Arc::new(MemoryEventStore::new(Arc::clone(&clock)));
    streams_over(engine, store, clock)
}

pub fn streams_over(
    engine: &Engine,
    store: Arc<dyn EventStore>,
    clock: Arc<dyn Clock>,
) -> Arc<Streams> {
    let streams = Arc::new(Streams::over(store, StreamSettings::default(), clock));
    let events = OpenEvents(Arc::clone(streams.opened()));
    let _ = engine.clone().with_streams(Arc::new(events));
    streams
}

/// A server over the small project.
pub async fn small_server() -> TestServer {
    let project = small_project().await;
    let store = Arc::new(project.store.clone());
    let components = components(&project, store).await;
    TestServer::start(components, quick()).await.ready().await
}

/// Looks for news often, so that tests need not wait.
pub fn quick() -> ServerSettings {
    ServerSettings {
        refresh_millis: 10,
        ..ServerSettings::default()
    }
}
