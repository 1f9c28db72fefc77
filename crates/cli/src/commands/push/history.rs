//! `granary push --history`: rows go into the history of their stream, many in a
//! call, since each call is a commit and looks for what the history has already.

use anyhow::anyhow;
use arrow::array::RecordBatch;
use futures::{Stream, TryStreamExt};
use granary_client::HistoryAnswer;
use granary_ingest::HistoryPushed;

use super::rows::{Place, TypedRows};
use super::{Counts, REASONS_MAX, Sink, Target, bytes_of, parts};
use crate::output::human;
use crate::progress::RowCount;

/// A call ends with so many bytes of rows. Where no DEDUPLICATE BY tells rows
/// apart the call as a whole does, and has all of the file.
const CALL_BYTES: usize = 64 << 20;

/// Rows that go in one call.
#[derive(Default)]
struct Call {
    batches: Vec<RecordBatch>,
    places: Vec<Place>,
    bytes: usize,
}

pub(super) async fn push(
    target: &Target,
    file: &str,
    batches: impl Stream<Item = anyhow::Result<TypedRows>>,
    progress: &RowCount,
) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let mut call = Call::default();
    futures::pin_mut!(batches);
    while let Some(rows) = batches.try_next().await.map_err(stopped(file, &counts))? {
        for part in parts(rows) {
            for (place, reason) in part.refused {
                counts.refuse(place, reason);
            }
            call.bytes += bytes_of(&part.batch);
            call.places.extend(part.places);
            call.batches.push(part.batch);
        }
        if target.deduplicates && call.bytes >= CALL_BYTES {
            send(target, file, std::mem::take(&mut call), &mut counts).await?;
            progress.rows(counts.rows());
        }
    }
    send(target, file, call, &mut counts).await?;
    Ok(counts)
}

async fn send(target: &Target, file: &str, call: Call, counts: &mut Counts) -> anyhow::Result<()> {
    let batches: Vec<RecordBatch> = call.batches.into_iter().filter(has_rows).collect();
    if batches.is_empty() {
        return Ok(());
    }
    let answer = target.push_history(&batches).await;
    let answer = answer.map_err(stopped(file, counts))?;
    counts.history += answer.added;
    counts.duplicates += answer.duplicates;
    counts.refused += answer.refused.saturating_sub(answer.reasons.len() as u64);
    for (row, reason) in answer.reasons {
        match call.places.get(row) {
            Some(place) => counts.refuse(*place, reason),
            None => counts.refused += 1,
        }
    }
    Ok(())
}

fn has_rows(batch: &RecordBatch) -> bool {
    batch.num_rows() > 0
}

/// What failed, and how much is done.
fn stopped(file: &str, counts: &Counts) -> impl FnOnce(anyhow::Error) -> anyhow::Error {
    let done = human::counted(counts.history, "event");
    let context = format!("{file}: stopped after {done} went into the history");
    move |error| error.context(context)
}

impl Target {
    async fn push_history(&self, batches: &[RecordBatch]) -> anyhow::Result<HistoryAnswer> {
        let HistoryPushed {
            added,
            duplicates,
            refused,
        } = match &self.sink {
            Sink::Server(client) => return Ok(client.push_history(&self.stream, batches).await?),
            Sink::Owned(streams) => streams.push_history(&self.stream, batches).await?,
        };
        Ok(HistoryAnswer {
            added,
            duplicates,
            refused: refused.len() as u64,
            reasons: refused.into_iter().take(REASONS_MAX).collect(),
        })
    }
}

/// Older events have nowhere to go where a stream has no history.
pub(super) fn check(stream: &str, has_history: bool) -> anyhow::Result<()> {
    match has_history {
        true => Ok(()),
        false => Err(anyhow!(
            "stream {stream} has no HISTORY that older events could go to: define it with `HISTORY {stream}_history` and apply that"
        )),
    }
}
