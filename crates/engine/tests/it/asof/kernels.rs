//! Kernels against DataFusion's accumulators, fed one range at a time.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, StringArray,
    UInt32Array,
};
use arrow::compute::take;
use datafusion::functions_aggregate::all_default_aggregate_functions;
use datafusion::logical_expr::AggregateUDF;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Literal;
use datafusion::scalar::ScalarValue;
use granary_engine::asof::kernels::{Call, RowRange};
use proptest::prelude::*;

use super::{batch, column};

fn function(name: &str) -> Arc<AggregateUDF> {
    let all = all_default_aggregate_functions();
    all.into_iter().find(|f| f.name() == name).unwrap()
}

#[derive(Debug, Clone)]
struct Case {
    name: &'static str,
    distinct: bool,
    ignore_nulls: bool,
    n: Option<i64>,
}

struct Input {
    values: ArrayRef,
    filter: Option<BooleanArray>,
    ranges: Vec<RowRange>,
}

/// The call, and its evaluated arguments.
fn call(case: &Case, values: &ArrayRef) -> (Call, Vec<ArrayRef>) {
    let schema = batch(vec![("x", values.clone())]).schema();
    let mut arguments = vec![column("x", &schema)];
    let mut inputs = vec![values.clone()];
    if let Some(n) = case.n {
        let n = ScalarValue::Int64(Some(n));
        inputs.push(n.to_array_of_size(values.len()).unwrap());
        arguments.push(Arc::new(Literal::new(n)) as Arc<dyn PhysicalExpr>);
    }
    let call = Call::try_new(function(case.name), arguments, schema).unwrap();
    (
        call.distinct(case.distinct).ignore_nulls(case.ignore_nulls),
        inputs,
    )
}

/// The rows of a range that the aggregate is over, by the book.
fn rows(case: &Case, input: &Input, range: &RowRange) -> Vec<u32> {
    let mut seen = HashSet::new();
    let value = |row: u32| ScalarValue::try_from_array(&input.values, row as usize).unwrap();
    range
        .clone()
        .filter(|row| {
            let passes = |filter: &BooleanArray| {
                filter.is_valid(*row as usize) && filter.value(*row as usize)
            };
            input.filter.as_ref().is_none_or(passes)
        })
        .filter(|row| !(case.ignore_nulls && value(*row).is_null()))
        .filter(|row| !case.distinct || seen.insert(value(*row)))
        .collect()
}

fn reference(case: &Case, input: &Input, range: &RowRange) -> ScalarValue {
    let (call, inputs) = call(case, &input.values);
    let schema = batch(vec![("x", input.values.clone())]).schema();
    let fields: Vec<_> = call
        .arguments
        .iter()
        .map(|argument| argument.return_field(&schema).unwrap())
        .collect();
    let arguments = AccumulatorArgs {
        return_field: call.function.return_field(&fields).unwrap(),
        schema: &schema,
        ignore_nulls: case.ignore_nulls,
        order_bys: &[],
        is_reversed: false,
        name: case.name,
        is_distinct: false,
        exprs: &call.arguments,
        expr_fields: &fields,
    };
    let mut accumulator = call.function.accumulator(arguments).unwrap();
    let rows = UInt32Array::from(rows(case, input, range));
    let taken: Vec<ArrayRef> = inputs
        .iter()
        .map(|i| take(i, &rows, None).unwrap())
        .collect();
    if !rows.is_empty() {
        accumulator.update_batch(&taken).unwrap();
    }
    accumulator.evaluate().unwrap()
}

/// How far a float may be off: 1e-9 of what went in.
fn slack(case: &Case, input: &Input, range: &RowRange) -> f64 {
    let Some(values) = input.values.as_any().downcast_ref::<Float64Array>() else {
        return 0.0;
    };
    let rows = range.clone().map(|row| row as usize);
    let finite = rows
        .filter(|row| values.is_valid(*row))
        .map(|row| values.value(row).abs());
    let finite = finite.filter(|x| x.is_finite());
    let sum: f64 = match case.name {
        "var" | "var_pop" => finite.map(|x| x * x).sum(),
        _ => finite.sum(),
    };
    sum * 1e-9
}

fn check(case: &Case, input: &Input) {
    let (call, inputs) = call(case, &input.values);
    let results = call
        .evaluate(&inputs, input.filter.as_ref(), &input.ranges)
        .unwrap();
    assert_eq!(results.len(), input.ranges.len());
    let field = call.field("result");
    assert_eq!(results.data_type(), field.data_type(), "{case:?}");
    assert!(field.is_nullable() || results.null_count() == 0, "{case:?}");
    for (row, range) in input.ranges.iter().enumerate() {
        let found = ScalarValue::try_from_array(&results, row).unwrap();
        let expected = reference(case, input, range);
        let says = format!("{case:?} over {range:?}: {found} instead of {expected}");
        match (&found, &expected) {
            (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) if b.is_finite() => {
                assert!((a - b).abs() <= slack(case, input, range), "{says}");
            }
            (ScalarValue::Float64(Some(a)), ScalarValue::Float64(Some(b))) if b.is_nan() => {
                assert!(a.is_nan(), "{says}");
            }
            _ => assert_eq!(found, expected, "{says}"),
        }
    }
}

const NAMES: [&str; 10] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "first_value",
    "last_value",
    "nth_value",
    "array_agg",
    "median",
];

fn cases(names: &'static [&'static str]) -> impl Strategy<Value = Case> {
    let n = prop::sample::select(vec![1, 2, 5, -1, -2]);
    (prop::sample::select(names), any::<bool>(), any::<bool>(), n).prop_map(
        |(name, distinct, ignore_nulls, n)| {
            let positional = matches!(
                name,
                "first_value" | "last_value" | "nth_value" | "array_agg"
            );
            Case {
                name,
                // Of the last value DISTINCT takes nothing away.
                distinct: distinct && name != "last_value",
                ignore_nulls: ignore_nulls && positional,
                n: (name == "nth_value").then_some(n),
            }
        },
    )
}

const ROWS: usize = 90;

fn filter() -> impl Strategy<Value = Option<BooleanArray>> {
    let rows = prop::collection::vec(prop::option::weighted(0.9, any::<bool>()), ROWS);
    prop::option::of(rows.prop_map(BooleanArray::from))
}

/// Ranges as frames give them, ascending within a key, and any others.
fn ranges() -> impl Strategy<Value = Vec<RowRange>> {
    let rows = ROWS as u32;
    let range = (0..=rows, 0..=rows).prop_map(|(a, b)| a.min(b)..a.max(b));
    let any_order = prop::collection::vec(range, 0..12);
    let sliding =
        (1..30u32, prop::collection::vec(0..4u32, 1..40)).prop_map(move |(width, steps)| {
            let mut end = 0;
            let step = |step: u32| {
                end = (end + step).min(rows);
                end.saturating_sub(width)..end
            };
            steps.into_iter().map(step).collect()
        });
    prop_oneof![any_order, sliding]
}

fn floats() -> impl Strategy<Value = ArrayRef> {
    let usual = prop_oneof![
        Just(None),
        (-50..50i32).prop_map(|x| Some(f64::from(x) / 4.0))
    ];
    let odd = prop_oneof![
        6 => Just(None),
        6 => Just(Some(0.0)),
        6 => Just(Some(1e17)),
        6 => Just(Some(-1e17)),
        6 => Just(Some(1e-3)),
        1 => Just(Some(f64::NAN)),
        1 => Just(Some(f64::INFINITY)),
        1 => Just(Some(f64::NEG_INFINITY)),
    ];
    let column = |x| prop::collection::vec(x, ROWS);
    let either = prop_oneof![column(usual.boxed()), column(odd.boxed())];
    either.prop_map(|rows| Arc::new(Float64Array::from(rows)) as ArrayRef)
}

fn exact() -> impl Strategy<Value = ArrayRef> {
    let numbers = prop::collection::vec(prop::option::weighted(0.8, -9..9i64), ROWS);
    (numbers, 0..3).prop_map(|(rows, sort)| match sort {
        // Sums that wrap are the same as DataFusion's.
        0 => Arc::new(
            rows.into_iter()
                .map(|x| Some(x?.wrapping_mul(i64::MAX / 5)))
                .collect::<Int64Array>(),
        ) as ArrayRef,
        1 => {
            let rows = rows.into_iter().map(|x| x.map(i128::from));
            let array = rows.collect::<Decimal128Array>();
            Arc::new(array.with_precision_and_scale(10, 2).unwrap())
        }
        _ => Arc::new(
            rows.into_iter()
                .map(|x| Some(format!("text {}", x?)))
                .collect::<StringArray>(),
        ),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn floats_are_within_their_slack(
        case in cases(&["count", "sum", "avg", "min", "max", "first_value", "last_value", "nth_value", "array_agg", "var", "var_pop"]),
        values in floats(),
        filter in filter(),
        ranges in ranges(),
    ) {
        check(&case, &Input { values, filter, ranges });
    }

    #[test]
    fn everything_else_is_exact(
        case in cases(&NAMES),
        values in exact(),
        filter in filter(),
        ranges in ranges(),
    ) {
        let text = values.as_any().is::<StringArray>();
        prop_assume!(!(text && matches!(case.name, "sum" | "avg" | "median")));
        // avg of integers is one of DOUBLE, which the analyzer casts to.
        prop_assume!(!(case.name == "avg" && values.as_any().is::<Int64Array>()));
        check(&case, &Input { values, filter, ranges });
    }
}

#[test]
fn a_nan_leaves_with_its_row_and_is_highest_whatever_its_sign() {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![
        1.0,
        -f64::NAN,
        2.0,
        1e17,
        1e-3,
        3.0,
    ]));
    let ranges = vec![0..2, 2..3, 2..4, 4..6, 1..3];
    let result = |name| {
        let case = Case {
            name,
            distinct: false,
            ignore_nulls: false,
            n: None,
        };
        let (call, inputs) = call(&case, &values);
        let result = call.evaluate(&inputs, None, &ranges).unwrap();
        result
            .as_any()
            .downcast_ref::<Float64Array>()
            .unwrap()
            .values()
            .to_vec()
    };
    let sums = result("sum");
    assert!(sums[0].is_nan());
    assert_eq!(sums[1..4], [2.0, 2.0 + 1e17, 3.001]);
    assert_eq!(result("min"), [1.0, 2.0, 2.0, 1e-3, 2.0]);
    let max = result("max");
    assert!(max[0].is_nan() && max[4].is_nan());
    assert_eq!(max[1..4], [2.0, 1e17, 3.0]);
}

#[test]
fn one_row_has_no_spread_in_a_sample() {
    let values: ArrayRef = Arc::new(Float64Array::from(vec![4.0, 8.0]));
    let result = |name| {
        let case = Case {
            name,
            distinct: false,
            ignore_nulls: false,
            n: None,
        };
        let (call, inputs) = call(&case, &values);
        let result = call.evaluate(&inputs, None, &[0..0, 0..1, 0..2]).unwrap();
        result
            .as_any()
            .downcast_ref::<Float64Array>()
            .unwrap()
            .iter()
            .collect::<Vec<_>>()
    };
    assert_eq!(result("stddev"), [None, None, Some(8f64.sqrt())]);
    assert_eq!(result("stddev_pop"), [None, Some(0.0), Some(2.0)]);
}
