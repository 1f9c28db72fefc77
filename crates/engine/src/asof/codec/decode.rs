//! Messages to specs.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{FunctionRegistry, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion_proto::physical_plan::{PhysicalPlanDecodeContext, PhysicalProtoConverterExtension};
use datafusion_proto::protobuf::PhysicalExprNode;
use granary_model::{Interval, UtcMicros};

use super::AsOfCodec;
use super::messages::{
    AggregateNode, BoundsNode, FrameNode, InputsNode, IntervalNode, JoinNode, LookupNode, RunNode,
    RunsNode, SetNode, TimesNode, WindowNode,
};
use crate::asof::kernels::Call;
use crate::asof::{
    AsOfJoinSpec, AsOfLookup, AsOfWindowSpec, EventSet, Frame, FrameBounds, Match, Run, Value,
    WindowAggregate, event_schema,
};

pub(super) struct Decoder<'a> {
    context: PhysicalPlanDecodeContext<'a>,
    converter: &'a dyn PhysicalProtoConverterExtension,
    spine: SchemaRef,
    events: SchemaRef,
}

/// What both operators have.
struct Inputs {
    on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    time: Arc<dyn PhysicalExpr>,
    strictly_before: bool,
    known_at_the_time: bool,
}

/// Times of events.
struct Times {
    event_time: Arc<dyn PhysicalExpr>,
    created_time: Option<Arc<dyn PhysicalExpr>>,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        codec: &'a AsOfCodec,
        context: &'a TaskContext,
        converter: &'a dyn PhysicalProtoConverterExtension,
        spine: SchemaRef,
        events: SchemaRef,
    ) -> Self {
        Self {
            context: PhysicalPlanDecodeContext::new(context, codec),
            converter,
            spine,
            events,
        }
    }

    fn expression(
        &self,
        node: &PhysicalExprNode,
        schema: &Schema,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        self.converter
            .proto_to_physical_expr(node, schema, &self.context)
    }

    fn all(
        &self,
        nodes: &[PhysicalExprNode],
        schema: &Schema,
    ) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        nodes.iter().map(|n| self.expression(n, schema)).collect()
    }

    fn optional(
        &self,
        node: Option<&PhysicalExprNode>,
        schema: &Schema,
    ) -> Result<Option<Arc<dyn PhysicalExpr>>> {
        node.map(|n| self.expression(n, schema)).transpose()
    }

    fn inputs(&self, node: Option<InputsNode>) -> Result<Inputs> {
        let node = there(node, "inputs")?;
        if node.spine_keys.len() != node.event_keys.len() {
            return Err(DataFusionError::Internal(format!(
                "an as-of operator has {} keys of the spine and {} of the events",
                node.spine_keys.len(),
                node.event_keys.len()
            )));
        }
        let spine_keys = self.all(&node.spine_keys, &self.spine)?;
        let event_keys = self.all(&node.event_keys, &self.events)?;
        let time = there(node.time, "time")?;
        Ok(Inputs {
            on: spine_keys.into_iter().zip(event_keys).collect(),
            time: self.expression(&time, &self.spine)?,
            strictly_before: node.strictly_before,
            known_at_the_time: node.known_at_the_time,
        })
    }

    fn times(&self, node: Option<TimesNode>) -> Result<Times> {
        let node = there(node, "times")?;
        let event_time = there(node.event_time, "event time")?;
        Ok(Times {
            event_time: self.expression(&event_time, &self.events)?,
            created_time: self.optional(node.created_time.as_ref(), &self.events)?,
        })
    }

    pub(super) fn join(&self, node: JoinNode) -> Result<AsOfJoinSpec> {
        let inputs = self.inputs(node.inputs)?;
        let lookups = node.lookups.into_iter().map(|lookup| self.lookup(lookup));
        Ok(AsOfJoinSpec {
            on: inputs.on,
            time: inputs.time,
            refreshed_every: node.refreshed_every.map(interval),
            strictly_before: inputs.strictly_before,
            known_at_the_time: inputs.known_at_the_time,
            matching: node.runs.map_or(Match::Latest, matching),
            lookups: lookups.collect::<Result<_>>()?,
        })
    }

    fn lookup(&self, node: LookupNode) -> Result<AsOfLookup> {
        let times = self.times(node.times)?;
        let values = node.values.into_iter().map(|value| {
            let expression = there(value.expression, "expression of a value")?;
            Ok(Value {
                expression: self.expression(&expression, &self.events)?,
                name: value.name,
            })
        });
        Ok(AsOfLookup {
            filter: self.optional(node.filter.as_ref(), &self.events)?,
            event_time: times.event_time,
            created_time: times.created_time,
            seen_from: self.optional(node.seen_from.as_ref(), &self.events)?,
            values: values.collect::<Result<_>>()?,
            ttl: node.ttl.map(interval),
            event_time_name: node.event_time_name,
            status_name: node.status_name,
        })
    }

    pub(super) fn window(&self, node: WindowNode) -> Result<AsOfWindowSpec> {
        let inputs = self.inputs(node.inputs)?;
        let times = self.times(node.times)?;
        let schema = event_schema(&self.events);
        let sets = node.sets.into_iter().map(|set| self.set(set, &schema));
        Ok(AsOfWindowSpec {
            on: inputs.on,
            time: inputs.time,
            event_time: times.event_time,
            created_time: times.created_time,
            then_by: self.all(&node.then_by, &self.events)?,
            strictly_before: inputs.strictly_before,
            known_at_the_time: inputs.known_at_the_time,
            sets: sets.collect::<Result<_>>()?,
        })
    }

    fn set(&self, node: SetNode, schema: &SchemaRef) -> Result<EventSet> {
        let aggregates = node.aggregates.into_iter();
        let aggregates = aggregates.map(|aggregate| self.aggregate(aggregate, schema));
        Ok(EventSet {
            filter: self.optional(node.filter.as_ref(), schema)?,
            aggregates: aggregates.collect::<Result<_>>()?,
        })
    }

    fn aggregate(&self, node: AggregateNode, schema: &SchemaRef) -> Result<WindowAggregate> {
        let function = self.context.task_ctx().udaf(&node.function)?;
        let arguments = self.all(&node.arguments, schema)?;
        let call = Call::try_new(function, arguments, schema.clone())?;
        Ok(WindowAggregate {
            call: call.distinct(node.distinct).ignore_nulls(node.ignore_nulls),
            filter: self.optional(node.filter.as_ref(), schema)?,
            frame: frame(node.frame)?,
            name: node.name,
        })
    }
}

fn there<T>(field: Option<T>, name: &str) -> Result<T> {
    field.ok_or_else(|| DataFusionError::Internal(format!("an as-of operator without {name}")))
}

fn matching(node: RunsNode) -> Match {
    let run = |run: RunNode| Run {
        as_of: UtcMicros(run.as_of),
        committed: UtcMicros(run.committed),
    };
    Match::Runs(node.runs.into_iter().map(run).collect())
}

fn frame(node: Option<FrameNode>) -> Result<Frame> {
    let node = there(node, "a frame")?;
    let bounds = match there(node.bounds, "the bounds of a frame")? {
        BoundsNode::Range(range) => FrameBounds::Range {
            start: range.start.map(interval),
            end: interval(there(range.end, "the end of a frame")?),
        },
        BoundsNode::Rows(rows) => FrameBounds::Rows {
            start: rows.start,
            end: rows.end,
        },
    };
    Ok(Frame {
        bounds,
        events_max: node.events_max,
    })
}

fn interval(node: IntervalNode) -> Interval {
    Interval {
        months: node.months,
        days: node.days,
        micros: node.micros,
    }
}
