//! Runs: what they commit, once, and what they refuse.

use std::sync::Mutex;

use granary_engine::{EngineError, OfflineTable, RunMode, RunScope};
use granary_model::{Clock, ErrorKind, FeatureView, UtcMicros};

use crate::project::{Project, at};

pub(crate) const EVENTS: &str = "SELECT * FROM (VALUES
    (1, to_timestamp('2025-01-05T00:00:00'), 10.0),
    (2, to_timestamp('2025-01-06T00:00:00'), 20.0),
    (1, to_timestamp('2025-02-05T00:00:00'), 11.0),
    (3, to_timestamp('2025-03-01T00:00:00'), 30.0)) AS t(customer_id, at, amount)";

pub(crate) async fn timestamped(events: &str) -> (Project, FeatureView) {
    let mut project = Project::new();
    project.table_from_sql("event", events, Some("at")).await;
    let view = project
        .feature_view("spend", &["customer_id"], &["at"], "SELECT * FROM event")
        .await;
    (project, view)
}

pub(crate) async fn snapshot(rows: &str) -> (Project, FeatureView) {
    let mut project = Project::new();
    project.table_from_sql("event", rows, Some("at")).await;
    let query = "SELECT customer_id, sum(amount) AS total FROM event GROUP BY customer_id";
    let view = project
        .feature_view("total", &["customer_id"], &[], query)
        .await;
    (project, view)
}

#[tokio::test]
async fn an_appending_run_adds_what_is_new_and_a_repeated_one_is_refused() {
    let (project, view) = timestamped(EVENTS).await;
    let first = project
        .run(&view, "2025-01-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(
        (first.rows, first.offline_version, first.from),
        (2, 0, None)
    );
    let second = project
        .run(&view, "2025-03-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!((second.rows, second.offline_version), (2, 1));
    assert_eq!(second.from, Some(at("2025-01-31")));
    for earlier in ["2025-03-31", "2025-02-01"] {
        let again = project.run(&view, earlier, RunMode::Append).await;
        assert!(
            matches!(again, Err(EngineError::AlreadyRun { .. })),
            "{again:?}"
        );
    }
    let table = project.open(&view).await;
    assert_eq!(table.watermark(), at("2025-03-31"));
    assert_eq!(table.runs(5).await.unwrap(), vec![second, first]);
    assert_eq!(
        project.online(&view, None, None).await,
        [
            "1|2025-01-05T00:00:00Z|10.0",
            "1|2025-02-05T00:00:00Z|11.0",
            "2|2025-01-06T00:00:00Z|20.0",
            "3|2025-03-01T00:00:00Z|30.0",
        ]
    );
    assert_eq!(
        project.online(&view, Some(0), None).await,
        ["1|2025-02-05T00:00:00Z|11.0", "3|2025-03-01T00:00:00Z|30.0"]
    );
    assert_eq!(project.online(&view, Some(1), None).await, [""; 0]);
    assert_eq!(
        project.online(&view, None, Some("2025-02-05")).await,
        ["1|2025-02-05T00:00:00Z|11.0", "3|2025-03-01T00:00:00Z|30.0"]
    );
}

#[tokio::test]
async fn snapshot_runs_stand_beside_each_other() {
    let (project, view) = snapshot(EVENTS).await;
    for as_of in ["2025-02-28", "2025-01-31"] {
        project.run(&view, as_of, RunMode::Append).await.unwrap();
    }
    let again = project.run(&view, "2025-01-31", RunMode::Append).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let table = project.open(&view).await;
    assert_eq!(
        table.run_times().await.unwrap(),
        [at("2025-01-31"), at("2025-02-28")]
    );
    assert_eq!(table.watermark(), at("2025-02-28"));
    assert_eq!(
        project.online(&view, None, None).await,
        ["1|21.0", "2|20.0"]
    );
    let sql = "SELECT * FROM total ORDER BY 1";
    let cases = [
        ("2025-01-30", vec![]),
        ("2025-01-31", vec!["1|10.0", "2|20.0"]),
        ("2025-02-27", vec!["1|10.0", "2|20.0"]),
        ("2025-12-31", vec!["1|21.0", "2|20.0"]),
    ];
    for (as_of, expected) in cases {
        assert_eq!(
            project.sql(Some(as_of), sql).await,
            expected,
            "as of {as_of}"
        );
    }
    assert_eq!(
        project
            .sql(
                None,
                "SELECT _as_of, count(*), max(_created) FROM total GROUP BY 1 ORDER BY 1"
            )
            .await,
        [
            "2025-01-31T00:00:00Z|2|2026-01-01T00:00:00Z",
            "2025-02-28T00:00:00Z|2|2026-01-01T00:00:00Z"
        ]
    );
}

#[tokio::test]
async fn a_snapshot_run_without_rows_is_the_newest_run_all_the_same() {
    let (project, view) = snapshot(EVENTS).await;
    let empty = project
        .run(&view, "2024-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!((empty.rows, empty.columns.len()), (0, 2));
    assert_eq!(project.online(&view, None, None).await, [""; 0]);
    let table = project.open(&view).await;
    assert_eq!(table.run_times().await.unwrap(), [at("2024-12-31")]);
    let again = project.run(&view, "2024-12-31", RunMode::Append).await;
    assert!(matches!(again, Err(EngineError::AlreadyRun { .. })));
    assert_eq!(
        project
            .sql(Some("2025-01-01"), "SELECT count(*) FROM total")
            .await,
        ["0"]
    );
}

#[tokio::test]
async fn a_timestamped_run_without_rows_moves_the_watermark() {
    let (project, view) = timestamped(EVENTS).await;
    assert!(
        OfflineTable::open(&project.engine, &view)
            .await
            .unwrap()
            .is_none()
    );
    let empty = project
        .run(&view, "2024-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(empty.rows, 0);
    assert_eq!(project.open(&view).await.watermark(), at("2024-12-31"));
    assert_eq!(project.sql(None, "SELECT count(*) FROM spend").await, ["0"]);
    let next = project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!((next.rows, next.from), (4, Some(at("2024-12-31"))));
}

#[tokio::test]
async fn late_rows_come_in_by_replacing_their_range() {
    let (mut project, view) = timestamped(EVENTS).await;
    for as_of in ["2025-01-31", "2025-03-31"] {
        project.run(&view, as_of, RunMode::Append).await.unwrap();
    }
    let late = format!(
        "{EVENTS} UNION ALL SELECT 7, to_timestamp('2025-02-20T00:00:00'), 70.0 \
         UNION ALL SELECT 8, to_timestamp('2025-01-02T00:00:00'), 80.0"
    );
    project.table_from_sql("event", &late, Some("at")).await;
    let record = project
        .run_scope(&view, Some("2025-02-01"), "2025-03-15", RunMode::Replace)
        .await
        .unwrap();
    assert_eq!(record.rows, 3);
    let expected = [
        "1|2025-01-05T00:00:00Z|10.0",
        "1|2025-02-05T00:00:00Z|11.0",
        "2|2025-01-06T00:00:00Z|20.0",
        "3|2025-03-01T00:00:00Z|30.0",
        "7|2025-02-20T00:00:00Z|70.0",
    ];
    assert_eq!(project.online(&view, None, None).await, expected);
    assert_eq!(project.open(&view).await.watermark(), at("2025-03-31"));
    // A range that cuts through files keeps their other rows and who wrote them.
    project
        .run_scope(&view, Some("2025-01-05"), "2025-01-06", RunMode::Replace)
        .await
        .unwrap();
    assert_eq!(project.online(&view, None, None).await, expected);
    let written = project
        .sql(
            None,
            "SELECT customer_id, _as_of FROM spend WHERE at < '2025-02-01' ORDER BY at",
        )
        .await;
    assert_eq!(
        written,
        ["1|2025-01-31T00:00:00Z", "2|2025-01-06T00:00:00Z"]
    );
}

#[tokio::test]
async fn a_replaced_snapshot_run_leaves_the_others_alone() {
    let (mut project, view) = snapshot(EVENTS).await;
    for as_of in ["2025-01-31", "2025-02-28"] {
        project.run(&view, as_of, RunMode::Append).await.unwrap();
    }
    let corrected = EVENTS.replace("10.0", "100.0");
    project
        .table_from_sql("event", &corrected, Some("at"))
        .await;
    project
        .run(&view, "2025-01-31", RunMode::Replace)
        .await
        .unwrap();
    let sql = "SELECT * FROM total WHERE customer_id = 1";
    assert_eq!(project.sql(Some("2025-01-31"), sql).await, ["1|100.0"]);
    assert_eq!(project.sql(Some("2025-02-28"), sql).await, ["1|21.0"]);
}

#[tokio::test]
async fn two_rows_of_a_key_fail_a_snapshot_run_by_name() {
    let mut project = Project::new();
    let rows = "SELECT column1 AS branch, column2 AS id, column3 AS x FROM (VALUES
        ('a', 1, 1), ('a', 2, 2), ('a', 2, 3), ('b', 1, 4), ('b', 1, 4), ('b', 1, 5),
        ('c', 1, 6), ('c', 1, 7), ('d', 1, 6), ('d', 1, 7), ('e', 1, 6), ('e', 1, 7),
        ('f', 1, 6), ('f', 1, 7), (NULL, 1, 1), (NULL, 1, 2))";
    project.table_from_sql("raw", rows, None).await;
    let view = project
        .feature_view("v", &["branch", "id"], &[], "SELECT * FROM raw")
        .await;
    let failed = project.run(&view, "2026-01-01", RunMode::Append).await;
    assert_eq!(
        failed.unwrap_err().to_string(),
        "v: 6 keys have more than one row in the run as of 2026-01-01T00:00:00Z: \
         branch = a, id = 2; branch = b, id = 1; branch = c, id = 1; branch = d, id = 1; \
         branch = e, id = 1"
    );
    assert!(
        OfflineTable::open(&project.engine, &view)
            .await
            .unwrap()
            .is_none()
    );
    let left = walk(project.folder.path());
    assert_eq!(left, ["raw.parquet"], "nothing half-written stays");
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(walk(&path));
        } else {
            files.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    files
}

#[tokio::test]
async fn rows_of_one_key_are_found_across_batches_and_files() {
    let mut project = Project::with_settings(granary_engine::EngineSettings {
        target_partitions: 3,
        batch_rows: 16,
        ..Default::default()
    });
    let rows = "SELECT value % 997 AS id, value AS x FROM generate_series(0, 1500)";
    project.table_from_sql("raw", rows, None).await;
    let view = project
        .feature_view("v", &["id"], &[], "SELECT * FROM raw")
        .await;
    let failed = project.run(&view, "2026-01-01", RunMode::Append).await;
    let text = failed.unwrap_err().to_string();
    assert!(text.contains("504 keys have more than one row"), "{text}");
}

#[tokio::test]
async fn rows_without_key_or_time_are_left_out_and_counted() {
    let mut project = Project::new();
    let rows = "SELECT * FROM (VALUES
        (1, 'x', to_timestamp('2025-01-05T00:00:00'), 1),
        (NULL, 'x', to_timestamp('2025-01-05T00:00:00'), 2),
        (1, NULL, to_timestamp('2025-01-05T00:00:00'), 3),
        (NULL, NULL, NULL, 4),
        (2, 'y', NULL, 5)) AS t(a, b, at, x)";
    project.table_from_sql("raw", rows, None).await;
    let view = project
        .feature_view("v", &["a", "b"], &["at"], "SELECT * FROM raw")
        .await;
    let record = project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(
        (record.rows, record.null_keys, record.null_event_times),
        (1, 3, 1)
    );
    assert_eq!(
        project.online(&view, None, None).await,
        ["1|x|2025-01-05T00:00:00Z|1"]
    );
}

#[tokio::test]
async fn the_future_and_the_current_state_are_refused() {
    let (project, mut view) = timestamped(EVENTS).await;
    let future = project.run(&view, "2026-01-02", RunMode::Append).await;
    assert_eq!(
        future.unwrap_err().to_string(),
        "spend: as of 2026-01-02T00:00:00Z lies in the future (it is 2026-01-01T00:00:00Z)"
    );
    view.current_state = vec!["rates".into()];
    let past = project.run(&view, "2025-06-01", RunMode::Append).await;
    assert!(
        matches!(past, Err(EngineError::CurrentState { .. })),
        "{past:?}"
    );
    let scope = RunScope {
        as_of: at("2025-06-01"),
        from: None,
        current_state: true,
        mode: RunMode::Append,
    };
    let seen = Mutex::new(0);
    let record = project
        .engine
        .run(&project.definitions, &view, scope, &|done| {
            *seen.lock().unwrap() = done.rows;
        })
        .await
        .unwrap();
    assert_eq!(record.current_state, ["rates"]);
    assert_eq!(*seen.lock().unwrap(), record.rows);
}

#[tokio::test]
async fn of_two_runs_at_once_one_wins_and_nothing_is_seen_of_the_other() {
    let (project, view) = timestamped(EVENTS).await;
    for as_of in ["2025-01-31", "2025-12-31"] {
        let (one, other) = tokio::join!(
            project.run(&view, as_of, RunMode::Append),
            project.run(&view, as_of, RunMode::Append),
        );
        let lost = match (one, other) {
            (Ok(_), Err(lost)) | (Err(lost), Ok(_)) => lost,
            both => panic!("{both:?}"),
        };
        assert!(
            matches!(
                lost,
                EngineError::Conflict { .. } | EngineError::AlreadyRun { .. }
            ),
            "{lost}"
        );
    }
    assert_eq!(project.sql(None, "SELECT count(*) FROM spend").await, ["4"]);
}

#[tokio::test]
async fn many_commits_are_read_through_checkpoints() {
    let (project, view) = timestamped(EVENTS).await;
    for day in 1..=25 {
        project.clock.set(at(&format!("2026-01-{day:02}")));
        let now = project.clock.now().to_string();
        project.run(&view, &now, RunMode::Append).await.unwrap();
    }
    let table = project.open(&view).await;
    assert_eq!((table.version(), table.watermark()), (24, at("2026-01-25")));
    assert_eq!(table.runs(100).await.unwrap().len(), 25);
    let log = project
        .folder
        .path()
        .join("root/offline/spend/v1/_delta_log");
    assert!(log.join("_last_checkpoint").exists());
    assert_eq!(project.online(&view, None, None).await.len(), 4);
}

#[tokio::test]
async fn statistics_and_leaks_are_recorded() {
    let mut project = Project::new();
    let rows = "SELECT value AS id, to_timestamp('2025-01-05T00:00:00') AS at,
        CASE WHEN value = 3 THEN NULL ELSE CAST(value AS DOUBLE) / 2 END AS half,
        CASE WHEN value = 7 THEN CAST('NaN' AS DOUBLE) ELSE 1.5 END AS odd,
        'k' || (value % 10) AS kind,
        to_timestamp('2025-01-04T00:00:00') AS granted,
        to_timestamp(CASE WHEN value = 9 THEN '2025-02-01T00:00:00' ELSE '2025-01-01T00:00:00' END) AS paid
        FROM generate_series(1, 1000)";
    project.table_from_sql("loan", rows, Some("at")).await;
    let view = project
        .feature_view("v", &["id"], &["at"], "SELECT * FROM loan")
        .await;
    let record = project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(record.later_than_event, ["paid"]);
    let column = |name: &str| record.columns.iter().find(|c| c.name == name).unwrap();
    let id = column("id");
    assert_eq!(
        (id.min.as_deref(), id.max.as_deref()),
        (Some("1"), Some("1000"))
    );
    assert_eq!((id.nulls, id.mean), (0, Some(500.5)));
    assert!(id.distinct.unwrap().abs_diff(1000) < 80, "{id:?}");
    let half = column("half");
    assert_eq!((half.nulls, half.min.as_deref()), (1, Some("0.5")));
    assert_eq!(half.mean, Some((500_500.0 - 3.0) / 2.0 / 999.0));
    let odd = column("odd");
    assert_eq!((odd.mean, odd.max.as_deref()), (Some(1.5), Some("1.5")));
    let kind = column("kind");
    assert_eq!((kind.mean, kind.distinct), (None, Some(10)));
    assert_eq!(
        (kind.min.as_deref(), kind.max.as_deref()),
        (Some("k0"), Some("k9"))
    );
    assert_eq!(column("paid").max.as_deref(), Some("2025-02-01T00:00:00Z"));
}

#[tokio::test]
async fn a_query_that_lost_a_column_says_so() {
    let (mut project, view) = timestamped(EVENTS).await;
    let other = EVENTS.replace("amount)", "sum_of_it)");
    project.table_from_sql("event", &other, Some("at")).await;
    let failed = project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap_err();
    assert_eq!(
        failed.to_string(),
        "spend: its schema changed since apply: column amount is gone; apply again"
    );
}

#[tokio::test]
async fn what_killed_and_replacing_runs_left_is_deleted_once_it_is_old() {
    let (project, view) = timestamped(EVENTS).await;
    // Files have the time of the machine, so the clock is set by it.
    let now = granary_model::SystemClock.now();
    project.clock.set(now);
    project
        .run(&view, "2025-01-31", RunMode::Append)
        .await
        .unwrap();
    let table = project.folder.path().join("root/offline/spend/v1");
    let files = || {
        let files = walk(&table).into_iter();
        let mut files: Vec<_> = files.filter(|f| f.ends_with(".parquet")).collect();
        files.sort();
        files
    };
    let first = files();
    let orphan = first[0].replace("-000-", "-777-");
    std::fs::copy(table.join(&first[0]), table.join(&orphan)).unwrap();
    let days = |n: i64| UtcMicros(now.0 + n * 86_400_000_000);
    for (day, orphan_left, first_left) in [(1, true, true), (2, true, true), (4, false, false)] {
        project.clock.set(days(day));
        project
            .run(&view, "2025-01-31", RunMode::Replace)
            .await
            .unwrap();
        assert_eq!(files().contains(&orphan), orphan_left, "day {day}");
        assert_eq!(files().contains(&first[0]), first_left, "day {day}");
        assert_eq!(
            project.online(&view, None, None).await.len(),
            2,
            "day {day}"
        );
    }
}

#[tokio::test]
async fn rows_of_the_future_are_counted_and_come_in_when_their_time_has_come() {
    let events = format!("{EVENTS} UNION ALL SELECT 9, to_timestamp('2026-06-01T00:00:00'), 90.0");
    let (project, view) = timestamped(&events).await;
    for (as_of, rows) in [("2025-01-31", 2), ("2026-01-01", 2)] {
        let record = project.run(&view, as_of, RunMode::Append).await.unwrap();
        assert_eq!(
            (record.rows, record.future_event_times),
            (rows, 1),
            "{as_of}"
        );
    }
    assert_eq!(project.online(&view, None, None).await.len(), 4);
    project.clock.set(at("2026-07-01"));
    let record = project
        .run(&view, "2026-07-01", RunMode::Append)
        .await
        .unwrap();
    assert_eq!((record.rows, record.future_event_times), (1, 0));
}
