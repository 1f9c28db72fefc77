//! What a plan does, as text, and where its time went.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::physical_plan::metrics::MetricValue;

/// The operators of a plan, one a line; `with_metrics`: with what each did,
/// where it ran.
pub fn explain(plan: &Arc<dyn ExecutionPlan>, with_metrics: bool) -> String {
    let shown = match with_metrics {
        true => DisplayableExecutionPlan::with_metrics(plan.as_ref()),
        false => DisplayableExecutionPlan::new(plan.as_ref()),
    };
    shown.indent(true).to_string()
}

/// Time that a plan's operators computed, summed over threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeSplit {
    /// Opening, decoding and filtering files.
    pub read: Duration,
    pub sort: Duration,
    /// As-of joins and windows.
    pub aggregate: Duration,
    pub other: Duration,
}

/// Operators of our own that sort tell so by a metric.
const SORT_METRIC: &str = "sort_time";

/// Where the time of a plan that ran went.
pub fn time_split(plan: &Arc<dyn ExecutionPlan>) -> TimeSplit {
    let mut split = TimeSplit::default();
    // Looking at a plan does not fail.
    let _ = plan.apply(|node| {
        let metrics = node.metrics().unwrap_or_default();
        let mut computed = Duration::ZERO;
        for metric in metrics.iter() {
            match metric.value() {
                MetricValue::ElapsedCompute(time) => {
                    computed += Duration::from_nanos(time.value() as u64);
                }
                MetricValue::Time { name, time } => {
                    let time = Duration::from_nanos(time.value() as u64);
                    match (node.name(), name.as_ref()) {
                        ("DataSourceExec", "time_elapsed_processing") => split.read += time,
                        (_, SORT_METRIC) => {
                            split.sort += time;
                            computed = computed.saturating_sub(time);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        match node.name() {
            "DataSourceExec" => {}
            "SortExec" | "SortPreservingMergeExec" => split.sort += computed,
            name if name.starts_with("AsOf") => split.aggregate += computed,
            "FilterExec" => split.read += computed,
            _ => split.other += computed,
        }
        Ok(TreeNodeRecursion::Continue)
    });
    split
}
