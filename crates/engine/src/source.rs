//! Sources: `CREATE EXTERNAL TABLE` as DataFusion understands it, with the
//! schema that was recorded when the definitions were applied.
//!
//! The statement runs through DataFusion's own planner and table factories, so
//! that all its formats and options work unchanged; Delta tables are read over
//! our own object stores. A source with a recorded schema opens its files when
//! it is scanned and says so when they are gone, broken or of another shape.

mod bad_row;
mod delta;
mod fault;
mod files;
mod headers;
mod scan;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateExternalTable, DdlStatement, LogicalPlan};
use granary_model::definitions::SourceColumn;

use crate::engine::{Engine, Stores};
use crate::error::EngineError;

pub(crate) use bad_row::NameBadRows;
pub(crate) use delta::DeltaTables;
pub(crate) use fault::SourceFault;
pub(crate) use files::VerifiedSources;
pub(crate) use scan::RecordedSource;

/// How the rows of a source are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourceFormat {
    /// Files in a format of DataFusion's; whether the files themselves tell
    /// names and types (Parquet, Arrow, Avro) or only text (CSV, JSON).
    Files {
        typed: bool,
        csv: bool,
    },
    Delta,
}

/// A parsed `CREATE EXTERNAL TABLE`, its locations absolute.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    name: String,
    /// The statement as written: what DataFusion keeps of it leaves options out.
    sql: String,
    command: CreateExternalTable,
    format: SourceFormat,
    stores: Arc<Stores>,
    verified: Arc<VerifiedSources>,
}

impl Source {
    /// Parses and plans the statement; relative locations are relative to the
    /// engine's project folder. Reads nothing.
    pub(crate) async fn parse(
        state: &SessionState,
        engine: &Engine,
        name: &str,
        sql: &str,
    ) -> Result<Self> {
        let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(command)) =
            state.create_logical_plan(sql).await?
        else {
            return Err(DataFusionError::Plan(
                "a CREATE EXTERNAL TABLE was expected".into(),
            ));
        };
        let mut command = *command;
        for location in &mut command.locations {
            *location = absolute(engine.project(), location);
        }
        let format = match command.file_type.to_uppercase().as_str() {
            "DELTATABLE" | "DELTA" => SourceFormat::Delta,
            "CSV" => SourceFormat::Files {
                typed: false,
                csv: true,
            },
            "PARQUET" | "ARROW" | "AVRO" => SourceFormat::Files {
                typed: true,
                csv: false,
            },
            "JSON" | "NDJSON" => SourceFormat::Files {
                typed: false,
                csv: false,
            },
            other => {
                return Err(DataFusionError::Plan(format!(
                    "unknown format {other}; PARQUET, CSV, JSON, ARROW and DELTATABLE can be read"
                )));
            }
        };
        Ok(Self {
            name: name.to_owned(),
            sql: sql.to_owned(),
            command,
            format,
            stores: engine.stores().clone(),
            verified: engine.verified().clone(),
        })
    }

    /// Where it is read from: absolute paths and URLs, with globs.
    pub(crate) fn locations(&self) -> &[String] {
        &self.command.locations
    }

    /// Whether the statement itself lists the columns.
    pub(crate) fn is_declared(&self) -> bool {
        !self.command.schema.fields().is_empty()
    }

    /// Reads the schema from the files, and whether they can be read at all.
    pub(crate) async fn infer(&self, state: &SessionState) -> Result<SchemaRef, SourceFault> {
        match self.format {
            SourceFormat::Delta => delta::infer(self, state).await,
            SourceFormat::Files { .. } => files::infer(self, state).await,
        }
    }

    /// The source as a table of the given schema, which opens its files at each scan.
    pub(crate) fn with_recorded(self, schema: SchemaRef) -> RecordedSource {
        RecordedSource::new(self, schema)
    }
}

/// The locations of a project are written relative to its folder.
pub(crate) fn absolute(project: &Path, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    project.join(location).to_string_lossy().into_owned()
}

/// A schema as definitions record it.
pub(crate) fn recorded_columns(schema: &Schema) -> Vec<SourceColumn> {
    schema
        .fields()
        .iter()
        .map(|field| SourceColumn {
            name: field.name().clone(),
            data_type: field.data_type().to_string(),
            comment: None,
        })
        .collect()
}

/// A recorded schema as Arrow's; every column may be NULL.
pub(crate) fn recorded_schema(
    object: &str,
    columns: &[SourceColumn],
) -> Result<SchemaRef, EngineError> {
    let field = |column: &SourceColumn| match DataType::from_str(&column.data_type) {
        Ok(data_type) => Ok(Field::new(&column.name, data_type, true)),
        Err(error) => Err(EngineError::SchemaChanged {
            object: object.to_owned(),
            difference: format!(
                "the recorded type of column {} cannot be read ({error})",
                column.name
            ),
        }),
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Schema::new(fields)))
}
