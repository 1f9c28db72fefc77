//! Windows where memory is short: events wait on disk, the spine is worked off
//! in parts, and buckets that do not fit are halved.

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use granary_engine::asof::Frame;
use granary_model::Interval;
use proptest::prelude::*;

use super::cases::{
    Aggregate, Argument, Asked, Condition, Definition, Row, Set, check, definition, events_table,
    plan, spine_table,
};
use super::reference::Reference;
use crate::asof::{Layout, metric, run};

const LAYOUT: Layout = Layout {
    partitions: 3,
    batch_rows: 100,
};

/// So many events of keys 0, 1, .., half of them of key 0, in no order.
fn events(count: i64) -> Vec<Row> {
    let event = |n: i64| {
        let scattered = n * 7_919 % count;
        Row {
            key: Some(if n % 2 == 0 { 0 } else { scattered % 97 }),
            at: Some(scattered / 3),
            created: (n % 5 == 0).then_some(scattered / 3 + n % 50),
            x: Some((n % 1_000) as f64 / 8.0 - 40.0),
            n: (n % 7 != 0).then_some(n % 11),
            note: (n % 3 != 0).then(|| format!("a note of more than a few bytes, {}", n % 40)),
        }
    };
    (0..count).map(event).collect()
}

fn spine(count: i64, events: i64) -> Vec<Asked> {
    let ask = |n: i64| Asked {
        key: Some(if n % 3 == 0 { 0 } else { n * 31 % 101 }),
        at: Some(n * 7_907 % (events / 3)),
    };
    (0..count).map(ask).collect()
}

fn aggregate(name: &'static str, argument: Argument, frame: Frame) -> Aggregate {
    Aggregate {
        name,
        argument,
        distinct: false,
        ignore_nulls: false,
        filter: None,
        frame,
    }
}

fn micros(back: i64) -> Frame {
    Frame::range(Some(Interval::from_micros(back)), Interval::ZERO)
}

fn several() -> Definition {
    let distinct = |aggregate| Aggregate {
        distinct: true,
        ..aggregate
    };
    let filtered = |aggregate| Aggregate {
        filter: Some(Condition::Small),
        ..aggregate
    };
    Definition {
        keys: vec!["k", "letter"],
        strictly_before: false,
        known_at_the_time: true,
        then_by: vec![],
        sets: vec![
            Set {
                filter: None,
                aggregates: vec![
                    aggregate("sum", Argument::X, micros(30)),
                    aggregate("sum", Argument::Decimal, micros(60)),
                    distinct(aggregate("count", Argument::Note, micros(50))),
                    filtered(aggregate("max", Argument::Note, micros(30))),
                    aggregate("last_value", Argument::Note, micros(30)),
                    aggregate("sum", Argument::Age, micros(20)),
                ],
            },
            Set {
                filter: Some(Condition::Positive),
                aggregates: vec![aggregate("count", Argument::N, micros(60))],
            },
        ],
    }
}

/// The reference over a sample of the rows: it takes time for each.
fn check_sample(
    output: &RecordBatch,
    spine: &RecordBatch,
    definition: &Definition,
    events: &RecordBatch,
) {
    let spec = definition.compile(&spine.schema(), &events.schema());
    assert_eq!(
        output["row"].as_primitive::<Int64Type>(),
        spine["row"].as_primitive::<Int64Type>()
    );
    let sample =
        UInt32Array::from_iter_values((0..spine.num_rows() as u32).step_by(spine.num_rows() / 40));
    let output = take_record_batch(output, &sample).unwrap();
    let spine = take_record_batch(spine, &sample).unwrap();
    check(&output, &spine, &spec, &Reference::new(&spec, events));
}

#[test]
fn events_of_ten_times_the_memory_wait_on_disk() {
    let count = 40_000;
    let (spine, events) = (
        spine_table(&spine(2_000, count)),
        events_table(&events(count)),
    );
    let memory = events.get_array_memory_size() / 10;
    let definition = several();
    let spec = definition.compile(&spine.schema(), &events.schema());
    let plan = plan(&spine, &events, &spec, LAYOUT);
    let output = run(plan.clone(), Some(memory)).unwrap();
    let metrics = plan.metrics().unwrap();
    eprintln!("{memory} {metrics}");
    assert!(metrics.spill_count().unwrap() > 2);
    assert!(metrics.spilled_bytes().unwrap() > 2 * memory);
    check_sample(&output, &spine, &definition, &events);
}

#[test]
fn a_spine_larger_than_its_share_is_worked_off_in_parts() {
    let count = 3_000;
    let (spine, events) = (
        spine_table(&spine(30_000, count)),
        events_table(&events(count)),
    );
    let definition = several();
    let spec = definition.compile(&spine.schema(), &events.schema());
    let plan = plan(&spine, &events, &spec, LAYOUT);
    let output = run(plan.clone(), Some(16 << 20)).unwrap();
    assert!(metric(&plan, "spine_parts") > 1);
    check_sample(&output, &spine, &definition, &events);
}

#[test]
fn a_key_larger_than_memory_needs_frames_with_a_start() {
    let count = 24_000;
    let (spine, events) = (
        spine_table(&spine(500, count)),
        events_table(&events(count)),
    );
    let memory = events.get_array_memory_size() / 10;
    let mut definition = several();
    let spec = definition.compile(&spine.schema(), &events.schema());
    let output = run(plan(&spine, &events, &spec, LAYOUT), Some(memory)).unwrap();
    check_sample(&output, &spine, &definition, &events);

    definition.sets[1].aggregates[0].frame = Frame::UNBOUNDED;
    let spec = definition.compile(&spine.schema(), &events.schema());
    let refused = run(plan(&spine, &events, &spec, LAYOUT), Some(memory)).unwrap_err();
    assert!(refused.to_string().contains("AsOfWindowExec"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 20, ..ProptestConfig::default() })]

    #[test]
    fn any_definition_may_spill(definition in definition()) {
        let count = 6_000;
        let (spine, events) = (spine_table(&spine(300, count)), events_table(&events(count)));
        let spec = definition.compile(&spine.schema(), &events.schema());
        let plan = plan(&spine, &events, &spec, LAYOUT);
        let output = run(plan.clone(), Some(4 << 20)).unwrap();
        check_sample(&output, &spine, &definition, &events);
        // With less some definitions fit and some do not: right, or refused.
        match run(plan, Some(2 << 20)) {
            Ok(output) => check_sample(&output, &spine, &definition, &events),
            Err(refused) => assert!(refused.to_string().contains("AsOfWindowExec"), "{refused}"),
        }
    }
}

#[test]
fn spilled_columns_keep_their_types() {
    let count = 20_000;
    let (spine, events) = (
        spine_table(&spine(400, count)),
        events_table(&events(count)),
    );
    // Text as Parquet gives it, and as partitions of files do.
    for text in [
        DataType::Utf8View,
        DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
    ] {
        let note = cast(&events["note"], &text).unwrap();
        let schema = events.schema();
        let columns = schema.fields().iter().zip(events.columns());
        let columns = columns.map(|(field, column)| {
            let column = if field.name() == "note" {
                &note
            } else {
                column
            };
            (field.name().as_str(), column.clone())
        });
        let events = crate::asof::batch(columns.collect());
        let definition = several();
        let spec = definition.compile(&spine.schema(), &events.schema());
        let plan = plan(&spine, &events, &spec, LAYOUT);
        let output = run(plan.clone(), Some(1 << 20)).unwrap();
        assert!(plan.metrics().unwrap().spill_count().unwrap() > 0);
        check_sample(&output, &spine, &definition, &events);
    }
}
