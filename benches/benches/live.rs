//! Live reads: a view of 10 aggregates over 3 windows, of devices with 100,
//! 10,000 and 1,000,000 events in them, while 10,000 events a second are pushed;
//! and how long a push waits for its acknowledgement at half the greatest rate.
//! One process has the pushers, the readers and the embedded store.
//!
//! Run with `cargo bench -p granary-benches --bench live`; a number sets the
//! seconds of each measurement (default 5).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench tells what it measured, and ends when something fails"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use granary_benches as _;
use granary_engine::EngineSettings;
use granary_ingest::Streams;
use granary_model::{Caller, Clock, FeatureStatus, SystemClock};
use granary_serving::{ReadRequest, ReadTarget, Reader, ServingSettings};
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore};
use granary_testing::TestProject;
use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const DEFINITIONS: &str = "
CREATE ENTITY device KEY (device BIGINT);
CREATE STREAM application (
  id BIGINT, device BIGINT, customer VARCHAR, amount DOUBLE, at TIMESTAMP
) EVENT TIME at DEDUPLICATE BY (id);
CREATE FEATURE VIEW velocity ENTITY device EVENT TIME at
AS SELECT device,
  count(*) OVER hour              AS applications_1h,
  sum(amount) OVER hour           AS amount_1h,
  max(amount) OVER hour           AS amount_max_1h,
  count(*) OVER day               AS applications_1d,
  sum(amount) OVER day            AS amount_1d,
  last_value(amount) OVER day     AS amount_last_1d,
  count(*) OVER month             AS applications_30d,
  avg(amount) OVER month          AS amount_mean_30d,
  stddev(amount) OVER month       AS amount_stddev_30d,
  min(amount) OVER month          AS amount_min_30d
FROM application
WINDOW
  hour AS (PARTITION BY device ORDER BY at RANGE INTERVAL '1 hour' PRECEDING),
  day AS (PARTITION BY device ORDER BY at RANGE INTERVAL '1 day' PRECEDING),
  month AS (PARTITION BY device ORDER BY at RANGE INTERVAL '30 days' PRECEDING);
";

const MONTH_MICROS: i64 = 30 * 86_400_000_000;
/// Devices by events in the longest window: how many of them, how many events.
const CLASSES: [(i64, u64, u64); 3] = [
    (0, 1_000, 100),
    (1_000_000, 20, 10_000),
    (2_000_000, 1, 1_000_000),
];
/// Devices of the events that are pushed meanwhile, beside those above.
const OTHERS: i64 = 100_000;
const PUSHERS: u64 = 16;
const BATCH: usize = 10;
/// Events that are pushed a second.
const PUSHED: f64 = 10_000.0;

/// Rows of the stream, with ids from `first` on.
fn rows(first: u64, devices: &[i64], times: &[i64], numbers: &mut StdRng) -> RecordBatch {
    let count = devices.len();
    let ids = (0..count as u64).map(|n| (first + n).cast_signed());
    let customers: StringArray = (0..count)
        .map(|_| Some(format!("c{}", numbers.random_range(0..1_000_000))))
        .collect();
    let amounts = (0..count).map(|_| Some(numbers.random_range(100.0..5_000.0)));
    let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from_iter_values(ids)) as _, true),
        (
            "device",
            Arc::new(Int64Array::from(devices.to_vec())) as _,
            true,
        ),
        ("customer", Arc::new(customers) as _, true),
        (
            "amount",
            Arc::new(amounts.collect::<Float64Array>()) as _,
            true,
        ),
        ("at", Arc::new(times) as _, true),
    ])
    .unwrap()
}

/// A month of events of every class, in the order of time.
async fn load(streams: &Streams) -> u64 {
    let now = SystemClock.now().0;
    let mut numbers = StdRng::seed_from_u64(7);
    let mut events: Vec<(i64, i64)> = Vec::new();
    for (first, devices, each) in CLASSES {
        for device in first..first + devices.cast_signed() {
            let at = |_| (now - numbers.random_range(0..MONTH_MICROS), device);
            events.extend((0..each).map(at));
        }
    }
    events.sort_unstable();
    let mut id = 0;
    for part in events.chunks(10_000) {
        let (times, devices): (Vec<i64>, Vec<i64>) = part.iter().copied().unzip();
        let batch = rows(id, &devices, &times, &mut numbers);
        streams.push("application", &batch).await.unwrap();
        id += part.len() as u64;
    }
    id
}

/// What pushers do together.
struct Pushes {
    streams: Arc<Streams>,
    next_id: AtomicU64,
    events: AtomicU64,
    over: AtomicBool,
}

impl Pushes {
    fn new(streams: &Arc<Streams>, next_id: u64) -> Arc<Self> {
        Arc::new(Self {
            streams: Arc::clone(streams),
            next_id: AtomicU64::new(next_id),
            events: AtomicU64::new(0),
            over: AtomicBool::new(false),
        })
    }

    /// Pushes batches until told to end, at a rate of events a second or as fast
    /// as it goes; gives how long each waited, from the moment it was due.
    async fn push(self: Arc<Self>, seed: u64, rate: Option<f64>) -> Histogram<u64> {
        let mut waits = Histogram::new(3).unwrap();
        let mut numbers = StdRng::seed_from_u64(seed);
        let mut due = Instant::now();
        while !self.over.load(Ordering::Relaxed) {
            match rate {
                Some(rate) => {
                    due += Duration::from_secs_f64(BATCH as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                }
                None => due = Instant::now(),
            }
            let devices: Vec<i64> = (0..BATCH).map(|_| device(&mut numbers)).collect();
            let times = vec![SystemClock.now().0; BATCH];
            let first = self.next_id.fetch_add(BATCH as u64, Ordering::Relaxed);
            let batch = rows(first, &devices, &times, &mut numbers);
            self.streams.push("application", &batch).await.unwrap();
            self.events.fetch_add(BATCH as u64, Ordering::Relaxed);
            waits.record(due.elapsed().as_micros() as u64).unwrap();
        }
        waits
    }

    fn start(self: &Arc<Self>, rate: Option<f64>) -> Vec<tokio::task::JoinHandle<Histogram<u64>>> {
        let each = rate.map(|rate| rate / PUSHERS as f64);
        let pushers = (0..PUSHERS).map(|n| tokio::spawn(Arc::clone(self).push(n, each)));
        pushers.collect()
    }
}

/// One in a hundred events is of the device with most, one in ten of another of
/// those that are read.
fn device(numbers: &mut StdRng) -> i64 {
    let (class, share) = match numbers.random_range(0..100) {
        0 => (2, 1),
        1..6 => (1, 20),
        6..11 => (0, 1_000),
        _ => return 3_000_000 + numbers.random_range(0..OTHERS),
    };
    CLASSES[class].0 + numbers.random_range(0..share)
}

async fn ended(
    pushes: &Pushes,
    pushers: Vec<tokio::task::JoinHandle<Histogram<u64>>>,
) -> Histogram<u64> {
    pushes.over.store(true, Ordering::Relaxed);
    let mut waits = Histogram::new(3).unwrap();
    for pusher in pushers {
        waits.add(pusher.await.unwrap()).unwrap();
    }
    waits
}

fn request(device: i64) -> ReadRequest {
    let devices = Int64Array::from(vec![device]);
    ReadRequest {
        caller: Caller::named("bench"),
        target: ReadTarget::Features(vec!["velocity.*".to_owned()]),
        keys: RecordBatch::try_from_iter([("device", Arc::new(devices) as _)]).unwrap(),
        inputs: Vec::new(),
        request_events: Vec::new(),
        as_of: None,
        strictly_before: false,
        full_names: false,
    }
}

/// Reads one device after the other for a time.
async fn reads(reader: &Reader, class: usize, time: Duration) {
    let (first, devices, events) = CLASSES[class];
    let mut waits = Histogram::<u64>::new(3).unwrap();
    let mut numbers = StdRng::seed_from_u64(11);
    let mut slowest_first = Duration::ZERO;
    for device in first..first + devices.cast_signed() {
        let begin = Instant::now();
        let answer = reader.read(request(device)).await.unwrap();
        assert_eq!(answer.features[0].statuses[0], FeatureStatus::Present);
        slowest_first = slowest_first.max(begin.elapsed());
    }
    // What was just made is kept.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begin = Instant::now();
    while begin.elapsed() < time {
        let device = first + numbers.random_range(0..devices).cast_signed();
        let sent = Instant::now();
        reader.read(request(device)).await.unwrap();
        waits.record(sent.elapsed().as_micros() as u64).unwrap();
    }
    println!(
        "reads of a device of {events} events: p50 {} us, p99 {} us, p99.9 {} us of {}; \
         the slowest first read {slowest_first:?}",
        waits.value_at_quantile(0.5),
        waits.value_at_quantile(0.99),
        waits.value_at_quantile(0.999),
        waits.len(),
    );
}

async fn pushes_alone(streams: &Arc<Streams>, next_id: u64, time: Duration) -> u64 {
    let pushes = Pushes::new(streams, next_id);
    let begin = Instant::now();
    let pushers = pushes.start(None);
    tokio::time::sleep(time).await;
    ended(&pushes, pushers).await;
    let most = pushes.events.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let next_id = pushes.next_id.load(Ordering::Relaxed);

    let pushes = Pushes::new(streams, next_id);
    let pushers = pushes.start(Some(most / 2.0));
    tokio::time::sleep(time).await;
    let waits = ended(&pushes, pushers).await;
    println!(
        "pushes of {BATCH} from {PUSHERS} tasks: at most {most:.0} events/s; \
         at half of that p50 {} us, p99 {} us until acknowledged",
        waits.value_at_quantile(0.5),
        waits.value_at_quantile(0.99),
    );
    pushes.next_id.load(Ordering::Relaxed)
}

async fn measure(folder: &Path, time: Duration) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let settings = EmbeddedEventSettings::default();
    let events = EmbeddedEventStore::open(&folder.join("events"), settings, Arc::clone(&clock));
    let events = Arc::new(events.unwrap());
    let project = TestProject::over(folder, EngineSettings::default(), clock, events).unwrap();
    project.apply(&[("live.sql", DEFINITIONS)]).await.unwrap();
    let begin = Instant::now();
    let next_id = load(&project.streams).await;
    println!(
        "loaded {next_id} events, {:.0} a second",
        next_id as f64 / begin.elapsed().as_secs_f64()
    );
    let next_id = pushes_alone(&project.streams, next_id, time).await;

    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let pushes = Pushes::new(&project.streams, next_id);
    let begin = Instant::now();
    let pushers = pushes.start(Some(PUSHED));
    for class in 0..CLASSES.len() {
        reads(&reader, class, time).await;
    }
    let waits = ended(&pushes, pushers).await;
    println!(
        "meanwhile {:.0} events/s were pushed, acknowledged within p50 {} us, p99 {} us",
        pushes.events.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64(),
        waits.value_at_quantile(0.5),
        waits.value_at_quantile(0.99),
    );
}

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(5));
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure(folder.path(), time));
}
