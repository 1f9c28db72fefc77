//! Whether the files that a plan reads stay as they were while it runs.
//!
//! A plan lists its files when it is made. If one is replaced before it was
//! read to its end, rows of two states stand side by side and nothing says so:
//! hence each is looked at once more when the rows have ended. Files without an
//! ETag come from a table format's log (Delta Lake), which never changes a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};

use crate::error::EngineError;
use crate::source::SourceFault;

/// Files looked at side by side.
const LOOKS_AT_ONCE: usize = 16;

/// The files of a plan, as they were when it was made.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScannedFiles(BTreeMap<(String, Path), (ObjectStoreUrl, ObjectMeta)>);

impl ScannedFiles {
    /// Every file that a scan anywhere in the plan reads.
    pub(crate) fn of(plan: &Arc<dyn ExecutionPlan>) -> Result<Self, DataFusionError> {
        let mut files = BTreeMap::new();
        plan.apply(|node| {
            let scan = node
                .downcast_ref::<DataSourceExec>()
                .and_then(|exec| exec.data_source().downcast_ref::<FileScanConfig>());
            if let Some(scan) = scan {
                let url = &scan.object_store_url;
                for file in scan.file_groups.iter().flat_map(FileGroup::iter) {
                    let meta = &file.object_meta;
                    if meta.e_tag.is_some() {
                        let key = (url.as_str().to_owned(), meta.location.clone());
                        files.insert(key, (url.clone(), meta.clone()));
                    }
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(Self(files))
    }

    /// An error that names the first file that is not what it was.
    pub(crate) async fn check(&self, runtime: &RuntimeEnv) -> Result<(), EngineError> {
        let look = |(url, was): (ObjectStoreUrl, ObjectMeta)| async move {
            let store = runtime
                .object_store(&url)
                .map_err(|error| EngineError::from_query("source", error))?;
            let reason = match store.head(&was.location).await {
                Ok(is) if is.e_tag == was.e_tag && is.size == was.size => return Ok(()),
                Ok(_) => "it changed while it was read; run it again",
                Err(object_store::Error::NotFound { .. }) => "it was removed while it was read",
                Err(error) => return Err(EngineError::Storage(error)),
            };
            Err(SourceFault::new(named(&url, &was.location), reason).into_engine("source"))
        };
        stream::iter(self.0.values().cloned())
            .map(look)
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await
    }
}

/// A file as one would write it.
fn named(store: &ObjectStoreUrl, path: &Path) -> String {
    match store.as_str().strip_prefix("file://") {
        Some(root) => format!("{root}{path}"),
        None => format!("{}{path}", store.as_str()),
    }
}

/// The same rows, which end with an error if a file changed meanwhile. Where
/// reading fails and a file changed, that is the error.
pub(crate) fn unchanged(
    rows: SendableRecordBatchStream,
    files: ScannedFiles,
    runtime: Arc<RuntimeEnv>,
) -> SendableRecordBatchStream {
    let schema = rows.schema();
    let checked = stream::unfold(Some((rows, files, runtime)), async |state| {
        let (mut rows, files, runtime) = state?;
        let failed = match rows.next().await {
            Some(Ok(batch)) => return Some((Ok(batch), Some((rows, files, runtime)))),
            Some(Err(error)) => Some(error),
            None => None,
        };
        let changed = files.check(&runtime).await.err();
        let changed = changed.map(|error| DataFusionError::External(Box::new(error)));
        changed.or(failed).map(|error| (Err(error), None))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, checked))
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use datafusion::prelude::{CsvReadOptions, SessionContext};

    use super::*;
    use crate::engine::Joins;
    use crate::training::spine::tests::engine;

    /// A plan over `a.csv` and `b.csv`, whose rows are not read yet.
    async fn rows(context: &SessionContext, folder: &str) -> SendableRecordBatchStream {
        for name in ["a", "b"] {
            let path = format!("{folder}/{name}.csv");
            std::fs::write(&path, "x,y\n1,2\n").unwrap();
            let options = CsvReadOptions::new();
            context.register_csv(name, &path, options).await.unwrap();
        }
        let sql = "SELECT a.x FROM a JOIN b ON a.x = b.x";
        let plan = context.sql(sql).await.unwrap();
        let plan = plan.create_physical_plan().await.unwrap();
        let files = ScannedFiles::of(&plan).unwrap();
        assert_eq!(files.0.len(), 2);
        let stream = datafusion::physical_plan::execute_stream(plan, context.task_ctx()).unwrap();
        unchanged(stream, files, context.runtime_env())
    }

    async fn told(change: impl Fn(&str)) -> Result<usize, String> {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().to_string_lossy().into_owned();
        let context = engine(temporary.path()).context(None, Joins::default());
        let rows = rows(&context, &folder).await;
        change(&folder);
        let batches: Result<Vec<_>, _> = rows.try_collect().await;
        match batches {
            Ok(batches) => Ok(batches.iter().map(RecordBatch::num_rows).sum()),
            Err(error) => {
                let error = EngineError::from_query("q", error).to_string();
                Err(error.replace(&folder, ""))
            }
        }
    }

    #[tokio::test]
    async fn files_that_stay_are_no_error() {
        assert_eq!(told(|_| ()).await, Ok(1));
    }

    #[tokio::test]
    async fn a_file_that_changed_is_named() {
        let rewritten = told(|folder| {
            std::fs::write(format!("{folder}/b.csv"), "x,y\n1,2\n1,3\n").unwrap();
        });
        let expected = "source: /b.csv: it changed while it was read; run it again";
        assert_eq!(rewritten.await, Err(expected.to_owned()));
        // Replaced by one of the same length.
        let replaced = told(|folder| {
            std::fs::write(format!("{folder}/new"), "x,y\n1,9\n").unwrap();
            std::fs::rename(format!("{folder}/new"), format!("{folder}/b.csv")).unwrap();
        });
        assert_eq!(replaced.await, Err(expected.to_owned()));
        let removed = told(|folder| std::fs::remove_file(format!("{folder}/a.csv")).unwrap());
        let expected = "source: /a.csv: it was removed while it was read";
        assert_eq!(removed.await, Err(expected.to_owned()));
    }
}
