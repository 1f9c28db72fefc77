//! What is kept of streams, and for how long.

use std::collections::BTreeMap;

use granary_engine::Retention;
use granary_ingest::{Pushed, StreamSettings};
use granary_model::{Interval, UtcMicros};

use super::home::{DAY, Home, NOW, STREAM, settings};

fn days(days: i32) -> Retention {
    Retention::range(Interval {
        days,
        ..Interval::ZERO
    })
}

/// Event times are not ahead of the clock, so that bounds are exact.
fn exact() -> StreamSettings {
    StreamSettings {
        future_seconds_max: 0,
        keep_days: 3,
        ..settings()
    }
}

/// One event a day, the newest first: `0` today, `1` the day before.
async fn push_week(home: &Home) {
    for day in (0..7).rev() {
        home.push(&[&day.to_string()], NOW - day * DAY).await;
    }
}

async fn kept(home: &Home) -> u64 {
    home.state().await.events
}

#[tokio::test]
async fn what_goes_is_what_neither_a_view_nor_the_history_needs() {
    let live = |needed: Retention| Some(BTreeMap::from([(STREAM.to_owned(), needed)]));
    let rows = Retention::newest("customer", 1);
    // Without HISTORY, kept; with HISTORY and flushed, kept.
    let cases = [
        (None, 7, 7, "nobody said what is needed"),
        (Some(BTreeMap::new()), 7, 4, "no live view"),
        (live(days(2)), 3, 3, "two days, both ends in"),
        (live(days(2).and(days(5))), 6, 6, "the longest counts"),
        (live(Retention::Everything), 7, 7, "an unbounded frame"),
        (live(rows), 7, 7, "an index that is not there yet"),
    ];
    for (needs, bare, flushed, what) in cases {
        for history in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let home = match history {
                true => Home::open(folder.path(), exact()).await,
                false => Home::bare(folder.path(), exact()).await,
            };
            push_week(&home).await;
            if let Some(needs) = needs.clone() {
                home.streams.retain(needs);
            }
            if history {
                home.streams.trim(STREAM).await.unwrap();
                assert_eq!(kept(&home).await, 7, "not flushed: {what}");
            }
            home.flush().await;
            home.streams.trim(STREAM).await.unwrap();
            let expected = if history { flushed } else { bare };
            assert_eq!(kept(&home).await, expected, "{what}, history {history}");
            let seen = if history { 7 } else { bare };
            assert_eq!(home.ids().await.len() as u64, seen, "{what}");
        }
    }
}

#[tokio::test]
async fn a_late_event_is_refused_and_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), exact()).await;
    let two_days = BTreeMap::from([(STREAM.to_owned(), days(2))]);
    home.push(&["old"], NOW - 4 * DAY).await;
    home.streams.retain(two_days);
    home.push(&["new"], NOW - DAY).await;
    assert!(matches!(
        home.push(&["edge"], NOW - 3 * DAY).await[..],
        [Pushed::Appended(_)]
    ));
    let late = home.push(&["late"], NOW - 3 * DAY - 1).await;
    let told = "at is 2023-11-11T22:13:19.999999Z, older than what is kept: \
                2023-11-11T22:13:20Z is the earliest taken now";
    assert_eq!(late, [Pushed::Refused(told.to_owned())]);
    home.streams.retain(BTreeMap::new());
    assert!(matches!(
        home.push(&["late"], NOW - 9 * DAY).await[..],
        [Pushed::Appended(_)]
    ));
}

#[tokio::test]
async fn the_upkeep_flushes_and_trims_when_it_is_due() {
    let folder = tempfile::tempdir().unwrap();
    let settings = StreamSettings {
        flush_seconds: 60,
        trim_seconds: 120,
        ..exact()
    };
    let home = Home::open(folder.path(), settings).await;
    home.streams
        .retain(BTreeMap::from([(STREAM.to_owned(), days(2))]));
    let second = 1_000_000;
    // Seconds, events pushed before, flushed, removed.
    let steps = [
        (0, 5, 5, 2),
        (59, 1, 0, 0),
        (60, 0, 1, 0),
        (119, 1, 0, 0),
        (120, 0, 1, 2),
    ];
    let mut pushed: i64 = 0;
    for (at, events, flushed, removed) in steps {
        for _ in 0..events {
            home.push(&[&pushed.to_string()], NOW - 10 * DAY + pushed * DAY)
                .await;
            pushed += 1;
        }
        let now = UtcMicros(NOW + at * second);
        let done = home.streams.maintain(now).await;
        assert!(done.failed.is_empty(), "{:?}", done.failed);
        assert_eq!(
            (done.flushed, done.removed),
            (flushed, removed),
            "after {at} s"
        );
    }
    let statuses = home.streams.statuses().await.unwrap();
    let [status] = &statuses[..] else {
        panic!("{statuses:?}");
    };
    assert_eq!(status.retention, "2 days behind the newest event");
    assert_eq!((status.state.flushed, status.state.events), (7, 3));
    assert_eq!(status.history.as_deref(), Some("card_history"));
}
