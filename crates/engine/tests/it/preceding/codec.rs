//! An operator sent as bytes does the same as one that was not.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::{ExecutionPlan, collect, displayable};
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::{
    AsExecutionPlan, DefaultPhysicalProtoConverter, PhysicalExtensionCodec,
};
use datafusion_proto::protobuf::PhysicalPlanNode;
use granary_engine::preceding::PrecedingWindowsCodec;

use super::ours;

/// A source that can be sent, unlike a table in memory.
const T: &str = "SELECT value % 3 AS k, value AS o, value % 5 AS x, to_timestamp_seconds(value) AS at \
                 FROM generate_series(1, 40)";

fn sent(context: &SessionContext, plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let codec = PrecedingWindowsCodec;
    let node = PhysicalPlanNode::try_from_physical_plan(plan.clone(), &codec).unwrap();
    let mut bytes = Vec::new();
    node.try_encode(&mut bytes).unwrap();
    let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
    node.try_into_physical_plan(&context.task_ctx(), &codec)
        .unwrap()
}

#[tokio::test]
async fn windows_survive() {
    let context = ours("").await;
    for select in [
        "sum(x) OVER (PARTITION BY k ORDER BY o ROWS BETWEEN 3 PRECEDING AND 1 PRECEDING)",
        "count(DISTINCT x) FILTER (WHERE o > 5) OVER (PARTITION BY k ORDER BY o), max(o) OVER (PARTITION BY k)",
        "array_agg(x) OVER (PARTITION BY k, x ORDER BY at DESC NULLS LAST RANGE BETWEEN INTERVAL '1 month 3 seconds' PRECEDING AND INTERVAL '2 seconds' PRECEDING)",
        "first_value(nullif(x, 0)) IGNORE NULLS OVER (ORDER BY o % 2, o ROWS UNBOUNDED PRECEDING), top_k(x, 2) OVER (ORDER BY o RANGE 4 PRECEDING)",
        "decayed_sum(x, INTERVAL '3 seconds') OVER (PARTITION BY k ORDER BY at)",
    ] {
        let sql = format!("SELECT *, {select} FROM ({T})");
        let frame = context.sql(&sql).await.unwrap();
        let plan = frame.create_physical_plan().await.unwrap();
        let sent = sent(&context, &plan);
        let explained =
            |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
        assert!(explained(&plan).contains("PrecedingWindowsExec"));
        assert_eq!(explained(&sent), explained(&plan));
        assert_eq!(sent.schema(), plan.schema());
        let found = collect(sent, context.task_ctx()).await.unwrap();
        let expected = collect(plan, context.task_ctx()).await.unwrap();
        let rows = |batches: &[arrow::array::RecordBatch]| {
            let shown = arrow::util::pretty::pretty_format_batches(batches).unwrap();
            let mut rows: Vec<String> = shown.to_string().lines().map(Into::into).collect();
            rows.sort();
            rows
        };
        assert_eq!(rows(&found), rows(&expected));
    }
}

#[tokio::test]
async fn other_plans_and_other_bytes_are_refused() {
    let context = ours("").await.task_ctx();
    let converter = DefaultPhysicalProtoConverter {};
    let other: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
    let codec = PrecedingWindowsCodec;
    let error = codec.try_encode(other.clone(), &mut Vec::new(), &converter);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("no PrecedingWindowsExec")
    );
    let decode = |bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]| {
        let decoded = codec.try_decode(bytes, inputs, &context, &converter);
        decoded.unwrap_err().to_string()
    };
    assert!(decode(b"", &[]).contains("0 inputs instead of one"));
    assert!(decode(b"no message", &[other]).contains("as bytes"));
}
