//! Windowed views that runs wrote: nobody is NOT_FOUND.

use arrow::array::RecordBatch;
use granary_model::definitions::FeatureView;
use granary_model::{ErrorKind, FeatureType, UtcMicros, ViewKind};
use granary_serving::{AsOf, ServingSettings};

use granary_testing::memory::*;

/// `payments`, `paid` and `guarantor` of a customer.
fn spend() -> FeatureView {
    let features = [
        column("payments", FeatureType::BigInt),
        column("paid", FeatureType::Double),
        column("guarantor", FeatureType::BigInt),
    ];
    let keys = [customer_id()];
    let mut view = view("spend", ViewKind::Windowed, &keys, &features, "spend");
    view.event_time = Some("at".into());
    view
}

type Spend = (Option<i64>, i64, Option<f64>, Option<i64>);

fn spend_rows(rows: &[Spend]) -> RecordBatch {
    let of = |f: fn(&Spend) -> Option<i64>| ints(&rows.iter().map(f).collect::<Vec<_>>());
    batch(&[
        ("customer_id", of(|r| r.0)),
        ("payments", of(|r| Some(r.1))),
        (
            "paid",
            doubles(&rows.iter().map(|r| r.2).collect::<Vec<_>>()),
        ),
        ("guarantor", of(|r| r.3)),
    ])
}

/// What is told of whom nothing happened.
fn empty() -> RecordBatch {
    spend_rows(&[(None, 0, None, Some(7))])
}

#[tokio::test]
async fn who_has_no_row_has_the_empty_one() {
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[spend()], &[])).await;
    let view = &snapshot.definitions.feature_views["spend"];
    let rows = spend_rows(&[(Some(1), 2, Some(3.5), None), (Some(2), 1, None, Some(9))]);
    project
        .publish_windowed(view, (&rows, &empty()), day(90))
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let asked = || {
        let ids = [Some(3), Some(1), None, Some(2), Some(3)];
        from_list(&["spend.*"], customers(&ids))
    };
    let answer = reader.read(asked()).await.unwrap();
    let [payments, paid, guarantor] = &answer.features[..] else {
        panic!("three columns");
    };
    assert_eq!(statuses(payments), "PPMPP");
    let expected = ints(&[Some(0), Some(2), None, Some(1), Some(0)]);
    assert_eq!(payments.values.as_ref(), expected.as_ref());
    assert_eq!(statuses(paid), "NPMNN");
    let expected = doubles(&[None, Some(3.5), None, None, None]);
    assert_eq!(paid.values.as_ref(), expected.as_ref());
    assert_eq!(statuses(guarantor), "PNMPP");
    assert_eq!(payments.as_of, AsOf::All(day(90)));
    assert_eq!(payments.event_times, None);

    // Who falls out of the window does not keep an old row.
    let rows = spend_rows(&[(Some(3), 1, Some(1.0), None)]);
    project
        .publish_windowed(view, (&rows, &empty()), day(95))
        .await;
    reader.refresh().await.unwrap();
    let answer = reader.read(asked()).await.unwrap();
    let payments = &answer.features[0];
    let expected = ints(&[Some(1), Some(0), None, Some(0), Some(1)]);
    assert_eq!(payments.values.as_ref(), expected.as_ref());
    assert_eq!(statuses(payments), "PPMPP");
    assert_eq!(payments.as_of, AsOf::All(day(95)));
}

#[tokio::test]
async fn a_run_that_is_too_old_or_too_new_answers_nobody() {
    let project = MemoryProject::new();
    let mut spend = spend();
    spend.ttl = Some(days(5));
    let snapshot = project.commit(definitions(&[spend], &[])).await;
    let view = &snapshot.definitions.feature_views["spend"];
    let rows = spend_rows(&[(Some(1), 2, None, None)]);
    project
        .publish_windowed(view, (&rows, &empty()), day(90))
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let mut asked = from_list(
        &["spend.payments", "spend.paid"],
        customers(&[Some(1), Some(2), None]),
    );
    for (at, payments, paid) in [
        (day(90), "PPM", "NNM"),
        (day(95), "PPM", "NNM"),
        (UtcMicros(day(95).0 + 1), "OOM", "OOM"),
    ] {
        asked.as_of = Some(at);
        let answer = reader.read(asked.clone()).await.unwrap();
        let found: Vec<String> = answer.features.iter().map(statuses).collect();
        assert_eq!(found, [payments, paid], "{at}");
        let values = &answer.features[0].values;
        let expected = match payments {
            "PPM" => ints(&[Some(2), Some(0), None]),
            _ => ints(&[None, None, None]),
        };
        assert_eq!(values.as_ref(), expected.as_ref(), "{at}");
    }
    for (at, strictly) in [(UtcMicros(day(90).0 - 1), false), (day(90), true)] {
        (asked.as_of, asked.strictly_before) = (Some(at), strictly);
        let error = refusal(&reader, asked.clone()).await;
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(error.to_string().starts_with("spend: "), "{error}");
    }
}

#[tokio::test]
async fn keys_go_through_empty_rows() {
    let project = MemoryProject::new();
    let (spend, account) = (spend(), account("1"));
    let from = vec![
        bound("spend", &spend, &[]),
        key_from(
            bound("theirs", &spend, &[]),
            "customer_id",
            "spend",
            "guarantor",
        ),
        key_from(
            bound("account", &account, &[]),
            "customer_id",
            "spend",
            "guarantor",
        ),
    ];
    let selected = [
        ("payments", "theirs", "payments"),
        ("balance", "account", "balance"),
    ];
    let both = service("both", from, &selected);
    let snapshot = project
        .commit(definitions(&[spend, account], &[both]))
        .await;
    let views = &snapshot.definitions.feature_views;
    let rows = spend_rows(&[(Some(1), 2, None, None), (Some(7), 5, None, Some(8))]);
    project
        .publish_windowed(&views["spend"], (&rows, &empty()), day(90))
        .await;
    let rows = account_rows(&[(7, day(80), Some(1.5))]);
    project.publish(&views["account"], &rows, day(90)).await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    // 1 has no guarantor, 2 has the one of everybody, 7 has one without a row.
    let ids = customers(&[Some(1), Some(2), Some(7), None]);
    let answer = reader.read(from_service("both", ids)).await.unwrap();
    let [payments, balance] = &answer.features[..] else {
        panic!("two columns");
    };
    assert_eq!(statuses(payments), "MPPM");
    let expected = ints(&[None, Some(5), Some(0), None]);
    assert_eq!(payments.values.as_ref(), expected.as_ref());
    assert_eq!(statuses(balance), "MPMM");
    let expected = doubles(&[None, Some(1.5), None, None]);
    assert_eq!(balance.values.as_ref(), expected.as_ref());
}
