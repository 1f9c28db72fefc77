//! The engine: one DataFusion runtime (memory pool, spill folder, object
//! stores) and the sessions made on it.
//!
//! It knows nothing of the online store or of who asks. Credentials are the
//! business of the [`StoreFactory`] that it is given.

mod count_distinct;
mod cut;
mod functions;
mod planner;
mod session;
mod stores;

use std::num::NonZeroUsize;
use std::path::{Path as FolderPath, PathBuf};
use std::sync::{Arc, OnceLock};

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use deltalake_core::logstore::LogStoreRef;
use granary_model::Clock;
use granary_model::definitions::Stream;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::error::EngineError;
use crate::source::VerifiedSources;
use crate::stream_table::{StreamSource, StreamTable};
use functions::Salt;

pub use cut::{event_time_type, no_later_than};
pub use functions::AS_OF_FUNCTION;
pub(crate) use functions::{OnlyRow, latest_of, ranked, utc_micros, utc_micros_function};
pub(crate) use planner::physical_expr;
pub use session::{AsOf, Joins};
pub(crate) use session::{plan_sql, plan_statement, register, settle_types};
pub use stores::Stores;

/// Makes the object store for a URL (`file:///`, `s3://bucket/`, ...): chosen
/// by the binary, since credentials come from the environment.
///
/// It is called once for each scheme and authority, with an empty path, and
/// gives the store of that whole authority (of `file:///`: the file system).
pub type StoreFactory =
    Arc<dyn Fn(&Url) -> Result<Arc<dyn ObjectStore>, object_store::Error> + Send + Sync>;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSettings {
    /// Bound of the memory that queries hold; beyond it they spill.
    #[serde(with = "granary_model::bytes")]
    pub memory_bytes_max: u64,
    /// 0: one a core.
    pub target_partitions: usize,
    /// Rows in a batch between operators.
    pub batch_rows: usize,
    /// Elements of a list that views are read for EACH of, in one row.
    pub each_elements_max: usize,
    /// Where to spill; `None`: the system's temporary folder.
    pub spill_folder: Option<PathBuf>,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            memory_bytes_max: 2 << 30,
            target_partitions: 0,
            batch_rows: 8192,
            each_elements_max: 1_000,
            spill_folder: None,
        }
    }
}

/// Consumers that an out-of-memory error names.
const CONSUMERS_NAMED: NonZeroUsize = NonZeroUsize::new(5).unwrap();

/// A spill folder may hold this much before a query fails.
const SPILL_BYTES_MAX: u64 = 1 << 40;

/// One runtime for every query of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: EngineSettings,
    root: Url,
    root_store: Arc<dyn ObjectStore>,
    root_path: Path,
    project: PathBuf,
    stores: Arc<Stores>,
    runtime: Arc<RuntimeEnv>,
    clock: Arc<dyn Clock>,
    verified: Arc<VerifiedSources>,
    salt: OnceLock<Salt>,
    streams: OnceLock<Arc<dyn StreamSource>>,
}

impl Engine {
    /// `root`: the project's root (offline tables live under `offline/`).
    /// `project`: the folder that relative locations in SQL are relative to.
    pub fn new(
        settings: EngineSettings,
        root: Url,
        project: PathBuf,
        stores: StoreFactory,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let stores = Arc::new(Stores::new(stores));
        let (root_store, root_path) = stores.resolve(&root)?;
        let project = std::path::absolute(project)
            .map_err(|error| EngineError::Settings(format!("the project folder: {error}")))?;
        let runtime = runtime(&settings, &stores).map_err(|source| EngineError::Query {
            object: "runtime".into(),
            source: Box::new(source),
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                root,
                root_store,
                root_path,
                project,
                stores,
                runtime,
                clock,
                verified: Arc::new(VerifiedSources::default()),
                salt: OnceLock::new(),
                streams: OnceLock::new(),
            }),
        })
    }

    /// With what `keyed_hash` is keyed; the first that is given stays.
    #[must_use]
    pub fn with_salt(self, salt: Option<String>) -> Self {
        if let Some(salt) = salt {
            let _ = self.inner.salt.set(Salt(salt.into_bytes().into()));
        }
        self
    }

    /// With where the events of streams are; the first that is given stays.
    #[must_use]
    pub fn with_streams(self, streams: Arc<dyn StreamSource>) -> Self {
        let _ = self.inner.streams.set(streams);
        self
    }

    fn salt(&self) -> Option<Salt> {
        self.inner.salt.get().cloned()
    }

    pub fn settings(&self) -> &EngineSettings {
        &self.inner.settings
    }

    /// The project's root, as it was given.
    pub fn root(&self) -> &Url {
        &self.inner.root
    }

    /// The store that holds the root; its paths start at the authority, so
    /// everything of the project lies below [`Self::root_path`].
    pub fn root_store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.root_store
    }

    /// Where the root lies in [`Self::root_store`].
    pub fn root_path(&self) -> &Path {
        &self.inner.root_path
    }

    /// The URL of a folder below the root, with a slash at its end.
    pub fn folder_below_root(&self, folder: &str) -> Result<Url, EngineError> {
        let mut url = self.inner.root.clone();
        url.path_segments_mut()
            .map_err(|()| EngineError::Settings(format!("{} cannot be a root", self.inner.root)))?
            .pop_if_empty()
            .extend(folder.split('/').filter(|part| !part.is_empty()))
            .push("");
        Ok(url)
    }

    /// The folder that relative locations in SQL are relative to.
    pub fn project(&self) -> &FolderPath {
        &self.inner.project
    }

    pub fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.inner.runtime
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }

    /// Every object store that the engine reaches, made on first use.
    pub fn stores(&self) -> &Arc<Stores> {
        &self.inner.stores
    }

    /// The log store of the Delta table at `location`, over our own object store.
    pub fn log_store(&self, location: &Url) -> Result<LogStoreRef, EngineError> {
        Ok(self.inner.stores.log_store(location)?)
    }

    /// A stream as a relation.
    pub(crate) fn stream_table(&self, stream: &Stream) -> Arc<StreamTable> {
        let source = self.inner.streams.get().cloned();
        Arc::new(StreamTable::new(self, stream, source))
    }

    pub(crate) fn verified(&self) -> &Arc<VerifiedSources> {
        &self.inner.verified
    }
}

/// The pool is fair: every spilling operator may hold its share and spills
/// beyond it, so that the sorts of a plan cannot starve the merge behind them,
/// as they can under a greedy pool. The price is spilling a little early.
///
/// Listings of files are not cached: a new file must be seen by the next query.
fn runtime(
    settings: &EngineSettings,
    stores: &Arc<Stores>,
) -> datafusion::error::Result<Arc<RuntimeEnv>> {
    let bytes_max = usize::try_from(settings.memory_bytes_max).unwrap_or(usize::MAX);
    let pool = TrackConsumersPool::new(FairSpillPool::new(bytes_max), CONSUMERS_NAMED);
    let mode = match &settings.spill_folder {
        Some(folder) => DiskManagerMode::Directories(vec![folder.clone()]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    let disk = DiskManagerBuilder::default()
        .with_mode(mode)
        .with_max_temp_directory_size(SPILL_BYTES_MAX);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(disk)
        .with_object_store_registry(stores.clone())
        .with_object_list_cache_limit(0)
        .build_arc()
}
