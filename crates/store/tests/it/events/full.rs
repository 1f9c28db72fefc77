//! A write that fails half-way, for real: a process that may not write files of
//! more than 64 MiB, which a journal reaches.
//!
//! The child is this test binary, started again for the one test [`fills_up`].

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use granary_model::SystemClock;
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore, EventStore, StoreError};

use super::owner::{NoKeys, batch, event, spec};

fn open(folder: &Path) -> EmbeddedEventStore {
    let settings = EmbeddedEventSettings {
        // All stays in one journal.
        memtable_bytes_max: 1 << 30,
        ..EmbeddedEventSettings::default()
    };
    EmbeddedEventStore::open(folder, settings, Arc::new(SystemClock)).unwrap()
}

/// The child: appends until a write fails, and exits with the number before.
#[tokio::test]
async fn fills_up() {
    let mut arguments = std::env::args();
    let Some(folder) = arguments.find_map(|a| Some(a.strip_prefix("fill=")?.to_owned())) else {
        return;
    };
    let store = open(Path::new(&folder));
    let stream = store.open_stream(spec(), &NoKeys).await.unwrap();
    let mut acknowledged = 0;
    let failed = loop {
        let events = vec![event(&format!("e{acknowledged}"), 1 << 20)];
        match stream.append(batch(events)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, StoreError::Full { .. }), "{failed}");
    // Nothing more until it is opened again, but reads.
    let halted = stream.append(batch(vec![event("small", 1)])).await;
    let halted = halted.unwrap_err();
    assert!(matches!(halted, StoreError::EventsHalted(_)), "{halted}");
    let halted = stream.set_flushed(1).await.unwrap_err();
    assert!(matches!(halted, StoreError::EventsHalted(_)), "{halted}");
    let snapshot = stream.snapshot().await.unwrap();
    assert_eq!(snapshot.state().events, acknowledged);
    let last = format!("e{}", acknowledged - 1);
    let next = format!("e{acknowledged}");
    let ids = [last.as_bytes(), next.as_bytes(), b"small"];
    let found = snapshot.duplicates(&ids).await.unwrap();
    assert!(found[0].is_some() && found[1].is_none() && found[2].is_none());
    std::process::exit(i32::try_from(acknowledged).unwrap());
}

#[tokio::test]
async fn a_failed_write_halts_appends_until_the_store_is_opened_again() {
    let kept = tempfile::tempdir().unwrap();
    // The signal is ignored by the child too, so that its write fails.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 131072; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["events::full::fills_up", "--exact", "--nocapture"])
        .arg(format!("fill={}", kept.path().display()))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    let acknowledged = status.code().unwrap();
    // 101 is a test that failed.
    assert!((10..100).contains(&acknowledged), "{status}");

    let store = open(kept.path());
    let stream = store.open_stream(spec(), &NoKeys).await.unwrap();
    let snapshot = stream.snapshot().await.unwrap();
    assert_eq!(
        snapshot.state().events,
        u64::try_from(acknowledged).unwrap()
    );
    for n in 0..acknowledged {
        let id = format!("e{n}");
        let found = snapshot.duplicates(&[id.as_bytes()]).await.unwrap();
        assert!(found[0].is_some(), "{id} is lost");
    }
    let appended = stream.append(batch(vec![event("small", 1)])).await;
    assert!(appended.unwrap()[0].is_new());
}
