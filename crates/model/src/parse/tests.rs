//! What good statements come out as.

use super::*;
use crate::statement::*;
use crate::{FeatureType, Interval};

fn parse(sql: &str) -> Vec<StatementKind> {
    let file = SourceFile::new("test.sql", sql);
    let (statements, diagnostics) = parse_file(&file);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    statements.into_iter().map(|s| s.kind).collect()
}

fn one(sql: &str) -> StatementKind {
    let mut all = parse(sql);
    assert_eq!(all.len(), 1, "{sql}");
    all.remove(0)
}

fn values(names: &[Ident]) -> Vec<&str> {
    names.iter().map(|n| n.value.as_str()).collect()
}

/// The example that the grammar is told by.
#[test]
fn the_lenders_example() {
    let statements = parse(include_str!("../../tests/it/good/lender.sql"));
    assert_eq!(statements.len(), 11);
    let StatementKind::CreateFeatureView(spend) = &statements[5] else {
        panic!("customer_spend");
    };
    assert!(spend.query.text.starts_with("SELECT customer_id,\n"));
    assert!(spend.query.text.ends_with("CURRENT ROW)"));
    assert_eq!(spend.annotations.owner.as_deref(), Some("risk-data"));
    assert_eq!(spend.annotations.tags["pii"], "none");
    let StatementKind::CreateFeatureView(profile) = &statements[6] else {
        panic!("customer_profile");
    };
    let two_years = Interval {
        months: 24,
        ..Interval::ZERO
    };
    assert_eq!(profile.ttl.as_ref().map(|(ttl, _)| *ttl), Some(two_years));
    let StatementKind::CreateOnDemandView(affordability) = &statements[7] else {
        panic!("affordability");
    };
    assert_eq!(affordability.inputs[1].data_type, FeatureType::Int);
    assert!(affordability.select.text.ends_with("AS loan_to_income"));
    assert_eq!(affordability.from[0].view.value, "customer_profile");
    let StatementKind::CreateService(service) = &statements[8] else {
        panic!("risk_admission");
    };
    assert!(
        matches!(&service.items[0], ServiceItem::All { view } if view.value == "customer_spend")
    );
    let guarantor = &service.from[2];
    assert_eq!(
        guarantor.alias.as_ref().map(|a| a.value.as_str()),
        Some("guarantor")
    );
    assert!(
        matches!(&guarantor.keys[0].source, KeyExpression::Name(n) if n.value == "guarantor_id")
    );
    let device = &service.from[3].keys[0];
    assert!(
        matches!(&device.source, KeyExpression::Feature { alias, feature }
            if alias.value == "customer_profile" && feature.value == "last_device_id")
    );
}

#[test]
fn clauses_stand_in_any_order() {
    let StatementKind::CreateFeatureView(view) = one(
        "create feature view V comment 'c' serve query cache for interval '10 minutes' \
         ttl interval 7 day max events 500 refresh every interval '1' day then by (a, \"B\") \
         created time w event time \"At\" tags (x = 'y', z = 'w') entity customer, device \
         owner 'o' as (select 1)",
    ) else {
        panic!("a feature view");
    };
    assert_eq!(view.name.value, "v");
    assert_eq!(values(&view.entities), ["customer", "device"]);
    assert_eq!(values(&view.then_by), ["a", "B"]);
    assert_eq!(view.event_time.map(|n| n.value).as_deref(), Some("At"));
    assert_eq!(view.created_time.map(|n| n.value).as_deref(), Some("w"));
    assert_eq!(view.max_events.map(|(n, _)| n), Some(500));
    assert_eq!(view.ttl.map(|(i, _)| i.days), Some(7));
    assert_eq!(view.refresh_every.map(|(i, _)| i.days), Some(1));
    let cache_for = Some(Interval::from_micros(600_000_000));
    assert_eq!(
        view.serve.map(|(s, _)| s),
        Some(ServeClause::Query { cache_for })
    );
    assert_eq!(view.query.text, "(select 1)");
    assert_eq!(view.annotations.tags.len(), 2);
}

#[test]
fn kept_text_leads_back_to_the_file() {
    let sql = "\n-- é\nCREATE VIEW \"Vé\" AS /* c; */\n  SELECT 'é;' AS x,\n\ty FROM t -- end\n;";
    let file = SourceFile::new("test.sql", sql);
    let (statements, diagnostics) = parse_file(&file);
    assert!(diagnostics.is_empty(), "{diagnostics}");
    let StatementKind::CreateView(view) = &statements[0].kind else {
        panic!("a view");
    };
    assert_eq!(view.name.value, "Vé");
    assert_eq!(statements[0].span.start.to_string(), "3:1");
    assert_eq!(statements[0].span.end.to_string(), "5:10");
    assert!(view.sql.text.starts_with("CREATE VIEW") && view.sql.text.ends_with("FROM t"));
    let name = view.sql.find_name("y").expect("y stands there");
    assert_eq!(name.to_string(), "test.sql:5:2");
    assert_eq!(view.sql.location(1, 13).to_string(), "3:13");
    assert_eq!(view.sql.location(3, 2).to_string(), "5:2");
    assert_eq!(view.sql.location(0, 0).to_string(), "3:1");
    assert_eq!(view.sql.location(99, 1), view.sql.span.end);
    assert_eq!(view.sql.span_between((0, 0), (0, 0)), view.sql.span);
    let byte = view.sql.text.find("y FROM").expect("stands there");
    assert_eq!(view.sql.span_of(byte..byte + 1), name);
    assert_eq!(view.sql.find_name("nothing"), None);
}

#[test]
fn a_query_inside_of_a_line_starts_where_it_stands() {
    let file = SourceFile::new(
        "test.sql",
        "CREATE FEATURE VIEW v ENTITY e AS SELECT a FROM b",
    );
    let (statements, _) = parse_file(&file);
    let StatementKind::CreateFeatureView(view) = &statements[0].kind else {
        panic!("a feature view");
    };
    assert_eq!(view.query.text, "SELECT a FROM b");
    assert_eq!(
        view.query.span_between((1, 8), (1, 9)).to_string(),
        "test.sql:1:42"
    );
}

/// A definition that did not parse keeps its name.
#[test]
fn broken_definitions_are_known_by_name() {
    let file = SourceFile::new(
        "test.sql",
        "CREATE ENTITY a KEY (x BIGNT);\n\
         CREATE FEATURE VIEW b ENTITY a TTL SELECT 1;\n\
         CREATE EXTERNAL TABLE c;\n\
         CREATE ENTITY;\n\
         GRANT READ ON d;\n\
         CREATE ENTITY e KEY (x BIGINT) COMMENT 'open;\n\
         CREATE ENTITY f KEY (x BIGINT);",
    );
    let (statements, diagnostics) = parse_file(&file);
    let names: Vec<(&str, bool)> = statements
        .iter()
        .map(|s| match &s.kind {
            StatementKind::Broken(name) => (name.value.as_str(), true),
            StatementKind::CreateEntity(entity) => (entity.name.value.as_str(), false),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        names,
        [
            ("a", true),
            ("b", true),
            ("c", true),
            ("e", true),
            ("f", false)
        ]
    );
    assert_eq!(diagnostics.len(), 6, "{diagnostics}");
}
