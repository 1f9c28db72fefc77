//! How often a read takes memory, which a machine's noise does not change:
//! from the bytes of a request to those of its answer, without the transport.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, TimestampMicrosecondArray};
use futures::FutureExt;
use granary_model::definitions::Column;
use granary_model::{Caller, FeatureType, ViewKind};
use granary_proto as pb;
use granary_proto::{columns, get_features_request};
use granary_serving::{Reader, ServingSettings};
use granary_store::{EmbeddedSettings, EmbeddedStore};
use granary_testing::memory::{
    MemoryProject, batch, bound, customer_id, day, definitions, doubles, ints, service, texts, view,
};
use prost::Message;

use crate::answer::Encoded;
use crate::metrics::StatusCounts;
use crate::wire;

/// The system's allocator, which counts for each thread.
struct Counting;

thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // None is left when the thread ends.
    let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
}

#[allow(unsafe_code, reason = "what an allocator is made of")]
// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller of this function promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller of this function promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, taken: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller of this function promises.
        unsafe { System.realloc(taken, layout, size) }
    }

    unsafe fn dealloc(&self, taken: *mut u8, layout: Layout) {
        // SAFETY: as the caller of this function promises.
        unsafe { System.dealloc(taken, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const VIEWS: usize = 5;
const CUSTOMERS: i64 = 1_000;

/// Ten features of mixed types, some of them NULL.
fn features() -> Vec<Column> {
    let double = |n: usize| Column::new(format!("double{n}"), FeatureType::Double);
    let bigint = |n: usize| Column::new(format!("bigint{n}"), FeatureType::BigInt);
    let mut all: Vec<Column> = (0..4).map(double).chain((0..3).map(bigint)).collect();
    all.push(Column::new("good", FeatureType::Boolean));
    all.push(Column::new("seen", FeatureType::Timestamp));
    all.push(Column::new("segment", FeatureType::Varchar));
    all
}

/// Five views of ten features, and a service of them all.
async fn reader(folder: &std::path::Path) -> Reader {
    let store = EmbeddedStore::open(folder, EmbeddedSettings::default()).unwrap();
    let project = MemoryProject::over(Arc::new(store));
    let views: Vec<_> = (0..VIEWS)
        .map(|n| {
            let name = format!("view{n}");
            view(
                &name,
                ViewKind::Timestamped,
                &[customer_id()],
                &features(),
                "",
            )
        })
        .collect();
    let from = views
        .iter()
        .map(|view| bound(&view.name, view, &[]))
        .collect();
    let names: Vec<(String, &str, String)> = { views.iter() }
        .flat_map(|view| {
            let names = view.features.iter();
            names.map(|f| {
                (
                    format!("{}_{}", view.name, f.name),
                    &*view.name,
                    f.name.clone(),
                )
            })
        })
        .collect();
    let selected: Vec<_> = names.iter().map(|(n, v, f)| (&**n, *v, &**f)).collect();
    let wide = service("wide", from, &selected);
    let snapshot = project.commit(definitions(&views, &[wide])).await;
    let ids = 0..CUSTOMERS;
    let numbers: Vec<Option<i64>> = { ids.clone() }
        .map(|n| (n % 10 > 0).then_some(n * n))
        .collect();
    let reals: Vec<Option<f64>> = numbers.iter().map(|n| n.map(|n| n as f64 / 7.0)).collect();
    let words: Vec<String> = { ids.clone() }
        .map(|n| format!("segment {}", n % 7))
        .collect();
    let words: Vec<Option<&str>> = words.iter().map(|word| Some(word.as_str())).collect();
    let time = TimestampMicrosecondArray::from_iter_values(ids.clone().map(|n| day(90).0 + n));
    let time: ArrayRef = Arc::new(time.with_timezone("UTC"));
    let good: BooleanArray = ids.clone().map(|n| Some(n % 3 == 0)).collect();
    for view in snapshot.definitions.feature_views.values() {
        let key: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
        let columns = view.features.iter().map(|feature| {
            let values = match feature.data_type {
                FeatureType::Double => doubles(&reals),
                FeatureType::BigInt => ints(&numbers),
                FeatureType::Boolean => Arc::new(good.clone()),
                FeatureType::Timestamp => time.clone(),
                _ => texts(&words),
            };
            (feature.name.as_str(), values)
        });
        let keyed = [("customer_id", key), ("at", time.clone())];
        let rows: Vec<_> = keyed.into_iter().chain(columns).collect();
        project.publish(view, &batch(&rows), day(99)).await;
    }
    project.reader(ServingSettings::default()).await.unwrap()
}

fn request(entities: i64) -> Vec<u8> {
    let keys = ints(&(0..entities).map(|n| Some(n * 7)).collect::<Vec<_>>());
    let request = pb::GetFeaturesRequest {
        target: Some(get_features_request::Target::Service("wide".to_owned())),
        keys: vec![columns::encode_column("customer_id", &keys).unwrap()],
        ..pb::GetFeaturesRequest::default()
    };
    request.encode_to_vec()
}

fn read(reader: &Reader, request: &[u8], caller: Caller) -> Encoded {
    let request = pb::GetFeaturesRequest::decode(request).unwrap();
    let (read, form) = wire::decode(request, caller).unwrap();
    // Rows of the embedded store are there at once.
    let answer = reader.answer(&read).now_or_never().unwrap().unwrap();
    wire::encode(answer, &form, &mut StatusCounts::default()).unwrap()
}

/// The numbers are what they were when the test was last changed; a lower one is
/// to be written down here.
#[tokio::test]
async fn a_read_takes_memory_so_often() {
    let folder = tempfile::tempdir().unwrap();
    let reader = reader(folder.path()).await;
    let caller = Caller::named("test");
    for (entities, most) in [(1, 37), (100, 47)] {
        let request = request(entities);
        let answer = read(&reader, &request, caller.clone());
        let decoded = pb::GetFeaturesResponse::decode(answer.message()).unwrap();
        assert_eq!(decoded.entities, entities as u32);
        assert_eq!(decoded.features.len(), VIEWS * 10);
        let caller = caller.clone();
        let before = TAKEN.get();
        let answer = read(&reader, &request, caller);
        let taken = TAKEN.get() - before;
        drop(answer);
        assert!(taken <= most, "{entities} entities: {taken}, not {most}");
    }
}
