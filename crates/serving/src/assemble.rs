//! The answer's columns, from what was fetched, in the order of the plan, and
//! what the views behind them are as of.

use std::sync::Arc;

use crate::fetch::Fetched;
use crate::plan::ReadPlan;
use crate::read::{FeatureColumn, ViewAsOf};

/// Shares every array, list and name with what it is made of; copies none.
pub(crate) fn assemble(
    plan: &ReadPlan,
    fetched: &[Fetched],
    full_names: bool,
) -> Vec<FeatureColumn> {
    let columns = plan.columns.iter().map(|column| {
        let from = &fetched[column.fetch];
        let name = if full_names {
            &column.full_name
        } else {
            &column.name
        };
        FeatureColumn {
            name: Arc::clone(name),
            view: Arc::clone(&column.view),
            view_version: column.view_version,
            data_type: column.data_type.clone(),
            values: Arc::clone(&from.values[column.position]),
            statuses: Arc::clone(&from.statuses[column.position]),
            event_times: from.event_times.clone(),
            as_of: from.as_of.clone(),
        }
    });
    columns.collect()
}

/// Of every view that is not live.
pub(crate) fn views(plan: &ReadPlan, fetched: &[Fetched]) -> Vec<ViewAsOf> {
    let views = plan.views.iter().map(|(alias, fetch)| ViewAsOf {
        alias: Arc::clone(alias),
        as_of: fetched[*fetch].as_of.clone(),
    });
    views.collect()
}
