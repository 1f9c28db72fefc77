//! What the cache saves, and what it must not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use granary_model::UtcMicros;
use granary_store::{
    CachedStore, EntityKeys, Generation, GenerationState, GenerationWriter, MemoryStore,
    OnlineStore, RowCacheSettings, RowLayout, RowSink, StoreError, WriteMode,
};
use tokio::sync::Semaphore;

use super::facts::{UPSERT, VIEW, coverage, keys, layout, rows};

/// A store whose reads are counted, wait for leave, and fail on demand.
#[derive(Debug)]
struct Slow {
    inner: MemoryStore,
    leave: Semaphore,
    reads: AtomicUsize,
    pairs: AtomicUsize,
    fails: AtomicBool,
}

#[async_trait]
impl OnlineStore for Slow {
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
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.pairs
            .fetch_add(keys.len() * generations.len(), Ordering::SeqCst);
        self.leave.acquire().await.unwrap().forget();
        if self.fails.swap(false, Ordering::SeqCst) {
            return Err(StoreError::Backend("not now".to_owned()));
        }
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

    async fn sweep(&self, view: &str, version: u32, older: UtcMicros) -> Result<u64, StoreError> {
        self.inner.sweep(view, version, older).await
    }

    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        self.inner.drop_version(view, version).await
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        self.inner.refresh().await
    }
}

type Cached = Arc<CachedStore<Slow>>;

/// Keys 0 to 9, at time 1.
async fn cached() -> (Cached, Arc<dyn Generation>) {
    let slow = Slow {
        inner: MemoryStore::new(),
        leave: Semaphore::new(0),
        reads: AtomicUsize::new(0),
        pairs: AtomicUsize::new(0),
        fails: AtomicBool::new(false),
    };
    let store = Arc::new(CachedStore::new(slow, &RowCacheSettings::default()));
    let ids: Vec<i64> = (0..10).collect();
    let mut writer = store
        .writer(VIEW, 1, layout(), WriteMode::Create)
        .await
        .unwrap();
    writer.write(&keys(&ids), &rows(&[1; 10])).await.unwrap();
    writer.publish(coverage(1)).await.unwrap();
    let generation = store.generation(VIEW, 1).await.unwrap().unwrap();
    (store, generation)
}

#[derive(Debug)]
struct There(Vec<bool>);

impl RowSink for There {
    fn row(&mut self, _: usize, entity: usize, _: &[u8]) {
        assert!(!self.0[entity], "reported twice");
        self.0[entity] = true;
    }
}

async fn read(
    store: &Cached,
    generation: &Arc<dyn Generation>,
    ids: Vec<i64>,
) -> Result<Vec<bool>, StoreError> {
    let mut there = There(vec![false; ids.len()]);
    let pinned = [Arc::clone(generation)];
    store.read(&keys(&ids), &pinned, &mut there).await?;
    Ok(there.0)
}

fn asked(store: &Cached) -> (usize, usize) {
    let slow = store.inner();
    (
        slow.reads.load(Ordering::SeqCst),
        slow.pairs.load(Ordering::SeqCst),
    )
}

#[tokio::test]
async fn rows_and_their_absence_are_asked_for_once() {
    let (store, generation) = cached().await;
    store.inner().leave.add_permits(100);
    assert_eq!(
        read(&store, &generation, vec![1, 99, 2]).await.unwrap(),
        [true, false, true]
    );
    assert_eq!(
        read(&store, &generation, vec![99, 1]).await.unwrap(),
        [false, true]
    );
    assert_eq!(asked(&store), (1, 3));
    // Only what is missing is asked for.
    assert_eq!(
        read(&store, &generation, vec![1, 3, 99]).await.unwrap(),
        [true, true, false]
    );
    assert_eq!(asked(&store), (2, 4));
    let counts = store.counts();
    assert_eq!((counts.hits, counts.misses, counts.coalesced), (4, 4, 0));
}

#[tokio::test]
async fn a_write_puts_cached_rows_out_of_use() {
    let (store, generation) = cached().await;
    store.inner().leave.add_permits(100);
    assert_eq!(read(&store, &generation, vec![99]).await.unwrap(), [false]);
    let mut writer = store.writer(VIEW, 1, layout(), UPSERT).await.unwrap();
    writer.write(&keys(&[99]), &rows(&[5])).await.unwrap();
    assert_eq!(read(&store, &generation, vec![99]).await.unwrap(), [true]);
}

#[tokio::test]
async fn one_read_fetches_for_all_that_wait() {
    let (store, generation) = cached().await;
    let waiting: Vec<_> = (0..20)
        .map(|i| {
            let (store, generation) = (Arc::clone(&store), Arc::clone(&generation));
            tokio::spawn(async move { read(&store, &generation, vec![1, 99, i % 2]).await })
        })
        .collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    store.inner().leave.add_permits(100);
    for (i, reader) in waiting.into_iter().enumerate() {
        let found = reader.await.unwrap().unwrap();
        assert_eq!(found, [true, false, true], "reader {i}");
    }
    // The first fetched 1, 99 and 0; nobody asked for those again.
    assert_eq!(asked(&store), (1, 3));
    let counts = store.counts();
    assert_eq!(counts.coalesced + counts.hits, 19 * 3);
    assert!(counts.coalesced > 0);
}

#[tokio::test]
async fn a_failed_or_abandoned_fetch_leaves_nobody_waiting() {
    let (store, generation) = cached().await;
    let spawn = |id: i64| {
        let (store, generation) = (Arc::clone(&store), Arc::clone(&generation));
        tokio::spawn(async move { read(&store, &generation, vec![id]).await })
    };
    store.inner().fails.store(true, Ordering::SeqCst);
    let (first, second) = (spawn(4), spawn(4));
    while asked(&store).0 < 1 {
        tokio::task::yield_now().await;
    }
    store.inner().leave.add_permits(2);
    assert!(first.await.unwrap().is_err());
    assert_eq!(second.await.unwrap().unwrap(), [true]);

    let first = spawn(5);
    while asked(&store).0 < 3 {
        tokio::task::yield_now().await;
    }
    let second = spawn(5);
    tokio::task::yield_now().await;
    first.abort();
    store.inner().leave.add_permits(2);
    assert_eq!(second.await.unwrap().unwrap(), [true]);
}
