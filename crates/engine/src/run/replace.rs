//! What a replacing run removes: whole files where it can, and of files that
//! reach beyond the replaced range the rows that stay, written anew.

use futures::StreamExt;
use granary_model::UtcMicros;

use datafusion::logical_expr::lit;
use datafusion::prelude::ident;

use super::Run;
use crate::delta_log::NewFile;
use crate::engine::Joins;
use crate::error::EngineError;
use crate::offline::log::{DataFile, LogState};
use crate::offline::read::{OfflineScan, time_scalar};
use crate::offline::write::PartitionWriter;

/// Partitions of the writer that rewrites, apart from those of the run.
const REWRITTEN: usize = 500;

pub(super) struct Replaced {
    pub(super) removed: Vec<DataFile>,
    pub(super) kept: Vec<NewFile>,
}

/// Of an incremental view the files with rows in (from, T], of any other those
/// of the run at T.
pub(super) async fn replaced(run: &Run<'_>, base: &LogState) -> Result<Replaced, EngineError> {
    let as_of = run.scope.as_of;
    let mut replaced = Replaced {
        removed: Vec::new(),
        kept: Vec::new(),
    };
    let event_time = match &run.view.event_time {
        Some(event_time) if run.view.is_incremental() => event_time,
        _ => {
            let of_run = base.files.iter().filter(|f| f.stamp.as_of == as_of);
            replaced.removed.extend(of_run.cloned());
            return Ok(replaced);
        }
    };
    let from = run.from.unwrap_or(UtcMicros::MIN);
    for (number, file) in base.files.iter().enumerate() {
        let (low, high) = file
            .time_bounds(event_time)
            .unwrap_or((UtcMicros::MIN, UtcMicros::MAX));
        if low > as_of || high <= from {
            continue;
        }
        if low <= from && run.from.is_some() || high > as_of {
            let kept = kept_rows(run, event_time, file, REWRITTEN + number).await?;
            replaced.kept.extend(kept);
        }
        replaced.removed.push(file.clone());
    }
    Ok(replaced)
}

/// Writes the rows of a file that lie outside of the range, in their order.
async fn kept_rows(
    run: &Run<'_>,
    event_time: &str,
    file: &DataFile,
    partition: usize,
) -> Result<Vec<NewFile>, EngineError> {
    let failed = |e| EngineError::from_query(&run.view.name, e);
    let context = run.engine.context(None, Joins::Spilling);
    let scan =
        OfflineScan::new(run.engine, run.view, &run.log, std::slice::from_ref(file)).in_key_order();
    let time = || ident(event_time);
    let mut stays = time().gt(lit(time_scalar(run.scope.as_of)));
    if let Some(from) = run.from {
        stays = stays.or(time().lt_eq(lit(time_scalar(from))));
    }
    let schema = run.view.row_schema();
    let order = run
        .view
        .keys
        .iter()
        .map(|k| &k.name)
        .chain(run.view.event_time.as_ref());
    let order = order.map(|name| ident(name).sort(true, true)).collect();
    let frame = context
        .read_table(std::sync::Arc::new(scan))
        .and_then(|f| f.filter(stays))
        .and_then(|f| f.select(schema.fields().iter().map(|f| ident(f.name()))))
        .and_then(|f| f.sort(order))
        .map_err(failed)?;
    let mut rows = frame.execute_stream().await.map_err(failed)?;
    let mut writer = PartitionWriter::new(run.files.clone(), file.stamp, partition);
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        let batch = arrow::array::RecordBatch::try_new(schema.clone(), batch.columns().to_vec())
            .map_err(|e| failed(e.into()))?;
        if batch.num_rows() > 0 {
            writer.write(&batch).await?;
        }
    }
    Ok(writer.finish().await?.files)
}
