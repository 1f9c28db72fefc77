//! The as-of operators as bytes, so that plans can be sent.
//!
//! Expressions are DataFusion's own messages. Functions go by name: whoever
//! decodes has them registered.

mod decode;
mod encode;
mod messages;

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use prost::Message;

use super::join::AsOfJoinExec;
use super::window::AsOfWindowExec;
use decode::Decoder;
use encode::Encoder;
use messages::{AsOfNode, Operator};

/// Encodes [`AsOfJoinExec`] and [`AsOfWindowExec`], and nothing else: to be
/// composed with the codecs of other operators.
#[derive(Debug, Clone, Copy, Default)]
pub struct AsOfCodec;

impl PhysicalExtensionCodec for AsOfCodec {
    fn try_decode(
        &self,
        buf: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        ctx: &TaskContext,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let node = AsOfNode::decode(buf)
            .map_err(|error| DataFusionError::Internal(format!("an as-of operator: {error}")))?;
        let [spine, events] = inputs else {
            return Err(DataFusionError::Internal(format!(
                "an as-of operator has two inputs, not {}",
                inputs.len()
            )));
        };
        let decoder = Decoder::new(self, ctx, proto_converter, spine.schema(), events.schema());
        Ok(match node.operator {
            Some(Operator::Join(node)) => {
                let spec = Arc::new(decoder.join(*node)?);
                Arc::new(AsOfJoinExec::try_new(spine.clone(), events.clone(), spec)?)
            }
            Some(Operator::Window(node)) => {
                let spec = Arc::new(decoder.window(*node)?);
                Arc::new(AsOfWindowExec::try_new(
                    spine.clone(),
                    events.clone(),
                    spec,
                )?)
            }
            None => {
                return Err(DataFusionError::Internal(
                    "an as-of operator of no kind".into(),
                ));
            }
        })
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        buf: &mut Vec<u8>,
        proto_converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let encoder = Encoder {
            codec: self,
            converter: proto_converter,
        };
        let operator = if let Some(join) = node.downcast_ref::<AsOfJoinExec>() {
            Operator::Join(Box::new(encoder.join(join.spec())?))
        } else if let Some(window) = node.downcast_ref::<AsOfWindowExec>() {
            Operator::Window(Box::new(encoder.window(window.spec())?))
        } else {
            return Err(DataFusionError::NotImplemented(format!(
                "{} is no as-of operator",
                node.name()
            )));
        };
        let operator = Some(operator);
        AsOfNode { operator }
            .encode(buf)
            .map_err(|error| DataFusionError::Internal(format!("an as-of operator: {error}")))
    }
}
