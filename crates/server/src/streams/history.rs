//! Older events of another system: they come up in parts and go into the history
//! of their stream as one call.

use std::time::Duration;

use arrow::array::RecordBatch;
use granary_ingest::HistoryPushed;
use granary_model::ErrorKind;
use granary_proto as pb;
use granary_proto::columns;
use tonic::{Status, Streaming};

use super::{StreamsRpc, invalid, refused_row};
use crate::status::{IntoStatus, status};

/// Refused rows that an answer tells of.
const REFUSED_ROWS_MAX: usize = 1_000;

/// The rows of a call.
struct Call {
    stream: String,
    batches: Vec<RecordBatch>,
}

impl StreamsRpc {
    pub(super) async fn take_history(
        self,
        parts: Streaming<pb::PushHistoryRequest>,
    ) -> Result<pb::PushHistoryResponse, Status> {
        // A call's rows are in memory: one at a time.
        let _turn = self.history.lock().await;
        let settings = &self.items.settings;
        let call = receive(
            parts,
            settings.history_bytes_max,
            settings.request_time_max(),
        );
        let Call { stream, batches } = call.await?;
        let pushed = self.streams.push_history(&stream, &batches).await;
        Ok(encode(pushed.map_err(IntoStatus::into_status)?))
    }
}

async fn receive(
    mut parts: Streaming<pb::PushHistoryRequest>,
    bytes_max: u64,
    patience: Duration,
) -> Result<Call, Status> {
    let mut call = Call {
        stream: String::new(),
        batches: Vec::new(),
    };
    let mut bytes = 0;
    loop {
        let part = tokio::time::timeout(patience, parts.message()).await;
        let part = part.map_err(|_| {
            let message = format!("no more rows within {patience:?}");
            status(ErrorKind::DeadlineExceeded, message)
        })?;
        let Some(part) = part? else { break };
        match call.batches.is_empty() {
            true => call.stream = part.stream,
            false if part.stream.is_empty() || part.stream == call.stream => {}
            false => return Err(invalid("the rows of a call are of one stream")),
        }
        bytes += part.arrow_ipc.len() as u64;
        if bytes > bytes_max {
            let message = format!(
                "stream {}: a call brings at most {bytes_max} bytes of older events (history_bytes_max)",
                call.stream
            );
            return Err(status(ErrorKind::ResourceExhausted, message));
        }
        let rows = columns::decode_ipc(&part.arrow_ipc);
        let rows = rows.map_err(|error| invalid(&format!("arrow_ipc: {error}")))?;
        call.batches.push(rows);
    }
    match call.batches.is_empty() {
        true => Err(invalid("there are no rows: give arrow_ipc")),
        false => Ok(call),
    }
}

fn encode(pushed: HistoryPushed) -> pb::PushHistoryResponse {
    let refused = pushed.refused.len() as u64;
    let told = pushed.refused.into_iter().take(REFUSED_ROWS_MAX);
    pb::PushHistoryResponse {
        added: pushed.added,
        duplicates: pushed.duplicates,
        refused,
        refused_rows: told.map(|(row, reason)| refused_row(row, reason)).collect(),
    }
}
