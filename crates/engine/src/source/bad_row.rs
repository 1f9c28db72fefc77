//! Which file, and which line of it, a row stands in that cannot be read.
//!
//! DataFusion reads files in slices and says of a bad row neither the file nor,
//! but for the first slice of a text, the line; nor does it name the file of a
//! damaged page. So the last optimizer rule puts a node over each scan of files
//! that hands batches through untouched; after an error it reads the files
//! again, each alone from its beginning, and names the first that fails.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    CsvSource, FileGroup, FileScanConfig, FileScanConfigBuilder, JsonSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use super::SourceFault;
use crate::error::EngineError;

/// Puts a [`NamedScan`] over every scan of files.
#[derive(Debug)]
pub(crate) struct NameBadRows;

impl PhysicalOptimizerRule for NameBadRows {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let named = plan.transform_down(|node| {
            if node.is::<NamedScan>() {
                return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
            }
            let Some(scan) = file_scan(&node) else {
                return Ok(Transformed::no(node));
            };
            let scan = scan.clone();
            let over: Arc<dyn ExecutionPlan> = Arc::new(NamedScan { input: node, scan });
            Ok(Transformed::new(over, true, TreeNodeRecursion::Jump))
        })?;
        Ok(named.data)
    }

    fn name(&self) -> &str {
        "name_bad_rows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn file_scan(node: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    let exec = node.downcast_ref::<DataSourceExec>()?;
    exec.data_source().downcast_ref::<FileScanConfig>()
}

/// A scan of files whose errors name the file, of text the line too.
#[derive(Clone)]
struct NamedScan {
    input: Arc<dyn ExecutionPlan>,
    scan: FileScanConfig,
}

impl fmt::Debug for NamedScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedScan")
            .field("input", &self.input)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for NamedScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NamedScan")
    }
}

impl ExecutionPlan for NamedScan {
    fn name(&self) -> &str {
        "NamedScan"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children
            .pop()
            .ok_or_else(|| DataFusionError::Internal("NamedScan has one input".into()))?;
        let scan = file_scan(&input).unwrap_or(&self.scan).clone();
        Ok(Arc::new(Self { input, scan }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context.clone())?;
        let scan = Arc::new(self.scan.clone());
        let named = rows.or_else(move |error| name(scan.clone(), context.clone(), error));
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema(),
            named,
        )))
    }
}

/// The error of the first file that fails alone, else the error as it was.
async fn name<T>(
    scan: Arc<FileScanConfig>,
    context: Arc<TaskContext>,
    error: DataFusionError,
) -> Result<T> {
    if !is_of_file(&scan, &error) {
        return Err(error);
    }
    let mut paths = std::collections::BTreeSet::new();
    for group in &scan.file_groups {
        for file in group.iter() {
            if !paths.insert(file.object_meta.location.clone()) {
                continue;
            }
            if let Err((rows, error)) = read_alone(&scan, file, &context, is_json(&scan)).await
                && is_of_file(&scan, &error)
            {
                return Err(told(&scan, file, rows, &error, &context).await);
            }
        }
    }
    Err(error)
}

/// How a Parquet scan says that a filter failed that it evaluates while it reads.
const FILTER_FAILED: &str = "Error evaluating filter predicate";

/// Whether an error may be a file's fault. A scan of typed files evaluates
/// filters too, which fail by themselves.
fn is_of_file(scan: &FileScanConfig, error: &DataFusionError) -> bool {
    if error.to_string().contains(FILTER_FAILED) {
        return false;
    }
    match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => false,
        DataFusionError::External(error) => !error.is::<EngineError>(),
        DataFusionError::ArrowError(error, _) => {
            is_text(scan)
                || !matches!(
                    error.as_ref(),
                    ArrowError::CastError(_)
                        | ArrowError::ComputeError(_)
                        | ArrowError::DivideByZero
                        | ArrowError::ArithmeticOverflow(_)
                        | ArrowError::InvalidArgumentError(_)
                )
        }
        _ => true,
    }
}

fn is_text(scan: &FileScanConfig) -> bool {
    is_json(scan) || scan.file_source().downcast_ref::<CsvSource>().is_some()
}

/// Reads a whole file from its beginning, row by row if so asked, and forgets
/// what it reads. An error comes with the number of rows before it.
async fn read_alone(
    scan: &FileScanConfig,
    file: &PartitionedFile,
    context: &Arc<TaskContext>,
    by_row: bool,
) -> Result<(), (usize, DataFusionError)> {
    let mut whole = file.clone();
    whole.range = None;
    let config = FileScanConfigBuilder::from(scan.clone())
        .with_file_groups(vec![FileGroup::new(vec![whole])])
        .with_limit(None)
        .with_batch_size(by_row.then_some(1))
        .build();
    let mut read = 0;
    let mut rows = DataSourceExec::from_data_source(config)
        .execute(0, context.clone())
        .map_err(|error| (read, error))?;
    while let Some(batch) = rows.next().await {
        read += batch.map_err(|error| (read, error))?.num_rows();
    }
    Ok(())
}

/// Of JSON the reader names no line: there the rows are counted.
fn is_json(scan: &FileScanConfig) -> bool {
    scan.file_source().downcast_ref::<JsonSource>().is_some()
}

async fn told(
    scan: &FileScanConfig,
    file: &PartitionedFile,
    rows_before: usize,
    error: &DataFusionError,
    context: &Arc<TaskContext>,
) -> DataFusionError {
    let url = scan.object_store_url.as_str();
    let path = match url.strip_prefix("file://") {
        Some(root) => format!("{root}{}", file.object_meta.location),
        None => format!("{url}{}", file.object_meta.location),
    };
    let fault = SourceFault::of(path, error);
    let reason = match scan.file_source().downcast_ref::<CsvSource>() {
        _ if is_json(scan) => format!("line {}: {}", rows_before + 1, fault.reason),
        Some(csv) => {
            let reason = line_first(&fault.reason);
            if reason.starts_with(LINE) {
                reason
            } else if let Err((rows, _)) = read_alone(scan, file, context, true).await {
                let line = rows + 1 + usize::from(csv.has_header());
                format!("{LINE}{line}: {reason}")
            } else {
                reason
            }
        }
        None => fault.reason.clone(),
    };
    SourceFault { reason, ..fault }.into_datafusion("")
}

const LINE: &str = "line ";

/// `.. for line 7 ..` as `line 7: ..`. Records count as lines, the header too;
/// what is said of values (`at line`) counts from the line before.
fn line_first(reason: &str) -> String {
    for (before, header) in [(" at line ", 1), (" for line ", 0)] {
        if let Some((start, rest)) = reason.split_once(before) {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (line, rest) = rest.split_at(digits);
            if let Ok(line) = line.parse::<u64>() {
                return format!("{LINE}{}: {start}{rest}", line + header);
            }
        }
    }
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use super::line_first;

    #[test]
    fn the_line_comes_first() {
        for (said, expected) in [
            (
                "Error while parsing value 'x' as type 'Int64' for column 1 at line 7. Row data: '[x]'",
                "line 8: Error while parsing value 'x' as type 'Int64' for column 1. Row data: '[x]'",
            ),
            (
                "incorrect number of fields for line 3, expected 2 got 1",
                "line 3: incorrect number of fields, expected 2 got 1",
            ),
            ("corrupt deflate stream", "corrupt deflate stream"),
        ] {
            assert_eq!(line_first(said), expected);
        }
    }
}
