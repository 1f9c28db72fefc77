//! The latest event of a key as of a time.
//!
//! The spine is worked off in parts that fit into memory; each part costs one
//! pass over the events, which are neither sorted nor buffered (see [`winners`]).

mod answer;
mod winners;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, apply_expression_roots, reset_plan_states,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, Time,
};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, Partitioning, PlanProperties,
};
use futures::StreamExt;
use granary_model::types::UTC;
use granary_model::{Interval, UtcMicros};
use tokio::sync::mpsc::Sender;

use super::keys::{NO_GROUP, compared_as};
use super::parts::{Parts, RowCost, column, is_exhausted};
use super::spine::Spine;
use super::time::micros;
use answer::{Answers, matched};
use winners::{Events, HELD_BYTES, Visibility, Winners};

/// What a row of the spine costs besides its own bytes: its position,
const POSITION_BYTES: usize = 24;
/// and for each lookup an answer
const ANSWER_BYTES: usize = 40;
/// and slots.
const SLOTS_BYTES: usize = 64;
/// Share of the memory that batches of a partition may be held in, one in so many.
const HELD_SHARE: usize = 32;

/// A committed run of a snapshot view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// T: what the event time of the run's rows is.
    pub as_of: UtcMicros,
    /// The run's created time.
    pub committed: UtcMicros,
}

/// Which events a row of the spine can match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Match {
    /// The greatest event up to t.
    Latest,
    /// The row of the newest of these runs up to t: a key that this run lacks
    /// is not found, whatever older runs have. Ascending by `as_of`.
    Runs(Vec<Run>),
}

/// A value of the events. All of them decide ties, in their order.
#[derive(Debug, Clone)]
pub struct Value {
    pub expression: Arc<dyn PhysicalExpr>,
    /// The output column; `None`: it decides ties only.
    pub name: Option<String>,
}

/// What [`AsOfJoinExec`] computes. Expressions of the spine are over its
/// schema, those of the events over theirs.
#[derive(Debug, Clone)]
pub struct AsOfJoinSpec {
    /// Keys of the spine and of the events, at least one, which must be equal.
    pub on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// t of a row of the spine; nothing is found where it is NULL.
    pub time: Arc<dyn PhysicalExpr>,
    /// Not t itself is asked for, but the newest multiple of this interval after
    /// the epoch up to it; nothing is found before the first.
    pub refreshed_every: Option<Interval>,
    /// Event time < t rather than <= t.
    pub strictly_before: bool,
    /// Events created after t are not seen.
    pub known_at_the_time: bool,
    pub matching: Match,
    /// What is found, all of it in one pass over the events.
    pub lookups: Vec<AsOfLookup>,
}

/// The latest of those events that pass a filter.
#[derive(Debug, Clone)]
pub struct AsOfLookup {
    /// NULL does not pass; `None`: all events do.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub event_time: Arc<dyn PhysicalExpr>,
    /// NULL counts as the event time.
    pub created_time: Option<Arc<dyn PhysicalExpr>>,
    /// The event is not seen before this either, if it is not NULL.
    pub seen_from: Option<Arc<dyn PhysicalExpr>>,
    pub values: Vec<Value>,
    /// How old an event may be at t, inclusive.
    pub ttl: Option<Interval>,
    /// Output column: the event's time, TIMESTAMP, NULL where none was found.
    pub event_time_name: String,
    /// Output column: SMALLINT, a number of `granary_model::FeatureStatus`:
    /// `Present` (a row was found), `NotFound` or `OutsideMaxAge`.
    pub status_name: String,
}

impl AsOfLookup {
    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let times = self.filter.iter().chain([&self.event_time]);
        times
            .chain(&self.created_time)
            .chain(&self.seen_from)
            .chain(self.values.iter().map(|value| &value.expression))
    }

    fn output(&self, events: &Schema, fields: &mut Vec<FieldRef>) -> Result<()> {
        for value in &self.values {
            if let Some(name) = &value.name {
                let field = value.expression.return_field(events)?;
                let field = Field::new(name, field.data_type().clone(), true)
                    .with_metadata(field.metadata().clone());
                fields.push(Arc::new(field));
            }
        }
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
        fields.push(Arc::new(Field::new(&self.event_time_name, time, true)));
        let status = Field::new(&self.status_name, DataType::Int8, false);
        fields.push(Arc::new(status));
        Ok(())
    }
}

impl fmt::Display for AsOfLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.values.iter().filter_map(|v| v.name.as_deref());
        let names: Vec<&str> = names.collect();
        write!(f, "{{event_time={}", self.event_time)?;
        if let Some(created) = &self.created_time {
            write!(f, ", created={created}")?;
        }
        if let Some(from) = &self.seen_from {
            write!(f, ", seen_from={from}")?;
        }
        if let Some(filter) = &self.filter {
            write!(f, ", filter={filter}")?;
        }
        if let Some(ttl) = &self.ttl {
            write!(f, ", ttl={ttl}")?;
        }
        write!(f, ", values=[{}]}}", names.join(", "))
    }
}

impl AsOfJoinSpec {
    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let on = self.on.iter().flat_map(|(spine, event)| [spine, event]);
        let lookups = self.lookups.iter().flat_map(AsOfLookup::expressions);
        on.chain([&self.time]).chain(lookups)
    }

    fn visibility(&self) -> Visibility {
        match self.matching {
            Match::Runs(_) => Visibility::At,
            Match::Latest => Visibility::From {
                strictly: self.strictly_before,
                known_at_the_time: self.known_at_the_time,
            },
        }
    }

    fn output(&self, spine: &Schema, events: &Schema) -> Result<SchemaRef> {
        let mut fields = spine.fields().to_vec();
        for lookup in &self.lookups {
            lookup.output(events, &mut fields)?;
        }
        Ok(Arc::new(Schema::new_with_metadata(
            fields,
            spine.metadata().clone(),
        )))
    }

    fn check(&self, spine: &Schema, events: &Schema) -> Result<()> {
        let plan = |message: String| Err(DataFusionError::Plan(message));
        if self.on.is_empty() {
            return plan("an as-of join needs at least one key".into());
        }
        for (of_spine, of_event) in &self.on {
            let left = of_spine.data_type(spine)?;
            let right = of_event.data_type(events)?;
            if compared_as(&left) != compared_as(&right) {
                return plan(format!(
                    "key {of_event} of the events is {right}, the spine's {of_spine} is {left}"
                ));
            }
        }
        match &self.matching {
            Match::Runs(runs) if !runs.is_sorted() => {
                plan("runs of an as-of join are not in the order of their times".into())
            }
            _ => Ok(()),
        }
    }
}

/// Inputs: the spine, whose rows come out in their order with the columns of
/// [`AsOfJoinSpec`] behind them, and the events, in any order and partitioning.
#[derive(Debug)]
pub struct AsOfJoinExec {
    spine: Arc<dyn ExecutionPlan>,
    events: Arc<dyn ExecutionPlan>,
    spec: Arc<AsOfJoinSpec>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsOfJoinExec {
    /// Fails where the keys of the two sides have different types.
    pub fn try_new(
        spine: Arc<dyn ExecutionPlan>,
        events: Arc<dyn ExecutionPlan>,
        spec: Arc<AsOfJoinSpec>,
    ) -> Result<Self> {
        spec.check(&spine.schema(), &events.schema())?;
        let schema = spec.output(&spine.schema(), &events.schema())?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Both,
            Boundedness::Bounded,
        );
        Ok(Self {
            spine,
            events,
            spec,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    pub fn spec(&self) -> &Arc<AsOfJoinSpec> {
        &self.spec
    }
}

impl DisplayAs for AsOfJoinExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        let keys: Vec<String> = spec
            .on
            .iter()
            .map(|(spine, event)| format!("{spine} = {event}"))
            .collect();
        let before = if spec.strictly_before { "<" } else { "<=" };
        let keys = keys.join(", ");
        write!(
            f,
            "AsOfJoinExec: keys=[{keys}], event_time {before} {}",
            spec.time
        )?;
        if spec.known_at_the_time {
            write!(f, ", known_at_the_time")?;
        }
        if let Some(every) = &spec.refreshed_every {
            write!(f, ", refreshed_every={every}")?;
        }
        if let Match::Runs(runs) = &spec.matching {
            write!(f, ", runs={}", runs.len())?;
        }
        let lookups: Vec<String> = spec.lookups.iter().map(ToString::to_string).collect();
        write!(f, ", lookups=[{}]", lookups.join(", "))
    }
}

impl ExecutionPlan for AsOfJoinExec {
    fn name(&self) -> &'static str {
        "AsOfJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.spine, &self.events]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![
            Distribution::SinglePartition,
            Distribution::UnspecifiedDistribution,
        ])
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true, false]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.spec.expressions(), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [spine, events]: [_; 2] = children
            .try_into()
            .map_err(|_| DataFusionError::Internal("AsOfJoinExec has two inputs".into()))?;
        Ok(Arc::new(Self::try_new(spine, events, self.spec.clone())?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!(
                "AsOfJoinExec has one partition, {partition} was asked for"
            )));
        }
        let work = Work {
            spec: self.spec.clone(),
            events: self.events.clone(),
            schema: self.schema(),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            parts: MetricBuilder::new(&self.metrics).counter("spine_parts", partition),
            event_rows: MetricBuilder::new(&self.metrics).counter("event_rows", partition),
            context: context.clone(),
        };
        let spine = self.spine.execute(0, context)?;
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema(), 2);
        let sender = builder.tx();
        builder.spawn(work.run(spine, sender));
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// The execution: everything but the spine's stream.
struct Work {
    spec: Arc<AsOfJoinSpec>,
    events: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    baseline: BaselineMetrics,
    parts: Count,
    event_rows: Count,
    context: Arc<TaskContext>,
}

impl Work {
    async fn run(
        self,
        spine: SendableRecordBatchStream,
        sender: Sender<Result<RecordBatch>>,
    ) -> Result<()> {
        let lookups = self.spec.lookups.len();
        let cost = RowCost {
            spine: POSITION_BYTES + lookups * ANSWER_BYTES,
            results: lookups * SLOTS_BYTES,
        };
        let mut parts = Parts::new(spine, "AsOfJoinExec", cost, self.context.clone());
        loop {
            let part = parts.next().await?;
            if part.is_empty() {
                return Ok(());
            }
            let answers = match self.answer(&part).await {
                Err(error) if is_exhausted(&error) && parts.halve(&part) => continue,
                answers => answers?,
            };
            let mut start = 0;
            for batch in &part {
                let timer = self.baseline.elapsed_compute().timer();
                let rows = start..start + batch.num_rows();
                start = rows.end;
                let batch = answers.batch(&self.spec, &self.schema, batch, rows)?;
                timer.done();
                self.baseline.record_output(batch.num_rows());
                if sender.send(Ok(batch)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// One pass over the events for a part of the spine.
    async fn answer(&self, part: &[RecordBatch]) -> Result<Answers> {
        self.parts.add(1);
        let timer = self.baseline.elapsed_compute().timer();
        let asked = self.asked(part)?;
        let matched = matched(&asked, &self.spec);
        let keys = self.keys(part)?;
        let spine = Arc::new(Spine::new(&keys, &matched)?);
        timer.done();
        let visibility = self.spec.visibility();
        // A plan with exchanges in it can be executed once only: each pass has its own.
        let events = reset_plan_states(self.events.clone())?;
        let held_bytes = self.held_bytes();
        let mut passes = Vec::new();
        for partition in 0..events.output_partitioning().partition_count() {
            let stream = events.execute(partition, self.context.clone())?;
            let winners = self.spec.lookups.iter().map(|_| {
                let consumer = MemoryConsumer::new(format!("AsOfJoinExec[{partition}]"));
                let reservation = consumer.register(self.context.memory_pool());
                Winners::new(&spine, held_bytes, reservation)
            });
            let pass = Pass {
                spec: self.spec.clone(),
                winners: winners.collect::<Result<_>>()?,
                spine: spine.clone(),
                event_rows: self.event_rows.clone(),
                elapsed: self.baseline.elapsed_compute().clone(),
            };
            passes.push(SpawnedTask::spawn(pass.run(stream, visibility)));
        }
        let mut all: Option<Vec<Winners>> = None;
        for pass in passes {
            let winners = pass
                .join_unwind()
                .await
                .map_err(|error| DataFusionError::ExecutionJoin(Box::new(error)))??;
            match &mut all {
                Some(all) => {
                    for (all, winners) in all.iter_mut().zip(winners) {
                        all.merge(winners)?;
                    }
                }
                None => all = Some(winners),
            }
        }
        let _timer = self.baseline.elapsed_compute().timer();
        let mut all = all.unwrap_or_default();
        for winners in &mut all {
            winners.settle(&spine, visibility);
        }
        Ok(Answers::new(&spine, &asked, all, &self.spec))
    }

    /// What each lookup may hold back of the events of a partition.
    fn held_bytes(&self) -> usize {
        let share = match self.context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => bytes / HELD_SHARE,
            _ => HELD_BYTES,
        };
        share.min(HELD_BYTES) / self.spec.lookups.len().max(1)
    }

    /// t of every row of a part.
    fn asked(&self, part: &[RecordBatch]) -> Result<Int64Array> {
        let times = column(&self.spec.time, part)?;
        micros(&times)
    }

    fn keys(&self, part: &[RecordBatch]) -> Result<Vec<ArrayRef>> {
        let on = self.spec.on.iter();
        on.map(|(expression, _)| column(expression, part)).collect()
    }
}

/// A pass over one partition of the events.
struct Pass {
    spec: Arc<AsOfJoinSpec>,
    spine: Arc<Spine>,
    /// Of each lookup.
    winners: Vec<Winners>,
    event_rows: Count,
    elapsed: Time,
}

impl Pass {
    async fn run(
        mut self,
        mut stream: SendableRecordBatchStream,
        visibility: Visibility,
    ) -> Result<Vec<Winners>> {
        let mut groups = Vec::new();
        while let Some(batch) = stream.next().await.transpose()? {
            self.event_rows.add(batch.num_rows());
            let _timer = self.elapsed.timer();
            let on = self.spec.on.iter();
            let keys = on.map(|(_, key)| evaluate(key, &batch));
            self.spine
                .find(&keys.collect::<Result<Vec<_>>>()?, &mut groups)?;
            for (lookup, winners) in self.spec.lookups.iter().zip(&mut self.winners) {
                let events = lookup.evaluate(&batch, &groups)?;
                winners.offer(&self.spine, visibility, &events)?;
            }
        }
        Ok(self.winners)
    }
}

impl AsOfLookup {
    fn evaluate<'a>(&self, batch: &RecordBatch, groups: &'a [u32]) -> Result<Events<'a>> {
        let times = |times| micros(&evaluate(times, batch)?);
        let values = self.values.iter();
        Ok(Events {
            groups: match &self.filter {
                Some(filter) => Cow::Owned(passing(groups, &evaluate(filter, batch)?)?),
                None => Cow::Borrowed(groups),
            },
            event_times: times(&self.event_time)?,
            created: self.created_time.as_ref().map(times).transpose()?,
            seen_from: self.seen_from.as_ref().map(times).transpose()?,
            values: values
                .map(|value| evaluate(&value.expression, batch))
                .collect::<Result<_>>()?,
        })
    }
}

fn evaluate(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    expression.evaluate(batch)?.into_array(batch.num_rows())
}

/// The groups of rows for which a filter is true.
fn passing(groups: &[u32], filter: &ArrayRef) -> Result<Vec<u32>> {
    let filter = as_boolean_array(filter)?;
    let passes = |(group, passes): (&u32, Option<bool>)| match passes {
        Some(true) => *group,
        _ => NO_GROUP,
    };
    Ok(groups.iter().zip(filter.iter()).map(passes).collect())
}
