//! The stored events as the engine reads them: a stream as a relation.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use granary_engine::{EngineError, StreamEvents, StreamSource, Trimmed};
use granary_model::definitions::Stream;
use granary_store::events::EventSnapshot;
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
        // Without HISTORY in its definition the reader has only what is kept.
        let state = *snapshot.state();
        let (flushed, trimmed) = match stream.history {
            Some(_) => (state.flushed, None),
            None => (0, state.trimmed_before.zip(state.newest_event_time)),
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
            trimmed: trimmed.map(|(before, newest)| Trimmed { before, newest }),
            kept: batches.boxed(),
        })
    }
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
