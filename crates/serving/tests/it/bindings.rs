//! Keys that are taken from features of other views: levels, types, statuses, times.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int16Array, RecordBatch};
use arrow::datatypes::Int64Type;
use granary_model::definitions::FeatureView;
use granary_model::{Definitions, ErrorKind, FeatureStatus, FeatureType, UtcMicros, ViewKind};
use granary_serving::{AsOf, ReadTarget, Reader, ServingSettings};
use proptest::prelude::*;

use granary_testing::memory::*;

/// `device` and `place` of a customer, timestamped.
fn latest() -> FeatureView {
    let features = [
        column("device", FeatureType::Varchar),
        column("place", FeatureType::SmallInt),
    ];
    let keys = [customer_id()];
    view("latest", ViewKind::Timestamped, &keys, &features, "latest")
}

fn latest_rows(rows: &[(i64, i64, Option<&str>, Option<i16>)]) -> RecordBatch {
    let places: Vec<Option<i16>> = rows.iter().map(|r| r.3).collect();
    batch(&[
        (
            "customer_id",
            ints(&rows.iter().map(|r| Some(r.0)).collect::<Vec<_>>()),
        ),
        ("at", times(&rows.iter().map(|r| r.1).collect::<Vec<_>>())),
        (
            "device",
            texts(&rows.iter().map(|r| r.2).collect::<Vec<_>>()),
        ),
        ("place", Arc::new(Int16Array::from(places))),
    ])
}

fn times(days: &[i64]) -> ArrayRef {
    let micros = days.iter().map(|d| day(*d).0);
    let plain = arrow::array::TimestampMicrosecondArray::from_iter_values(micros);
    Arc::new(plain.with_timezone("UTC"))
}

/// `users` and `owner` of a device, by snapshots.
fn device() -> FeatureView {
    let keys = [column("device_id", FeatureType::Varchar)];
    let features = [
        column("users", FeatureType::BigInt),
        column("owner", FeatureType::BigInt),
    ];
    view("device", ViewKind::Snapshot, &keys, &features, "device")
}

fn device_rows(rows: &[(&str, i64, Option<i64>)]) -> RecordBatch {
    batch(&[
        (
            "device_id",
            texts(&rows.iter().map(|r| Some(r.0)).collect::<Vec<_>>()),
        ),
        (
            "users",
            ints(&rows.iter().map(|r| Some(r.1)).collect::<Vec<_>>()),
        ),
        ("owner", ints(&rows.iter().map(|r| r.2).collect::<Vec<_>>())),
    ])
}

/// `visits` of a place on a device: a key of two columns.
fn visits() -> FeatureView {
    let keys = [
        column("place_id", FeatureType::BigInt),
        column("device_id", FeatureType::Varchar),
    ];
    let features = [column("visits", FeatureType::BigInt)];
    view("visits", ViewKind::Snapshot, &keys, &features, "visits")
}

async fn reader(project: &MemoryProject) -> Reader {
    project.reader(ServingSettings::default()).await.unwrap()
}

/// Names and types of the key columns that a service asks for.
async fn asked(reader: &Reader, service: &str) -> Vec<String> {
    let target = ReadTarget::Service(service.into());
    let keys = reader.request_columns(&target).await.unwrap().keys;
    let told = keys.iter().map(|k| format!("{} {}", k.name, k.data_type));
    told.collect()
}

#[tokio::test]
async fn a_key_comes_from_a_feature_that_nobody_selected() {
    let project = MemoryProject::new();
    let mut latest = latest();
    latest.ttl = Some(days(30));
    let device = device();
    // The view that needs the other stands before it.
    let from = vec![
        key_from(
            bound("device", &device, &[]),
            "device_id",
            "latest",
            "device",
        ),
        bound("latest", &latest, &[]),
    ];
    let risk = service("risk", from, &[("users", "device", "users")]);
    let snapshot = project
        .commit(definitions(&[latest, device], &[risk]))
        .await;
    let views = &snapshot.definitions.feature_views;
    let rows = latest_rows(&[
        (1, 80, Some("a"), None),
        (2, 90, None, None),
        (3, 90, Some("nowhere"), None),
        (4, 60, Some("a"), None),
        (5, 90, Some("b"), None),
        (6, 90, Some("a"), None),
    ]);
    project.publish(&views["latest"], &rows, day(95)).await;
    let rows = device_rows(&[("a", 7, None), ("b", 8, None)]);
    project.publish(&views["device"], &rows, day(96)).await;

    let reader = reader(&project).await;
    assert_eq!(asked(&reader, "risk").await, ["customer_id BIGINT"]);
    // Found, NULL, no such device, too old, found, NULL key, unknown customer, found.
    let ids = [
        Some(1),
        Some(2),
        Some(3),
        Some(4),
        Some(5),
        None,
        Some(9),
        Some(6),
    ];
    let answer = reader
        .read(from_service("risk", customers(&ids)))
        .await
        .unwrap();
    assert_eq!(names(&answer), ["users"]);
    let users = &answer.features[0];
    assert_eq!(statuses(users), "PMMMPMMP");
    let expected = [Some(7), None, None, None, Some(8), None, None, Some(7)];
    assert_eq!(users.values.as_ref(), ints(&expected).as_ref());
    assert_eq!(users.as_of, AsOf::All(day(96)));
}

/// A device's owner, where and with what that one is now, and the visits of
/// both places: three levels, keys of one and of two columns.
fn chain() -> Definitions {
    let (latest, device, visits, account) = (latest(), device(), visits(), account("1"));
    let of_owner = key_from(
        bound("owner", &latest, &[]),
        "customer_id",
        "device",
        "owner",
    );
    let balance = key_from(
        bound("owner_account", &account, &[]),
        "customer_id",
        "device",
        "owner",
    );
    let seen = key_from(bound("seen", &visits, &[]), "place_id", "owner", "place");
    let here = key_from(
        key_from(bound("here", &visits, &[]), "place_id", "owner", "place"),
        "device_id",
        "owner",
        "device",
    );
    let from = vec![seen, here, balance, of_owner, bound("device", &device, &[])];
    let selected = [
        ("visits_here", "here", "visits"),
        ("visits", "seen", "visits"),
        ("balance", "owner_account", "balance"),
        ("owner", "device", "owner"),
    ];
    let chain = service("chain", from, &selected);
    definitions(&[latest, device, visits, account], &[chain])
}

#[tokio::test]
async fn chains_widen_integers_and_mix_keys_of_the_request_with_features() {
    let project = MemoryProject::new();
    let snapshot = project.commit(chain()).await;
    let views = &snapshot.definitions.feature_views;
    let rows = latest_rows(&[(10, 80, Some("own"), Some(3)), (11, 80, None, Some(4))]);
    project.publish(&views["latest"], &rows, day(90)).await;
    let rows = device_rows(&[("a", 1, Some(10)), ("b", 2, Some(11)), ("c", 3, None)]);
    project.publish(&views["device"], &rows, day(90)).await;
    let rows = batch(&[
        ("place_id", ints(&[Some(3), Some(3), Some(4)])),
        ("device_id", texts(&[Some("a"), Some("own"), Some("b")])),
        ("visits", ints(&[Some(100), Some(200), Some(300)])),
    ]);
    project.publish(&views["visits"], &rows, day(90)).await;
    let rows = account_rows(&[(10, day(5), Some(1.5))]);
    project.publish(&views["account"], &rows, day(90)).await;

    let reader = reader(&project).await;
    assert_eq!(asked(&reader, "chain").await, ["device_id VARCHAR"]);
    let keys = batch(&[(
        "device_id",
        texts(&[Some("b"), Some("a"), Some("c"), None, Some("zz")]),
    )]);
    let answer = reader.read(from_service("chain", keys)).await.unwrap();
    let expected: [(&str, &str, ArrayRef); 4] = [
        (
            "visits_here",
            "MPMMM",
            ints(&[None, Some(200), None, None, None]),
        ),
        (
            "visits",
            "PPMMM",
            ints(&[Some(300), Some(100), None, None, None]),
        ),
        (
            "balance",
            "MPMMM",
            doubles(&[None, Some(1.5), None, None, None]),
        ),
        (
            "owner",
            "PPNMM",
            ints(&[Some(11), Some(10), None, None, None]),
        ),
    ];
    for (column, (name, of_rows, values)) in answer.features.iter().zip(expected) {
        assert_eq!((&*column.name, statuses(column).as_str()), (name, of_rows));
        assert_eq!(column.values.as_ref(), values.as_ref(), "{name}");
    }
}

#[tokio::test]
async fn the_time_of_a_read_holds_at_every_level() {
    let project = MemoryProject::new();
    let (latest, mut account) = (latest(), account("1"));
    account.ttl = Some(days(10));
    let mut device = device();
    device.ttl = Some(days(20));
    let from = vec![
        bound("latest", &latest, &[]),
        key_from(
            bound("device", &device, &[]),
            "device_id",
            "latest",
            "device",
        ),
        key_from(
            bound("account", &account, &[]),
            "customer_id",
            "device",
            "owner",
        ),
    ];
    let selected = [
        ("users", "device", "users"),
        ("balance", "account", "balance"),
    ];
    let chain = service("chain", from, &selected);
    let snapshot = project
        .commit(definitions(&[latest, device, account], &[chain]))
        .await;
    let views = &snapshot.definitions.feature_views;
    let rows = latest_rows(&[(1, 70, Some("a"), None)]);
    project.publish(&views["latest"], &rows, day(70)).await;
    let rows = device_rows(&[("a", 2, Some(5))]);
    project.publish(&views["device"], &rows, day(72)).await;
    let rows = account_rows(&[(5, day(75), Some(1.0))]);
    project.publish(&views["account"], &rows, day(80)).await;
    let reader = reader(&project).await;

    let asked = |at: UtcMicros, strictly_before: bool| {
        let mut asked = from_service("chain", customers(&[Some(1)]));
        (asked.as_of, asked.strictly_before) = (Some(at), strictly_before);
        asked
    };
    for (at, users, balance) in [
        (day(80), "P", "P"),
        (day(85), "P", "P"),
        (UtcMicros(day(85).0 + 1), "P", "O"),
        (day(92), "P", "O"),
        // The device's run is too old: its owner is not known any more.
        (UtcMicros(day(92).0 + 1), "O", "M"),
    ] {
        let answer = reader.read(asked(at, false)).await.unwrap();
        let found: Vec<String> = answer.features.iter().map(statuses).collect();
        assert_eq!(found, [users, balance], "{at}");
    }
    for (at, strictly) in [(UtcMicros(day(80).0 - 1), false), (day(80), true)] {
        let error = refusal(&reader, asked(at, strictly)).await;
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(error.to_string().starts_with("account: "), "{error}");
    }
}

#[tokio::test]
async fn what_a_key_comes_from_must_be_published_too() {
    let project = MemoryProject::new();
    let (latest, device) = (latest(), device());
    let from = vec![
        key_from(
            bound("device", &device, &[]),
            "device_id",
            "latest",
            "device",
        ),
        bound("latest", &latest, &[]),
    ];
    let risk = service("risk", from, &[("users", "device", "users")]);
    let snapshot = project
        .commit(definitions(&[latest, device], &[risk]))
        .await;
    let views = &snapshot.definitions.feature_views;
    let rows = device_rows(&[("a", 7, None)]);
    project.publish(&views["device"], &rows, day(90)).await;
    let reader = reader(&project).await;
    assert!(!reader.is_complete());
    let error = refusal(&reader, from_service("risk", customers(&[Some(1)]))).await;
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            ErrorKind::FailedPrecondition,
            "never materialised: latest; run `granary materialize latest`"
        )
    );
    let rows = latest_rows(&[(1, 80, Some("a"), None)]);
    project.publish(&views["latest"], &rows, day(90)).await;
    assert!(reader.refresh().await.unwrap());
    let answer = reader.read(from_service("risk", customers(&[Some(1)])));
    assert_eq!(statuses(&answer.await.unwrap().features[0]), "P");
}

/// `apply` checks all of this; a catalog may have been written by something else.
#[tokio::test]
async fn bindings_that_cannot_be_are_refused() {
    let project = MemoryProject::new();
    let (latest, device) = (latest(), device());
    let risk = |name: &str, alias: &str, feature: &str| {
        let by = key_from(bound("device", &device, &[]), "device_id", alias, feature);
        let from = vec![by, bound("latest", &latest, &[])];
        service(name, from, &[("users", "device", "users")])
    };
    let services = [
        risk("itself", "device", "users"),
        risk("narrower", "latest", "place"),
        risk("unknown", "latest", "devise"),
        risk("absent", "earlier", "device"),
    ];
    let snapshot = project
        .commit(definitions(&[latest.clone(), device.clone()], &services))
        .await;
    let views = &snapshot.definitions.feature_views;
    project
        .publish(&views["latest"], &latest_rows(&[]), day(90))
        .await;
    project
        .publish(&views["device"], &device_rows(&[]), day(90))
        .await;
    let reader = reader(&project).await;
    for (service, kind, message) in [
        (
            "itself",
            ErrorKind::InvalidArgument,
            "the keys of device depend on each other",
        ),
        (
            "narrower",
            ErrorKind::InvalidArgument,
            "device: the key device_id is VARCHAR, and latest.place is SMALLINT",
        ),
        (
            "unknown",
            ErrorKind::NotFound,
            "unknown feature \"latest.devise\"; did you mean \"device\"?",
        ),
        ("absent", ErrorKind::NotFound, "unknown view \"earlier\""),
    ] {
        let error = refusal(&reader, from_service(service, customers(&[Some(1)]))).await;
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
}

/// One step of a chain, written to be obviously right.
fn step(links: &HashMap<i64, Option<i64>>, key: Option<i64>) -> (FeatureStatus, Option<i64>) {
    match key.and_then(|key| links.get(&key)) {
        None => (FeatureStatus::NotFound, None),
        Some(None) => (FeatureStatus::NullValue, None),
        Some(Some(next)) => (FeatureStatus::Present, Some(*next)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Links of one view to itself, followed as often as there are aliases.
    #[test]
    fn a_chain_agrees_with_following_it_by_hand(
        links in prop::collection::hash_map(0_i64..8, prop::option::of(0_i64..9), 0..8),
        keys in prop::collection::vec(prop::option::of(0_i64..9), 0..12),
        steps in 1_usize..5,
        backwards in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(async {
            let project = MemoryProject::new();
            let next = [column("next", FeatureType::BigInt)];
            let link = view("link", ViewKind::Snapshot, &[customer_id()], &next, "1");
            let alias = |i: usize| format!("step{i}");
            let mut from = vec![bound(&alias(0), &link, &[])];
            for i in 1..steps {
                let entry = bound(&alias(i), &link, &[]);
                from.push(key_from(entry, "customer_id", &alias(i - 1), "next"));
            }
            let aliases: Vec<String> = (0..steps).map(alias).collect();
            let selected: Vec<_> =
                aliases.iter().map(|a| (a.as_str(), a.as_str(), "next")).collect();
            if backwards {
                from.reverse();
            }
            let chain = service("chain", from, &selected);
            let snapshot = project.commit(definitions(&[link], &[chain])).await;
            let (ids, nexts): (Vec<_>, Vec<_>) = links.iter().map(|(k, v)| (Some(*k), *v)).unzip();
            let rows = batch(&[("customer_id", ints(&ids)), ("next", ints(&nexts))]);
            project.publish(&snapshot.definitions.feature_views["link"], &rows, day(90)).await;
            let reader = reader(&project).await;
            reader.read(from_service("chain", customers(&keys))).await.unwrap()
        });
        for (row, key) in keys.iter().enumerate() {
            let mut at = *key;
            for column in &answer.features {
                let (status, value) = step(&links, at);
                let values = column.values.as_primitive::<Int64Type>();
                prop_assert_eq!(column.statuses[row], status);
                prop_assert_eq!(values.is_valid(row).then(|| values.value(row)), value);
                at = value;
            }
        }
    }
}
