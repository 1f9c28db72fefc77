//! New snapshots and new generations go live without a restart.

use granary_model::ErrorKind;
use granary_model::definitions::FeatureView;
use granary_serving::{AsOf, ServingSettings};

use granary_store::OnlineStore;
use granary_testing::memory::*;

#[tokio::test]
async fn a_new_generation_is_seen_at_the_next_refresh_and_not_before() {
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[account("1")], &[])).await;
    let view = &snapshot.definitions.feature_views["account"];
    project
        .publish(view, &account_rows(&[(1, day(5), Some(1.0))]), day(90))
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    assert!(!reader.refresh().await.unwrap());
    project.store.drop_version("account", 1).await.unwrap();
    project
        .publish(view, &account_rows(&[(1, day(91), Some(2.0))]), day(95))
        .await;
    let asked = || from_list(&["account.balance"], customers(&[Some(1)]));
    let before = reader.read(asked()).await.unwrap();
    assert!(reader.refresh().await.unwrap());
    let after = reader.read(asked()).await.unwrap();
    for (answer, as_of, value) in [(before, day(90), 1.0), (after, day(95), 2.0)] {
        assert_eq!(answer.features[0].as_of, AsOf::All(as_of));
        assert_eq!(
            answer.features[0].values.as_ref(),
            doubles(&[Some(value)]).as_ref()
        );
    }
    assert!(!reader.refresh().await.unwrap());
}

#[tokio::test]
async fn rows_of_an_upsert_are_told_as_of_its_run() {
    let project = MemoryProject::new();
    let snapshot = project.commit(definitions(&[account("1")], &[])).await;
    let view = &snapshot.definitions.feature_views["account"];
    project
        .publish(view, &account_rows(&[(1, day(5), Some(1.0))]), day(90))
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let mut asked = from_list(&["account.balance"], customers(&[Some(1)]));
    asked.as_of = Some(day(92));
    let answer = reader.read(asked.clone()).await.unwrap();
    assert_eq!(answer.features[0].as_of, AsOf::All(day(90)));

    let rows = account_rows(&[(1, day(91), Some(2.0))]);
    let mut killed = Some(project.upsert_unpublished(view, &rows, day(95)).await);
    for published in [false, true] {
        let error = refusal(&reader, asked.clone()).await;
        assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        assert!(error.to_string().contains(&day(95).to_string()), "{error}");
        let now = from_list(&["account.balance"], customers(&[Some(1)]));
        let answer = reader.read(now).await.unwrap();
        assert_eq!(answer.features[0].as_of, AsOf::All(day(95)));
        assert_eq!(
            answer.features[0].values.as_ref(),
            doubles(&[Some(2.0)]).as_ref()
        );
        if !published {
            drop(killed.take());
            project.publish(view, &rows, day(95)).await;
            assert!(!reader.refresh().await.unwrap(), "the plans are the same");
        }
    }
}

/// A name that is defined anew must not answer with what it stood for before.
#[tokio::test]
async fn a_view_that_was_dropped_in_between_has_no_past() {
    let project = MemoryProject::new();
    let with = |views: &[FeatureView]| definitions(views, &[]);
    let first = project.commit(with(&[account("1"), profile()])).await;
    let view = first.definitions.feature_views["account"].clone();
    let rows = account_rows(&[(1, day(5), Some(1.0))]);
    project.publish(&view, &rows, day(90)).await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let asked = || from_list(&["account.balance"], customers(&[Some(1)]));
    assert!(reader.read(asked()).await.is_ok());

    project.commit(with(&[profile()])).await;
    project.commit(with(&[account("2"), profile()])).await;
    reader.refresh().await.unwrap();
    let error = refusal(&reader, asked()).await;
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (
            ErrorKind::FailedPrecondition,
            "never materialised: account; run `granary materialize account`"
        )
    );
    // The same definition once more: its rows are still right.
    let again = project.commit(with(&[account("1"), profile()])).await;
    assert_eq!(again.definitions.feature_views["account"].version, 1);
    reader.refresh().await.unwrap();
    assert_eq!(reader.read(asked()).await.unwrap().snapshot, 4);
}

/// Whoever materialised or applied and then reads need not wait for a refresh.
#[tokio::test]
async fn what_came_before_a_read_is_not_told_to_be_absent() {
    let project = MemoryProject::new();
    let first = project.commit(definitions(&[account("1")], &[])).await;
    let unpublished = project.reader(ServingSettings::default()).await.unwrap();
    let rows = account_rows(&[(1, day(5), Some(1.0))]);
    let view = &first.definitions.feature_views["account"];
    project.publish(view, &rows, day(90)).await;
    let of_account = || from_list(&["account.balance"], customers(&[Some(1)]));
    assert!(unpublished.read(of_account()).await.is_ok());

    let unapplied = project.reader(ServingSettings::default()).await.unwrap();
    let views = [account("1"), profile()];
    let second = project.commit(definitions(&views, &[])).await;
    let view = &second.definitions.feature_views["profile"];
    let rows = profile_rows(&[(1, Some("new"), None)]);
    project.publish(view, &rows, day(90)).await;
    let of_profile = || from_list(&["profile.segment"], customers(&[Some(1)]));
    assert_eq!(unapplied.read(of_profile()).await.unwrap().snapshot, 2);
}

#[tokio::test]
async fn a_changed_view_goes_live_when_it_is_materialised() {
    let project = MemoryProject::new();
    let both = |query: &str| {
        let (account, profile) = (account(query), profile());
        let from = vec![
            bound("account", &account, &[]),
            bound("profile", &profile, &[]),
        ];
        let selected = [
            ("balance", "account", "balance"),
            ("segment", "profile", "segment"),
        ];
        let both = service("both", from.clone(), &selected);
        let alone = service("alone", from[1..].to_vec(), &selected[1..]);
        definitions(&[account, profile], &[both, alone])
    };
    let first = project.commit(both("1")).await;
    let views = &first.definitions.feature_views;
    project
        .publish(
            &views["account"],
            &account_rows(&[(1, day(5), Some(1.0))]),
            day(90),
        )
        .await;
    project
        .publish(
            &views["profile"],
            &profile_rows(&[(1, Some("old"), None)]),
            day(90),
        )
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    assert!(reader.is_complete());

    let second = project.commit(both("2")).await;
    assert!(reader.refresh().await.unwrap());
    assert_eq!(reader.snapshot().number, 2);
    let keys = || customers(&[Some(1)]);
    let requests = || {
        [
            from_service("both", keys()),
            from_list(&["account.balance"], keys()),
            from_service("alone", keys()),
        ]
    };
    let answered_by = async || {
        let mut snapshots = Vec::new();
        for request in requests() {
            let answer = reader.read(request).await.unwrap();
            snapshots.push((answer.snapshot, answer.features[0].view_version));
        }
        snapshots
    };
    // What does not read the changed view is at the new snapshot already.
    assert_eq!(answered_by().await, [(1, 1), (1, 1), (2, 1)]);

    let view = &second.definitions.feature_views["account"];
    assert_eq!(view.version, 2);
    project
        .publish(view, &account_rows(&[(1, day(5), Some(2.0))]), day(95))
        .await;
    assert_eq!(answered_by().await, [(1, 1), (1, 1), (2, 1)]);
    assert!(reader.refresh().await.unwrap());
    assert_eq!(answered_by().await, [(2, 2), (2, 2), (2, 1)]);
    let answer = reader.read(from_service("both", keys())).await.unwrap();
    assert_eq!(
        answer.features[0].values.as_ref(),
        doubles(&[Some(2.0)]).as_ref()
    );
}

#[tokio::test]
async fn a_dropped_service_and_a_changed_ttl_are_seen_at_once() {
    let project = MemoryProject::new();
    let make = |ttl: i32, with_service: bool| {
        let mut account = account("1");
        account.ttl = Some(days(ttl));
        let from = vec![bound("account", &account, &[])];
        let one = service("one", from, &[("balance", "account", "balance")]);
        definitions(
            &[account],
            if with_service {
                std::slice::from_ref(&one)
            } else {
                &[]
            },
        )
    };
    let first = project.commit(make(200, true)).await;
    let view = &first.definitions.feature_views["account"];
    project
        .publish(view, &account_rows(&[(1, day(5), Some(1.0))]), day(90))
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let asked = || from_service("one", customers(&[Some(1)]));
    assert_eq!(
        statuses(&reader.read(asked()).await.unwrap().features[0]),
        "P"
    );

    project.commit(make(10, true)).await;
    reader.refresh().await.unwrap();
    let answer = reader.read(asked()).await.unwrap();
    assert_eq!((answer.snapshot, answer.features[0].view_version), (2, 1));
    assert_eq!(statuses(&answer.features[0]), "O");

    project.commit(make(10, false)).await;
    reader.refresh().await.unwrap();
    let error = refusal(&reader, asked()).await;
    assert_eq!(error.to_string(), "unknown feature service \"one\"");
}
