//! Group commit against its bound: events a second that 16 writers have
//! acknowledged, in batches of 1, 10 and 1,000, beside the same bytes appended
//! and synced to plain files by as many writers; and scans of one key.
//!
//! Run with `cargo bench -p granary-benches --bench events`; a number sets the
//! seconds of each measurement (default 3).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench tells what it measured, and ends when something fails"
)]

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use granary_benches as _;
use granary_model::{SystemClock, UtcMicros};
use granary_store::events::{
    EventBatch, EventRef, EventSink, IndexSpec, KeyOf, KeyRange, NewEvent, ScanOrder, StreamSpec,
};
use granary_store::{
    EmbeddedEventSettings, EmbeddedEventStore, EventStore, EventStream, StoreError,
};

const WRITERS: u64 = 16;
const PAYLOAD_BYTES: usize = 120;
/// Payload, dedup key and two keys.
const EVENT_BYTES: usize = PAYLOAD_BYTES + 16 + 8 + 8;

struct NoKeys;

impl KeyOf for NoKeys {
    fn keys_of(&self, _: usize, _: EventRef<'_>) -> Result<Vec<Bytes>, StoreError> {
        Ok(Vec::new())
    }
}

fn spec(name: &str) -> StreamSpec {
    let index = |name: &str| IndexSpec {
        name: name.to_owned(),
    };
    StreamSpec {
        name: name.to_owned(),
        columns: String::new(),
        history: false,
        indexes: vec![index("customer"), index("device")],
        tile_sets: Vec::new(),
    }
}

fn event(writer: u64, n: u64, customer: u64) -> NewEvent {
    let id = [writer.to_le_bytes(), n.to_le_bytes()].concat();
    NewEvent {
        event_time: UtcMicros(n as i64),
        dedup_key: Some(id.into()),
        keys: vec![
            vec![Bytes::copy_from_slice(&customer.to_le_bytes())],
            vec![Bytes::copy_from_slice(&(n % 10_007).to_le_bytes())],
        ],
        payload: vec![7; PAYLOAD_BYTES].into(),
    }
}

fn batch(writer: u64, from: u64, size: u64) -> EventBatch {
    let customer = |n: u64| n.wrapping_mul(2_654_435_761) % 100_000;
    EventBatch {
        events: (from..from + size)
            .map(|n| event(writer, n, customer(n)))
            .collect(),
        offsets: Vec::new(),
    }
}

/// Events a second, and the 99th percentile of the wait for one batch.
async fn store_rate(folder: &Path, size: u64, time: Duration) -> (f64, Duration) {
    let settings = EmbeddedEventSettings::default();
    let store = EmbeddedEventStore::open(folder, settings, Arc::new(SystemClock)).unwrap();
    let stream = store.open_stream(spec("bench"), &NoKeys).await.unwrap();
    let begin = Instant::now();
    let writers = (0..WRITERS).map(|writer| {
        let stream = Arc::clone(&stream);
        tokio::spawn(async move {
            let (mut n, mut waits) = (0, Vec::new());
            while begin.elapsed() < time {
                let sent = Instant::now();
                stream.append(batch(writer, n, size)).await.unwrap();
                waits.push(sent.elapsed());
                n += size;
            }
            (n, waits)
        })
    });
    let (mut events, mut waits) = (0, Vec::new());
    for writer in writers.collect::<Vec<_>>() {
        let (n, waited) = writer.await.unwrap();
        events += n;
        waits.extend(waited);
    }
    let rate = events as f64 / begin.elapsed().as_secs_f64();
    waits.sort();
    (rate, waits[waits.len() * 99 / 100])
}

/// The bound: as many threads, a file each, the same bytes a batch.
fn file_rate(folder: &Path, size: u64, time: Duration) -> f64 {
    let begin = Instant::now();
    let write = |writer: u64| {
        let mut file = File::create(folder.join(format!("{writer}.plain"))).unwrap();
        let bytes = vec![7; EVENT_BYTES * size as usize];
        let mut events = 0;
        while begin.elapsed() < time {
            file.write_all(&bytes).unwrap();
            file.sync_data().unwrap();
            events += size;
        }
        events
    };
    let events: u64 = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        writers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    events as f64 / begin.elapsed().as_secs_f64()
}

struct Count(usize);

impl EventSink for Count {
    fn event(&mut self, _range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        self.0 += event.payload.len();
        ControlFlow::Continue(())
    }
}

/// Median time of a scan of `ranges`, a snapshot taken for each.
async fn scan_time(stream: &Arc<dyn EventStream>, ranges: &[KeyRange<'_>]) -> Duration {
    let mut times = Vec::new();
    for _ in 0..51 {
        let begin = Instant::now();
        let snapshot = stream.snapshot().await.unwrap();
        let mut count = Count(0);
        let scanned = snapshot.scan(0, ScanOrder::NewestFirst, ranges, &mut count);
        scanned.await.unwrap();
        times.push(begin.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

async fn scans(folder: &Path) {
    let settings = EmbeddedEventSettings::default();
    let store = EmbeddedEventStore::open(folder, settings, Arc::new(SystemClock)).unwrap();
    let stream = store.open_stream(spec("scans"), &NoKeys).await.unwrap();
    // Customers 0 to 99 with 100 events each, customer 1,000 with 10,000.
    for round in 0..100 {
        let few = (0..100).map(|customer| event(round, customer, customer));
        let many = (0..100).map(|n| event(1_000 + round, n, 1_000));
        let batch = EventBatch {
            events: few.chain(many).collect(),
            offsets: Vec::new(),
        };
        stream.append(batch).await.unwrap();
    }
    let keys: Vec<[u8; 8]> = (0..100_u64).chain([1_000]).map(u64::to_le_bytes).collect();
    let ranges: Vec<_> = keys
        .iter()
        .map(|key| KeyRange {
            key,
            from: UtcMicros::MIN,
            to: UtcMicros::MAX,
            limit: usize::MAX,
        })
        .collect();
    println!(
        "scan of a key of 100 events: {:?}",
        scan_time(&stream, &ranges[..1]).await
    );
    println!(
        "scan of 100 keys of 100 events: {:?}",
        scan_time(&stream, &ranges[..100]).await
    );
    println!(
        "scan of a key of 10,000 events: {:?}",
        scan_time(&stream, &ranges[100..]).await
    );
}

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(3));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    for size in [1, 10, 1_000] {
        let folder = tempfile::tempdir().unwrap();
        let (rate, wait) = runtime.block_on(store_rate(&folder.path().join("events"), size, time));
        let bound = file_rate(folder.path(), size, time);
        println!(
            "batches of {size}: {rate:.0} events/s acknowledged, p99 {wait:?}; \
             plain files: {bound:.0} events/s; {:.2} of the bound",
            rate / bound
        );
    }
    let folder = tempfile::tempdir().unwrap();
    runtime.block_on(scans(folder.path()));
}
