//! The embedded store by itself: encoding, bulk append, upsert, random reads.
//!
//! 1,000,000 rows of 10 DOUBLEs under a BIGINT key. `cargo bench -p
//! granary-benches --bench store`.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use granary_benches as _;
use granary_model::definitions::Column;
use granary_model::types::UTC;
use granary_model::{FeatureType, UtcMicros};
use granary_store::{
    Coverage, EmbeddedSettings, EmbeddedStore, EncodedRows, EntityKeys, Generation, OnlineStore,
    RowDecoder, RowLayout, RowReader, RowSink, WriteMode,
};
use tokio::runtime::Runtime;

const ROWS: i64 = 1_000_000;
const BATCH: i64 = 8_192;
const FEATURES: usize = 10;
const VIEW: &str = "customer_balance";

fn layout() -> Arc<RowLayout> {
    let features = (0..FEATURES)
        .map(|f| Column::new(format!("f{f}"), FeatureType::Double))
        .collect();
    Arc::new(RowLayout {
        event_time: true,
        created_time: false,
        features,
    })
}

fn keys(ids: &[i64]) -> EntityKeys {
    let array: ArrayRef = Arc::new(Int64Array::from(ids.to_vec()));
    EntityKeys::encode(&[Column::new("customer_id", FeatureType::BigInt)], &[array])
        .expect("BIGINT keys")
}

/// Rows of these keys at one event time.
fn batch(ids: &[i64], at: i64) -> RecordBatch {
    let times: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![at; ids.len()]).with_timezone(UTC));
    let mut columns = vec![("at".to_owned(), times)];
    for f in 0..FEATURES {
        let values = ids.iter().map(|id| (*id * 31 + f as i64) as f64);
        let array: ArrayRef = Arc::new(Float64Array::from_iter_values(values));
        columns.push((format!("f{f}"), array));
    }
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

fn rows(ids: &[i64], at: i64) -> EncodedRows {
    layout()
        .encode(&batch(ids, at), Some("at"), None)
        .expect("rows of the layout")
}

/// All batches, in key order, encoded.
fn encoded() -> Vec<(EntityKeys, EncodedRows)> {
    (0..ROWS)
        .step_by(BATCH as usize)
        .map(|from| {
            let ids: Vec<i64> = (from..(from + BATCH).min(ROWS)).collect();
            (keys(&ids), rows(&ids, 1))
        })
        .collect()
}

fn open(folder: &Path) -> EmbeddedStore {
    EmbeddedStore::open(folder, EmbeddedSettings::default()).expect("a store")
}

const UPSERT: WriteMode = WriteMode::Upsert {
    up_to: UtcMicros(1),
};

async fn fill(store: &EmbeddedStore, mode: WriteMode, batches: &[(EntityKeys, EncodedRows)]) {
    let coverage = Coverage {
        as_of: UtcMicros(1),
        ..Coverage::default()
    };
    let mut writer = store
        .writer(VIEW, 1, layout(), mode)
        .await
        .expect("a writer");
    for (keys, rows) in batches {
        writer.write(keys, rows).await.expect("written");
    }
    writer.publish(coverage).await.expect("published");
}

/// Keys in no order, of which none repeats soon.
fn random_ids(n: usize, seed: u64) -> Vec<i64> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % ROWS as u64) as i64
        })
        .collect()
}

/// Looks at the rows and forgets them.
struct Looked(usize);

impl RowSink for Looked {
    fn row(&mut self, _: usize, _: usize, row: &[u8]) {
        self.0 += usize::from(row[9]) + 1;
    }
}

struct Decoder(RowReader);

impl RowSink for Decoder {
    fn row(&mut self, _: usize, entity: usize, row: &[u8]) {
        self.0.push(entity, row).expect("a whole row");
    }
}

fn encode(criterion: &mut Criterion) {
    let ids: Vec<i64> = (0..BATCH).collect();
    let batch = batch(&ids, 1);
    let layout = layout();
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("rows", |b| {
        b.iter(|| {
            layout
                .encode(black_box(&batch), Some("at"), None)
                .expect("rows")
        });
    });
    group.bench_function("keys", |b| b.iter(|| keys(black_box(&ids))));
    group.finish();
}

fn write(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let batches = encoded();
    let mut group = criterion.benchmark_group("write");
    group.sample_size(10);
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("create_in_key_order", |b| {
        b.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let folder = tempfile::tempdir().expect("a folder");
                let store = open(folder.path());
                let start = Instant::now();
                runtime.block_on(fill(&store, WriteMode::Create, &batches));
                spent += start.elapsed();
            }
            spent
        });
    });
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    runtime.block_on(fill(&store, WriteMode::Create, &batches));
    let mut at = 1;
    group.throughput(Throughput::Elements(100_000));
    group.bench_function("upsert_100k_random", |b| {
        b.iter(|| {
            at += 1;
            let ids = random_ids(100_000, at as u64);
            let batch = [(keys(&ids), rows(&ids, at))];
            runtime.block_on(fill(&store, UPSERT, &batch));
        });
    });
    group.finish();
}

fn read(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    runtime.block_on(fill(&store, WriteMode::Create, &encoded()));
    let generation: Arc<dyn Generation> = runtime
        .block_on(store.generation(VIEW, 1))
        .expect("readable")
        .expect("published");
    let pinned = [generation];
    let mut group = criterion.benchmark_group("read");
    for entities in [1_usize, 10, 100, 1_000] {
        let asked: Vec<EntityKeys> = (0..1_000)
            .map(|i| keys(&random_ids(entities, i * 7919)))
            .collect();
        group.throughput(Throughput::Elements(entities as u64));
        let mut next = 0;
        group.bench_function(BenchmarkId::new("rows", entities), |b| {
            b.iter(|| {
                next = (next + 1) % asked.len();
                let mut sink = Looked(0);
                let read = store.read(&asked[next], &pinned, &mut sink);
                futures::executor::block_on(read).expect("read");
                black_box(sink.0)
            });
        });
        group.bench_function(BenchmarkId::new("decoded", entities), |b| {
            b.iter(|| {
                next = (next + 1) % asked.len();
                let projection = (0..FEATURES).collect();
                let decoder = RowDecoder::new(pinned[0].layout(), projection);
                let mut sink = Decoder(RowReader::new(&decoder, entities, None));
                let read = store.read(&asked[next], &pinned, &mut sink);
                futures::executor::block_on(read).expect("read");
                sink.0.finish().expect("decoded")
            });
        });
    }
    group.bench_function("state", |b| b.iter(|| black_box(pinned[0].state())));
    group.bench_function("refresh", |b| {
        b.iter(|| futures::executor::block_on(store.refresh()).expect("refreshed"));
    });
    group.finish();
}

criterion_group!(benches, encode, write, read);
criterion_main!(benches);
