//! What a read gives.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int16Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::Field;
use granary_model::definitions::Column;
use granary_model::types::UTC;
use granary_model::{FeatureStatus, FeatureType};

use super::fixture::{
    Outcome, Store, UPSERT, amounts, batch, coverage, encode, fact, keys, layout, nullable_keys,
    pinned, publish, read, read_all, rows, shuffled,
};
use crate::codec::{RowDecoder, RowLayout, RowReader};
use crate::keys::EntityKeys;
use crate::online::WriteMode;
use crate::rows::EncodedRows;

pub(super) async fn an_empty_store_has_nothing(store: Store) -> Outcome {
    assert!(store.generation("nobody", 1).await?.is_none());
    assert!(store.generations().await?.is_empty());
    assert!(read_all(&store, &keys(&[1, 2]), &[]).await?.is_empty());
    assert!(!store.refresh().await?, "nothing changed");
    Ok(())
}

pub(super) async fn what_is_published_is_read(store: Store) -> Outcome {
    let facts = [
        (1, fact(10, 1.5)),
        (2, fact(20, -0.0)),
        (7, fact(30, f64::NAN)),
    ];
    let state = publish(&store, &facts).await?;
    assert_eq!((state.id.version, state.rows), (1, 3));
    assert_eq!(state.coverage, coverage(1));
    assert_eq!(store.generations().await?, vec![state]);

    let generation = pinned(&store).await?;
    assert_eq!(generation.layout(), &layout());
    let found = read(&store, &keys(&[7, 3, 1, 2, i64::MIN]), &generation).await?;
    let row =
        |index: usize| Ok::<_, crate::StoreError>(Some(rows(&[facts[index].1])?.get(0).to_vec()));
    assert_eq!(found, vec![row(2)?, None, row(0)?, row(1)?, None]);
    assert!(read(&store, &keys(&[]), &generation).await?.is_empty());
    Ok(())
}

pub(super) async fn several_generations_in_one_read(store: Store) -> Outcome {
    let mut generations = Vec::new();
    for (view, ids) in [("a", vec![1, 2]), ("b", vec![2, 3]), ("c", vec![])] {
        let mut writer = store.writer(view, 1, layout(), WriteMode::Create).await?;
        let facts: Vec<_> = ids.iter().map(|id| fact(*id, *id as f64)).collect();
        writer.write(&keys(&ids), &rows(&facts)?).await?;
        writer.publish(coverage(1)).await?;
        let Some(generation) = store.generation(view, 1).await? else {
            panic!("{view} was published");
        };
        generations.push(generation);
    }
    // One generation may be asked for twice.
    generations.push(Arc::clone(&generations[0]));
    let found = read_all(&store, &keys(&[1, 2, 3]), &generations).await?;
    let there: Vec<Vec<bool>> = found
        .iter()
        .map(|rows| rows.iter().map(Option::is_some).collect())
        .collect();
    assert_eq!(
        there,
        vec![
            vec![true, true, false],
            vec![false, true, true],
            vec![false, false, false],
            vec![true, true, false],
        ]
    );
    assert_eq!(found[0][1], found[1][1], "one row content, one encoding");
    Ok(())
}

pub(super) async fn null_keys_have_no_row(store: Store) -> Outcome {
    publish(&store, &[(0, fact(1, 1.0)), (1, fact(1, 2.0))]).await?;
    let generation = pinned(&store).await?;
    let asked = nullable_keys(&[None, Some(1), None, Some(0)]);
    let found = read(&store, &asked, &generation).await?;
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, vec![false, true, false, true]);
    Ok(())
}

/// Publishes a row a key, with the key's position as its amount, and expects
/// each key to find its own row.
async fn each_finds_its_own(store: &Store, view: &str, keys: &EntityKeys) -> Outcome {
    let facts: Vec<_> = (0..keys.len()).map(|i| fact(5, i as f64)).collect();
    let encoded = rows(&facts)?;
    let mut writer = store.writer(view, 1, layout(), WriteMode::Create).await?;
    let written = writer.write(keys, &encoded).await?;
    assert_eq!(
        written.inserted,
        keys.len() as u64,
        "{view}: keys met each other"
    );
    writer.publish(coverage(1)).await?;
    let Some(generation) = store.generation(view, 1).await? else {
        panic!("{view} was published");
    };
    let found = read(store, keys, &generation).await?;
    for (index, row) in found.iter().enumerate() {
        assert_eq!(
            row.as_deref(),
            Some(encoded.get(index)),
            "{view}: key {index}"
        );
    }
    Ok(())
}

pub(super) async fn composite_keys_stay_apart(store: Store) -> Outcome {
    let texts = ["", "a", "a\0", "a\0b", "ab", "b", "\0", "\0\0", "\u{ff}"];
    let mut first = Vec::new();
    let mut second = Vec::new();
    for a in texts {
        for b in texts {
            first.push(a);
            second.push(b);
        }
    }
    let arrays: [ArrayRef; 2] = [
        Arc::new(StringArray::from(first)),
        Arc::new(StringArray::from(second)),
    ];
    let columns = [("a", FeatureType::Varchar), ("b", FeatureType::Varchar)];
    each_finds_its_own(&store, "texts", &encode(&columns, &arrays)).await?;

    let arrays: [ArrayRef; 3] = [
        Arc::new(Int64Array::from(vec![-1, -1, 0, 0, i64::MAX])),
        Arc::new(StringArray::from(vec!["x", "y", "x", "", "x"])),
        Arc::new(Int32Array::from(vec![0, 0, -7, 7, 7])),
    ];
    let columns = [
        ("a", FeatureType::BigInt),
        ("b", FeatureType::Varchar),
        ("c", FeatureType::Int),
    ];
    each_finds_its_own(&store, "mixed", &encode(&columns, &arrays)).await
}

pub(super) async fn keys_of_every_type(store: Store) -> Outcome {
    let cases: Vec<(FeatureType, ArrayRef)> = vec![
        (
            FeatureType::BigInt,
            Arc::new(Int64Array::from(vec![i64::MIN, -1, 0, 1, 256, i64::MAX])),
        ),
        (
            FeatureType::Int,
            Arc::new(Int32Array::from(vec![i32::MIN, -1, 0, 1, i32::MAX])),
        ),
        (
            FeatureType::SmallInt,
            Arc::new(Int16Array::from(vec![i16::MIN, -1, 0, 1, i16::MAX])),
        ),
        (
            FeatureType::Date,
            Arc::new(Date32Array::from(vec![-719_162, -1, 0, 20_000])),
        ),
        (
            FeatureType::Varchar,
            Arc::new(StringArray::from(vec!["+421900", "ä", "x y", "\n"])),
        ),
        (
            FeatureType::Varbinary,
            Arc::new(BinaryArray::from(vec![
                &b"\0"[..],
                b"\xFF\xFE",
                b"\0\0",
                b"\0\xFF",
            ])),
        ),
    ];
    for (data_type, array) in cases {
        let view = format!("by_{data_type}").to_lowercase();
        each_finds_its_own(&store, &view, &encode(&[("k", data_type)], &[array])).await?;
    }
    Ok(())
}

pub(super) async fn the_empty_string_is_a_key(store: Store) -> Outcome {
    let array: ArrayRef = Arc::new(StringArray::from(vec!["", "a"]));
    each_finds_its_own(
        &store,
        "texts",
        &encode(&[("k", FeatureType::Varchar)], &[array]),
    )
    .await?;
    let array: ArrayRef = Arc::new(BinaryArray::from(vec![&b""[..], b"\0"]));
    each_finds_its_own(
        &store,
        "bytes",
        &encode(&[("k", FeatureType::Varbinary)], &[array]),
    )
    .await
}

pub(super) async fn long_keys_are_whole(store: Store) -> Outcome {
    let shared = "s".repeat(9_000);
    let mut texts = vec![
        format!("{shared}{}", "a".repeat(1_000)),
        format!("{shared}{}", "b".repeat(1_000)),
        shared.clone(),
    ];
    // Around every length at which a store could change its ways.
    texts.extend((480..530).map(|n| "s".repeat(n)));
    let array: ArrayRef = Arc::new(StringArray::from(texts));
    let long = encode(&[("k", FeatureType::Varchar)], &[array]);
    each_finds_its_own(&store, "long", &long).await?;

    let Some(generation) = store.generation("long", 1).await? else {
        panic!("long was published");
    };
    let array: ArrayRef = Arc::new(StringArray::from(vec![
        format!("{shared}{}", "c".repeat(1_000)),
        "s".repeat(8_999),
    ]));
    let other = encode(&[("k", FeatureType::Varchar)], &[array]);
    assert_eq!(read(&store, &other, &generation).await?, vec![None, None]);

    // Joined like any other row.
    let newer: Vec<_> = (0..long.len())
        .map(|i| fact(6, 1_000.0 + i as f64))
        .collect();
    let newer = rows(&newer)?;
    let mut writer = store.writer("long", 1, layout(), UPSERT).await?;
    let written = writer.write(&long, &newer).await?;
    assert_eq!(written.replaced, long.len() as u64);
    writer.publish(coverage(2)).await?;
    let found = read(&store, &long, &generation).await?;
    for (index, row) in found.iter().enumerate() {
        assert_eq!(row.as_deref(), Some(newer.get(index)), "key {index}");
    }
    Ok(())
}

pub(super) async fn a_large_batch(store: Store) -> Outcome {
    let n = 30_000;
    let ids: Vec<i64> = shuffled(n, 3).into_iter().map(|i| i as i64 * 3).collect();
    let facts: Vec<_> = ids.iter().map(|id| (*id, fact(1, *id as f64))).collect();
    let state = publish(&store, &facts).await?;
    assert_eq!(state.rows, n as u64);
    let asked: Vec<i64> = (0..3 * n as i64).collect();
    for (id, amount) in amounts(&store, &asked).await?.into_iter().enumerate() {
        let expected = (id % 3 == 0).then_some(id as f64);
        assert_eq!(amount, expected, "key {id}");
    }
    Ok(())
}

pub(super) async fn values_of_every_type(store: Store) -> Outcome {
    let (features, batch) = every_type()?;
    let layout = Arc::new(RowLayout {
        event_time: false,
        created_time: false,
        features,
    });
    let encoded: EncodedRows = layout.encode(&batch, None, None)?;
    let ids = keys(&[10, 11, 12]);
    let mut writer = store
        .writer("wide", 1, Arc::clone(&layout), WriteMode::Create)
        .await?;
    writer.write(&ids, &encoded).await?;
    writer.publish(coverage(1)).await?;
    let Some(generation) = store.generation("wide", 1).await? else {
        panic!("wide was published");
    };
    assert_eq!(generation.layout(), &layout);

    let projection: Vec<usize> = (0..layout.features.len()).rev().collect();
    let mut reader = RowReader::new(
        &RowDecoder::new(generation.layout(), projection.clone()),
        3,
        None,
    );
    for (entity, row) in read(&store, &ids, &generation).await?.iter().enumerate() {
        let Some(row) = row else {
            panic!("entity {entity} has no row");
        };
        reader.push(entity, row)?;
    }
    let decoded = reader.finish()?;
    for (column, index) in projection.into_iter().enumerate() {
        let feature = &layout.features[index];
        assert_eq!(
            &decoded.values[column],
            batch.column(index),
            "{}",
            feature.name
        );
        let statuses = [
            FeatureStatus::Present,
            FeatureStatus::Present,
            FeatureStatus::NullValue,
        ];
        assert_eq!(*decoded.statuses[column], statuses, "{}", feature.name);
    }
    Ok(())
}

/// Three rows of each feature type; the last is NULL.
fn every_scalar() -> Result<Vec<(FeatureType, ArrayRef)>, crate::StoreError> {
    let nan = f64::from_bits(0x7FF8_0000_0000_0001);
    Ok(vec![
        (
            FeatureType::Boolean,
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        ),
        (
            FeatureType::SmallInt,
            Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(7), None])),
        ),
        (
            FeatureType::Int,
            Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(7), None])),
        ),
        (
            FeatureType::BigInt,
            Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(-7), None])),
        ),
        (
            FeatureType::Real,
            Arc::new(Float32Array::from(vec![
                Some(-0.0),
                Some(f32::INFINITY),
                None,
            ])),
        ),
        (
            FeatureType::Double,
            Arc::new(Float64Array::from(vec![
                Some(nan),
                Some(f64::NEG_INFINITY),
                None,
            ])),
        ),
        (
            FeatureType::Decimal {
                precision: 38,
                scale: 4,
            },
            Arc::new(
                Decimal128Array::from(vec![Some(10_i128.pow(37)), Some(-1), None])
                    .with_precision_and_scale(38, 4)
                    .map_err(|e| crate::StoreError::Codec(e.to_string()))?,
            ),
        ),
        (
            FeatureType::Varchar,
            Arc::new(StringArray::from(vec![Some("zażółć"), Some(""), None])),
        ),
        (
            FeatureType::Varbinary,
            Arc::new(BinaryArray::from(vec![
                Some(&b"\xFF\0"[..]),
                Some(b""),
                None,
            ])),
        ),
        (
            FeatureType::Date,
            Arc::new(Date32Array::from(vec![Some(-1), Some(20_000), None])),
        ),
        (
            FeatureType::Timestamp,
            Arc::new(
                TimestampMicrosecondArray::from(vec![Some(-1), Some(i64::MAX), None])
                    .with_timezone(UTC),
            ),
        ),
    ])
}

/// Three rows of each feature type and of lists of each; the last is NULL.
fn every_type() -> Result<(Vec<Column>, RecordBatch), crate::StoreError> {
    let mut columns = Vec::new();
    let mut arrays: Vec<(String, ArrayRef)> = Vec::new();
    for (index, (data_type, array)) in every_scalar()?.into_iter().enumerate() {
        // [value, NULL is one of them], [], NULL.
        let items = arrow::compute::concat(&[&array, &new_null_array(array.data_type(), 1)])
            .map_err(|e| crate::StoreError::Codec(e.to_string()))?;
        let field = Arc::new(Field::new("element", array.data_type().clone(), true));
        let list = ListArray::new(
            field,
            OffsetBuffer::from_lengths([4, 0, 0]),
            items,
            Some(NullBuffer::from(vec![true, true, false])),
        );
        columns.push(Column::new(format!("f{index}"), data_type.clone()));
        arrays.push((format!("f{index}"), array));
        let list_type = FeatureType::List(Box::new(data_type));
        columns.push(Column::new(format!("l{index}"), list_type));
        arrays.push((format!("l{index}"), Arc::new(list)));
    }
    let named = arrays
        .iter()
        .map(|(name, array)| (name.as_str(), Arc::clone(array)));
    Ok((columns, batch(named.collect())?))
}
