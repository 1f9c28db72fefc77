//! The event path on a disk that lost, or tore, what was not synced.
//!
//! A store works in a folder. At a kill point its files are copied, but of the
//! journal everything that was written after the last sync is torn: page by
//! page, or from some byte on, by a seed. The copy is opened, and every event
//! that was acknowledged by then must be in it once, and no batch in part.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use granary_model::{ManualClock, UtcMicros};

use super::*;
use crate::events::{EventRef, EventSink, IndexSpec, KeyRange, NewEvent, ScanOrder};

/// What a disk writes as a whole.
const PAGE: usize = 512;
const HISTORIES: u64 = 40;
const KILLS: u64 = 25;

fn settings(sync: bool, memtable_bytes_max: u64) -> EmbeddedEventSettings {
    EmbeddedEventSettings {
        sync,
        memtable_bytes_max,
        free_bytes_min: 0,
        ..EmbeddedEventSettings::default()
    }
}

struct NoKeys;

impl KeyOf for NoKeys {
    fn keys_of(&self, _: usize, _: EventRef<'_>) -> Result<Vec<Bytes>, StoreError> {
        Ok(Vec::new())
    }
}

fn spec() -> StreamSpec {
    StreamSpec {
        name: "card_event".to_owned(),
        columns: String::new(),
        history: false,
        indexes: vec![IndexSpec {
            name: "customer".to_owned(),
        }],
        tile_sets: Vec::new(),
    }
}

async fn open(
    folder: &Path,
    settings: EmbeddedEventSettings,
) -> Result<(EmbeddedEventStore, Arc<dyn EventStream>), StoreError> {
    let clock = Arc::new(ManualClock::new(UtcMicros(1)));
    let store = EmbeddedEventStore::open(folder, settings, clock)?;
    let stream = store.open_stream(spec(), &NoKeys).await?;
    Ok((store, stream))
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Ids of batch `n`.
fn ids(n: u64) -> Vec<String> {
    (0..=n * 5 % 7).map(|part| format!("{n}/{part}")).collect()
}

fn batch(n: u64, random: &mut Random) -> EventBatch {
    let events = ids(n).into_iter().map(|id| {
        let padding = random.below(3_000) as usize;
        NewEvent {
            event_time: UtcMicros(n as i64),
            dedup_key: Some(id.clone().into()),
            keys: vec![vec!["ann".into()]],
            payload: format!("{id} {}", "x".repeat(padding)).into(),
        }
    });
    EventBatch {
        events: events.collect(),
        offsets: Vec::new(),
    }
}

/// A journal as far as it is written.
fn written(journal: &File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut journal = journal;
    journal.rewind()?;
    journal.take(8 << 20).read_to_end(&mut bytes)?;
    bytes.truncate(journal::whole_bytes(&bytes));
    Ok(bytes)
}

fn newest_journal(folder: &Path) -> PathBuf {
    let newest = journal::newest_journal(&folder.join("lsm"));
    newest.unwrap().unwrap()
}

/// Tears what lies behind `synced`.
fn tear(journal: &mut Vec<u8>, synced: usize, random: &mut Random) {
    let unsynced = journal.len() - synced;
    if unsynced > 0 && random.below(2) == 0 {
        let kept = synced + random.below(unsynced as u64 + 1) as usize;
        journal[kept..].fill(0);
    }
    if random.below(3) > 0 {
        // Of the pages some came to the disk, in no order.
        let one_in = 2 + random.below(8);
        let mut from = synced;
        while from < journal.len() {
            let to = journal.len().min((from / PAGE + 1) * PAGE);
            if random.below(one_in) == 0 {
                journal[from..to].fill(0);
            }
            from = to;
        }
    }
    // The file is longer than what is written to it, mostly.
    if random.below(4) > 0 {
        journal.resize(journal.len() + (random.below(20_000) as usize), 0);
    }
}

/// Names, lengths and times of all files.
fn listing(folder: &Path) -> std::io::Result<Vec<(PathBuf, u64, std::time::SystemTime)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            files.extend(listing(&entry.path())?);
        } else {
            files.push((entry.path(), metadata.len(), metadata.modified()?));
        }
    }
    files.sort();
    Ok(files)
}

/// Copies what is written; fails, or gives false, if it changed meanwhile.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<bool> {
    let files = listing(from)?;
    for (path, ..) in &files {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap())?;
        if path.extension().is_some_and(|ext| ext == "jnl") {
            std::fs::write(target, written(&File::open(path)?)?)?;
        } else {
            std::fs::copy(path, target)?;
        }
    }
    Ok(listing(from)? == files)
}

/// The files of the LSM change in the background.
async fn copy_still_folder(from: &Path, to: &Path) {
    while !copy_folder(from, to).is_ok_and(|still| still) {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        let _ = std::fs::remove_dir_all(to);
    }
}

#[derive(Default)]
struct Ids(Vec<String>);

impl EventSink for Ids {
    fn event(&mut self, _range: usize, event: EventRef<'_>) -> ControlFlow<()> {
        let id = event.payload.split(|byte| *byte == b' ').next().unwrap();
        self.0.push(String::from_utf8(id.to_vec()).unwrap());
        ControlFlow::Continue(())
    }
}

/// What is wrong with a folder in which the batches below `acknowledged` must
/// be, and the next one may be.
async fn wrong(folder: &Path, acknowledged: u64) -> Result<(), String> {
    let opened = open(folder, settings(true, 1 << 20)).await;
    let (_store, stream) = opened.map_err(|e| format!("does not open: {e}"))?;
    let snapshot = stream.snapshot().await.unwrap();
    let mut log = Ids::default();
    snapshot.scan_log(0, usize::MAX, &mut log).await.unwrap();
    let found: BTreeSet<&String> = log.0.iter().collect();
    if found.len() != log.0.len() {
        return Err("an event is there twice".to_owned());
    }
    let acked: Vec<String> = (0..acknowledged).flat_map(ids).collect();
    let unsure = ids(acknowledged);
    if let Some(lost) = acked.iter().find(|id| !found.contains(id)) {
        return Err(format!("{lost} is lost"));
    }
    let rest = found.len() - acked.len();
    if rest != 0 && rest != unsure.len() {
        return Err(format!("{rest} of {} events of a batch", unsure.len()));
    }
    let mut by_key = Ids::default();
    let range = KeyRange {
        key: b"ann",
        from: UtcMicros::MIN,
        to: UtcMicros::MAX,
        limit: usize::MAX,
    };
    let order = ScanOrder::OldestFirst;
    let scanned = snapshot.scan(0, order, &[range], &mut by_key).await;
    scanned.unwrap();
    if by_key.0 != log.0 || snapshot.state().events != log.0.len() as u64 {
        return Err("index, log and count differ".to_owned());
    }
    // The batch comes again, as its sender knows nothing of it.
    let mut random = Random(0);
    let again = stream.append(batch(acknowledged, &mut random)).await;
    let again = again.map_err(|e| format!("appends fail: {e}"))?;
    if again
        .iter()
        .any(|appended| appended.is_new() == (rest != 0))
    {
        return Err("a batch is known in part".to_owned());
    }
    Ok(())
}

/// Kills one history at many points; gives what was wrong, by kill point.
async fn live(seed: u64, sync: bool) -> Vec<String> {
    // The disk is simulated: one in memory does, and is synced faster.
    let memory = Path::new("/dev/shm");
    let kept = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let folder = kept.path().join("events");
    let mut random = Random(seed);
    // Every third one with files of the LSM beside the journal.
    let memtable_bytes_max = if seed.is_multiple_of(3) {
        20_000
    } else {
        32 << 20
    };
    let (store, stream) = open(&folder, settings(sync, memtable_bytes_max))
        .await
        .unwrap();
    let shelf = &store.open.shelf;
    let mut faults = Vec::new();
    let (mut synced, mut syncs) = (0, 0);
    let mut name = PathBuf::new();
    for n in 0..KILLS {
        // What is on the disk before the batch is written: the files of the LSM
        // may come to hold what is in the journal, but only when it is synced.
        let torn_folder = kept.path().join("torn");
        copy_still_folder(&folder, &torn_folder).await;
        let torn_journal = newest_journal(&torn_folder);
        let journal = folder.join("lsm").join(torn_journal.file_name().unwrap());
        let journal = File::open(journal).unwrap();
        if name != torn_journal {
            // One is begun when all of the one before is synced.
            (name, synced) = (torn_journal.clone(), 0);
        }
        if shelf.syncs.load(Ordering::Relaxed) > syncs {
            syncs = shelf.syncs.load(Ordering::Relaxed);
            synced = written(&journal).unwrap().len();
        }
        stream.append(batch(n, &mut random)).await.unwrap();
        // The kill comes after the write and before its sync.
        let mut torn = written(&journal).unwrap();
        tear(&mut torn, synced, &mut random);
        std::fs::write(torn_journal, torn).unwrap();
        if let Err(what) = wrong(&torn_folder, n).await {
            faults.push(format!("seed {seed}, batch {n}: {what}"));
        }
        std::fs::remove_dir_all(&torn_folder).unwrap();
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_with_what_was_not_synced() {
    let mut faults = Vec::new();
    for seed in 0..HISTORIES {
        faults.extend(live(seed, true).await);
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The test above sees what a missing sync does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_sync_events_are_lost() {
    let faults = live(1, false).await;
    let lost = faults.iter().any(|fault| fault.ends_with("is lost"));
    assert!(lost, "{faults:#?}");
}
