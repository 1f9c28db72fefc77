//! No loss: a server that is killed again and again under pushes, and while it
//! flushes, has every acknowledged event, once; and so has the history.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use granary_client::{Client, GetFeatures, Push, Target};
use granary_model::{Clock, SystemClock};

use crate::project::Project;
use crate::serve::Server;

const KILLS: u64 = 100;
const WRITERS: usize = 4;
const CUSTOMERS: i64 = 5;

const SQL: &str = "\
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE STREAM tap (id BIGINT, customer_id BIGINT, at TIMESTAMP) EVENT TIME at DEDUPLICATE BY (id) HISTORY tap_history;
CREATE FEATURE VIEW taps ENTITY customer EVENT TIME at
AS SELECT customer_id, count(*) OVER d1 AS taps_1d, count(DISTINCT id) OVER d1 AS ids_1d
   FROM tap WINDOW d1 AS (PARTITION BY customer_id ORDER BY at
                          RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW);
";

/// A flush is under way much of the time.
const CONFIG: &str = "[streams]\nflush_seconds = 1\n";

/// Numbers that look random, the same each time.
struct Lot(u64);

impl Lot {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % below
    }
}

/// Pushes one batch after the other; a batch that was not acknowledged is
/// pushed again, whatever became of it.
struct Writer {
    lot: Lot,
    next: i64,
    pending: Option<Vec<i64>>,
    acknowledged: Vec<i64>,
}

impl Writer {
    fn new(number: usize) -> Self {
        Self {
            lot: Lot(number as u64 + 1),
            next: (number as i64) << 32,
            pending: None,
            acknowledged: Vec::new(),
        }
    }

    /// Until the server is gone, or nothing is pending where `last`.
    async fn run(mut self, endpoint: String, last: bool) -> Self {
        let Ok(client) = Client::connect(&endpoint).await else {
            return self;
        };
        loop {
            let ids = match self.pending.take() {
                Some(ids) => ids,
                None if last => return self,
                None => self.ids(),
            };
            let pushed = client.push(&Push::new("tap", rows(&ids))).await;
            match pushed {
                Ok(answer) => {
                    assert_eq!(answer.appended + answer.duplicates, ids.len() as u64);
                    self.acknowledged.extend(ids);
                }
                Err(_) => {
                    self.pending = Some(ids);
                    return self;
                }
            }
        }
    }

    fn ids(&mut self) -> Vec<i64> {
        let first = self.next;
        self.next += 1 + self.lot.draw(20) as i64;
        (first..self.next).collect()
    }
}

fn rows(ids: &[i64]) -> RecordBatch {
    let now = SystemClock.now().0;
    let customers = ids.iter().map(|id| id % CUSTOMERS);
    let times = TimestampMicrosecondArray::from_value(now, ids.len()).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from(ids.to_vec()))),
        (
            "customer_id",
            Arc::new(Int64Array::from_iter_values(customers)),
        ),
        ("at", Arc::new(times)),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Of each customer the taps and the distinct taps, as the server answers.
async fn counts(endpoint: &str) -> BTreeMap<i64, (i64, i64)> {
    let client = Client::connect(endpoint).await.unwrap();
    let customers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..CUSTOMERS));
    let keys = RecordBatch::try_from_iter([("customer_id", customers)]).unwrap();
    let target = Target::Features(vec!["taps.*".to_owned()]);
    let answer = client
        .get_features(&GetFeatures::new(target, keys))
        .await
        .unwrap();
    let column = |place: usize| {
        let values = answer.features[place].values.as_primitive::<Int64Type>();
        values.values().to_vec()
    };
    let pairs = column(0).into_iter().zip(column(1));
    (0..CUSTOMERS).zip(pairs).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_every_acknowledged_event_once() {
    let project = Project::empty();
    project.write("granary.toml", CONFIG);
    project.write("sql/taps.sql", SQL);
    let project = project.applied();
    let mut lot = Lot(7);
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    for _ in 0..KILLS {
        let server = Server::start(&project);
        let running: Vec<_> = writers
            .drain(..)
            .map(|writer| tokio::spawn(writer.run(server.grpc.clone(), false)))
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + lot.draw(200))).await;
        server.stop("-KILL");
        for running in running {
            writers.push(running.await.unwrap());
        }
    }
    let server = Server::start(&project);
    let mut expected: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let mut events = 0;
    for writer in writers {
        let writer = writer.run(server.grpc.clone(), true).await;
        assert_eq!(writer.pending, None);
        for id in writer.acknowledged {
            let (taps, ids) = expected.entry(id % CUSTOMERS).or_default();
            (*taps, *ids) = (*taps + 1, *ids + 1);
            events += 1;
        }
    }
    assert!(events > 1_000, "only {events} events were acknowledged");
    assert_eq!(counts(&server.grpc).await, expected);
    all_flushed(&project).await;
    for relation in ["tap", "tap_history"] {
        let counted = project.query(&format!(
            "SELECT count(*) AS events, count(DISTINCT id) AS ids FROM {relation}"
        ));
        assert_eq!(counted[0]["events"], events, "of {relation}");
        assert_eq!(counted[0]["ids"], events, "of {relation}");
    }
    let numbers = "SELECT count(DISTINCT _seq) AS n FROM tap_history";
    assert_eq!(project.query(numbers)[0]["n"], events);
    assert_eq!(counts(&server.grpc).await, expected);
}

/// Waits until the server has flushed every event.
async fn all_flushed(project: &Project) {
    for _ in 0..300 {
        let status = project.granary(&["status", "--output", "json"]).json();
        let stream = &status["streams"][0];
        if stream["flushed"] == stream["last_sequence"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the events are not flushed");
}
