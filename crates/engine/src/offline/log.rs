//! The Delta log of one offline table: which files there are, and commits (see
//! [`crate::delta_log`]).
//!
//! Every commit is written by a run; the record of the run is its text. The
//! transaction `granary/<view>/<version>` carries the watermark in microseconds.
//!
//! Each file holds rows of one run, whose T its name tells (see [`Stamp`]):
//! reading the newest run of a snapshot view touches no other file.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use deltalake_core::kernel::{Action, LogicalFileView, Remove, Transaction};
use deltalake_core::protocol::SaveMode;
use deltalake_core::table::state::DeltaTableState;
use futures::TryStreamExt;
use granary_model::{FeatureType, FeatureView, UtcMicros};
use object_store::path::Path;

use super::write::sorted_file;
use super::{AS_OF_COLUMN, CREATED_COLUMN, RunMode, RunRecord};
use crate::delta_log::{DeltaLog, NewCommit, NewFile, actions, commit_info, folder_name};
use crate::engine::Engine;
use crate::error::EngineError;

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

/// The log of the table of one view version.
#[derive(Debug, Clone)]
pub(crate) struct TableLog {
    log: DeltaLog,
    transaction: String,
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
        let folder = format!("offline/{}/v{}", folder_name(&view.name), view.version);
        Ok(Self {
            log: DeltaLog::new(engine, &view.name, &folder, table_schema(view))?,
            transaction: format!("granary/{}/{}", view.name, view.version),
        })
    }

    /// Of the table's files: `row_schema` and the bookkeeping columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.log.schema()
    }

    pub(crate) fn view(&self) -> &str {
        self.log.object()
    }

    /// Where a file of the table lies within the store of the root.
    pub(crate) fn path_in_store(&self, file: &Path) -> Path {
        self.log.path_in_store(file)
    }

    /// Whether there is a table.
    pub(crate) async fn exists(&self) -> Result<bool, EngineError> {
        self.log.exists().await
    }

    /// The newest state; `None` where there is no table.
    pub(crate) async fn read(&self) -> Result<Option<LogState>, EngineError> {
        let Some((state, watermark)) = self.log.read(&self.transaction).await? else {
            return Ok(None);
        };
        let files = state
            .log_data()
            .iter()
            .map(|file| DataFile::new(&file))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|what| self.log.foreign(&what))?;
        Ok(Some(LogState {
            version: state.version(),
            watermark: UtcMicros(watermark),
            files,
            state,
        }))
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
        let watermark = base.map_or(record.as_of, |b| b.watermark.max(record.as_of));
        let removals = removed.iter().map(|f| f.to_remove(record.committed_at));
        let additions = added.iter().map(|f| f.to_add(record.committed_at));
        let actions = removals.map(Action::Remove);
        let text = serde_json::to_string(record).map_err(|e| self.log.foreign(&e.to_string()))?;
        let commit = NewCommit {
            version: record.offline_version,
            mode: match record.mode {
                RunMode::Append => SaveMode::Append,
                RunMode::Replace => SaveMode::Overwrite,
            },
            actions: actions.chain(additions.map(Action::Add)).collect(),
            transactions: vec![Transaction::new(&self.transaction, watermark.0)],
            text,
        };
        self.log.commit(base.map(|b| &b.state), commit).await
    }

    /// The record of the run that made a commit; `None` where a run did not, or
    /// where the record cannot be read.
    pub(crate) async fn record(&self, version: u64) -> Result<Option<RunRecord>, EngineError> {
        let entry = self.log.commit_entry(version).await?;
        let text = entry.and_then(|entry| commit_info(&entry, "userMetadata"));
        let Some(text) = text else {
            return Ok(None);
        };
        let record = serde_json::from_str(&text);
        if let Err(error) = &record {
            tracing::warn!(view = self.view(), version, %error, "the record of a run cannot be read");
        }
        Ok(record.ok())
    }

    /// Files that were removed from the table at or after a time.
    pub(crate) async fn removed_since(
        &self,
        base: &LogState,
        since: UtcMicros,
    ) -> Result<Vec<Path>, EngineError> {
        let tombstones = base.state.all_tombstones(self.log.log_store());
        let recent = tombstones.try_filter_map(|file| async move {
            let removed = file.deletion_timestamp().unwrap_or(i64::MAX);
            let recent = removed >= since.0.div_euclid(1000);
            Ok(recent.then(|| Path::from(file.path().as_ref())))
        });
        recent.try_collect().await.map_err(|e| self.log.error(e))
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
            let Some(entry) = self.log.commit_entry(version).await? else {
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

/// The columns of an offline table: `row_schema`, then `_as_of` and `_created`.
pub(crate) fn table_schema(view: &FeatureView) -> SchemaRef {
    let mut fields: Vec<_> = view.row_schema().fields().iter().cloned().collect();
    fields.extend(
        [AS_OF_COLUMN, CREATED_COLUMN]
            .map(|name| Arc::new(Field::new(name, FeatureType::Timestamp.to_arrow(), true))),
    );
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

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
