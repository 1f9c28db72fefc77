//! Request events of a training set: rows of the spine that count as events of
//! a stream, each for itself and for no other row.
//!
//! Rows of the spine are numbered. A live view over such a stream is given, by
//! its rows program, the row's own event with the row's number, and beside it
//! what of the stored events the row may see, with the number too; the operator
//! of the view then takes the number as one more key. So every row has events of
//! its own, and memory is bounded as it always is, at the price of reading an
//! event once for each row that sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::kernels::zip::zip;
use arrow::compute::{cast as cast_array, concat, is_not_null, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Column as Name, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as PlanResult;
use datafusion::logical_expr::{Expr, JoinType, LogicalPlan, LogicalPlanBuilder, cast, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as Position;
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::union::UnionExec;
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;
use granary_model::definitions::{Column, Stream};
use granary_model::types::UTC;
use granary_model::{FeatureType, did_you_mean};

use super::chain::{Chain, T, WORKING, Wanted, failed, name, plain_columns};
use super::rows_exec::{PlanTable, RowsExec, Step};
use super::spine::Spine;
use crate::engine::{plan_sql, utc_micros};
use crate::error::EngineError;
use crate::live::StreamRows;
use crate::shared_scan::SharedScan;

/// The number of each row of the spine.
pub(super) const ROW: &str = "__granary row";
/// What the spine is called in a query that maps its columns.
const SPINE: &str = "spine";

/// Makes each row of the spine an event of a stream, for that row only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpineEvents {
    pub stream: String,
    /// A query over `spine`, row by row, that gives columns of the stream; one
    /// that gives no event time leaves it to be t. `None`: the columns of the
    /// spine that have the names of the stream's.
    pub query: Option<String>,
}

/// The events of one stream: the columns of its relation, then [`ROW`] and [`T`].
pub(super) struct RequestStream {
    rows: Arc<dyn ExecutionPlan>,
    /// Whether some view is over the stream.
    seen: bool,
}

pub(super) type Requests = BTreeMap<String, RequestStream>;

/// What each row of the spine sees, with [`ROW`] behind its columns.
pub(super) struct OfRows {
    pub(super) scan: SharedScan,
    pub(super) events: Arc<dyn ExecutionPlan>,
}

/// How stored events are found: over the columns of a scan.
pub(super) struct Stored<'q> {
    /// Parallel to the keys that are asked for.
    pub(super) keys: Vec<&'q Expr>,
    pub(super) event_time: &'q Expr,
    /// How far back from t the view looks at most, in microseconds.
    pub(super) reach: Option<i64>,
}

fn working(table: &str) -> TableReference {
    TableReference::bare(format!("{WORKING}{table}"))
}

fn refused(stream: &str, what: &str) -> EngineError {
    EngineError::Refused(format!("request events of {stream}: {what}"))
}

impl<'a> Chain<'a> {
    /// Numbers the rows of the spine, and plans the event that each is.
    pub(super) async fn begin_requests(&mut self) -> Result<(), EngineError> {
        let request = self.request;
        if request.request_events.is_empty() {
            return Ok(());
        }
        self.plan = self.kept(&numbered(&self.plan)).await?;
        self.spine = Arc::clone(&self.plan);
        for events in &request.request_events {
            let name = &events.stream;
            let streams = &self.definitions.streams;
            let stream = streams.get(name).ok_or_else(|| {
                let near = did_you_mean(name, streams.keys().map(String::as_str));
                refused(name, &format!("there is no such stream{near}"))
            })?;
            let rows = self.spine_events(stream, events).await?;
            let planned = RequestStream { rows, seen: false };
            if self.requests.insert(name.clone(), planned).is_some() {
                return Err(refused(name, "the stream is given twice"));
            }
        }
        Ok(())
    }

    /// The rows of a spine on disk: they are read several times, and a query may
    /// give them in another order each time.
    async fn kept(
        &self,
        spine: &Arc<dyn ExecutionPlan>,
    ) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
        let of_spine = failed("the spine");
        let rows = spine.execute(0, self.context().task_ctx());
        let mut rows = rows.map_err(&of_spine)?;
        let mut spool = self.engine.spool(spine.schema())?;
        while let Some(batch) = rows.try_next().await.map_err(&of_spine)? {
            spool.write(&batch)?;
        }
        let Spine::Table(table) = spool.finish()? else {
            return Err(EngineError::Refused("the spine was not kept".into()));
        };
        let kept = table.scan(&self.state, None, &[], None).await;
        kept.map_err(of_spine)
    }

    /// An event that no view sees is told: the caller counts on it.
    pub(super) fn check_requests(&self) -> Result<(), EngineError> {
        match self.requests.iter().find(|(_, stream)| !stream.seen) {
            Some((name, _)) => Err(refused(
                name,
                "no live view of this training set is over that stream, so nothing would see them",
            )),
            None => Ok(()),
        }
    }

    async fn spine_events(
        &self,
        stream: &Stream,
        events: &SpineEvents,
    ) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
        let of_stream = |e| EngineError::from_query(&stream.name, e);
        let mapped = self.mapped(stream, events).await?;
        let mapped = self.state.optimize(&mapped).map_err(of_stream)?;
        let mut programs = StreamRows::compile(&self.state, &mapped).map_err(of_stream)?;
        let program = match (programs.pop(), programs.pop()) {
            (Some(one), None) if one.is_one_to_one() => Arc::new(one),
            _ => return Err(refused(&stream.name, "each row of the spine is one event")),
        };
        let mut fields = stream.row_schema().fields().to_vec();
        let spine = reset_plan_states(Arc::clone(&self.spine)).map_err(of_stream)?;
        let before = spine.schema();
        let mut places = [0, 0];
        for (place, column) in places.iter_mut().zip([ROW, T]) {
            *place = before.index_of(column).map_err(|e| of_stream(e.into()))?;
            fields.push(Arc::new(before.field(*place).clone().with_nullable(true)));
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let event_time = schema.index_of(&stream.event_time);
        let event_time = event_time.map_err(|e| of_stream(e.into()))?;
        let made = schema.clone();
        let step = move || -> Step {
            let (program, schema) = (Arc::clone(&program), made.clone());
            Box::new(move |batch| events_of(&program, &batch, places, event_time, &schema))
        };
        let what = format!("events of {}", stream.name);
        let rows = Arc::new(RowsExec::new(spine, what, schema, step));
        self.unstored(stream, rows).await.map_err(of_stream)
    }

    /// The columns of the stream, in its order and types, over `spine`.
    async fn mapped(
        &self,
        stream: &Stream,
        events: &SpineEvents,
    ) -> Result<LogicalPlan, EngineError> {
        let of_stream = |e| EngineError::from_query(&stream.name, e);
        let columns = plain_columns(&self.spine.schema(), 0..self.spine_columns());
        let own = ProjectionExec::try_new(columns, Arc::clone(&self.spine)).map_err(of_stream)?;
        let table = Arc::new(PlanTable(Arc::new(own)));
        let given = match &events.query {
            None => LogicalPlanBuilder::scan(SPINE, provider_as_source(table), None)
                .and_then(LogicalPlanBuilder::build),
            Some(query) => self.over_spine(table, query).await,
        };
        let given = given.map_err(of_stream)?;
        check_names(stream, &given, events.query.is_none())?;
        let selected = stream.columns.iter().map(|column| {
            let value = value_of(stream, column, &given)?;
            let null = ScalarValue::try_from(&column.data_type.to_arrow());
            let null = null.map_err(of_stream)?;
            Ok(value.unwrap_or_else(|| lit(null)).alias(&column.name))
        });
        let selected = selected.collect::<Result<Vec<_>, EngineError>>()?;
        let projected = LogicalPlanBuilder::from(given).project(selected);
        projected
            .and_then(LogicalPlanBuilder::build)
            .map_err(of_stream)
    }

    /// The plan of a query in which `spine` is that table, whatever else is called so.
    async fn over_spine(&self, table: Arc<PlanTable>, query: &str) -> PlanResult<LogicalPlan> {
        let context = self.context();
        let hidden = context.deregister_table(SPINE)?;
        context.register_table(SPINE, table)?;
        let planned = plan_sql(&self.state, query).await;
        context.deregister_table(SPINE)?;
        if let Some(hidden) = hidden {
            context.register_table(SPINE, hidden)?;
        }
        planned
    }

    /// Those that do not equal, in the DEDUPLICATE BY columns, a stored event
    /// that the row sees.
    async fn unstored(
        &self,
        stream: &Stream,
        rows: Arc<dyn ExecutionPlan>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        if stream.deduplicate_by.is_empty() {
            return Ok(rows);
        }
        let table = TableReference::bare(stream.name.as_str());
        let stored = self.context().table_provider(table.clone()).await?;
        let stored_column = |column: &str| Expr::Column(Name::new(Some(table.clone()), column));
        let prefixed = |column: &str| format!("{WORKING}stored {column}");
        let event_time = utc_micros(stored_column(&stream.event_time));
        let mut columns = vec![event_time.alias(prefixed("time"))];
        let mut on = vec![name(&prefixed("time")).lt(name(T))];
        if self.request.options.known_at_the_time {
            let created = stored_column(Stream::CREATED_TIME);
            columns.push(created.alias(prefixed("created")));
            on.push(name(&prefixed("created")).lt_eq(name(T)));
        }
        for column in &stream.deduplicate_by {
            columns.push(stored_column(column).alias(prefixed(column)));
            on.push(name(column).eq(name(&prefixed(column))));
        }
        let stored = LogicalPlanBuilder::scan(table, provider_as_source(stored), None)?;
        let stored = stored.project(columns)?.build()?;
        let source = provider_as_source(Arc::new(PlanTable(rows)));
        let plan = LogicalPlanBuilder::scan(working("events"), source, None)?
            .join_on(stored, JoinType::LeftAnti, on)?
            .build()?;
        self.physical_plan(&plan).await
    }

    async fn physical_plan(&self, plan: &LogicalPlan) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let plan = self.state.optimize(plan)?;
        let planner = self.state.query_planner();
        planner.create_physical_plan(&plan, &self.state).await
    }

    /// What the rows of the spine see of a view's scan, where request events are
    /// among it.
    pub(super) async fn of_rows(
        &mut self,
        wanted: &Wanted<'_>,
        scan: SharedScan,
        stored: Stored<'_>,
    ) -> Result<Result<OfRows, SharedScan>, EngineError> {
        if self.requests.is_empty() || !wanted.view.is_live() {
            return Ok(Err(scan));
        }
        let failed = failed(&wanted.view.name);
        let programs = StreamRows::compile(&self.state, &scan.rows).map_err(&failed)?;
        let mut inputs = Vec::new();
        let schema = numbered_schema(scan.schema().as_arrow());
        for program in programs {
            let Some(of_stream) = self.requests.get_mut(program.stream()) else {
                continue;
            };
            of_stream.seen = true;
            let rows = reset_plan_states(Arc::clone(&of_stream.rows)).map_err(&failed)?;
            inputs.push(rows_of(rows, program, &wanted.view.name, schema.clone()));
        }
        if inputs.is_empty() {
            return Ok(Err(scan));
        }
        inputs.push(self.stored(wanted, &scan, stored).await.map_err(&failed)?);
        Ok(Ok(OfRows {
            events: UnionExec::try_new(inputs).map_err(&failed)?,
            scan: scan.numbered(ROW).map_err(&failed)?,
        }))
    }

    /// The stored events of each row of the spine, strictly before t.
    async fn stored(
        &self,
        wanted: &Wanted<'_>,
        scan: &SharedScan,
        stored: Stored<'_>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        // What was joined is computed again only where a key comes from it.
        let width = self.spine.schema().fields().len();
        let columns = wanted.keys.iter().flat_map(collect_columns);
        let of_spine = columns.map(|column| column.index()).all(|at| at < width);
        let rows = match of_spine {
            true => &self.spine,
            false => &self.plan,
        };
        let key_name = |number: usize| format!("{WORKING}asked {number}");
        let mut columns = Vec::new();
        for column in [ROW, T] {
            let place = rows.schema().index_of(column)?;
            columns.push(ProjectionExpr {
                expr: Arc::new(Position::new(column, place)),
                alias: column.to_owned(),
            });
        }
        columns.extend(wanted.keys.iter().enumerate().map(|(number, key)| {
            let expr: Arc<dyn PhysicalExpr> = Arc::clone(key);
            let alias = key_name(number);
            ProjectionExpr { expr, alias }
        }));
        let asked = ProjectionExec::try_new(columns, Arc::clone(rows))?;
        let source = provider_as_source(Arc::new(PlanTable(Arc::new(asked))));
        let mut asked = LogicalPlanBuilder::scan(working("asked"), source, None)?;
        if !of_spine {
            // A list may have an element twice.
            asked = asked.distinct()?;
        }
        let micros = |time: Expr| cast(time, DataType::Int64);
        let time = utc_micros(stored.event_time.clone());
        let mut on = vec![time.clone().lt(name(T))];
        if let Some(reach) = stored.reach {
            on.push(micros(time).gt_eq(micros(name(T)) - lit(reach)));
        }
        let keys = stored.keys.into_iter().zip(&wanted.view.keys).enumerate();
        on.extend(keys.map(|(number, (key, column))| {
            let key = cast(key.clone().unalias(), column.data_type.to_arrow());
            key.eq(name(&key_name(number)))
        }));
        let mut columns = scan.rows.schema().columns();
        columns.push(Name::new_unqualified(ROW));
        let plan = LogicalPlanBuilder::from(scan.rows.clone())
            .join_on(asked.build()?, JoinType::Inner, on)?
            .project(columns.into_iter().map(Expr::Column))?
            .build()?;
        self.physical_plan(&plan).await
    }
}

/// What a query gives is the stream's; of a spine some of it is.
fn check_names(stream: &Stream, given: &LogicalPlan, is_spine: bool) -> Result<(), EngineError> {
    let known = || stream.columns.iter().map(|column| column.name.as_str());
    let fields = given.schema().fields();
    if is_spine {
        if fields.iter().any(|f| known().any(|k| k == f.name())) {
            return Ok(());
        }
        let what = "the spine has none of its columns: map them with STREAM='SELECT .. FROM spine'";
        return Err(refused(&stream.name, what));
    }
    match fields.iter().find(|f| !known().any(|k| k == f.name())) {
        Some(odd) => {
            let near = did_you_mean(odd.name(), known());
            let what = format!("the stream has no column {:?}{near}", odd.name());
            Err(refused(&stream.name, &what))
        }
        None => Ok(()),
    }
}

/// A column of the stream, where it is given.
fn value_of(
    stream: &Stream,
    column: &Column,
    given: &LogicalPlan,
) -> Result<Option<Expr>, EngineError> {
    let mut fields = given.schema().iter();
    let Some((qualifier, field)) = fields.find(|(_, field)| *field.name() == column.name) else {
        return Ok(None);
    };
    let (name, wanted) = (&column.name, &column.data_type);
    let found = FeatureType::from_arrow(field.data_type());
    let fits = found.as_ref().is_some_and(|f| wanted.accepts_input(f));
    if !fits && *field.data_type() != DataType::Null {
        let got = found.map_or_else(|| field.data_type().to_string(), |f| f.to_string());
        let what = format!("{name} expects {wanted}, got {got}");
        return Err(refused(&stream.name, &what));
    }
    let value = Expr::Column(Name::new(qualifier.cloned(), field.name()));
    Ok(Some(cast(value, wanted.to_arrow())))
}

/// The rows of a plan of one partition with their numbers behind them.
fn numbered(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let mut fields = plan.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(ROW, DataType::Int64, false)));
    let metadata = plan.schema().metadata().clone();
    let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, metadata));
    let made = schema.clone();
    let step = move || -> Step {
        let (schema, mut next) = (made.clone(), 0_i64);
        Box::new(move |batch| {
            let first = next;
            next += batch.num_rows() as i64;
            let mut columns = batch.columns().to_vec();
            columns.push(Arc::new(Int64Array::from_iter_values(first..next)));
            Ok(RecordBatch::try_new(schema.clone(), columns)?)
        })
    };
    let what = "numbers of rows".to_owned();
    Arc::new(RowsExec::new(Arc::clone(plan), what, schema, step))
}

/// Columns of events, then the row that each is for. NULL may be anywhere,
/// whatever a plan knows of its input.
fn numbered_schema(events: &Schema) -> SchemaRef {
    let fields = events.fields().iter();
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true));
    let row = Field::new(ROW, DataType::Int64, true);
    Arc::new(Schema::new(fields.chain([row]).collect::<Vec<_>>()))
}

/// The events that rows of the spine are, at t where they have no time.
fn events_of(
    program: &StreamRows,
    batch: &RecordBatch,
    [row, t]: [usize; 2],
    event_time: usize,
    schema: &SchemaRef,
) -> PlanResult<RecordBatch> {
    let made = program.rows(&batch.project(program.projection())?)?;
    let Some(made) = made.into_iter().next() else {
        return Ok(RecordBatch::new_empty(schema.clone()));
    };
    let of = UInt32Array::from(made.events);
    let utc = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    let times = take(batch.column(t), &of, None)?;
    let at_t = cast_array(&times, &utc)?;
    debug_assert!(
        at_t.as_primitive_opt::<TimestampMicrosecondType>()
            .is_some()
    );
    let mut columns: Vec<ArrayRef> = made.rows.columns().to_vec();
    let own = Arc::clone(&columns[event_time]);
    let default = cast_array(&at_t, own.data_type())?;
    columns[event_time] = zip(&is_not_null(&own)?, &own, &default)?;
    columns.push(at_t);
    columns.push(take(batch.column(row), &of, None)?);
    columns.push(times);
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// What a view makes of events of a stream, with the row that each is for.
fn rows_of(
    events: Arc<dyn ExecutionPlan>,
    program: StreamRows,
    view: &str,
    schema: SchemaRef,
) -> Arc<dyn ExecutionPlan> {
    let what = format!("{view} of {}", program.stream());
    let (program, made) = (Arc::new(program), schema.clone());
    let step = move || -> Step {
        let (program, schema) = (Arc::clone(&program), made.clone());
        Box::new(move |batch| {
            // Behind the stream's columns are the number and t.
            let number = batch.column(batch.num_columns() - 2);
            let mut columns: Vec<Vec<ArrayRef>> = vec![Vec::new(); schema.fields().len()];
            for rows in program.rows(&batch.project(program.projection())?)? {
                let of = UInt32Array::from(rows.events);
                let numbers = take(number, &of, None)?;
                let all = rows.rows.columns().iter().cloned().chain([numbers]);
                for (parts, column) in columns.iter_mut().zip(all) {
                    parts.push(column);
                }
            }
            let columns = columns.iter().map(|parts| {
                let parts: Vec<_> = parts.iter().map(AsRef::as_ref).collect();
                Ok(concat(&parts)?)
            });
            let columns = columns.collect::<PlanResult<_>>()?;
            Ok(RecordBatch::try_new(schema.clone(), columns)?)
        })
    };
    Arc::new(RowsExec::new(events, what, schema, step))
}
