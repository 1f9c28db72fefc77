//! A view whose rows may change with what comes later, computed once for each
//! distinct t of the spine: one query a time, one after the other.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result as PlanResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{ScalarUDF, lit};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, reset_plan_states,
};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning,
    PlanProperties,
};
use datafusion::prelude::ident;
use futures::{StreamExt, TryStreamExt, stream};
use granary_model::{UtcMicros, ViewKind};

use super::chain::{Chain, T, Wanted, failed, name};
use super::time::SpineTime;
use crate::asof::Run;
use crate::engine::{AsOf, Joins, no_later_than, physical_expr};
use crate::error::EngineError;
use crate::offline::read::time_scalar;
use crate::run::{EventTimes, key_name, view_rows, windowed_rows_of};
use crate::windowed::Seen;

/// Times that are computed one by one at most.
pub const TIMES_MAX: usize = 1_000;
/// The column with the time that a row was computed as of.
pub(super) const COMPUTED_AS_OF: &str = "__granary computed";

/// Rows as of several times.
pub(super) struct EachTime {
    pub(super) rows: Arc<dyn ExecutionPlan>,
    pub(super) times: Vec<Run>,
}

impl Chain<'_> {
    /// The rows of a view as of every t that the spine asks for.
    pub(super) async fn each_time(
        &self,
        wanted: &Wanted<'_>,
        reason: &str,
    ) -> Result<EachTime, EngineError> {
        let view = wanted.view;
        let times = self.distinct_times(wanted).await?;
        if times.len() > TIMES_MAX {
            return Err(EngineError::Refused(format!(
                "{} is computed for each time by itself, since {reason}; the spine has more than \
                 {TIMES_MAX} times. Write it as a windowed view, or row by row, or materialise it \
                 as a snapshot view and read that",
                view.name
            )));
        }
        let mut plans = Vec::with_capacity(times.len());
        for t in &times {
            plans.push((*t, self.rows_at(wanted, *t).await?));
        }
        let forever = |as_of| Run {
            as_of,
            committed: UtcMicros::MIN,
        };
        Ok(EachTime {
            rows: Arc::new(EachTimeExec::new(&view.row_schema(), plans)),
            times: times.into_iter().map(forever).collect(),
        })
    }

    /// Times that rows of the spine are answered as of, ascending; one more
    /// than may be at most.
    async fn distinct_times(&self, wanted: &Wanted<'_>) -> Result<Vec<UtcMicros>, EngineError> {
        if let Some(t) = wanted.moment.as_of {
            return Ok(vec![t]);
        }
        let failed = failed("the spine");
        let spine = reset_plan_states(self.spine.clone()).map_err(&failed)?;
        let place = spine.schema().index_of(T).map_err(|e| failed(e.into()))?;
        let mut rows = spine
            .execute(0, self.context().task_ctx())
            .map_err(&failed)?;
        let mut times = BTreeSet::new();
        while let Some(batch) = rows.try_next().await.map_err(&failed)? {
            let asked = batch
                .column(place)
                .as_primitive::<TimestampMicrosecondType>();
            times.extend(
                asked
                    .iter()
                    .flatten()
                    .filter_map(|t| match wanted.refreshed_every {
                        Some(every) => every.newest_multiple(UtcMicros(t)),
                        None => Some(UtcMicros(t)),
                    }),
            );
            if times.len() > TIMES_MAX {
                break;
            }
        }
        Ok(times.into_iter().collect())
    }

    /// The view's query with everything that has an event time cut at t.
    async fn rows_at(
        &self,
        wanted: &Wanted<'_>,
        t: UtcMicros,
    ) -> Result<Arc<dyn ExecutionPlan>, EngineError> {
        let view = wanted.view;
        let failed = failed(&view.name);
        let options = self.request.options;
        let as_of = AsOf {
            t,
            strictly_before: options.strictly_before,
            known_at: self.known_by(wanted, t),
        };
        let session = self
            .engine
            .session_for(self.definitions, view, as_of, Joins::Spilling)
            .await?;
        if view.kind == ViewKind::Windowed {
            let seen = Seen {
                strictly_before: options.strictly_before,
                known_at_the_time: self.known_at_its_time(wanted),
            };
            let spine = self.keys_at(wanted, t).map_err(&failed)?;
            let state = session.state();
            let rows = windowed_rows_of(&state, view, spine, t, seen).await;
            return rows.map_err(failed);
        }
        let mut rows = view_rows(&session, view, EventTimes::up_to(as_of.last())).await?;
        if let (ViewKind::Timestamped, Some(event_time)) = (view.kind, &view.event_time) {
            rows = rows
                .filter(ident(event_time).is_not_null())
                .map_err(&failed)?;
        }
        if let (Some(known_at), Some(created)) = (as_of.known_at, &view.created_time) {
            let time = view.row_schema();
            let time = time
                .field_with_name(created)
                .map_err(|e| failed(e.into()))?;
            if let Some(known) = no_later_than(created, time.data_type(), known_at) {
                let known = known.or(ident(created).is_null());
                rows = rows.filter(known).map_err(&failed)?;
            }
        }
        rows.create_physical_plan().await.map_err(&failed)
    }

    /// The keys that the spine asks for at t.
    fn keys_at(&self, wanted: &Wanted<'_>, t: UtcMicros) -> PlanResult<Arc<dyn ExecutionPlan>> {
        let asked = match wanted.refreshed_every {
            Some(every) => ScalarUDF::from(SpineTime::new(Some(every))).call(vec![name(T)]),
            None => name(T),
        };
        // What was joined is computed again only where a key comes from it.
        let width = self.spine.schema().fields().len();
        let columns = wanted.keys.iter().flat_map(collect_columns);
        let rows = match columns.map(|column| column.index()).all(|at| at < width) {
            true => &self.spine,
            false => &self.plan,
        };
        let schema = DFSchema::try_from(rows.schema())?;
        let asked_at_t = match wanted.moment.as_of {
            Some(_) => asked.is_not_null(),
            None => asked.eq(lit(time_scalar(t))),
        };
        let at_t = physical_expr(&self.state, asked_at_t, &schema)?;
        let spine = FilterExec::try_new(at_t, reset_plan_states(rows.clone())?)?;
        let keys = wanted.keys.iter().enumerate();
        let keys = keys.map(|(number, key)| ProjectionExpr {
            expr: key.clone(),
            alias: key_name(number),
        });
        Ok(Arc::new(ProjectionExec::try_new(keys, Arc::new(spine))?))
    }
}

/// Inputs: a query a time, whose rows come out with the time behind them.
#[derive(Debug)]
struct EachTimeExec {
    schema: SchemaRef,
    plans: Vec<(UtcMicros, Arc<dyn ExecutionPlan>)>,
    properties: Arc<PlanProperties>,
}

impl EachTimeExec {
    fn new(rows: &Schema, plans: Vec<(UtcMicros, Arc<dyn ExecutionPlan>)>) -> Self {
        let mut fields = rows.fields().to_vec();
        let time = time_scalar(UtcMicros(0)).data_type();
        fields.push(Arc::new(Field::new(COMPUTED_AS_OF, time, false)));
        let schema = Arc::new(Schema::new(fields));
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self {
            schema,
            plans,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for EachTimeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EachTimeExec: times={}", self.plans.len())
    }
}

impl ExecutionPlan for EachTimeExec {
    fn name(&self) -> &'static str {
        "EachTimeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.plans.iter().map(|(_, plan)| plan).collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> PlanResult<TreeNodeRecursion>,
    ) -> PlanResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        if children.len() != self.plans.len() {
            return Err(DataFusionError::Internal("a query for each time".into()));
        }
        let times = self.plans.iter().map(|(t, _)| *t);
        Ok(Arc::new(Self {
            schema: self.schema.clone(),
            plans: times.zip(children).collect(),
            properties: self.properties.clone(),
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> PlanResult<Arc<dyn ExecutionPlan>> {
        self.replace_children(
            children,
            ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute),
        )
    }

    fn execute(
        &self,
        _partition: usize,
        context: Arc<TaskContext>,
    ) -> PlanResult<SendableRecordBatchStream> {
        let schema = self.schema.clone();
        let rows = stream::iter(self.plans.clone()).then(move |(t, plan)| {
            let (schema, context) = (schema.clone(), context.clone());
            async move {
                let rows = CoalescePartitionsExec::new(plan).execute(0, context)?;
                let rows = rows.map(move |batch| with_time(&batch?, t, &schema));
                Ok::<_, DataFusionError>(rows)
            }
        });
        let rows = rows.try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(
            self.schema.clone(),
            rows,
        )))
    }
}

fn with_time(batch: &RecordBatch, t: UtcMicros, schema: &SchemaRef) -> PlanResult<RecordBatch> {
    let mut columns = batch.columns().to_vec();
    columns.push(time_scalar(t).to_array_of_size(batch.num_rows())?);
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
