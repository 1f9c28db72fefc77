//! Answers over the wire: every type, statuses, times, both encodings.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, ListArray, RecordBatch,
};
use arrow::compute::cast;
use arrow::datatypes::{Int8Type, TimestampMicrosecondType};
use granary_client::{AsOf, GetFeatures, Target};
use granary_model::{FeatureStatus, FeatureType, UtcMicros, ViewKind};
use granary_testing::memory::*;

use crate::server::*;

fn from_service(keys: RecordBatch) -> GetFeatures {
    GetFeatures::new(Target::Service("admission".into()), keys)
}

/// One column of every feature type for customers 1 and 2; customer 2 has NULLs.
fn every_type() -> Vec<(&'static str, FeatureType, ArrayRef)> {
    let of = |t: FeatureType| {
        let numbers = ints(&[Some(-7), None]);
        (t.clone(), cast(&numbers, &t.to_arrow()).unwrap())
    };
    let (small, small_values) = of(FeatureType::SmallInt);
    let (int, int_values) = of(FeatureType::Int);
    let (real, real_values) = of(FeatureType::Real);
    let (date, date_values) = (
        FeatureType::Date,
        cast(&int_values, &FeatureType::Date.to_arrow()),
    );
    let (time, time_values) = of(FeatureType::Timestamp);
    let decimal = Decimal128Array::from(vec![Some(-12_345), None]);
    let decimal = decimal.with_precision_and_scale(38, 3).unwrap();
    let list = FeatureType::List(Box::new(FeatureType::Varchar));
    let mut lists = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
    lists.append_value([Some("a"), None, Some("")]);
    lists.append_null();
    let lists: ListArray = lists.finish();
    vec![
        (
            "flag",
            FeatureType::Boolean,
            Arc::new(BooleanArray::from(vec![Some(true), None])),
        ),
        ("small", small, small_values),
        ("int", int, int_values),
        ("big", FeatureType::BigInt, ints(&[Some(i64::MIN), None])),
        ("real", real, real_values),
        (
            "double",
            FeatureType::Double,
            doubles(&[Some(f64::NEG_INFINITY), None]),
        ),
        (
            "decimal",
            FeatureType::Decimal {
                precision: 38,
                scale: 3,
            },
            Arc::new(decimal),
        ),
        ("text", FeatureType::Varchar, texts(&[Some("žlutý"), None])),
        (
            "bytes",
            FeatureType::Varbinary,
            Arc::new(BinaryArray::from(vec![Some(&[0, 255][..]), None])),
        ),
        ("date", date, date_values.unwrap()),
        ("time", time, time_values),
        (
            "list",
            list.clone(),
            cast(&lists, &list.to_arrow()).unwrap(),
        ),
    ]
}

#[tokio::test]
async fn every_type_comes_through_both_encodings() {
    let columns = every_type();
    let features: Vec<_> = columns
        .iter()
        .map(|(n, t, _)| column(n, t.clone()))
        .collect();
    let wide = view("wide", ViewKind::Snapshot, &[customer_id()], &features, "1");
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[wide], &[])).await;
    let mut rows = vec![("customer_id", ints(&[Some(1), Some(2)]))];
    rows.extend(
        columns
            .iter()
            .map(|(name, _, array)| (*name, array.clone())),
    );
    let view = &snapshot.definitions.feature_views["wide"];
    project.publish(view, &batch(&rows), day(90)).await;
    let store = Arc::new(project.store.clone());
    let server = TestServer::start(components(&project, store).await, quick()).await;
    let client = server.client().await;

    let target = Target::Features(vec!["wide.*".into()]);
    let mut asked = GetFeatures::new(target, customers(&[Some(1), Some(2), Some(3)]));
    for keys_as_ipc in [false, true] {
        asked.keys_as_ipc = keys_as_ipc;
        let answer = client.get_features(&asked).await.unwrap();
        let table = client.get_features_batch(&asked).await.unwrap();
        assert_eq!(table.column(0).as_ref(), asked.keys.column(0).as_ref());
        for ((name, data_type, expected), got) in columns.iter().zip(&answer.features) {
            assert_eq!((got.name.as_str(), &got.data_type), (*name, data_type));
            assert_eq!(got.values.slice(0, 2).as_ref(), expected.as_ref(), "{name}");
            assert!(got.values.is_null(2), "{name}");
            let statuses = [
                FeatureStatus::Present,
                FeatureStatus::NullValue,
                FeatureStatus::NotFound,
            ];
            assert_eq!(**got.statuses, statuses, "{name}");
            assert_eq!(table[*name].as_ref(), got.values.as_ref(), "{name}");
            let codes = table[format!("{name}__status").as_str()]
                .as_primitive::<Int8Type>()
                .clone();
            assert_eq!(codes.values()[..], [1, 2, 3]);
        }
    }
    // Of each number of entities, in which all, some or none are there.
    for (entities, ids) in (1..=33).flat_map(|n| [(n, 1), (n, 2), (n, 3), (n, 4)]) {
        let keys: Vec<_> = (0..entities).map(|n| Some(1 + n * n % ids)).collect();
        asked.keys = customers(&keys);
        let answer = client.get_features(&asked).await.unwrap();
        let table = client.get_features_batch(&asked).await.unwrap();
        for feature in &answer.features {
            let name = feature.name.as_str();
            assert_eq!(table[name].as_ref(), feature.values.as_ref(), "{keys:?}");
            let codes = table[format!("{name}__status").as_str()].as_primitive::<Int8Type>();
            let statuses: Vec<i8> = feature.statuses.iter().map(|s| *s as i8).collect();
            assert_eq!(codes.values()[..], statuses, "{keys:?}");
        }
    }
}

#[tokio::test]
async fn times_come_where_they_are_asked_for() {
    let server = small_server().await;
    let client = server.client().await;
    let mut asked = from_service(customers(&[Some(1), Some(2)]));
    let plain = client.get_features(&asked).await.unwrap();
    assert_eq!(
        (plain.snapshot, plain.entities, plain.as_of),
        (1, 2, day(100))
    );
    assert_eq!(plain.features[0].event_times, None);
    assert_eq!(plain.features[0].as_of, AsOf::Unknown);
    assert_eq!(
        (
            plain.features[1].view.as_str(),
            plain.features[1].view_version
        ),
        ("profile", 1)
    );

    (asked.event_times, asked.as_ofs) = (true, true);
    asked.as_of = Some(UtcMicros(day(99).0 + 1));
    let told = client.get_features(&asked).await.unwrap();
    assert_eq!(told.as_of, UtcMicros(day(99).0 + 1));
    assert_eq!(told.features[0].event_times, Some(vec![Some(day(5)), None]));
    assert_eq!(told.features[1].event_times, None);
    let as_of: Vec<&AsOf> = told.features.iter().map(|f| &f.as_of).collect();
    assert_eq!(as_of, [&AsOf::All(day(90)), &AsOf::All(day(91))]);

    let table = client.get_features_batch(&asked).await.unwrap();
    let times = table["balance__event_time"].as_primitive::<TimestampMicrosecondType>();
    assert_eq!((times.value(0), times.is_null(1)), (day(5).0, true));
    let as_of = table["segment__as_of"].as_primitive::<TimestampMicrosecondType>();
    assert_eq!(as_of.values()[..], [day(91).0; 2]);
    assert!(table.column_by_name("segment__event_time").is_none());
}

#[tokio::test]
async fn no_entities_and_full_names() {
    let server = small_server().await;
    let client = server.client().await;
    let mut asked = from_service(customers(&[]));
    let empty = client.get_features(&asked).await.unwrap();
    let batch = empty.to_batch().unwrap();
    assert_eq!((batch.num_rows(), batch.num_columns()), (0, 2));
    let table = client.get_features_batch(&asked).await.unwrap();
    assert_eq!((table.num_rows(), table.num_columns()), (0, 5));
    asked.full_names = true;
    let answer = client.get_features(&asked).await.unwrap();
    let names: Vec<&str> = answer.features.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["account__balance", "profile__segment"]);
}

#[tokio::test]
async fn a_large_read_comes_whole() {
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[account("1")], &[])).await;
    let rows: Vec<_> = (0..10_000)
        .map(|id| (id, day(5), Some(id as f64)))
        .collect();
    let view = &snapshot.definitions.feature_views["account"];
    project.publish(view, &account_rows(&rows), day(90)).await;
    let store = Arc::new(project.store.clone());
    let server = TestServer::start(components(&project, store).await, quick()).await;
    let keys: Vec<Option<i64>> = (0..10_000).rev().map(Some).collect();
    let target = Target::Features(vec!["account.balance".into()]);
    let asked = GetFeatures::new(target, customers(&keys));
    let answer = server.client().await.get_features(&asked).await.unwrap();
    let expected: Vec<Option<f64>> = keys.iter().map(|id| id.map(|id| id as f64)).collect();
    assert_eq!(
        answer.features[0].values.as_ref(),
        doubles(&expected).as_ref()
    );
}

#[tokio::test]
async fn news_is_seen_without_a_restart() {
    let project = small_project().await;
    let store = Arc::new(project.store.clone());
    let server = TestServer::start(components(&project, store).await, quick()).await;
    let client = server.client().await;
    let read = async || {
        client
            .get_features(&from_service(customers(&[Some(1)])))
            .await
            .unwrap()
    };
    assert_eq!(read().await.snapshot, 1);

    let mut changed = small_definitions();
    changed.feature_views.insert("account".into(), account("2"));
    let second = project.commit(changed).await;
    let new = &second.definitions.feature_views["account"];
    assert_eq!(read().await.features[0].view_version, 1);
    project
        .publish(new, &account_rows(&[(1, day(92), Some(2.0))]), day(95))
        .await;
    eventually(async || read().await.snapshot == 2).await;
    assert_eq!(
        read().await.features[0].values.as_ref(),
        doubles(&[Some(2.0)]).as_ref()
    );
    project
        .publish(new, &account_rows(&[(1, day(96), Some(3.0))]), day(97))
        .await;
    let three = doubles(&[Some(3.0)]);
    eventually(async || read().await.features[0].values.as_ref() == three.as_ref()).await;
    let narrow: ArrayRef = cast(&ints(&[Some(1)]), &arrow::datatypes::DataType::Int16).unwrap();
    let asked = from_service(batch(&[("customer_id", narrow)]));
    let widened = client.get_features(&asked).await.unwrap();
    assert_eq!(widened.features[0].values.as_ref(), three.as_ref());
}
