//! Specs to messages.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion_proto::physical_plan::PhysicalProtoConverterExtension;
use datafusion_proto::protobuf::PhysicalExprNode;
use granary_model::Interval;

use super::AsOfCodec;
use super::messages::{
    AggregateNode, BoundsNode, FrameNode, InputsNode, IntervalNode, JoinNode, LookupNode,
    RangeNode, RowsNode, RunNode, RunsNode, SetNode, TimesNode, ValueNode, WindowNode,
};
use crate::asof::{
    AsOfJoinSpec, AsOfLookup, AsOfWindowSpec, EventSet, Frame, FrameBounds, Match, WindowAggregate,
};

/// A key of the spine and of the events.
type KeyPair = (Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>);

pub(super) struct Encoder<'a> {
    pub(super) codec: &'a AsOfCodec,
    pub(super) converter: &'a dyn PhysicalProtoConverterExtension,
}

impl Encoder<'_> {
    fn expression(&self, expression: &Arc<dyn PhysicalExpr>) -> Result<PhysicalExprNode> {
        let (codec, converter) = (self.codec, self.converter);
        converter.physical_expr_to_proto(expression, codec)
    }

    fn all<'e>(
        &self,
        expressions: impl IntoIterator<Item = &'e Arc<dyn PhysicalExpr>>,
    ) -> Result<Vec<PhysicalExprNode>> {
        expressions
            .into_iter()
            .map(|e| self.expression(e))
            .collect()
    }

    fn optional(
        &self,
        expression: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<Option<PhysicalExprNode>> {
        expression.map(|e| self.expression(e)).transpose()
    }

    /// Without the flags.
    fn inputs(&self, on: &[KeyPair], time: &Arc<dyn PhysicalExpr>) -> Result<InputsNode> {
        Ok(InputsNode {
            spine_keys: self.all(on.iter().map(|(spine, _)| spine))?,
            event_keys: self.all(on.iter().map(|(_, event)| event))?,
            time: Some(self.expression(time)?),
            ..InputsNode::default()
        })
    }

    fn times(
        &self,
        event_time: &Arc<dyn PhysicalExpr>,
        created_time: Option<&Arc<dyn PhysicalExpr>>,
    ) -> Result<TimesNode> {
        Ok(TimesNode {
            event_time: Some(self.expression(event_time)?),
            created_time: self.optional(created_time)?,
        })
    }

    pub(super) fn join(&self, spec: &AsOfJoinSpec) -> Result<JoinNode> {
        let lookups = spec.lookups.iter().map(|lookup| self.lookup(lookup));
        let runs = match &spec.matching {
            Match::Latest => None,
            Match::Runs(runs) => {
                let run = runs.iter().map(|run| RunNode {
                    as_of: run.as_of.0,
                    committed: run.committed.0,
                });
                Some(RunsNode {
                    runs: run.collect(),
                })
            }
        };
        Ok(JoinNode {
            inputs: Some(InputsNode {
                strictly_before: spec.strictly_before,
                known_at_the_time: spec.known_at_the_time,
                ..self.inputs(&spec.on, &spec.time)?
            }),
            lookups: lookups.collect::<Result<_>>()?,
            refreshed_every: spec.refreshed_every.map(interval),
            runs,
        })
    }

    fn lookup(&self, lookup: &AsOfLookup) -> Result<LookupNode> {
        let values = lookup.values.iter().map(|value| {
            Ok(ValueNode {
                expression: Some(self.expression(&value.expression)?),
                name: value.name.clone(),
            })
        });
        Ok(LookupNode {
            times: Some(self.times(&lookup.event_time, lookup.created_time.as_ref())?),
            filter: self.optional(lookup.filter.as_ref())?,
            seen_from: self.optional(lookup.seen_from.as_ref())?,
            values: values.collect::<Result<_>>()?,
            ttl: lookup.ttl.map(interval),
            event_time_name: lookup.event_time_name.clone(),
            status_name: lookup.status_name.clone(),
        })
    }

    pub(super) fn window(&self, spec: &AsOfWindowSpec) -> Result<WindowNode> {
        let sets = spec.sets.iter().map(|set| self.set(set));
        Ok(WindowNode {
            inputs: Some(InputsNode {
                strictly_before: spec.strictly_before,
                known_at_the_time: spec.known_at_the_time,
                ..self.inputs(&spec.on, &spec.time)?
            }),
            times: Some(self.times(&spec.event_time, spec.created_time.as_ref())?),
            then_by: self.all(&spec.then_by)?,
            sets: sets.collect::<Result<_>>()?,
        })
    }

    fn set(&self, set: &EventSet) -> Result<SetNode> {
        let aggregates = set.aggregates.iter().map(|a| self.aggregate(a));
        Ok(SetNode {
            filter: self.optional(set.filter.as_ref())?,
            aggregates: aggregates.collect::<Result<_>>()?,
        })
    }

    fn aggregate(&self, aggregate: &WindowAggregate) -> Result<AggregateNode> {
        let call = &aggregate.call;
        Ok(AggregateNode {
            name: aggregate.name.clone(),
            function: call.function.name().to_owned(),
            arguments: self.all(&call.arguments)?,
            distinct: call.distinct,
            ignore_nulls: call.ignore_nulls,
            filter: self.optional(aggregate.filter.as_ref())?,
            frame: Some(frame(&aggregate.frame)),
        })
    }
}

fn frame(frame: &Frame) -> FrameNode {
    let bounds = match frame.bounds {
        FrameBounds::Range { start, end } => BoundsNode::Range(RangeNode {
            start: start.map(interval),
            end: Some(interval(end)),
        }),
        FrameBounds::Rows { start, end } => BoundsNode::Rows(RowsNode { start, end }),
    };
    FrameNode {
        bounds: Some(bounds),
        events_max: frame.events_max,
    }
}

fn interval(interval: Interval) -> IntervalNode {
    IntervalNode {
        months: interval.months,
        days: interval.days,
        micros: interval.micros,
    }
}
