//! The log of what a service served: a Delta table a service and shape.
//!
//! `reads/<service>/<shape>/` under the root; a shape is the columns and their
//! types, so that a service that changes begins a new table beside the old one.
//! Any engine that knows Delta Lake reads it. Several servers may append to one
//! table: who loses the race for a version goes for the next.
//!
//! This module knows nothing of what the columns are, but for the time of each
//! row; rows are only ever added.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::ident;
use deltalake_core::kernel::{Action, Transaction};
use deltalake_core::protocol::SaveMode;
use futures::{StreamExt, TryStreamExt};
use granary_model::UtcMicros;
use granary_model::fingerprint::Fingerprint;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tracing::instrument;
use uuid::Uuid;

use crate::delta_file::{DataFile, FileWriter, scan};
use crate::delta_log::{DeltaLog, NewCommit, NewFile, folder_name};
use crate::engine::{Engine, Joins, physical_expr};
use crate::error::EngineError;
use crate::offline::read::time_scalar;
use crate::stream_table::EventBatches;

/// How often an append goes for the next version.
const TRIES: usize = 8;

/// The log of a service under one shape.
#[derive(Debug, Clone)]
pub struct ReadLog {
    engine: Engine,
    log: DeltaLog,
    transaction: String,
}

impl ReadLog {
    pub fn of(engine: &Engine, service: &str, schema: SchemaRef) -> Result<Self, EngineError> {
        let fields = schema.fields().iter();
        let parts = fields.map(|field| format!("{} {}", field.name(), field.data_type()));
        let Fingerprint(shape) = Fingerprint::of(parts);
        let folder = format!("reads/{}/{}", folder_name(service), &shape[..8]);
        Ok(Self {
            engine: engine.clone(),
            log: DeltaLog::new(engine, &format!("the reads of {service}"), &folder, schema)?,
            transaction: format!("granary/reads/{service}"),
        })
    }

    /// Adds rows in one commit.
    #[instrument(skip_all, fields(rows = rows.num_rows()), err)]
    pub async fn append(&self, rows: &RecordBatch) -> Result<(), EngineError> {
        let name = Path::from(format!("reads-{}.parquet", Uuid::new_v4().simple()));
        let mut writer = FileWriter::open(&self.engine, &self.log, name.clone())?;
        writer.write(&self.log, rows).await?;
        let file = writer.close(&self.log).await?;
        for tried in 1.. {
            match self.commit(&file, rows.num_rows()).await {
                Err(EngineError::Conflict { .. }) if tried < TRIES => {}
                Err(error @ EngineError::Conflict { .. }) => {
                    let path = self.log.path_in_store(&name);
                    if let Err(kept) = self.engine.root_store().delete(&path).await {
                        tracing::warn!(%path, error = %kept, "a file of reads that no log names remains");
                    }
                    return Err(error);
                }
                // Whether the log names the file is not known.
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        Ok(())
    }

    async fn commit(&self, file: &NewFile, rows: usize) -> Result<(), EngineError> {
        let base = self.log.read(&self.transaction).await?;
        let now = self.engine.clock().now();
        let commits = base.as_ref().map_or(0, |(_, commits)| *commits) + 1;
        let base = base.as_ref().map(|(state, _)| state);
        let text = serde_json::json!({"rows": rows, "committed_at": now.to_string()});
        let commit = NewCommit {
            version: base.map_or(0, |base| base.version() + 1),
            mode: SaveMode::Append,
            actions: vec![Action::Add(file.to_add(now))],
            transactions: vec![Transaction::new(&self.transaction, commits)],
            text: text.to_string(),
        };
        self.log.commit(base, commit).await
    }

    /// The rows whose time, a TIMESTAMP in that column, is not before `since`;
    /// `None` where nothing was logged under this shape.
    pub async fn read(
        &self,
        (time, since): (&str, Option<UtcMicros>),
    ) -> Result<Option<EventBatches>, EngineError> {
        let Some((state, _)) = self.log.read(&self.transaction).await? else {
            return Ok(None);
        };
        let files = DataFile::all(&self.log, &state)?;
        let object = self.log.object().to_owned();
        let failed = |error| EngineError::from_query(&object, error);
        let context = self.engine.context(None, Joins::default());
        let task = context.task_ctx();
        let schema = self.log.schema();
        let rows = scan((&self.engine, &task), (schema, &files), None, None, None);
        let mut rows = rows.map_err(failed)?;
        if let Some(since) = since {
            let of = datafusion::common::DFSchema::try_from(schema.clone()).map_err(failed)?;
            let since = ident(time).gt_eq(datafusion::prelude::lit(time_scalar(since)));
            let since = physical_expr(&context.state(), since, &of).map_err(failed)?;
            let filtered = datafusion::physical_plan::filter::FilterExec::try_new(since, rows);
            rows = std::sync::Arc::new(filtered.map_err(failed)?);
        }
        let batches = execute_stream(rows, task).map_err(failed)?;
        let batches = batches.map_err(move |error| EngineError::from_query(&object, error));
        Ok(Some(batches.boxed()))
    }
}
