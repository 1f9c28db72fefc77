//! The stored events as the engine reads them: a stream as a relation.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use granary_engine::{EngineError, Lost, StreamEvents, StreamSource};
use granary_model::definitions::Stream;
use granary_store::events::{EventSnapshot, StreamSpec};
use granary_store::{EventRows, OpenStream, OpenStreams, StoreError};

/// Events read at once.
const EVENTS_READ: usize = 8192;

/// Reads streams that this process has open.
#[derive(Debug, Clone)]
pub struct OpenEvents(pub Arc<OpenStreams>);

#[async_trait]
impl StreamSource for OpenEvents {
    async fn scan(
        &self,
        stream: &Stream,
        projection: &[usize],
    ) -> Result<StreamEvents, EngineError> {
        let unknown = || EngineError::Refused(format!("{}: the stream is not open", stream.name));
        let open = self.0.get(&stream.name).ok_or_else(unknown)?;
        if open.definition.columns != stream.columns {
            return Err(EngineError::SchemaChanged {
                object: stream.name.clone(),
                difference: "events are stored under other columns".to_owned(),
            });
        }
        let snapshot = open.events.snapshot().await.map_err(failed(&stream.name))?;
        let lost = lost(snapshot.as_ref(), open.events.spec());
        // Without HISTORY in its definition the reader has only what is kept.
        let flushed = match stream.history {
            Some(_) => snapshot.state().flushed,
            None => 0,
        };
        let scan = Scan {
            open,
            snapshot,
            projection: projection.to_vec(),
            after: flushed,
        };
        let batches = futures::stream::try_unfold(scan, async |mut scan| {
            let name = scan.open.definition.name.clone();
            let batch = scan.next().await.map_err(failed(&name))?;
            Ok(batch.map(|batch| (batch, scan)))
        });
        Ok(StreamEvents {
            flushed,
            lost,
            kept: batches.boxed(),
        })
    }
}

/// What a stream lost.
pub(super) fn lost(snapshot: &dyn EventSnapshot, spec: &StreamSpec) -> Option<Lost> {
    let state = snapshot.state();
    let before = state.lost_before?;
    let indexes = spec.indexes.iter().enumerate();
    let kept = indexes.map(|(at, index)| (index.name.clone(), snapshot.newest_kept(at)));
    Some(Lost {
        before,
        newest_from: state.newest_from.unwrap_or(before),
        newest_kept: kept.collect(),
    })
}

struct Scan {
    open: Arc<OpenStream>,
    snapshot: Arc<dyn EventSnapshot>,
    projection: Vec<usize>,
    /// The sequence of the last event that was read.
    after: u64,
}

impl Scan {
    async fn next(&mut self) -> Result<Option<arrow::array::RecordBatch>, StoreError> {
        let mut rows = EventRows::new(&self.open.layout, &self.projection);
        let scan = self.snapshot.scan_log(self.after, EVENTS_READ, &mut rows);
        scan.await?;
        let read = rows.finish()?;
        let Some(last) = read.sequences.last() else {
            return Ok(None);
        };
        self.after = *last;
        Ok(Some(read.batch))
    }
}

fn failed(stream: &str) -> impl Fn(StoreError) -> EngineError {
    move |error| EngineError::Events {
        stream: stream.to_owned(),
        kind: error.kind(),
        reason: error.to_string(),
    }
}
