//! Operators sent as bytes do the same as those that were not.

use std::sync::Arc;

use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;
use datafusion_proto::physical_plan::AsExecutionPlan;
use datafusion_proto::protobuf::PhysicalPlanNode;
use granary_engine::asof::{AsOfCodec, Match, Run};
use granary_model::UtcMicros;
use proptest::prelude::*;

use super::window::cases;
use super::{Layout, WHOLE, join, run};

const LAYOUT: Layout = Layout {
    partitions: 2,
    batch_rows: 4,
};

fn sent(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let node = PhysicalPlanNode::try_from_physical_plan(plan.clone(), &AsOfCodec).unwrap();
    let mut bytes = Vec::new();
    node.try_encode(&mut bytes).unwrap();
    let node = PhysicalPlanNode::try_decode(&bytes).unwrap();
    let context = SessionContext::new().task_ctx();
    node.try_into_physical_plan(&context, &AsOfCodec).unwrap()
}

fn check(plan: Arc<dyn ExecutionPlan>) {
    let sent = sent(&plan);
    let explained =
        |plan: &Arc<dyn ExecutionPlan>| displayable(plan.as_ref()).indent(true).to_string();
    assert_eq!(explained(&sent), explained(&plan));
    assert_eq!(sent.schema(), plan.schema());
    // Bit for bit: NaN is not equal to itself.
    let (found, expected) = (run(sent, None).unwrap(), run(plan, None).unwrap());
    assert_eq!(format!("{found:?}"), format!("{expected:?}"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_survive(
        events in prop::collection::vec(cases::row(), 0..30),
        spine in prop::collection::vec(cases::asked(), 0..8),
        definition in cases::definition(),
    ) {
        let (spine, events) = (cases::spine_table(&spine), cases::events_table(&events));
        let spec = definition.compile(&spine.schema(), &events.schema());
        check(cases::plan(&spine, &events, &spec, LAYOUT));
    }

    #[test]
    fn joins_survive(
        events in prop::collection::vec(join::event(), 0..30),
        spine in prop::collection::vec(join::asked(), 0..8),
        rules in join::rules(),
        runs in prop::option::of(prop::collection::btree_map(0..12i64, 0..16i64, 0..4)),
    ) {
        let run = |(as_of, committed)| Run {
            as_of: UtcMicros(as_of),
            committed: UtcMicros(committed),
        };
        let matching = runs.map_or(Match::Latest, |runs| Match::Runs(runs.into_iter().map(run).collect()));
        let (spine, events) = (join::spine_table(&spine), join::events_table(&events));
        check(join::plan(&spine, &events, &["k", "letter"], rules, matching, (WHOLE, LAYOUT)));
    }
}

#[test]
fn other_plans_and_other_bytes_are_refused() {
    use datafusion_proto::physical_plan::{DefaultPhysicalProtoConverter, PhysicalExtensionCodec};

    let scan = super::scan(&cases::spine_table(&[]), WHOLE);
    let converter = DefaultPhysicalProtoConverter {};
    let error = AsOfCodec.try_encode(scan.clone(), &mut Vec::new(), &converter);
    assert!(error.unwrap_err().to_string().contains("no as-of operator"));
    let context = SessionContext::new().task_ctx();
    let decode = |bytes: &[u8], inputs: &[Arc<dyn ExecutionPlan>]| {
        let decoded = AsOfCodec.try_decode(bytes, inputs, &context, &converter);
        decoded.unwrap_err().to_string()
    };
    let both = [scan.clone(), scan];
    assert!(decode(b"", &both).contains("no kind"));
    assert!(decode(b"", &both[..1]).contains("two inputs"));
    assert!(decode(b"no message", &both).contains("an as-of operator"));
}
