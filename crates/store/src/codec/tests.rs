//! Rows keep their values, join by the laws, and never panic when damaged.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Float64Builder,
    Int64Array, ListBuilder, StringArray, StringBuilder, StringViewArray,
    TimestampMicrosecondArray, TimestampNanosecondArray, UInt8Array,
};
use arrow::datatypes::{Field, Float64Type, Int16Type};
use granary_model::types::UTC;
use granary_model::{FeatureStatus, FeatureType};
use proptest::prelude::*;

use super::*;

/// One row in plain Rust.
#[derive(Debug, Clone)]
struct Plain {
    at: i64,
    written_at: Option<i64>,
    flag: Option<bool>,
    number: Option<i64>,
    ratio: Option<f64>,
    text: Option<String>,
    price: Option<i128>,
    ratios: Option<Vec<Option<f64>>>,
    texts: Option<Vec<Option<String>>>,
}

fn layout() -> Arc<RowLayout> {
    let list = |item| FeatureType::List(Box::new(item));
    let price = FeatureType::Decimal {
        precision: 30,
        scale: 2,
    };
    Arc::new(RowLayout {
        event_time: true,
        created_time: true,
        features: vec![
            Column::new("flag", FeatureType::Boolean),
            Column::new("number", FeatureType::BigInt),
            Column::new("ratio", FeatureType::Double),
            Column::new("text", FeatureType::Varchar),
            Column::new("price", price),
            Column::new("ratios", list(FeatureType::Double)),
            Column::new("texts", list(FeatureType::Varchar)),
        ],
    })
}

fn batch(rows: &[Plain]) -> RecordBatch {
    let times = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(values).with_timezone(UTC))
    };
    let field = |t: FeatureType| Arc::new(Field::new("element", t.to_arrow(), true));
    let mut ratios = ListBuilder::new(Float64Builder::new()).with_field(field(FeatureType::Double));
    let mut texts = ListBuilder::new(StringBuilder::new()).with_field(field(FeatureType::Varchar));
    for row in rows {
        ratios.append_option(row.ratios.clone());
        texts.append_option(row.texts.clone());
    }
    let price = rows.iter().map(|r| r.price).collect::<Decimal128Array>();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("at", times(rows.iter().map(|r| Some(r.at)).collect())),
        (
            "written_at",
            times(rows.iter().map(|r| r.written_at).collect()),
        ),
        (
            "flag",
            Arc::new(rows.iter().map(|r| r.flag).collect::<BooleanArray>()),
        ),
        (
            "number",
            Arc::new(rows.iter().map(|r| r.number).collect::<Int64Array>()),
        ),
        (
            "ratio",
            Arc::new(rows.iter().map(|r| r.ratio).collect::<Float64Array>()),
        ),
        (
            "text",
            Arc::new(rows.iter().map(|r| r.text.clone()).collect::<StringArray>()),
        ),
        (
            "price",
            Arc::new(price.with_precision_and_scale(30, 2).unwrap()),
        ),
        ("ratios", Arc::new(ratios.finish())),
        ("texts", Arc::new(texts.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
        .unwrap()
}

fn encode(rows: &[Plain]) -> EncodedRows {
    layout()
        .encode(&batch(rows), Some("at"), Some("written_at"))
        .unwrap()
}

fn ratio() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(0.0),
        Just(-0.0),
        Just(f64::NAN),
        Just(-f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(1e17),
        Just(1e-3),
        any::<f64>(),
    ]
}

/// Few distinct values, so that ties are common.
fn plain() -> impl Strategy<Value = Plain> {
    let text = || {
        prop_oneof![
            Just(String::new()),
            Just("a".to_owned()),
            Just("ab\0ł".to_owned())
        ]
    };
    (
        (
            0..3_i64,
            prop::option::of(0..3_i64),
            prop::option::of(any::<bool>()),
        ),
        (
            prop::option::of(-1..2_i64),
            prop::option::of(ratio()),
            prop::option::of(text()),
        ),
        prop::option::of(-1..2_i128),
        prop::option::of(prop::collection::vec(prop::option::of(ratio()), 0..4)),
        prop::option::of(prop::collection::vec(prop::option::of(text()), 0..4)),
    )
        .prop_map(
            |((at, written_at, flag), (number, ratio, text), price, ratios, texts)| Plain {
                at,
                written_at,
                flag,
                number,
                ratio,
                text,
                price,
                ratios,
                texts,
            },
        )
}

/// NULL, then numbers with -0.0 below 0.0, then NaN, of whatever bits.
fn rank(x: Option<f64>) -> (u8, u64) {
    match x {
        None => (0, 0),
        Some(x) if x.is_nan() => (2, 0),
        Some(x) if x.to_bits() >> 63 == 1 => (1, !x.to_bits()),
        Some(x) => (1, x.to_bits() | 1 << 63),
    }
}

/// The contract's order as one comparable value.
fn reference(row: &Plain) -> impl Ord + std::fmt::Debug {
    let ratios = row
        .ratios
        .as_ref()
        .map(|r| r.iter().map(|x| rank(*x)).collect::<Vec<_>>());
    (
        (
            row.at,
            row.written_at.unwrap_or(row.at),
            row.flag,
            row.number,
            rank(row.ratio),
        ),
        (row.text.clone(), row.price, ratios, row.texts.clone()),
    )
}

/// The row with every NaN the same.
fn one_nan(row: &Plain) -> Plain {
    let canonical = |x: f64| if x.is_nan() { f64::NAN } else { x };
    let ratios = row.ratios.as_ref();
    let ratios = ratios.map(|list| list.iter().map(|x| x.map(canonical)).collect());
    Plain {
        ratio: row.ratio.map(canonical),
        ratios,
        ..row.clone()
    }
}

proptest! {
    #[test]
    fn decoded_is_what_was_encoded(rows in prop::collection::vec(plain(), 0..12), skip in 0..3_usize) {
        let layout = layout();
        let given = batch(&rows);
        let encoded = encode(&rows);
        // Backwards, with entities before and between that have no row.
        let entity = |row: usize| row * 2 + skip;
        let entities = rows.len() * 2 + skip;
        let mut reader = RowReader::new(&RowDecoder::new(&layout, (0..7).collect()), entities, None);
        for row in (0..rows.len()).rev() {
            reader.push(entity(row), encoded.get(row)).unwrap();
        }
        let decoded = reader.finish().unwrap();
        for (index, array) in decoded.values.iter().enumerate() {
            let given = given.column(index + 2);
            prop_assert_eq!(array.data_type(), given.data_type());
            prop_assert_eq!(array.len(), entities);
            for row in 0..rows.len() {
                let status = decoded.statuses[index][entity(row)];
                let expected = if given.is_null(row) { FeatureStatus::NullValue } else { FeatureStatus::Present };
                prop_assert_eq!(status, expected);
                prop_assert_eq!(array.slice(entity(row), 1).to_data(), given.slice(row, 1).to_data());
            }
            let missing = (0..entities).filter(|e| decoded.statuses[index][*e] == FeatureStatus::NotFound);
            prop_assert_eq!(missing.count(), entities - rows.len());
        }
        let times = decoded.event_times.unwrap();
        for row in 0..rows.len() {
            prop_assert_eq!(times[entity(row)], Some(UtcMicros(rows[row].at)));
        }
    }

    /// Columns read where they lie are those that are decoded, of entities with and
    /// without a row, and with one that is too old.
    #[test]
    fn a_column_has_what_is_decoded(rows in prop::collection::vec(plain(), 0..12),
                                    expired in any::<bool>(), skip in 0..3_usize) {
        let encoded = encode(&rows);
        let entities = rows.len() * 2 + skip;
        let median = rows.get(rows.len() / 2).map(|row| UtcMicros(row.at));
        let mut reader = RowReader::new(&RowDecoder::new(&layout(), (0..7).collect()), entities, median);
        for (row, bytes) in encoded.iter().enumerate() {
            reader.push(row * 2 + skip, bytes).unwrap();
        }
        if expired {
            reader.expire();
        }
        let decoded = reader.clone().finish().unwrap();
        for (at, expected) in decoded.statuses.iter().enumerate() {
            let column = reader.column(at);
            prop_assert_eq!(column.statuses().collect::<Vec<_>>(), expected.to_vec());
            let is_everywhere = expected.iter().all(|s| *s == FeatureStatus::Present);
            prop_assert!(is_everywhere || !column.is_everywhere());
        }
        let flags: Vec<_> = decoded.values[0].as_boolean().iter().collect();
        let found: Vec<u8> = reader.column(0).fixed_values().collect();
        prop_assert_eq!(found, flags.iter().map(|v| u8::from(v.unwrap_or_default())).collect::<Vec<_>>());
        let ratios = decoded.values[2].as_primitive::<Float64Type>().iter();
        let found = reader.column(2).fixed_values::<f64>().map(f64::to_bits);
        let expected: Vec<u64> = ratios.map(|v| v.unwrap_or_default().to_bits()).collect();
        prop_assert_eq!(found.collect::<Vec<_>>(), expected);
        let mut texts = Vec::new();
        reader.column(3).each_bytes(|text| texts.push(text.to_vec())).unwrap();
        let expected = decoded.values[3].as_string::<i32>().iter();
        let expected: Vec<Vec<u8>> = expected.map(|v| v.unwrap_or_default().into()).collect();
        prop_assert_eq!(texts, expected);
    }

    #[test]
    fn the_join_is_the_greatest_by_the_contract(rows in prop::collection::vec(plain(), 3)) {
        let encoded = encode(&rows);
        let order = RowOrder::new(&layout());
        let [a, b, c] = [encoded.get(0), encoded.get(1), encoded.get(2)];
        let expected = reference(&rows[0]).cmp(&reference(&rows[1]));
        prop_assert_eq!(order.compare(a, b).unwrap(), expected.then_with(|| a.cmp(b)));
        let alike = encode(&rows.iter().map(one_nan).collect::<Vec<_>>());
        prop_assert_eq!(expected.is_eq(), alike.get(0) == alike.get(1), "but for NaNs");
        let join = |x, y| order.join(x, y).unwrap();
        prop_assert_eq!(join(a, a), a);
        prop_assert_eq!(join(a, b), join(b, a));
        prop_assert_eq!(join(join(a, b), c), join(a, join(b, c)));
    }

    /// Cut short, made longer, or with any byte changed: an error or a value,
    /// and never a panic.
    #[test]
    fn damage_is_no_panic(row in plain(), other in plain(), cut in any::<prop::sample::Index>(),
                          changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let encoded = encode(&[row, other]);
        let order = RowOrder::new(&layout());
        let whole = encoded.get(0);
        let short = &whole[..cut.index(whole.len())];
        prop_assert!(order.check(short).is_err());
        prop_assert!(order.compare(short, encoded.get(1)).is_err());
        prop_assert!(order.check(&[whole, b"x"].concat()).is_err());

        let mut bent = whole.to_vec();
        for (at, byte) in changes {
            let at = at.index(bent.len());
            bent[at] = byte;
        }
        let _ = order.compare(&bent, encoded.get(1));
        let mut reader = RowReader::new(&RowDecoder::new(&layout(), (0..7).collect()), 2, None);
        if reader.push(0, &bent).is_ok() {
            let _ = reader.column(3).each_bytes(|_| {});
            let _ = reader.column(2).fixed_values::<f64>().sum::<f64>();
            prop_assert_eq!(reader.column(3).statuses().len(), 2);
            let _ = reader.finish();
        }
    }
}

/// Each row is below the next; where NaNs are alike the next column decides.
#[test]
fn ties_go_by_the_table() {
    let row = |written_at, ratio, list: Option<f64>, text: &str| Plain {
        at: 10,
        written_at,
        flag: None,
        number: None,
        ratio: Some(ratio),
        text: Some(text.into()),
        price: None,
        ratios: list.map(|x| vec![Some(x), Some(0.0)]),
        texts: None,
    };
    let negative = -f64::NAN;
    let payload = f64::from_bits(f64::NAN.to_bits() | 1);
    let ascending = [
        row(Some(9), f64::NAN, None, "z"),
        // NULL counts as the event time.
        row(None, f64::NEG_INFINITY, None, "z"),
        row(Some(10), -0.0, None, "z"),
        row(None, 0.0, None, "z"),
        row(Some(10), f64::INFINITY, None, "z"),
        row(None, payload, None, "a"),
        row(Some(10), negative, None, "b"),
        row(None, f64::NAN, Some(f64::INFINITY), "c"),
        row(None, negative, Some(negative), "c"),
        row(Some(11), 0.0, None, ""),
    ];
    let encoded = encode(&ascending);
    let order = RowOrder::new(&layout());
    for next in 1..ascending.len() {
        let found = order.compare(encoded.get(next - 1), encoded.get(next));
        assert!(found.unwrap().is_lt(), "{next}");
    }
    // The bits are kept.
    let mut reader = RowReader::new(&RowDecoder::new(&layout(), vec![2]), 1, None);
    reader.push(0, encoded.get(5)).unwrap();
    let kept = reader.finish().unwrap().values.remove(0);
    assert_eq!(
        kept.as_primitive::<Float64Type>().value(0).to_bits(),
        payload.to_bits()
    );
}

#[test]
fn rows_before_the_bound_are_outside_max_age() {
    let rows = [9, 10, 11].map(|at| Plain {
        at,
        written_at: None,
        flag: Some(true),
        number: None,
        ratio: Some(1.0),
        text: None,
        price: None,
        ratios: None,
        texts: None,
    });
    let encoded = encode(&rows);
    let mut reader = RowReader::new(
        &RowDecoder::new(&layout(), vec![2, 1]),
        4,
        Some(UtcMicros(10)),
    );
    for (entity, row) in encoded.iter().enumerate() {
        reader.push(entity, row).unwrap();
    }
    let decoded = reader.finish().unwrap();
    use FeatureStatus::{NotFound, NullValue, OutsideMaxAge, Present};
    assert_eq!(
        *decoded.statuses[0],
        [OutsideMaxAge, Present, Present, NotFound]
    );
    assert_eq!(
        *decoded.statuses[1],
        [OutsideMaxAge, NullValue, NullValue, NotFound]
    );
    let values: Vec<_> = decoded.values[0]
        .as_primitive::<Float64Type>()
        .iter()
        .collect();
    assert_eq!(values, [None, Some(1.0), Some(1.0), None]);
    let times = [
        Some(UtcMicros(9)),
        Some(UtcMicros(10)),
        Some(UtcMicros(11)),
        None,
    ];
    assert_eq!(decoded.event_times.unwrap(), times);
}

#[test]
fn columns_are_cast_and_what_does_not_fit_is_named() {
    let layout = RowLayout {
        event_time: true,
        created_time: false,
        features: vec![
            Column::new("n", FeatureType::SmallInt),
            Column::new("t", FeatureType::Varchar),
        ],
    };
    let encode = |at: ArrayRef, n: ArrayRef| {
        let text: ArrayRef = Arc::new(StringViewArray::from(vec![Some(
            "longer than twelve bytes",
        )]));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("at", at, true),
            ("n", n, true),
            ("t", text, true),
        ])
        .unwrap();
        layout.encode(&batch, Some("at"), None)
    };
    let nanos = || -> ArrayRef { Arc::new(TimestampNanosecondArray::from(vec![7_000])) };
    let row = encode(nanos(), Arc::new(UInt8Array::from(vec![200]))).unwrap();
    let mut reader = RowReader::new(
        &RowDecoder::new(&Arc::new(layout.clone()), vec![0, 1]),
        1,
        None,
    );
    reader.push(0, row.get(0)).unwrap();
    let decoded = reader.finish().unwrap();
    assert_eq!(decoded.values[0].as_primitive::<Int16Type>().value(0), 200);
    assert_eq!(
        decoded.values[1].as_string::<i32>().value(0),
        "longer than twelve bytes"
    );
    assert_eq!(decoded.event_times.unwrap(), [Some(UtcMicros(7))]);

    let error = encode(nanos(), Arc::new(Int64Array::from(vec![40_000]))).unwrap_err();
    assert!(error.to_string().contains("column \"n\""), "{error}");
    let null: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![None]));
    let error = encode(null, Arc::new(Int64Array::from(vec![4]))).unwrap_err();
    assert!(
        error.to_string().contains("row 0: the event time is NULL"),
        "{error}"
    );
}

#[test]
fn a_row_of_a_newer_format_says_so() {
    let layout = RowLayout {
        event_time: false,
        created_time: false,
        features: vec![Column::new("n", FeatureType::SmallInt)],
    };
    let error = RowOrder::new(&layout).check(&[9, 1, 0, 0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a stored row is damaged: row format 9, this version reads 1"
    );
}
