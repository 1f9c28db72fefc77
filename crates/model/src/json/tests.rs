//! The JSON form of every type, as data.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    Float32Array, Float64Array, Int16Array, Int64Array, IntervalMonthDayNanoArray, ListArray,
    NullArray, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{Int32Type, IntervalMonthDayNano};

use super::*;

#[track_caller]
fn check(array: impl Array + 'static, expected: &[&str]) {
    let array: ArrayRef = Arc::new(array);
    let got: Vec<String> = (0..array.len())
        .map(|i| value(&array, i).to_string())
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn integers_keep_all_digits() {
    check(
        Int64Array::from(vec![Some(i64::MIN), Some(9_007_199_254_740_993), None]),
        &["-9223372036854775808", "9007199254740993", "null"],
    );
    check(UInt64Array::from(vec![u64::MAX]), &["18446744073709551615"]);
    check(Int16Array::from(vec![-7]), &["-7"]);
}

#[test]
fn floats_are_shortest_and_not_a_number_is_text() {
    let doubles = vec![0.1, -0.0, 1e17, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    check(
        Float64Array::from(doubles),
        &[
            "0.1",
            "-0.0",
            "1e+17",
            r#""NaN""#,
            r#""Infinity""#,
            r#""-Infinity""#,
        ],
    );
    check(
        Float32Array::from(vec![0.1, f32::NAN]),
        &["0.1", r#""NaN""#],
    );
}

#[test]
fn times_are_rfc_3339_in_utc() {
    check(
        TimestampMicrosecondArray::from(vec![0, 1_500_000, 1]).with_timezone("UTC"),
        &[
            r#""1970-01-01T00:00:00Z""#,
            r#""1970-01-01T00:00:01.500Z""#,
            r#""1970-01-01T00:00:00.000001Z""#,
        ],
    );
    check(
        TimestampNanosecondArray::from(vec![1]),
        &[r#""1970-01-01T00:00:00.000000001Z""#],
    );
    check(
        TimestampMicrosecondArray::from(vec![i64::MAX]),
        &[r#""9223372036854775807Microsecond after 1970-01-01T00:00:00Z""#],
    );
    check(
        Date32Array::from(vec![0, -1, 20_484]),
        &[r#""1970-01-01""#, r#""1969-12-31""#, r#""2026-01-31""#],
    );
}

#[test]
fn text_bytes_decimals_and_lists() {
    check(BooleanArray::from(vec![true]), &["true"]);
    check(NullArray::new(1), &["null"]);
    check(StringArray::from(vec!["a \"b\"\n"]), &[r#""a \"b\"\n""#]);
    check(
        BinaryArray::from(vec![&b"\x00\xff"[..], b""]),
        &[r#""AP8=""#, r#""""#],
    );
    let decimals = Decimal128Array::from(vec![-5, 123_456]);
    check(
        decimals.with_precision_and_scale(12, 2).unwrap(),
        &[r#""-0.05""#, r#""1234.56""#],
    );
    check(
        ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]),
        &["[1,null]", "null", "[]"],
    );
    let dictionary: DictionaryArray<Int32Type> = vec![Some("x"), None].into_iter().collect();
    check(dictionary, &[r#""x""#, "null"]);
    check(
        IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 2, 0)]),
        &[r#""1 mons 2 days""#],
    );
}

#[test]
fn text_has_no_quotes() {
    let array = StringArray::from(vec![Some("x"), None]);
    assert_eq!(text(&array, 0).as_deref(), Some("x"));
    assert_eq!(text(&array, 1), None);
}
