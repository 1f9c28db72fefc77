//! Runs that need more memory than they may use.

use granary_engine::{EngineSettings, RunMode};
use granary_model::ErrorKind;

use crate::project::Project;

fn small() -> EngineSettings {
    EngineSettings {
        memory_bytes_max: 24 << 20,
        target_partitions: 2,
        batch_rows: 1024,
        ..EngineSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_larger_than_memory_spills() {
    let mut project = Project::with_settings(small());
    // About 60 MB in memory, in no order.
    let rows = "SELECT (value * 7919) % 400009 AS id, to_timestamp(value) AS at,
        'a text that takes some room in every row ' || value AS note, value AS x
        FROM generate_series(1, 400000)";
    project.table_from_sql("event", rows, Some("at")).await;
    let view = project
        .feature_view("v", &["id"], &["at"], "SELECT * FROM event")
        .await;
    let record = project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(record.rows, 400_000);
    let joined = "SELECT a.id, b.note, a.x + b.x AS x FROM event a JOIN event b ON a.id = b.id";
    let view = project.feature_view("joined", &["id"], &[], joined).await;
    let record = project
        .run(&view, "2025-12-31", RunMode::Append)
        .await
        .unwrap();
    assert_eq!(record.rows, 400_000);
}

/// What is said names settings of ours, not DataFusion's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_little_memory_is_told_in_our_own_words() {
    let mut project = Project::with_settings(EngineSettings {
        memory_bytes_max: 1 << 20,
        ..small()
    });
    // One value a key, and each of them wide: nothing to spill in pieces.
    let rows = "SELECT value AS id, repeat('x', 400000) AS note FROM generate_series(1, 40)";
    project.table_from_sql("wide", rows, None).await;
    let query = "SELECT id, array_agg(note) AS notes FROM (SELECT 1 AS id, note FROM wide) AS w GROUP BY id";
    let view = project.feature_view("v", &["id"], &[], query).await;
    let failed = project.run(&view, "2026-01-01", RunMode::Append).await;
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("v: its query needs more memory than 1024.0 KB")
            || text.starts_with("v: its query needs more memory than 1"),
        "{text}"
    );
    assert!(
        text.ends_with("by memory_bytes_max under [engine] in granary.toml"),
        "{text}"
    );
    assert!(!text.contains("datafusion"), "{text}");
}
