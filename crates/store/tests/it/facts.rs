//! Rows of one DOUBLE under one BIGINT key, and a few verbs over them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::Float64Type;
use granary_model::definitions::Column;
use granary_model::types::UTC;
use granary_model::{FeatureType, UtcMicros};
use granary_store::{
    Coverage, EmbeddedSettings, EmbeddedStore, EncodedRows, EntityKeys, Generation,
    GenerationState, GenerationWriter, OnlineStore, RowDecoder, RowLayout, RowReader, RowSink,
    StoreError, WriteMode,
};

pub const VIEW: &str = "customer_balance";

/// What [`fill`] mostly upserts with.
pub const UPSERT: WriteMode = WriteMode::Upsert {
    up_to: UtcMicros(2),
};

/// A key's row: the amount is its event time, so that a torn row is seen.
pub type Fact = (i64, i64);

pub fn layout() -> Arc<RowLayout> {
    Arc::new(RowLayout {
        event_time: true,
        created_time: false,
        features: vec![Column::new("amount", FeatureType::Double)],
    })
}

pub fn keys(ids: &[i64]) -> EntityKeys {
    let array: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    EntityKeys::encode(&[Column::new("customer_id", FeatureType::BigInt)], &[array]).unwrap()
}

pub fn rows(times: &[i64]) -> EncodedRows {
    let at: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone(UTC));
    let amount: ArrayRef = Arc::new(Float64Array::from_iter_values(
        times.iter().map(|t| *t as f64),
    ));
    let batch = RecordBatch::try_from_iter([("at", at), ("amount", amount)]).unwrap();
    layout().encode(&batch, Some("at"), None).unwrap()
}

pub fn coverage(offline_version: u64) -> Coverage {
    Coverage {
        offline_version,
        as_of: UtcMicros(offline_version as i64),
        ..Coverage::default()
    }
}

pub fn open(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(folder, EmbeddedSettings::default()).unwrap()
}

/// The same with changes that are many from the first on that are an eighth of
/// the rows.
pub fn merging(folder: &Path) -> EmbeddedStore {
    let settings = EmbeddedSettings {
        changes_rows_min: 0,
        ..EmbeddedSettings::default()
    };
    EmbeddedStore::open(folder, settings).unwrap()
}

/// Where the rows of a generation are.
pub fn base(folder: &Path, number: u64) -> PathBuf {
    version_folder(folder).join(format!("g{number}.rows"))
}

/// Where what changed in a generation is.
pub fn changes(folder: &Path, number: u64) -> PathBuf {
    version_folder(folder).join(format!("g{number}.mdb"))
}

pub fn version_folder(folder: &Path) -> PathBuf {
    folder.join(VIEW).join("v1")
}

pub async fn writer(
    store: &EmbeddedStore,
    mode: WriteMode,
) -> Result<Box<dyn GenerationWriter>, StoreError> {
    store.writer(VIEW, 1, layout(), mode).await
}

/// Writes in batches and publishes.
pub async fn fill(
    store: &EmbeddedStore,
    mode: WriteMode,
    facts: &[Fact],
    batch: usize,
    version: u64,
) -> Result<GenerationState, StoreError> {
    let mut writer = writer(store, mode).await?;
    for facts in facts.chunks(batch) {
        let (ids, times): (Vec<i64>, Vec<i64>) = facts.iter().copied().unzip();
        writer.write(&keys(&ids), &rows(&times)).await?;
    }
    writer.publish(coverage(version)).await
}

pub async fn pinned(store: &EmbeddedStore) -> Option<Arc<dyn Generation>> {
    store.generation(VIEW, 1).await.unwrap()
}

struct Rows(Vec<Option<Vec<u8>>>);

impl RowSink for Rows {
    fn row(&mut self, _generation: usize, entity: usize, row: &[u8]) {
        self.0[entity] = Some(row.to_vec());
    }
}

/// Event times of some keys; panics on a torn row.
pub async fn times(
    store: &EmbeddedStore,
    generation: &Arc<dyn Generation>,
    ids: &[i64],
) -> Vec<Option<i64>> {
    let mut found = Rows(vec![None; ids.len()]);
    store
        .read(&keys(ids), std::slice::from_ref(generation), &mut found)
        .await
        .unwrap();
    let mut reader = RowReader::new(
        &RowDecoder::new(generation.layout(), vec![0]),
        ids.len(),
        None,
    );
    for (entity, row) in found.0.iter().enumerate() {
        if let Some(row) = row {
            reader.push(entity, row).unwrap();
        }
    }
    let decoded = reader.finish().unwrap();
    let amounts = decoded.values[0].as_primitive::<Float64Type>();
    decoded
        .event_times
        .unwrap()
        .into_iter()
        .enumerate()
        .map(|(entity, time)| {
            let time = time?.0;
            assert!(amounts.is_valid(entity));
            assert_eq!(amounts.value(entity), time as f64, "a torn row");
            Some(time)
        })
        .collect()
}
