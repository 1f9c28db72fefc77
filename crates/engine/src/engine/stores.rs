//! Object stores by URL, made on first use by the factory that the engine was given.
//!
//! One store serves one scheme and authority (`s3://bucket`), for DataFusion,
//! for Delta Lake and for the root alike; a path says where in it to look.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreRegistry;
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::{Position, Url};

use super::StoreFactory;

/// The stores made so far.
pub struct Stores {
    factory: StoreFactory,
    made: RwLock<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Stores {
    pub fn new(factory: StoreFactory) -> Self {
        Self {
            factory,
            made: RwLock::default(),
        }
    }

    /// The store of a URL's scheme and authority.
    pub fn store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, object_store::Error> {
        let key = authority(url);
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = made.get(&key) {
            return Ok(store.clone());
        }
        drop(made);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = made.get(&key) {
            return Ok(store.clone());
        }
        let mut whole = url.clone();
        whole.set_path("/");
        whole.set_query(None);
        whole.set_fragment(None);
        let store = (self.factory)(&whole)?;
        made.insert(key, store.clone());
        Ok(store)
    }

    /// The store of a URL, and where in it the URL points.
    pub fn resolve(&self, url: &Url) -> Result<(Arc<dyn ObjectStore>, Path), object_store::Error> {
        let path = Path::from_url_path(url.path())?;
        Ok((self.store(url)?, path))
    }

    /// The log store of the Delta table at `location`.
    pub fn log_store(&self, location: &Url) -> Result<LogStoreRef, object_store::Error> {
        let (root, path) = self.resolve(location)?;
        let table = Arc::new(PrefixStore::new(root.clone(), path));
        Ok(default_logstore(
            table,
            root,
            location,
            &StorageConfig::default(),
        ))
    }
}

fn authority(url: &Url) -> String {
    format!(
        "{}://{}",
        url.scheme(),
        &url[Position::BeforeHost..Position::AfterPort]
    )
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Stores")
            .field("made", &made.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl ObjectStoreRegistry for Stores {
    fn register_store(
        &self,
        url: &Url,
        store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        self.made
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(authority(url), store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        self.store(url)
            .map_err(|error| DataFusionError::ObjectStore(Box::new(error)))
    }
}
