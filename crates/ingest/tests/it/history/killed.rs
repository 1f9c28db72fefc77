//! A process that pushes, to the stream and to its history, flushes and trims is
//! killed at any time.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use granary_ingest::StreamSettings;

use super::home::{DAY, Home, NOW, batch, settings};

/// Names the folder to the process that is to be killed in it.
const FOLDER: &str = "GRANARY_TEST_HISTORY";
const BATCH: usize = 7;

fn small() -> StreamSettings {
    StreamSettings {
        flush_events_max: 50,
        ..settings()
    }
}

/// The first lines of what was acknowledged; a torn last one does not count.
fn acknowledged(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("acknowledged")).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "how the test talks to its child")]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let home = Home::open(folder, small()).await;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("acknowledged"))
        .unwrap();
    let acknowledge = |ids: &[String]| {
        let lines = ids.join("\n") + "\n";
        (&file).write_all(lines.as_bytes()).unwrap();
    };
    let run = std::process::id();
    let ids = |kind: &str, number: i64| -> Vec<String> {
        let ids = (0..BATCH).map(|n| format!("{run}-{kind}{number}-{n}"));
        ids.collect()
    };
    let push = async {
        for number in 0.. {
            let ids = ids("", number);
            let names: Vec<&str> = ids.iter().map(String::as_str).collect();
            home.push(&names, NOW - (number % 10) * DAY).await;
            acknowledge(&ids);
        }
    };
    let push_older = async {
        for number in 0.. {
            let ids = ids("older-", number);
            let names: Vec<&str> = ids.iter().map(String::as_str).collect();
            home.push_history(&[batch(&names, NOW - 30 * DAY)]).await;
            acknowledge(&ids);
        }
    };
    let flush = async {
        loop {
            home.flush().await;
            home.trim(NOW - 3 * DAY).await;
        }
    };
    tokio::join!(push, push_older, flush);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_acknowledged_event_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["history::killed::child", "--exact", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(400 + 170 * round)).await;
        kills += usize::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let home = Home::open(folder.path(), small()).await;
        check(&home, &acknowledged(folder.path())).await;
        home.flush().await;
        check(&home, &acknowledged(folder.path())).await;
    }
    assert!(
        kills > 3,
        "{kills} processes lived long enough to be killed"
    );
    let acknowledged = acknowledged(folder.path());
    assert!(acknowledged.len() > 10 * BATCH, "{}", acknowledged.len());
}

/// What was pushed and not acknowledged any more is there as a whole batch or not.
async fn check(home: &Home, acknowledged: &[String]) {
    let ids = home.ids().await;
    let once: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(once.len(), ids.len(), "an event is there twice");
    let missing = acknowledged.iter().find(|id| !once.contains(id));
    assert_eq!(missing, None, "an acknowledged event is gone");
    let more = ids.len() - acknowledged.len();
    assert!(
        more <= 12 * BATCH && more.is_multiple_of(BATCH),
        "{more} more"
    );
}
