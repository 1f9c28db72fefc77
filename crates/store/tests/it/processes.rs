//! Several processes on one folder.

use std::collections::BTreeMap;

use granary_model::UtcMicros;
use granary_store::{EmbeddedStore, OnlineStore, StoreError, WriteMode};

use super::child::{LAST, Started, WATCHED, start, steps};
use super::facts::{
    Fact, UPSERT, VIEW, base, changes, coverage, fill, keys, open, pinned, rows, times,
    version_folder, writer,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_process_writes_is_seen_after_a_refresh() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(pinned(&store).await.is_none());

    start("publish", folder.path()).succeed();
    assert!(store.refresh().await.unwrap());
    assert!(!store.refresh().await.unwrap());
    let first = pinned(&store).await.unwrap();
    assert_eq!(
        times(&store, &first, &[1, 2, 3]).await,
        [Some(10), Some(10), None]
    );

    let before = first.state();
    start("upsert", folder.path()).succeed();
    assert_eq!(
        times(&store, &first, &[1, 2, 3]).await,
        [Some(10), Some(20), Some(20)]
    );
    assert!(
        first.state().write_counter > before.write_counter,
        "caches are told"
    );
    assert!(store.refresh().await.unwrap());
    assert_eq!(first.state().coverage, coverage(2));

    start("publish", folder.path()).succeed();
    assert!(store.refresh().await.unwrap());
    let second = pinned(&store).await.unwrap();
    assert_eq!(
        times(&store, &second, &[1, 2, 3]).await,
        [Some(10), Some(10), None]
    );
    assert_eq!(
        times(&store, &first, &[1, 2, 3]).await,
        [Some(10), Some(20), Some(20)]
    );

    start("drop", folder.path()).succeed();
    assert!(store.refresh().await.unwrap());
    assert!(pinned(&store).await.is_none());
    assert_eq!(times(&store, &second, &[1]).await, [Some(10)]);
    assert!(
        !base(folder.path(), 2).exists() && !changes(folder.path(), 2).exists(),
        "unlinked, though mapped here"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_read_beside_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let round = |at: i64| -> Vec<Fact> { (0..WATCHED).map(|id| (id, at)).collect() };
    fill(&store, WriteMode::Create, &round(1), 64, 1)
        .await
        .unwrap();
    let mut readers: Vec<Started> = (0..2).map(|_| start("watch", folder.path())).collect();
    for reader in &mut readers {
        assert_eq!(reader.hear().as_deref(), Some("watching"));
    }
    for at in 2..20 {
        let mode = if at % 5 == 0 {
            WriteMode::Create
        } else {
            UPSERT
        };
        fill(&store, mode, &round(at), 64, at as u64).await.unwrap();
    }
    fill(&store, UPSERT, &round(LAST), 64, 99).await.unwrap();
    for reader in readers {
        reader.succeed();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_in_another_process_is_busy_until_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut holder = start("hold a writer", folder.path());
    assert_eq!(holder.hear().as_deref(), Some("holding"));
    let store = open(folder.path());
    let refused = writer(&store, WriteMode::Create).await;
    assert!(matches!(refused.map(drop), Err(StoreError::Busy { .. })));
    assert!(base(folder.path(), 1).exists());
    holder.kill();
    let created = writer(&store, WriteMode::Create).await.unwrap();
    drop(created);
    assert!(!base(folder.path(), 1).exists(), "what it left is removed");
}

/// The pages that a read sees are not used again while it lasts; a reader that
/// was killed in the middle must not hold them for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_reader_gives_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let round = |at: i64| -> Vec<Fact> { (0..5_000).map(|id| (id, at)).collect() };
    fill(&store, WriteMode::Create, &round(1), 1_000, 1)
        .await
        .unwrap();
    let size = || std::fs::metadata(changes(folder.path(), 1)).unwrap().len();
    let rounds = async |from: i64| {
        for at in from..from + 5 {
            fill(&store, UPSERT, &round(at), 1_000, 2).await.unwrap();
        }
        size()
    };
    let settled = rounds(10).await;
    assert_eq!(rounds(20).await, settled, "space is used again");

    let mut reader = start("hold a read", folder.path());
    assert_eq!(reader.hear().as_deref(), Some("reading"));
    let held = rounds(30).await;
    assert!(held > settled, "a read in progress holds its pages");
    reader.kill();
    rounds(40).await;
    let after = rounds(50).await;
    assert_eq!(rounds(60).await, after, "and nothing more once it is gone");
    let generation = pinned(&store).await.unwrap();
    assert_eq!(
        times(&store, &generation, &[0, 4_999]).await,
        [Some(64), Some(64)]
    );
}

/// What the script's step leaves, by brute force.
fn after_step(step: usize) -> BTreeMap<i64, i64> {
    let mut state = BTreeMap::new();
    for (mode, facts) in steps().into_iter().take(step + 1) {
        if mode == WriteMode::Create {
            state.clear();
        }
        for (id, at) in facts {
            let held = state.entry(id).or_insert(at);
            *held = at.max(*held);
        }
    }
    state
}

async fn content(store: &EmbeddedStore) -> BTreeMap<i64, i64> {
    let ids: Vec<i64> = (0..4_000).collect();
    let generation = pinned(store).await.unwrap();
    let times = times(store, &generation, &ids).await;
    let rows: BTreeMap<i64, i64> = ids
        .into_iter()
        .zip(times)
        .filter_map(|(id, time)| Some((id, time?)))
        .collect();
    assert_eq!(generation.state().rows, rows.len() as u64);
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_killed_anywhere_and_run_again_ends_the_same() {
    let expected = after_step(3);
    let places = [0, 3, 7, 8, 9, 12, 16, 17, 18, 22, 25, 27, 33];
    let scripts = ["script", "merging script"].into_iter();
    for (script, kill_after) in scripts.flat_map(|script| places.map(|place| (script, place))) {
        let folder = tempfile::tempdir().unwrap();
        let mut child = start(script, folder.path());
        for _ in 0..=kill_after {
            assert!(child.hear().is_some(), "the script is longer than that");
        }
        child.kill();

        // What is there is whole: the last published step, and of the upsert
        // after it some rows.
        let store = open(folder.path());
        if let Some(generation) = pinned(&store).await {
            let step = generation.state().coverage.offline_version as usize - 1;
            let published = after_step(step);
            let next = after_step((step + 1).min(3));
            let upserts = steps().get(step + 1).is_some_and(|s| s.0 == UPSERT);
            for (id, at) in content(&store).await {
                let due = published.get(&id);
                let may = upserts.then(|| next.get(&id)).flatten();
                assert!(
                    due == Some(&at) || may == Some(&at),
                    "key {id} at {at}, step {step}"
                );
            }
        }
        start(script, folder.path()).succeed();
        store.refresh().await.unwrap();
        assert_eq!(
            content(&store).await,
            expected,
            "{script}, killed after {kill_after}"
        );
        let files = std::fs::read_dir(version_folder(folder.path()))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                let name = name.to_string_lossy();
                name.ends_with(".mdb") || name.ends_with(".rows")
            })
            .count();
        assert_eq!(files, 2, "leftovers are removed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_in_one_process_share_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (open(folder.path()), open(folder.path()));
    fill(&a, WriteMode::Create, &[(1, 1)], 10, 1).await.unwrap();
    let in_b = pinned(&b).await.unwrap();
    assert_eq!(times(&b, &in_b, &[1]).await, [Some(1)]);
    fill(&b, UPSERT, &[(1, 2)], 10, 2).await.unwrap();
    let in_a = pinned(&a).await.unwrap();
    assert_eq!(times(&a, &in_a, &[1]).await, [Some(2)]);
    assert!(a.refresh().await.unwrap());
    assert_eq!(in_a.state().coverage, coverage(2));
    let held = writer(&a, UPSERT).await.unwrap();
    let refused = b.drop_version(VIEW, 1).await;
    assert!(matches!(refused, Err(StoreError::Busy { .. })));
    drop(held);
    b.drop_version(VIEW, 1).await.unwrap();
    a.refresh().await.unwrap();
    assert!(pinned(&a).await.is_none());
}

/// Who maps the file sees rows of another's upsert before it looks for news,
/// and must know of which run they may be; so must who comes after a killed one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_another_s_upsert_are_not_taken_for_older_ones() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (open(folder.path()), open(folder.path()));
    fill(&a, WriteMode::Create, &[(1, 1)], 10, 1).await.unwrap();
    let in_a = pinned(&a).await.unwrap();
    assert_eq!(in_a.reaches(), UtcMicros(1));
    let mut upserted = writer(&b, UPSERT).await.unwrap();
    upserted.write(&keys(&[1]), &rows(&[2])).await.unwrap();
    assert_eq!(times(&a, &in_a, &[1]).await, [Some(2)]);
    assert_eq!(in_a.reaches(), UtcMicros(2));
    drop(upserted);

    let later = open(folder.path());
    let in_later = pinned(&later).await.unwrap();
    assert_eq!(times(&later, &in_later, &[1]).await, [Some(2)]);
    assert_eq!(in_later.reaches(), UtcMicros(2));
    assert_eq!(in_later.state().coverage, coverage(1));
    fill(&b, UPSERT, &[(1, 3)], 10, 3).await.unwrap();
    times(&a, &in_a, &[1]).await;
    assert_eq!(in_a.reaches(), UtcMicros(3));
}

/// A writer that is killed between the manifest and the count of changes has
/// published all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_were_not_counted_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    fill(&store, WriteMode::Create, &[(1, 1)], 10, 1)
        .await
        .unwrap();
    assert!(store.refresh().await.unwrap());
    let counted = std::fs::read(folder.path().join("changes")).unwrap();
    assert_eq!(store.generations().await.unwrap().len(), 1);
    start("publish", folder.path()).succeed();
    std::fs::write(folder.path().join("changes"), counted).unwrap();
    assert_eq!(store.generations().await.unwrap()[0].id.number, 2);
    assert!(store.refresh().await.unwrap());
    assert!(!store.refresh().await.unwrap());
    let generation = pinned(&store).await.unwrap();
    assert_eq!(
        times(&store, &generation, &[1, 2]).await,
        [Some(10), Some(10)]
    );
    // A folder that somebody removed is not there either.
    std::fs::remove_dir_all(folder.path().join(VIEW)).unwrap();
    assert!(store.generations().await.unwrap().is_empty());
    assert!(store.refresh().await.unwrap());
    assert!(pinned(&store).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_row_is_there_for_who_opens_the_folder_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut created = writer(&store, WriteMode::Create).await.unwrap();
    created.write(&keys(&[1]), &rows(&[10])).await.unwrap();
    created.write_default(rows(&[3]).get(0)).await.unwrap();
    created.publish(coverage(1)).await.unwrap();
    drop(store);
    for _ in 0..2 {
        let store = open(folder.path());
        let held = pinned(&store).await.unwrap();
        assert_eq!(times(&store, &held, &[1, 2]).await, [Some(10), Some(3)]);
        assert_eq!(held.state().rows, 1);
        fill(&store, UPSERT, &[(1, 10)], 1, 2).await.unwrap();
    }
}
