//! Live views over what a stream's events are made into: one event may be of
//! several keys, several streams may be one relation. What is read right after
//! a push is what the training set says.

mod tiles;
mod trimmed;

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::json::ReaderBuilder;
use granary_engine::EngineSettings;
use granary_ingest::Pushed;
use granary_model::definitions::Stream;
use granary_model::{FeatureStatus, ManualClock, UtcMicros, json};
use granary_serving::{ReadRequest, ReadTarget, ServingSettings};
use granary_testing::TestProject;

use crate::lender::project::definitions;
use crate::parity::compare::{Counts, Parity};

const SQL: &str = include_str!("live/views.sql");

/// Contacts of an application, a phone call, another lender's application.
const PUSHES: [(&str, &[&str]); 4] = [
    (
        "application",
        &[
            r#"{"id":"a1","customer_id":1,"device":"d1","contacts":[2,3],"amount":100,"at":"2026-03-01T10:00:00Z"}"#,
            r#"{"id":"a2","customer_id":2,"device":"d1","contacts":[3,3],"amount":50,"at":"2026-03-01T10:05:00Z"}"#,
            r#"{"id":"a3","customer_id":3,"device":null,"contacts":[],"amount":20,"at":"2026-03-01T09:00:00Z"}"#,
        ],
    ),
    (
        "elsewhere",
        &[
            r#"{"person":1,"lender":"x","wanted":"700","at":"2026-03-01T09:30:00Z"}"#,
            r#"{"person":3,"lender":"y","wanted":"none","at":"2026-03-01T09:40:00Z"}"#,
        ],
    ),
    (
        "application",
        &[
            // Late, and a repetition.
            r#"{"id":"a4","customer_id":1,"device":"d2","contacts":[1,2],"amount":5,"at":"2026-02-28T11:00:00Z"}"#,
            r#"{"id":"a1","customer_id":1,"device":"d9","contacts":[9],"amount":9,"at":"2026-03-01T10:00:00Z"}"#,
        ],
    ),
    (
        "elsewhere",
        &[r#"{"person":1,"lender":"z","wanted":"30","at":"2026-03-01T10:05:00Z"}"#],
    ),
];

fn project(folder: &Path, now: UtcMicros) -> TestProject {
    let clock = Arc::new(ManualClock::new(now));
    TestProject::open(folder, EngineSettings::default(), clock).unwrap()
}

fn at(text: &str) -> UtcMicros {
    text.parse().unwrap()
}

/// JSON rows in the stream's columns.
fn rows(stream: &Stream, rows: &[&str]) -> RecordBatch {
    let columns: Vec<usize> = (0..stream.columns.len()).collect();
    let schema = Arc::new(stream.row_schema().project(&columns).unwrap());
    let text = rows.join("\n");
    let mut reader = ReaderBuilder::new(schema).build(text.as_bytes()).unwrap();
    reader.next().unwrap().unwrap()
}

/// The values of one view for keys, as text; `None` where there is none.
async fn read(
    project: &TestProject,
    feature: &str,
    keys: (&str, &RecordBatch),
    as_of: Option<UtcMicros>,
) -> Vec<Option<String>> {
    try_read(project, feature, keys, as_of).await.unwrap()
}

async fn try_read(
    project: &TestProject,
    feature: &str,
    keys: (&str, &RecordBatch),
    as_of: Option<UtcMicros>,
) -> Result<Vec<Option<String>>, String> {
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let answer = reader.read(ReadRequest {
        caller: granary_model::Caller::named("test"),
        target: ReadTarget::Features(vec![feature.to_owned()]),
        keys: keys.1.clone(),
        inputs: Vec::new(),
        request_events: Vec::new(),
        as_of,
        strictly_before: false,
        full_names: false,
    });
    let answer = answer.await.map_err(|error| error.to_string())?;
    let feature = &answer.features[0];
    let value = |row| match feature.statuses[row] {
        FeatureStatus::Present => json::text(&feature.values, row),
        other => Some(other.as_str().to_owned()),
    };
    Ok((0..feature.values.len()).map(value).collect())
}

fn customers(ids: &[Option<i64>]) -> RecordBatch {
    let ids: arrow::array::Int64Array = ids.iter().copied().collect();
    RecordBatch::try_from_iter_with_nullable([("customer_id", Arc::new(ids) as _, true)]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_counts_for_every_key_that_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let now = at("2026-03-01T10:10:00Z");
    let project = project(folder.path(), now);
    let snapshot = project.apply(&[("sql/views.sql", SQL)]).await;
    let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}"));
    let definitions = &snapshot.definitions;
    let mut duplicates = 0;
    for (name, events) in PUSHES {
        let batch = rows(&definitions.streams[name], events);
        let pushed = project.streams.push(name, &batch).await.unwrap();
        let is_duplicate = |row: &&Pushed| matches!(row, Pushed::Duplicate(_));
        duplicates += pushed.iter().filter(is_duplicate).count();
        for t in [
            "2026-03-01T09:35:00Z",
            "2026-03-01T10:05:00Z",
            "2026-03-02T10:00:00Z",
        ] {
            let parity = Parity::as_of(&project, at(t)).await;
            let mut counts = Counts::default();
            for view in definitions.feature_views.values() {
                assert!(view.live, "{}", view.name);
                let keys = match view.keys[0].name.as_str() {
                    "customer_id" => {
                        "SELECT CAST(column1 AS BIGINT) AS customer_id FROM (VALUES (1), (2), (3), (9), (NULL))"
                    }
                    _ => "SELECT column1 AS device FROM (VALUES ('d1'), ('d2'), ('d9'), (NULL))",
                };
                parity.compare(view, keys, &mut counts).await;
            }
            assert!(counts.differences.is_empty(), "{:#?}", counts.differences);
            assert!(counts.keys > 0);
        }
    }
    assert_eq!(duplicates, 1);
    let keys = customers(&[Some(1), Some(2), Some(3), Some(9), None]);
    let asked = ("customer_id", &keys);
    let texts = |texts: [&str; 5]| texts.map(|text| Some(text.to_owned())).to_vec();
    // a1 and a4 name 2; a1 and, twice, a2 name 3; a4 names 1.
    let named = read(&project, "named.times_30d", asked, None).await;
    assert_eq!(named, texts(["1", "2", "3", "0", "NOT_FOUND"]));
    // Own applications and those elsewhere that say how much: 100 + 5 + 700 + 30.
    let everywhere = read(&project, "everywhere.wanted_30d", asked, None).await;
    assert_eq!(
        everywhere,
        texts(["835.0", "50.0", "20.0", "NULL_VALUE", "NOT_FOUND"])
    );
    let newest = read(&project, "newest.lender", asked, None).await;
    assert_eq!(
        newest,
        texts(["z", "us", "NOT_FOUND", "NOT_FOUND", "NOT_FOUND"])
    );
    let earlier = Some(at("2026-03-01T09:59:59Z"));
    let newest = read(&project, "newest.lender", asked, earlier).await;
    assert_eq!(newest[..2], texts(["x", "NOT_FOUND", "", "", ""])[..2]);
}

/// An event may be ahead of the clock: what it pushes out is beyond the TTL of a
/// read as of now all the same.
#[tokio::test]
async fn an_event_ahead_of_the_clock_takes_no_answer_away() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), at("2026-03-03T12:00:00Z"));
    let sql = "CREATE ENTITY customer KEY (customer_id BIGINT);
        CREATE STREAM tap (customer_id BIGINT, n BIGINT, at TIMESTAMP) EVENT TIME at;
        CREATE FEATURE VIEW newest ENTITY customer EVENT TIME at TTL INTERVAL '1 day'
        AS SELECT customer_id, at, n FROM tap;";
    let snapshot = project.apply(&[("sql/tap.sql", sql)]).await.unwrap();
    let events = [
        r#"{"customer_id":1,"n":1,"at":"2026-03-01T12:00:00Z"}"#,
        r#"{"customer_id":2,"n":2,"at":"2026-03-03T11:00:00Z"}"#,
        r#"{"customer_id":3,"n":3,"at":"2026-03-03T12:10:00Z"}"#,
    ];
    let batch = rows(&snapshot.definitions.streams["tap"], &events);
    project.streams.push("tap", &batch).await.unwrap();
    assert_eq!(project.streams.trim("tap").await.unwrap(), 1);
    let keys = customers(&[Some(1), Some(2), Some(3)]);
    let read = read(&project, "newest.n", ("customer_id", &keys), None).await;
    let expected = ["NOT_FOUND", "2", "NOT_FOUND"].map(|text| Some(text.to_owned()));
    assert_eq!(read, expected);
}

#[tokio::test]
async fn a_changed_view_is_filed_anew_over_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), at("2026-03-01T12:00:00Z"));
    project.apply(&[("sql/views.sql", SQL)]).await.unwrap();
    let definitions = project.catalog.latest().await.unwrap().unwrap();
    for (name, events) in PUSHES {
        let batch = rows(&definitions.definitions.streams[name], events);
        project.streams.push(name, &batch).await.unwrap();
    }
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let changed = SQL.replace(
        "unnest(contacts) AS customer_id",
        "unnest(array_distinct(contacts)) AS customer_id",
    );
    assert_ne!(changed, SQL);
    project.apply(&[("sql/views.sql", &changed)]).await.unwrap();
    reader.refresh().await.unwrap();
    let keys = customers(&[Some(2), Some(3)]);
    let named = read(&project, "named.times_30d", ("customer_id", &keys), None).await;
    assert_eq!(named, [Some("2".to_owned()), Some("2".to_owned())]);
}

/// Two applicants on one device with one contact, ten minutes apart; one who
/// says neither place nor contacts.
const APPLICATIONS: [&str; 3] = [
    r#"{"application_id":1,"customer_id":1,"device_id":"d1","phone_number":"p1","contact_numbers":["p8","p9"],"latitude":52.5,"longitude":13.4,"amount":1000,"term_months":12,"at":"2026-03-01T10:00:00Z"}"#,
    r#"{"application_id":2,"customer_id":2,"device_id":"d1","phone_number":"p2","contact_numbers":["p9"],"latitude":52.5,"longitude":13.4,"amount":500.5,"term_months":6,"at":"2026-03-01T10:10:00Z"}"#,
    r#"{"application_id":3,"customer_id":1,"device_id":"d2","phone_number":"p2","contact_numbers":null,"latitude":null,"longitude":null,"amount":1,"term_months":6,"at":"2026-02-24T10:00:00Z"}"#,
];

#[allow(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test(flavor = "multi_thread")]
async fn the_lenders_live_views_say_what_the_training_set_says() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), at("2026-03-01T12:00:00Z"));
    let files = definitions(include_str!("lender/village.sql").to_owned());
    let files = files
        .iter()
        .map(|(path, sql)| (path.as_str(), sql.as_str()));
    let files: Vec<(&str, &str)> = files.collect();
    let snapshot = project.apply(&files).await;
    let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}"));
    let definitions = &snapshot.definitions;
    let batch = rows(&definitions.streams["application_event"], &APPLICATIONS);
    project
        .streams
        .push("application_event", &batch)
        .await
        .unwrap();

    let mut counts = Counts::default();
    for t in [
        "2026-03-01T10:10:00Z",
        "2026-03-01T10:10:00.000001Z",
        "2026-03-03T10:00:00.000001Z",
    ] {
        let parity = Parity::as_of(&project, at(t)).await;
        let views = definitions.feature_views.values();
        for view in views.filter(|view| view.live) {
            let keys = match view.keys[0].name.as_str() {
                "customer_id" => {
                    "SELECT CAST(column1 AS BIGINT) AS customer_id FROM (VALUES (1), (2), (9))"
                }
                "device_id" => "SELECT column1 AS device_id FROM (VALUES ('d1'), ('d2'), ('d9'))",
                "cell" => "SELECT h3_cell(52.5, column1, 7) AS cell FROM (VALUES (13.4), (13.5))",
                _ => "SELECT column1 AS phone_number FROM (VALUES ('p1'), ('p2'), ('p8'), ('p9'))",
            };
            parity.compare(view, keys, &mut counts).await;
        }
    }
    assert!(counts.differences.is_empty(), "{:#?}", counts.differences);
    assert!(counts.present > 100, "{}", counts.present);

    let text = |values: &[&str]| -> Vec<Option<String>> {
        values
            .iter()
            .map(|value| Some((*value).to_owned()))
            .collect()
    };
    let keys = customers(&[Some(1), Some(2), Some(9)]);
    let expected = [
        ("customer_velocity.applications_7d", ["2", "1", "0"]),
        ("customer_velocity.devices_7d", ["2", "1", "0"]),
        ("application_in_hand.device_id", ["d1", "d1", "NOT_FOUND"]),
        // p9 is named by both, p8 by one.
        (
            "application_contacts_shared.contact_applicants_7d",
            ["2", "2", "NULL_VALUE"],
        ),
        (
            "application_contacts_shared.shared_contacts_7d",
            ["1", "1", "0"],
        ),
    ];
    // The first event is just inside ten minutes, the third inside seven days.
    let t = Some(at("2026-03-01T10:10:00Z"));
    for (feature, values) in expected {
        let given = read(&project, feature, ("customer_id", &keys), t).await;
        assert_eq!(given, text(&values), "{feature}");
    }
    let devices = arrow::array::StringArray::from(vec!["d1", "d2"]);
    let keys = RecordBatch::try_from_iter([("device_id", Arc::new(devices) as _)]).unwrap();
    for (t, values) in [
        ("2026-03-01T10:10:00Z", ["2", "0"]),
        ("2026-03-01T10:10:00.000001Z", ["1", "0"]),
    ] {
        let feature = "device_velocity.applications_10m";
        let given = read(&project, feature, ("device_id", &keys), Some(at(t))).await;
        assert_eq!(given, text(&values), "as of {t}");
    }
}
