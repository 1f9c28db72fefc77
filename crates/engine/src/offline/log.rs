//! The Delta log of one offline table: which files there are, and commits.
//!
//! Every commit is written by a run, at exactly the version after the one that
//! the run read: whoever commits in between makes it fail, and it leaves
//! nothing behind but files that no log names. The record of the run is the
//! commit's `userMetadata`, as JSON text, so that `DESCRIBE HISTORY` of any
//! engine shows it. The transaction `granary/<view>/<version>` carries the
//! watermark in microseconds.
//!
//! Each file holds rows of one run, whose T its name tells (see [`Stamp`]):
//! reading the newest run of a snapshot view touches no other file. The tables
//! are not partitioned, since not every reader of Delta Lake knows partitions
//! by TIMESTAMP.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use bytes::Bytes;
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
use futures::TryStreamExt;
use granary_model::{FeatureType, FeatureView, UtcMicros};
use object_store::path::Path;
use url::Url;
use uuid::Uuid;

use super::write::sorted_file;
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

/// Which run wrote the rows of a file: all of them have these values in the
/// bookkeeping columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) as_of: UtcMicros,
    pub(crate) created: UtcMicros,
}

/// In the names of files: `<as_of>-<created>`, microseconds in hex.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.as_of.0, self.created.0)
    }
}

impl FromStr for Stamp {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (as_of, created) = text.split_once('-').unwrap_or((text, ""));
        let time = |hex| u64::from_str_radix(hex, 16).map(|t| UtcMicros(t as i64));
        Ok(Self {
            as_of: time(as_of)?,
            created: time(created)?,
        })
    }
}

/// A file of the table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DataFile {
    /// Within the table's folder.
    pub(crate) path: Path,
    pub(crate) bytes: u64,
    pub(crate) rows: Option<u64>,
    pub(crate) stamp: Stamp,
    /// Statistics as the log has them.
    statistics: Option<String>,
}

impl DataFile {
    fn new(view: &LogicalFileView) -> Result<Self, String> {
        let path = view.object_store_path();
        let stamp = match sorted_file(&path) {
            Some((stamp, _)) if view.deletion_vector_descriptor().is_none() => stamp,
            _ => {
                return Err(format!(
                    "{path} was written or changed by another engine; offline tables are \
                     written by Granary alone: restore its last version, or force the runs again \
                     after deleting the table"
                ));
            }
        };
        Ok(Self {
            path,
            bytes: view.size().unsigned_abs(),
            rows: view.num_records().map(|n| n as u64),
            stamp,
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

    fn to_remove(&self, now: UtcMicros) -> Remove {
        Remove {
            path: self.path.to_string(),
            data_change: true,
            deletion_timestamp: Some(now.0.div_euclid(1000)),
            extended_file_metadata: Some(true),
            partition_values: Some(HashMap::new()),
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
}

impl NewFile {
    fn to_add(&self, record: &RunRecord) -> Add {
        Add {
            path: self.path.to_string(),
            partition_values: HashMap::new(),
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

/// The log of the table of one view version.
#[derive(Debug, Clone)]
pub(crate) struct TableLog {
    view: String,
    schema: SchemaRef,
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
            schema: table_schema(view),
            transaction: format!("granary/{}/{}", view.name, view.version),
            log_store: engine.log_store(&location)?,
            location,
            folder,
        })
    }

    /// Of the table's files: `row_schema` and the bookkeeping columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
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

    /// Whether there is a table.
    pub(crate) async fn exists(&self) -> Result<bool, EngineError> {
        let exists = self.log_store.is_delta_table_location().await;
        exists.map_err(|e| self.error(e))
    }

    /// The newest state; `None` where there is no table.
    pub(crate) async fn read(&self) -> Result<Option<LogState>, EngineError> {
        if !self.exists().await? {
            return Ok(None);
        }
        let state = DeltaTableState::try_new(&self.log_store, None)
            .await
            .map_err(|e| self.error(e))?;
        let watermark = state
            .transaction_version(&self.log_store, &self.transaction)
            .await
            .map_err(|e| self.error(e))?
            .ok_or_else(|| self.foreign(&format!("it has no transaction {}", self.transaction)))?;
        let files = state
            .log_data()
            .iter()
            .map(|file| DataFile::new(&file))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|what| self.foreign(&what))?;
        Ok(Some(LogState {
            version: state.version(),
            watermark: UtcMicros(watermark),
            files,
            state,
        }))
    }

    fn foreign(&self, what: &str) -> EngineError {
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
        added: &[NewFile],
        removed: &[DataFile],
        record: &RunRecord,
    ) -> Result<(), EngineError> {
        let mut actions = Vec::new();
        if base.is_none() {
            actions.extend(self.creation()?);
        }
        let watermark = base.map_or(record.as_of, |b| b.watermark.max(record.as_of));
        let removals = removed.iter().map(|f| f.to_remove(record.committed_at));
        actions.extend(removals.map(Action::Remove));
        actions.extend(added.iter().map(|f| Action::Add(f.to_add(record))));
        let text = serde_json::to_string(record).map_err(|e| self.foreign(&e.to_string()))?;
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
            partition_by: None,
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
                return Err(self.foreign(&format!(
                    "committed as version {} instead of {}",
                    committed.version, record.offline_version
                )));
            }
            Err(error) => {
                self.settle(error, record.offline_version, &commit_id)
                    .await?;
            }
        }
        self.checkpoint(record.offline_version).await;
        Ok(())
    }

    /// Protocol and metadata: the actions that create the table.
    fn creation(&self) -> Result<[Action; 2], EngineError> {
        let schema: StructType = self
            .schema
            .as_ref()
            .try_into_kernel()
            .map_err(|e: arrow::error::ArrowError| self.error(e.into()))?;
        let protocol: Protocol = serde_json::from_value(
            serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2}),
        )
        .map_err(|e| self.foreign(&e.to_string()))?;
        let metadata =
            new_metadata(&schema, [""; 0], PROPERTIES).map_err(|e| self.foreign(&e.to_string()))?;
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

    /// The record of the run that made a commit; `None` where a run did not, or
    /// where the record cannot be read.
    pub(crate) async fn record(&self, version: u64) -> Result<Option<RunRecord>, EngineError> {
        let entry = self.commit_entry(version).await?;
        let text = entry.and_then(|entry| commit_info(&entry, "userMetadata"));
        let Some(text) = text else {
            return Ok(None);
        };
        let record = serde_json::from_str(&text);
        if let Err(error) = &record {
            tracing::warn!(view = self.view, version, %error, "the record of a run cannot be read");
        }
        Ok(record.ok())
    }

    /// Files that were removed from the table at or after a time.
    pub(crate) async fn removed_since(
        &self,
        base: &LogState,
        since: UtcMicros,
    ) -> Result<Vec<Path>, EngineError> {
        let tombstones = base.state.all_tombstones(&self.log_store);
        let recent = tombstones.try_filter_map(|file| async move {
            let removed = file.deletion_timestamp().unwrap_or(i64::MAX);
            let recent = removed >= since.0.div_euclid(1000);
            Ok(recent.then(|| Path::from(file.path().as_ref())))
        });
        recent.try_collect().await.map_err(|e| self.error(e))
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

/// The columns of an offline table: `row_schema`, then `_as_of` and `_created`.
pub(crate) fn table_schema(view: &FeatureView) -> SchemaRef {
    let mut fields: Vec<_> = view.row_schema().fields().iter().cloned().collect();
    fields.extend(
        [AS_OF_COLUMN, CREATED_COLUMN]
            .map(|name| Arc::new(Field::new(name, FeatureType::Timestamp.to_arrow(), true))),
    );
    Arc::new(Schema::new(fields))
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
    fn stamps_come_back_from_names() {
        for (as_of, created) in [(0, 1), (-1, i64::MAX), (1_767_225_600_000_000, i64::MIN)] {
            let stamp = Stamp {
                as_of: UtcMicros(as_of),
                created: UtcMicros(created),
            };
            assert_eq!(stamp.to_string().parse(), Ok(stamp));
        }
        assert!("7".parse::<Stamp>().is_err());
    }
}
