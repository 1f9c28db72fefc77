//! The messages of [`super::AsOfCodec`], in Protocol Buffers.
//!
//! They carry plans between processes of one version of the program and are
//! kept nowhere: a field may change with it.

use datafusion_proto::protobuf::PhysicalExprNode;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub(super) struct AsOfNode {
    #[prost(oneof = "Operator", tags = "1, 2")]
    pub(super) operator: Option<Operator>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Operator {
    #[prost(message, boxed, tag = "1")]
    Join(Box<JoinNode>),
    #[prost(message, boxed, tag = "2")]
    Window(Box<WindowNode>),
}

/// [`crate::asof::AsOfJoinSpec`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct JoinNode {
    #[prost(message, optional, tag = "1")]
    pub(super) inputs: Option<InputsNode>,
    #[prost(message, repeated, tag = "2")]
    pub(super) lookups: Vec<LookupNode>,
    /// None: the latest event.
    #[prost(message, optional, tag = "3")]
    pub(super) runs: Option<RunsNode>,
    #[prost(message, optional, tag = "4")]
    pub(super) refreshed_every: Option<IntervalNode>,
}

/// [`crate::asof::AsOfWindowSpec`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct WindowNode {
    #[prost(message, optional, tag = "1")]
    pub(super) inputs: Option<InputsNode>,
    #[prost(message, optional, tag = "2")]
    pub(super) times: Option<TimesNode>,
    #[prost(message, repeated, tag = "3")]
    pub(super) then_by: Vec<PhysicalExprNode>,
    #[prost(message, repeated, tag = "4")]
    pub(super) sets: Vec<SetNode>,
}

/// What both have.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InputsNode {
    /// As many as there are keys of the events.
    #[prost(message, repeated, tag = "1")]
    pub(super) spine_keys: Vec<PhysicalExprNode>,
    #[prost(message, repeated, tag = "2")]
    pub(super) event_keys: Vec<PhysicalExprNode>,
    #[prost(message, optional, tag = "3")]
    pub(super) time: Option<PhysicalExprNode>,
    #[prost(bool, tag = "4")]
    pub(super) strictly_before: bool,
    #[prost(bool, tag = "5")]
    pub(super) known_at_the_time: bool,
}

/// Times of events.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TimesNode {
    #[prost(message, optional, tag = "1")]
    pub(super) event_time: Option<PhysicalExprNode>,
    #[prost(message, optional, tag = "2")]
    pub(super) created_time: Option<PhysicalExprNode>,
}

/// [`crate::asof::AsOfLookup`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct LookupNode {
    #[prost(message, optional, tag = "1")]
    pub(super) times: Option<TimesNode>,
    #[prost(message, optional, tag = "2")]
    pub(super) filter: Option<PhysicalExprNode>,
    #[prost(message, repeated, tag = "3")]
    pub(super) values: Vec<ValueNode>,
    #[prost(message, optional, tag = "4")]
    pub(super) ttl: Option<IntervalNode>,
    #[prost(string, tag = "5")]
    pub(super) event_time_name: String,
    #[prost(string, tag = "6")]
    pub(super) status_name: String,
    #[prost(message, optional, tag = "7")]
    pub(super) seen_from: Option<PhysicalExprNode>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ValueNode {
    #[prost(message, optional, tag = "1")]
    pub(super) expression: Option<PhysicalExprNode>,
    #[prost(string, optional, tag = "2")]
    pub(super) name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RunsNode {
    #[prost(message, repeated, tag = "1")]
    pub(super) runs: Vec<RunNode>,
}

/// Times in UTC microseconds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RunNode {
    #[prost(int64, tag = "1")]
    pub(super) as_of: i64,
    #[prost(int64, tag = "2")]
    pub(super) committed: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct IntervalNode {
    #[prost(int32, tag = "1")]
    pub(super) months: i32,
    #[prost(int32, tag = "2")]
    pub(super) days: i32,
    #[prost(int64, tag = "3")]
    pub(super) micros: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SetNode {
    #[prost(message, optional, tag = "1")]
    pub(super) filter: Option<PhysicalExprNode>,
    #[prost(message, repeated, tag = "2")]
    pub(super) aggregates: Vec<AggregateNode>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AggregateNode {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) function: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) arguments: Vec<PhysicalExprNode>,
    #[prost(bool, tag = "4")]
    pub(super) distinct: bool,
    #[prost(bool, tag = "5")]
    pub(super) ignore_nulls: bool,
    #[prost(message, optional, tag = "6")]
    pub(super) filter: Option<PhysicalExprNode>,
    #[prost(message, optional, tag = "7")]
    pub(super) frame: Option<FrameNode>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FrameNode {
    #[prost(oneof = "BoundsNode", tags = "1, 2")]
    pub(super) bounds: Option<BoundsNode>,
    #[prost(uint64, optional, tag = "3")]
    pub(super) events_max: Option<u64>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum BoundsNode {
    #[prost(message, tag = "1")]
    Range(RangeNode),
    #[prost(message, tag = "2")]
    Rows(RowsNode),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeNode {
    /// None: UNBOUNDED.
    #[prost(message, optional, tag = "1")]
    pub(super) start: Option<IntervalNode>,
    #[prost(message, optional, tag = "2")]
    pub(super) end: Option<IntervalNode>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct RowsNode {
    /// None: UNBOUNDED.
    #[prost(uint64, optional, tag = "1")]
    pub(super) start: Option<u64>,
    #[prost(uint64, tag = "2")]
    pub(super) end: u64,
}
