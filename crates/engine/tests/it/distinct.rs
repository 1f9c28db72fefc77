//! Distinct counts of texts, against DataFusion's own, which is exact.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use granary_engine::{Engine, EngineSettings, Joins};
use granary_model::ManualClock;
use proptest::prelude::*;

use crate::project::{Project, at, lines};

/// Rows of (group, text): few groups and texts, so that they meet.
fn rows() -> impl Strategy<Value = Vec<(Option<i64>, Option<String>)>> {
    let text = prop_oneof![
        Just(None),
        Just(Some(String::new())),
        "[abč]{1,2}".prop_map(Some),
        Just(Some("longer than what a view holds by itself".to_owned())),
        "[ab]{14,15}".prop_map(Some),
    ];
    prop::collection::vec((prop::option::of(0..6_i64), text), 0..200)
}

fn batches(rows: &[(Option<i64>, Option<String>)]) -> Vec<RecordBatch> {
    let batch = |rows: &[(Option<i64>, Option<String>)]| {
        let groups: Int64Array = rows.iter().map(|r| r.0).collect();
        let texts: StringArray = rows.iter().map(|r| r.1.as_deref()).collect();
        let bytes: BinaryArray = rows
            .iter()
            .map(|r| r.1.as_deref().map(str::as_bytes))
            .collect();
        let view = arrow::compute::cast(&texts, &arrow::datatypes::DataType::Utf8View).unwrap();
        let columns: [(&str, ArrayRef); 4] = [
            ("g", Arc::new(groups)),
            ("s", Arc::new(texts)),
            ("v", view),
            ("b", Arc::new(bytes)),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap()
    };
    let mut batches: Vec<_> = rows.chunks(17).map(batch).collect();
    batches.push(batch(&[]));
    batches
}

async fn count(context: &SessionContext, rows: &[RecordBatch], sql: &str) -> Vec<String> {
    let half = rows.len() / 2;
    let partitions = vec![rows[..half].to_vec(), rows[half..].to_vec()];
    let table = MemTable::try_new(rows[0].schema(), partitions).unwrap();
    context.deregister_table("t").unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let mut found = lines(&context.sql(sql).await.unwrap().collect().await.unwrap());
    found.sort();
    found
}

fn own(memory_bytes_max: u64, batch_rows: usize) -> (tempfile::TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let settings = EngineSettings {
        memory_bytes_max,
        target_partitions: 2,
        batch_rows,
        ..EngineSettings::default()
    };
    let clock = Arc::new(ManualClock::new(at("2026-01-01")));
    let engine = Project::engine(folder.path(), settings, clock);
    (folder, engine)
}

const COUNTS: &str = "count(*), count(DISTINCT s), count(DISTINCT v), count(DISTINCT b),
    count(DISTINCT s) FILTER (WHERE g > 2 OR s < 'b'), count(DISTINCT s || 'x') AS x";

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn grouped_counts_are_those_of_datafusion(rows in rows()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let batches = batches(&rows);
        for from in ["t", "(SELECT * FROM t ORDER BY g, s)"] {
            let sql = format!("SELECT g, {COUNTS} FROM {from} AS u GROUP BY g");
            let plain = SessionContext::new_with_config(SessionConfig::new());
            let expected = runtime.block_on(count(&plain, &batches, &sql));
            for batch_rows in [4, 8192] {
                let (_folder, engine) = own(1 << 30, batch_rows);
                let context = engine.context(None, Joins::Fast);
                prop_assert_eq!(&runtime.block_on(count(&context, &batches, &sql)), &expected);
            }
        }
    }
}

#[tokio::test]
async fn the_plan_says_so_and_keeps_its_names() {
    let (_folder, engine) = own(1 << 30, 8192);
    let context = engine.context(None, Joins::Fast);
    let rows = batches(&[(Some(1), Some("a".into()))]);
    let sql = "SELECT g, count(*), count(DISTINCT s), count(DISTINCT b) AS d FROM t GROUP BY g";
    count(&context, &rows, sql).await;
    let frame = context.sql(sql).await.unwrap();
    let names: Vec<_> = frame
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names, ["g", "count(*)", "count(DISTINCT t.s)", "d"]);
    let plan = frame.into_optimized_plan().unwrap().to_string();
    assert_eq!(plan.matches("_count_distinct_texts(").count(), 2, "{plan}");
    // All rows as one group need no table a group: those are DataFusion's.
    let whole = "SELECT count(DISTINCT s), count(DISTINCT b), count(*) FROM t";
    assert_eq!(count(&context, &rows, whole).await, ["1|1|1"]);
}

/// 300,000 groups of two texts each: 12 MB hold them in parts, which spill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_spill() {
    let (_folder, engine) = own(12 << 20, 1024);
    let context = engine.context(None, Joins::Spilling);
    let sql = "SELECT min(n), max(n), sum(n), min(m), max(m), count(*) FROM (
        SELECT value % 300000 AS g, count(DISTINCT 'a text of some length ' || (value % 7)) AS n,
               count(DISTINCT 'another one ' || (value % 300000)) AS m, count(*) AS c
        FROM generate_series(1, 600000) GROUP BY 1) AS counted";
    let found = context.sql(sql).await.unwrap().collect().await.unwrap();
    assert_eq!(lines(&found), ["2|2|600000|1|1|300000"]);
}
