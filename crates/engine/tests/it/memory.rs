//! Runs that need more memory than they may use.

use granary_engine::{EngineSettings, RunMode};

use crate::project::Project;

fn small() -> EngineSettings {
    EngineSettings {
        memory_bytes_max: 24 << 20,
        target_partitions: 2,
        batch_rows: 1024,
        spill_folder: None,
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
