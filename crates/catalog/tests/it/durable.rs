//! The synced file system does what the others do.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use granary_catalog::DurableLocal;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, RenameOptions, RenameTargetMode, Result,
};

/// A result as text that is the same for every store.
fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(Error::AlreadyExists { .. }) => "already exists".into(),
        Err(Error::NotFound { .. }) => "not found".into(),
        Err(Error::Precondition { .. }) => "precondition".into(),
        Err(Error::NotModified { .. }) => "not modified".into(),
        Err(e) => format!("other: {e}"),
    }
}

async fn content(store: &dyn ObjectStore, at: &str) -> String {
    let read = async { store.get(&Path::from(at)).await?.bytes().await };
    told(read.await)
}

async fn names(store: &dyn ObjectStore, prefix: &str, offset: Option<&str>) -> Vec<String> {
    let prefix = Path::from(prefix);
    let listed = match offset {
        Some(offset) => store.list_with_offset(Some(&prefix), &Path::from(offset)),
        None => store.list(Some(&prefix)),
    };
    let mut names: Vec<String> = listed
        .map_ok(|meta| format!("{} {}", meta.location, meta.size))
        .try_collect()
        .await
        .unwrap();
    names.sort();
    names
}

/// Calls every method of the trait and writes down what each gave.
async fn script(store: &dyn ObjectStore) -> Vec<String> {
    let mut log = Vec::new();
    let at = |name: &str| Path::from(name);
    let put = |name: &'static str, body: &'static str, mode: PutMode| async move {
        let options = PutOptions::from(mode);
        let path = Path::from(name);
        let done = store.put_opts(&path, body.into(), options);
        told(done.await.map(|r| r.e_tag.is_some()))
    };
    log.push(put("a/b/one", "first", PutMode::Create).await);
    log.push(put("a/b/one", "second", PutMode::Create).await);
    log.push(content(store, "a/b/one").await);
    log.push(put("a/b/one", "third", PutMode::Overwrite).await);
    log.push(put("a/two", "2", PutMode::Overwrite).await);
    log.push(content(store, "a/b/one").await);
    log.push(content(store, "a/absent").await);

    let mut upload = store
        .put_multipart_opts(&at("a/c/parts"), PutMultipartOptions::default())
        .await
        .unwrap();
    upload.put_part("left ".into()).await.unwrap();
    upload.put_part("right".into()).await.unwrap();
    log.push(told(upload.complete().await.map(|r| r.e_tag.is_some())));
    log.push(content(store, "a/c/parts").await);
    let mut dropped = store.put_multipart(&at("a/c/aborted")).await.unwrap();
    dropped.put_part("x".into()).await.unwrap();
    log.push(told(dropped.abort().await));

    let ranges = store.get_ranges(&at("a/c/parts"), &[0..4, 5..10]).await;
    log.push(told(ranges));
    let etag = store.head(&at("a/two")).await.unwrap().e_tag;
    let unless = GetOptions::new().with_if_none_match(etag);
    let got = store.get_opts(&at("a/two"), unless).await;
    log.push(told(got.map(|r| r.range)));

    log.push(names(store, "a", None).await.join("|"));
    log.push(names(store, "a", Some("a/b/one")).await.join("|"));
    let mut listed = store.list_with_delimiter(Some(&at("a"))).await.unwrap();
    listed.common_prefixes.sort();
    log.push(format!("{:?}", listed.common_prefixes));
    log.push(listed.objects.len().to_string());

    for (to, mode) in [
        ("a/d/copy", CopyMode::Create),
        ("a/d/copy", CopyMode::Create),
        ("a/b/one", CopyMode::Overwrite),
    ] {
        let options = CopyOptions::new().with_mode(mode);
        log.push(told(store.copy_opts(&at("a/two"), &at(to), options).await));
    }
    for (from, to, mode) in [
        ("a/d/copy", "a/two", RenameTargetMode::Create),
        ("a/d/copy", "e/moved", RenameTargetMode::Create),
        ("e/moved", "a/c/parts", RenameTargetMode::Overwrite),
        ("absent", "a/two", RenameTargetMode::Overwrite),
    ] {
        let options = RenameOptions::new().with_target_mode(mode);
        log.push(told(store.rename_opts(&at(from), &at(to), options).await));
    }
    log.push(names(store, "", None).await.join("|"));

    let doomed = futures::stream::iter([Ok(at("a/two")), Ok(at("a/c/parts"))]);
    let deleted: Vec<_> = store
        .delete_stream(doomed.boxed())
        .map(told)
        .collect()
        .await;
    log.push(deleted.join("|"));
    log.push(names(store, "", None).await.join("|"));
    log
}

#[tokio::test]
async fn every_method_does_what_the_other_stores_do() {
    let folder = tempfile::tempdir().unwrap();
    let plain = tempfile::tempdir().unwrap();
    let memory = script(&InMemory::new()).await;
    let local = script(&LocalFileSystem::new_with_prefix(plain.path()).unwrap()).await;
    let durable = script(&DurableLocal::new_with_prefix(folder.path()).unwrap()).await;
    assert_eq!(durable, local);
    // What an abort leaves is each store's own business; all else is the same.
    assert_eq!(durable.len(), memory.len());
    for (ours, theirs) in durable.iter().zip(&memory) {
        assert_eq!(ours, theirs);
    }
}

#[tokio::test]
async fn updates_are_refused_as_the_local_store_refuses_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = DurableLocal::new_with_prefix(folder.path()).unwrap();
    let done = store.put(&Path::from("x"), "1".into()).await.unwrap();
    let update = PutOptions::from(PutMode::Update(done.into()));
    let refused = store.put_opts(&Path::from("x"), "2".into(), update).await;
    assert!(matches!(refused, Err(Error::NotImplemented { .. })));
}

#[tokio::test]
async fn an_etag_is_that_of_a_later_head() {
    let folder = tempfile::tempdir().unwrap();
    let store = DurableLocal::new_with_prefix(folder.path()).unwrap();
    let done = store.put(&Path::from("x"), "1".into()).await.unwrap();
    let head = store.head(&Path::from("x")).await.unwrap();
    assert!(done.e_tag.is_some());
    assert_eq!(done.e_tag, head.e_tag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_racing_creates_one_wins_and_nothing_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(DurableLocal::new_with_prefix(folder.path()).unwrap());
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..8 {
        let store = Arc::clone(&store);
        racers.spawn(async move {
            let body = racer.to_string().into();
            let options = PutOptions::from(PutMode::Create);
            let path = Path::from("deep/down/x");
            let done = store.put_opts(&path, body, options);
            done.await.is_ok().then_some(racer)
        });
    }
    let won: Vec<i32> = racers.join_all().await.into_iter().flatten().collect();
    assert_eq!(won.len(), 1);
    let content = std::fs::read_to_string(folder.path().join("deep/down/x")).unwrap();
    assert_eq!(content, won[0].to_string());
    let entries = std::fs::read_dir(folder.path().join("deep/down")).unwrap();
    assert_eq!(entries.count(), 1, "staged files are gone");
}
