//! A project in a folder, wired as the binary wires it, without its command line.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_catalog::{Catalog, Plan, Snapshot, durable::DurableLocal};
use granary_engine::{Engine, EngineSettings, StoreFactory};
use granary_ingest::progress::Silent;
use granary_ingest::{
    MaterializeRequest, Materializer, MaterializerSettings, OpenEvents, RunOutcome, StreamSettings,
    Streams,
};
use granary_model::{Clock, SourceFile, parse_file};
use granary_serving::{Reader, ServingSettings};
use granary_store::{EmbeddedSettings, EmbeddedStore, EventStore, MemoryEventStore, OnlineStore};
use url::Url;

/// Any error: tests and benchmarks only report it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A project folder with everything that works on it. Data lies under
/// `.granary` in the folder.
#[derive(Debug, Clone)]
pub struct TestProject {
    pub folder: PathBuf,
    pub engine: Engine,
    pub catalog: Catalog,
    pub store: Arc<dyn OnlineStore>,
    pub streams: Arc<Streams>,
    pub clock: Arc<dyn Clock>,
}

impl TestProject {
    /// Opens, or begins, a project, with events in memory.
    pub fn open(
        folder: &Path,
        settings: EngineSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, BoxError> {
        let events = Arc::new(MemoryEventStore::new(clock.clone()));
        Self::over(folder, settings, clock, events)
    }

    /// Opens, or begins, a project over a store of events.
    pub fn over(
        folder: &Path,
        settings: EngineSettings,
        clock: Arc<dyn Clock>,
        events: Arc<dyn EventStore>,
    ) -> Result<Self, BoxError> {
        let folder = folder.canonicalize()?;
        let root = folder.join(".granary");
        std::fs::create_dir_all(&root)?;
        let url = Url::from_directory_path(&root).map_err(|()| "the root is not absolute")?;
        let local = Arc::new(DurableLocal::new());
        let stores: StoreFactory = {
            let local = local.clone();
            Arc::new(move |_url| Ok(local.clone()))
        };
        let path = object_store::path::Path::from_absolute_path(&root)?;
        let streams = Streams::over(events, StreamSettings::default(), clock.clone());
        let source = Arc::new(OpenEvents(streams.opened().clone()));
        let engine = Engine::new(settings, url, folder.clone(), stores, clock.clone())?;
        Ok(Self {
            engine: engine.with_streams(source),
            streams: Arc::new(streams),
            catalog: Catalog::new(local, path, clock.clone()),
            store: Arc::new(EmbeddedStore::open(
                &root.join("online"),
                EmbeddedSettings::default(),
            )?),
            folder,
            clock,
        })
    }

    /// With rows that stay in memory once they were read.
    pub fn with_memory_lock(mut self) -> Result<Self, BoxError> {
        let folder = self.folder.join(".granary/online");
        let settings = EmbeddedSettings {
            memory_lock: true,
            ..EmbeddedSettings::default()
        };
        self.store = Arc::new(EmbeddedStore::open(&folder, settings)?);
        Ok(self)
    }

    /// Parses, checks and commits definitions: the whole desired state, one
    /// (path, text) a file. Errors are rendered diagnostics.
    pub async fn apply(&self, files: &[(&str, &str)]) -> Result<Arc<Snapshot>, BoxError> {
        let mut statements = Vec::new();
        for (path, text) in files {
            let file = Arc::new(SourceFile {
                path: (*path).to_owned(),
                text: (*text).to_owned(),
            });
            let (parsed, diagnostics) = parse_file(&file);
            if !diagnostics.0.is_empty() {
                return Err(diagnostics.to_string().into());
            }
            statements.extend(parsed);
        }
        let checked = self
            .engine
            .check(&statements)
            .await
            .map_err(|d| d.to_string())?;
        let base = self.catalog.latest().await?;
        let plan = Plan::new(base.as_deref(), checked);
        if let (true, Some(base)) = (plan.is_empty(), base) {
            return Ok(base);
        }
        self.streams.follow(&self.engine, &plan.next).await?;
        Ok(self.catalog.commit(&plan, "test").await?)
    }

    pub fn materializer(&self, settings: MaterializerSettings) -> Materializer {
        Materializer::new(
            self.engine.clone(),
            self.catalog.clone(),
            self.store.clone(),
            self.clock.clone(),
            settings,
        )
    }

    /// Materialises against the newest snapshot; fails if any run did.
    pub async fn materialize(
        &self,
        request: MaterializeRequest,
    ) -> Result<Vec<RunOutcome>, BoxError> {
        let snapshot = self.catalog.latest().await?.ok_or("nothing was applied")?;
        let materializer = self.materializer(MaterializerSettings::default());
        let outcomes = materializer
            .materialize(&snapshot, request, Arc::new(Silent))
            .await?;
        for outcome in &outcomes {
            match outcome {
                RunOutcome::Failed { view, error, .. } => {
                    return Err(format!("{view}: {error}").into());
                }
                RunOutcome::NotStarted { view, because_of } => {
                    return Err(format!("{view} was not started because of {because_of}").into());
                }
                RunOutcome::Committed(_) | RunOutcome::Skipped { .. } => {}
            }
        }
        Ok(outcomes)
    }

    pub async fn reader(&self, settings: ServingSettings) -> Result<Reader, BoxError> {
        Ok(Reader::new(
            self.engine.clone(),
            self.catalog.clone(),
            (self.store.clone(), self.streams.opened().clone()),
            self.clock.clone(),
            settings,
        )
        .await?)
    }
}
