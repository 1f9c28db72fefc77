//! What a plan says of a change, and the version that a view gets.

use granary_catalog::{Change, ChangeAction, Plan};
use granary_model::definitions::{BoundView, Column, Grant, KeyBinding, KeySource, ServeMode};
use granary_model::fingerprint::Fingerprint;
use granary_model::{Definitions, FeatureType, Interval, ViewKind};

use crate::fixtures::{definitions, history, plain, service, view};

fn days(days: i32) -> Option<Interval> {
    Some(Interval {
        days,
        ..Interval::ZERO
    })
}

fn lines(changes: &[Change]) -> Vec<String> {
    let line = |c: &Change| format!("{:?} {c}", c.action);
    changes.iter().map(line).collect()
}

fn base() -> Definitions {
    let mut base = definitions([view("spend", "SELECT 1", &["a", "b"])]);
    base.services = [("risk".into(), service("risk", &["a"]))].into();
    base
}

/// Changes the base state, plans, and compares all of the plan's lines.
async fn check(change: impl FnOnce(&mut Definitions), expected: &[&str]) {
    let snapshot = history(vec![base()]).await;
    let mut desired = base();
    change(&mut desired);
    let plan = Plan::new(Some(&snapshot), desired);
    assert_eq!(lines(&plan.changes), expected);
    assert_eq!(plan.is_empty(), expected.is_empty());
}

#[tokio::test]
async fn nothing_changed() {
    check(|_| {}, &[]).await;
}

#[test]
fn a_first_plan_makes_everything_in_order() {
    let plan = Plan::new(None, base());
    assert_eq!(
        lines(&plan.changes),
        [
            "Create customer: new entity (customer_id BIGINT)",
            "Create clean: new view (0 columns)",
            "Create spend: new feature view (timestamped on customer, 2 features), version 1, needs a backfill",
            "Create risk: new feature service (1 feature)",
        ]
    );
    assert_eq!(plan.next.feature_views["spend"].version, 1);
}

#[tokio::test]
async fn a_changed_query_is_a_new_version() {
    let change = |d: &mut Definitions| {
        let mut new = view("spend", "SELECT 2", &["a", "c"]);
        new.entities = vec!["account".into()];
        new.kind = ViewKind::Snapshot;
        new.event_time = None;
        d.feature_views.insert("spend".into(), new);
    };
    let expected = "Replace spend: query changed, kind timestamped -> snapshot, \
        entity customer -> account, event time at removed, feature c added, feature b removed, \
        version 2, needs a backfill";
    check(change, &[expected]).await;
}

#[tokio::test]
async fn a_changed_source_is_told_of_its_readers() {
    let change = |d: &mut Definitions| {
        d.views.insert("clean".into(), plain("SELECT 2"));
        let spend = d.feature_views.get_mut("spend").unwrap();
        spend.fingerprint = Fingerprint::of(["SELECT 1", "over SELECT 2"]);
    };
    let expected = [
        "Alter clean: query changed",
        "Replace spend: reads changed clean, version 2, needs a backfill",
    ];
    check(change, &expected).await;
}

#[tokio::test]
async fn owners_comments_and_ttl_make_no_version() {
    let change = |d: &mut Definitions| {
        let spend = d.feature_views.get_mut("spend").unwrap();
        spend.ttl = days(30);
        spend.annotations.owner = Some("risk-data".into());
        spend.annotations.comment = Some("card spending".into());
        spend.annotations.tags = [("pii".into(), "none".into())].into();
        spend.features[0].comment = Some("first".into());
    };
    let expected = "Alter spend: feature a: comment changed, TTL 30 days added, \
        owner risk-data added, comment changed, tag pii none added, version 1, nothing to compute";
    check(change, &[expected]).await;
}

#[tokio::test]
async fn a_longer_ttl_brings_rows_back() {
    let mut before = base();
    before.feature_views.get_mut("spend").unwrap().ttl = days(30);
    let snapshot = history(vec![before.clone()]).await;
    for (ttl, expected) in [
        (
            days(60),
            "TTL 30 days -> 60 days, version 1, the next materialisation fills the online store",
        ),
        (
            None,
            "TTL 30 days removed, version 1, the next materialisation fills the online store",
        ),
        (
            days(7),
            "TTL 30 days -> 7 days, version 1, nothing to compute",
        ),
    ] {
        let mut desired = before.clone();
        desired.feature_views.get_mut("spend").unwrap().ttl = ttl;
        let plan = Plan::new(Some(&snapshot), desired);
        assert_eq!(lines(&plan.changes), [format!("Alter spend: {expected}")]);
    }
}

#[tokio::test]
async fn serving_elsewhere_says_what_it_costs() {
    let query = ServeMode::Query { cache_for: days(1) };
    let change = |d: &mut Definitions| {
        d.feature_views.get_mut("spend").unwrap().serve = query;
    };
    let expected =
        "Alter spend: SERVE ONLINE -> QUERY CACHE FOR 1 day, version 1, nothing to compute";
    check(change, &[expected]).await;

    let mut before = base();
    change(&mut before);
    let plan = Plan::new(Some(&*history(vec![before]).await), base());
    let expected =
        "Alter spend: SERVE QUERY CACHE FOR 1 day -> ONLINE, version 1, needs a backfill";
    assert_eq!(lines(&plan.changes), [expected]);
}

#[tokio::test]
async fn a_known_fingerprint_keeps_its_number() {
    let with = |query: &str| definitions([view("spend", query, &["a"])]);
    let snapshot = history(vec![
        with("SELECT 1"),
        with("SELECT 2"),
        definitions([]),
        with("SELECT 3"),
    ])
    .await;
    let back = Plan::new(Some(&snapshot), with("SELECT 1"));
    assert_eq!(
        lines(&back.changes),
        [
            "Replace spend: query changed, version 1, back to version 1: what it has materialised stays good, catch-up only"
        ]
    );
    assert_eq!(back.versions["spend"].len(), 3);
    let on = Plan::new(Some(&snapshot), with("SELECT 4"));
    assert_eq!(on.next.feature_views["spend"].version, 4);
    let records: Vec<_> = on.versions["spend"]
        .iter()
        .map(|r| (r.version, r.since_snapshot))
        .collect();
    assert_eq!(records, [(1, 1), (2, 2), (3, 4), (4, 5)]);
}

#[tokio::test]
async fn drops_and_grants_are_shown_in_order() {
    let change = |d: &mut Definitions| {
        *d = Definitions::default();
        d.grants.insert(Grant {
            object: "risk".into(),
            role: "risk-team".into(),
        });
    };
    let expected = [
        "Create risk: READ granted to role risk-team",
        "Drop risk: feature service dropped",
        "Drop spend: feature view dropped",
        "Drop clean: view dropped",
        "Drop customer: entity dropped",
    ];
    check(change, &expected).await;
}

#[tokio::test]
async fn a_revoked_grant_is_a_drop() {
    let mut before = base();
    before.grants.insert(Grant {
        object: "risk".into(),
        role: "sales".into(),
    });
    let plan = Plan::new(Some(&*history(vec![before]).await), base());
    assert_eq!(
        lines(&plan.changes),
        ["Drop risk: READ revoked from role sales"]
    );
    assert_eq!(plan.changes[0].action, ChangeAction::Drop);
}

#[tokio::test]
async fn a_services_features_are_compared_by_name_and_order() {
    let change = |d: &mut Definitions| {
        d.services
            .insert("risk".into(), service("risk", &["b", "a"]));
    };
    check(change, &["Alter risk: feature b added"]).await;
}

#[tokio::test]
async fn keys_that_come_from_features_are_shown() {
    let entry = |alias: &str, source: KeySource| BoundView {
        alias: alias.into(),
        view: "spend".into(),
        keys: vec![KeyBinding {
            key: Column::new("customer_id", FeatureType::BigInt),
            source,
        }],
    };
    let other = || KeySource::Feature {
        alias: "spend".into(),
        feature: "b".into(),
    };
    let request = || KeySource::Request("customer_id".into());
    let change = |d: &mut Definitions| {
        let mut made = service("chain", &["a"]);
        made.from = vec![entry("spend", request()), entry("other", other())];
        d.services.insert("chain".into(), made);
        let risk = d.services.get_mut("risk").unwrap();
        risk.from.push(entry("other", other()));
    };
    let expected = [
        "Create chain: new feature service (1 feature), reads spend AS other KEY (customer_id => spend.b)",
        "Alter risk: reads spend AS other KEY (customer_id => spend.b) added",
    ];
    check(change, &expected).await;
}
