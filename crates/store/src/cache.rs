//! A cache in front of a slow store.
//!
//! Rows and the absence of rows are kept under (generation, write counter,
//! key): whatever writes to a generation raises its counter, so an entry is
//! never wrong, only out of use. The cache is for latency; a read that finds
//! none of its rows here gives what the store gives. It pays in front of a store
//! across a network, for whoever opens one to put there; the embedded store's
//! own read of mapped pages is faster than a hit here.
//!
//! Reads that miss ask the store once a read, for all missing pairs together;
//! pairs that another read is fetching already are waited for. A fetch that
//! fails or is abandoned leaves its waiters to fetch for themselves.
//!
//! This module knows nothing of the store behind it, nor of the rows' content.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use granary_model::UtcMicros;
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::codec::RowLayout;
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{
    Generation, GenerationId, GenerationState, GenerationWriter, OnlineStore, RowSink, WriteMode,
};

/// Settings of the cache in front of a slow store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RowCacheSettings {
    /// Bound of keys, rows and their bookkeeping together.
    pub bytes_max: u64,
    /// Entries that nobody asked for in this time go; entries of a generation
    /// that was written to since end like this.
    pub idle_seconds: u64,
}

impl Default for RowCacheSettings {
    fn default() -> Self {
        Self {
            bytes_max: 256 << 20,
            idle_seconds: 600,
        }
    }
}

/// What the cache did so far, in (entity, generation) pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RowCacheCounts {
    pub hits: u64,
    /// Asked of the store.
    pub misses: u64,
    /// Waited for while another read asked the store.
    pub coalesced: u64,
    /// Bytes held now.
    pub bytes: u64,
}

/// A store with a cache before its reads.
#[derive(Debug)]
pub struct CachedStore<S> {
    inner: S,
    rows: Cache<CacheKey, Option<Bytes>>,
    /// A short name for each generation that was read; they are few.
    names: Mutex<HashMap<GenerationId, u64>>,
    pending: Pending,
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
}

/// The generation's short name, its write counter, the encoded key.
type CacheKey = Vec<u8>;

/// Pairs that some read is fetching; the receiver hears of the fetch's end.
type Pending = Arc<Mutex<HashMap<CacheKey, watch::Receiver<()>>>>;

impl<S: OnlineStore> CachedStore<S> {
    pub fn new(inner: S, settings: &RowCacheSettings) -> Self {
        let rows = Cache::builder()
            .max_capacity(settings.bytes_max)
            .weigher(|key: &CacheKey, row: &Option<Bytes>| {
                let bytes = key.len() + row.as_ref().map_or(0, Bytes::len) + ENTRY_BYTES;
                u32::try_from(bytes).unwrap_or(u32::MAX)
            })
            .time_to_idle(Duration::from_secs(settings.idle_seconds.max(1)))
            .build();
        Self {
            inner,
            rows,
            names: Mutex::default(),
            pending: Pending::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            coalesced: AtomicU64::new(0),
        }
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    pub fn counts(&self) -> RowCacheCounts {
        RowCacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            coalesced: self.coalesced.load(Ordering::Relaxed),
            bytes: self.rows.weighted_size(),
        }
    }

    /// Begins a cache key. The counter is read before the store is: a row read
    /// later is of this counter or newer, and newer rows are right to give.
    fn prefix(&self, generation: &dyn Generation) -> [u8; 16] {
        let state = generation.state();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let next = names.len() as u64;
        let name = *names.entry(state.id).or_insert(next);
        let mut prefix = [0; 16];
        prefix[..8].copy_from_slice(&name.to_be_bytes());
        prefix[8..].copy_from_slice(&state.write_counter.to_be_bytes());
        prefix
    }

    /// Hands cached rows to the sink; gives the pairs that are not cached.
    async fn read_cached(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Vec<Pair> {
        let mut missing = Vec::new();
        let mut hits = 0;
        let mut cache_key = Vec::new();
        for (index, generation) in generations.iter().enumerate() {
            let prefix = self.prefix(generation.as_ref());
            for (entity, key) in keys.iter().enumerate() {
                let Some(key) = key else { continue };
                cache_key.clear();
                cache_key.extend_from_slice(&prefix);
                cache_key.extend_from_slice(key);
                match self.rows.get(&cache_key).await {
                    Some(row) => {
                        hits += 1;
                        if let Some(row) = row {
                            sink.row(index, entity, &row);
                        }
                    }
                    None => missing.push(Pair {
                        generation: index,
                        entity,
                        cache_key: cache_key.clone(),
                    }),
                }
            }
        }
        self.hits.fetch_add(hits, Ordering::Relaxed);
        missing
    }

    /// Asks the store for some pairs in one read, and keeps what it says.
    async fn fetch(
        &self,
        pairs: &[Pair],
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        if pairs.is_empty() {
            return Ok(());
        }
        self.misses.fetch_add(pairs.len() as u64, Ordering::Relaxed);
        let entities = distinct(pairs.iter().map(|pair| pair.entity));
        let wanted = distinct(pairs.iter().map(|pair| pair.generation));
        let asked: Vec<_> = wanted
            .iter()
            .map(|g| Arc::clone(&generations[*g]))
            .collect();
        let mut found = Found::default();
        self.inner
            .read(&keys.gather(&entities), &asked, &mut found)
            .await?;
        let position = |list: &[usize], item| list.binary_search(&item).unwrap_or(usize::MAX);
        for pair in pairs {
            let place = (
                position(&wanted, pair.generation),
                position(&entities, pair.entity),
            );
            let row = found.rows.get(&place).cloned();
            if let Some(row) = &row {
                sink.row(pair.generation, pair.entity, row);
            }
            self.rows.insert(pair.cache_key.clone(), row).await;
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<CacheKey, watch::Receiver<()>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Parts the missing pairs into those that this read fetches and those that
    /// another read is fetching.
    fn claim(&self, missing: Vec<Pair>) -> (Claim, Vec<(Pair, watch::Receiver<()>)>) {
        let (done, ended) = watch::channel(());
        let mut claim = Claim {
            pairs: Vec::new(),
            pending: Arc::clone(&self.pending),
            _done: done,
        };
        let mut waits = Vec::new();
        let mut pending = self.pending();
        for pair in missing {
            match pending.get(&pair.cache_key) {
                // The same pair twice in one read is fetched twice, not waited for.
                Some(other) if !other.same_channel(&ended) => {
                    waits.push((pair, other.clone()));
                }
                Some(_) => claim.pairs.push(pair),
                None => {
                    pending.insert(pair.cache_key.clone(), ended.clone());
                    claim.pairs.push(pair);
                }
            }
        }
        (claim, waits)
    }
}

/// What an entry takes beside its key and row, about.
const ENTRY_BYTES: usize = 120;

/// An (entity, generation) pair by its positions in the read.
#[derive(Debug)]
struct Pair {
    generation: usize,
    entity: usize,
    cache_key: CacheKey,
}

/// Pairs that this read fetches; dropped, the others hear that it is over.
struct Claim {
    pairs: Vec<Pair>,
    pending: Pending,
    _done: watch::Sender<()>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for pair in &self.pairs {
            pending.remove(&pair.cache_key);
        }
    }
}

/// Ascending, each once.
fn distinct(items: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut items: Vec<usize> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

#[derive(Default)]
struct Found {
    rows: HashMap<(usize, usize), Bytes>,
}

impl RowSink for Found {
    fn row(&mut self, generation: usize, entity: usize, row: &[u8]) {
        self.rows
            .insert((generation, entity), Bytes::copy_from_slice(row));
    }
}

#[async_trait]
impl<S: OnlineStore> OnlineStore for CachedStore<S> {
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
        let missing = self.read_cached(keys, generations, sink).await;
        if missing.is_empty() {
            return Ok(());
        }
        let (claim, waits) = self.claim(missing);
        self.fetch(&claim.pairs, keys, generations, sink).await?;
        drop(claim);

        let mut left = Vec::new();
        for (pair, mut ended) in waits {
            // An error says that the sender is gone: the fetch is over.
            let _ = ended.changed().await;
            match self.rows.get(&pair.cache_key).await {
                Some(row) => {
                    self.coalesced.fetch_add(1, Ordering::Relaxed);
                    if let Some(row) = row {
                        sink.row(pair.generation, pair.entity, &row);
                    }
                }
                None => left.push(pair),
            }
        }
        self.fetch(&left, keys, generations, sink).await
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

    async fn bundle(&self, views: &[(String, u32)]) -> Result<bool, StoreError> {
        self.inner.bundle(views).await
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        self.inner.refresh().await
    }
}
