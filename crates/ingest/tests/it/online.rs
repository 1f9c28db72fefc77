//! What is online is what is committed, whatever happened in between.

use granary_catalog::Plan;
use granary_ingest::{
    Filled, MaterializeRequest, MaterializerSettings, OlderVersion, SinkSettings, live_definitions,
    sweep, view_statuses,
};
use granary_model::Interval;
use granary_model::definitions::ServeMode;
use granary_model::fingerprint::Fingerprint;
use granary_store::MemoryStore;
use std::sync::Arc;

use crate::project::{Event, Project, at, event, lines, request, spend, total};

fn ttl(days: i32) -> Option<Interval> {
    Some(Interval {
        days,
        ..Interval::ZERO
    })
}

/// Several events a customer, in no order, with ties by event time and late rows.
fn many() -> Vec<Event> {
    let mut events = Vec::new();
    for n in 0..400_i64 {
        let mut e = event(n * 7 % 19, "2025-01-01", (n % 13) as f64 / 2.0);
        e.at.0 += (n * 37 % 90) * 86_400_000_000;
        e.written.0 = e.at.0 + (n % 5) * 3_600_000_000;
        events.push(e);
    }
    events
}

#[tokio::test]
async fn online_is_the_newest_offline_row_of_every_key() {
    for project in [Project::new(), Project::embedded()] {
        project.write(&many());
        for as_of in ["2025-01-15", "2025-01-16", "2025-02-20", "2025-04-30"] {
            let outcomes = project.run(&["spend", "total"], as_of).await;
            assert!(outcomes.iter().all(|o| o.ends_with("rows")), "{outcomes:?}");
            assert_eq!(
                project.online("spend").await,
                spend(&many(), as_of),
                "{as_of}"
            );
            assert_eq!(
                project.online("total").await,
                total(&many(), as_of),
                "{as_of}"
            );
        }
    }
}

#[tokio::test]
async fn a_view_without_rows_is_online_and_empty() {
    let project = Project::new();
    project.write(&[]);
    assert_eq!(
        project.run(&["spend", "total"], "2025-01-31").await,
        ["spend 2025-01-31: 0 rows", "total 2025-01-31: 0 rows"]
    );
    assert!(project.online("spend").await.is_empty());
    assert!(project.online("total").await.is_empty());
    // A snapshot view that becomes empty forgets what it had.
    project.write(&many());
    project.run(&["total"], "2025-02-01").await;
    assert!(!project.online("total").await.is_empty());
    project.write(&[]);
    project.run(&["total"], "2025-02-02").await;
    assert!(project.online("total").await.is_empty());
}

#[tokio::test]
async fn an_empty_store_is_filled_from_what_is_committed() {
    let mut project = Project::new();
    project.write(&many());
    project.change("grade", |v| v.serve = ServeMode::Offline);
    for as_of in ["2025-01-15", "2025-03-01"] {
        project.run(&["spend", "total"], as_of).await;
    }
    // Another replica, which has seen nothing.
    project.store = Arc::new(MemoryStore::new());
    let filled = project.materializer().catch_up(&project.snapshot).await;
    let rows: Vec<_> = filled
        .into_iter()
        .map(|(view, filled)| match filled.unwrap() {
            Filled::Written { rows, .. } => format!("{view} {rows}"),
            other => format!("{view} {other:?}"),
        })
        .collect();
    let expected = many().iter().filter(|e| e.at <= at("2025-03-01")).count();
    assert_eq!(
        rows,
        [
            "above_twice NothingOffline".to_owned(),
            "doubled NothingOffline".into(),
            format!("spend {expected}"),
            "total 19".into(),
            "twice NothingOffline".into()
        ]
    );
    assert_eq!(project.online("spend").await, spend(&many(), "2025-03-01"));
    assert_eq!(project.online("total").await, total(&many(), "2025-03-01"));
    let again = project.materializer().catch_up(&project.snapshot).await;
    for (view, filled) in again {
        let filled = filled.unwrap();
        let nothing = matches!(filled, Filled::UpToDate(_) | Filled::NothingOffline);
        assert!(nothing, "{view} {filled:?}");
    }
}

#[tokio::test]
async fn expired_rows_stay_until_they_are_swept_and_come_back_with_a_longer_ttl() {
    let events = [event(1, "2025-01-01", 1.0), event(2, "2025-01-30", 2.0)];
    let mut project = Project::new();
    project.change("spend", |v| v.ttl = ttl(10));
    project.write(&events);
    project.run(&["spend"], "2025-01-31").await;
    assert_eq!(project.online("spend").await.len(), 2);
    let now = at("2026-01-01");
    let swept = sweep(project.store.as_ref(), &project.snapshot, now)
        .await
        .unwrap();
    assert_eq!(swept, 1, "what was fresh as of the run stays");
    assert_eq!(
        project.online("spend").await,
        spend(&events[1..], "2025-01-31")
    );

    project.change("spend", |v| v.ttl = ttl(60));
    let outcomes = project.run(&["spend"], "2025-01-31").await;
    assert!(outcomes[0].contains("skipped"), "{outcomes:?}");
    assert_eq!(project.online("spend").await, spend(&events, "2025-01-31"));
}

#[tokio::test]
async fn expired_rows_can_be_left_out() {
    let events = [event(1, "2025-01-01", 1.0), event(2, "2025-01-21", 2.0)];
    let mut project = Project::new();
    project.change("spend", |v| v.ttl = ttl(10));
    project.write(&events);
    let settings = MaterializerSettings {
        sink: SinkSettings {
            leave_out_expired: true,
            ..SinkSettings::default()
        },
        ..MaterializerSettings::default()
    };
    let materializer = project.materializer_with(settings);
    let request = request(&["spend"], "2025-01-31");
    let progress = Arc::new(granary_ingest::Silent);
    let outcomes = materializer.materialize(&project.snapshot, request, progress);
    assert_eq!(lines(outcomes.await.unwrap()), ["spend 2025-01-31: 2 rows"]);
    // Age exactly the TTL is fresh.
    assert_eq!(
        project.online("spend").await,
        spend(&events[1..], "2025-01-31")
    );
}

#[tokio::test]
async fn superseded_versions_go_when_all_views_are_online() {
    let mut project = Project::new();
    project.write(&many());
    let definitions = &mut project.snapshot.definitions.feature_views;
    definitions.retain(|name, _| name == "spend" || name == "total");
    project.run(&["spend", "total"], "2025-03-01").await;
    let versions = async |project: &Project| -> Vec<(String, u32)> {
        let mut all: Vec<_> = project.store.generations().await.unwrap();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.into_iter().map(|g| (g.id.view, g.id.version)).collect()
    };
    let now = at("2026-01-01");
    project.change("spend", |v| v.version = 2);
    sweep(project.store.as_ref(), &project.snapshot, now)
        .await
        .unwrap();
    let expected = [("spend".to_owned(), 1), ("total".into(), 1)];
    assert_eq!(versions(&project).await, expected);
    project.run(&["spend"], "2025-03-01").await;
    project.snapshot.definitions.feature_views.remove("total");
    sweep(project.store.as_ref(), &project.snapshot, now)
        .await
        .unwrap();
    assert_eq!(versions(&project).await, [("spend".to_owned(), 2)]);
    // Version 3 is a newer snapshot's, which this one never heard of: it stays.
    project.change("spend", |v| v.version = 3);
    project.run(&["spend"], "2025-03-01").await;
    project.change("spend", |v| v.version = 2);
    sweep(project.store.as_ref(), &project.snapshot, now)
        .await
        .unwrap();
    let expected = [("spend".to_owned(), 2), ("spend".into(), 3)];
    assert_eq!(versions(&project).await, expected);
}

#[tokio::test]
async fn the_status_tells_what_is_committed_and_what_is_online() {
    let mut project = Project::new();
    project.write(&many());
    project.run(&["spend", "total"], "2025-02-01").await;
    project.change("spend", |v| v.serve = ServeMode::Offline);
    project.run(&["spend"], "2025-03-01").await;
    let statuses = view_statuses(
        &project.engine,
        project.store.as_ref(),
        &project.catalog,
        &project.snapshot,
        1,
    );
    let statuses = statuses.await.unwrap();
    let told: Vec<_> = statuses
        .iter()
        .map(|s| {
            let runs: Vec<_> = s.runs.iter().map(|r| r.as_of).collect();
            (s.view.as_str(), s.watermark, s.online_lags(), runs)
        })
        .collect();
    let (february, march) = (at("2025-02-01"), at("2025-03-01"));
    assert_eq!(
        told,
        [
            ("above_twice", None, false, vec![]),
            ("doubled", None, false, vec![]),
            ("grade", None, false, vec![]),
            ("spend", Some(march), true, vec![march]),
            ("total", Some(february), false, vec![february]),
            ("twice", None, false, vec![]),
        ]
    );
}

/// Until a changed view has run its older version answers, unless the name was
/// gone in between.
#[tokio::test]
async fn the_status_tells_which_version_answers() {
    let mut project = Project::new();
    project.write(&many());
    let first = Plan::new(None, project.snapshot.definitions.clone());
    let first = project.catalog.commit(&first, "test").await.unwrap();
    project.run(&["spend"], "2025-02-01").await;
    project.change("spend", |v| v.fingerprint = Fingerprint::of(["changed"]));
    let changed = project.snapshot.definitions.clone();
    let mut without = changed.clone();
    without.feature_views.remove("spend");
    let mut newest = first;
    for (definitions, answers) in [(changed.clone(), Some(1)), (without, None), (changed, None)] {
        let plan = Plan::new(Some(&newest), definitions);
        newest = project.catalog.commit(&plan, "test").await.unwrap();
        let (engine, store) = (&project.engine, project.store.as_ref());
        let statuses = view_statuses(engine, store, &project.catalog, &newest, 1);
        let statuses = statuses.await.unwrap();
        let spend = statuses.iter().find(|status| status.view == "spend");
        let told = spend.map(|s| (s.version, s.watermark, s.online.is_some()));
        assert!(told.is_none_or(|told| told == (2, None, false)), "{told:?}");
        let older = spend.and_then(|s| s.older_online.as_ref());
        assert_eq!(older.map(|g| g.id.version), answers);
    }
}

#[tokio::test]
async fn a_rebuilt_generation_serves_whoever_pinned_the_old_one() {
    let project = Project::embedded();
    project.write(&many());
    project.run(&["total"], "2025-02-01").await;
    let pinned = project.store.generation("total", 1).await.unwrap().unwrap();
    let forced = MaterializeRequest {
        force: true,
        ..request(&["total"], "2025-02-01")
    };
    project.materialize(forced).await.unwrap();
    let published = project.published("total").await.unwrap();
    assert!(published.id.number > pinned.state().id.number);
    assert_eq!(project.online("total").await, total(&many(), "2025-02-01"));
}

/// A commit whose record nobody can read may have taken rows away.
#[tokio::test]
async fn an_unreadable_record_of_a_run_hides_no_replacement() {
    let project = Project::new();
    project.write(&many());
    project.run(&["spend"], "2025-02-20").await;
    let published = project.published("spend").await.unwrap();
    let mut fewer = many();
    fewer.retain(|e| e.customer != 3);
    project.write(&fewer);
    let forced = MaterializeRequest {
        force: true,
        ..request(&["spend"], "2025-02-20")
    };
    // Committed, and not brought online: by a store of another replica.
    let other: Arc<dyn granary_store::OnlineStore> = Arc::new(MemoryStore::new());
    let materializer = granary_ingest::Materializer::new(
        project.engine.clone(),
        project.catalog.clone(),
        other,
        project.clock.clone(),
        MaterializerSettings::default(),
    );
    materializer
        .materialize(&project.snapshot, forced, Arc::new(granary_ingest::Silent))
        .await
        .unwrap();
    let log = project.folder.join("root/offline/spend/v1/_delta_log");
    let entry = log.join(format!(
        "{:020}.json",
        published.coverage.offline_version + 1
    ));
    let text = std::fs::read_to_string(&entry).unwrap();
    assert!(text.contains("\\\"mode\\\":\\\"replace\\\""), "{text}");
    std::fs::write(&entry, text.replace("\\\"mode\\\":", "\\\"manner\\\":")).unwrap();
    project.materializer().catch_up(&project.snapshot).await;
    assert_eq!(
        project.online("spend").await,
        spend(&fewer, "2025-02-20"),
        "customer 3 is gone"
    );
}

#[tokio::test]
async fn a_changed_view_is_explored_as_it_was_until_it_has_run() {
    let mut project = Project::new();
    project.write(&many());
    let mut definitions = project.snapshot.definitions.clone();
    for view in definitions.feature_views.values_mut() {
        view.version = 0;
    }
    let first = Plan::new(None, definitions.clone());
    let first = project.catalog.commit(&first, "test").await.unwrap();
    project.snapshot = (*first).clone();
    project.run(&["total", "spend"], "2025-02-20").await;
    let change = |definitions: &mut granary_model::Definitions, name: &str| {
        let view = definitions.feature_views.get_mut(name).unwrap();
        view.query += " -- changed";
        view.fingerprint = Fingerprint::of([&view.query]);
    };
    for name in ["total", "grade"] {
        change(&mut definitions, name);
    }
    let doubled = definitions.feature_views.get_mut("doubled").unwrap();
    doubled.serve = ServeMode::Query { cache_for: None };
    doubled.query = "SELECT customer_id, total * 3 AS doubled FROM total".into();
    doubled.fingerprint = Fingerprint::of([&doubled.query]);
    let second = Plan::new(Some(&first), definitions.clone());
    let second = project.catalog.commit(&second, "test").await.unwrap();
    let live = async || {
        live_definitions(&project.engine, &project.catalog, &second)
            .await
            .unwrap()
    };
    let (definitions, older) = live().await;
    // `grade` has never run at all, `doubled` neither when it was materialised.
    assert_eq!(
        older,
        [OlderVersion {
            view: "total".into(),
            version: 1,
            newest: 2
        }]
    );
    assert_eq!(definitions.feature_views["total"].version, 1);
    assert_eq!(definitions.feature_views["grade"].version, 2);
    assert_eq!(definitions.feature_views["spend"].version, 1);
    project.snapshot = (*second).clone();
    project.run(&["total"], "2025-02-20").await;
    let (definitions, older) = live_definitions(&project.engine, &project.catalog, &second)
        .await
        .unwrap();
    assert_eq!((definitions, older), (second.definitions.clone(), vec![]));
}
