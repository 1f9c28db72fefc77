//! Spellings, Arrow types and keys.

use proptest::prelude::*;

use super::*;

fn decimal(precision: u8, scale: i8) -> FeatureType {
    FeatureType::Decimal { precision, scale }
}

fn list(item: FeatureType) -> FeatureType {
    FeatureType::List(Box::new(item))
}

#[test]
fn reads_the_spellings_of_sql() {
    use FeatureType::*;
    for (spellings, expected) in [
        (&["BOOLEAN", "bool"][..], Boolean),
        (
            &["SMALLINT", "int2", "TINYINT", "tinyint unsigned"],
            SmallInt,
        ),
        (&["INT", "INTEGER", "int4", "SMALLINT UNSIGNED"], Int),
        (&["BIGINT", "INT8", "int64", "INT UNSIGNED"], BigInt),
        (&["REAL", "FLOAT", "float4", "FLOAT(24)"], Real),
        (
            &[
                "DOUBLE",
                "DOUBLE PRECISION",
                "FLOAT8",
                "FLOAT(53)",
                "float64",
            ],
            Double,
        ),
        (&["DECIMAL", "NUMERIC", "dec"], decimal(38, 10)),
        (&["DECIMAL(12)", "NUMERIC( 12 , 0 )"], decimal(12, 0)),
        (&["DECIMAL(12, 2)", "numeric(12,2)"], decimal(12, 2)),
        (&["BIGINT UNSIGNED"], decimal(20, 0)),
        (
            &[
                "VARCHAR",
                "TEXT",
                "STRING",
                "CHAR(3)",
                "VARCHAR(20)",
                "CHARACTER VARYING(9)",
            ],
            Varchar,
        ),
        (
            &["VARBINARY", "BYTEA", "BLOB", "BINARY(16)", "BINARY VARYING"],
            Varbinary,
        ),
        (&["DATE", "date"], Date),
        (
            &[
                "TIMESTAMP",
                "TIMESTAMPTZ",
                "DATETIME",
                "TIMESTAMP(3)",
                "TIMESTAMP WITH TIME ZONE",
                "TIMESTAMP(6) WITHOUT TIME ZONE",
            ],
            Timestamp,
        ),
        (
            &["BIGINT[]", "ARRAY<BIGINT>", "BIGINT ARRAY", "list<int8>"],
            list(BigInt),
        ),
        (&["DECIMAL(4, 1)[]"], list(decimal(4, 1))),
    ] {
        for spelling in spellings {
            assert_eq!(spelling.parse(), Ok(expected.clone()), "{spelling}");
        }
    }
}

#[test]
fn refuses_what_no_feature_has() {
    for (text, reason) in [
        ("", "a type is BOOLEAN"),
        ("BIGNT", "did you mean BIGINT?"),
        ("UUID", "VARCHAR keeps it as text"),
        ("INTERVAL", "a type is BOOLEAN"),
        ("DECIMAL(0)", "DECIMAL(p, s)"),
        ("DECIMAL(39)", "DECIMAL(p, s)"),
        ("DECIMAL(3, 4)", "DECIMAL(p, s)"),
        ("DECIMAL(3, 1, 1)", "DECIMAL(p, s)"),
        ("BIGINT BIGINT", "a type is BOOLEAN"),
        ("BIGINT; BIGINT", "a type is BOOLEAN"),
        ("BIGINT[][]", "a type is BOOLEAN"),
        ("ARRAY<BIGINT", "a list is BIGINT[]"),
        ("'BIGINT", "a type is BOOLEAN"),
    ] {
        let error = text.parse::<FeatureType>().expect_err(text);
        assert!(error.reason.starts_with(reason), "{text}: {error}");
    }
}

#[test]
fn arrow_types_are_kept_widened_or_refused() {
    use arrow::datatypes::IntervalUnit;
    let field = |t| Arc::new(Field::new("item", t, true));
    let dictionary = |v| DataType::Dictionary(Box::new(DataType::Int32), Box::new(v));
    let second = DataType::Timestamp(TimeUnit::Second, Some("Europe/Prague".into()));
    for (arrow, expected) in [
        (DataType::UInt8, Some(FeatureType::SmallInt)),
        (DataType::UInt32, Some(FeatureType::BigInt)),
        (DataType::UInt64, Some(decimal(20, 0))),
        (DataType::Float16, Some(FeatureType::Real)),
        (DataType::Utf8View, Some(FeatureType::Varchar)),
        (dictionary(DataType::LargeUtf8), Some(FeatureType::Varchar)),
        (second, Some(FeatureType::Timestamp)),
        (DataType::Date64, Some(FeatureType::Date)),
        (DataType::Decimal256(38, 3), Some(decimal(38, 3))),
        (DataType::Decimal256(39, 3), None),
        (DataType::Decimal128(10, -2), Some(decimal(12, 0))),
        (DataType::Decimal128(38, -1), None),
        (
            DataType::LargeList(field(DataType::Int8)),
            Some(list(FeatureType::SmallInt)),
        ),
        (
            DataType::List(field(DataType::List(field(DataType::Int8)))),
            None,
        ),
        (DataType::Struct(vec![field(DataType::Int8)].into()), None),
        (DataType::Null, None),
        (DataType::Interval(IntervalUnit::MonthDayNano), None),
        (DataType::Time64(TimeUnit::Microsecond), None),
    ] {
        assert_eq!(FeatureType::from_arrow(&arrow), expected, "{arrow}");
    }
}

#[test]
fn only_integers_widen_in_keys() {
    use FeatureType::*;
    for (asked, given, fits) in [
        (BigInt, SmallInt, true),
        (BigInt, BigInt, true),
        (SmallInt, Int, false),
        (Varchar, Varchar, true),
        (Varchar, BigInt, false),
        (BigInt, Varchar, false),
        (Date, Timestamp, false),
    ] {
        assert_eq!(asked.accepts_key(&given), fits, "{asked} <- {given}");
    }
    for (key, is) in [
        (Date, true),
        (Double, false),
        (list(BigInt), false),
        (Timestamp, false),
    ] {
        assert_eq!(key.is_key(), is, "{key}");
    }
}

fn any_type() -> impl Strategy<Value = FeatureType> {
    use FeatureType::*;
    let decimals = (1u8..=38).prop_flat_map(|p| {
        (0..=i8::try_from(p).expect("small")).prop_map(move |scale| decimal(p, scale))
    });
    let plain = prop::sample::select(vec![
        Boolean, SmallInt, Int, BigInt, Real, Double, Varchar, Varbinary, Date, Timestamp,
    ]);
    let element = prop_oneof![plain, decimals];
    (element, any::<bool>()).prop_map(|(t, lists)| if lists { list(t) } else { t })
}

proptest! {
    #[test]
    fn every_type_reads_back(original in any_type()) {
        prop_assert_eq!(original.to_string().parse(), Ok(original.clone()));
        prop_assert_eq!(FeatureType::from_arrow(&original.to_arrow()), Some(original.clone()));
        let json = serde_json::to_string(&original).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<FeatureType>(&json).expect("a type"), original);
    }

    #[test]
    fn garbage_is_no_type(text in "\\PC{0,20}") {
        if let Ok(found) = text.parse::<FeatureType>() {
            prop_assert_eq!(found.to_string().parse(), Ok(found));
        }
    }
}
