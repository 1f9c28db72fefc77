//! The Delta log of one offline table: which files there are, and commits.
//!
//! Every commit is written by a run, at exactly the version after the one that
//! the run read: whoever commits in between makes it fail, and it leaves
//! nothing behind but files that no log names. The record of the run is the
//! commit's `userMetadata`, as JSON text, so that `DESCRIBE HISTORY` of any
//! engine shows it. The transaction `granary/<view>/<version>` carries the
//! watermark in microseconds.
//!
//! `_as_of` and `_created` are partition columns: they are the same in all
//! rows of a run, cost nothing, are known at the commit and not before, and
//! every engine skips files by them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use datafusion::scalar::ScalarValue;
use deltalake_core::checkpoints::create_checkpoint;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{
    Action, Add, LogicalFileView, Protocol, Remove, StructType, Transaction, new_metadata,
};
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};
use granary_model::types::UTC;
use granary_model::{FeatureType, FeatureView, UtcMicros};
use object_store::path::Path;
use url::Url;
use uuid::Uuid;

use super::{AS_OF_COLUMN, CREATED_COLUMN, RunMode, RunRecord};
use crate::engine::Engine;
use crate::error::EngineError;

/// Tells one writer's commit from another's.
const COMMIT_ID: &str = "granaryCommit";

/// A checkpoint after so many commits, so that opening stays fast.
const CHECKPOINT_COMMITS: u64 = 20;

/// Records and files of all runs stay known: drift has a history from day one.
const PROPERTIES: [(&str, &str); 2] = [
    ("delta.enableExpiredLogCleanup", "false"),
    ("delta.logRetentionDuration", "interval 36500 days"),
];

/// A file of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DataFile {
    /// Within the table's folder.
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    pub(crate) rows: Option<u64>,
    pub(crate) as_of: UtcMicros,
    pub(crate) created: UtcMicros,
    /// Statistics as the log has them.
    statistics: Option<String>,
}

impl DataFile {
    fn new(view: &LogicalFileView) -> Result<Self, String> {
        if view.deletion_vector_descriptor().is_some() {
            return Err(format!(
                "{} has a deletion vector, written by another engine; \
                 rewrite the table there without deletion vectors",
                view.path()
            ));
        }
        let values = view.partition_values_map();
        let time = |column: &str| {
            values
                .get(column)
                .and_then(|v| v.as_deref()?.parse::<UtcMicros>().ok())
                .ok_or_else(|| format!("{} has no {column} in the log", view.path()))
        };
        Ok(Self {
            path: view.object_store_path(),
            bytes: view.size().unsigned_abs(),
            rows: view.num_records().map(|n| n as u64),
            as_of: time(AS_OF_COLUMN)?,
            created: time(CREATED_COLUMN)?,
            statistics: view.stats(),
        })
    }

    /// Smallest and greatest value of a TIMESTAMP column, rounded outwards;
    /// `None` where the log does not say.
    pub(crate) fn time_bounds(&self, column: &str) -> Option<(UtcMicros, UtcMicros)> {
        let statistics: serde_json::Value =
            serde_json::from_str(self.statistics.as_deref()?).ok()?;
        let bound = |side: &str| statistics[side][column].as_str()?.parse().ok();
        Some((bound("minValues")?, bound("maxValues")?))
    }

    /// As the values of the partition columns.
    pub(crate) fn partition_scalars(&self) -> Vec<ScalarValue> {
        [self.as_of, self.created]
            .map(|t| ScalarValue::TimestampMicrosecond(Some(t.0), Some(UTC.into())))
            .to_vec()
    }

    pub(crate) fn to_remove(&self, now: UtcMicros) -> Remove {
        Remove {
            path: self.path.to_string(),
            data_change: true,
            deletion_timestamp: Some(now.0.div_euclid(1000)),
            extended_file_metadata: Some(true),
            partition_values: Some(partition_values(self.as_of, self.created)),
            size: Some(self.bytes as i64),
            ..Remove::default()
        }
    }
}

/// A file that was written and is not in the log yet.
#[derive(Debug, Clone)]
pub(crate) struct NewFile {
    /// Within the table's folder.
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    /// As Delta Lake wants them.
    pub(crate) statistics: String,
    /// Of rows that were kept when their file was replaced: the run that wrote them.
    pub(crate) written_by: Option<(UtcMicros, UtcMicros)>,
}

impl NewFile {
    fn to_add(&self, record: &RunRecord) -> Add {
        let (as_of, created) = self
            .written_by
            .unwrap_or((record.as_of, record.committed_at));
        Add {
            path: self.path.to_string(),
            partition_values: partition_values(as_of, created),
            size: self.bytes as i64,
            modification_time: record.committed_at.0.div_euclid(1000),
            data_change: true,
            stats: Some(self.statistics.clone()),
            tags: None,
            deletion_vector: None,
            base_row_id: None,
            default_row_commit_version: None,
            clustering_provider: None,
        }
    }
}

fn partition_values(as_of: UtcMicros, created: UtcMicros) -> HashMap<String, Option<String>> {
    HashMap::from([
        (AS_OF_COLUMN.to_owned(), Some(partition_time(as_of))),
        (CREATED_COLUMN.to_owned(), Some(partition_time(created))),
    ])
}

/// `2026-01-31 00:00:00.000000`: the form that every reader of Delta Lake knows.
fn partition_time(t: UtcMicros) -> String {
    let text = t.to_string();
    let seconds = text.get(..19).unwrap_or(&text).replace('T', " ");
    format!("{seconds}.{:06}", t.0.rem_euclid(1_000_000))
}

/// The log of the table of one view version.
#[derive(Debug, Clone)]
pub(crate) struct TableLog {
    view: String,
    transaction: String,
    location: Url,
    /// Of the table's folder within the store of the root.
    folder: Path,
    log_store: LogStoreRef,
}

/// What the log said when it was read.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) version: u64,
    pub(crate) watermark: UtcMicros,
    pub(crate) files: Vec<DataFile>,
    state: DeltaTableState,
}

impl TableLog {
    pub(crate) fn new(engine: &Engine, view: &FeatureView) -> Result<Self, EngineError> {
        let location = engine.folder_below_root(&format!(
            "offline/{}/v{}",
            folder_name(&view.name),
            view.version
        ))?;
        let folder = Path::from_url_path(location.path()).map_err(object_store::Error::from)?;
        Ok(Self {
            view: view.name.clone(),
            transaction: format!("granary/{}/{}", view.name, view.version),
            log_store: engine.log_store(&location)?,
            location,
            folder,
        })
    }

    pub(crate) fn view(&self) -> &str {
        &self.view
    }

    /// Where a file of the table lies within the store of the root.
    pub(crate) fn path_in_store(&self, file: &Path) -> Path {
        self.folder.parts().chain(file.parts()).collect()
    }

    fn error(&self, source: DeltaTableError) -> EngineError {
        EngineError::Delta {
            object: self.view.clone(),
            source: Box::new(source),
        }
    }

    /// The newest state; `None` where there is no table.
    pub(crate) async fn read(&self) -> Result<Option<LogState>, EngineError> {
        let exists = self.log_store.is_delta_table_location().await;
        if !exists.map_err(|e| self.error(e))? {
            return Ok(None);
        }
        let state = DeltaTableState::try_new(&self.log_store, None)
            .await
            .map_err(|e| self.error(e))?;
        let watermark = state
            .transaction_version(&self.log_store, &self.transaction)
            .await
            .map_err(|e| self.error(e))?
            .ok_or_else(|| self.foreign(format!("it has no transaction {}", self.transaction)))?;
        let files = state
            .log_data()
            .iter()
            .map(|file| DataFile::new(&file))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|what| self.foreign(what))?;
        Ok(Some(LogState {
            version: state.version(),
            watermark: UtcMicros(watermark),
            files,
            state,
        }))
    }

    fn foreign(&self, what: String) -> EngineError {
        self.error(DeltaTableError::Generic(format!(
            "{}: {what}",
            self.location
        )))
    }

    /// Commits a run in one atomic step at `record.offline_version`, which has
    /// to be the version after `base`. [`EngineError::Conflict`] where another
    /// commit came first.
    pub(crate) async fn commit(
        &self,
        base: Option<&LogState>,
        schema: &Schema,
        added: &[NewFile],
        removed: &[DataFile],
        record: &RunRecord,
    ) -> Result<(), EngineError> {
        let mut actions = Vec::new();
        if base.is_none() {
            actions.extend(self.creation(schema)?);
        }
        let watermark = base.map_or(record.as_of, |b| b.watermark.max(record.as_of));
        let removals = removed.iter().map(|f| f.to_remove(record.committed_at));
        actions.extend(removals.map(Action::Remove));
        actions.extend(added.iter().map(|f| Action::Add(f.to_add(record))));
        let text = serde_json::to_string(record).map_err(|e| self.foreign(e.to_string()))?;
        let commit_id = Uuid::new_v4().to_string();
        let properties = CommitProperties::default()
            .with_max_retries(0)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false))
            .with_metadata([
                ("userMetadata".to_owned(), text.into()),
                (COMMIT_ID.to_owned(), commit_id.clone().into()),
            ])
            .with_application_transaction(Transaction::new(&self.transaction, watermark.0));
        let operation = DeltaOperation::Write {
            mode: match record.mode {
                RunMode::Append => SaveMode::Append,
                RunMode::Replace => SaveMode::Overwrite,
            },
            partition_by: Some(vec![AS_OF_COLUMN.into(), CREATED_COLUMN.into()]),
            predicate: None,
        };
        let prepared = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(
                base.map(|b| &b.state as _),
                self.log_store.clone(),
                operation,
            )
            .into_prepared_commit_future()
            .await
            .map_err(|e| self.error(e))?;
        match prepared.await {
            Ok(committed) if committed.version == record.offline_version => {}
            Ok(committed) => {
                return Err(self.foreign(format!(
                    "committed as version {} instead of {}",
                    committed.version, record.offline_version
                )));
            }
            Err(error) => {
                self.settle(error, record.offline_version, &commit_id)
                    .await?
            }
        }
        self.checkpoint(record.offline_version).await;
        Ok(())
    }

    /// Protocol and metadata: the actions that create the table.
    fn creation(&self, schema: &Schema) -> Result<[Action; 2], EngineError> {
        let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
        fields.extend(bookkeeping_fields());
        let schema: StructType = (&Schema::new(fields))
            .try_into_kernel()
            .map_err(|e: arrow::error::ArrowError| self.error(e.into()))?;
        let protocol: Protocol = serde_json::from_value(
            serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2}),
        )
        .map_err(|e| self.foreign(e.to_string()))?;
        let metadata = new_metadata(&schema, [AS_OF_COLUMN, CREATED_COLUMN], PROPERTIES)
            .map_err(|e| self.foreign(e.to_string()))?;
        Ok([Action::Protocol(protocol), Action::Metadata(metadata)])
    }

    /// After an error nobody knows whether the commit arrived: the log does.
    async fn settle(
        &self,
        error: DeltaTableError,
        version: u64,
        commit_id: &str,
    ) -> Result<(), EngineError> {
        match self.commit_entry(version).await? {
            Some(entry) if commit_info(&entry, COMMIT_ID).as_deref() == Some(commit_id) => Ok(()),
            None if !is_conflict(&error) => Err(self.error(error)),
            _ => Err(EngineError::Conflict {
                view: self.view.clone(),
            }),
        }
    }

    /// A checkpoint only makes opening faster: failing to write one is no error.
    async fn checkpoint(&self, version: u64) {
        if !(version + 1).is_multiple_of(CHECKPOINT_COMMITS) {
            return;
        }
        let mut table = DeltaTable::new(self.log_store.clone());
        let written = match table.load_version(version).await {
            Ok(()) => create_checkpoint(&table, None).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(view = self.view, version, %error, "no checkpoint written");
        }
    }

    async fn commit_entry(&self, version: u64) -> Result<Option<Bytes>, EngineError> {
        let entry = self.log_store.read_commit_entry(version).await;
        entry.map_err(|e| self.error(e))
    }

    /// The record of the run that made a commit; `None` where a run did not.
    pub(crate) async fn record(&self, version: u64) -> Result<Option<RunRecord>, EngineError> {
        let entry = self.commit_entry(version).await?;
        Ok(entry
            .as_deref()
            .and_then(|entry| commit_info(entry, "userMetadata"))
            .and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Paths of the files that the commits after `since` added, up to and
    /// including `until`; `None` where the log does not reach back that far.
    pub(crate) async fn added_after(
        &self,
        since: u64,
        until: u64,
    ) -> Result<Option<HashSet<Path>>, EngineError> {
        let mut paths = HashSet::new();
        for version in since + 1..=until {
            let Some(entry) = self.commit_entry(version).await? else {
                return Ok(None);
            };
            for action in actions(&entry) {
                if let Some(path) = action["add"]["path"].as_str() {
                    paths.insert(Path::from_url_path(path).map_err(object_store::Error::from)?);
                }
            }
        }
        Ok(Some(paths))
    }
}

fn is_conflict(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::VersionAlreadyExists(_)
            | DeltaTableError::Transaction {
                source: TransactionError::MaxCommitAttempts(_)
                    | TransactionError::CommitConflict(_)
                    | TransactionError::VersionAlreadyExists(_)
            }
    )
}

fn actions(entry: &[u8]) -> impl Iterator<Item = serde_json::Value> {
    entry
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

fn commit_info(entry: &[u8], name: &str) -> Option<String> {
    actions(entry).find_map(|action| Some(action["commitInfo"][name].as_str()?.to_owned()))
}

/// `_as_of` and `_created`.
pub(crate) fn bookkeeping_fields() -> Vec<Arc<Field>> {
    [AS_OF_COLUMN, CREATED_COLUMN]
        .map(|name| Arc::new(Field::new(name, FeatureType::Timestamp.to_arrow(), true)))
        .to_vec()
}

/// A folder for any name that SQL allows, also where file systems fold case:
/// what is not a lower case letter, digit, `_` or `-` becomes `~` and its code.
fn folder_name(name: &str) -> String {
    let mut folder = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => folder.push(char::from(byte)),
            other => folder.push_str(&format!("~{other:02x}")),
        }
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_different_names_differ_in_any_case() {
        let names = ["a", "A", "a/b", "a~b", "ä", "a b"];
        let folders: HashSet<String> = names.iter().map(|n| folder_name(n)).collect();
        assert_eq!(folders.len(), names.len());
        assert!(
            folders
                .iter()
                .all(|f| *f == f.to_lowercase() && !f.contains('/'))
        );
    }

    #[test]
    fn partition_times_have_six_digits() {
        for (t, text) in [
            (0, "1970-01-01 00:00:00.000000"),
            (1_500_000, "1970-01-01 00:00:01.500000"),
            (-1, "1969-12-31 23:59:59.999999"),
        ] {
            assert_eq!(partition_time(UtcMicros(t)), text);
            assert_eq!(text.parse(), Ok(UtcMicros(t)));
        }
    }
}
