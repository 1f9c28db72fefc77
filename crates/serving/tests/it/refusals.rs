//! What is refused, and in which words.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use granary_model::definitions::{Grant, ServeMode};
use granary_model::{ErrorKind, FeatureType, UtcMicros, ViewKind};
use granary_serving::{ReadRequest, Reader, ServingSettings};

use granary_testing::memory::*;

async fn ready(project: &MemoryProject) -> Reader {
    let (account, profile) = (account("1"), profile());
    let from = vec![
        bound("account", &account, &[]),
        bound("profile", &profile, &[]),
    ];
    let selected = [
        ("balance", "account", "balance"),
        ("segment", "profile", "segment"),
    ];
    let admission = service("admission", from, &selected);
    let mut d = definitions(&[account, profile], &[admission]);
    for object in ["admission", "profile"] {
        d.grants.insert(Grant {
            object: object.into(),
            role: "risk".into(),
        });
    }
    let snapshot = project.commit(d).await;
    let views = &snapshot.definitions.feature_views;
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
            &profile_rows(&[(1, None, None)]),
            day(80),
        )
        .await;
    project
        .reader(ServingSettings {
            request_rows_max: 3,
            request_features_max: 3,
            ..ServingSettings::default()
        })
        .await
        .unwrap()
}

/// Refuses every request with its message.
async fn check(kind: ErrorKind, cases: Vec<(ReadRequest, &str)>) {
    let project = MemoryProject::new();
    let reader = ready(&project).await;
    for (request, message) in cases {
        let error = refusal(&reader, request).await;
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    }
}

fn one() -> RecordBatch {
    customers(&[Some(1)])
}

#[tokio::test]
async fn unknown_names_come_with_the_nearest_known_one() {
    let cases = vec![
        (
            from_service("admision", one()),
            "unknown feature service \"admision\"; did you mean \"admission\"?",
        ),
        (
            from_list(&["acount.balance"], one()),
            "unknown feature view \"acount\"; did you mean \"account\"?",
        ),
        (
            from_list(&["account.balanse"], one()),
            "unknown feature \"account.balanse\"; did you mean \"balance\"?",
        ),
    ];
    check(ErrorKind::NotFound, cases).await;
}

#[tokio::test]
async fn mistakes_in_keys_are_told_by_name() {
    let text = batch(&[("customer_id", texts(&[Some("1")]))]);
    let more = batch(&[("customer_id", ints(&[])), ("device", ints(&[]))]);
    let nothing = RecordBatch::new_empty(Arc::new(Schema::empty()));
    let cases = vec![
        (
            from_service("admission", text),
            "customer_id expects BIGINT, got VARCHAR",
        ),
        (
            from_service("admission", nothing),
            "the key column customer_id (BIGINT) is missing",
        ),
        (
            from_service("admission", more),
            "unknown key column \"device\" (this read takes customer_id BIGINT)",
        ),
        (
            from_service("admission", customers(&[Some(1); 4])),
            "the number of entities 4 is over the bound of 3",
        ),
    ];
    check(ErrorKind::InvalidArgument, cases).await;
}

#[tokio::test]
async fn mistakes_in_lists_are_told_by_name() {
    let cases = vec![
        (
            from_list(&["balance"], one()),
            "\"balance\" is not of the form view.feature or view.*",
        ),
        (
            from_list(&["account.balance", "account.*"], one()),
            "account.balance is asked for twice",
        ),
        (
            from_list(&[], one()),
            "name a feature service, or at least one feature as view.feature",
        ),
        (
            from_list(&["account.*", "profile.*"], one()),
            "account__balance and profile__balance are both named balance: ask for full names (view__feature, --full-names)",
        ),
        (
            from_list(&["a.b", "a.c", "a.d", "a.e"], one()),
            "the number of features 4 is over the bound of 3",
        ),
    ];
    check(ErrorKind::InvalidArgument, cases).await;
}

#[tokio::test]
async fn a_read_before_a_run_is_out_of_range() {
    let project = MemoryProject::new();
    let reader = ready(&project).await;
    let mut asked = from_list(&["account.balance"], customers(&[Some(1)]));
    for (at, strictly, answered) in [
        (day(90), false, true),
        (UtcMicros(day(90).0 - 1), false, false),
        (day(90), true, false),
        (UtcMicros(day(90).0 + 1), true, true),
    ] {
        (asked.as_of, asked.strictly_before) = (Some(at), strictly);
        let read = reader.read(asked.clone()).await;
        assert_eq!(read.is_ok(), answered, "{at} {strictly}");
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::OutOfRange);
            let message = error.to_string();
            assert!(
                message.starts_with("account: ") && message.contains(&day(90).to_string()),
                "{message}"
            );
        }
    }
    // Without a time of its own a read is as of now, whatever the clocks say.
    project.clock.set(day(50));
    (asked.as_of, asked.strictly_before) = (None, false);
    assert!(reader.read(asked).await.is_ok());
}

#[tokio::test]
async fn what_was_never_materialised_is_named() {
    let project = MemoryProject::new();
    assert_eq!(
        project
            .reader(ServingSettings::default())
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::FailedPrecondition
    );
    let (account, profile) = (account("1"), profile());
    let from = vec![
        bound("account", &account, &[]),
        bound("profile", &profile, &[]),
    ];
    let both = service("both", from, &[("b", "account", "balance")]);
    project
        .commit(definitions(&[account, profile], &[both]))
        .await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    assert!(!reader.is_complete());
    let keys = || customers(&[Some(1)]);
    let error = refusal(&reader, from_service("both", keys())).await;
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(
        error.to_string(),
        "never materialised: account, profile; run `granary materialize account profile`"
    );
    for _kept in [false, true] {
        let error = refusal(&reader, from_list(&["profile.segment"], keys())).await;
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert_eq!(
            error.to_string(),
            "never materialised: profile; run `granary materialize profile`"
        );
    }
    // What is kept ends with the state that it is of.
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let view = &snapshot.definitions.feature_views["profile"];
    let rows = profile_rows(&[(1, None, None)]);
    project.publish(view, &rows, day(90)).await;
    assert!(reader.refresh().await.unwrap());
    let read = reader.read(from_list(&["profile.segment"], keys())).await;
    assert!(read.is_ok());
}

#[tokio::test]
async fn what_is_for_training_sets_only_says_so() {
    let project = MemoryProject::new();
    let mut offline = view(
        "offline",
        ViewKind::Snapshot,
        &[customer_id()],
        &[column("n", FeatureType::BigInt)],
        "1",
    );
    offline.serve = ServeMode::Offline;
    project.commit(definitions(&[offline], &[])).await;
    let reader = project.reader(ServingSettings::default()).await.unwrap();
    let error = refusal(&reader, from_list(&["offline.n"], customers(&[]))).await;
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().starts_with("offline"), "{error}");
}

#[tokio::test]
async fn grants_are_to_the_caller_s_roles_where_they_are_enforced() {
    let project = MemoryProject::new();
    let open = ready(&project).await;
    let settings = ServingSettings {
        enforce_grants: true,
        ..ServingSettings::default()
    };
    let enforced = project.reader(settings).await.unwrap();
    let keys = || customers(&[Some(1)]);
    for (mut request, role, allowed) in [
        (from_service("admission", keys()), "risk", true),
        (from_service("admission", keys()), "marketing", false),
        (from_list(&["profile.segment"], keys()), "risk", true),
        (
            from_list(&["profile.segment", "account.balance"], keys()),
            "risk",
            false,
        ),
    ] {
        request.caller.roles = vec!["other".into(), role.into()];
        assert!(open.read(request.clone()).await.is_ok());
        let read = enforced.read(request).await;
        assert_eq!(read.is_ok(), allowed);
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            assert!(
                error.to_string().starts_with("test may not read a"),
                "{error}"
            );
        }
    }
}
