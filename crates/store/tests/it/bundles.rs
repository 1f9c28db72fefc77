//! Rows of several views side by side: what is read is the same, and files go
//! when they are of no use.
//!
//! Whether a read looked into a bundle is seen by writing other rows into the
//! file, which nobody does who is no test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_model::UtcMicros;
use granary_store::{
    EmbeddedSettings, EmbeddedStore, EntityKeys, Generation, OnlineStore, RowSink, StoreError,
    WriteMode,
};

use super::child::{start, start_with_files_up_to};
use super::facts::{Fact, UPSERT, coverage, keys, layout, merging, open, rows};

/// Rows of a view that its bundle has at this time read as of [`FORGED`] once
/// [`forge`] was there.
const FORGED: i64 = -77;

pub fn views(names: &[&str]) -> Vec<(String, u32)> {
    names.iter().map(|name| ((*name).to_owned(), 1)).collect()
}

pub async fn fill(store: &EmbeddedStore, view: &str, mode: WriteMode, facts: &[Fact]) {
    let mut writer = store.writer(view, 1, layout(), mode).await.unwrap();
    for facts in facts.chunks(1_000) {
        let (ids, times): (Vec<i64>, Vec<i64>) = facts.iter().copied().unzip();
        writer.write(&keys(&ids), &rows(&times)).await.unwrap();
    }
    writer.publish(coverage(1)).await.unwrap();
}

async fn create(store: &EmbeddedStore, view: &str, ids: std::ops::Range<i64>, at: i64) {
    let facts: Vec<Fact> = ids.map(|id| (id, at)).collect();
    fill(store, view, WriteMode::Create, &facts).await;
}

async fn bundle(store: &EmbeddedStore, names: &[&str]) -> bool {
    store.bundle(&views(names)).await.unwrap()
}

async fn pin(store: &EmbeddedStore, view: &str) -> Arc<dyn Generation> {
    store.generation(view, 1).await.unwrap().unwrap()
}

struct Times(Vec<Vec<Option<i64>>>);

impl RowSink for Times {
    fn row(&mut self, generation: usize, entity: usize, row: &[u8]) {
        let time = row[1..9].first_chunk().unwrap();
        let place = &mut self.0[generation][entity];
        assert!(place.is_none(), "told twice");
        *place = Some(i64::from_le_bytes(*time));
    }
}

/// Event times by generation.
async fn times_of(
    store: &EmbeddedStore,
    keys: &EntityKeys,
    generations: &[Arc<dyn Generation>],
) -> Vec<Vec<Option<i64>>> {
    let mut found = Times(vec![vec![None; keys.len()]; generations.len()]);
    store.read(keys, generations, &mut found).await.unwrap();
    found.0
}

/// The same of what is published, all views in one read.
async fn times(store: &EmbeddedStore, names: &[&str], ids: &[i64]) -> Vec<Vec<Option<i64>>> {
    let mut generations = Vec::new();
    for name in names {
        generations.push(pin(store, name).await);
    }
    times_of(store, &keys(ids), &generations).await
}

fn bundle_file(folder: &Path, number: u64) -> PathBuf {
    folder.join(".bundles").join(format!("b{number}.rows"))
}

/// The files there are, but for the lock.
fn bundle_files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder.join(".bundles")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
    names.sort();
    names
}

/// Makes all rows of a time others in a bundle's file, which stays the same file.
fn forge(folder: &Path, number: u64, at: i64) {
    let path = bundle_file(folder, number);
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (rows(&[at]), rows(&[FORGED]));
    let (from, to) = (from.get(0), to.get(0));
    let mut count = 0;
    let mut next = 0;
    while next + from.len() <= bytes.len() {
        if bytes[next..].starts_with(from) {
            bytes[next..next + to.len()].copy_from_slice(to);
            (next, count) = (next + to.len(), count + 1);
        } else {
            next += 1;
        }
    }
    assert!(count > 0, "no row is at {at}");
    write_in_place(&path, &bytes);
}

fn write_in_place(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// a: keys 0..1000 at 1, b: keys 500..1500 at 2, c: keys 900..1100 at 3.
async fn three_views(folder: &Path) -> EmbeddedStore {
    let store = open(folder);
    create(&store, "a", 0..1_000, 1).await;
    create(&store, "b", 500..1_500, 2).await;
    create(&store, "c", 900..1_100, 3).await;
    store
}

const ABC: [&str; 3] = ["a", "b", "c"];
const ASKED: [i64; 6] = [0, 499, 950, 1_050, 1_499, 1_500];

/// What [`three_views`] has of the keys [`ASKED`].
fn expected() -> Vec<Vec<Option<i64>>> {
    vec![
        vec![Some(1), Some(1), Some(1), None, None, None],
        vec![None, None, Some(2), Some(2), Some(2), None],
        vec![None, None, Some(3), Some(3), None, None],
    ]
}

#[tokio::test]
async fn a_bundle_answers_reads_of_two_of_its_members_or_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    store.refresh().await.unwrap();
    assert_eq!(times(&store, &ABC, &ASKED).await, expected());
    assert!(bundle(&store, &ABC).await);
    assert_eq!(times(&store, &ABC, &ASKED).await, expected());
    assert!(!store.refresh().await.unwrap(), "nothing reads otherwise");
    assert!(!bundle(&store, &ABC).await, "it is there already");
    assert_eq!(bundle_files(folder.path()), ["b1.rows", "manifest.json"]);
    let listed: Vec<_> = { store.generations().await.unwrap().into_iter() }
        .map(|state| state.id.view)
        .collect();
    assert_eq!(listed, ABC, "it is no view");

    forge(folder.path(), 1, 1);
    let forged = vec![Some(FORGED), None];
    let asked = [950, 1_050];
    assert_eq!(times(&store, &["a"], &asked).await, [[Some(1), None]]);
    for (names, others) in [
        (&["c", "a"][..], vec![vec![Some(3), Some(3)]]),
        (&["b", "a"], vec![vec![Some(2), Some(2)]]),
        (&["a", "a"], vec![forged.clone()]),
    ] {
        let found = times(&store, names, &asked).await;
        assert_eq!(found, [others, vec![forged.clone()]].concat(), "{names:?}");
    }
    // One that is opened later finds it too.
    let later = open(folder.path());
    assert_eq!(times(&later, &["a", "b"], &asked).await[0], forged);
}

/// Reads of many keys in any order, NULL ones among them.
#[tokio::test]
async fn many_keys_in_one_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    create(&store, "d", 0..2_000, 4).await;
    assert!(bundle(&store, &ABC).await);
    let ids: Vec<Option<i64>> = { 0..3_000 }
        .map(|n| (n % 7 > 0).then_some(n * 1_001 % 1_600))
        .collect();
    let encoded = keys(&ids.iter().map(|id| id.unwrap_or(0)).collect::<Vec<_>>());
    let mut generations = Vec::new();
    for name in ["c", "d", "a", "b", "a"] {
        generations.push(pin(&store, name).await);
    }
    for length in [0, 1, 2, 5, 17, 64, 65, 1_000, 3_000] {
        let some = encoded.iter().zip(&ids).take(length);
        let asked: EntityKeys = some.map(|(key, id)| key.filter(|_| id.is_some())).collect();
        let has = |range: std::ops::Range<i64>, at| -> Vec<Option<i64>> {
            let asked = ids.iter().take(length);
            asked
                .map(|id| id.filter(|id| range.contains(id)).map(|_| at))
                .collect()
        };
        let expected = [
            has(900..1_100, 3),
            has(0..2_000, 4),
            has(0..1_000, 1),
            has(500..1_500, 2),
            has(0..1_000, 1),
        ];
        assert_eq!(times_of(&store, &asked, &generations).await, expected);
        // More files than are looked into in one pass.
        let repeated = [&vec![Arc::clone(&generations[1]); 150][..], &generations].concat();
        let expected = [&vec![has(0..2_000, 4); 150][..], &expected].concat();
        assert_eq!(times_of(&store, &asked, &repeated).await, expected);
    }
}

#[tokio::test]
async fn generations_that_are_others_now_are_read_from_their_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    let first = pin(&store, "a").await;
    assert!(bundle(&store, &ABC).await);
    create(&store, "a", 0..400, 10).await;
    fill(&store, "c", UPSERT, &[(950, 30), (2_000, 30)]).await;
    let asked = [0, 950, 2_000];
    let found = [
        vec![Some(10), None, None],
        vec![None, Some(2), None],
        vec![None, Some(30), Some(30)],
    ];
    assert_eq!(times(&store, &ABC, &asked).await, found);
    // The one that was replaced is what it was, as is what was swept.
    let old = [first, pin(&store, "b").await];
    let found = [vec![Some(1), Some(1), None], vec![None, Some(2), None]];
    assert_eq!(times_of(&store, &keys(&asked), &old).await, found);
    store.sweep("b", 1, UtcMicros(3)).await.unwrap();
    let found = [vec![Some(1), Some(1), None], vec![None; 3]];
    assert_eq!(times_of(&store, &keys(&asked), &old).await, found);
}

#[tokio::test]
async fn rows_are_bundled_where_they_are_enough() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert!(!bundle(&store, &ABC).await, "nothing is published");
    create(&store, "a", 0..500, 1).await;
    create(&store, "b", 0..499, 2).await;
    assert!(!bundle(&store, &ABC).await, "999 rows");
    create(&store, "b", 0..5_000, 2).await;
    assert!(!bundle(&store, &["b", "b", "c"]).await, "one view");
    fill(&store, "a", UPSERT, &[(1, 9)]).await;
    assert!(!bundle(&store, &ABC).await, "one is changed");
    assert!(!folder.path().join(".bundles").exists());
    create(&store, "a", 0..500, 1).await;
    assert!(bundle(&store, &ABC).await);
}

#[tokio::test]
async fn a_bundle_is_made_anew_once_it_lacks_much() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    create(&store, "a", 0..2_000, 1).await;
    create(&store, "b", 0..2_000, 2).await;
    create(&store, "c", 0..300, 3).await;
    assert!(bundle(&store, &ABC).await);
    create(&store, "c", 0..300, 4).await;
    assert!(!bundle(&store, &ABC).await, "a small one is not worth it");
    assert_eq!(bundle_files(folder.path()), ["b1.rows", "manifest.json"]);
    create(&store, "b", 0..2_000, 5).await;
    assert!(bundle(&store, &ABC).await, "half of it is other rows");
    assert_eq!(bundle_files(folder.path()), ["b2.rows", "manifest.json"]);
    forge(folder.path(), 2, 4);
    assert_eq!(times(&store, &["a", "c"], &[7]).await[1], [Some(FORGED)]);
    // A bundle of other views stands beside it, one of these takes its place.
    create(&store, "d", 0..3_000, 6).await;
    create(&store, "e", 0..3_000, 7).await;
    assert!(bundle(&store, &["d", "e"]).await);
    let both = ["b2.rows", "b3.rows", "manifest.json"];
    assert_eq!(bundle_files(folder.path()), both);
    assert!(bundle(&store, &["a", "d", "e"]).await.eq(&false));
    create(&store, "f", 0..9_000, 8).await;
    assert!(bundle(&store, &["a", "d", "f"]).await);
    assert_eq!(bundle_files(folder.path()), ["b4.rows", "manifest.json"]);
    let all = times(&store, &["a", "b", "d", "e", "f"], &[7]).await;
    assert_eq!(all.concat(), [1, 5, 6, 7, 8].map(Some));
}

#[tokio::test]
async fn files_go_when_no_read_can_use_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    assert!(bundle(&store, &ABC).await);
    // In use by a read that goes on.
    let pinned = [pin(&store, "a").await, pin(&store, "b").await];
    store.drop_version("a", 1).await.unwrap();
    assert_eq!(bundle_files(folder.path()), ["b1.rows", "manifest.json"]);
    assert_eq!(
        times(&store, &["b", "c"], &[950]).await.concat(),
        [2, 3].map(Some)
    );
    assert!(
        bundle(&store, &["b", "c"]).await,
        "without what was dropped"
    );
    assert_eq!(bundle_files(folder.path()), ["b2.rows", "manifest.json"]);
    store.drop_version("b", 1).await.unwrap();
    assert_eq!(
        bundle_files(folder.path()),
        ["manifest.json"],
        "one is left"
    );
    store.drop_version("c", 1).await.unwrap();
    let found = times_of(&store, &keys(&ASKED), &pinned).await;
    assert_eq!(found, expected()[..2]);

    // So it is where all are replaced, or changed.
    let store = three_views(folder.path()).await;
    assert!(bundle(&store, &["a", "b"]).await);
    create(&store, "a", 0..10, 5).await;
    fill(&store, "b", UPSERT, &[(1, 9)]).await;
    assert!(!bundle(&store, &["a", "b"]).await);
    assert_eq!(bundle_files(folder.path()), ["manifest.json"]);
}

#[tokio::test]
async fn a_second_one_at_the_same_time_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    assert!(bundle(&store, &["a", "b"]).await);
    let lock = fs::File::open(folder.path().join(".bundles/lock")).unwrap();
    lock.lock().unwrap();
    let half_written = bundle_file(folder.path(), 2);
    fs::write(&half_written, b"rows to come").unwrap();
    create(&store, "a", 0..1_000, 7).await;
    create(&store, "b", 0..1_000, 8).await;
    assert!(!bundle(&store, &ABC).await);
    store.drop_version("b", 1).await.unwrap();
    let files = ["b1.rows", "b2.rows", "manifest.json"];
    assert_eq!(bundle_files(folder.path()), files, "another's files stay");
    lock.unlock().unwrap();
    assert!(bundle(&store, &["a", "c"]).await);
    assert_eq!(bundle_files(folder.path()), ["b2.rows", "manifest.json"]);
    assert_eq!(
        times(&store, &["a", "c"], &[950]).await.concat(),
        [7, 3].map(Some)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_that_bundle_and_read_beside_a_writer() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let round = async |at: i64| {
        for view in ABC {
            create(&store, view, 0..600, at).await;
        }
    };
    round(1).await;
    let reader = |path: PathBuf| async move {
        let other = open(&path);
        let (mut bundled, mut last) = (0, 0);
        while last < 30 {
            bundled += usize::from(bundle(&other, &ABC).await);
            other.refresh().await.unwrap();
            let found = times(&other, &ABC, &[0, 599]).await.concat();
            let least = found.iter().map(|time| time.unwrap()).min().unwrap();
            assert!(least >= last, "fell from {last} to {least}");
            last = least;
        }
        bundled
    };
    let readers: Vec<_> = { 0..2 }
        .map(|_| tokio::spawn(reader(folder.path().to_owned())))
        .collect();
    for at in 2..31 {
        round(at).await;
    }
    let mut bundled = 0;
    for reader in readers {
        bundled += reader.await.unwrap();
    }
    assert!(bundled > 0);
    assert!(bundle_files(folder.path()).len() <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_killed_leaves_the_old_bundle_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    for round in 0..6 {
        let mut child = start("bundle again and again", folder.path());
        assert_eq!(child.hear().as_deref(), Some("bundling"));
        std::thread::sleep(std::time::Duration::from_millis(7 * round));
        child.kill();
        let later = open(folder.path());
        for store in [&store, &later] {
            store.refresh().await.unwrap();
            let found = times(store, &ABC, &[950]).await.concat();
            let expected = [pin(store, "a").await, pin(store, "b").await];
            let alone = [
                times_of(store, &keys(&[950]), &expected[..1])
                    .await
                    .concat(),
                times_of(store, &keys(&[950]), &expected[1..])
                    .await
                    .concat(),
            ];
            assert_eq!(found[..2], alone.concat(), "round {round}");
            assert_eq!(found[2], Some(3));
        }
    }
    for name in ["b99.rows", "b98.rows", "manifest.next"] {
        fs::write(folder.path().join(".bundles").join(name), b"left").unwrap();
    }
    create(&store, "a", 0..2_000, 1).await;
    create(&store, "b", 0..2_000, 2).await;
    assert!(bundle(&store, &ABC).await);
    assert_eq!(
        bundle_files(folder.path()).len(),
        2,
        "leftovers are removed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_notices() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    let beside = open(folder.path());
    beside.refresh().await.unwrap();
    assert_eq!(times(&beside, &ABC, &ASKED).await, expected());
    start("bundle", folder.path()).succeed();
    forge(folder.path(), 1, 1);
    for store in [&store, &beside] {
        assert_eq!(times(store, &ABC, &[0]).await[0], [Some(1)], "not yet");
        store.refresh().await.unwrap();
        assert_eq!(times(store, &ABC, &[0]).await[0], [Some(FORGED)]);
    }
    // One that it replaces is closed, and its space is free.
    create(&store, "a", 0..1_000, 5).await;
    assert!(bundle(&store, &ABC).await);
    beside.refresh().await.unwrap();
    forge(folder.path(), 2, 5);
    assert_eq!(times(&beside, &ABC, &[0]).await[0], [Some(FORGED)]);
    #[cfg(target_os = "linux")]
    {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let path = bundle_file(&folder.path().canonicalize().unwrap(), 1);
        assert!(!maps.contains(path.to_str().unwrap()), "still mapped");
    }
}

#[tokio::test]
async fn damaged_bundles_are_ignored_and_made_anew() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("cut short", |folder| {
            let path = bundle_file(folder, 1);
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("garbage", |folder| {
            let path = bundle_file(folder, 1);
            let bytes = fs::read(&path).unwrap();
            fs::write(path, vec![0xA5; bytes.len()]).unwrap();
        }),
        ("missing", |folder| {
            fs::remove_file(bundle_file(folder, 1)).unwrap();
        }),
        ("no lengths", |folder| {
            // Of every record, those of its rows.
            damage_records(&bundle_file(folder, 1), 16..20);
        }),
        ("no keys", |folder| {
            damage_records(&bundle_file(folder, 1), 0..8);
        }),
        ("no manifest", |folder| {
            fs::remove_file(folder.join(".bundles/manifest.json")).unwrap();
        }),
        ("a manifest of other files", |folder| {
            let path = folder.join(".bundles/manifest.json");
            let listed = fs::read_to_string(&path).unwrap();
            let other = listed.replace("\"row_bytes\": ", "\"row_bytes\": 184467440");
            assert_ne!(listed, other);
            fs::write(path, other).unwrap();
        }),
        ("half a manifest", |folder| {
            fs::write(folder.join(".bundles/manifest.json"), b"{\"format\": 1, ").unwrap();
        }),
        ("all of it", |folder| {
            fs::remove_dir_all(folder.join(".bundles")).unwrap();
        }),
    ];
    for (name, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let store = three_views(folder.path()).await;
        assert!(bundle(&store, &ABC).await);
        drop(store);
        damage(folder.path());
        let store = open(folder.path());
        for _ in 0..2 {
            assert_eq!(times(&store, &ABC, &ASKED).await, expected(), "{name}");
        }
        assert!(bundle(&store, &ABC).await, "{name}");
        assert_eq!(times(&store, &ABC, &ASKED).await, expected(), "{name}");
        let number = (1..3).find(|n| bundle_file(folder.path(), *n).exists());
        forge(folder.path(), number.unwrap(), 1);
        assert_eq!(times(&store, &ABC, &[0]).await[0], [Some(FORGED)], "{name}");
        assert_eq!(bundle_files(folder.path()).len(), 2, "{name}");
    }
}

/// A process that has no file descriptor left says nothing of the bundle.
#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_opened_is_kept_for_later() {
    for hidden in ["b1.rows", "manifest.json"] {
        let folder = tempfile::tempdir().unwrap();
        let store = three_views(folder.path()).await;
        assert!(bundle(&store, &ABC).await);
        forge(folder.path(), 1, 1);
        drop(store);
        let path = folder.path().join(".bundles").join(hidden);
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        // Who follows it finds no end: an error that tells of no damage.
        std::os::unix::fs::symlink(&path, &path).unwrap();
        let store = open(folder.path());
        store.refresh().await.unwrap();
        assert_eq!(times(&store, &ABC, &[0]).await[0], [Some(1)], "{hidden}");
        match store.bundle(&views(&ABC)).await {
            Ok(made) => assert!(!made, "{hidden}: nothing is lost"),
            Err(error) => assert!(matches!(error, StoreError::Io { .. }), "{hidden}: {error}"),
        }
        fs::rename(&aside, &path).unwrap();
        store.refresh().await.unwrap();
        let seen = times(&store, &ABC, &[0]).await;
        assert_eq!(seen[0], [Some(FORGED)], "{hidden}");
    }
}

/// Fills a part of every record of a bundle of [`three_views`], where bytes are
/// counted from the record's beginning.
fn damage_records(path: &Path, part: std::ops::Range<usize>) {
    let mut bytes = fs::read(path).unwrap();
    let mut at = 64;
    let number =
        |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
    for _ in 0..1_500 {
        let next = at + 8 + number(&bytes, at) + number(&bytes, at + 4);
        bytes[at..][part.clone()].fill(0xEE);
        at = next;
    }
    write_in_place(path, &bytes);
}

#[tokio::test]
async fn newer_bundles_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    assert!(bundle(&store, &ABC).await);
    let manifest = folder.path().join(".bundles/manifest.json");
    fs::write(&manifest, br#"{"format": 2, "of": "the future"}"#).unwrap();
    for store in [&store, &open(folder.path())] {
        store.refresh().await.unwrap();
        assert_eq!(times(store, &ABC, &ASKED).await, expected());
        let refused = store.bundle(&views(&ABC)).await.unwrap_err();
        assert!(
            matches!(refused, StoreError::NewerFormat { .. }),
            "{refused}"
        );
    }
    store.drop_version("a", 1).await.unwrap();
    assert_eq!(bundle_files(folder.path()), ["b1.rows", "manifest.json"]);
}

/// Generations begin at 1 again where somebody removes a folder: rows of the old
/// first are not those of the new one.
#[tokio::test]
async fn a_generation_of_the_same_number_is_not_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    assert!(bundle(&store, &ABC).await);
    drop(store);
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    let store = open(folder.path());
    create(&store, "a", 0..1_000, 8).await;
    assert_eq!(pin(&store, "a").await.state().id.number, 1);
    assert_eq!(times(&store, &ABC, &[0]).await[0], [Some(8)]);
    let later = open(folder.path());
    assert_eq!(times(&later, &ABC, &[0]).await[0], [Some(8)]);
}

#[tokio::test]
async fn bundles_are_turned_off() {
    let folder = tempfile::tempdir().unwrap();
    let store = three_views(folder.path()).await;
    assert!(bundle(&store, &ABC).await);
    forge(folder.path(), 1, 1);
    let settings = EmbeddedSettings {
        bundles: false,
        ..EmbeddedSettings::default()
    };
    let without = EmbeddedStore::open(folder.path(), settings.clone()).unwrap();
    assert_eq!(times(&without, &ABC, &ASKED).await, expected());
    assert!(!bundle(&without, &ABC).await);
    assert_eq!(bundle_files(folder.path()), ["manifest.json"], "removed");
    let empty = tempfile::tempdir().unwrap();
    let without = EmbeddedStore::open(empty.path(), settings).unwrap();
    create(&without, "a", 0..2_000, 1).await;
    create(&without, "b", 0..2_000, 1).await;
    assert!(!bundle(&without, &ABC).await);
    assert!(!empty.path().join(".bundles").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for view in ABC {
        create(&store, view, 0..10_000, 1).await;
    }
    let mut child = start_with_files_up_to(300_000, "bundle", folder.path());
    let heard = child.hear().unwrap();
    assert!(heard.contains("no space"), "{heard}");
    child.succeed();
    assert_eq!(bundle_files(folder.path()), Vec::<String>::new());
    assert_eq!(times(&store, &ABC, &[9_999]).await.concat(), [Some(1); 3]);
    assert!(bundle(&store, &ABC).await);
}

/// Whatever is done to views, in whatever order: two stores read what a map has.
#[tokio::test]
async fn random_writes_and_bundles_read_as_a_map_does() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let mut made = 0;
    for seed in 1..7_u64 {
        let folder = tempfile::tempdir().unwrap();
        // In one of them, few changes stay beside their base.
        let stores = [open(folder.path()), merging(folder.path())];
        let mut state = seed;
        let mut random = |below: i64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as i64 % below
        };
        let mut maps: BTreeMap<&str, BTreeMap<i64, i64>> = BTreeMap::new();
        for step in 0..40 {
            let store = &stores[random(2) as usize];
            let name = NAMES[random(4) as usize];
            match random(10) {
                0..4 => {
                    let ids = (0..1_500).filter(|_| random(2) == 0);
                    let facts: Vec<Fact> = ids
                        .collect::<Vec<_>>()
                        .into_iter()
                        .map(|id| (id, 1 + random(50)))
                        .collect();
                    fill(store, name, WriteMode::Create, &facts).await;
                    maps.insert(name, facts.into_iter().collect());
                }
                4 => {
                    if let Some(map) = maps.get_mut(name) {
                        let count = [1, 300][random(2) as usize];
                        let facts: Vec<Fact> = { 0..count }
                            .map(|_| (random(1_600), 1 + random(90)))
                            .collect();
                        fill(store, name, UPSERT, &facts).await;
                        for (id, at) in facts {
                            let held = map.entry(id).or_insert(at);
                            *held = at.max(*held);
                        }
                    }
                }
                5 if random(2) == 0 => {
                    store.sweep(name, 1, UtcMicros(20)).await.unwrap();
                    maps.entry(name).or_default().retain(|_, at| *at >= 20);
                    if maps[name].is_empty() {
                        maps.remove(name);
                    }
                }
                5 => {
                    store.drop_version(name, 1).await.unwrap();
                    maps.remove(name);
                }
                _ => made += usize::from(bundle(store, &NAMES).await),
            }
            let ids: Vec<i64> = (0..200).map(|_| random(1_700)).collect();
            for store in &stores {
                store.refresh().await.unwrap();
                let names: Vec<&str> = maps.keys().copied().collect();
                let expected: Vec<Vec<_>> = { maps.values() }
                    .map(|map| ids.iter().map(|id| map.get(id).copied()).collect())
                    .collect();
                let found = times(store, &names, &ids).await;
                assert_eq!(found, expected, "seed {seed}, step {step}");
            }
        }
    }
    assert!(made > 20, "{made} bundles were made");
}
