//! Snapshot views: the rows of their runs, and when the runs were.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::datasource::empty::EmptyTable;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{SessionContext, ident};
use granary_model::FeatureView;
use granary_model::definitions::ServeMode;

use super::chain::failed;
use crate::asof::Run;
use crate::error::EngineError;
use crate::offline::log::table_schema;
use crate::offline::{AS_OF_COLUMN, OfflineTable};

pub(super) struct Runs {
    /// Keys, features and T of the run.
    pub(super) rows: Arc<dyn ExecutionPlan>,
    /// Ascending by T.
    pub(super) runs: Vec<Run>,
}

/// Whether a service answers from what runs wrote.
pub(super) fn is_run_written(view: &FeatureView) -> bool {
    view.serve == ServeMode::Online && !view.live
}

/// Everything that was committed for a view.
pub(super) async fn committed(
    engine: &crate::engine::Engine,
    context: &SessionContext,
    view: &FeatureView,
) -> Result<Runs, EngineError> {
    let failed = failed(&view.name);
    let table = OfflineTable::open(engine, view).await?;
    let mut committed = BTreeMap::new();
    if let Some(table) = &table {
        let there = table.run_times().await?;
        // Of a run that was made again the newest commit holds its rows.
        for record in table.runs(usize::MAX).await? {
            if there.binary_search(&record.as_of).is_ok() {
                committed.entry(record.as_of).or_insert(record.committed_at);
            }
        }
    }
    let columns = view.keys.iter().chain(&view.features);
    let columns = columns.map(|column| ident(&column.name));
    let columns: Vec<_> = columns.chain([ident(AS_OF_COLUMN)]).collect();
    let provider: Arc<dyn TableProvider> = match &table {
        Some(table) => table.table_provider(None)?,
        None => Arc::new(EmptyTable::new(table_schema(view))),
    };
    let rows = context.read_table(provider).map_err(&failed)?;
    let rows = rows.select(columns).map_err(&failed)?;
    Ok(Runs {
        rows: rows.create_physical_plan().await.map_err(&failed)?,
        runs: committed
            .into_iter()
            .map(|(as_of, committed)| Run { as_of, committed })
            .collect(),
    })
}
