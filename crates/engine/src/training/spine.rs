//! The spine of a training set: the rows that it is built for.
//!
//! Whatever a spine comes from, its rows come out in their order, in one
//! partition, every column with the type and the bits that it had. Only what
//! can make no training set is refused here, by file, row or column. Nothing
//! here knows of feature views: the columns that must be there are arguments.

mod csv;

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Schema, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column as ColumnExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use granary_model::definitions::Column;
use granary_model::types::UTC;
use granary_model::{FeatureType, did_you_mean};

use crate::engine::{Engine, Joins, event_time_type};
use crate::error::EngineError;
use crate::expression::InputColumn;
use crate::row_file::{self, Kind, named_twice};

/// What errors call a spine that has no file.
const SPINE: &str = "the spine";

/// The rows that a training set is built for: keys, a time, any further columns.
#[derive(Clone)]
pub enum Spine {
    /// A query over the project's sources and views. Without ORDER BY its rows
    /// have the order that the query happens to give.
    Sql(String),
    /// The path or URL of a Parquet, CSV or Arrow IPC file.
    File(String),
    Table(Arc<dyn TableProvider>),
}

impl fmt::Debug for Spine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sql(sql) => f.debug_tuple("Sql").field(sql).finish(),
            Self::File(file) => f.debug_tuple("File").field(file).finish(),
            Self::Table(table) => f.debug_tuple("Table").field(&table.schema()).finish(),
        }
    }
}

/// Which columns a spine must have, and which it must not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpineColumns<'a> {
    /// The column with t; `None`: the rows are of no time.
    pub(crate) time: Option<&'a str>,
    /// Key columns, by the names and types that the training set asks for.
    pub(crate) keys: &'a [Column],
    /// Inputs of on-demand views; those that nothing needs may be missing.
    pub(crate) inputs: &'a [InputColumn],
    /// Columns that the training set adds.
    pub(crate) added: &'a [String],
}

/// An opened spine.
#[derive(Debug, Clone)]
pub(crate) struct SpineRows {
    /// One partition; the spine's own columns, untouched.
    pub(crate) plan: Arc<dyn ExecutionPlan>,
    /// t over the plan's columns: a TIMESTAMP of any unit and zone, or a DATE.
    pub(crate) time: Option<Arc<dyn PhysicalExpr>>,
    /// An expression over the plan's columns for each of [`SpineColumns::keys`].
    pub(crate) keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The inputs that are there, by name, as the spine has them.
    pub(crate) inputs: Vec<(String, Arc<dyn PhysicalExpr>)>,
}

impl Engine {
    /// The rows of a spine in a file, as they are sent to a server: what needs
    /// no definitions is checked here, by the file's own rows and names.
    /// Without `time` they are the rows of a request.
    pub async fn spine_rows(
        &self,
        file: &str,
        time: Option<&str>,
        keys: &[Column],
        inputs: &[InputColumn],
    ) -> Result<SendableRecordBatchStream, EngineError> {
        let context = self.context(None, Joins::default());
        let columns = SpineColumns {
            time,
            keys,
            inputs,
            added: &[],
        };
        let opened = open_spine(&context, &Spine::File(file.to_owned()), columns).await?;
        let rows = opened.plan.execute(0, context.task_ctx());
        rows.map_err(|error| EngineError::from_query(file, error))
    }
}

/// Opens a spine and checks its columns. Of a CSV file, and of a time column
/// of text, all values are looked at; of anything else the schema only.
pub(crate) async fn open_spine(
    context: &SessionContext,
    spine: &Spine,
    columns: SpineColumns<'_>,
) -> Result<SpineRows, EngineError> {
    let state = one_partition(context);
    let (name, plan) = match spine {
        Spine::Sql(sql) => (SPINE.to_owned(), query(&state, sql).await?),
        Spine::File(location) => {
            let plan = file(&state, location, columns).await?;
            (location.clone(), plan)
        }
        Spine::Table(table) => {
            let plan = table.scan(&state, None, &[], None).await;
            let plan = plan.map_err(|e| EngineError::from_query(SPINE, e))?;
            (SPINE.to_owned(), plan)
        }
    };
    let plan = merged(plan);
    check_names(&name, &plan.schema(), columns.added)?;
    let time = match columns.time {
        Some(column) => Some(time(context, &name, &plan, column).await?),
        None => None,
    };
    let keys = columns.keys.iter().map(|k| key(&name, &plan.schema(), k));
    let inputs = columns.inputs.iter();
    let inputs = inputs.filter_map(|i| input(&name, &plan.schema(), i).transpose());
    Ok(SpineRows {
        keys: keys.collect::<Result<_, _>>()?,
        inputs: inputs.collect::<Result<_, _>>()?,
        time,
        plan,
    })
}

/// The context's state, planning for one partition: what a file or a query
/// gives is not dealt out to several and mixed again.
pub(crate) fn one_partition(context: &SessionContext) -> SessionState {
    let state = context.state();
    let config = state.config().clone().with_target_partitions(1);
    // The state shares its catalog with the context: a new one would take its place.
    let config = config.with_create_default_catalog_and_schema(false);
    SessionStateBuilder::new_from_existing(state)
        .with_config(config)
        .build()
}

/// The scan of a spine's file.
async fn file(
    state: &SessionState,
    location: &str,
    columns: SpineColumns<'_>,
) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let (file, kind) = row_file::find(state, location, None, "spine").await?;
    match kind {
        Kind::Parquet => row_file::open_parquet(state, &file, kind).await,
        Kind::Arrow => row_file::open_arrow(state, &file, kind).await,
        Kind::Csv {
            delimiter,
            compression,
        } => csv::open(state, &file, delimiter, compression, columns).await,
        Kind::Json { .. } => Err(file.fault(
            "unknown format; a name ends with .parquet, .csv, .tsv (or .csv.gz and \
             the like), .arrow or .arrows",
        )),
    }
}

async fn query(state: &SessionState, sql: &str) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
    let failed = |error| EngineError::from_query(SPINE, error);
    let options = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    let plan = state.create_logical_plan(sql).await.map_err(failed)?;
    options.verify_plan(&plan).map_err(failed)?;
    state.create_physical_plan(&plan).await.map_err(failed)
}

/// In one partition; in the plan's order where it has one.
fn merged(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() == 1 {
        return plan;
    }
    match plan.output_ordering().cloned() {
        Some(order) => Arc::new(SortPreservingMergeExec::new(order, plan)),
        None => Arc::new(CoalescePartitionsExec::new(plan)),
    }
}

/// Refuses columns of one name, in the spine or between it and what is added.
fn check_names(name: &str, schema: &Schema, added: &[String]) -> Result<(), EngineError> {
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    if let Some(twice) = named_twice(&names) {
        return refused(name, format!("two columns are named {twice:?}"));
    }
    match added.iter().find(|added| names.contains(&added.as_str())) {
        Some(clash) => refused(
            name,
            format!(
                "it has a column {clash:?}, which is the name of a column that the training set \
                 adds: rename the one or ask for full names (view__feature)"
            ),
        ),
        None => Ok(()),
    }
}

fn refused<T>(spine: &str, what: impl fmt::Display) -> Result<T, EngineError> {
    Err(EngineError::Refused(format!("{spine}: {what}")))
}

/// The place and the type of a column that must be there.
fn find<'a>(
    spine: &str,
    schema: &'a Schema,
    role: &str,
    name: &str,
) -> Result<(usize, &'a DataType), EngineError> {
    if let Some((place, field)) = schema.column_with_name(name) {
        return Ok((place, field.data_type()));
    }
    let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    let mut near = did_you_mean(name, known.iter().copied());
    if near.is_empty() {
        near = format!("; it has {}", known.join(", "));
    }
    refused(spine, format!("no {role} {name:?}{near}"))
}

/// A column's expression for a key of the type that is asked for. Integers of
/// any width are compared as numbers; nothing else converts.
fn key(spine: &str, schema: &Schema, key: &Column) -> Result<Arc<dyn PhysicalExpr>, EngineError> {
    let (place, given) = find(spine, schema, "key column", &key.name)?;
    let column: Arc<dyn PhysicalExpr> = Arc::new(ColumnExpr::new(&key.name, place));
    let wanted = &key.data_type;
    let is_integer = |t: &FeatureType| FeatureType::BigInt.accepts_key(t);
    match (given, FeatureType::from_arrow(given)) {
        (DataType::Null | DataType::Date64, found)
            if found.is_none() || found.as_ref() == Some(wanted) =>
        {
            Ok(Arc::new(CastExpr::new(column, wanted.to_arrow(), None)))
        }
        (_, Some(found)) if found == *wanted || (is_integer(&found) && is_integer(wanted)) => {
            Ok(column)
        }
        _ => {
            let (name, given) = (&key.name, sql_name(given));
            refused(spine, format!("{name} expects {wanted}, got {given}"))
        }
    }
}

/// A column of the spine under a name.
type NamedColumn = (String, Arc<dyn PhysicalExpr>);

/// A column that is an input, if it is there or has to be.
fn input(
    spine: &str,
    schema: &Schema,
    input: &InputColumn,
) -> Result<Option<NamedColumn>, EngineError> {
    let Column {
        name, data_type, ..
    } = &input.column;
    if !input.needed && schema.column_with_name(name).is_none() {
        return Ok(None);
    }
    let (place, given) = find(spine, schema, "input column", name)?;
    let fits = match FeatureType::from_arrow(given) {
        Some(found) => data_type.accepts_input(&found),
        None => *given == DataType::Null,
    };
    if !fits {
        let given = sql_name(given);
        return refused(spine, format!("{name} expects {data_type}, got {given}"));
    }
    Ok(Some((name.clone(), Arc::new(ColumnExpr::new(name, place)))))
}

fn sql_name(data_type: &DataType) -> String {
    FeatureType::from_arrow(data_type).map_or_else(|| data_type.to_string(), |t| t.to_string())
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

/// The expression for t.
async fn time(
    context: &SessionContext,
    spine: &str,
    plan: &Arc<dyn ExecutionPlan>,
    name: &str,
) -> Result<Arc<dyn PhysicalExpr>, EngineError> {
    let schema = plan.schema();
    let (place, given) = find(spine, &schema, "time column", name)?;
    let column: Arc<dyn PhysicalExpr> = Arc::new(ColumnExpr::new(name, place));
    if event_time_type(given) {
        return Ok(column);
    }
    if is_text(given) {
        check_times(context, spine, plan, &column, name).await?;
    } else if *given != DataType::Null {
        let given = sql_name(given);
        return refused(
            spine,
            format!("the time column {name} is {given}, not a TIMESTAMP or a DATE"),
        );
    }
    Ok(Arc::new(CastExpr::new(column, timestamp(), None)))
}

/// Names the first row whose text is no time. Arrow's own error, in the middle
/// of a run, would name the text only.
async fn check_times(
    context: &SessionContext,
    spine: &str,
    plan: &Arc<dyn ExecutionPlan>,
    column: &Arc<dyn PhysicalExpr>,
    name: &str,
) -> Result<(), EngineError> {
    let failed = |error| EngineError::from_query(spine, error);
    let input = reset_plan_states(plan.clone()).map_err(failed)?;
    let only = ProjectionExec::try_new([(column.clone(), name.to_owned())], input);
    let mut rows = only
        .and_then(|only| only.execute(0, context.task_ctx()))
        .map_err(failed)?;
    let mut before = 0;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        if let Some((row, text)) =
            first_no_time(batch.column(0)).map_err(|e| failed(DataFusionError::from(e)))?
        {
            let row = before + row + 1;
            return refused(spine, format!("row {row}: {name}: {}", no_time(&text)));
        }
        before += batch.num_rows();
    }
    Ok(())
}

/// The first text that is no time, and its place.
fn first_no_time(texts: &ArrayRef) -> Result<Option<(usize, String)>, arrow::error::ArrowError> {
    let options = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    let texts = cast(texts, &DataType::Utf8)?;
    let times = cast_with_options(&texts, &timestamp(), &options)?;
    if times.null_count() == texts.null_count() {
        return Ok(None);
    }
    let texts = texts.as_string::<i32>();
    let mut rows = 0..texts.len();
    let wrong = rows.find(|row| texts.is_valid(*row) && times.is_null(*row));
    Ok(wrong.map(|row| (row, texts.value(row).to_owned())))
}

fn no_time(text: &str) -> String {
    format!(
        "{text:?} is no time; write it as 2026-01-31, 2026-01-31T08:30:00Z or \
         2026-01-31T08:30:00+02:00"
    )
}

#[cfg(test)]
pub(crate) mod tests;
