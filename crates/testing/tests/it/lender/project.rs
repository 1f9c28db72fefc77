//! The repository's `sql/` as a project of one data set, served in this
//! process and read over gRPC.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat;
use granary_client::{Client, FeatureColumn, GetFeatures, Target};
use granary_engine::EngineSettings;
use granary_ingest::{MaterializeRequest, MaterializerSettings, StreamSettings, Streams};
use granary_model::{Clock, ManualClock, UtcMicros};
use granary_server::{Components, Listeners, ServerError, ServerSettings, serve};
use granary_serving::{Reader, ServingSettings};
use granary_store::MemoryEventStore;
use granary_testing::TestProject;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::compare::Answer;
use super::expected::{Key, Reference};

/// The parts of `sql/` that every data set shares, beside `features/`.
const SHARED: [&str; 4] = [
    "canonical.sql",
    "entities.sql",
    "services.sql",
    "streams.sql",
];

/// Entities a request: what services ask for at most.
const REQUEST_ROWS: usize = 500;

#[derive(Debug)]
pub struct Lender {
    /// Held so that it stays.
    _folder: TempDir,
    project: TestProject,
    clock: Arc<ManualClock>,
    reader: Arc<Reader>,
    client: Client,
    stop: oneshot::Sender<()>,
    server: JoinHandle<Result<(), ServerError>>,
}

/// The folder of the repository's definitions.
fn sql() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql")
}

/// The text of an adapter of the repository.
pub fn adapter(name: &str) -> String {
    std::fs::read_to_string(sql().join("adapters").join(name).join("sources.sql")).unwrap()
}

/// The project's files, by path: what is shared, the features, one adapter.
pub fn definitions(adapter: String) -> Vec<(String, String)> {
    let mut names: Vec<String> = SHARED.map(str::to_owned).to_vec();
    for entry in std::fs::read_dir(sql().join("features")).unwrap() {
        let name = entry.unwrap().file_name();
        names.push(format!("features/{}", name.to_str().unwrap()));
    }
    names.sort();
    let text = |name: &str| std::fs::read_to_string(sql().join(name)).unwrap();
    let shared = names.iter().map(|name| (format!("sql/{name}"), text(name)));
    shared
        .chain([("sql/sources.sql".to_owned(), adapter)])
        .collect()
}

impl Lender {
    /// Applies the definitions at `t`, with `data` as the folder that the
    /// adapter reads, and serves them.
    pub async fn begin(adapter: String, data: Option<&Path>, t: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(data) = data {
            let data = data.canonicalize().unwrap();
            std::os::unix::fs::symlink(data, folder.path().join("data")).unwrap();
        }
        let clock = Arc::new(ManualClock::new(UtcMicros(t)));
        let project = TestProject::open(
            folder.path(),
            EngineSettings::default(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        )
        .unwrap();
        let files = definitions(adapter);
        let files = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()));
        let files: Vec<(&str, &str)> = files.collect();
        project.apply(&files).await.unwrap();

        let reader = project.reader(ServingSettings::default()).await.unwrap();
        let reader = Arc::new(reader);
        let components = Components {
            reader: Arc::clone(&reader),
            materializer: project.materializer(MaterializerSettings::default()),
            engine: project.engine.clone(),
            store: Arc::clone(&project.store),
            catalog: project.catalog.clone(),
            streams: Arc::new(Streams::over(
                Arc::new(MemoryEventStore::new(Arc::clone(&project.clock))),
                StreamSettings::default(),
                Arc::clone(&project.clock),
            )),
            consumers: Vec::new(),
            clock: Arc::clone(&project.clock),
        };
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = grpc.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(
            components,
            ServerSettings::default(),
            Listeners { grpc, http: None },
            async move {
                let _ = stopped.await;
            },
        ));
        let client = Client::connect(&address.to_string()).await.unwrap();
        Self {
            _folder: folder,
            project,
            clock,
            reader,
            client: client.with_name("test"),
            stop,
            server,
        }
    }

    /// Sets the clock to `t` and runs these views as of it; all, if none is
    /// named. The server sees the result.
    pub async fn materialize(&self, t: i64, views: Vec<String>) {
        self.clock.set(UtcMicros(t));
        let request = MaterializeRequest {
            views,
            ..MaterializeRequest::default()
        };
        self.project.materialize(request).await.unwrap();
        self.reader.refresh().await.unwrap();
    }

    /// Every feature of a view for every key of the reference.
    pub async fn read(&self, reference: &Reference, view: &str) -> BTreeMap<String, Answer> {
        let mut parts: BTreeMap<String, Vec<FeatureColumn>> = BTreeMap::new();
        for keys in reference.keys.chunks(REQUEST_ROWS) {
            let keys = RecordBatch::try_from_iter([(reference.key, key_column(keys))]).unwrap();
            let target = Target::Features(vec![format!("{view}.*")]);
            let answer = self
                .client
                .get_features(&GetFeatures::new(target, keys))
                .await
                .unwrap();
            for feature in answer.features {
                parts.entry(feature.name.clone()).or_default().push(feature);
            }
        }
        parts
            .into_iter()
            .map(|(name, parts)| (name, whole(&parts)))
            .collect()
    }

    /// What a service answers, by the service's own names.
    pub async fn serve(
        &self,
        service: &str,
        keys: &[(&str, &Vec<Key>)],
    ) -> BTreeMap<String, Answer> {
        let keys = keys.iter().map(|(name, keys)| (*name, key_column(keys)));
        let keys = RecordBatch::try_from_iter(keys).unwrap();
        let request = GetFeatures::new(Target::Service(service.to_owned()), keys);
        let answer = self.client.get_features(&request).await.unwrap();
        let count = answer.features.len();
        let features = answer.features.into_iter();
        let named: BTreeMap<String, Answer> = features
            .map(|feature| (feature.name.clone(), whole(&[feature])))
            .collect();
        assert_eq!(named.len(), count, "{service}: names are distinct");
        named
    }

    /// Stops the server and waits for it.
    pub async fn end(self) {
        self.stop.send(()).unwrap();
        drop(self.client);
        self.server.await.unwrap().unwrap();
    }
}

fn whole(parts: &[FeatureColumn]) -> Answer {
    let values: Vec<&dyn arrow::array::Array> =
        parts.iter().map(|part| part.values.as_ref()).collect();
    Answer {
        values: concat(&values).unwrap(),
        statuses: parts
            .iter()
            .flat_map(|part| part.statuses.iter().copied())
            .collect(),
    }
}

fn key_column(keys: &[Key]) -> ArrayRef {
    match keys[0] {
        Key::Int(_) => Arc::new(Int64Array::from_iter_values(keys.iter().map(
            |key| match key {
                Key::Int(id) => *id,
                Key::Text(id) => panic!("{id:?} among numbers"),
            },
        ))),
        Key::Text(_) => Arc::new(StringArray::from_iter_values(keys.iter().map(
            |key| match key {
                Key::Text(id) => id.clone(),
                Key::Int(id) => panic!("{id} among texts"),
            },
        ))),
    }
}
