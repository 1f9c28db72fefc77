//! A project: its folder, its settings, and the components that they pick.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow, bail};
use granary_catalog::durable::DurableLocal;
use granary_catalog::{Catalog, Plan, Snapshot};
use granary_engine::{Engine, EngineSettings, StoreFactory, StreamSource};
use granary_ingest::{Materializer, OlderVersion, live_definitions};
use granary_model::{Clock, Definitions, SystemClock};
use granary_serving::Reader;
use granary_store::{EmbeddedSettings, EmbeddedStore, OnlineStore, OpenStreams};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use url::Url;

use crate::config::{self, Config};
use crate::environment;
use crate::events::ProjectEvents;

#[derive(Clone)]
pub struct Project {
    /// Absolute.
    pub folder: PathBuf,
    pub config: Config,
    /// The root as a URL.
    pub root: Url,
    pub clock: Arc<dyn Clock>,
}

impl Project {
    /// Opens the project of a folder, or of the nearest folder at or above the
    /// current one that has a `granary.toml`.
    pub fn open(folder: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match folder {
            Some(folder) => {
                let found = fs::canonicalize(folder).with_context(|| {
                    format!("cannot open the project folder {}", folder.display())
                })?;
                if !found.join(config::FILE).is_file() {
                    bail!("no granary.toml in {}; run `granary init`", found.display());
                }
                found
            }
            None => nearest_project()?,
        };
        let config = Config::read(&folder.join(config::FILE))?;
        let root = root_url(&folder, &config.root)?;
        Ok(Self {
            folder,
            config,
            root,
            clock: Arc::new(SystemClock),
        })
    }

    /// The folder of the root, where it is on this machine.
    pub fn local_root(&self) -> Option<PathBuf> {
        (self.root.scheme() == "file")
            .then(|| self.root.to_file_path().ok())
            .flatten()
    }

    /// The definitions to explore with: those that were applied, a changed view
    /// as it was as long as it has not run; before the first apply those of the files.
    pub async fn definitions(
        &self,
        engine: &Engine,
    ) -> anyhow::Result<(Definitions, Vec<OlderVersion>)> {
        let catalog = self.catalog()?;
        match catalog.latest().await? {
            Some(snapshot) => Ok(live_definitions(engine, &catalog, &snapshot).await?),
            None => Ok((self.file_definitions(engine).await?, Vec::new())),
        }
    }

    /// The definitions of the files as they are now, with the version numbers
    /// that applying them would give.
    pub async fn file_definitions(&self, engine: &Engine) -> anyhow::Result<Definitions> {
        let latest = self.catalog()?.latest().await?;
        let checked = self.check(engine).await??;
        Ok(Plan::new(latest.as_deref(), checked).next)
    }

    /// The newest snapshot; an error before the first apply.
    pub async fn snapshot(&self) -> anyhow::Result<Arc<Snapshot>> {
        let latest = self.catalog()?.latest().await?;
        latest.ok_or_else(|| anyhow!("nothing is applied yet: run `granary apply`"))
    }

    pub fn catalog(&self) -> anyhow::Result<Catalog> {
        let store = open_store(&self.root)
            .with_context(|| format!("cannot open the root {}", self.root))?;
        let path = ObjectPath::from_url_path(self.root.path())
            .with_context(|| format!("the root {} is not a path of objects", self.root))?;
        Ok(Catalog::new(store, path, Arc::clone(&self.clock)))
    }

    /// An engine that reads streams wherever their events are, once a query
    /// first does.
    pub fn engine(&self) -> anyhow::Result<Engine> {
        self.engine_over(Arc::new(ProjectEvents::new(self.clone())))
    }

    pub fn engine_over(&self, events: Arc<dyn StreamSource>) -> anyhow::Result<Engine> {
        Ok(self.engine_without_events()?.with_streams(events))
    }

    pub fn engine_without_events(&self) -> anyhow::Result<Engine> {
        let mut settings = self.config.engine.clone();
        if let Some(folder) = &mut settings.spill_folder {
            *folder = self.folder.join(&folder);
        }
        let engine = Engine::new(
            settings,
            self.root.clone(),
            self.folder.clone(),
            store_factory(),
            Arc::clone(&self.clock),
        )?;
        Ok(engine.with_salt(environment::salt()))
    }

    /// The online store, for a command that is over soon: it locks no memory.
    pub fn online_store(&self) -> anyhow::Result<Arc<dyn OnlineStore>> {
        self.open_online_store(EmbeddedSettings {
            memory_lock: false,
            ..self.config.online.embedded.clone()
        })
    }

    /// The online store, for a server.
    pub fn served_store(&self) -> anyhow::Result<Arc<dyn OnlineStore>> {
        self.open_online_store(self.config.online.embedded.clone())
    }

    fn open_online_store(
        &self,
        settings: EmbeddedSettings,
    ) -> anyhow::Result<Arc<dyn OnlineStore>> {
        let folder = match (&self.config.online.folder, self.local_root()) {
            (Some(folder), _) => self.folder.join(folder),
            (None, Some(root)) => root.join("online"),
            (None, None) => bail!(
                "{}: the root {} is not on this machine; say where the online store is: [online] folder = \"..\"",
                self.folder.join(config::FILE).display(),
                self.root
            ),
        };
        Ok(Arc::new(EmbeddedStore::open(&folder, settings)?))
    }

    /// Where the events of streams are; made by whoever opens them.
    pub fn events_folder(&self) -> anyhow::Result<PathBuf> {
        match (&self.config.streams.folder, self.local_root()) {
            (Some(folder), _) => Ok(self.folder.join(folder)),
            (None, Some(root)) => Ok(root.join("events")),
            (None, None) => bail!(
                "{}: the root {} is not on this machine; say where the events of streams are: [streams] folder = \"..\"",
                self.folder.join(config::FILE).display(),
                self.root
            ),
        }
    }

    pub fn materializer(
        &self,
        engine: &Engine,
        store: &Arc<dyn OnlineStore>,
    ) -> anyhow::Result<Materializer> {
        Ok(Materializer::new(
            engine.clone(),
            self.catalog()?,
            Arc::clone(store),
            Arc::clone(&self.clock),
            self.config.materialize.clone(),
        ))
    }

    /// `streams`: what live views are answered from.
    pub async fn reader(
        &self,
        engine: &Engine,
        store: &Arc<dyn OnlineStore>,
        streams: &Arc<OpenStreams>,
    ) -> anyhow::Result<Reader> {
        let reader = Reader::new(
            engine.clone(),
            self.catalog()?,
            (Arc::clone(store), Arc::clone(streams)),
            Arc::clone(&self.clock),
            self.config.serve.limits.clone(),
        );
        Ok(reader.await?)
    }
}

/// An engine over the files of this machine and of object stores, for commands
/// that work without a project.
pub fn engine_without_project() -> anyhow::Result<Engine> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let root = root_url(&here, ".")?;
    let settings = EngineSettings::default();
    let clock = Arc::new(SystemClock);
    Ok(Engine::new(settings, root, here, store_factory(), clock)?)
}

fn nearest_project() -> anyhow::Result<PathBuf> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let found = here
        .ancestors()
        .find(|folder| folder.join(config::FILE).is_file());
    found.map(Path::to_path_buf).ok_or_else(|| {
        anyhow!(
            "no granary.toml in {} or above; run `granary init`",
            here.display()
        )
    })
}

/// The root as a URL: a folder is relative to the project's.
fn root_url(project: &Path, root: &str) -> anyhow::Result<Url> {
    if let Some((scheme, _)) = root.split_once("://") {
        let url = Url::parse(root).with_context(|| format!("root {root:?} is not a URL"))?;
        if !matches!(scheme, "file" | "s3" | "gs" | "az") {
            bail!("root {root:?}: unknown scheme; use a folder, s3://, gs:// or az://");
        }
        return Ok(url);
    }
    let folder = project.join(root);
    // Through links of what exists already, so that one root has one name.
    let folder = fs::canonicalize(&folder).unwrap_or(folder);
    Url::from_directory_path(&folder).map_err(|()| anyhow!("root {root:?} is not a folder"))
}

/// The store of a URL's whole authority. Credentials and regions come from the
/// environment, by each builder's own names (`AWS_..`, `GOOGLE_..`, `AZURE_..`).
fn open_store(url: &Url) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
    Ok(match url.scheme() {
        "file" => Arc::new(DurableLocal::new()),
        "s3" | "s3a" => Arc::new(AmazonS3Builder::from_env().with_url(url.as_str()).build()?),
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env()
                .with_url(url.as_str())
                .build()?,
        ),
        "az" | "azure" | "abfs" | "abfss" => Arc::new(
            MicrosoftAzureBuilder::from_env()
                .with_url(url.as_str())
                .build()?,
        ),
        scheme => {
            return Err(object_store::Error::NotSupported {
                source: format!(
                    "{url}: unknown scheme {scheme:?}; use a path, s3://, gs:// or az://"
                )
                .into(),
            });
        }
    })
}

/// Opens each store once.
fn store_factory() -> StoreFactory {
    let opened: Mutex<BTreeMap<String, Arc<dyn ObjectStore>>> = Mutex::default();
    Arc::new(move |url| {
        let authority = format!("{}://{}", url.scheme(), url.authority());
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.get(&authority) {
            return Ok(Arc::clone(store));
        }
        let store = open_store(url)?;
        opened.insert(authority, Arc::clone(&store));
        Ok(store)
    })
}
