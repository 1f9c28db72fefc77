//! The log of a Delta table that Granary makes and alone writes: whether there
//! is one, and commits.
//!
//! Every commit is written at exactly the version after the one that its writer
//! read: whoever commits in between makes it fail, and it leaves nothing behind
//! but files that no log names. A commit carries a text of the writer's own as
//! `userMetadata`, so that `DESCRIBE HISTORY` of any engine shows it, and a
//! transaction (Delta's application id and version), which tells after a crash
//! what was committed.
//!
//! Tables are not partitioned, since not every reader of Delta Lake knows
//! partitions by TIMESTAMP. This module knows nothing of what the files hold.

use std::collections::HashMap;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use deltalake_core::checkpoints::create_checkpoint;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, Protocol, StructType, Transaction, new_metadata};
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};
use granary_model::UtcMicros;
use object_store::path::Path;
use url::Url;
use uuid::Uuid;

use crate::engine::Engine;
use crate::error::EngineError;

/// Tells one writer's commit from another's.
const COMMIT_ID: &str = "granaryCommit";

/// A checkpoint after so many commits, so that opening stays fast.
const CHECKPOINT_COMMITS: u64 = 20;

/// Every commit stays known, with what it says of itself.
const PROPERTIES: [(&str, &str); 2] = [
    ("delta.enableExpiredLogCleanup", "false"),
    ("delta.logRetentionDuration", "interval 36500 days"),
];

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
    pub(crate) fn to_add(&self, committed_at: UtcMicros) -> Add {
        Add {
            path: self.path.to_string(),
            partition_values: HashMap::new(),
            size: self.bytes as i64,
            modification_time: committed_at.0.div_euclid(1000),
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

/// What is to be committed in one atomic step.
#[derive(Debug)]
pub(crate) struct NewCommit {
    /// Has to be the version after the base.
    pub(crate) version: u64,
    pub(crate) mode: SaveMode,
    /// Of files; those that make the table are added to the first commit.
    pub(crate) actions: Vec<Action>,
    pub(crate) transactions: Vec<Transaction>,
    /// JSON.
    pub(crate) text: String,
}

/// The log of one table.
#[derive(Debug, Clone)]
pub(crate) struct DeltaLog {
    /// What errors name.
    object: String,
    schema: SchemaRef,
    location: Url,
    /// Of the table's folder within the store of the root.
    folder: Path,
    log_store: LogStoreRef,
}

impl DeltaLog {
    /// `folder`: below the root.
    pub(crate) fn new(
        engine: &Engine,
        object: &str,
        folder: &str,
        schema: SchemaRef,
    ) -> Result<Self, EngineError> {
        let location = engine.folder_below_root(folder)?;
        let folder = Path::from_url_path(location.path()).map_err(object_store::Error::from)?;
        Ok(Self {
            object: object.to_owned(),
            schema,
            log_store: engine.log_store(&location)?,
            location,
            folder,
        })
    }

    pub(crate) fn object(&self) -> &str {
        &self.object
    }

    /// Of the table's files.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(crate) fn log_store(&self) -> &LogStoreRef {
        &self.log_store
    }

    /// Where a file of the table lies within the store of the root.
    pub(crate) fn path_in_store(&self, file: &Path) -> Path {
        self.folder.parts().chain(file.parts()).collect()
    }

    pub(crate) fn error(&self, source: DeltaTableError) -> EngineError {
        EngineError::Delta {
            object: self.object.clone(),
            source: Box::new(source),
        }
    }

    pub(crate) fn foreign(&self, what: &str) -> EngineError {
        self.error(DeltaTableError::Generic(format!(
            "{}: {what}",
            self.location
        )))
    }

    /// Whether there is a table.
    pub(crate) async fn exists(&self) -> Result<bool, EngineError> {
        let exists = self.log_store.is_delta_table_location().await;
        exists.map_err(|e| self.error(e))
    }

    /// The newest state and the version of an application's transaction in it;
    /// `None` where there is no table.
    pub(crate) async fn read(
        &self,
        transaction: &str,
    ) -> Result<Option<(DeltaTableState, i64)>, EngineError> {
        if !self.exists().await? {
            return Ok(None);
        }
        let state = DeltaTableState::try_new(&self.log_store, None)
            .await
            .map_err(|e| self.error(e))?;
        let version = self
            .transaction_version(&state, transaction)
            .await?
            .ok_or_else(|| self.foreign(&format!("it has no transaction {transaction}")))?;
        Ok(Some((state, version)))
    }

    /// The version of an application's transaction in a state.
    pub(crate) async fn transaction_version(
        &self,
        state: &DeltaTableState,
        transaction: &str,
    ) -> Result<Option<i64>, EngineError> {
        let version = state.transaction_version(&self.log_store, transaction);
        version.await.map_err(|e| self.error(e))
    }

    /// [`EngineError::Conflict`] where another commit came first.
    pub(crate) async fn commit(
        &self,
        base: Option<&DeltaTableState>,
        commit: NewCommit,
    ) -> Result<(), EngineError> {
        let mut actions = Vec::new();
        if base.is_none() {
            actions.extend(self.creation()?);
        }
        actions.extend(commit.actions);
        let commit_id = Uuid::new_v4().to_string();
        let properties = CommitProperties::default()
            .with_max_retries(0)
            .with_create_checkpoint(false)
            .with_cleanup_expired_logs(Some(false))
            .with_metadata([
                ("userMetadata".to_owned(), commit.text.into()),
                (COMMIT_ID.to_owned(), commit_id.clone().into()),
            ])
            .with_application_transactions(commit.transactions);
        let operation = DeltaOperation::Write {
            mode: commit.mode,
            partition_by: None,
            predicate: None,
        };
        let prepared = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(base.map(|b| b as _), self.log_store.clone(), operation)
            .into_prepared_commit_future()
            .await
            .map_err(|e| self.error(e))?;
        match prepared.await {
            Ok(committed) if committed.version == commit.version => {}
            Ok(committed) => {
                return Err(self.foreign(&format!(
                    "committed as version {} instead of {}",
                    committed.version, commit.version
                )));
            }
            Err(error) => self.settle(error, commit.version, &commit_id).await?,
        }
        self.checkpoint(commit.version).await;
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
                view: self.object.clone(),
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
            tracing::warn!(object = self.object, version, %error, "no checkpoint written");
        }
    }

    pub(crate) async fn commit_entry(&self, version: u64) -> Result<Option<Bytes>, EngineError> {
        let entry = self.log_store.read_commit_entry(version).await;
        entry.map_err(|e| self.error(e))
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

/// Of a commit.
pub(crate) fn actions(entry: &[u8]) -> impl Iterator<Item = serde_json::Value> {
    entry
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
}

pub(crate) fn commit_info(entry: &[u8], name: &str) -> Option<String> {
    actions(entry).find_map(|action| Some(action["commitInfo"][name].as_str()?.to_owned()))
}

/// A folder for any name that SQL allows, also where file systems fold case:
/// what is not a lower case letter, digit, `_` or `-` becomes `~` and its code.
pub(crate) fn folder_name(name: &str) -> String {
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
    use std::collections::HashSet;

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
}
