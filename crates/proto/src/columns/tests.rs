//! Every type there and back, and what is refused.

use arrow::array::{DictionaryArray, Int32Array, Int64Array, LargeStringArray};
use arrow::compute::nullif;
use proptest::prelude::*;

use super::*;

fn decimals(values: Vec<Option<i128>>) -> ArrayRef {
    let array = Decimal128Array::from(values).with_precision_and_scale(38, 4);
    Arc::new(array.unwrap())
}

/// Arrays of each feature type, with NULLs, extremes and NaN.
fn samples() -> Vec<ArrayRef> {
    let int = |v: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(v)) };
    let of = |array: &ArrayRef, t: &FeatureType| cast(array, &t.to_arrow()).unwrap();
    let numbers = int(vec![Some(-7), None, Some(0), Some(i64::from(i16::MAX))]);
    let doubles: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![
        Some(f64::NEG_INFINITY),
        None,
        Some(-0.0),
        Some(f64::NAN),
        Some(1e17),
    ]));
    let times = int(vec![Some(i64::MIN), None, Some(i64::MAX), Some(0)]);
    let lists = |with_null: bool| -> ArrayRef {
        let values = vec![
            Some(vec![Some(1), None, Some(3)]),
            with_null.then(Vec::new),
            None,
            Some(vec![Some(i64::MAX)]),
        ];
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(values);
        let element = FeatureType::List(Box::new(FeatureType::BigInt));
        cast(&lists, &element.to_arrow()).unwrap()
    };
    vec![
        Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
        of(&numbers, &FeatureType::SmallInt),
        of(&numbers, &FeatureType::Int),
        of(&numbers, &FeatureType::Date),
        numbers,
        of(&doubles, &FeatureType::Real),
        doubles,
        of(&times, &FeatureType::Timestamp),
        decimals(vec![Some(-1), None, Some(10_i128.pow(37)), Some(0)]),
        Arc::new(StringArray::from(vec![Some(""), None, Some("žlutý kůň")])),
        Arc::new(BinaryArray::from(vec![
            Some(&[0_u8, 255][..]),
            None,
            Some(&[]),
        ])),
        lists(true),
        lists(false),
    ]
}

fn there_and_back(array: &ArrayRef) -> ArrayRef {
    let column = encode_column("c", array).unwrap();
    let (name, back) = decode_column(column).unwrap();
    assert_eq!(name, "c");
    back
}

/// Equal bit for bit: NaN equals NaN, −0.0 does not equal 0.0.
fn assert_same(a: &ArrayRef, b: &ArrayRef) {
    assert_eq!(a.data_type(), b.data_type());
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
}

#[test]
fn every_type_survives_the_wire_whole_sliced_and_empty() {
    for array in samples() {
        assert_same(&there_and_back(&array), &array);
        let sliced = array.slice(1, array.len() - 1);
        assert_same(&there_and_back(&sliced), &sliced);
        let empty = array.slice(1, 0);
        assert_same(&there_and_back(&empty), &empty);
    }
}

#[test]
fn a_null_travels_as_nothing_whatever_its_slot_holds() {
    let array: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let masked = nullif(&array, &BooleanArray::from(vec![false, true, false])).unwrap();
    let values = encode_values(&masked, &FeatureType::BigInt).unwrap();
    let expected = Int64Values {
        values: vec![1, 0, 3],
    };
    assert_eq!(values.values, Some(Packed::Int64s(expected)));
    assert_eq!(values.validity[..], [0b101]);

    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
        Some(vec![Some(1)]),
        Some(vec![Some(2), Some(3)]),
        Some(vec![Some(4)]),
    ]);
    let (_, offsets, elements, _) = lists.into_parts();
    let element = FeatureType::List(Box::new(FeatureType::BigInt));
    let ArrowType::List(field) = element.to_arrow() else {
        panic!("a list");
    };
    let nulls = Some(NullBuffer::from(vec![true, false, true]));
    let masked: ArrayRef = Arc::new(ListArray::new(field, offsets, elements, nulls));
    let values = encode_values(&masked, &element).unwrap();
    let Some(Packed::Lists(lists)) = &values.values else {
        panic!("lists");
    };
    assert_eq!(lists.offsets, [0, 1, 1, 2]);
    assert_eq!(
        decode_values(values, &element)
            .unwrap()
            .as_list::<i32>()
            .value(2)
            .len(),
        1
    );
}

#[test]
fn other_arrow_types_are_sent_as_what_they_are_stored_as() {
    let large: ArrayRef = Arc::new(LargeStringArray::from(vec!["a"]));
    let expected: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    assert_same(&there_and_back(&large), &expected);
    let coded: DictionaryArray<Int32Type> = vec!["a"].into_iter().collect();
    assert_same(&there_and_back(&(Arc::new(coded) as ArrayRef)), &expected);
}

#[test]
fn columns_without_a_type_have_the_natural_one() {
    let column = Column {
        name: "customer_id".into(),
        r#type: None,
        values: Some(Values {
            values: Some(Packed::Int64s(Int64Values { values: vec![7] })),
            validity: Bytes::new(),
        }),
    };
    let expected: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    assert_same(&decode_column(column).unwrap().1, &expected);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let ints = |values: Vec<i32>| Some(Packed::Int32s(Int32Values { values }));
    let column = |t: FeatureType, values: Option<Packed>, validity: &'static [u8]| Column {
        name: "k".into(),
        r#type: Some(encode_type(&t)),
        values: Some(Values {
            values,
            validity: Bytes::from_static(validity),
        }),
    };
    let list = FeatureType::List(Box::new(FeatureType::Int));
    let lists = |offsets: Vec<u32>| {
        let elements = Values {
            values: ints(vec![1, 2]),
            validity: Bytes::new(),
        };
        let elements = Some(Box::new(elements));
        Some(Packed::Lists(Box::new(ListValues { offsets, elements })))
    };
    let decimal = FeatureType::Decimal {
        precision: 3,
        scale: 0,
    };
    let number = |n: i128| {
        let values = n.to_le_bytes().to_vec().into();
        Some(Packed::Decimals(DecimalValues { values }))
    };
    for (column, message) in [
        (
            column(FeatureType::BigInt, ints(vec![1]), &[]),
            "k: values of a BIGINT do not come as int32s",
        ),
        (
            column(FeatureType::SmallInt, ints(vec![40_000]), &[]),
            "k: a value is out of the range of SMALLINT",
        ),
        (
            column(FeatureType::Int, ints(vec![1, 2]), &[1, 1]),
            "k: 2 bytes of validity for 2 rows",
        ),
        (
            column(list.clone(), lists(vec![0, 2, 1]), &[]),
            "k: offsets of lists go up from 0 to the number of elements",
        ),
        (
            column(list.clone(), lists(vec![]), &[]),
            "k: offsets of lists go up from 0 to the number of elements",
        ),
        (
            column(list, lists(vec![0, 9]), &[]),
            "k: offsets of lists go up from 0 to the number of elements",
        ),
    ] {
        assert_eq!(decode_column(column).unwrap_err().to_string(), message);
    }
    let mut newer = column(FeatureType::Int, ints(vec![1]), &[]);
    newer.r#type.as_mut().unwrap().r#type = 77;
    let error = decode_column(newer).unwrap_err().to_string();
    assert_eq!(error, "k: no type has the number 77");
    let too_long = column(decimal, number(1000), &[]);
    let error = decode_column(too_long).unwrap_err().to_string();
    assert!(
        error.starts_with("k: ") && error.contains("1000"),
        "{error}"
    );
}

#[test]
fn columns_of_a_batch_have_one_length() {
    let one = encode_column("a", &(Arc::new(Int32Array::from(vec![1])) as ArrayRef)).unwrap();
    let two = encode_column("b", &(Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef)).unwrap();
    let error = decode_columns(vec![one.clone(), two]).unwrap_err();
    assert_eq!(error.to_string(), "b has 2 rows, not 1");
    let batch = decode_columns(vec![one]).unwrap();
    assert_eq!(encode_columns(&batch).unwrap().len(), 1);
    assert_eq!(decode_columns(Vec::new()).unwrap().num_rows(), 0);
}

#[test]
fn statuses_are_one_byte_where_all_are_alike() {
    use FeatureStatus::{NotFound, Present};
    for (statuses, bytes) in [
        (vec![], 0),
        (vec![Present], 1),
        (vec![NotFound; 5], 1),
        (vec![Present, NotFound], 2),
    ] {
        let encoded = encode_statuses(&statuses);
        assert_eq!(encoded.len(), bytes);
        assert_eq!(decode_statuses(&encoded, statuses.len()).unwrap(), statuses);
    }
    assert!(decode_statuses(&[1, 1], 3).is_err());
    assert!(decode_statuses(&[9], 1).is_err());
}

#[test]
fn ipc_streams_of_several_batches_are_one() {
    let batch = |n: i64| {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![n, n + 1]));
        RecordBatch::try_from_iter([("id", ids)]).unwrap()
    };
    let mut writer = StreamWriter::try_new(Vec::new(), batch(0).schema_ref()).unwrap();
    writer.write(&batch(1)).unwrap();
    writer.write(&batch(3)).unwrap();
    let both = decode_ipc(&writer.into_inner().unwrap().into()).unwrap();
    assert_eq!(both.num_rows(), 4);
    let one = encode_ipc(&batch(1)).unwrap();
    assert_eq!(decode_ipc(&one).unwrap(), batch(1));
    assert!(decode_ipc(&one.slice(..one.len() / 2)).is_err());
    for garbage in [
        &b""[..],
        b"no arrow",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f and so on",
    ] {
        assert!(decode_ipc(&Bytes::from_static(garbage)).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Anyone may send anything: it is an error or a batch, never a panic.
    #[test]
    fn garbled_ipc_is_refused_or_read(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("bcd")]));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("id", ids), ("text", texts)]).unwrap();
        let mut bytes = encode_ipc(&batch).unwrap().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(batch) = decode_ipc(&bytes.into()) {
            for column in batch.columns() {
                prop_assert!(column.to_data().validate_full().is_ok());
            }
        }
    }
}
