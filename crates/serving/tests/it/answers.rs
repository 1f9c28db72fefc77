//! What reads answer: values, statuses, times, names, shapes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int32Array};
use arrow::datatypes::Float64Type;
use granary_model::{FeatureStatus, FeatureType, UtcMicros, ViewKind};
use granary_serving::{AsOf, ServingSettings};
use proptest::prelude::*;

use granary_testing::memory::*;

#[tokio::test]
async fn values_and_statuses_of_found_null_missing_and_null_keys() {
    let project = MemoryProject::new();
    let d = definitions(&[account("1"), profile()], &[]);
    let snapshot = project.commit(d).await;
    let views = &snapshot.definitions.feature_views;
    let rows = account_rows(&[(1, day(5), Some(10.5)), (2, day(6), None)]);
    project.publish(&views["account"], &rows, day(90)).await;
    let rows = profile_rows(&[(1, Some("gold"), Some(f64::NAN))]);
    project.publish(&views["profile"], &rows, day(91)).await;

    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let keys = customers(&[Some(2), None, Some(1), Some(7), Some(1)]);
    let asked = from_list(&["profile.segment", "account.*"], keys);
    let answer = reader.read(asked).await.unwrap();
    assert_eq!(
        (answer.snapshot, answer.as_of, answer.entities),
        (1, day(100), 5)
    );
    assert_eq!(names(&answer), ["segment", "balance"]);
    let [segment, balance] = &answer.features[..] else {
        panic!("two columns");
    };
    assert_eq!(statuses(segment), "MMPMP");
    assert_eq!(statuses(balance), "NMPMP");
    assert_eq!(
        segment.values.as_ref(),
        texts(&[None, None, Some("gold"), None, Some("gold")]).as_ref()
    );
    assert_eq!(
        balance.values.as_ref(),
        doubles(&[None, None, Some(10.5), None, Some(10.5)]).as_ref()
    );
    let times = balance.event_times.as_ref().unwrap();
    assert_eq!(times[..3], [Some(day(6)), None, Some(day(5))]);
    assert_eq!(segment.event_times, None);
    assert_eq!(balance.as_of, AsOf::All(day(90)));
    assert_eq!(segment.as_of, AsOf::All(day(91)));
    assert_eq!((&*balance.view, balance.view_version), ("account", 1));
}

#[tokio::test]
async fn services_rename_keys_and_features_and_share_what_is_bound_alike() {
    let project = MemoryProject::new();
    let (account, profile) = (account("1"), profile());
    let from = vec![
        bound("account", &account, &[]),
        bound("guarantor", &account, &[("customer_id", "guarantor_id")]),
        bound("profile", &profile, &[]),
        bound("again", &account, &[]),
    ];
    let selected = [
        ("guarantor_balance", "guarantor", "balance"),
        ("segment", "profile", "segment"),
        ("balance", "account", "balance"),
        ("same", "again", "balance"),
    ];
    let admission = service("admission", from, &selected);
    let snapshot = project
        .commit(definitions(&[account, profile], &[admission]))
        .await;
    let views = &snapshot.definitions.feature_views;
    let rows = account_rows(&[(1, day(5), Some(1.0)), (2, day(5), Some(2.0))]);
    project.publish(&views["account"], &rows, day(90)).await;
    let rows = profile_rows(&[(2, Some("new"), None)]);
    project.publish(&views["profile"], &rows, day(90)).await;

    let reader = project.reader(ServingSettings::default()).await.unwrap();
    // Given in another order, and narrower than declared.
    let keys = batch(&[
        ("guarantor_id", Arc::new(Int32Array::from(vec![2, 3]))),
        ("customer_id", ints(&[Some(1), Some(2)])),
    ]);
    let mut asked = from_service("admission", keys);
    let answer = reader.read(asked.clone()).await.unwrap();
    assert_eq!(
        names(&answer),
        ["guarantor_balance", "segment", "balance", "same"]
    );
    let values: Vec<_> = answer.features.iter().map(|f| f.values.clone()).collect();
    assert_eq!(values[0].as_ref(), doubles(&[Some(2.0), None]).as_ref());
    assert_eq!(values[1].as_ref(), texts(&[None, Some("new")]).as_ref());
    assert_eq!(
        values[2].as_ref(),
        doubles(&[Some(1.0), Some(2.0)]).as_ref()
    );
    assert!(
        Arc::ptr_eq(&values[2], &values[3]),
        "one fetch for one binding"
    );
    asked.full_names = true;
    let answer = reader.read(asked).await.unwrap();
    let full = [
        "guarantor__balance",
        "profile__segment",
        "account__balance",
        "again__balance",
    ];
    assert_eq!(names(&answer), full);
}

#[tokio::test]
async fn no_entities_are_an_empty_answer_of_the_right_shape() {
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[account("1")], &[])).await;
    let rows = account_rows(&[(1, day(5), Some(1.0))]);
    project
        .publish(
            &snapshot.definitions.feature_views["account"],
            &rows,
            day(90),
        )
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let answer = reader
        .read(from_list(&["account.*"], customers(&[])))
        .await
        .unwrap();
    assert_eq!((answer.entities, names(&answer)), (0, vec!["balance"]));
    let column = &answer.features[0];
    assert_eq!(column.data_type, FeatureType::Double);
    assert_eq!(column.values.as_ref(), doubles(&[]).as_ref());
    assert!(column.statuses.is_empty());
}

#[tokio::test]
async fn ages_count_from_the_time_of_the_read_and_a_ttl_is_inclusive() {
    let project = MemoryProject::new();
    let mut timestamped = account("1");
    timestamped.ttl = Some(days(10));
    let mut by_run = profile();
    by_run.ttl = Some(days(10));
    let snapshot = project
        .commit(definitions(&[timestamped, by_run], &[]))
        .await;
    let views = &snapshot.definitions.feature_views;
    let rows = account_rows(&[(1, day(80), Some(1.0)), (2, day(85), None)]);
    project.publish(&views["account"], &rows, day(85)).await;
    let rows = profile_rows(&[(1, Some("gold"), None)]);
    project.publish(&views["profile"], &rows, day(85)).await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();

    let keys = || customers(&[Some(1), Some(2), Some(3)]);
    for (at, timestamped, segment, null) in [
        (day(85), "PNM", "PMM", "NMM"),
        (day(90), "PNM", "PMM", "NMM"),
        (UtcMicros(day(90).0 + 1), "ONM", "PMM", "NMM"),
        (day(95), "ONM", "PMM", "NMM"),
        (UtcMicros(day(95).0 + 1), "OOM", "OMM", "OMM"),
    ] {
        let mut asked = from_list(&["account.balance", "profile.*"], keys());
        asked.as_of = Some(at);
        asked.full_names = true;
        let answer = reader.read(asked).await.unwrap();
        let found: Vec<String> = answer.features.iter().map(statuses).collect();
        assert_eq!(found, [timestamped, segment, null], "{at}");
        for column in &answer.features {
            for (row, status) in column.statuses.iter().enumerate() {
                assert_eq!(
                    column.values.is_valid(row),
                    *status == FeatureStatus::Present
                );
            }
        }
        let times = answer.features[0].event_times.as_ref().unwrap();
        assert_eq!(times[0], Some(day(80)), "an old row's time is told");
    }
    project.clock.set(day(96));
    let asked = from_list(&["account.balance"], keys());
    assert_eq!(
        statuses(&reader.read(asked).await.unwrap().features[0]),
        "OOM"
    );
}

#[tokio::test]
async fn composite_keys_of_two_types() {
    let project = MemoryProject::new();
    let keys = [customer_id(), column("shop", FeatureType::Varchar)];
    let features = [column("visits", FeatureType::BigInt)];
    let visits = view("visits", ViewKind::Snapshot, &keys, &features, "1");
    let snapshot = project.commit(definitions(&[visits], &[])).await;
    let rows = batch(&[
        ("customer_id", ints(&[Some(1), Some(1), Some(2)])),
        ("shop", texts(&[Some("a"), Some("b"), Some("a")])),
        ("visits", ints(&[Some(10), Some(11), Some(20)])),
    ]);
    project
        .publish(
            &snapshot.definitions.feature_views["visits"],
            &rows,
            day(90),
        )
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let keys = batch(&[
        (
            "customer_id",
            ints(&[Some(1), Some(2), Some(2), None, Some(1)]),
        ),
        (
            "shop",
            texts(&[Some("b"), Some("a"), Some("b"), Some("a"), None]),
        ),
    ]);
    let answer = reader
        .read(from_list(&["visits.visits"], keys))
        .await
        .unwrap();
    assert_eq!(statuses(&answer.features[0]), "PPMMM");
    let values = &answer.features[0].values;
    assert_eq!(
        values.as_ref(),
        ints(&[Some(11), Some(20), None, None, None]).as_ref()
    );
}

/// What a timestamped view answers, written to be obviously right.
fn reference(
    rows: &[(i64, i64, Option<f64>)],
    key: Option<i64>,
    fresh_since: i64,
) -> (FeatureStatus, Option<f64>) {
    let of_key = rows.iter().filter(|row| Some(row.0) == key);
    // Rows of one time differ by value, NULL lowest.
    let order = |r: &&(i64, i64, Option<f64>)| (r.1, r.2.map_or(-1, |v| v as i64));
    match of_key.max_by_key(order) {
        None => (FeatureStatus::NotFound, None),
        Some((_, at, _)) if *at < fresh_since => (FeatureStatus::OutsideMaxAge, None),
        Some((_, _, None)) => (FeatureStatus::NullValue, None),
        Some((_, _, Some(value))) => (FeatureStatus::Present, Some(*value)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_agree_with_a_scan_of_the_rows(
        rows in prop::collection::vec((0_i64..6, 0_i64..40, prop::option::of(0_u8..5)), 0..40),
        keys in prop::collection::vec(prop::option::of(0_i64..8), 0..20),
        ttl in 0_i32..40,
        at in 40_i64..60,
    ) {
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(key, at, value)| (key, at, value.map(f64::from)))
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(async {
            let project = MemoryProject::new();
            let mut account = account("1");
            account.ttl = Some(days(ttl));
            let snapshot = project.commit(definitions(&[account], &[])).await;
            let view = &snapshot.definitions.feature_views["account"];
            let written: Vec<_> = rows.iter().map(|(k, t, v)| (*k, day(*t), *v)).collect();
            project.publish(view, &account_rows(&written), day(40)).await;
            let reader = project.reader(ServingSettings::default()).await.unwrap();
            let mut asked = from_list(&["account.balance"], customers(&keys));
            asked.as_of = Some(day(at));
            reader.read(asked).await.unwrap()
        });
        let column = &answer.features[0];
        let values = column.values.as_primitive::<Float64Type>();
        let mut seen: HashMap<Option<i64>, FeatureStatus> = HashMap::new();
        for (row, key) in keys.iter().enumerate() {
            let (status, value) = reference(&rows, *key, at - i64::from(ttl));
            prop_assert_eq!(column.statuses[row], status);
            prop_assert_eq!(values.is_valid(row).then(|| values.value(row)), value);
            prop_assert_eq!(*seen.entry(*key).or_insert(status), status);
        }
    }
}
