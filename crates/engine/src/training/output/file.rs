//! A training set in one file.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, RenameOptions, RenameTargetMode};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use super::encode::Encoder;
use super::{OutputTarget, Written};
use crate::engine::Stores;
use crate::error::EngineError;

const UPLOAD_BYTES: usize = 8 << 20;
const UPLOADS: usize = 2;

pub(super) async fn write<E: From<EngineError>>(
    stores: &Stores,
    schema: SchemaRef,
    rows: impl Stream<Item = Result<RecordBatch, E>> + Send,
    target: &OutputTarget,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<Written, E> {
    let mut encoder = Encoder::new(target, schema)?;
    let mut file = Upload::begin(stores, target)?;
    let written = fill(&mut file, &mut encoder, rows, target, progress).await;
    match written {
        Ok((rows, mut write_time)) => {
            let bytes = file.bytes;
            let started = Instant::now();
            file.complete(target).await?;
            write_time += started.elapsed();
            Ok(Written {
                rows,
                bytes,
                write_time,
            })
        }
        Err(error) => {
            file.discard().await;
            Err(error)
        }
    }
}

async fn fill<E: From<EngineError>>(
    file: &mut Upload,
    encoder: &mut Encoder,
    rows: impl Stream<Item = Result<RecordBatch, E>> + Send,
    target: &OutputTarget,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<(u64, Duration), E> {
    let mut rows = pin!(rows);
    let mut written = 0;
    let mut write_time = Duration::ZERO;
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        written += batch.num_rows() as u64;
        let started = Instant::now();
        let bytes = encoder.encode(batch).await.map_err(|e| e.of(target))?;
        file.put(bytes).await?;
        write_time += started.elapsed();
        progress(written);
    }
    let started = Instant::now();
    let bytes = encoder.finish().await.map_err(|e| e.of(target))?;
    file.put(bytes).await?;
    Ok((written, write_time + started.elapsed()))
}

/// A file that is being written.
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    writer: BufWriter,
    /// Where the bytes go.
    path: Path,
    /// Where they are to stand in the end, if that is elsewhere.
    renamed: Option<Path>,
    bytes: u64,
}

impl Upload {
    /// On this machine, a hidden file beside the target; elsewhere an object
    /// that appears when it is complete.
    fn begin(stores: &Stores, target: &OutputTarget) -> Result<Self, EngineError> {
        let (store, end) = stores.resolve(&target.url)?;
        let local = target.url.scheme() == "file";
        let path = match (local, end.filename()) {
            (true, Some(name)) => {
                let hidden = format!(".{name}.{}.partial", Uuid::new_v4().simple());
                let mut parts: Vec<_> = end.parts().collect();
                parts.pop();
                parts.push(hidden.into());
                Path::from_iter(parts)
            }
            _ => end.clone(),
        };
        Ok(Self::at(store, path, local.then_some(end)))
    }

    /// Bytes that go to `path`, and then to `renamed`.
    pub(super) fn at(store: Arc<dyn ObjectStore>, path: Path, renamed: Option<Path>) -> Self {
        let writer = BufWriter::with_capacity(store.clone(), path.clone(), UPLOAD_BYTES)
            .with_max_concurrency(UPLOADS);
        Self {
            store,
            writer,
            path,
            renamed,
            bytes: 0,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) async fn put(&mut self, bytes: Vec<u8>) -> Result<(), EngineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.bytes += bytes.len() as u64;
        Ok(self.writer.put(Bytes::from(bytes)).await?)
    }

    /// All bytes are stored, under the name that they were written with.
    pub(super) async fn close(&mut self) -> Result<(), EngineError> {
        let closed = self.writer.shutdown().await;
        closed.map_err(|error| {
            EngineError::Storage(object_store::Error::Generic {
                store: "output",
                source: Box::new(error),
            })
        })
    }

    async fn complete(mut self, target: &OutputTarget) -> Result<(), EngineError> {
        let completed = self.try_complete(target).await;
        if completed.is_err()
            && let Some(_) = &self.renamed
        {
            delete(self.store.as_ref(), &self.path).await;
        }
        completed
    }

    async fn try_complete(&mut self, target: &OutputTarget) -> Result<(), EngineError> {
        if self.renamed.is_none() && !target.overwrite {
            // Somebody may have been faster.
            if self.store.head(&self.path).await.is_ok() {
                self.abort().await;
                return Err(target.exists());
            }
        }
        self.close().await?;
        let Some(end) = &self.renamed else {
            return Ok(());
        };
        let mode = match target.overwrite {
            true => RenameTargetMode::Overwrite,
            false => RenameTargetMode::Create,
        };
        let options = RenameOptions::new().with_target_mode(mode);
        match self.store.rename_opts(&self.path, end, options).await {
            Err(object_store::Error::AlreadyExists { .. }) => Err(target.exists()),
            renamed => Ok(renamed?),
        }
    }

    async fn abort(&mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(path = %self.path, %error, "an upload was not aborted");
        }
    }

    /// Leaves nothing behind.
    pub(super) async fn discard(mut self) {
        self.abort().await;
        if self.renamed.is_some() {
            delete(self.store.as_ref(), &self.path).await;
        }
    }
}

/// Failing costs space only.
pub(super) async fn delete(store: &dyn ObjectStore, path: &Path) {
    match store.delete(path).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
        Err(error) => tracing::warn!(%path, %error, "an unfinished file remains"),
    }
}
