//! Events that go to the history only.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use granary_engine::Retention;
use granary_ingest::{HistoryPushed, Late, Pushed, StreamSettings};
use granary_model::{ErrorKind, Interval};

use super::home::{DAY, Home, NOW, STREAM, batch, settings};

/// The columns of `batch` and `_created`.
fn with_created(ids: &[&str], at: i64, created: &[Option<i64>]) -> RecordBatch {
    let events = batch(ids, at);
    let created: TimestampMicrosecondArray = created.iter().copied().collect();
    let schema = events.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let columns = names.zip(events.columns().iter().cloned());
    let created = Arc::new(created.with_timezone("UTC")) as ArrayRef;
    RecordBatch::try_from_iter([("_created", created)].into_iter().chain(columns)).unwrap()
}

#[tokio::test]
async fn older_events_come_in_once() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings()).await;
    home.push(&["flushed"], NOW).await;
    home.flush().await;
    home.trim(NOW + 1).await;
    home.push(&["kept"], NOW).await;
    let long_ago = NOW - 900 * DAY;
    let first = with_created(
        &["a", "b", "a"],
        long_ago,
        &[Some(long_ago + 5), None, None],
    );
    let second = batch(&["b", "flushed", "kept", "c"], long_ago + DAY);
    let file = [first, second];
    let pushed = home.push_history(&file).await;
    let expected = |added, duplicates| HistoryPushed {
        added,
        duplicates,
        refused: Vec::new(),
    };
    assert_eq!(pushed, expected(3, 4));
    assert_eq!(home.push_history(&file).await, expected(0, 7));
    home.push(&["d"], NOW).await;
    let all = ["a", "b", "c", "d", "flushed", "kept"];
    assert_eq!(home.ids().await, all);
    let state = home.state().await;
    assert_eq!(state.events, 2, "nothing older is kept");
    let created = "SELECT event_id FROM card_history WHERE _created = at ORDER BY event_id";
    assert_eq!(home.texts(created).await, ["b", "c", "flushed"]);
    let home = home.restart().await;
    assert_eq!(home.push_history(&file).await, expected(0, 7));
    home.flush().await;
    assert_eq!(home.ids().await, all);
    assert_eq!(
        home.texts("SELECT count(DISTINCT _seq) FROM card_history")
            .await,
        ["6"]
    );
}

#[tokio::test]
async fn rows_that_nothing_tells_apart_are_told_by_the_call() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::repeating(folder.path(), settings()).await;
    let file = [batch(&["a", "a"], NOW - DAY), batch(&["b"], NOW - DAY)];
    assert_eq!(home.push_history(&file).await.added, 3);
    let again = home.push_history(&file).await;
    assert_eq!((again.added, again.duplicates), (0, 3));
    assert_eq!(home.push_history(&file[1..]).await.added, 1);
    assert_eq!(home.ids().await, ["a", "a", "b", "b"]);
}

#[tokio::test]
async fn what_cannot_come_in_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings()).await;
    let future = batch(&["a"], NOW + DAY);
    let pushed = home.push_history(&[batch(&["b"], NOW), future]).await;
    assert_eq!(pushed.added, 1);
    let [(1, reason)] = &pushed.refused[..] else {
        panic!("{pushed:?}");
    };
    assert!(reason.contains("is the latest taken now"), "{reason}");
    let early = with_created(&["d", "e"], NOW, &[Some(NOW + DAY), Some(NOW)]);
    let pushed = home.push_history(&[early]).await;
    assert_eq!(pushed.added, 1);
    let [(0, reason)] = &pushed.refused[..] else {
        panic!("{pushed:?}");
    };
    assert!(reason.starts_with("_created is 20"), "{reason}");
    let odd = batch(&["c"], NOW).project(&[0, 1, 3]).unwrap();
    let refused = home.streams.push_history(STREAM, &[odd]).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "stream card_event: column amount is missing"
    );

    let folder = tempfile::tempdir().unwrap();
    let bare = Home::bare(folder.path(), settings()).await;
    let refused = bare
        .streams
        .push_history(STREAM, &[batch(&["a"], NOW)])
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    assert_eq!(refused.to_string(), "stream card_event: it has no HISTORY");
}

#[tokio::test]
async fn late_events_go_to_the_history_where_the_settings_say_so() {
    let settings = StreamSettings {
        late: Late::History,
        future_seconds_max: 0,
        ..settings()
    };
    let two_days = || {
        let range = Interval {
            days: 2,
            ..Interval::ZERO
        };
        BTreeMap::from([(STREAM.to_owned(), Retention::range(range))])
    };
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings.clone()).await;
    home.push(&["new", "kept"], NOW).await;
    home.streams.retain(two_days());
    let late = home.push(&["late", "kept", "late"], NOW - 9 * DAY).await;
    let [
        Pushed::History(first),
        Pushed::Duplicate(kept),
        Pushed::Duplicate(again),
    ] = late[..]
    else {
        panic!("{late:?}");
    };
    assert_eq!((kept.sequence, again), (2, first));
    let again = home.push(&["late"], NOW - 9 * DAY).await;
    assert_eq!(again, [Pushed::Duplicate(first)]);
    assert_eq!(home.state().await.events, 2);
    assert_eq!(home.ids().await, ["kept", "late", "new"]);
    home.need(20).await;
    assert_eq!(home.state().await.events, 3, "a longer window takes it in");

    let folder = tempfile::tempdir().unwrap();
    let bare = Home::bare(folder.path(), settings).await;
    bare.push(&["new"], NOW).await;
    bare.streams.retain(two_days());
    let late = bare.push(&["late"], NOW - 9 * DAY).await;
    let [Pushed::Refused(reason)] = &late[..] else {
        panic!("{late:?}");
    };
    assert!(
        reason.ends_with("the stream has no HISTORY to take it"),
        "{reason}"
    );
}
