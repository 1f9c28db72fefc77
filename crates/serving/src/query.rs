//! `SERVE QUERY` views: their compiled look-ups and the read of a group's keys.
//!
//! Rows come from the engine as Arrow and are kept in the row codec's form, so
//! that a cached row is decoded like a stored one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::Schema;
use granary_catalog::Snapshot;
use granary_engine::{Engine, EngineError, QueryLookup};
use granary_model::definitions::{Column, ServeMode};
use granary_model::{FeatureView, Interval, UtcMicros, ViewKind};
use granary_store::{EntityKeys, RowDecoder, RowLayout, RowReader, StoreError};
use tokio::sync::OnceCell;

use crate::error::ServingError;
use crate::query_cache::{CacheKey, QueryCache, StoredRow};
use crate::read::AsOf;
use crate::reader::ReadTime;

/// One version of a view that is computed at request time.
#[derive(Debug)]
pub struct QueryView {
    /// Part of cache keys; the same for the same (view, version) as long as
    /// the process lives.
    id: u64,
    snapshot: Arc<Snapshot>,
    view: FeatureView,
    layout: Arc<RowLayout>,
    lookup: OnceCell<QueryLookup>,
}

impl QueryView {
    pub fn name(&self) -> &str {
        &self.view.name
    }

    pub fn layout(&self) -> &Arc<RowLayout> {
        &self.layout
    }

    /// The look-up, compiled by whoever needs it first; a failure is not kept.
    pub(crate) async fn lookup(&self, engine: &Engine) -> Result<&QueryLookup, EngineError> {
        let definitions = &self.snapshot.definitions;
        self.lookup
            .get_or_try_init(|| QueryLookup::new(engine, definitions, &self.view))
            .await
    }

    fn cache_for(&self) -> Option<Interval> {
        match self.view.serve {
            ServeMode::Query { cache_for } => cache_for,
            _ => None,
        }
    }

    /// Computes the rows of the entities at `entities`, in that order.
    async fn compute(
        &self,
        engine: &Engine,
        arrays: &[ArrayRef],
        entities: Vec<u32>,
        time: ReadTime,
    ) -> Result<Vec<StoredRow>, ServingError> {
        let entities = UInt32Array::from(entities);
        let codec = |e: arrow::error::ArrowError| StoreError::Codec(e.to_string());
        let columns = self
            .view
            .keys
            .iter()
            .zip(arrays)
            .map(|(key, array)| cast(&take(array, &entities, None)?, &key.data_type.to_arrow()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(codec)?;
        let fields: Vec<_> = self.view.keys.iter().map(Column::to_field).collect();
        let asked = EntityKeys::encode(&self.view.keys, &columns)?;
        let keys = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(codec)?;

        let batch = self.lookup(engine).await?.rows(&keys, time.cut).await?;
        let mut found = self.encode(&batch)?;
        let rows = (0..asked.len()).map(|i| StoredRow {
            row: asked.get(i).and_then(|key| found.remove(key)),
            as_of: time.as_of,
        });
        Ok(rows.collect())
    }

    /// Rows by key, in the codec's form.
    fn encode(&self, batch: &RecordBatch) -> Result<RowsByKey, ServingError> {
        let columns = self
            .view
            .keys
            .iter()
            .map(|key| {
                batch.column_by_name(&key.name).cloned().ok_or_else(|| {
                    StoreError::Codec(format!("the look-up gave no column {}", key.name))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let keys = EntityKeys::encode(&self.view.keys, &columns)?;
        let timestamped = self.view.kind == ViewKind::Timestamped;
        let event_time = self.view.event_time.as_deref().filter(|_| timestamped);
        let created_time = self.view.created_time.as_deref().filter(|_| timestamped);
        let rows = self.layout.encode(batch, event_time, created_time)?;
        Ok((0..keys.len())
            .filter_map(|i| Some((keys.get(i)?.into(), rows.get(i).into())))
            .collect())
    }

    /// Reads all entities of a group: from the cache, from a computation that
    /// is under way, or by one look-up for all keys that neither has.
    pub(crate) async fn read(
        &self,
        (engine, cache): (&Engine, &QueryCache),
        (keys, arrays): (&EntityKeys, &[ArrayRef]),
        decoder: &Arc<RowDecoder>,
        time: ReadTime,
    ) -> Result<(RowReader, AsOf), ServingError> {
        let distinct = DistinctKeys::of(keys, self.id, time.shared_cut());
        let keep = self.cache_for();
        let compute = |claimed: Vec<usize>| {
            let entities = claimed.iter().map(|k| distinct.first_entity[*k]).collect();
            self.compute(engine, arrays, entities, time)
        };
        let rows = cache
            .rows(&distinct.cache_keys, time.now, keep, compute)
            .await?;

        let ttl = self.view.ttl.filter(|_| self.layout.event_time);
        let fresh_since = ttl.map(|ttl| ttl.before(time.as_of));
        let mut reader = RowReader::new(decoder, keys.len(), fresh_since);
        let mut times = vec![time.as_of; keys.len()];
        for (entity, key) in distinct.of_entity.iter().enumerate() {
            let Some(stored) = key.map(|k| &rows[k]) else {
                continue;
            };
            times[entity] = stored.as_of;
            if let Some(row) = &stored.row {
                reader.push(entity, row)?;
            }
        }
        let alike = times.iter().all(|t| *t == time.as_of);
        let as_of = if alike {
            AsOf::All(time.as_of)
        } else {
            AsOf::Rows(Arc::new(times))
        };
        Ok((reader, as_of))
    }
}

/// Rows in the codec's form, by encoded key.
type RowsByKey = HashMap<Box<[u8]>, Arc<[u8]>>;

/// The keys of a request, each once.
#[derive(Debug, Default)]
struct DistinctKeys {
    /// View, time and key: see [`DistinctKeys::of`].
    cache_keys: Vec<CacheKey>,
    first_entity: Vec<u32>,
    /// Which of the keys each entity has; `None`: a NULL key.
    of_entity: Vec<Option<usize>>,
}

impl DistinctKeys {
    /// A cache key is the view's id (8 bytes), the time that the row is as of
    /// (8 bytes, the minimum for "now") and the encoded entity key.
    fn of(keys: &EntityKeys, view: u64, cut: Option<UtcMicros>) -> Self {
        let mut distinct = Self::default();
        let mut known: HashMap<&[u8], usize> = HashMap::with_capacity(keys.len());
        for entity in 0..keys.len() {
            let at = keys.get(entity).map(|key| {
                *known.entry(key).or_insert_with(|| {
                    let mut bytes = Vec::with_capacity(16 + key.len());
                    bytes.extend_from_slice(&view.to_le_bytes());
                    bytes.extend_from_slice(&cut.unwrap_or(UtcMicros::MIN).0.to_le_bytes());
                    bytes.extend_from_slice(key);
                    distinct.cache_keys.push(bytes.into());
                    distinct.first_entity.push(entity as u32);
                    distinct.cache_keys.len() - 1
                })
            });
            distinct.of_entity.push(at);
        }
        distinct
    }
}

/// The id that a (view, version) has for good, and its view while plans hold it.
#[derive(Debug)]
struct Known {
    id: u64,
    view: Weak<QueryView>,
}

/// The query views that plans hold, so that a look-up is compiled once a view
/// version and not once a plan.
#[derive(Debug, Default)]
pub struct QueryViews {
    known: Mutex<HashMap<(String, u32), Known>>,
}

impl QueryViews {
    /// The view at its version, as some plan has it, else made anew. A view
    /// whose TTL or CACHE FOR changed has a plan of its own and keeps its
    /// cached rows.
    pub(crate) fn view(&self, snapshot: &Arc<Snapshot>, view: &FeatureView) -> Arc<QueryView> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let next_id = known.len() as u64;
        let entry = known
            .entry((view.name.clone(), view.version))
            .or_insert_with(|| Known {
                id: next_id,
                view: Weak::new(),
            });
        if let Some(held) = entry.view.upgrade()
            && held.view == *view
        {
            return held;
        }
        let made = Arc::new(QueryView {
            id: entry.id,
            snapshot: Arc::clone(snapshot),
            view: view.clone(),
            layout: Arc::new(RowLayout::of(view)),
            lookup: OnceCell::new(),
        });
        entry.view = Arc::downgrade(&made);
        made
    }
}
