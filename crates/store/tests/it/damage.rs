//! Files that are not what was written, newer than this version, or too full.

use std::fs;
use std::path::Path;

use granary_model::{ErrorKind, UtcMicros};
use granary_store::{EmbeddedSettings, EmbeddedStore, OnlineStore, StoreError, WriteMode};

use super::facts::{
    Fact, UPSERT, VIEW, base, changes, coverage, fill, keys, layout, open, pinned, rows, times,
    version_folder, writer,
};

fn facts(n: i64) -> Vec<Fact> {
    (0..n).map(|id| (id, id + 1)).collect()
}

/// A folder with one published generation that no store has open.
async fn published() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fill(
        &open(folder.path()),
        WriteMode::Create,
        &facts(2_000),
        500,
        1,
    )
    .await
    .unwrap();
    folder
}

/// The error of asking a new store for the generation.
async fn refusal(folder: &Path) -> StoreError {
    match open(folder).generation(VIEW, 1).await {
        Err(error) => error,
        Ok(generation) => panic!("answered {generation:?}"),
    }
}

#[tokio::test]
async fn damaged_manifests_are_named() {
    let folder = published().await;
    let path = version_folder(folder.path()).join("manifest.json");
    let whole = fs::read(&path).unwrap();
    for bad in [
        &b""[..],
        b"{",
        b"[]",
        b"\xFF\xFE",
        &whole[..whole.len() / 2],
        b"{\"format\": 1}",
    ] {
        fs::write(&path, bad).unwrap();
        let error = refusal(folder.path()).await;
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::DataLoss);
        assert!(error.to_string().contains("manifest.json"), "{error}");
        // Nor is anything written over it.
        let store = open(folder.path());
        assert!(writer(&store, WriteMode::Create).await.is_err());
        assert!(store.generations().await.is_err());
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(
        pinned(&open(folder.path())).await.unwrap().state().rows,
        2_000
    );
}

#[tokio::test]
async fn newer_formats_are_refused() {
    let folder = published().await;
    let path = version_folder(folder.path()).join("manifest.json");
    fs::write(&path, br#"{"format": 3, "tiers": ["of", "the", "future"]}"#).unwrap();
    let error = refusal(folder.path()).await;
    assert_eq!(
        error.to_string(),
        format!(
            "{}: written by a newer version of Granary (format 3, this one reads up to 2)",
            path.canonicalize().unwrap().display()
        )
    );
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    let written = writer(&open(folder.path()), WriteMode::Create).await;
    assert!(matches!(
        written.map(drop),
        Err(StoreError::NewerFormat { .. })
    ));
}

#[tokio::test]
async fn damaged_files_are_named() {
    type Damage = fn(&Path, Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("cut short", |path, bytes| {
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("cut to its head", |path, bytes| {
            fs::write(path, &bytes[..8_192]).unwrap();
        }),
        ("emptied", |path, _| fs::write(path, b"").unwrap()),
        ("garbage", |path, bytes| {
            fs::write(path, vec![0xA5; bytes.len()]).unwrap();
        }),
        ("missing", |path, _| fs::remove_file(path).unwrap()),
    ];
    let files = [base, changes].into_iter();
    for (file, (name, damage)) in files.flat_map(|file| damages.map(|damage| (file, damage))) {
        let folder = published().await;
        let path = file(folder.path(), 1);
        damage(&path, fs::read(&path).unwrap());
        let error = refusal(folder.path()).await;
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{name}: {error}"
        );
        assert!(error.to_string().contains("g1."), "{name}: {error}");
        // Writing the generation anew mends it.
        let store = open(folder.path());
        fill(&store, WriteMode::Create, &facts(10), 10, 2)
            .await
            .unwrap();
        let generation = pinned(&store).await.unwrap();
        assert_eq!(times(&store, &generation, &[9]).await, [Some(10)], "{name}");
    }
}

/// Its rows are damaged, so who looks at them says so.
#[tokio::test]
async fn a_sweep_that_would_find_nothing_does_not_look() {
    let folder = published().await;
    let path = base(folder.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    bytes[64..200].fill(0xEE);
    fs::write(&path, &bytes).unwrap();
    let sweep = async |older_than| {
        let store = open(folder.path());
        store.sweep(VIEW, 1, UtcMicros(older_than)).await
    };
    // The oldest is at 1.
    assert_eq!(sweep(1).await.unwrap(), 0);
    assert!(matches!(sweep(2).await, Err(StoreError::Damaged { .. })));
    // As in files that were written before it was kept.
    bytes[56..64].fill(0);
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(sweep(1).await, Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn a_full_store_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let small = EmbeddedSettings {
        map_bytes_max: 1 << 20,
        ..EmbeddedSettings::default()
    };
    let store = EmbeddedStore::open(folder.path(), small).unwrap();
    fill(&store, WriteMode::Create, &facts(2_000), 500, 1)
        .await
        .unwrap();
    // A new generation needs LMDB only for keys that do not ascend.
    for (mode, step) in [(WriteMode::Create, -2), (UPSERT, 2)] {
        let many: Vec<Fact> = (0..200_000).map(|id| (id * step, 9_999)).collect();
        let error = fill(&store, mode, &many, 5_000, 2).await.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        // What lost rows is not published, though its writer goes on.
        let mut lossy = writer(&store, mode).await.unwrap();
        let (ids, at): (Vec<i64>, Vec<i64>) = many.iter().copied().unzip();
        lossy.write(&keys(&[1 << 40]), &rows(&[1])).await.unwrap();
        lossy.write(&keys(&ids), &rows(&at)).await.unwrap_err();
        lossy
            .write(&keys(&[5]), &rows(&[5]))
            .await
            .unwrap_or_default();
        lossy.publish(coverage(9)).await.unwrap_err();
        let generation = pinned(&store).await.unwrap();
        assert_eq!(generation.state().coverage.offline_version, 1);
        assert_eq!(
            times(&store, &generation, &[1, 1_999]).await,
            [Some(2), Some(2_000)]
        );
    }
    fill(&store, UPSERT, &[(1, 77)], 1, 3).await.unwrap();
    let generation = pinned(&store).await.unwrap();
    assert_eq!(times(&store, &generation, &[1]).await, [Some(77)]);
}

/// A process has 2^47 bytes of addresses.
#[tokio::test]
async fn maps_that_do_not_fit_into_the_process_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let vast = EmbeddedSettings {
        map_bytes_max: 1 << 46,
        ..EmbeddedSettings::default()
    };
    let store = EmbeddedStore::open(folder.path(), vast).unwrap();
    let mut version = 0;
    let refused = loop {
        version += 1;
        assert!(version < 10, "there is room for everything");
        let writer = store.writer(VIEW, version, layout(), WriteMode::Create);
        // The store keeps what is published open.
        if let Err(error) = writer.await.unwrap().publish(coverage(1)).await {
            break error;
        }
    };
    assert_eq!(refused.kind(), ErrorKind::ResourceExhausted);
    assert!(refused.to_string().contains("map_bytes_max"), "{refused}");
}

#[tokio::test]
async fn a_replaced_file_is_gone_when_nobody_pins_it() {
    let folder = published().await;
    let store = open(folder.path());
    let first = pinned(&store).await.unwrap();
    fill(&store, WriteMode::Create, &facts(10), 10, 2)
        .await
        .unwrap();
    let left: Vec<_> = fs::read_dir(version_folder(folder.path()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('g'))
        .collect();
    assert!(left.iter().all(|name| name.starts_with("g2.")), "{left:?}");
    assert_eq!(times(&store, &first, &[1_999]).await, [Some(2_000)]);
}
