//! Moves rows: read and encode on one side, write on the other, a few batches
//! in between.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use futures::{Stream, StreamExt};
use granary_engine::EngineError;
use granary_model::definitions::FeatureView;
use granary_store::{EncodedRows, EntityKeys, GenerationWriter, RowLayout, StoreError};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::error::IngestError;

/// A batch as the store takes it.
struct Encoded {
    keys: EntityKeys,
    rows: EncodedRows,
}

/// Writes all rows of a stream; gives their number. Reading and encoding run
/// at most `ahead` batches before the store.
pub(super) async fn pump(
    view: &FeatureView,
    mut read: impl Stream<Item = Result<RecordBatch, EngineError>> + Send + Unpin + 'static,
    writer: &mut dyn GenerationWriter,
    ahead: usize,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<u64, IngestError> {
    let (encoded, mut waiting) = mpsc::channel::<Encoded>(ahead.max(1));
    let view = view.clone();
    let reader = AbortOnDropHandle::new(tokio::spawn(async move {
        let layout = RowLayout::of(&view);
        while let Some(batch) = read.next().await {
            let batch = encode(&view, &layout, &batch?)?;
            if encoded.send(batch).await.is_err() {
                break;
            }
        }
        Ok::<_, IngestError>(())
    }));
    let mut rows = 0;
    progress(rows);
    while let Some(batch) = waiting.recv().await {
        writer.write(&batch.keys, &batch.rows).await?;
        rows += batch.rows.len() as u64;
        progress(rows);
    }
    match reader.await {
        Ok(ended) => ended.map(|()| rows),
        Err(e) => Err(IngestError::Stopped(e.to_string())),
    }
}

/// The batch has the columns of the view's row schema, found by name.
fn encode(
    view: &FeatureView,
    layout: &RowLayout,
    batch: &RecordBatch,
) -> Result<Encoded, IngestError> {
    let keys = view.keys.iter().map(|key| {
        let column = batch.column_by_name(&key.name).map(Arc::clone);
        column.ok_or_else(|| StoreError::Codec(format!("the offline rows lack {:?}", key.name)))
    });
    let keys: Vec<ArrayRef> = keys.collect::<Result<_, _>>()?;
    Ok(Encoded {
        keys: EntityKeys::encode(&view.keys, &keys)?,
        rows: layout.encode(
            batch,
            view.event_time.as_deref().filter(|_| layout.event_time),
            view.created_time.as_deref().filter(|_| layout.created_time),
        )?,
    })
}
