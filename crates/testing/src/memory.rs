//! A project in memory: catalog, store and definitions made by hand, for tests
//! of reads that need neither SQL nor files. What goes wrong here is a mistake
//! of the test and panics.

#![allow(clippy::unwrap_used, clippy::panic, reason = "the setup of tests")]

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use granary_catalog::{Catalog, Plan, Snapshot};
use granary_engine::{Engine, EngineSettings};
use granary_model::definitions::{
    Annotations, BoundView, Column, Definitions, Entity, FeatureService, FeatureView, KeyBinding,
    KeySource, ServeMode, ServiceFeature,
};
use granary_model::fingerprint::Fingerprint;
use granary_model::{
    Caller, FeatureStatus, FeatureType, Interval, ManualClock, UtcMicros, ViewKind,
};
use granary_serving::{
    FeatureColumn, ReadRequest, ReadResponse, ReadTarget, Reader, ServingError, ServingSettings,
};
use granary_store::{
    Coverage, EntityKeys, GenerationWriter, MemoryStore, OnlineStore, RowLayout, WriteMode,
};
use object_store::memory::InMemory;
use url::Url;

pub const DAY: i64 = 86_400_000_000;

pub fn day(n: i64) -> UtcMicros {
    UtcMicros(n * DAY)
}

pub fn days(days: i32) -> Interval {
    Interval {
        days,
        ..Interval::ZERO
    }
}

pub fn column(name: &str, data_type: FeatureType) -> Column {
    Column::new(name, data_type)
}

/// A view of one entity, served online; `query` tells one version from another.
pub fn view(
    name: &str,
    kind: ViewKind,
    keys: &[Column],
    features: &[Column],
    query: &str,
) -> FeatureView {
    FeatureView {
        name: name.into(),
        version: 0,
        fingerprint: Fingerprint::of([name, query]),
        kind,
        entities: vec!["customer".into()],
        keys: keys.to_vec(),
        event_time: (kind == ViewKind::Timestamped).then(|| "at".into()),
        created_time: None,
        then_by: Vec::new(),
        ttl: None,
        max_events: None,
        refresh_every: None,
        serve: ServeMode::Online,
        query: query.into(),
        features: features.to_vec(),
        depends_on: Vec::new(),
        current_state: Vec::new(),
        calls_as_of: false,
        live: false,
        windows: Vec::new(),
        annotations: Annotations::default(),
    }
}

pub fn customer_id() -> Column {
    column("customer_id", FeatureType::BigInt)
}

/// `balance` of a customer, timestamped.
pub fn account(query: &str) -> FeatureView {
    let features = [column("balance", FeatureType::Double)];
    view(
        "account",
        ViewKind::Timestamped,
        &[customer_id()],
        &features,
        query,
    )
}

/// `segment` and `balance` of a customer, by snapshots.
pub fn profile() -> FeatureView {
    let features = [
        column("segment", FeatureType::Varchar),
        column("balance", FeatureType::Double),
    ];
    view(
        "profile",
        ViewKind::Snapshot,
        &[customer_id()],
        &features,
        "profile",
    )
}

/// A view in a FROM, its keys by their own names but for the renamed ones.
pub fn bound(alias: &str, view: &FeatureView, renamed: &[(&str, &str)]) -> BoundView {
    let binding = |key: &Column| {
        let other = renamed.iter().find(|(from, _)| *from == key.name);
        let name = other.map_or(key.name.as_str(), |(_, to)| to);
        KeyBinding {
            key: key.clone(),
            source: KeySource::Request(name.into()),
        }
    };
    BoundView {
        alias: alias.into(),
        view: view.name.clone(),
        keys: view.keys.iter().map(binding).collect(),
    }
}

/// Takes a key from a feature of another view of the same FROM.
pub fn key_from(mut bound: BoundView, key: &str, alias: &str, feature: &str) -> BoundView {
    let binding = bound.keys.iter_mut().find(|b| b.key.name == key);
    binding.unwrap().source = KeySource::Feature {
        alias: alias.into(),
        feature: feature.into(),
    };
    bound
}

/// Features as (name, alias of the view, feature).
pub fn service(
    name: &str,
    from: Vec<BoundView>,
    features: &[(&str, &str, &str)],
) -> FeatureService {
    let feature = |(name, alias, feature): &(&str, &str, &str)| ServiceFeature {
        name: (*name).into(),
        view_alias: (*alias).into(),
        feature: (*feature).into(),
        aggregate: None,
    };
    FeatureService {
        name: name.into(),
        from,
        features: features.iter().map(feature).collect(),
        annotations: Annotations::default(),
    }
}

pub fn definitions(views: &[FeatureView], services: &[FeatureService]) -> Definitions {
    let mut d = Definitions::default();
    let customer = Entity {
        name: "customer".into(),
        keys: vec![customer_id()],
        annotations: Annotations::default(),
    };
    d.entities.insert("customer".into(), customer);
    d.feature_views
        .extend(views.iter().map(|v| (v.name.clone(), v.clone())));
    d.services
        .extend(services.iter().map(|s| (s.name.clone(), s.clone())));
    d
}

/// A project whose rows are written straight to the store.
#[derive(Debug)]
pub struct MemoryProject {
    pub clock: Arc<ManualClock>,
    pub catalog: Catalog,
    pub store: Arc<dyn OnlineStore>,
    pub engine: Engine,
}

impl Default for MemoryProject {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryProject {
    /// Empty; it is day 100.
    pub fn new() -> Self {
        Self::over(Arc::new(MemoryStore::default()))
    }

    /// The same with another online store.
    pub fn over(store: Arc<dyn OnlineStore>) -> Self {
        let clock = Arc::new(ManualClock::new(day(100)));
        let objects = Arc::new(InMemory::new());
        let stores = {
            let objects = objects.clone();
            Arc::new(move |_: &Url| Ok(objects.clone() as Arc<dyn object_store::ObjectStore>))
        };
        let root: Url = "memory:///root/".parse().unwrap();
        Self {
            catalog: Catalog::new(objects, "root".into(), clock.clone()),
            store,
            engine: Engine::new(
                EngineSettings::default(),
                root,
                std::env::temp_dir(),
                stores,
                clock.clone(),
            )
            .unwrap(),
            clock,
        }
    }

    pub async fn commit(&self, definitions: Definitions) -> Arc<Snapshot> {
        let base = self.catalog.latest().await.unwrap();
        let plan = Plan::new(base.as_deref(), definitions);
        self.catalog.commit(&plan, "test").await.unwrap()
    }

    pub async fn reader(&self, settings: ServingSettings) -> Result<Reader, ServingError> {
        let store = Arc::clone(&self.store);
        let (engine, catalog) = (self.engine.clone(), self.catalog.clone());
        let store = (store, Arc::default());
        Reader::new(engine, catalog, store, self.clock.clone(), settings).await
    }

    /// Publishes rows as a run as of T; `rows` has the view's columns by name.
    pub async fn publish(&self, view: &FeatureView, rows: &RecordBatch, as_of: UtcMicros) {
        let writer = self.upsert_unpublished(view, rows, as_of).await;
        let coverage = Coverage {
            offline_version: 1,
            as_of,
            ttl: None,
        };
        writer.publish(coverage).await.unwrap();
    }

    /// Publishes a whole run of a windowed view in the place of the one before,
    /// with the row that answers keys of whom nothing happened.
    pub async fn publish_windowed(
        &self,
        view: &FeatureView,
        (rows, empty): (&RecordBatch, &RecordBatch),
        as_of: UtcMicros,
    ) {
        let layout = Arc::new(RowLayout::of(view));
        let (name, version) = (&view.name, view.version);
        let writer = self
            .store
            .writer(name, version, layout.clone(), WriteMode::Create);
        let mut writer = writer.await.unwrap();
        write_rows(writer.as_mut(), view, rows).await;
        let empty = layout.encode(empty, None, None).unwrap();
        writer.write_default(empty.get(0)).await.unwrap();
        let coverage = Coverage {
            offline_version: 1,
            as_of,
            ttl: None,
        };
        writer.publish(coverage).await.unwrap();
    }

    /// Like [`publish`](Self::publish), up to the publication: of an upsert the
    /// rows are seen.
    pub async fn upsert_unpublished(
        &self,
        view: &FeatureView,
        rows: &RecordBatch,
        as_of: UtcMicros,
    ) -> Box<dyn GenerationWriter> {
        let layout = Arc::new(RowLayout::of(view));
        let (name, version) = (&view.name, view.version);
        let published = self.store.generation(name, version).await.unwrap();
        let mode = match published {
            Some(_) => WriteMode::Upsert { up_to: as_of },
            None => WriteMode::Create,
        };
        let writer = self.store.writer(name, version, layout, mode);
        let mut writer = writer.await.unwrap();
        write_rows(writer.as_mut(), view, rows).await;
        writer
    }
}

/// `rows` has the view's columns by name.
async fn write_rows(writer: &mut dyn GenerationWriter, view: &FeatureView, rows: &RecordBatch) {
    let keys: Vec<ArrayRef> = view
        .keys
        .iter()
        .map(|k| rows.column_by_name(&k.name).unwrap().clone())
        .collect();
    let keys = EntityKeys::encode(&view.keys, &keys).unwrap();
    let layout = RowLayout::of(view);
    let event_time = view.event_time.as_deref().filter(|_| layout.event_time);
    let encoded = layout.encode(rows, event_time, None).unwrap();
    writer.write(&keys, &encoded).await.unwrap();
}

/// Rows of `account`: customer, event time, balance.
pub fn account_rows(rows: &[(i64, UtcMicros, Option<f64>)]) -> RecordBatch {
    let times = rows.iter().map(|(_, t, _)| t.0);
    batch(&[
        (
            "customer_id",
            ints(&rows.iter().map(|r| Some(r.0)).collect::<Vec<_>>()),
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
        ),
        (
            "balance",
            doubles(&rows.iter().map(|r| r.2).collect::<Vec<_>>()),
        ),
    ])
}

/// Rows of `profile`: customer, segment, balance.
pub fn profile_rows(rows: &[(i64, Option<&str>, Option<f64>)]) -> RecordBatch {
    batch(&[
        (
            "customer_id",
            ints(&rows.iter().map(|r| Some(r.0)).collect::<Vec<_>>()),
        ),
        (
            "segment",
            texts(&rows.iter().map(|r| r.1).collect::<Vec<_>>()),
        ),
        (
            "balance",
            doubles(&rows.iter().map(|r| r.2).collect::<Vec<_>>()),
        ),
    ])
}

pub fn batch(columns: &[(&str, ArrayRef)]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns
            .iter()
            .map(|(name, array)| (*name, array.clone(), true)),
    )
    .unwrap()
}

pub fn ints(values: &[Option<i64>]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub fn doubles(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

pub fn texts(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// Keys of customers; `None` is NULL.
pub fn customers(ids: &[Option<i64>]) -> RecordBatch {
    batch(&[("customer_id", ints(ids))])
}

pub fn from_service(name: &str, keys: RecordBatch) -> ReadRequest {
    request(ReadTarget::Service(name.into()), keys)
}

pub fn from_list(list: &[&str], keys: RecordBatch) -> ReadRequest {
    let list = list.iter().map(|f| (*f).into()).collect();
    request(ReadTarget::Features(list), keys)
}

fn request(target: ReadTarget, keys: RecordBatch) -> ReadRequest {
    ReadRequest {
        caller: Caller::named("test"),
        target,
        keys,
        inputs: Vec::new(),
        request_events: Vec::new(),
        as_of: None,
        strictly_before: false,
        full_names: false,
    }
}

pub fn names(response: &ReadResponse) -> Vec<&str> {
    response.features.iter().map(|f| &*f.name).collect()
}

/// One letter a status: Present, Null, Missing, Old.
pub fn statuses(column: &FeatureColumn) -> String {
    let letter = |status: &FeatureStatus| match status {
        FeatureStatus::Present => 'P',
        FeatureStatus::NullValue => 'N',
        FeatureStatus::NotFound => 'M',
        FeatureStatus::OutsideMaxAge => 'O',
    };
    column.statuses.iter().map(letter).collect()
}

/// What reading is refused with.
pub async fn refusal(reader: &Reader, request: ReadRequest) -> ServingError {
    match reader.read(request).await {
        Ok(response) => panic!("answered: {response:?}"),
        Err(error) => error,
    }
}
