//! Definitions small enough to read, and a store that fails on demand.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use granary_catalog::{Catalog, Snapshot};
use granary_model::definitions::{
    Column, Entity, FeatureService, PlainView, ServeMode, ServiceFeature,
};
use granary_model::fingerprint::Fingerprint;
use granary_model::{Definitions, FeatureType, FeatureView, ManualClock, UtcMicros, ViewKind};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

pub fn customer() -> Entity {
    Entity {
        name: "customer".into(),
        keys: vec![Column::new("customer_id", FeatureType::BigInt)],
        annotations: Default::default(),
    }
}

/// A view over `clean`; the fingerprint is that of the query.
pub fn view(name: &str, query: &str, features: &[&str]) -> FeatureView {
    FeatureView {
        name: name.into(),
        version: 0,
        fingerprint: Fingerprint::of([query]),
        kind: ViewKind::Timestamped,
        entities: vec!["customer".into()],
        keys: customer().keys,
        event_time: Some("at".into()),
        created_time: None,
        then_by: vec![],
        ttl: None,
        max_events: None,
        refresh_every: None,
        serve: ServeMode::Online,
        query: query.into(),
        features: features
            .iter()
            .map(|f| Column::new(*f, FeatureType::Double))
            .collect(),
        depends_on: vec!["clean".into()],
        current_state: vec![],
        calls_as_of: false,
        live: false,
        windows: Vec::new(),
        annotations: Default::default(),
    }
}

pub fn plain(sql: &str) -> PlainView {
    PlainView {
        name: "clean".into(),
        sql: sql.into(),
        columns: vec![],
        event_time: None,
        depends_on: vec![],
        annotations: Default::default(),
        fingerprint: Fingerprint::of([sql]),
    }
}

pub fn definitions(views: impl IntoIterator<Item = FeatureView>) -> Definitions {
    Definitions {
        entities: [("customer".into(), customer())].into(),
        views: [("clean".into(), plain("SELECT 1"))].into(),
        feature_views: views.into_iter().map(|v| (v.name.clone(), v)).collect(),
        ..Definitions::default()
    }
}

pub fn service(name: &str, features: &[&str]) -> FeatureService {
    FeatureService {
        name: name.into(),
        from: vec![],
        features: features
            .iter()
            .map(|f| ServiceFeature {
                name: (*f).into(),
                view_alias: "spend".into(),
                feature: (*f).into(),
                aggregate: None,
            })
            .collect(),
        annotations: Default::default(),
    }
}

pub const NOW: UtcMicros = UtcMicros(1_750_000_000_000_000);

pub fn catalog(store: Arc<dyn ObjectStore>) -> Catalog {
    Catalog::new(store, Path::from("root"), Arc::new(ManualClock::new(NOW)))
}

/// Commits one state after another on a fresh catalog; gives the last snapshot.
pub async fn history(states: Vec<Definitions>) -> Arc<Snapshot> {
    let catalog = catalog(Arc::new(InMemory::new()));
    let mut last: Option<Arc<Snapshot>> = None;
    for state in states {
        let plan = granary_catalog::Plan::new(last.as_deref(), state);
        last = Some(catalog.commit(&plan, "test").await.unwrap());
    }
    last.unwrap()
}

/// What a [`Flaky`] store does with a put that is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object was written, the answer got lost.
    Written,
    /// Nothing was written.
    NotWritten,
}

/// Fails its first puts, after or without having done them.
#[derive(Debug)]
pub struct Flaky {
    pub inner: Arc<dyn ObjectStore>,
    pub outcome: Outcome,
    pub failures_left: AtomicUsize,
    pub puts: AtomicUsize,
}

impl Flaky {
    pub fn new(inner: Arc<dyn ObjectStore>, outcome: Outcome, failures: usize) -> Self {
        Self {
            inner,
            outcome,
            failures_left: AtomicUsize::new(failures),
            puts: AtomicUsize::new(0),
        }
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flaky({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, at: &Path, body: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        let fails = self
            .failures_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok();
        if fails && self.outcome == Outcome::NotWritten {
            return Err(lost());
        }
        let done = self.inner.put_opts(at, body, how).await;
        if fails { Err(lost()) } else { done }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, how).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, how).await
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "Flaky",
        source: "connection reset".into(),
    }
}
