//! Descriptions of a small set of definitions, made by hand.

use granary_model::definitions::{Grant, KeyBinding, ServiceFeature, WindowAggregate};
use granary_model::fingerprint::Fingerprint;
use granary_model::{FeatureType, Interval, ViewKind};

use super::*;

fn definitions() -> Definitions {
    let customer_id = Column::new("customer_id", FeatureType::BigInt);
    let mut d = Definitions::default();
    d.entities.insert(
        "customer".into(),
        Entity {
            name: "customer".into(),
            keys: vec![customer_id.clone()],
            annotations: Annotations::default(),
        },
    );
    d.feature_views
        .insert("account".into(), account(customer_id.clone()));
    let renamed = KeyBinding {
        key: customer_id,
        source: KeySource::Request("guarantor_id".into()),
    };
    d.services.insert(
        "admission".into(),
        FeatureService {
            name: "admission".into(),
            from: vec![BoundView {
                alias: "guarantor".into(),
                view: "account".into(),
                keys: vec![renamed],
            }],
            features: vec![ServiceFeature {
                name: "guarantor_balance".into(),
                view_alias: "guarantor".into(),
                feature: "balance".into(),
                aggregate: None,
            }],
            annotations: Annotations::default(),
        },
    );
    d.grants.insert(Grant {
        object: "admission".into(),
        role: "risk".into(),
    });
    d
}

fn account(customer_id: Column) -> FeatureView {
    let mut balance = Column::new("balance", FeatureType::Double);
    balance.comment = Some("end of day".into());
    FeatureView {
        name: "account".into(),
        version: 3,
        fingerprint: Fingerprint::of(["account"]),
        kind: ViewKind::Timestamped,
        entities: vec!["customer".into()],
        keys: vec![customer_id],
        event_time: Some("at".into()),
        created_time: None,
        then_by: Vec::new(),
        ttl: Some(Interval {
            days: 30,
            ..Interval::ZERO
        }),
        max_events: None,
        refresh_every: None,
        serve: ServeMode::Online,
        query: "SELECT customer_id, at, balance FROM accounts".into(),
        features: vec![balance],
        depends_on: vec!["accounts".into()],
        current_state: Vec::new(),
        calls_as_of: false,
        live: false,
        windows: Vec::new(),
        annotations: Annotations {
            owner: Some("risk".into()),
            ..Annotations::default()
        },
    }
}

#[test]
fn a_feature_view_tells_its_columns_and_neighbours() {
    let told = describe(&definitions(), "account").unwrap();
    let columns: Vec<_> = told
        .columns
        .iter()
        .map(|c| (c.name.as_str(), c.role.as_str(), c.data_type.as_str()))
        .collect();
    assert_eq!(
        columns,
        [
            ("customer_id", "key", "BIGINT"),
            ("at", "event time", "TIMESTAMP"),
            ("balance", "feature", "DOUBLE"),
        ]
    );
    assert_eq!(told.summary.version, Some(3));
    assert_eq!(told.properties["ttl"], "30 days");
    assert_eq!(told.properties["kind"], "timestamped");
    assert_eq!(told.depends_on, ["accounts", "customer"]);
    assert_eq!(told.used_by, ["admission"]);
}

#[test]
fn a_windowed_view_tells_its_windows_and_that_nobody_is_unknown() {
    let mut d = definitions();
    let view = d.feature_views.get_mut("account").unwrap();
    view.kind = ViewKind::Windowed;
    view.windows = vec![WindowAggregate {
        aggregate: "sum(amount)".into(),
        frame: "RANGE 7 days TO 0 seconds".into(),
    }];
    let told = describe(&d, "account").unwrap().properties;
    assert_eq!(told["kind"], "windowed");
    assert_eq!(
        told["windows"],
        "sum(amount) OVER RANGE 7 days TO 0 seconds"
    );
    assert_eq!(
        told["keys without events"],
        "answered: count is 0, other aggregates are NULL"
    );
}

#[test]
fn a_service_tells_where_its_features_and_keys_come_from() {
    let told = describe(&definitions(), "admission").unwrap();
    assert_eq!(told.columns[0].name, "guarantor_id");
    assert_eq!(told.columns[0].role, ColumnRole::Key);
    assert_eq!(told.columns[1].source.as_deref(), Some("account.balance"));
    assert_eq!(told.columns[1].comment.as_deref(), Some("end of day"));
    assert_eq!(
        told.properties["from account as guarantor"],
        "KEY (customer_id => guarantor_id)"
    );
    assert_eq!(told.properties["granted to"], "risk");
}

#[test]
fn a_key_from_a_feature_is_told_and_is_no_key_of_the_request() {
    let mut d = definitions();
    let admission = d.services.get_mut("admission").unwrap();
    let mut chained = admission.from[0].clone();
    chained.alias = "account".into();
    chained.keys[0].source = KeySource::Feature {
        alias: "guarantor".into(),
        feature: "balance".into(),
    };
    admission.from.push(chained);
    let told = describe(&d, "admission").unwrap();
    let keys = told.columns.iter().filter(|c| c.role == ColumnRole::Key);
    let keys: Vec<_> = keys.map(|c| c.name.as_str()).collect();
    assert_eq!(keys, ["guarantor_id"]);
    assert_eq!(
        told.properties["from account"],
        "KEY (customer_id => guarantor.balance)"
    );
}

#[test]
fn what_nothing_is_named_is_none_and_a_list_holds_every_object() {
    assert_eq!(describe(&definitions(), "nothing"), None);
    let names: Vec<String> = summaries(&definitions())
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, ["account", "admission", "customer"]);
}
