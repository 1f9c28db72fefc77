//! Reading and committing snapshots.
//!
//! A commit is one conditional put of the next number. Its answer may get lost
//! on the way, so after any failure the object is read back: with the commit's
//! own random id the commit was won, with another it was lost, and where there
//! is nothing it is tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use granary_model::Clock;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::Deserialize;
use tracing::instrument;
use uuid::Uuid;

use crate::error::CatalogError;
use crate::plan::Plan;
use crate::snapshot::{FORMAT, Snapshot};

/// Decoded snapshots that are kept in memory, the newest ones.
const CACHED_SNAPSHOTS_MAX: usize = 16;
/// How often a commit is tried whose object is not there after a failed put.
const COMMIT_ATTEMPTS_MAX: u32 = 5;
/// The pause before the second attempt; it doubles from there.
const COMMIT_PAUSE: Duration = Duration::from_millis(20);

type Cache = Arc<Mutex<BTreeMap<u64, Arc<Snapshot>>>>;

/// The catalog of one root. Clones share what they have read.
#[derive(Debug, Clone)]
pub struct Catalog {
    store: Arc<dyn ObjectStore>,
    root: Path,
    clock: Arc<dyn Clock>,
    cache: Cache,
}

impl Catalog {
    /// `root` is the path of the root within `store`.
    pub fn new(store: Arc<dyn ObjectStore>, root: Path, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            root,
            clock,
            cache: Cache::default(),
        }
    }

    /// The object store that holds the root.
    pub fn object_store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The path of the root within the object store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The newest snapshot; `None` before the first apply. One request where
    /// nothing is new, a listing for the first call.
    #[instrument(skip_all, err)]
    pub async fn latest(&self) -> Result<Option<Arc<Snapshot>>, CatalogError> {
        match self.newest_cached() {
            Some(known) => Ok(Some(self.newer_than(known.number).await?.unwrap_or(known))),
            None => self.newest_listed().await,
        }
    }

    /// The newest snapshot if its number is greater than `known`; one cheap request if not.
    #[instrument(skip_all, err)]
    pub async fn newer_than(&self, known: u64) -> Result<Option<Arc<Snapshot>>, CatalogError> {
        let next = known.saturating_add(1);
        match self.store.head(&self.path(next)).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        // Most often just one was added; a listing is for whoever fell far behind.
        match self.store.head(&self.path(next + 1)).await {
            Err(object_store::Error::NotFound { .. }) => self.at(next).await.map(Some),
            Ok(_) => self.newest_listed().await,
            Err(e) => Err(e.into()),
        }
    }

    /// A snapshot by number. `CatalogError::NoSnapshot` where there is none.
    #[instrument(skip_all, err)]
    pub async fn at(&self, number: u64) -> Result<Arc<Snapshot>, CatalogError> {
        let cached = self.lock_cache().get(&number).map(Arc::clone);
        match cached {
            Some(snapshot) => Ok(snapshot),
            None => self
                .read(number)
                .await?
                .ok_or(CatalogError::NoSnapshot(number)),
        }
    }

    /// All numbers, ascending.
    #[instrument(skip_all, err)]
    pub async fn numbers(&self) -> Result<Vec<u64>, CatalogError> {
        let folder = self.root.clone().join("catalog");
        let mut numbers: Vec<u64> = self
            .store
            .list(Some(&folder))
            .try_filter_map(|meta| async move { Ok(number_of(&meta.location)) })
            .try_collect()
            .await?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Commits a plan on top of the snapshot that it was made from.
    /// `CatalogError::Lost` if another commit came first: plan again.
    #[instrument(skip_all, err, fields(base = plan.base))]
    pub async fn commit(&self, plan: &Plan, by: &str) -> Result<Arc<Snapshot>, CatalogError> {
        let snapshot = self.next_snapshot(plan, by);
        let path = self.path(snapshot.number);
        let body = serde_json::to_vec_pretty(&snapshot)
            .map(Bytes::from)
            .map_err(|e| CatalogError::Damaged {
                path: path.to_string(),
                reason: format!("it cannot be written as JSON: {e}"),
            })?;
        let mut pause = COMMIT_PAUSE;
        let mut attempt = 1;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let payload = PutPayload::from_bytes(body.clone());
            let Err(failure) = self.store.put_opts(&path, payload, options).await else {
                return Ok(self.remember(snapshot));
            };
            match self.read(snapshot.number).await {
                Ok(Some(there)) if there.commit_id == snapshot.commit_id => return Ok(there),
                Ok(Some(there)) => {
                    let now = self.latest().await?.map_or(there.number, |s| s.number);
                    return Err(CatalogError::Lost {
                        base: plan.base,
                        now,
                    });
                }
                Ok(None) | Err(CatalogError::Storage(_)) if attempt < COMMIT_ATTEMPTS_MAX => {
                    tracing::warn!(%path, error = %failure, "a commit's put failed, trying again");
                }
                Ok(None) => return Err(failure.into()),
                Err(e) => return Err(e),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }

    fn next_snapshot(&self, plan: &Plan, by: &str) -> Snapshot {
        let number = plan.base + 1;
        let committed_at = self.clock.now();
        let mut versions = plan.versions.clone();
        for record in versions.values_mut().flatten() {
            if record.since_snapshot == number {
                record.since = committed_at;
            }
        }
        Snapshot {
            format: FORMAT,
            number,
            commit_id: Uuid::new_v4(),
            committed_at,
            committed_by: by.to_owned(),
            definitions: plan.next.clone(),
            versions,
        }
    }

    fn path(&self, number: u64) -> Path {
        self.root
            .clone()
            .join("catalog")
            .join(format!("{number:020}.json"))
    }

    async fn newest_listed(&self) -> Result<Option<Arc<Snapshot>>, CatalogError> {
        match self.numbers().await?.last() {
            Some(number) => self.at(*number).await.map(Some),
            None => Ok(None),
        }
    }

    /// Reads and decodes an object, past the cache; `None` where there is none.
    async fn read(&self, number: u64) -> Result<Option<Arc<Snapshot>>, CatalogError> {
        let path = self.path(number);
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        Ok(Some(self.remember(decode(&path, number, &bytes)?)))
    }

    fn remember(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        let mut cache = self.lock_cache();
        cache.insert(snapshot.number, Arc::clone(&snapshot));
        while cache.len() > CACHED_SNAPSHOTS_MAX {
            cache.pop_first();
        }
        snapshot
    }

    fn newest_cached(&self) -> Option<Arc<Snapshot>> {
        self.lock_cache()
            .last_key_value()
            .map(|(_, s)| Arc::clone(s))
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Snapshot>>> {
        // Snapshots are immutable: a panic elsewhere cannot have left one half-way.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number in an object's name; `None` for files that are none of ours.
fn number_of(location: &Path) -> Option<u64> {
    let stem = location.filename()?.strip_suffix(".json")?;
    (stem.len() == 20 && stem.bytes().all(|b| b.is_ascii_digit()))
        .then(|| stem.parse().ok())
        .flatten()
}

/// What every format has; read first, so that a newer one is told by its name.
#[derive(Deserialize)]
struct Envelope {
    format: u32,
}

fn decode(path: &Path, number: u64, bytes: &[u8]) -> Result<Snapshot, CatalogError> {
    let damaged = |reason: String| CatalogError::Damaged {
        path: path.to_string(),
        reason,
    };
    let envelope: Envelope = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if envelope.format > FORMAT {
        return Err(CatalogError::NewerFormat {
            path: path.to_string(),
            found: envelope.format,
            supported: FORMAT,
        });
    }
    let snapshot: Snapshot = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if snapshot.number != number {
        return Err(damaged(format!("it says that it is {}", snapshot.number)));
    }
    Ok(snapshot)
}
