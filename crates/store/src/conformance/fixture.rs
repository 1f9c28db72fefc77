//! Rows, keys and reads for the properties.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use granary_model::definitions::Column;
use granary_model::types::UTC;
use granary_model::{FeatureType, UtcMicros};

use crate::codec::{RowDecoder, RowLayout, RowReader};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::online::{
    Coverage, Generation, GenerationState, GenerationWriter, OnlineStore, RowSink, WriteMode,
};
use crate::rows::EncodedRows;

pub(super) type Store = Arc<dyn OnlineStore>;
pub(super) type Outcome = Result<(), StoreError>;

pub(super) const VIEW: &str = "customer_balance";
pub(super) const VERSION: u32 = 1;

/// Event time, created time, a DOUBLE and a VARCHAR.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fact {
    pub(super) at: i64,
    pub(super) written_at: Option<i64>,
    pub(super) amount: Option<f64>,
    pub(super) note: Option<&'static str>,
}

/// A fact without a created time, with this amount.
pub(super) fn fact(at: i64, amount: f64) -> Fact {
    Fact {
        at,
        written_at: None,
        amount: Some(amount),
        note: Some("x"),
    }
}

/// The layout of [`Fact`]s.
pub(super) fn layout() -> Arc<RowLayout> {
    Arc::new(RowLayout {
        event_time: true,
        created_time: true,
        features: vec![
            Column::new("amount", FeatureType::Double),
            Column::new("note", FeatureType::Varchar),
        ],
    })
}

pub(super) fn rows(facts: &[Fact]) -> Result<EncodedRows, StoreError> {
    let times = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone(UTC))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("at", times(facts.iter().map(|f| Some(f.at)).collect())),
        (
            "written_at",
            times(facts.iter().map(|f| f.written_at).collect()),
        ),
        (
            "amount",
            Arc::new(facts.iter().map(|f| f.amount).collect::<Float64Array>()),
        ),
        (
            "note",
            Arc::new(facts.iter().map(|f| f.note).collect::<StringArray>()),
        ),
    ];
    layout().encode(&batch(columns)?, Some("at"), Some("written_at"))
}

pub(super) fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch, StoreError> {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
        .map_err(|e| StoreError::Codec(e.to_string()))
}

/// Keys of one BIGINT column.
pub(super) fn keys(values: &[i64]) -> EntityKeys {
    nullable_keys(&values.iter().copied().map(Some).collect::<Vec<_>>())
}

pub(super) fn nullable_keys(values: &[Option<i64>]) -> EntityKeys {
    let array: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
    encode(&[("customer_id", FeatureType::BigInt)], &[array])
}

pub(super) fn encode(columns: &[(&str, FeatureType)], arrays: &[ArrayRef]) -> EntityKeys {
    let columns: Vec<Column> = columns
        .iter()
        .map(|(name, data_type)| Column::new(*name, data_type.clone()))
        .collect();
    match EntityKeys::encode(&columns, arrays) {
        Ok(keys) => keys,
        Err(error) => panic!("the suite's own keys: {error}"),
    }
}

pub(super) fn coverage(offline_version: u64) -> Coverage {
    Coverage {
        offline_version,
        as_of: UtcMicros(1_000_000 + offline_version as i64),
        ..Coverage::default()
    }
}

/// What [`upsert`] writes with.
pub(super) const UPSERT: WriteMode = WriteMode::Upsert {
    up_to: UtcMicros(1_000_002),
};

pub(super) async fn writer(
    store: &Store,
    mode: WriteMode,
) -> Result<Box<dyn GenerationWriter>, StoreError> {
    store.writer(VIEW, VERSION, layout(), mode).await
}

/// Creates and publishes a generation of (key, fact).
pub(super) async fn publish(
    store: &Store,
    facts: &[(i64, Fact)],
) -> Result<GenerationState, StoreError> {
    let mut writer = writer(store, WriteMode::Create).await?;
    write(&mut writer, facts).await?;
    writer.publish(coverage(1)).await
}

pub(super) async fn upsert(
    store: &Store,
    facts: &[(i64, Fact)],
) -> Result<GenerationState, StoreError> {
    let mut writer = writer(store, UPSERT).await?;
    write(&mut writer, facts).await?;
    writer.publish(coverage(2)).await
}

pub(super) async fn write(
    writer: &mut Box<dyn GenerationWriter>,
    facts: &[(i64, Fact)],
) -> Result<crate::UpsertSummary, StoreError> {
    let (ids, facts): (Vec<i64>, Vec<Fact>) = facts.iter().copied().unzip();
    writer.write(&keys(&ids), &rows(&facts)?).await
}

/// What is published, or a panic.
pub(super) async fn pinned(store: &Store) -> Result<Arc<dyn Generation>, StoreError> {
    let generation = store.generation(VIEW, VERSION).await?;
    let Some(generation) = generation else {
        panic!("nothing is published for {VIEW} version {VERSION}");
    };
    Ok(generation)
}

/// Collects a read: by generation, by entity.
struct Collector {
    found: Vec<Vec<Option<Vec<u8>>>>,
}

impl RowSink for Collector {
    fn row(&mut self, generation: usize, entity: usize, row: &[u8]) {
        let place = &mut self.found[generation][entity];
        assert!(
            place.is_none(),
            "({generation}, {entity}) is reported twice"
        );
        *place = Some(row.to_vec());
    }
}

pub(super) async fn read_all(
    store: &Store,
    keys: &EntityKeys,
    generations: &[Arc<dyn Generation>],
) -> Result<Vec<Vec<Option<Vec<u8>>>>, StoreError> {
    let mut sink = Collector {
        found: vec![vec![None; keys.len()]; generations.len()],
    };
    store.read(keys, generations, &mut sink).await?;
    Ok(sink.found)
}

pub(super) async fn read(
    store: &Store,
    keys: &EntityKeys,
    generation: &Arc<dyn Generation>,
) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
    Ok(read_all(store, keys, std::slice::from_ref(generation))
        .await?
        .remove(0))
}

/// The amounts of some keys in what is published now; `None` for no row.
pub(super) async fn amounts(store: &Store, ids: &[i64]) -> Result<Vec<Option<f64>>, StoreError> {
    let generation = pinned(store).await?;
    amounts_in(store, ids, &generation).await
}

pub(super) async fn amounts_in(
    store: &Store,
    ids: &[i64],
    generation: &Arc<dyn Generation>,
) -> Result<Vec<Option<f64>>, StoreError> {
    use arrow::array::{Array, AsArray};
    let keys = keys(ids);
    let mut reader = RowReader::new(
        &RowDecoder::new(generation.layout(), vec![0]),
        ids.len(),
        None,
    );
    for (entity, row) in read(store, &keys, generation).await?.iter().enumerate() {
        if let Some(row) = row {
            reader.push(entity, row)?;
        }
    }
    let decoded = reader.finish()?;
    let values = decoded.values[0].as_primitive::<arrow::datatypes::Float64Type>();
    Ok((0..ids.len())
        .map(|row| values.is_valid(row).then(|| values.value(row)))
        .collect())
}

/// Numbers 0..n in a fixed, mixed order.
pub(super) fn shuffled(n: usize, seed: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = seed as u64 | 1;
    for i in (1..n).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}
