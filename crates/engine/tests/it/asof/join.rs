//! The latest event, and the row of a run.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{Float64Type, Int8Type, Int64Type, TimestampMicrosecondType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::is_not_null;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use granary_engine::asof::{AsOfJoinExec, AsOfJoinSpec, AsOfLookup, Match, Run, Value};
use granary_model::{FeatureStatus, Interval, UtcMicros};
use proptest::prelude::*;

use super::reference::{Asked, Event, Rules, compare_floats, latest, of_run};
use super::{Layout, WHOLE, batch, column, metric, run, scan};

const DAY: i64 = 86_400_000_000;

fn times(times: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(
        times
            .collect::<TimestampMicrosecondArray>()
            .with_timezone("UTC"),
    )
}

pub fn events_table(events: &[Event]) -> RecordBatch {
    let notes = events.iter().map(|e| e.note.as_deref());
    let letters = events.iter().map(|e| e.key.map(letter));
    batch(vec![
        (
            "k",
            Arc::new(events.iter().map(|e| e.key).collect::<Int64Array>()),
        ),
        ("letter", Arc::new(letters.collect::<StringArray>())),
        ("at", times(events.iter().map(|e| e.at))),
        ("created", times(events.iter().map(|e| e.created))),
        (
            "x",
            Arc::new(events.iter().map(|e| e.x).collect::<Float64Array>()),
        ),
        ("note", Arc::new(notes.collect::<StringArray>())),
    ])
}

pub fn spine_table(spine: &[Asked]) -> RecordBatch {
    let letters = spine.iter().map(|s| s.key.map(letter));
    batch(vec![
        (
            "row",
            Arc::new(Int64Array::from_iter_values(0..spine.len() as i64)),
        ),
        (
            "k",
            Arc::new(spine.iter().map(|s| s.key).collect::<Int64Array>()),
        ),
        ("letter", Arc::new(letters.collect::<StringArray>())),
        ("t", times(spine.iter().map(|s| s.at))),
    ])
}

/// A second key column that says the same.
fn letter(key: i64) -> String {
    format!("key {key}")
}

/// The names of the columns of the second lookup begin with this: it sees
/// events with a note only.
const NOTED: &str = "noted ";

pub fn plan(
    spine: &RecordBatch,
    events: &RecordBatch,
    keys: &[&str],
    rules: Rules,
    matching: Match,
    layouts: (Layout, Layout),
) -> Arc<dyn ExecutionPlan> {
    let (left, right) = (spine.schema(), events.schema());
    let lookup = |prefix: &str, filter: Option<Arc<dyn PhysicalExpr>>| AsOfLookup {
        filter,
        event_time: column("at", &right),
        created_time: Some(column("created", &right)),
        // Then as if known at the time, where the two agree on t itself.
        seen_from: (!prefix.is_empty() && !rules.strictly_before)
            .then(|| column("created", &right)),
        values: ["x", "note"]
            .map(|name| Value {
                expression: column(name, &right),
                name: Some(format!("{prefix}{name}")),
            })
            .to_vec(),
        ttl: rules.ttl,
        event_time_name: format!("{prefix}event_time"),
        status_name: format!("{prefix}status"),
    };
    let noted = is_not_null(column("note", &right)).unwrap();
    let spec = AsOfJoinSpec {
        on: keys
            .iter()
            .map(|key| (column(key, &left), column(key, &right)))
            .collect(),
        time: column("t", &left),
        refreshed_every: None,
        strictly_before: rules.strictly_before,
        known_at_the_time: rules.known_at_the_time,
        matching,
        lookups: vec![lookup("", None), lookup(NOTED, Some(noted))],
    };
    let (spine, events) = (scan(spine, layouts.0), scan(events, layouts.1));
    Arc::new(AsOfJoinExec::try_new(spine, events, Arc::new(spec)).unwrap())
}

/// Every row of the spine, in order, with what the reference says.
fn check<'a>(
    output: &RecordBatch,
    prefix: &str,
    spine: &[Asked],
    expected: impl Fn(&Asked) -> (Option<&'a Event>, FeatureStatus),
) {
    assert_eq!(output.num_rows(), spine.len());
    let rows = output["row"].as_primitive::<Int64Type>();
    let found = |name: &str| &output[format!("{prefix}{name}").as_str()];
    let x = found("x").as_primitive::<Float64Type>();
    let notes = found("note").as_string::<i32>();
    let event_times = found("event_time").as_primitive::<TimestampMicrosecondType>();
    let statuses = found("status").as_primitive::<Int8Type>();
    for (row, asked) in spine.iter().enumerate() {
        assert_eq!(rows.value(row), row as i64, "the order of the spine");
        let (event, status) = expected(asked);
        let says = format!("row {row}: {asked:?}: {event:?} {status:?}");
        assert_eq!(statuses.value(row), status as i8, "{says}");
        let at = (!event_times.is_null(row)).then(|| event_times.value(row));
        assert_eq!(at, event.and_then(|event| event.at), "{says}");
        let shown = event.filter(|_| status == FeatureStatus::Present);
        let found = (!x.is_null(row)).then(|| x.value(row));
        assert!(
            compare_floats(found, shown.and_then(|e| e.x)).is_eq(),
            "{says}: {found:?}"
        );
        let note = (!notes.is_null(row)).then(|| notes.value(row));
        assert_eq!(note, shown.and_then(|e| e.note.as_deref()), "{says}");
    }
}

pub fn event() -> impl Strategy<Value = Event> {
    let x = prop_oneof![
        Just(None),
        prop::sample::select(vec![
            f64::NAN,
            -f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.0,
            -0.0,
            1e17,
            1e-3
        ])
        .prop_map(Some),
    ];
    let note = prop::option::of(prop::sample::select(vec!["", "a", "b"]));
    // Few keys, times and values: ties everywhere.
    let times = (
        prop::option::weighted(0.9, 0..4i64),
        prop::option::weighted(0.9, 0..12i64),
        prop::option::weighted(0.7, 0..16i64),
    );
    (times, x, note).prop_map(|((key, at, created), x, note)| Event {
        key,
        at,
        created,
        x,
        note: note.map(str::to_owned),
    })
}

pub fn asked() -> impl Strategy<Value = Asked> {
    let key = prop::option::weighted(0.9, 0..5i64);
    let at = prop::option::weighted(0.9, -1..16i64);
    (key, at).prop_map(|(key, at)| Asked { key, at })
}

pub fn rules() -> impl Strategy<Value = Rules> {
    let ttl = prop::option::of((0..6i64).prop_map(Interval::from_micros));
    (ttl, any::<bool>(), any::<bool>()).prop_map(|(ttl, strictly_before, known_at_the_time)| {
        Rules {
            ttl,
            strictly_before,
            known_at_the_time,
        }
    })
}

fn layout() -> impl Strategy<Value = Layout> {
    (1..4usize, 1..9usize).prop_map(|(partitions, batch_rows)| Layout {
        partitions,
        batch_rows,
    })
}

fn noted(events: &[Event]) -> Vec<Event> {
    let noted = events.iter().filter(|event| event.note.is_some());
    noted.cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_latest_event_is_the_references(
        events in prop::collection::vec(event(), 0..60),
        spine in prop::collection::vec(asked(), 0..20),
        rules in rules(),
        layout in layout(),
        two_keys in any::<bool>(),
    ) {
        let keys: &[&str] = if two_keys { &["k", "letter"] } else { &["k"] };
        let one = Layout { partitions: 1, ..layout };
        let plan = plan(&spine_table(&spine), &events_table(&events), keys, rules, Match::Latest, (one, layout));
        let output = run(plan, None).unwrap();
        check(&output, "", &spine, |asked| latest(&events, asked, rules));
        let noted = noted(&events);
        let known_at_the_time = rules.known_at_the_time || !rules.strictly_before;
        let rules = Rules { known_at_the_time, ..rules };
        check(&output, NOTED, &spine, |asked| latest(&noted, asked, rules));
    }

    #[test]
    fn the_row_of_a_run_is_the_references(
        events in prop::collection::vec(event(), 0..60),
        spine in prop::collection::vec(asked(), 0..20),
        runs in prop::collection::btree_map(0..12i64, 0..16i64, 0..4),
        rules in rules(),
        layout in layout(),
    ) {
        let runs: Vec<(i64, i64)> = runs.into_iter().collect();
        let listed = runs.iter().map(|(as_of, committed)| Run {
            as_of: UtcMicros(*as_of),
            committed: UtcMicros(*committed),
        });
        let matching = Match::Runs(listed.collect());
        let plan = plan(&spine_table(&spine), &events_table(&events), &["k"], rules, matching, (WHOLE, layout));
        let output = run(plan, None).unwrap();
        check(&output, "", &spine, |asked| of_run(&events, &runs, asked, rules));
        let noted = noted(&events);
        check(&output, NOTED, &spine, |asked| of_run(&noted, &runs, asked, rules));
    }
}

const ANY: Rules = Rules {
    ttl: None,
    strictly_before: false,
    known_at_the_time: false,
};

/// An event a day for each of so many keys, in the order of time.
fn days(keys: i64, days: i64) -> Vec<Event> {
    let event = |n: i64| Event {
        key: Some(n % keys * 1_000_003),
        at: Some(n / keys * DAY),
        created: None,
        x: Some(n as f64),
        note: Some(format!("a note of more than a few bytes, about {n}")),
    };
    (0..keys * days).map(event).collect()
}

#[test]
fn a_spine_larger_than_its_share_is_worked_off_in_parts() {
    let events = days(500, 40);
    let ask = |row: i64| Asked {
        key: Some(row % 510 * 1_000_003),
        at: Some(row % 45 * DAY + 5),
    };
    let spine: Vec<Asked> = (0..20_000).map(ask).collect();
    let layout = Layout {
        partitions: 2,
        batch_rows: 512,
    };
    let one = Layout {
        partitions: 1,
        ..layout
    };
    let rules = Rules {
        ttl: Some(Interval {
            days: 3,
            ..Interval::ZERO
        }),
        ..ANY
    };
    let plan = plan(
        &spine_table(&spine),
        &events_table(&events),
        &["k"],
        rules,
        Match::Latest,
        (one, layout),
    );
    let output = run(plan.clone(), Some(8 << 20)).unwrap();
    assert!(metric(&plan, "spine_parts") > 1);
    let by_key = |key: i64| (key / 1_000_003) as usize;
    let mut of_key = vec![Vec::new(); 510];
    for event in events {
        of_key[by_key(event.key.unwrap())].push(event);
    }
    check(&output, "", &spine, |asked| {
        latest(&of_key[by_key(asked.key.unwrap())], asked, rules)
    });
}

#[test]
fn events_that_lost_are_dropped() {
    // 1,500,000 events win in turn, over 100 MB; the pool holds a fifth of that.
    let events = events_table(&days(1_000, 1_500));
    let spine: Vec<Asked> = (0..1_000)
        .map(|key| Asked {
            key: Some(key * 1_000_003),
            at: Some(1_499 * DAY),
        })
        .collect();
    let layout = Layout {
        partitions: 2,
        batch_rows: 8192,
    };
    let plan = plan(
        &spine_table(&spine),
        &events,
        &["k"],
        ANY,
        Match::Latest,
        (WHOLE, layout),
    );
    let output = run(plan, Some(40 << 20)).unwrap();
    let x = output["x"].as_primitive::<Float64Type>();
    let last = |key: usize| (1_499_000 + key) as f64;
    assert!((0..1_000).all(|key| x.value(key) == last(key)));
}

#[test]
fn months_of_a_ttl_are_calendar_arithmetic() {
    let at = |text: &str| Some(text.parse::<UtcMicros>().unwrap().0);
    let event = |key, day| Event {
        key: Some(key),
        at: at(day),
        created: None,
        x: Some(1.0),
        note: None,
    };
    let events = [event(1, "2026-02-28"), event(2, "2026-02-27")];
    let spine = [1, 2].map(|key| Asked {
        key: Some(key),
        at: at("2026-03-31"),
    });
    let rules = Rules {
        ttl: Some(Interval {
            months: 1,
            ..Interval::ZERO
        }),
        ..ANY
    };
    let plan = plan(
        &spine_table(&spine),
        &events_table(&events),
        &["k"],
        rules,
        Match::Latest,
        (WHOLE, WHOLE),
    );
    let output = run(plan, None).unwrap();
    let statuses = output["status"].as_primitive::<Int8Type>();
    let expected = [FeatureStatus::Present, FeatureStatus::OutsideMaxAge];
    assert_eq!(
        statuses.values().to_vec(),
        expected.map(|status| status as i8)
    );
}

#[test]
fn explain_says_what_is_joined() {
    let rules = Rules {
        ttl: Some(Interval {
            days: 30,
            ..Interval::ZERO
        }),
        strictly_before: true,
        known_at_the_time: true,
    };
    let (spine, events) = (spine_table(&[]), events_table(&[]));
    let plan = plan(
        &spine,
        &events,
        &["k"],
        rules,
        Match::Latest,
        (WHOLE, WHOLE),
    );
    insta::assert_snapshot!(displayable(plan.as_ref()).one_line(), @"AsOfJoinExec: keys=[k@1 = k@0], event_time < t@3, known_at_the_time, lookups=[{event_time=at@2, created=created@3, ttl=30 days, values=[x, note]}, {event_time=at@2, created=created@3, filter=note@5 IS NOT NULL, ttl=30 days, values=[noted x, noted note]}]");
}

#[test]
fn keys_of_different_types_are_refused() {
    let (spine, events) = (spine_table(&[]), events_table(&[]));
    let mut spec = AsOfJoinSpec {
        on: vec![(
            column("k", &spine.schema()),
            column("note", &events.schema()),
        )],
        time: column("t", &spine.schema()),
        refreshed_every: None,
        strictly_before: false,
        known_at_the_time: false,
        matching: Match::Latest,
        lookups: Vec::new(),
    };
    let refused = |spec: &AsOfJoinSpec| {
        let (spine, events) = (scan(&spine, WHOLE), scan(&events, WHOLE));
        let made = AsOfJoinExec::try_new(spine, events, Arc::new(spec.clone()));
        made.unwrap_err().to_string()
    };
    assert!(
        refused(&spec).contains("note@5 of the events is Utf8"),
        "{}",
        refused(&spec)
    );
    spec.on.clear();
    assert!(
        refused(&spec).contains("at least one key"),
        "{}",
        refused(&spec)
    );
}
