//! Random specs over random tables.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::logical_expr::{AggregateUDF, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, IsNotNullExpr, Literal};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::scalar::ScalarValue;
use granary_engine::asof::kernels::Call;
use granary_engine::asof::{
    AS_OF_COLUMN, AsOfWindowExec, AsOfWindowSpec, EventSet, Frame, FrameBounds, WindowAggregate,
    event_schema,
};
use granary_model::Interval;
use proptest::prelude::*;

use super::reference::{Expected, Reference};
use crate::asof::{Layout, WHOLE, batch, column, run, scan};

type Expr = Arc<dyn PhysicalExpr>;

/// A row of the events' table.
#[derive(Debug, Clone)]
pub struct Row {
    pub key: Option<i64>,
    pub at: Option<i64>,
    pub created: Option<i64>,
    pub x: Option<f64>,
    pub n: Option<i64>,
    pub note: Option<String>,
}

/// A row of the spine.
#[derive(Debug, Clone)]
pub struct Asked {
    pub key: Option<i64>,
    pub at: Option<i64>,
}

fn times(times: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let times: TimestampMicrosecondArray = times.collect();
    Arc::new(times.with_timezone("UTC"))
}

fn letters(keys: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(
        keys.map(|key| Some(format!("key {}", key?)))
            .collect::<StringArray>(),
    )
}

fn decimals(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let values: Decimal128Array = values.map(|value| value.map(i128::from)).collect();
    Arc::new(values.with_precision_and_scale(12, 2).unwrap())
}

pub fn events_table(rows: &[Row]) -> RecordBatch {
    batch(vec![
        (
            "k",
            Arc::new(rows.iter().map(|r| r.key).collect::<Int64Array>()),
        ),
        ("letter", letters(rows.iter().map(|r| r.key))),
        ("decimal", decimals(rows.iter().map(|r| r.key))),
        ("at", times(rows.iter().map(|r| r.at))),
        (
            "x",
            Arc::new(rows.iter().map(|r| r.x).collect::<Float64Array>()),
        ),
        (
            "n",
            Arc::new(rows.iter().map(|r| r.n).collect::<Int64Array>()),
        ),
        ("d", decimals(rows.iter().map(|r| r.n))),
        (
            "note",
            Arc::new(
                rows.iter()
                    .map(|r| r.note.as_deref())
                    .collect::<StringArray>(),
            ),
        ),
        ("created", times(rows.iter().map(|r| r.created))),
    ])
}

pub fn spine_table(rows: &[Asked]) -> RecordBatch {
    let numbers = Int64Array::from_iter_values(0..rows.len() as i64);
    batch(vec![
        ("row", Arc::new(numbers)),
        (
            "k",
            Arc::new(rows.iter().map(|r| r.key).collect::<Int64Array>()),
        ),
        ("letter", letters(rows.iter().map(|r| r.key))),
        ("decimal", decimals(rows.iter().map(|r| r.key))),
        ("t", times(rows.iter().map(|r| r.at))),
    ])
}

/// What an aggregate is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    X,
    N,
    Decimal,
    Note,
    /// How old the event is as of t.
    Age,
    /// x, less for each microsecond that the event is old.
    Decayed,
}

#[derive(Debug, Clone, Copy)]
pub enum Condition {
    Positive,
    HasNote,
    /// Not older than a few microseconds as of t.
    Young,
    /// NULL where n is.
    Small,
}

#[derive(Debug, Clone)]
pub struct Aggregate {
    pub name: &'static str,
    pub argument: Argument,
    pub distinct: bool,
    pub ignore_nulls: bool,
    pub filter: Option<Condition>,
    pub frame: Frame,
}

#[derive(Debug, Clone)]
pub struct Set {
    pub filter: Option<Condition>,
    pub aggregates: Vec<Aggregate>,
}

#[derive(Debug, Clone)]
pub struct Definition {
    pub keys: Vec<&'static str>,
    pub strictly_before: bool,
    pub known_at_the_time: bool,
    pub then_by: Vec<&'static str>,
    pub sets: Vec<Set>,
}

fn lit(value: ScalarValue) -> Expr {
    Arc::new(Literal::new(value))
}

fn number(value: i64) -> Expr {
    lit(ScalarValue::Int64(Some(value)))
}

fn binary(left: Expr, operator: Operator, right: Expr) -> Expr {
    Arc::new(BinaryExpr::new(left, operator, right))
}

fn cast(expression: Expr, to: DataType) -> Expr {
    Arc::new(CastExpr::new(expression, to, None))
}

impl Argument {
    fn expression(self, schema: &SchemaRef) -> Expr {
        let age = || {
            let time = |name| cast(column(name, schema), DataType::Int64);
            binary(time(AS_OF_COLUMN), Operator::Minus, time("at"))
        };
        match self {
            Self::X => column("x", schema),
            Self::N => column("n", schema),
            Self::Decimal => column("d", schema),
            Self::Note => column("note", schema),
            Self::Age => age(),
            Self::Decayed => {
                let loss = binary(
                    cast(age(), DataType::Float64),
                    Operator::Multiply,
                    lit(ScalarValue::from(0.01)),
                );
                let left = binary(lit(ScalarValue::from(1.0)), Operator::Minus, loss);
                binary(column("x", schema), Operator::Multiply, left)
            }
        }
    }

    fn is_text(self) -> bool {
        self == Self::Note
    }
}

impl Condition {
    fn expression(self, schema: &SchemaRef) -> Expr {
        match self {
            Self::Positive => binary(
                column("x", schema),
                Operator::Gt,
                lit(ScalarValue::from(0.0)),
            ),
            Self::HasNote => Arc::new(IsNotNullExpr::new(column("note", schema))),
            Self::Young => binary(Argument::Age.expression(schema), Operator::Lt, number(4)),
            Self::Small => binary(column("n", schema), Operator::Lt, number(3)),
        }
    }
}

pub fn function(name: &str) -> Arc<AggregateUDF> {
    let all = all_default_aggregate_functions();
    all.into_iter().find(|f| f.name() == name).unwrap()
}

impl Aggregate {
    pub fn compile(&self, name: String, schema: &SchemaRef) -> WindowAggregate {
        let argument = self.argument.expression(schema);
        // As the analyzer coerces: avg and the like are over DOUBLE or DECIMAL.
        let argument = match (self.name, argument.data_type(schema).unwrap()) {
            ("avg" | "var_pop", DataType::Int64) => cast(argument, DataType::Float64),
            ("var_pop", _) => cast(argument, DataType::Float64),
            _ => argument,
        };
        let mut arguments = vec![argument];
        match self.name {
            "nth_value" => arguments.push(number(2)),
            "string_agg" => arguments.push(lit(ScalarValue::from(","))),
            _ => {}
        }
        let call = Call::try_new(function(self.name), arguments, schema.clone()).unwrap();
        WindowAggregate {
            call: call.distinct(self.distinct).ignore_nulls(self.ignore_nulls),
            filter: self.filter.map(|filter| filter.expression(schema)),
            frame: self.frame,
            name,
        }
    }
}

impl Definition {
    pub fn compile(&self, spine: &SchemaRef, events: &SchemaRef) -> AsOfWindowSpec {
        let schema = event_schema(events);
        let mut number = 0;
        let mut sets = Vec::new();
        for set in &self.sets {
            let compile = |aggregate: &Aggregate| {
                number += 1;
                aggregate.compile(format!("a{number}"), &schema)
            };
            sets.push(EventSet {
                filter: set.filter.map(|filter| filter.expression(&schema)),
                aggregates: set.aggregates.iter().map(compile).collect(),
            });
        }
        let keys = self.keys.iter();
        AsOfWindowSpec {
            on: keys
                .map(|key| (column(key, spine), column(key, events)))
                .collect(),
            time: column("t", spine),
            event_time: column("at", events),
            created_time: Some(column("created", events)),
            then_by: self
                .then_by
                .iter()
                .map(|name| column(name, events))
                .collect(),
            strictly_before: self.strictly_before,
            known_at_the_time: self.known_at_the_time,
            sets,
        }
    }
}

/// Every row of the spine in order, with the values of the reference.
pub fn check(
    output: &RecordBatch,
    spine: &RecordBatch,
    spec: &AsOfWindowSpec,
    reference: &Reference<'_>,
) {
    assert_eq!(output.num_rows(), spine.num_rows());
    let own = spine.num_columns();
    for column in 0..own {
        assert_eq!(
            output.column(column),
            spine.column(column),
            "the spine's own"
        );
    }
    let aggregates: Vec<&WindowAggregate> = spec.sets.iter().flat_map(|s| &s.aggregates).collect();
    for row in 0..spine.num_rows() {
        let asked = spine.slice(row, 1);
        for (at, expected) in reference.of(&asked).into_iter().enumerate() {
            let found = ScalarValue::try_from_array(output.column(own + at), row).unwrap();
            let says = || {
                let asked: Vec<String> = (0..own)
                    .map(|c| {
                        ScalarValue::try_from_array(asked.column(c), 0)
                            .unwrap()
                            .to_string()
                    })
                    .collect();
                format!(
                    "row {asked:?}: {}: {found} instead of {}",
                    aggregates[at], expected.value
                )
            };
            assert!(
                agrees(&found, &expected, aggregates[at].call.function.name()),
                "{}",
                says()
            );
        }
    }
}

/// Bit for bit, but for floats: within 1e-9 of what went in.
fn agrees(found: &ScalarValue, expected: &Expected, name: &str) -> bool {
    match (found, &expected.value) {
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) if b.is_finite() => {
            let size = expected.arguments.iter().map(|argument| match argument {
                ScalarValue::Float64(Some(x)) if x.is_finite() => x.abs(),
                _ => 0.0,
            });
            let size: f64 = match name {
                "var_pop" => size.map(|x| x * x).sum(),
                "sum" | "avg" => size.sum(),
                _ => 0.0,
            };
            (a - b).abs() <= size * 1e-9
        }
        (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) if b.is_nan() => a.is_nan(),
        (found, expected) => found == expected,
    }
}

fn argument() -> impl Strategy<Value = Argument> {
    use Argument::{Age, Decayed, Decimal, N, Note, X};
    prop::sample::select(vec![X, X, N, Decimal, Note, Age, Decayed])
}

fn condition() -> impl Strategy<Value = Condition> {
    use Condition::{HasNote, Positive, Small, Young};
    prop::sample::select(vec![Positive, HasNote, Young, Small])
}

fn interval() -> impl Strategy<Value = Interval> {
    let month = Interval {
        months: 1,
        ..Interval::ZERO
    };
    prop_oneof![
        8 => (0..8i64).prop_map(Interval::from_micros),
        1 => Just(month),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let range = (
        prop::option::weighted(0.8, interval()),
        prop_oneof![3 => Just(Interval::ZERO), 1 => interval()],
    )
        .prop_map(|(start, end)| FrameBounds::Range { start, end });
    let rows = (
        prop::option::weighted(0.8, 0..5u64),
        prop_oneof![3 => Just(0), 1 => 0..4u64],
    )
        .prop_map(|(start, end)| FrameBounds::Rows { start, end });
    let events_max = prop::option::weighted(0.2, 1..4u64);
    (prop_oneof![2 => range, 1 => rows], events_max)
        .prop_map(|(bounds, events_max)| Frame { bounds, events_max })
}

const NAMES: [&str; 13] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "var_pop",
    "median",
    "string_agg",
    "approx_distinct",
];

fn aggregate() -> impl Strategy<Value = Aggregate> {
    let flags = (any::<bool>(), any::<bool>());
    let filter = prop::option::weighted(0.3, condition());
    (
        prop::sample::select(NAMES.to_vec()),
        argument(),
        flags,
        filter,
        frame(),
    )
        .prop_map(
            |(name, argument, (distinct, ignore_nulls), filter, frame)| {
                let positional = matches!(name, "first_value" | "nth_value" | "array_agg");
                let argument = match name {
                    "sum" | "avg" | "var_pop" | "median" if argument.is_text() => Argument::X,
                    "string_agg" => Argument::Note,
                    // DataFusion has it not for DOUBLE and DECIMAL.
                    "approx_distinct" => Argument::N,
                    _ => argument,
                };
                Aggregate {
                    name,
                    argument,
                    // Of the last value DISTINCT takes nothing away.
                    distinct: distinct && name != "last_value",
                    ignore_nulls: ignore_nulls && positional,
                    filter,
                    frame,
                }
            },
        )
}

pub fn definition() -> impl Strategy<Value = Definition> {
    let keys = prop::sample::select(vec![
        vec!["k"],
        vec!["letter"],
        vec!["decimal"],
        vec!["k", "letter"],
    ]);
    let then_by = prop::sample::select(vec![vec![], vec!["note"], vec!["x", "n"]]);
    let filter = prop::option::weighted(0.5, condition());
    let set = (filter, prop::collection::vec(aggregate(), 1..5))
        .prop_map(|(filter, aggregates)| Set { filter, aggregates });
    let sets = prop::collection::vec(set, 1..4);
    (keys, any::<bool>(), any::<bool>(), then_by, sets).prop_map(
        |(keys, strictly_before, known_at_the_time, then_by, sets)| Definition {
            keys,
            strictly_before,
            known_at_the_time,
            then_by,
            sets,
        },
    )
}

pub fn row() -> impl Strategy<Value = Row> {
    let odd = vec![
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -0.0,
        1e17,
        -1e17,
        1e-3,
    ];
    let x = prop_oneof![
        1 => Just(None),
        1 => prop::sample::select(odd).prop_map(Some),
        3 => (-40..40i32).prop_map(|x| Some(f64::from(x) / 8.0)),
    ];
    let note = prop::option::of(prop::sample::select(vec![
        "",
        "a",
        "b",
        "longer than a view holds",
    ]));
    // Few keys and times: ties everywhere; half of the events are of one key.
    let key = prop_oneof![1 => Just(None), 5 => Just(Some(0)), 4 => (1..4i64).prop_map(Some)];
    let times = (
        prop::option::weighted(0.95, 0..12i64),
        prop::option::weighted(0.7, 0..16i64),
    );
    (key, times, x, prop::option::weighted(0.8, -4..6i64), note).prop_map(
        |(key, (at, created), x, n, note)| Row {
            key,
            at,
            created,
            x,
            n,
            note: note.map(str::to_owned),
        },
    )
}

pub fn asked() -> impl Strategy<Value = Asked> {
    let key = prop::option::weighted(0.9, 0..5i64);
    let at = prop::option::weighted(0.9, -1..16i64);
    (key, at).prop_map(|(key, at)| Asked { key, at })
}

fn layout() -> impl Strategy<Value = Layout> {
    (1..4usize, 1..9usize).prop_map(|(partitions, batch_rows)| Layout {
        partitions,
        batch_rows,
    })
}

pub fn plan(
    spine: &RecordBatch,
    events: &RecordBatch,
    spec: &AsOfWindowSpec,
    layout: Layout,
) -> Arc<dyn ExecutionPlan> {
    let one = Layout {
        partitions: 1,
        ..layout
    };
    let (spine, events) = (scan(spine, one), scan(events, layout));
    Arc::new(AsOfWindowExec::try_new(spine, events, Arc::new(spec.clone())).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_the_references(
        events in prop::collection::vec(row(), 0..50),
        spine in prop::collection::vec(asked(), 0..16),
        definition in definition(),
        layout in layout(),
    ) {
        let (spine, events) = (spine_table(&spine), events_table(&events));
        let spec = definition.compile(&spine.schema(), &events.schema());
        let output = run(plan(&spine, &events, &spec, layout), None).unwrap();
        check(&output, &spine, &spec, &Reference::new(&spec, &events));
    }
}

#[test]
fn explain_says_what_is_aggregated() {
    let frame = Frame::range(
        Some(Interval {
            days: 7,
            ..Interval::ZERO
        }),
        Interval::ZERO,
    );
    let aggregate = |name, frame, filter| Aggregate {
        name,
        argument: Argument::X,
        distinct: name == "count",
        ignore_nulls: false,
        filter,
        frame,
    };
    let definition = Definition {
        keys: vec!["k"],
        strictly_before: true,
        known_at_the_time: true,
        then_by: vec!["note"],
        sets: vec![
            Set {
                filter: Some(Condition::Positive),
                aggregates: vec![
                    aggregate("count", frame, None),
                    aggregate("sum", frame, Some(Condition::HasNote)),
                ],
            },
            Set {
                filter: None,
                aggregates: vec![aggregate("last_value", Frame::rows(Some(4), 0), None)],
            },
        ],
    };
    let (spine, events) = (spine_table(&[]), events_table(&[]));
    let spec = definition.compile(&spine.schema(), &events.schema());
    let plan = plan(&spine, &events, &spec, WHOLE);
    insta::assert_snapshot!(displayable(plan.as_ref()).one_line(), @"AsOfWindowExec: keys=[k@1 = k@0], time=at@3 < t@4, created=created@8, known_at_the_time, then_by=[note@7], set=[WHERE x@4 > 0: a1=count(DISTINCT x@4) OVER (RANGE BETWEEN 7 days PRECEDING AND CURRENT ROW), a2=sum(x@4) FILTER note@7 IS NOT NULL OVER (RANGE BETWEEN 7 days PRECEDING AND CURRENT ROW)], set=[a3=last_value(x@4) OVER (ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)]");
}
