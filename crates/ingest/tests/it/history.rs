//! Histories of streams: whatever is flushed, trimmed, restarted or killed, a
//! scan gives each acknowledged event once.

mod home;
mod killed;
mod older;
mod restored;
mod retained;

use granary_ingest::{Late, StreamSettings};
use granary_model::UtcMicros;
use proptest::prelude::*;

use home::{DAY, Home, NOW, batch, settings};

#[tokio::test]
async fn a_scan_is_the_history_and_what_is_kept_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings()).await;
    assert_eq!(
        home.texts("SELECT count(*) FROM card_history").await,
        ["0"],
        "no rows before the first flush"
    );
    home.push(&["a", "b", "c"], NOW).await;
    assert_eq!(home.flush().await, 3);
    assert_eq!(home.flush().await, 0);
    home.push(&["d", "a"], NOW + 1).await;
    assert_eq!(home.ids().await, ["a", "b", "c", "d"]);
    let history = "SELECT event_id, _seq FROM card_history ORDER BY _seq";
    assert_eq!(home.texts(history).await, ["a|1", "b|2", "c|3"]);
    let created = "SELECT count(DISTINCT _created) FROM card_event";
    assert_eq!(home.texts(created).await, ["4"]);
    assert_eq!(home.texts("SELECT count(*) FROM card_event").await, ["4"]);
}

#[tokio::test]
async fn filters_hold_on_both_sides_of_the_seam() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings()).await;
    home.push(&["a"], NOW - DAY).await;
    home.push(&["b"], NOW).await;
    home.flush().await;
    home.push(&["c"], NOW - DAY).await;
    home.push(&["d"], NOW).await;
    let late = "SELECT event_id FROM card_event e WHERE e.at >= TIMESTAMP '2023-11-14' \
                AND event_id <> 'd' ORDER BY 1";
    assert_eq!(home.texts(late).await, ["b"]);
    let cut = async |sql| home.try_texts(Some(UtcMicros(NOW - 1)), sql).await.unwrap();
    let ids = cut("SELECT event_id FROM card_event ORDER BY 1").await;
    assert_eq!(ids, ["a", "c"]);
    assert_eq!(cut("SELECT event_id FROM card_history").await, ["a"]);
}

#[tokio::test]
async fn a_flush_commits_so_many_events_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let settings = StreamSettings {
        flush_events_max: 2,
        ..settings()
    };
    let home = Home::open(folder.path(), settings).await;
    home.push(&["a", "b", "c", "d", "e"], NOW).await;
    assert_eq!(home.flush().await, 5);
    assert_eq!(home.history().await.unwrap().flushed(), 5);
    assert_eq!(home.commits(), 3);
    assert_eq!(home.ids().await, ["a", "b", "c", "d", "e"]);
}

/// A process that ended between the commit and the note of it.
#[tokio::test]
async fn what_was_committed_and_not_noted_is_not_flushed_again() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings()).await;
    home.push(&["a", "b"], NOW).await;
    home.commit_only().await;
    assert_eq!(home.state().await.flushed, 0);
    assert_eq!(home.ids().await, ["a", "b"]);
    let home = home.restart().await;
    home.push(&["c"], NOW).await;
    assert_eq!(home.ids().await, ["a", "b", "c"]);
    assert_eq!(home.flush().await, 1);
    assert_eq!(home.state().await.flushed, 3);
    assert_eq!(home.ids().await, ["a", "b", "c"]);
    assert_eq!(home.history().await.unwrap().rows(), 3);
}

#[tokio::test]
async fn a_history_of_another_name_is_told_and_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::open(folder.path(), settings()).await;
    home.push(&["a"], NOW).await;
    home.flush().await;
    let home = home.renamed("other_history").await;
    home.push(&["b"], NOW).await;
    let told = "events up to 1 were flushed, but its history other_history ends at 0";
    let error = home.try_flush().await.unwrap_err().to_string();
    assert!(error.contains(told), "{error}");
    let error = home.try_ids().await.unwrap_err().to_string();
    assert!(error.contains(told), "{error}");
}

#[derive(Debug, Clone)]
enum Work {
    Push(usize, i64),
    /// To the history only, the first of them a second time.
    Older(usize, i64),
    Flush,
    CommitOnly,
    Trim(i64),
    /// What live views need from now on, and the upkeep that follows.
    Need(i32),
    Restart,
}

fn work() -> impl Strategy<Value = Work> {
    prop_oneof![
        4 => (1..5_usize, 0..10_i64).prop_map(|(events, day)| Work::Push(events, day)),
        2 => (1..5_usize, 0..40_i64).prop_map(|(events, day)| Work::Older(events, day)),
        2 => Just(Work::Flush),
        1 => Just(Work::CommitOnly),
        2 => (0..11_i64).prop_map(Work::Trim),
        2 => (0..12_i32).prop_map(Work::Need),
        1 => Just(Work::Restart),
    ]
}

async fn each_event_once(works: &[Work]) {
    let folder = tempfile::tempdir().unwrap();
    let settings = StreamSettings {
        flush_events_max: 3,
        late: Late::History,
        ..settings()
    };
    let mut home = Home::open(folder.path(), settings).await;
    let mut expected: Vec<String> = Vec::new();
    // Once views need something, what goes goes by that.
    let mut needed = false;
    for work in works {
        match work {
            Work::Push(events, day) | Work::Older(events, day) => {
                let ids = (0..*events).map(|n| format!("{:03}", expected.len() + n));
                let ids: Vec<String> = ids.collect();
                let mut names: Vec<&str> = ids.iter().map(String::as_str).collect();
                if matches!(work, Work::Push(..)) {
                    home.push(&names, NOW - day * DAY).await;
                } else {
                    names.push(expected.first().unwrap_or(&ids[0]));
                    let pushed = home.push_history(&[batch(&names, NOW - day * DAY)]).await;
                    assert_eq!(pushed.added, ids.len() as u64);
                }
                expected.extend(ids);
            }
            Work::Flush => drop(home.flush().await),
            Work::CommitOnly => home.commit_only().await,
            Work::Trim(_) if needed => {}
            Work::Trim(day) => home.trim(NOW - day * DAY).await,
            Work::Need(days) => {
                needed = true;
                home.need(*days).await;
                let (kept, needed) = home.kept_and_needed(*days).await;
                let missing: Vec<_> = needed.iter().filter(|id| !kept.contains(id)).collect();
                assert!(missing.is_empty(), "{missing:?} of {needed:?}");
            }
            Work::Restart => home = home.restart().await,
        }
        assert_eq!(home.ids().await, expected, "after {work:?}");
    }
    home.flush().await;
    assert_eq!(
        home.history().await.map_or(0, |h| h.rows()),
        expected.len() as u64
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn whatever_happens_each_event_is_there_once(works in prop::collection::vec(work(), 1..14)) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(each_event_once(&works));
    }
}
