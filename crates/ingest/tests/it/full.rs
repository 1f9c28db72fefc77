//! Disks that are full on demand: one of files, one of online rows.

use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use granary_model::UtcMicros;
use granary_store::{
    Coverage, EncodedRows, EntityKeys, Generation, GenerationState, GenerationWriter, OnlineStore,
    RowLayout, RowSink, StoreError, UpsertSummary, WriteMode,
};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// Refuses to write below a folder name while `full` is set.
#[derive(Debug)]
pub struct FullFiles {
    pub inner: Arc<dyn ObjectStore>,
    pub folder: &'static str,
    pub full: AtomicBool,
}

impl FullFiles {
    fn room_for(&self, at: &Path) -> Result<()> {
        let here = at.parts().any(|part| part.as_ref() == self.folder);
        match here && self.full.load(Ordering::SeqCst) {
            true => Err(Error::Generic {
                store: "FullFiles",
                source: Box::new(std::io::Error::from(ErrorKind::StorageFull)),
            }),
            false => Ok(()),
        }
    }
}

impl fmt::Display for FullFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FullFiles({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FullFiles {
    async fn put_opts(&self, at: &Path, body: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.room_for(at)?;
        self.inner.put_opts(at, body, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.room_for(at)?;
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, how).await
    }

    async fn get_ranges(&self, at: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(at, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, how: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, how).await
    }
}

/// Views and their versions.
type Views = Vec<(String, u32)>;

/// Fails the n-th step of a writer (batches, then the publication) or of who
/// bundles, counting down over all of them; 0: never again.
#[derive(Debug, Clone)]
pub struct FullStore {
    pub inner: Arc<dyn OnlineStore>,
    pub steps_left: Arc<AtomicUsize>,
    /// What was asked for.
    pub bundled: Arc<Mutex<Vec<Views>>>,
}

struct FullWriter {
    inner: Box<dyn GenerationWriter>,
    steps_left: Arc<AtomicUsize>,
}

impl FullWriter {
    fn step(&self) -> std::result::Result<(), StoreError> {
        step(&self.steps_left)
    }
}

fn step(left: &AtomicUsize) -> std::result::Result<(), StoreError> {
    let down = |n: usize| n.checked_sub(1);
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, down) {
        Ok(1) => Err(StoreError::Full {
            path: "online".into(),
            what: "the rows".into(),
        }),
        _ => Ok(()),
    }
}

#[async_trait]
impl GenerationWriter for FullWriter {
    async fn write(
        &mut self,
        keys: &EntityKeys,
        rows: &EncodedRows,
    ) -> std::result::Result<UpsertSummary, StoreError> {
        self.step()?;
        self.inner.write(keys, rows).await
    }

    async fn write_default(&mut self, row: &[u8]) -> std::result::Result<(), StoreError> {
        self.step()?;
        self.inner.write_default(row).await
    }

    async fn publish(
        self: Box<Self>,
        coverage: Coverage,
    ) -> std::result::Result<GenerationState, StoreError> {
        self.step()?;
        self.inner.publish(coverage).await
    }
}

#[async_trait]
impl OnlineStore for FullStore {
    async fn generation(
        &self,
        view: &str,
        version: u32,
    ) -> std::result::Result<Option<Arc<dyn Generation>>, StoreError> {
        self.inner.generation(view, version).await
    }

    async fn generations(&self) -> std::result::Result<Vec<GenerationState>, StoreError> {
        self.inner.generations().await
    }

    async fn read(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> std::result::Result<(), StoreError> {
        self.inner.read(keys, generations, sink).await
    }

    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> std::result::Result<Box<dyn GenerationWriter>, StoreError> {
        Ok(Box::new(FullWriter {
            inner: self.inner.writer(view, version, layout, mode).await?,
            steps_left: Arc::clone(&self.steps_left),
        }))
    }

    async fn sweep(
        &self,
        view: &str,
        version: u32,
        older_than: UtcMicros,
    ) -> std::result::Result<u64, StoreError> {
        self.inner.sweep(view, version, older_than).await
    }

    async fn drop_version(&self, view: &str, version: u32) -> std::result::Result<(), StoreError> {
        self.inner.drop_version(view, version).await
    }

    async fn bundle(&self, views: &[(String, u32)]) -> std::result::Result<bool, StoreError> {
        self.bundled.lock().unwrap().push(views.to_vec());
        step(&self.steps_left)?;
        self.inner.bundle(views).await
    }

    async fn refresh(&self) -> std::result::Result<bool, StoreError> {
        self.inner.refresh().await
    }
}
