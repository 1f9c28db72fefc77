//! The conformance suite can fail: stores that break one promise each fail it.

use std::sync::Arc;

use async_trait::async_trait;
use granary_model::UtcMicros;
use granary_store::conformance::{PROPERTIES, run};
use granary_store::{
    Coverage, EncodedRows, EntityKeys, Generation, GenerationState, GenerationWriter, MemoryStore,
    OnlineStore, RowLayout, RowSink, StoreError, UpsertSummary, WriteMode,
};

/// The promise that a store breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Of a batch only the first half is kept.
    LosesRows,
    /// Upserts make a generation of their own.
    ForgetsOnUpsert,
    /// What is pinned moves to what is published.
    NoPin,
    /// Rows are seen before publication.
    PublishesAtOnce,
    /// A NULL key is the empty one.
    ReadsOtherKey,
    NeverSweeps,
    SweepsOneTooMany,
    NeverRefreshes,
    AlwaysRefreshes,
    NeverDrops,
    /// Coverage stays what it was.
    ForgetsCoverage,
    /// Rows of an upsert pass for older ones until they are published.
    HidesUpserts,
    /// The second generation of a read is left out.
    ReadsOneGeneration,
    /// Any layout will do.
    TakesAnyLayout,
    /// Keys without a row have none.
    ForgetsDefaults,
    /// A NULL key has the row of everybody else.
    DefaultsNullKeys,
    /// What was bundled is there no more.
    BundlesAway,
    /// Default rows are lost by it.
    BundlesNoDefaults,
}

#[derive(Debug, Clone)]
struct Mutant {
    inner: MemoryStore,
    broken: Broken,
}

impl Mutant {
    fn is(&self, broken: Broken) -> bool {
        self.broken == broken
    }
}

#[async_trait]
impl OnlineStore for Mutant {
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
        let mut generations = generations.to_vec();
        if self.is(Broken::NoPin) {
            for held in &mut generations {
                let id = held.state().id;
                if let Some(now) = self.inner.generation(&id.view, id.version).await? {
                    *held = now;
                }
            }
        }
        if self.is(Broken::ReadsOneGeneration) {
            generations.truncate(1);
        }
        let other: EntityKeys = match self.broken {
            Broken::DefaultsNullKeys => keys.iter().map(|k| Some(k.unwrap_or(b"?"))).collect(),
            Broken::ReadsOtherKey => keys
                .iter()
                .map(|key| Some(key.unwrap_or(b"\x80\0\0\0\0\0\0\0")))
                .collect(),
            _ => keys.clone(),
        };
        self.inner.read(&other, &generations, sink).await
    }

    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Box<dyn GenerationWriter>, StoreError> {
        let mut layout = layout;
        let published = self.inner.generation(view, version).await?;
        if self.is(Broken::TakesAnyLayout)
            && mode != WriteMode::Create
            && let Some(generation) = &published
        {
            layout = Arc::clone(generation.layout());
        }
        let mode = match (self.broken, &published) {
            (Broken::ForgetsOnUpsert, Some(_)) => WriteMode::Create,
            (Broken::HidesUpserts, Some(_)) if mode != WriteMode::Create => WriteMode::Upsert {
                up_to: UtcMicros::MIN,
            },
            _ => mode,
        };
        let mut inner = self
            .inner
            .writer(view, version, Arc::clone(&layout), mode)
            .await?;
        if self.is(Broken::PublishesAtOnce) && mode == WriteMode::Create {
            inner.publish(Coverage::default()).await?;
            inner = self
                .inner
                .writer(
                    view,
                    version,
                    layout,
                    WriteMode::Upsert {
                        up_to: UtcMicros::MIN,
                    },
                )
                .await?;
        }
        Ok(Box::new(MutantWriter {
            inner,
            broken: self.broken,
        }))
    }

    async fn sweep(&self, view: &str, version: u32, older: UtcMicros) -> Result<u64, StoreError> {
        match self.broken {
            Broken::NeverSweeps => Ok(0),
            Broken::SweepsOneTooMany => {
                let older = UtcMicros(older.0.saturating_add(1));
                self.inner.sweep(view, version, older).await
            }
            _ => self.inner.sweep(view, version, older).await,
        }
    }

    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        if self.is(Broken::NeverDrops) {
            return Ok(());
        }
        self.inner.drop_version(view, version).await
    }

    async fn bundle(&self, views: &[(String, u32)]) -> Result<bool, StoreError> {
        for (view, version) in views {
            let Some(held) = self.inner.generation(view, *version).await? else {
                continue;
            };
            match self.broken {
                Broken::BundlesAway => self.inner.drop_version(view, *version).await?,
                Broken::BundlesNoDefaults => {
                    let layout = Arc::clone(held.layout());
                    let writer = self.inner.writer(view, *version, layout, WriteMode::Create);
                    writer.await?.publish(held.state().coverage).await?;
                }
                _ => {}
            }
        }
        Ok(false)
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        let changed = self.inner.refresh().await?;
        Ok(match self.broken {
            Broken::NeverRefreshes => false,
            Broken::AlwaysRefreshes => true,
            _ => changed,
        })
    }
}

struct MutantWriter {
    inner: Box<dyn GenerationWriter>,
    broken: Broken,
}

#[async_trait]
impl GenerationWriter for MutantWriter {
    async fn write(
        &mut self,
        keys: &EntityKeys,
        rows: &EncodedRows,
    ) -> Result<UpsertSummary, StoreError> {
        if self.broken == Broken::LosesRows && keys.len() == rows.len() {
            let half: Vec<usize> = (0..keys.len().div_ceil(2)).collect();
            let rows: EncodedRows = half.iter().map(|row| rows.get(*row)).collect();
            return self.inner.write(&keys.gather(&half), &rows).await;
        }
        self.inner.write(keys, rows).await
    }

    async fn write_default(&mut self, row: &[u8]) -> Result<(), StoreError> {
        if self.broken == Broken::ForgetsDefaults {
            return Ok(());
        }
        self.inner.write_default(row).await
    }

    async fn publish(self: Box<Self>, coverage: Coverage) -> Result<GenerationState, StoreError> {
        let coverage = match self.broken {
            Broken::ForgetsCoverage => Coverage::default(),
            _ => coverage,
        };
        self.inner.publish(coverage).await
    }
}

/// Names of the properties that a store fails.
async fn failures(broken: Broken) -> Vec<&'static str> {
    let mut failed = Vec::new();
    for (name, _) in PROPERTIES {
        let store = Arc::new(Mutant {
            inner: MemoryStore::new(),
            broken,
        });
        if tokio::spawn(run(name, store)).await.is_err() {
            failed.push(*name);
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_promise_fails_the_suite() {
    assert_eq!(failures(Broken::Nothing).await, Vec::<&str>::new());
    for broken in [
        Broken::LosesRows,
        Broken::ForgetsOnUpsert,
        Broken::NoPin,
        Broken::PublishesAtOnce,
        Broken::ReadsOtherKey,
        Broken::NeverSweeps,
        Broken::SweepsOneTooMany,
        Broken::NeverRefreshes,
        Broken::AlwaysRefreshes,
        Broken::NeverDrops,
        Broken::ForgetsCoverage,
        Broken::HidesUpserts,
        Broken::ReadsOneGeneration,
        Broken::TakesAnyLayout,
        Broken::ForgetsDefaults,
        Broken::DefaultsNullKeys,
        Broken::BundlesAway,
        Broken::BundlesNoDefaults,
    ] {
        let failed = failures(broken).await;
        assert!(!failed.is_empty(), "{broken:?} passes the suite");
    }
}
