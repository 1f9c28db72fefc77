//! The operator as bytes, so that plans can be sent.
//!
//! Expressions, types and distances are DataFusion's own messages. Functions go
//! by name: whoever decodes has them registered. Messages carry plans between
//! processes of one version of the program and are kept nowhere.

use std::sync::Arc;

use arrow::datatypes::{Field, SchemaRef};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{FunctionRegistry, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::scalar::ScalarValue;
use datafusion_proto::physical_plan::from_proto::parse_physical_sort_exprs;
use datafusion_proto::physical_plan::to_proto::serialize_physical_sort_exprs;
use datafusion_proto::physical_plan::{
    PhysicalExtensionCodec, PhysicalPlanDecodeContext, PhysicalProtoConverterExtension,
};
use datafusion_proto::protobuf::{self, PhysicalExprNode, PhysicalSortExprNode};
use prost::{Message, Oneof};

use super::exec::{PrecedingWindowsExec, PrecedingWindowsSpec, Window};
use super::frame::{Edge, Frame};
use crate::asof::kernels::Call;

/// [`PrecedingWindowsSpec`].
#[derive(Clone, PartialEq, Message)]
struct SpecNode {
    #[prost(message, repeated, tag = "1")]
    partition_by: Vec<PhysicalExprNode>,
    #[prost(message, repeated, tag = "2")]
    order_by: Vec<PhysicalSortExprNode>,
    #[prost(message, repeated, tag = "3")]
    windows: Vec<WindowNode>,
}

#[derive(Clone, PartialEq, Message)]
struct WindowNode {
    #[prost(string, tag = "1")]
    function: String,
    #[prost(message, repeated, tag = "2")]
    arguments: Vec<PhysicalExprNode>,
    #[prost(bool, tag = "3")]
    distinct: bool,
    #[prost(bool, tag = "4")]
    ignore_nulls: bool,
    #[prost(message, optional, tag = "5")]
    filter: Option<PhysicalExprNode>,
    #[prost(message, optional, tag = "6")]
    field: Option<protobuf::Field>,
    #[prost(oneof = "FrameNode", tags = "7, 8, 9")]
    frame: Option<FrameNode>,
}

#[derive(Clone, PartialEq, Oneof)]
#[expect(clippy::large_enum_variant, reason = "a plan holds few of them")]
enum FrameNode {
    #[prost(message, tag = "7")]
    Rows(RowsNode),
    #[prost(message, tag = "8")]
    Range(RangeNode),
    #[prost(bool, tag = "9")]
    Partition(bool),
}

#[derive(Clone, PartialEq, Message)]
struct RowsNode {
    /// None: UNBOUNDED.
    #[prost(uint64, optional, tag = "1")]
    start: Option<u64>,
    #[prost(uint64, tag = "2")]
    end: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RangeNode {
    /// None: UNBOUNDED.
    #[prost(message, optional, tag = "1")]
    start: Option<EdgeNode>,
    #[prost(message, optional, tag = "2")]
    end: Option<EdgeNode>,
}

#[derive(Clone, PartialEq, Message)]
struct EdgeNode {
    /// None: CURRENT ROW.
    #[prost(message, optional, tag = "1")]
    distance: Option<protobuf::ScalarValue>,
}

/// Encodes [`PrecedingWindowsExec`], and nothing else: to be composed with the
/// codecs of other operators.
#[derive(Debug, Clone, Copy, Default)]
pub struct PrecedingWindowsCodec;

impl PhysicalExtensionCodec for PrecedingWindowsCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = SpecNode::decode(buf).map_err(|error| broken(&error.to_string()))?;
        let [input] = inputs else {
            return Err(broken(&format!("{} inputs instead of one", inputs.len())));
        };
        let decoder = Decoder {
            context: PhysicalPlanDecodeContext::new(ctx, self),
            converter: proto_converter,
            input: input.schema(),
        };
        let spec = Arc::new(decoder.spec(node)?);
        Ok(Arc::new(PrecedingWindowsExec::try_new(
            input.clone(),
            spec,
        )?))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(windows) = node.downcast_ref::<PrecedingWindowsExec>() else {
            return Err(DataFusionError::NotImplemented(format!(
                "{} is no PrecedingWindowsExec",
                node.name()
            )));
        };
        let encoder = Encoder {
            codec: self,
            converter: proto_converter,
        };
        let spec = encoder.spec(windows.spec())?;
        spec.encode(buf).map_err(|error| broken(&error.to_string()))
    }
}

fn broken(how: &str) -> DataFusionError {
    DataFusionError::Internal(format!("PrecedingWindowsExec as bytes: {how}"))
}

struct Encoder<'a> {
    codec: &'a PrecedingWindowsCodec,
    converter: &'a dyn PhysicalProtoConverterExtension,
}

impl Encoder<'_> {
    fn expression(&self, expression: &Arc<dyn PhysicalExpr>) -> Result<PhysicalExprNode> {
        let (codec, converter) = (self.codec, self.converter);
        converter.physical_expr_to_proto(expression, codec)
    }

    fn all(&self, expressions: &[Arc<dyn PhysicalExpr>]) -> Result<Vec<PhysicalExprNode>> {
        expressions.iter().map(|e| self.expression(e)).collect()
    }

    fn spec(&self, spec: &PrecedingWindowsSpec) -> Result<SpecNode> {
        let sorts = spec.order_by.iter().cloned();
        let windows = spec.windows.iter().map(|window| self.window(window));
        Ok(SpecNode {
            partition_by: self.all(&spec.partition_by)?,
            order_by: serialize_physical_sort_exprs(sorts, self.codec, self.converter)?,
            windows: windows.collect::<Result<_>>()?,
        })
    }

    fn window(&self, window: &Window) -> Result<WindowNode> {
        let call = &window.call;
        let filter = window.filter.as_ref().map(|f| self.expression(f));
        Ok(WindowNode {
            function: call.function.name().to_owned(),
            arguments: self.all(&call.arguments)?,
            distinct: call.distinct,
            ignore_nulls: call.ignore_nulls,
            filter: filter.transpose()?,
            field: Some(window.field.as_ref().try_into()?),
            frame: Some(frame_node(&window.frame)?),
        })
    }
}

fn frame_node(frame: &Frame) -> Result<FrameNode> {
    let edge = |edge: &Edge| -> Result<Option<EdgeNode>> {
        Ok(match edge {
            Edge::Unbounded => None,
            Edge::Peers => Some(EdgeNode { distance: None }),
            Edge::Distance(distance) => Some(EdgeNode {
                distance: Some(distance.try_into()?),
            }),
        })
    };
    Ok(match frame {
        Frame::Rows { start, end } => FrameNode::Rows(RowsNode {
            start: *start,
            end: *end,
        }),
        Frame::Range { start, end } => FrameNode::Range(RangeNode {
            start: edge(start)?,
            end: edge(end)?,
        }),
        Frame::Partition => FrameNode::Partition(true),
    })
}

struct Decoder<'a> {
    context: PhysicalPlanDecodeContext<'a>,
    converter: &'a dyn PhysicalProtoConverterExtension,
    input: SchemaRef,
}

impl Decoder<'_> {
    fn expression(&self, node: &PhysicalExprNode) -> Result<Arc<dyn PhysicalExpr>> {
        let (converter, context) = (self.converter, &self.context);
        converter.proto_to_physical_expr(node, &self.input, context)
    }

    fn all(&self, nodes: &[PhysicalExprNode]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        nodes.iter().map(|node| self.expression(node)).collect()
    }

    fn spec(&self, node: SpecNode) -> Result<PrecedingWindowsSpec> {
        let (context, converter) = (&self.context, self.converter);
        let sorts = parse_physical_sort_exprs(&node.order_by, context, &self.input, converter)?;
        let windows = node.windows.into_iter().map(|window| self.window(window));
        Ok(PrecedingWindowsSpec {
            partition_by: self.all(&node.partition_by)?,
            order_by: sorts,
            windows: windows.collect::<Result<_>>()?,
        })
    }

    fn window(&self, node: WindowNode) -> Result<Window> {
        let function = self.context.task_ctx().udaf(&node.function)?;
        let call = Call::try_new(function, self.all(&node.arguments)?, self.input.clone())?;
        let filter = node.filter.as_ref().map(|f| self.expression(f));
        let field = node
            .field
            .ok_or_else(|| broken("a window without a field"))?;
        let frame = node
            .frame
            .ok_or_else(|| broken("a window without a frame"))?;
        Ok(Window {
            call: call.distinct(node.distinct).ignore_nulls(node.ignore_nulls),
            filter: filter.transpose()?,
            frame: frame_of(frame)?,
            field: Arc::new(Field::try_from(&field)?),
        })
    }
}

fn frame_of(node: FrameNode) -> Result<Frame> {
    let edge = |node: Option<EdgeNode>| -> Result<Edge> {
        Ok(match node.map(|edge| edge.distance) {
            None => Edge::Unbounded,
            Some(None) => Edge::Peers,
            Some(Some(distance)) => Edge::Distance(ScalarValue::try_from(&distance)?),
        })
    };
    Ok(match node {
        FrameNode::Rows(RowsNode { start, end }) => Frame::Rows { start, end },
        FrameNode::Range(RangeNode { start, end }) => Frame::Range {
            start: edge(start)?,
            end: edge(end)?,
        },
        FrameNode::Partition(_) => Frame::Partition,
    })
}
