//! Pushes to streams: what is taken, what is refused, what a restart keeps.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampSecondArray,
};
use arrow::compute::concat_batches;
use futures::TryStreamExt;
use granary_engine::StreamSource;
use granary_ingest::{IngestError, OpenEvents, Pushed, StreamSettings, Streams};
use granary_model::definitions::{Annotations, Column, Definitions, Stream};
use granary_model::fingerprint::Fingerprint;
use granary_model::{ErrorKind, FeatureType, ManualClock, UtcMicros};
use granary_store::{EmbeddedEventSettings, StoreError};

use crate::project::Project;

const NOW: i64 = 1_700_000_000_000_000;
const HOUR: i64 = 3_600_000_000;

fn definitions() -> Definitions {
    let stream = Stream {
        name: "card_event".into(),
        columns: vec![
            Column::new("event_id".to_owned(), FeatureType::Varchar),
            Column::new("customer_id".to_owned(), FeatureType::BigInt),
            Column::new("amount".to_owned(), FeatureType::Double),
            Column::new("at".to_owned(), FeatureType::Timestamp),
        ],
        event_time: "at".into(),
        deduplicate_by: vec!["event_id".into()],
        history: None,
        then_by: Vec::new(),
        annotations: Annotations::default(),
        fingerprint: Fingerprint("1".into()),
    };
    let mut definitions = Definitions::default();
    definitions.streams.insert(stream.name.clone(), stream);
    definitions
}

async fn open(folder: &Path) -> Streams {
    let clock = Arc::new(ManualClock::new(UtcMicros(NOW)));
    let events = EmbeddedEventSettings::default();
    let streams = Streams::open(folder, events, StreamSettings::default(), clock).unwrap();
    let engine = Project::new().engine.clone();
    streams.follow(&engine, &definitions()).await.unwrap();
    streams
}

fn batch(rows: &[(Option<&str>, Option<i64>)]) -> RecordBatch {
    let ids: StringArray = rows.iter().map(|row| row.0).collect();
    let times: TimestampMicrosecondArray = rows.iter().map(|row| row.1).collect();
    let customers = Int64Array::from_iter_values(0..rows.len() as i64);
    let amounts: Float64Array = rows.iter().map(|_| Some(1.5)).collect();
    RecordBatch::try_from_iter([
        ("at", Arc::new(times.with_timezone("UTC")) as ArrayRef),
        ("event_id", Arc::new(ids) as ArrayRef),
        ("customer_id", Arc::new(customers) as ArrayRef),
        ("amount", Arc::new(amounts) as ArrayRef),
    ])
    .unwrap()
}

fn words(pushed: &[Pushed]) -> Vec<&str> {
    let word = |row: &Pushed| match row {
        Pushed::Appended(_) => "appended",
        Pushed::Duplicate(_) => "duplicate",
        Pushed::History(_) => "history",
        Pushed::Refused(_) => "refused",
    };
    let words = pushed.iter().map(word);
    words.map(|word| word as &str).collect()
}

async fn kept(streams: &Streams) -> RecordBatch {
    let source = OpenEvents(Arc::clone(streams.opened()));
    let stream = &definitions().streams["card_event"];
    let columns: Vec<usize> = (0..stream.columns.len()).collect();
    let batches = source.scan(stream, &columns).await.unwrap();
    let batches: Vec<RecordBatch> = batches.kept.try_collect().await.unwrap();
    let schema = stream.row_schema().project(&columns).unwrap();
    concat_batches(&Arc::new(schema), &batches).unwrap()
}

#[tokio::test]
async fn keeps_the_good_rows_beside_the_refused() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let rows = batch(&[
        (Some("a"), Some(NOW)),
        (Some("b"), None),
        (Some("c"), Some(NOW + HOUR)),
        (Some("d"), Some(NOW + HOUR + 1)),
        (Some("a"), Some(NOW - 1)),
        (None, Some(NOW)),
        (None, Some(NOW)),
    ]);
    let pushed = streams.push("card_event", &rows).await.unwrap();
    let expected = [
        "appended",
        "refused",
        "appended",
        "refused",
        "duplicate",
        "appended",
        "appended",
    ];
    assert_eq!(words(&pushed), expected);
    let null = "at is NULL: an event needs its event time";
    assert_eq!(pushed[1], Pushed::Refused(null.to_owned()));
    let kept = kept(&streams).await;
    let ids: Vec<_> = kept.column(0).as_string::<i32>().iter().collect();
    assert_eq!(ids, [Some("a"), Some("c"), None, None]);
}

#[tokio::test]
async fn refuses_the_row_whose_value_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let good = batch(&[(Some("a"), None), (Some("b"), None)]);
    let seconds = TimestampSecondArray::from(vec![NOW / 1_000_000, i64::MAX]);
    let schema = good.schema();
    let columns = (schema.fields().iter())
        .map(|field| field.name().clone())
        .zip(good.columns().iter().cloned())
        .map(|(name, column)| match name.as_str() {
            "at" => (name, Arc::new(seconds.clone()) as ArrayRef),
            _ => (name, column),
        });
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let pushed = streams.push("card_event", &rows).await.unwrap();
    assert_eq!(words(&pushed), ["appended", "refused"]);
    assert_eq!(pushed[1], Pushed::Refused("at is no TIMESTAMP".into()));
}

#[tokio::test]
async fn finds_events_and_duplicates_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let rows = batch(&[(Some("a"), Some(NOW)), (Some("b"), Some(NOW))]);
    let streams = open(folder.path()).await;
    let first = streams.push("card_event", &rows).await.unwrap();
    assert_eq!(words(&first), ["appended", "appended"]);
    drop(streams);

    let streams = open(folder.path()).await;
    let again = batch(&[(Some("b"), Some(NOW)), (Some("c"), Some(NOW))]);
    let second = streams.push("card_event", &again).await.unwrap();
    assert_eq!(words(&second), ["duplicate", "appended"]);
    assert_eq!(kept(&streams).await.num_rows(), 3);
}

#[tokio::test]
async fn refuses_a_batch_of_other_columns_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let good = batch(&[(Some("a"), Some(NOW))]);
    let text = Arc::new(StringArray::from(vec!["1"])) as ArrayRef;
    let mut columns: Vec<(String, ArrayRef)> = (good.schema().fields().iter())
        .map(|field| field.name().clone())
        .zip(good.columns().iter().cloned())
        .collect();
    let cases: [(&str, Vec<(String, ArrayRef)>); 3] = [
        ("column amount is missing", columns[..3].to_vec()),
        ("has no column extra", {
            let mut more = columns.clone();
            more.push(("extra".into(), Arc::clone(&text)));
            more
        }),
        ("column customer_id expects BIGINT, got Utf8", {
            columns[2].1 = text;
            columns
        }),
    ];
    for (expected, columns) in cases {
        let bad = RecordBatch::try_from_iter(columns).unwrap();
        let error = streams.push("card_event", &bad).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.to_string(), format!("stream card_event: {expected}"));
    }
    assert_eq!(kept(&streams).await.num_rows(), 0);
    let unknown = streams.push("card", &good).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn one_process_owns_the_events() {
    let folder = tempfile::tempdir().unwrap();
    let _owner = open(folder.path()).await;
    let clock = Arc::new(ManualClock::new(UtcMicros(NOW)));
    let events = EmbeddedEventSettings::default();
    let second = Streams::open(folder.path(), events, StreamSettings::default(), clock);
    let owned = matches!(
        second,
        Err(IngestError::Store(StoreError::EventsOwned { .. }))
    );
    assert!(owned);
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_leaves_the_others_be() {
    let folder = tempfile::tempdir().unwrap();
    let streams = open(folder.path()).await;
    let rows = batch(&[(Some("a"), Some(NOW))]);
    streams.push("card_event", &rows).await.unwrap();
    let mut changed = definitions();
    let mut other = changed.streams["card_event"].clone();
    other.name = "other".into();
    changed.streams.insert(other.name.clone(), other);
    let stored = changed.streams.get_mut("card_event").unwrap();
    stored.columns[2].data_type = FeatureType::BigInt;
    let engine = Project::new().engine.clone();
    let told = "stream card_event is not open: ";
    for _ in 0..2 {
        let error = streams.follow(&engine, &changed).await.unwrap_err();
        assert!(
            matches!(&error, IngestError::NotOpen { stream, .. } if stream == "card_event"),
            "{error}"
        );
        let error = streams.push("card_event", &rows).await.unwrap_err();
        assert!(error.to_string().starts_with(told), "{error}");
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        let pushed = streams.push("other", &rows).await.unwrap();
        assert_eq!(pushed.len(), 1);
        let statuses = streams.statuses().await.unwrap();
        let statuses: Vec<_> = { statuses.iter() }
            .map(|status| {
                (
                    &*status.name,
                    status.not_open.is_some(),
                    status.state.events,
                )
            })
            .collect();
        assert_eq!(statuses, [("card_event", true, 0), ("other", false, 1)]);
    }
    streams.follow(&engine, &definitions()).await.unwrap();
    let pushed = streams.push("card_event", &rows).await.unwrap();
    assert_eq!(words(&pushed), ["duplicate"]);
}
