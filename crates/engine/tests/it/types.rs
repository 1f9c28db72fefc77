//! Every feature type comes back from an offline table as it went in, bit for bit.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray,
    Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StringViewArray, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::datatypes::{Float64Type, Int32Type};
use futures::TryStreamExt;
use granary_engine::RunMode;

use crate::project::{Project, at};

#[allow(clippy::too_many_lines, reason = "a table: one column a type")]
fn columns() -> Vec<(&'static str, ArrayRef)> {
    let lists = vec![
        Some(vec![Some(1.5), None, Some(f64::NAN)]),
        Some(vec![]),
        None,
        Some(vec![Some(-0.0)]),
    ];
    let words = DictionaryArray::<Int32Type>::from_iter([Some("x"), None, Some("y"), Some("x")]);
    let nanos = TimestampNanosecondArray::from(vec![Some(1_500_999), None, Some(0), Some(7_000)]);
    vec![
        (
            "flag",
            Arc::new(BooleanArray::from(vec![
                Some(true),
                None,
                Some(false),
                Some(true),
            ])),
        ),
        (
            "small",
            Arc::new(Int16Array::from(vec![
                Some(i16::MIN),
                None,
                Some(i16::MAX),
                Some(0),
            ])),
        ),
        (
            "int",
            Arc::new(Int32Array::from(vec![
                Some(i32::MIN),
                None,
                Some(i32::MAX),
                Some(0),
            ])),
        ),
        (
            "big",
            Arc::new(Int64Array::from(vec![
                Some(i64::MIN),
                None,
                Some(i64::MAX),
                Some(0),
            ])),
        ),
        (
            "real",
            Arc::new(Float32Array::from(vec![
                Some(f32::NAN),
                None,
                Some(-0.0),
                Some(f32::INFINITY),
            ])),
        ),
        (
            "double",
            Arc::new(Float64Array::from(vec![
                Some(f64::NAN),
                Some(f64::NEG_INFINITY),
                Some(-0.0),
                Some(1e17 + 1e-3),
            ])),
        ),
        (
            "money",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345), None, Some(10i128.pow(37)), Some(0)])
                    .with_precision_and_scale(38, 4)
                    .unwrap(),
            ),
        ),
        (
            "text",
            Arc::new(StringArray::from(vec![
                Some(""),
                None,
                Some("ž\n\"'|"),
                Some("a"),
            ])),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from_opt_vec(vec![
                Some(b"".as_slice()),
                None,
                Some(&[0, 255, 10]),
                Some(b"a"),
            ])),
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![
                Some(-1),
                None,
                Some(20_000),
                Some(0),
            ])),
        ),
        (
            "instant",
            Arc::new(
                TimestampMicrosecondArray::from(vec![
                    Some(-1),
                    None,
                    Some(1_767_225_599_999_999),
                    Some(0),
                ])
                .with_timezone("UTC"),
            ),
        ),
        (
            "numbers",
            Arc::new(ListArray::from_iter_primitive::<Float64Type, _, _>(lists)),
        ),
        ("nothing", Arc::new(StringArray::new_null(4))),
        // Types that become others.
        ("word", Arc::new(words)),
        (
            "view",
            Arc::new(StringViewArray::from(vec![
                Some("short"),
                None,
                Some("x"),
                Some(""),
            ])),
        ),
        (
            "count",
            Arc::new(UInt64Array::from(vec![
                Some(u64::MAX),
                None,
                Some(0),
                Some(1),
            ])),
        ),
        ("nanos", Arc::new(nanos.with_timezone("Europe/Prague"))),
    ]
}

#[tokio::test]
async fn every_type_comes_back_as_it_went_in() {
    let mut project = Project::new();
    let id: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
    let all = std::iter::once(("id", id)).chain(columns());
    let rows = RecordBatch::try_from_iter_with_nullable(all.map(|(n, c)| (n, c, true))).unwrap();
    project.table("raw", &rows, None);
    let view = project
        .feature_view("v", &["id"], &[], "SELECT * FROM raw")
        .await;
    project
        .run(&view, "2026-01-01", RunMode::Append)
        .await
        .unwrap();
    let table = project.open(&view).await;
    let read = table.online_rows(None, None).await.unwrap();
    let batches: Vec<RecordBatch> = read.try_collect().await.unwrap();
    let schema = view.row_schema();
    let read = arrow::compute::concat_batches(&schema, &batches).unwrap();
    assert_eq!(read.num_rows(), 4);
    for (name, column) in columns() {
        let expected =
            arrow::compute::cast(&column, schema.field_with_name(name).unwrap().data_type());
        let (given, expected) = (read.column_by_name(name).unwrap(), expected.unwrap());
        // By bits: arrays compare floats as numbers.
        assert_eq!(format!("{given:?}"), format!("{expected:?}"), "{name}");
    }
    let double = read.column_by_name("double").unwrap();
    let double = double.as_any().downcast_ref::<Float64Array>().unwrap();
    assert_eq!(double.value(2).to_bits(), (-0.0f64).to_bits());
}

#[tokio::test]
async fn keys_of_every_type_sort_and_are_found() {
    let mut project = Project::new();
    let keys: Vec<(&str, ArrayRef)> = vec![
        ("k_small", Arc::new(Int16Array::from(vec![2, 1, 2, 1]))),
        ("k_int", Arc::new(Int32Array::from(vec![-2, 1, -3, 1]))),
        (
            "k_big",
            Arc::new(Int64Array::from(vec![7, i64::MIN, 7, i64::MAX])),
        ),
        (
            "k_text",
            Arc::new(StringArray::from(vec!["b", "", "a", "A"])),
        ),
        (
            "k_bytes",
            Arc::new(BinaryArray::from_vec(vec![b"b", b"", b"\xff", b"a"])),
        ),
        ("k_day", Arc::new(Date32Array::from(vec![3, -3, 0, 1]))),
    ];
    let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![0, 0, 0, 0]));
    for (name, column) in keys {
        let value: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let all = [(name, column), ("at", time.clone()), ("x", value)];
        project.table(
            &format!("raw_{name}"),
            &RecordBatch::try_from_iter(all).unwrap(),
            None,
        );
        let query = format!("SELECT * FROM raw_{name}");
        let view = project.feature_view(name, &[name], &["at"], &query).await;
        project
            .run(&view, "2025-01-01", RunMode::Append)
            .await
            .unwrap();
        let table = project.open(&view).await;
        let rows: Vec<RecordBatch> = table
            .online_rows(None, None)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let rows = arrow::compute::concat_batches(&view.row_schema(), &rows).unwrap();
        let sorted = arrow::compute::sort(rows.column(0), None).unwrap();
        assert_eq!(rows.column(0), &sorted, "{name}");
        assert_eq!(table.watermark(), at("2025-01-01"));
        assert_eq!(rows.num_rows(), 4);
    }
}
