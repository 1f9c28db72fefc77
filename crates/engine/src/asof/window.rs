//! Aggregates over windows of a key's events, as of the times of a spine.
//!
//! The spine is worked off in parts that fit into memory; each part costs one
//! pass over the events, in which they are dealt out to buckets by key. Buckets
//! are then sorted and aggregated one by one, on all cores. Events that do not
//! fit into memory wait for that on disk.

mod anew;
mod answers;
mod bucket;
mod calls;
mod dealer;
mod memory;
mod partials;
mod program;
mod sorted;
mod store;
mod work;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, EmissionType, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet, SpillMetrics,
};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, Partitioning,
    PlanProperties,
};
use granary_model::types::UTC;

use super::frame::Frame;
use super::kernels::Call;
use super::keys::compared_as;
pub use memory::{AsOfWindows, GroupedEvents};
pub use partials::{MergedAggregates, PartialRows};
use program::Program;
use work::{Metrics, Work};

/// Name of the column that stands for t in expressions over events: the last
/// column of [`event_schema`]. What reads it is computed anew for each t.
pub const AS_OF_COLUMN: &str = "__as_of";

/// What expressions over events are over: the fields of the events, and t as
/// [`AS_OF_COLUMN`], TIMESTAMP.
pub fn event_schema(events: &Schema) -> SchemaRef {
    let mut fields = events.fields().to_vec();
    let time = DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()));
    fields.push(Arc::new(Field::new(AS_OF_COLUMN, time, false)));
    Arc::new(Schema::new_with_metadata(fields, events.metadata().clone()))
}

/// An aggregate of the events in a frame.
#[derive(Debug, Clone)]
pub struct WindowAggregate {
    /// Its arguments are over [`event_schema`].
    pub call: Call,
    /// FILTER, over [`event_schema`]: events that are not true in it still take
    /// a position in ROWS frames.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub frame: Frame,
    /// The output column.
    pub name: String,
}

impl WindowAggregate {
    /// The output column.
    pub fn field(&self) -> Field {
        self.call.field(&self.name)
    }
}

/// Aggregates over the same events, those of one view.
#[derive(Debug, Clone)]
pub struct EventSet {
    /// WHERE, over [`event_schema`]: events that are not true in it do not exist.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub aggregates: Vec<WindowAggregate>,
}

/// What [`AsOfWindowExec`] computes. Expressions of the spine are over its
/// schema, keys and times of the events over theirs.
#[derive(Debug, Clone)]
pub struct AsOfWindowSpec {
    /// Keys of the spine and of the events, at least one, which must be equal.
    pub on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// t of a row of the spine; where it is NULL there are no events.
    pub time: Arc<dyn PhysicalExpr>,
    /// Events without one are never seen.
    pub event_time: Arc<dyn PhysicalExpr>,
    /// NULL counts as the event time.
    pub created_time: Option<Arc<dyn PhysicalExpr>>,
    /// The order of events of equal time (NULL lowest, NaN highest), before all
    /// columns of the events in their order.
    pub then_by: Vec<Arc<dyn PhysicalExpr>>,
    /// Event time < t rather than <= t.
    pub strictly_before: bool,
    /// Events created after t are not seen.
    pub known_at_the_time: bool,
    /// They share one pass over the events and one sort.
    pub sets: Vec<EventSet>,
}

impl AsOfWindowSpec {
    fn aggregates(&self) -> impl Iterator<Item = &WindowAggregate> {
        self.sets.iter().flat_map(|set| &set.aggregates)
    }

    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let on = self.on.iter().flat_map(|(spine, event)| [spine, event]);
        on.chain([&self.time, &self.event_time])
            .chain(&self.created_time)
            .chain(&self.then_by)
            .chain(self.sets.iter().flat_map(|set| &set.filter))
            .chain(self.aggregates().flat_map(|aggregate| &aggregate.filter))
            .chain(self.aggregates().flat_map(|a| &a.call.arguments))
    }

    fn output(&self, spine: &Schema) -> SchemaRef {
        let mut fields = spine.fields().to_vec();
        fields.extend(self.aggregates().map(|a| Arc::new(a.field())));
        Arc::new(Schema::new_with_metadata(fields, spine.metadata().clone()))
    }

    fn check(&self, spine: &Schema, events: &Schema) -> Result<()> {
        let plan = |message: String| Err(DataFusionError::Plan(message));
        if self.on.is_empty() {
            return plan("as-of windows need at least one key".into());
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
        if events.column_with_name(AS_OF_COLUMN).is_some() {
            return plan(format!("the events have a column {AS_OF_COLUMN}"));
        }
        let events = event_schema(events);
        let filters = self.sets.iter().flat_map(|set| &set.filter);
        for filter in filters.chain(self.aggregates().flat_map(|a| &a.filter)) {
            let found = filter.data_type(&events)?;
            if found != DataType::Boolean {
                return plan(format!("{filter} is {found}, a filter is BOOLEAN"));
            }
        }
        Ok(())
    }
}

/// Inputs: the spine, whose rows come out in their order with a column an
/// aggregate behind their own, and the events, in any order and partitioning.
#[derive(Debug)]
pub struct AsOfWindowExec {
    spine: Arc<dyn ExecutionPlan>,
    events: Arc<dyn ExecutionPlan>,
    spec: Arc<AsOfWindowSpec>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl AsOfWindowExec {
    /// Fails where the keys of the two sides have different types, or a filter
    /// is not BOOLEAN.
    pub fn try_new(
        spine: Arc<dyn ExecutionPlan>,
        events: Arc<dyn ExecutionPlan>,
        spec: Arc<AsOfWindowSpec>,
    ) -> Result<Self> {
        spec.check(&spine.schema(), &events.schema())?;
        let properties = PlanProperties::new(
            EquivalenceProperties::new(spec.output(&spine.schema())),
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

    pub fn spec(&self) -> &Arc<AsOfWindowSpec> {
        &self.spec
    }
}

impl DisplayAs for AsOfWindowExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        let keys: Vec<String> = spec
            .on
            .iter()
            .map(|(spine, event)| format!("{spine} = {event}"))
            .collect();
        let before = if spec.strictly_before { "<" } else { "<=" };
        write!(
            f,
            "AsOfWindowExec: keys=[{}], time={} {before} {}",
            keys.join(", "),
            spec.event_time,
            spec.time,
        )?;
        if let Some(created) = &spec.created_time {
            write!(f, ", created={created}")?;
        }
        if spec.known_at_the_time {
            write!(f, ", known_at_the_time")?;
        }
        if !spec.then_by.is_empty() {
            let then_by: Vec<String> = spec.then_by.iter().map(ToString::to_string).collect();
            write!(f, ", then_by=[{}]", then_by.join(", "))?;
        }
        for set in &spec.sets {
            write!(f, ", set=[")?;
            if let Some(filter) = &set.filter {
                write!(f, "WHERE {filter}: ")?;
            }
            let aggregates: Vec<String> = set.aggregates.iter().map(ToString::to_string).collect();
            write!(f, "{}]", aggregates.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Display for WindowAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.call)?;
        if let Some(filter) = &self.filter {
            write!(f, " FILTER {filter}")?;
        }
        write!(f, " OVER ({})", self.frame)
    }
}

impl ExecutionPlan for AsOfWindowExec {
    fn name(&self) -> &'static str {
        "AsOfWindowExec"
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
            .map_err(|_| DataFusionError::Internal("AsOfWindowExec has two inputs".into()))?;
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
                "AsOfWindowExec has one partition, {partition} was asked for"
            )));
        }
        let time = |name| MetricBuilder::new(&self.metrics).subset_time(name, partition);
        let counter = |name| MetricBuilder::new(&self.metrics).counter(name, partition);
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let metrics = Metrics {
            elapsed: baseline.elapsed_compute().clone(),
            read: time("read_time"),
            sort: time("sort_time"),
            aggregate: time("aggregate_time"),
            spine_parts: counter("spine_parts"),
            event_rows: counter("event_rows"),
            spills: SpillMetrics::new(&self.metrics, partition),
        };
        let work = Work {
            spec: self.spec.clone(),
            program: Arc::new(Program::new(&self.spec, &self.events.schema())?),
            events: self.events.clone(),
            schema: self.schema(),
            baseline,
            metrics,
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
