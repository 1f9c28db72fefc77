//! Encoded keys sort like the columns that they encode.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Date32Array, DictionaryArray, FixedSizeBinaryArray, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, LargeStringArray, NullArray, StringArray,
    StringViewArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::Int8Type;
use proptest::prelude::*;

use super::*;

fn columns(types: &[FeatureType]) -> Vec<Column> {
    let name = |i: usize| format!("k{i}");
    types
        .iter()
        .enumerate()
        .map(|(i, t)| Column::new(name(i), t.clone()))
        .collect()
}

fn encoded(data_type: FeatureType, array: impl Array + 'static) -> Vec<Option<Vec<u8>>> {
    let array: ArrayRef = Arc::new(array);
    EntityKeys::encode(&columns(&[data_type]), &[array])
        .unwrap()
        .iter()
        .map(|key| key.map(<[u8]>::to_vec))
        .collect()
}

#[test]
fn the_format_is_as_documented() {
    let key = |t, array: ArrayRef| encoded(t, array)[0].clone().unwrap();
    let cases: Vec<(FeatureType, ArrayRef, &[u8])> = vec![
        (
            FeatureType::BigInt,
            Arc::new(Int64Array::from(vec![1])),
            b"\x80\0\0\0\0\0\0\x01",
        ),
        (
            FeatureType::BigInt,
            Arc::new(Int64Array::from(vec![-1])),
            b"\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        ),
        (
            FeatureType::Int,
            Arc::new(Int32Array::from(vec![-2])),
            b"\x7F\xFF\xFF\xFE",
        ),
        (
            FeatureType::SmallInt,
            Arc::new(Int16Array::from(vec![2])),
            b"\x80\x02",
        ),
        (
            FeatureType::Date,
            Arc::new(Date32Array::from(vec![1])),
            b"\x80\0\0\x01",
        ),
        (
            FeatureType::Varchar,
            Arc::new(StringArray::from(vec![""])),
            b"\0\0",
        ),
        (
            FeatureType::Varchar,
            Arc::new(StringArray::from(vec!["a\0b"])),
            b"a\0\xFFb\0\0",
        ),
        (
            FeatureType::Varbinary,
            Arc::new(BinaryArray::from(vec![&b"\0\0"[..]])),
            b"\0\xFF\0\xFF\0\0",
        ),
    ];
    for (data_type, array, expected) in cases {
        assert_eq!(key(data_type.clone(), array), expected, "{data_type}");
    }
}

#[test]
fn narrower_integers_widen_to_the_same_bytes() {
    let wide = encoded(
        FeatureType::BigInt,
        Int64Array::from(vec![Some(-3), None, Some(9)]),
    );
    for given in [
        Arc::new(Int8Array::from(vec![Some(-3), None, Some(9)])) as ArrayRef,
        Arc::new(Int16Array::from(vec![Some(-3), None, Some(9)])),
        Arc::new(Int32Array::from(vec![Some(-3), None, Some(9)])),
    ] {
        assert_eq!(encoded(FeatureType::BigInt, given), wide);
    }
    let unsigned = encoded(FeatureType::BigInt, UInt32Array::from(vec![9]));
    assert_eq!(unsigned[0], wide[2]);
}

#[test]
fn other_forms_of_text_encode_alike() {
    let texts = vec![Some("a"), None, Some("b\0")];
    let plain = encoded(FeatureType::Varchar, StringArray::from(texts.clone()));
    let dictionary: DictionaryArray<Int8Type> = texts.iter().copied().collect();
    for given in [
        Arc::new(StringViewArray::from(texts.clone())) as ArrayRef,
        Arc::new(LargeStringArray::from(texts)),
        Arc::new(dictionary),
    ] {
        assert_eq!(encoded(FeatureType::Varchar, given), plain);
    }
    let fixed = FixedSizeBinaryArray::try_from_iter([[1_u8, 0], [2, 3]].into_iter()).unwrap();
    let binary = BinaryArray::from(vec![&[1_u8, 0][..], &[2, 3]]);
    assert_eq!(
        encoded(FeatureType::Varbinary, fixed),
        encoded(FeatureType::Varbinary, binary)
    );
}

#[test]
fn a_null_in_any_column_makes_the_key_null() {
    let arrays: [ArrayRef; 2] = [
        Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
        Arc::new(StringArray::from(vec![Some("a"), Some("b"), None])),
    ];
    let keys = EntityKeys::encode(
        &columns(&[FeatureType::BigInt, FeatureType::Varchar]),
        &arrays,
    )
    .unwrap();
    let there: Vec<bool> = keys.iter().map(|key| key.is_some()).collect();
    assert_eq!(there, [true, false, false]);
    assert_eq!(keys.first_null(), Some(1));
    assert_eq!(keys.gather(&[2, 0, 0]).get(1), keys.get(0));
    assert_eq!(
        encoded(FeatureType::BigInt, NullArray::new(2)),
        [None, None]
    );
}

#[test]
fn other_types_are_named() {
    let cases: Vec<(FeatureType, ArrayRef, &str)> = vec![
        (
            FeatureType::BigInt,
            Arc::new(StringArray::from(vec!["1"])),
            "key column \"k0\" expects BIGINT, got VARCHAR",
        ),
        (
            FeatureType::Int,
            Arc::new(Int64Array::from(vec![1])),
            "key column \"k0\" expects INT, got BIGINT",
        ),
        (
            FeatureType::BigInt,
            Arc::new(Float64Array::from(vec![1.0])),
            "key column \"k0\" expects BIGINT, got DOUBLE",
        ),
        (
            FeatureType::BigInt,
            Arc::new(UInt64Array::from(vec![1])),
            "key column \"k0\" expects BIGINT, got DECIMAL(20, 0)",
        ),
        (
            FeatureType::Varchar,
            Arc::new(BinaryArray::from(vec![&b"a"[..]])),
            "key column \"k0\" expects VARCHAR, got VARBINARY",
        ),
    ];
    for (data_type, array, message) in cases {
        let error = EntityKeys::encode(&columns(&[data_type]), &[array]).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let two: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let pair = columns(&[FeatureType::BigInt, FeatureType::BigInt]);
    assert!(EntityKeys::encode(&pair, &[Arc::clone(&one)]).is_err());
    assert!(EntityKeys::encode(&pair, &[one, two]).is_err());
    assert!(EntityKeys::encode(&[], &[]).is_err());
}

type Parts = (String, i64, Vec<u8>, i16, i32);

fn parts() -> impl Strategy<Value = Parts> {
    (
        "[\0ab\u{ff}]{0,4}",
        prop_oneof![any::<i64>(), -2..2_i64],
        prop::collection::vec(prop_oneof![Just(0_u8), Just(1), Just(0xFF)], 0..4),
        any::<i16>(),
        -3..3_i32,
    )
}

proptest! {
    /// Byte order is the order of the columns, and equal bytes are equal keys.
    #[test]
    fn composites_sort_like_their_columns(rows in prop::collection::vec(parts(), 1..20)) {
        let arrays: [ArrayRef; 5] = [
            Arc::new(rows.iter().map(|r| Some(r.0.as_str())).collect::<StringArray>()),
            Arc::new(rows.iter().map(|r| Some(r.1)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|r| Some(r.2.as_slice())).collect::<BinaryArray>()),
            Arc::new(rows.iter().map(|r| Some(r.3)).collect::<Int16Array>()),
            Arc::new(rows.iter().map(|r| Some(r.4)).collect::<Date32Array>()),
        ];
        let types = [
            FeatureType::Varchar,
            FeatureType::BigInt,
            FeatureType::Varbinary,
            FeatureType::SmallInt,
            FeatureType::Date,
        ];
        let keys = EntityKeys::encode(&columns(&types), &arrays).unwrap();
        for (i, a) in rows.iter().enumerate() {
            for (j, b) in rows.iter().enumerate() {
                prop_assert_eq!(keys.get(i).cmp(&keys.get(j)), a.cmp(b), "{:?} {:?}", a, b);
            }
        }
    }
}
