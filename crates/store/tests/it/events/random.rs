//! Random work on the embedded store and on the in-memory one, which must agree
//! on every answer.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use granary_model::{Clock, ManualClock, UtcMicros};
use granary_store::conformance::events::EventHome;
use granary_store::events::{
    EventBatch, EventId, EventRef, EventSink, IndexSpec, KeyOf, KeyRange, NewEvent, NewTile,
    RestoredEvents, ScanOrder, SnapshotPoint, StreamSpec, TileRange, TileSetSpec, TileSink,
    TrimPolicy,
};
use granary_store::{EmbeddedEventSettings, EventStore, EventStream, MemoryEventStore, StoreError};
use proptest::prelude::*;

use super::{Folder, Memory, small_bounds};

const CUSTOMERS: u8 = 3;
/// Sets of customers.
const ALL_CUSTOMERS: u8 = (1 << CUSTOMERS) - 1;
const DEVICES: u8 = 2;
const SPANS: [i64; 2] = [4, 16];

#[derive(Debug, Clone)]
enum Work {
    /// Ids, event times, keys (0: none; of customers a set of bits).
    Append(Vec<(u8, i64, u8, u8)>),
    Trim(i64, Vec<(usize, usize)>),
    Flush(u64),
    Reserve(u64),
    /// Every so manieth of the flushed events that there ever were, and from
    /// when on nothing is missing then.
    Restore(u64, Option<i64>),
    Restart,
    /// Whether the index by device is there.
    Reopen(bool),
    /// Takes the point that tiles are computed from.
    Look,
    /// Customer, level, and number of the tile.
    Tiles(Vec<(u8, usize, i64)>),
    DropTiles,
    Clock(i64),
}

fn work() -> impl Strategy<Value = Work> {
    let event = (0..60_u8, -5..40_i64, 0..=ALL_CUSTOMERS, 0..=DEVICES);
    let keep = prop_oneof![
        Just(vec![]),
        (0..4_usize).prop_map(|n| vec![(0, n)]),
        (0..3_usize, 0..3_usize).prop_map(|(a, b)| vec![(0, a), (0, b)]),
    ];
    let tile = (1..=CUSTOMERS, 0..2_usize, -2..10_i64);
    prop_oneof![
        8 => prop::collection::vec(event, 0..6).prop_map(Work::Append),
        2 => (-6..45_i64, keep).prop_map(|(t, keep)| Work::Trim(t, keep)),
        1 => (0..40_u64).prop_map(Work::Flush),
        1 => (0..3_u64).prop_map(Work::Reserve),
        2 => (1..4_u64, prop::option::of(-6..45_i64)).prop_map(|(n, t)| Work::Restore(n, t)),
        1 => Just(Work::Restore(1, Some(i64::MIN))),
        1 => Just(Work::Restart),
        1 => any::<bool>().prop_map(Work::Reopen),
        2 => Just(Work::Look),
        4 => prop::collection::vec(tile, 1..6).prop_map(Work::Tiles),
        1 => Just(Work::DropTiles),
        2 => (0..1000_i64).prop_map(Work::Clock),
    ]
}

fn spec(history: bool, wide: bool) -> StreamSpec {
    let names = if wide {
        &["customer", "device"][..]
    } else {
        &["customer"]
    };
    StreamSpec {
        name: "card_event".to_owned(),
        columns: String::new(),
        history,
        indexes: names
            .iter()
            .map(|name| IndexSpec {
                name: (*name).to_owned(),
            })
            .collect(),
        tile_sets: vec![TileSetSpec {
            name: "spend".to_owned(),
            version: 1,
            index: "customer".to_owned(),
            spans: SPANS.to_vec(),
        }],
    }
}

/// Payloads are id, customer, device.
struct FromPayload;

impl KeyOf for FromPayload {
    fn keys_of(&self, index: usize, event: EventRef<'_>) -> Result<Vec<Bytes>, StoreError> {
        let number = event.payload[1 + index];
        Ok(match index {
            0 => customers(number),
            _ => devices(number),
        })
    }
}

/// The greatest first and last.
fn customers(set: u8) -> Vec<Bytes> {
    let among = (1..=CUSTOMERS).filter(|customer| set & (1 << (customer - 1)) != 0);
    let mut keys: Vec<_> = among.map(|n| Bytes::copy_from_slice(&[n])).collect();
    keys.reverse();
    keys.extend(keys.first().cloned());
    keys
}

fn devices(number: u8) -> Vec<Bytes> {
    let key = (number > 0).then(|| Bytes::copy_from_slice(&[number]));
    key.into_iter().collect()
}

/// One of the two stores.
struct Side {
    home: Arc<dyn EventHome>,
    store: Option<Arc<dyn EventStore>>,
    stream: Option<Arc<dyn EventStream>>,
    point: SnapshotPoint,
    /// Every event there ever was.
    ever: Vec<(EventId, (u8, i64, u8, u8))>,
}

/// All that a stream answers, in words.
#[derive(Debug, Default, PartialEq)]
struct Answers(Vec<String>);

impl EventSink for Answers {
    fn event(&mut self, range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        self.0.push(format!("{range}: {event:?}"));
        ControlFlow::Continue(())
    }
}

impl TileSink for Answers {
    fn tile(&mut self, range: usize, start: UtcMicros, value: &[u8]) {
        self.0.push(format!("{range}: tile {start:?} {value:?}"));
    }
}

impl Side {
    async fn open(&mut self, clock: &Arc<ManualClock>, spec: StreamSpec) {
        (self.stream, self.store) = (None, None);
        let store = self.home.open(Arc::clone(clock) as Arc<dyn Clock>).unwrap();
        self.stream = Some(store.open_stream(spec, &FromPayload).await.unwrap());
        self.store = Some(store);
        self.look().await;
    }

    fn stream(&self) -> &Arc<dyn EventStream> {
        self.stream.as_ref().unwrap()
    }

    async fn look(&mut self) {
        self.point = self.stream().snapshot().await.unwrap().point();
    }

    async fn append(&mut self, events: &[(u8, i64, u8, u8)], spec: &StreamSpec) -> String {
        let new = events.iter().map(|event| new_event(*event, spec));
        let batch = EventBatch {
            events: new.collect(),
            offsets: Vec::new(),
        };
        let appended = self.stream().append(batch).await.unwrap();
        for (event, appended) in events.iter().zip(&appended) {
            if appended.is_new() {
                self.ever.push((appended.id(), *event));
            }
        }
        format!("{appended:?}")
    }

    async fn trim(&self, policy: &TrimPolicy) -> u64 {
        let (mut removed, mut from) = (0, None);
        loop {
            let step = self.stream().trim(policy, from).await.unwrap();
            removed += step.removed;
            from = step.next;
            if from.is_none() {
                return removed;
            }
        }
    }

    /// Does it, and says what came of it.
    async fn work(&mut self, work: &Work, clock: &Arc<ManualClock>, spec: &StreamSpec) -> String {
        let stream = Arc::clone(self.stream());
        match work {
            Work::Append(events) => self.append(events, spec).await,
            Work::Trim(older_than, keep_newest) => {
                let mut keep_newest = keep_newest.clone();
                keep_newest.retain(|(index, _)| *index < spec.indexes.len());
                let policy = TrimPolicy {
                    older_than: UtcMicros(*older_than),
                    keep_newest,
                };
                format!("{} removed", self.trim(&policy).await)
            }
            Work::Flush(sequence) => format!("{:?}", stream.set_flushed(*sequence).await.is_ok()),
            Work::Reserve(sequences) => format!("{:?}", stream.reserve(*sequences).await.unwrap()),
            Work::Restore(nth, whole_from) => {
                let flushed = stream.snapshot().await.unwrap().state().flushed;
                let ever = self.ever.iter();
                let wanted =
                    ever.filter(|(id, _)| id.sequence <= flushed && id.sequence % nth == 0);
                let events = RestoredEvents {
                    events: wanted.map(|(id, e)| (*id, new_event(*e, spec))).collect(),
                    whole_from: whole_from.map(UtcMicros),
                    lost_before: None,
                };
                format!("{} restored", stream.restore(events).await.unwrap())
            }
            Work::Restart => {
                drop(stream);
                self.open(clock, spec.clone()).await;
                String::new()
            }
            Work::Reopen(_) => {
                let store = self.store.as_ref().unwrap();
                let reopened = store.open_stream(spec.clone(), &FromPayload).await.unwrap();
                self.stream = Some(reopened);
                // A store need not know what came before that.
                self.look().await;
                String::new()
            }
            Work::Look => {
                self.look().await;
                String::new()
            }
            Work::Tiles(tiles) => {
                let tiles = tiles.iter().map(|(customer, level, number)| NewTile {
                    key: Bytes::copy_from_slice(&[*customer]),
                    level: *level,
                    start: UtcMicros(number * SPANS[*level]),
                    value: vec![*customer, *level as u8].into(),
                });
                let kept = stream.put_tiles(0, self.point, tiles.collect()).await;
                format!("{} kept", kept.unwrap())
            }
            Work::DropTiles => format!("{:?}", stream.drop_tiles(0).await.unwrap()),
            Work::Clock(_) => String::new(),
        }
    }

    async fn answers(&self) -> Answers {
        let mut answers = Answers::default();
        let snapshot = self.stream().snapshot().await.unwrap();
        answers.0.push(format!("{:?}", snapshot.state()));
        snapshot.scan_log(0, 1000, &mut answers).await.unwrap();
        for index in 0..self.stream().spec().indexes.len() {
            let kept = snapshot.newest_kept(index);
            answers.0.push(format!("the newest {kept} are kept"));
            for order in [ScanOrder::OldestFirst, ScanOrder::NewestFirst] {
                for (from, to, limit) in [(-100, 100, 1000), (3, 17, 1000), (-100, 20, 2)] {
                    let keys: Vec<[u8; 1]> = (0..=CUSTOMERS).map(|key| [key]).collect();
                    let ranges: Vec<_> = keys
                        .iter()
                        .map(|key| KeyRange {
                            key,
                            from: UtcMicros(from),
                            to: UtcMicros(to),
                            limit,
                        })
                        .collect();
                    let scanned = snapshot.scan(index, order, &ranges, &mut answers).await;
                    scanned.unwrap();
                }
            }
        }
        for customer in 0..=CUSTOMERS {
            for level in 0..SPANS.len() {
                let range = TileRange {
                    key: &[customer],
                    level,
                    from: UtcMicros::MIN,
                    to: UtcMicros::MAX,
                };
                snapshot.tiles(0, &[range], &mut answers).await.unwrap();
            }
        }
        let ids: Vec<[u8; 1]> = (0..60).map(|id| [id]).collect();
        let ids: Vec<&[u8]> = ids.iter().map(|id| &id[..]).collect();
        let found = snapshot.duplicates(&ids).await.unwrap();
        answers.0.push(format!("{found:?}"));
        answers
    }
}

fn new_event((id, at, customer, device): (u8, i64, u8, u8), spec: &StreamSpec) -> NewEvent {
    let keys = [customers(customer), devices(device)];
    NewEvent {
        event_time: UtcMicros(at),
        dedup_key: (id > 0).then(|| Bytes::copy_from_slice(&[id])),
        keys: keys.into_iter().take(spec.indexes.len()).collect(),
        payload: vec![id, customer, device].into(),
    }
}

async fn agree(history: bool, settings: EmbeddedEventSettings, works: &[Work]) {
    let kept = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(UtcMicros(500)));
    let path = kept.path().join("events");
    let homes: [Arc<dyn EventHome>; 2] = [
        Arc::new(Folder { path, settings }),
        Arc::new(Memory(MemoryEventStore::default())),
    ];
    let mut wide = true;
    let mut sides = Vec::new();
    for home in homes {
        let mut side = Side {
            home,
            store: None,
            stream: None,
            point: SnapshotPoint {
                sequence: 0,
                removals: 0,
            },
            ever: Vec::new(),
        };
        side.open(&clock, spec(history, wide)).await;
        sides.push(side);
    }
    for (step, work) in works.iter().enumerate() {
        match work {
            Work::Clock(now) => clock.set(UtcMicros(*now)),
            Work::Reopen(wider) => wide = *wider,
            _ => {}
        }
        let spec = spec(history, wide);
        let mut told = Vec::new();
        for side in &mut sides {
            let outcome = side.work(work, &clock, &spec).await;
            told.push((outcome, side.answers().await));
        }
        let [embedded, memory] = &told[..] else {
            unreachable!()
        };
        assert_eq!(embedded, memory, "after step {step}, {work:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_embedded_store_answers_as_the_plain_one(
        history in any::<bool>(),
        small in any::<bool>(),
        works in prop::collection::vec(work(), 1..40),
    ) {
        let settings = if small { small_bounds() } else { EmbeddedEventSettings::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build();
        runtime.unwrap().block_on(agree(history, settings, &works));
    }
}
