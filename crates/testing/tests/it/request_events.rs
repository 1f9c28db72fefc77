//! Request events in one small world: what of a service sees them, what does not,
//! and what is refused. `parity` holds them against stored events at large.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use futures::TryStreamExt;
use granary_engine::{EngineSettings, Spine, SpineEvents, TrainingOptions, TrainingRequest};
use granary_model::{Caller, ErrorKind, ManualClock, UtcMicros, json};
use granary_serving::{ReadRequest, ReadTarget, Reader, ServingSettings};
use granary_testing::TestProject;

const DEFINITIONS: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE ENTITY device KEY (device_id VARCHAR);
CREATE STREAM taps (tap_id VARCHAR, customer_id BIGINT, device_id VARCHAR, friends BIGINT[],
  amount BIGINT, at TIMESTAMP) EVENT TIME at DEDUPLICATE BY (tap_id);
CREATE STREAM others (customer_id BIGINT, at TIMESTAMP) EVENT TIME at;
CREATE FEATURE VIEW customer_taps ENTITY customer EVENT TIME at AS
  SELECT customer_id, count(*) OVER w AS n, sum(amount) OVER w AS total FROM taps
  WINDOW w AS (PARTITION BY customer_id ORDER BY at
               RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW);
CREATE FEATURE VIEW device_taps ENTITY device EVENT TIME at AS
  SELECT device_id, count(DISTINCT customer_id) OVER w AS customers FROM taps
  WINDOW w AS (PARTITION BY device_id ORDER BY at);
CREATE FEATURE VIEW last_tap ENTITY customer EVENT TIME at AS
  SELECT customer_id, at, device_id, friends, _created AS written FROM taps;
CREATE FEATURE SERVICE tap_check AS
  SELECT customer_taps.n, customer_taps.total, last_tap.device_id AS last_device, last_tap.written,
    device_taps.customers, sum(friend.n) AS friends_taps
  FROM customer_taps, last_tap, device_taps KEY (device_id => last_tap.device_id),
    customer_taps AS friend KEY (customer_id => EACH last_tap.friends);
";
const FEATURES: [&str; 6] = [
    "n",
    "total",
    "last_device",
    "written",
    "customers",
    "friends_taps",
];
/// An hour of the day of the test.
fn hour(hour: i64) -> i64 {
    let day: UtcMicros = "2026-03-01T00:00:00Z".parse().unwrap();
    day.0 + hour * 3_600_000_000
}

#[derive(Clone, Copy)]
struct Tap(
    &'static str,
    i64,
    &'static str,
    &'static [i64],
    i64,
    Option<i64>,
);

fn taps(taps: &[Tap]) -> RecordBatch {
    let friends = taps.iter().map(|tap| Some(tap.3.iter().copied().map(Some)));
    let friends = ListArray::from_iter_primitive::<Int64Type, _, _>(friends);
    let texts = |of: fn(&Tap) -> &'static str| -> ArrayRef {
        Arc::new(
            taps.iter()
                .map(|tap| Some(of(tap)))
                .collect::<StringArray>(),
        )
    };
    let numbers = |of: fn(&Tap) -> i64| -> ArrayRef {
        Arc::new(taps.iter().map(|tap| Some(of(tap))).collect::<Int64Array>())
    };
    let at = taps.iter().map(|tap| tap.5);
    let at = at.collect::<TimestampMicrosecondArray>();
    let columns: [(&str, ArrayRef, bool); 6] = [
        ("tap_id", texts(|tap| tap.0), true),
        ("customer_id", numbers(|tap| tap.1), true),
        ("device_id", texts(|tap| tap.2), true),
        ("friends", Arc::new(friends), true),
        ("amount", numbers(|tap| tap.4), true),
        ("at", Arc::new(at.with_timezone("UTC")), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

async fn project(folder: &std::path::Path) -> (TestProject, Reader) {
    let clock = Arc::new(ManualClock::new("2026-03-02".parse().unwrap()));
    let project = TestProject::open(folder, EngineSettings::default(), clock).unwrap();
    let applied = project.apply(&[("sql/all.sql", DEFINITIONS)]).await;
    applied.unwrap_or_else(|wrong| panic!("{wrong}"));
    let stored = taps(&[
        Tap("a", 1, "d1", &[2], 10, Some(hour(1))),
        Tap("b", 2, "d1", &[], 20, Some(hour(1))),
        Tap("c", 2, "d2", &[1], 30, Some(hour(2))),
        Tap("late", 1, "d2", &[2], 40, Some(hour(5))),
    ]);
    project.streams.push("taps", &stored).await.unwrap();
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    (project, reader)
}

fn request(customer: i64, t: i64, before: bool, events: &[RecordBatch]) -> ReadRequest {
    let keys: ArrayRef = Arc::new(Int64Array::from(vec![customer]));
    let events = events.iter().map(|rows| ("taps".to_owned(), rows.clone()));
    ReadRequest {
        caller: Caller::named("test"),
        target: ReadTarget::Service("tap_check".into()),
        keys: RecordBatch::try_from_iter([("customer_id", keys)]).unwrap(),
        inputs: Vec::new(),
        request_events: events.collect(),
        as_of: Some(UtcMicros(t)),
        strictly_before: before,
        full_names: false,
    }
}

async fn read(reader: &Reader, request: ReadRequest) -> Vec<String> {
    let answer = reader.read(request).await.unwrap();
    let values = answer.features.iter().map(|feature| {
        let text = json::text(&feature.values, 0);
        text.unwrap_or("NULL".into())
    });
    values.collect()
}

#[tokio::test]
async fn an_event_counts_in_every_live_view_and_at_every_level() {
    let folder = tempfile::tempdir().unwrap();
    let (_project, reader) = project(folder.path()).await;
    let t = hour(2);
    let written = UtcMicros(t).to_string();
    let without = read(&reader, request(1, t, false, &[])).await;
    assert_eq!(without[..3], ["1", "10", "d1"]);
    assert_eq!(without[4..], ["2", "2"]);
    // Its device decides over the next level, its friends over those of EACH.
    let tap = Tap("new", 1, "d2", &[1, 2], 5, None);
    let with = read(&reader, request(1, t, false, &[taps(&[tap])])).await;
    assert_eq!(with, ["2", "15", "d2", &written, "2", "4"]);
    // Nothing is stored.
    assert_eq!(read(&reader, request(1, t, false, &[])).await, without);
    // One after t is not seen, one of long ago is out of the window of an hour.
    let later = Tap("new", 1, "d2", &[], 5, Some(t + 1));
    let read_later = read(&reader, request(1, t, false, &[taps(&[later])])).await;
    assert_eq!(read_later, without);
    let earlier = Tap("new", 1, "d2", &[], 5, Some(hour(0)));
    let read_earlier = read(&reader, request(1, t, false, &[taps(&[earlier])])).await;
    assert_eq!(read_earlier, without);
    // Of another customer it is an event of the device.
    let other = Tap("new", 9, "d1", &[], 5, None);
    let read_other = read(&reader, request(1, t, false, &[taps(&[other])])).await;
    assert_eq!(read_other[4], "3");
    assert_eq!(read_other[..2], ["1", "10"]);
    // Strictly before t: the event of customer 2 at t is not there, the request's is.
    let tap = Tap("new", 2, "d9", &[], 1, None);
    let strictly = read(&reader, request(2, t, true, &[taps(&[tap])])).await;
    assert_eq!(strictly[..3], ["2", "21", "d9"]);
}

#[tokio::test]
async fn an_event_of_a_known_id_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let (_project, reader) = project(folder.path()).await;
    let without = read(&reader, request(1, hour(2), false, &[])).await;
    let stored = Tap("a", 1, "d7", &[], 1_000, None);
    let again = read(&reader, request(1, hour(2), false, &[taps(&[stored])])).await;
    assert_eq!(again, without);
    // As of before it was, the stored one is not seen.
    let stored = Tap("late", 1, "d7", &[], 1_000, None);
    let before = read(&reader, request(1, hour(2), false, &[taps(&[stored])])).await;
    assert_eq!(before[..3], ["2", "1010", "d7"]);
    let (first, second) = (
        Tap("new", 1, "d7", &[], 100, None),
        Tap("new", 1, "d7", &[], 200, None),
    );
    let twice = request(1, hour(2), false, &[taps(&[first]), taps(&[second])]);
    assert_eq!(read(&reader, twice).await[..2], ["2", "110"]);
}

#[tokio::test]
async fn wrong_events_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (_project, reader) = project(folder.path()).await;
    let column = |name: &str, array: ArrayRef| {
        RecordBatch::try_from_iter_with_nullable([(name, array, true)]).unwrap()
    };
    let text = || -> ArrayRef { Arc::new(StringArray::from(vec!["x"])) };
    for (stream, rows, told) in [
        (
            "tapz",
            column("tap_id", text()),
            "request events of tapz: there is no such stream; did you mean \"taps\"?",
        ),
        (
            "others",
            column("customer_id", Arc::new(Int64Array::from(vec![1]))),
            "request events of others: no live view of this read is over that stream, so nothing \
             would see them",
        ),
        (
            "taps",
            column("tapid", text()),
            "request events of taps: the stream has no column tapid; did you mean \"tap_id\"?",
        ),
        (
            "taps",
            column("customer_id", text()),
            "request events of taps: customer_id expects BIGINT, got VARCHAR",
        ),
    ] {
        let mut request = request(1, hour(2), false, &[]);
        request.request_events = vec![(stream.to_owned(), rows)];
        let error = reader.read(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.to_string(), told);
    }
}

async fn train(
    project: &TestProject,
    spine: &str,
    events: &[(&str, Option<&str>)],
) -> Result<Vec<Vec<String>>, String> {
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let service = &snapshot.definitions.services["tap_check"];
    let request = TrainingRequest {
        spine: Spine::Sql(spine.into()),
        time: "event_time".into(),
        from: service.from.clone(),
        features: service.features.clone(),
        options: TrainingOptions::default(),
        request_events: events
            .iter()
            .map(|(stream, query)| SpineEvents {
                stream: (*stream).to_owned(),
                query: query.map(str::to_owned),
            })
            .collect(),
    };
    let set = project.engine.training_set(&snapshot.definitions, request);
    let set = set.await.map_err(|error| error.to_string())?;
    let rows: Vec<RecordBatch> = set.execute().unwrap().try_collect().await.unwrap();
    let mut all = Vec::new();
    for batch in rows {
        for row in 0..batch.num_rows() {
            let values = FEATURES.iter().map(|name| {
                let text = json::text(batch.column_by_name(name).unwrap(), row);
                text.unwrap_or("NULL".into())
            });
            all.push(values.collect());
        }
    }
    Ok(all)
}

/// The rows of the spine are read for, each with the event that it is.
#[tokio::test]
async fn a_training_set_answers_as_the_read_would_have() {
    let folder = tempfile::tempdir().unwrap();
    let (project, reader) = project(folder.path()).await;
    let asked = [
        (1, Tap("new", 1, "d2", &[1, 2], 5, None), hour(2)),
        (2, Tap("new", 2, "d2", &[2, 2, 7], 5, None), hour(2)),
        (1, Tap("a", 1, "d2", &[1, 2], 5, None), hour(3)),
        (1, Tap("late", 1, "d1", &[2], 7, None), hour(3)),
        (3, Tap("new", 4, "d1", &[2], 7, None), hour(6)),
        (2, Tap("new", 2, "d1", &[2], 7, Some(hour(1) + 9)), hour(2)),
    ];
    let mut online = Vec::new();
    let mut rows = Vec::new();
    for (customer, tap, t) in asked {
        let event = taps(&[tap]);
        online.push(read(&reader, request(customer, t, true, &[event])).await);
        let time = |t: i64| format!("TIMESTAMP '{}'", UtcMicros(t));
        let friends: Vec<String> = tap.3.iter().map(ToString::to_string).collect();
        rows.push(format!(
            "SELECT CAST({customer} AS BIGINT) AS customer_id, '{}' AS tap_id, \
             CAST({} AS BIGINT) AS tapper, '{}' AS device, [{}] AS friends, \
             CAST({} AS BIGINT) AS amount, {} AS at, {} AS event_time",
            tap.0,
            tap.1,
            tap.2,
            friends.join(", "),
            tap.4,
            tap.5.map_or("CAST(NULL AS TIMESTAMP)".into(), time),
            time(t),
        ));
    }
    let spine = rows.join(" UNION ALL ");
    let query = "SELECT tap_id, tapper AS customer_id, device AS device_id, friends, amount, at \
                 FROM spine";
    let trained = train(&project, &spine, &[("taps", Some(query))]).await;
    let mut trained = trained.unwrap();
    trained.sort();
    online.sort();
    assert_eq!(trained, online);
}

#[tokio::test]
async fn wrong_events_of_a_spine_are_told_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (project, _reader) = project(folder.path()).await;
    let spine = "SELECT CAST(1 AS BIGINT) AS customer_id, 'x' AS device, TIMESTAMP \
                 '2026-03-01' AS event_time";
    for (events, told) in [
        (
            vec![("tapz", None)],
            "request events of tapz: there is no such stream; did you mean \"taps\"?",
        ),
        (
            vec![("taps", None), ("taps", None)],
            "request events of taps: the stream is given twice",
        ),
        (
            vec![("others", None)],
            "request events of others: no live view of this training set is over that stream",
        ),
        (
            vec![("taps", Some("SELECT device FROM spine"))],
            "request events of taps: the stream has no column \"device\"",
        ),
        (
            vec![("taps", Some("SELECT device AS amount FROM spine"))],
            "request events of taps: amount expects BIGINT, got VARCHAR",
        ),
        (
            vec![("taps", Some("SELECT count(*) AS amount FROM spine"))],
            "does not work row by row",
        ),
    ] {
        let error = train(&project, spine, &events).await.unwrap_err();
        assert!(error.contains(told), "no {told:?} in {error}");
    }
    // Without the event: the device's own are counted all the same.
    let rows = train(&project, spine, &[("taps", None)]).await.unwrap();
    assert_eq!(rows[0][..2], ["1", "NULL"]);
}
