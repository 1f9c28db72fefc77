//! Events of the history that a new view needs come back.

use std::collections::BTreeMap;

use granary_engine::Retention;
use granary_ingest::{Pushed, StreamSettings};
use granary_model::UtcMicros;

use super::home::{DAY, Home, NOW, STREAM, batch, settings};

fn exact() -> StreamSettings {
    StreamSettings {
        future_seconds_max: 0,
        ..settings()
    }
}

/// One event a day, `0` today, flushed.
async fn week(home: &Home) {
    for day in (0..7).rev() {
        home.push(&[&day.to_string()], NOW - day * DAY).await;
    }
    home.flush().await;
}

#[tokio::test]
async fn a_longer_window_brings_events_back_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), exact()).await;
    week(&home).await;
    let rows = "SELECT event_id, _created FROM card_event ORDER BY 1";
    let before = home.texts(rows).await;
    home.need(1).await;
    let state = home.state().await;
    assert_eq!(
        (state.events, state.trimmed_before),
        (2, Some(UtcMicros(NOW - DAY)))
    );
    home.need(4).await;
    let state = home.state().await;
    assert_eq!(
        (state.events, state.trimmed_before),
        (5, Some(UtcMicros(NOW - 4 * DAY)))
    );
    assert_eq!(home.texts(rows).await, before, "and no event twice");
    assert_eq!(home.flush().await, 0, "nor flushed again");
    let again = home.push(&["3"], NOW - 3 * DAY).await;
    assert!(matches!(again[..], [Pushed::Duplicate(_)]), "{again:?}");
    assert_eq!(
        home.streams.restore(STREAM).await.unwrap(),
        0,
        "nothing is left to do"
    );
    home.need(2).await;
    assert_eq!(home.state().await.events, 3);
    home.streams
        .retain(BTreeMap::from([(STREAM.to_owned(), Retention::Everything)]));
    assert_eq!(home.streams.restore(STREAM).await.unwrap(), 4);
    assert_eq!(home.texts(rows).await, before);
}

/// A process that ended before everything was back, and so before it was noted.
#[tokio::test]
async fn nothing_goes_before_everything_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), exact()).await;
    week(&home).await;
    home.need(1).await;
    let home = home.restart().await;
    let needs = Retention::range(granary_model::Interval {
        days: 4,
        ..granary_model::Interval::ZERO
    });
    home.streams
        .retain(BTreeMap::from([(STREAM.to_owned(), needs)]));
    home.push(&["new"], NOW).await;
    assert_eq!(home.streams.trim(STREAM).await.unwrap(), 0);
    assert_eq!(home.state().await.events, 3);
    let done = home.streams.maintain(UtcMicros(NOW)).await;
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    assert_eq!((done.flushed, done.restored, done.removed), (1, 3, 0));
    assert_eq!(home.ids().await.len(), 8);
}

#[tokio::test]
async fn older_events_of_a_live_window_are_kept_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), exact()).await;
    week(&home).await;
    home.need(3).await;
    let file = [
        batch(&["in", "2"], NOW - 2 * DAY),
        batch(&["out"], NOW - 9 * DAY),
    ];
    assert_eq!(home.push_history(&file).await.added, 2);
    let (kept, _) = home.kept_and_needed(3).await;
    assert!(
        kept.contains(&"in".to_owned()) && !kept.contains(&"out".to_owned()),
        "{kept:?}"
    );
    assert_eq!(home.ids().await.len(), 9);
    home.need(10).await;
    let (kept, _) = home.kept_and_needed(3).await;
    assert!(kept.contains(&"out".to_owned()), "{kept:?}");
    let again = home.push(&["out"], NOW).await;
    assert!(
        matches!(again[..], [Pushed::Duplicate(_)]),
        "its dedup key is back: {again:?}"
    );
}

/// Whatever was trimmed before they came.
#[tokio::test]
async fn older_events_that_nothing_needed_are_there_for_a_longer_window() {
    for first_trim in [None, Some(3), Some(20)] {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path(), exact()).await;
        match first_trim {
            // Of an empty store.
            None => home.need(3).await,
            Some(days) => {
                week(&home).await;
                home.need(days).await;
                let needs = Retention::range(granary_model::Interval {
                    days: 3,
                    ..granary_model::Interval::ZERO
                });
                home.streams
                    .retain(BTreeMap::from([(STREAM.to_owned(), needs)]));
            }
        }
        home.push(&["new"], NOW).await;
        home.push_history(&[batch(&["older"], NOW - 9 * DAY)]).await;
        home.need(12).await;
        let (kept, needed) = home.kept_and_needed(12).await;
        assert!(needed.contains(&"older".to_owned()), "{needed:?}");
        let missing: Vec<_> = needed.iter().filter(|id| !kept.contains(id)).collect();
        assert!(missing.is_empty(), "{missing:?} after {first_trim:?}");
    }
}

#[tokio::test]
async fn a_lost_event_store_goes_on_behind_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), exact()).await;
    week(&home).await;
    let home = home.without_events().await;
    let pushed = home.push(&["new"], NOW).await;
    let [Pushed::Appended(id)] = pushed[..] else {
        panic!("{pushed:?}");
    };
    assert_eq!(id.sequence, 8);
    assert_eq!(home.ids().await.len(), 8);
    home.need(3).await;
    let (kept, needed) = home.kept_and_needed(3).await;
    assert_eq!((kept.len(), needed.len()), (5, 5), "{kept:?}");
    assert_eq!(home.flush().await, 1);
    assert_eq!(home.ids().await.len(), 8);
}

/// What was lost before there was a history is known from the history as well.
#[tokio::test]
async fn what_was_lost_stays_known_when_the_events_are_lost_too() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::bare(folder.path(), exact()).await;
    for day in (0..4).rev() {
        home.push(&[&day.to_string()], NOW - day * DAY).await;
    }
    home.need(1).await;
    let lost = Some(UtcMicros(NOW - 2 * DAY + 1));
    assert_eq!(home.state().await.lost_before, lost);
    let home = home.renamed("card_history").await;
    assert_eq!(home.flush().await, 2);
    let home = home.without_events().await;
    let state = home.state().await;
    assert_eq!((state.lost_before, state.trimmed_before), (lost, lost));
    home.streams
        .retain(BTreeMap::from([(STREAM.to_owned(), Retention::Everything)]));
    assert_eq!(home.streams.restore(STREAM).await.unwrap(), 2);
    let state = home.state().await;
    assert_eq!((state.events, state.trimmed_before), (2, lost));
}
