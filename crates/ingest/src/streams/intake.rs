//! Rows that come with a position of a message log: looked at first, then
//! appended together with it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use granary_model::UtcMicros;
use granary_model::definitions::Column;
use granary_store::events::{Appended, ConsumerOffset, EventBatch, NewEvent};

use super::restore::OWN_NAMES;
use super::rows::{TakenTimes, Verdict};
use super::{Streams, Writer};
use crate::error::IngestError;

/// A stream as it is open now; `StoreError::StreamReopened` says that it is not
/// any more, and the next intake is of what holds then.
#[derive(Debug)]
pub(crate) struct Intake {
    writer: Arc<Writer>,
    latest: UtcMicros,
}

/// Rows on their way, and why others are not.
#[derive(Debug)]
pub(crate) struct SeenRows {
    events: Vec<NewEvent>,
    /// Of every row why it was refused, if it was.
    pub refused: Vec<Option<String>>,
}

impl Streams {
    pub(crate) fn intake(&self, stream: &str) -> Result<Intake, IngestError> {
        Ok(Intake {
            writer: self.writer(stream)?,
            latest: self.latest(),
        })
    }
}

impl Intake {
    pub(crate) fn columns(&self) -> &[Column] {
        &self.writer.stream.definition.columns
    }

    /// What is stored of a consumer now; `IngestError::Refused` for a name under
    /// which Granary notes things of its own.
    pub(crate) async fn offset(&self, consumer: &str) -> Result<Option<Bytes>, IngestError> {
        if consumer.starts_with(OWN_NAMES) {
            return Err(IngestError::Refused(format!(
                "consumer {consumer}: names that begin with {OWN_NAMES} are Granary's own"
            )));
        }
        let snapshot = self.writer.stream.events.snapshot().await?;
        Ok(snapshot.consumer_offset(consumer).await?)
    }

    /// Looks at every row; `IngestError::Refused` for a batch of other columns.
    pub(crate) fn see(&self, batch: &RecordBatch) -> Result<SeenRows, IngestError> {
        // The log says what is to be there: what is too old for the live views
        // goes on into the history like any other event.
        let times = TakenTimes::up_to(self.latest);
        let checked = self.writer.codec.check(batch, times)?;
        let refused = checked.verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Refused(reason) | Verdict::Late(reason) => Some(reason),
            Verdict::Taken => None,
        });
        Ok(SeenRows {
            events: checked.events,
            refused: refused.collect(),
        })
    }

    /// Appends the rows that were not refused, as a whole and with the position
    /// that they stand for: both are stored or neither is.
    pub(crate) async fn append(
        &self,
        rows: Vec<SeenRows>,
        offset: ConsumerOffset,
    ) -> Result<Vec<Appended>, IngestError> {
        let batch = EventBatch {
            events: rows.into_iter().flat_map(|rows| rows.events).collect(),
            offsets: vec![offset],
        };
        Ok(self.writer.stream.events.append(batch).await?)
    }
}
