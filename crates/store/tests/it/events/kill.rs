//! A process that appends is killed at random moments; whatever it was told is
//! there, once, and no batch is there in part.
//!
//! The child is this test binary, started again for the one test [`appends`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use granary_model::SystemClock;
use granary_store::events::{
    ConsumerOffset, EventBatch, EventRef, EventSink, KeyRange, NewEvent, ScanOrder, TrimPolicy,
};
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore, EventStore, EventStream};

use super::owner::{NoKeys, spec};

const KILLS: u64 = 100;
const WRITERS: u64 = 4;
/// Events of this and an earlier time are removed by the child.
const OLD: i64 = 10;

fn settings() -> EmbeddedEventSettings {
    EmbeddedEventSettings {
        // Small enough for files to be written and merged on the way.
        memtable_bytes_max: 256 << 10,
        step_events_max: 20,
        ..EmbeddedEventSettings::default()
    }
}

async fn open(folder: &Path) -> Arc<dyn EventStream> {
    let store = EmbeddedEventStore::open(folder, settings(), Arc::new(SystemClock)).unwrap();
    store.open_stream(spec(), &NoKeys).await.unwrap()
}

/// What a writer's n-th batch is: 1 to 5 events, some of them old, some long.
fn events(writer: u64, n: u64) -> Vec<NewEvent> {
    let event = |part: u64| NewEvent {
        event_time: granary_model::UtcMicros(if n.is_multiple_of(3) {
            OLD
        } else {
            1000 + n as i64
        }),
        dedup_key: Some(format!("{writer}/{n}/{part}").into()),
        keys: vec![vec![format!("customer {}", n % 7).into()]],
        payload: format!(
            "{writer}/{n}/{part}/{}",
            "x".repeat((n * 97 % 3000) as usize)
        )
        .into(),
    };
    (0..=n % 5).map(event).collect()
}

/// The child: goes on from where each writer's offset is, until it is killed.
#[test]
fn appends() {
    let mut arguments = std::env::args();
    let Some(folder) = arguments.find_map(|a| Some(a.strip_prefix("append_in=")?.to_owned()))
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = open(Path::new(&folder)).await;
        println!("@open");
        for writer in 0..WRITERS {
            tokio::spawn(write(Arc::clone(&stream), writer));
        }
        let policy = TrimPolicy {
            older_than: granary_model::UtcMicros(OLD + 1),
            keep_newest: Vec::new(),
        };
        let mut from = None;
        loop {
            tokio::time::sleep(Duration::from_millis(3)).await;
            from = stream.trim(&policy, from).await.unwrap().next;
        }
    });
}

async fn write(stream: Arc<dyn EventStream>, writer: u64) {
    let consumer = format!("writer {writer}");
    let snapshot = stream.snapshot().await.unwrap();
    let mut previous = snapshot.consumer_offset(&consumer).await.unwrap();
    drop(snapshot);
    loop {
        let n = next_batch(previous.as_deref());
        let offset = bytes::Bytes::from((n + 1).to_string());
        let batch = EventBatch {
            events: events(writer, n),
            offsets: vec![ConsumerOffset {
                consumer: consumer.clone(),
                previous,
                offset: offset.clone(),
            }],
        };
        let appended = stream.append(batch).await.unwrap();
        assert!(appended.iter().all(|appended| appended.is_new()));
        println!("@{writer} {n} {}", appended[0].id().sequence);
        previous = Some(offset);
    }
}

fn next_batch(offset: Option<&[u8]>) -> u64 {
    let text = std::str::from_utf8(offset.unwrap_or(b"0")).unwrap();
    text.parse().unwrap()
}

/// By writer and batch: the first sequence that was told.
type Told = BTreeMap<(u64, u64), u64>;

/// Starts a child, kills it so long after it opened, and notes what it was told.
fn run_and_kill(folder: &Path, after: Duration, told: &mut Told) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["events::kill::appends", "--exact", "--nocapture"])
        .arg(format!("append_in={}", folder.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let opened = lines.find(|line| line.as_ref().is_ok_and(|line| line.ends_with("@open")));
    assert!(opened.is_some(), "the child did not open");
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap();
    // All that it wrote before it died; a line that was cut short tells nothing.
    for line in lines.map_while(Result::ok) {
        let Some(numbers) = line.strip_prefix('@') else {
            continue;
        };
        let numbers: Vec<u64> = numbers.split(' ').filter_map(|n| n.parse().ok()).collect();
        if let [writer, n, sequence] = numbers[..] {
            told.insert((writer, n), sequence);
        }
    }
}

/// Ids and sequences of events.
#[derive(Default)]
struct Found(Vec<(String, u64)>);

impl EventSink for Found {
    fn event(&mut self, _range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        let text = String::from_utf8(event.payload.to_vec()).unwrap();
        let id: Vec<&str> = text.split('/').take(3).collect();
        self.0.push((id.join("/"), event.sequence));
        ControlFlow::Continue(())
    }
}

/// Everything told is stored once; what is stored is whole batches, as far as
/// each writer's offset says; the index says what the log says.
async fn check(folder: &Path, told: &Told) {
    let stream = open(folder).await;
    let snapshot = stream.snapshot().await.unwrap();
    let mut log = Found::default();
    snapshot.scan_log(0, usize::MAX, &mut log).await.unwrap();
    let keys: Vec<String> = (0..7).map(|n| format!("customer {n}")).collect();
    let ranges: Vec<_> = keys
        .iter()
        .map(|key| KeyRange {
            key: key.as_bytes(),
            from: granary_model::UtcMicros::MIN,
            to: granary_model::UtcMicros::MAX,
            limit: usize::MAX,
        })
        .collect();
    let mut indexed = Found::default();
    let order = ScanOrder::OldestFirst;
    snapshot
        .scan(0, order, &ranges, &mut indexed)
        .await
        .unwrap();
    indexed.0.sort_by_key(|(_, sequence)| *sequence);
    assert_eq!(log.0, indexed.0);
    assert_eq!(snapshot.state().events, log.0.len() as u64);

    let stored: BTreeMap<String, u64> = log.0.iter().cloned().collect();
    assert_eq!(stored.len(), log.0.len(), "an event is stored twice");
    let mut expected = BTreeSet::new();
    for writer in 0..WRITERS {
        let consumer = format!("writer {writer}");
        let offset = snapshot.consumer_offset(&consumer).await.unwrap();
        let next = next_batch(offset.as_deref());
        for n in 0..next {
            for (part, event) in events(writer, n).iter().enumerate() {
                let id = format!("{writer}/{n}/{part}");
                // Those that are old may have been trimmed, one by one.
                if event.event_time.0 > OLD || stored.contains_key(&id) {
                    expected.insert(id);
                }
            }
        }
        let last_told = told.range((writer, 0)..(writer + 1, 0)).next_back();
        assert!(last_told.is_none_or(|((_, n), _)| *n < next), "{told:?}");
    }
    let found: BTreeSet<String> = stored.keys().cloned().collect();
    assert_eq!(found, expected);
    for ((writer, n), sequence) in told {
        let first = stored.get(&format!("{writer}/{n}/0"));
        assert!(first.is_none_or(|found| found == sequence));
    }
    let ids: Vec<&[u8]> = found.iter().map(String::as_bytes).collect();
    let duplicates = snapshot.duplicates(&ids).await.unwrap();
    for (id, duplicate) in found.iter().zip(duplicates) {
        assert_eq!(duplicate.map(|(id, _)| id.sequence), Some(stored[id]));
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_kills() {
    let kept = tempfile::tempdir().unwrap();
    let mut told = Told::new();
    let mut random = 7_u64;
    for _ in 0..KILLS {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let after = Duration::from_micros((random >> 33) % 20_000);
        run_and_kill(kept.path(), after, &mut told);
        check(kept.path(), &told).await;
    }
    assert!(
        told.len() as u64 > KILLS,
        "only {} batches were told",
        told.len()
    );
}
