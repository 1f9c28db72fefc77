//! Training sets on real data, compared with a computation by brute force over
//! the raw files: the loans of a bank as of their grants, the customers of a
//! shop at each month, phones at each midnight.
//!
//! The references know nothing of DataFusion; where the data is absent a test
//! says that it was skipped.

mod bank;
mod phones;
mod shop;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use futures::TryStreamExt;
use granary_engine::{EngineSettings, Spine, TrainingOptions, TrainingRequest};
use granary_model::{ManualClock, UtcMicros};
use granary_serving::plan::list_as_service;
use granary_testing::TestProject;

/// A project with one data set beside its definitions.
struct Training {
    _folder: tempfile::TempDir,
    project: TestProject,
    snapshot: Arc<granary_catalog::Snapshot>,
}

impl Training {
    async fn new(data: &Path, sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = data.canonicalize().unwrap();
        std::os::unix::fs::symlink(data, folder.path().join("data")).unwrap();
        let now: UtcMicros = "2026-01-01".parse().unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let settings = EngineSettings::default();
        let project = TestProject::open(folder.path(), settings, clock).unwrap();
        let snapshot = project.apply(&[("sql/all.sql", sql)]).await;
        Self {
            snapshot: snapshot.unwrap_or_else(|wrong| panic!("{wrong}")),
            _folder: folder,
            project,
        }
    }

    /// The training set of `view.*`, in one batch.
    async fn set(&self, spine: &str, views: &[&str], options: TrainingOptions) -> RecordBatch {
        let list: Vec<String> = views.iter().map(|view| format!("{view}.*")).collect();
        let (from, features) = list_as_service(&self.snapshot, &list).unwrap();
        let request = TrainingRequest {
            spine: Spine::Sql(spine.into()),
            time: "event_time".into(),
            from,
            features,
            options,
            request_events: Vec::new(),
        };
        let definitions = &self.snapshot.definitions;
        let set = self.project.engine.training_set(definitions, request);
        let set = set.await.unwrap();
        let batches: Vec<RecordBatch> = set.execute().unwrap().try_collect().await.unwrap();
        concat_batches(&set.schema(), &batches).unwrap()
    }
}

/// A column as whole numbers; times in microseconds.
fn integers(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    let column: &ArrayRef = rows.column_by_name(name).unwrap();
    let micros = match column.data_type() {
        DataType::Timestamp(_, zone) => {
            let unit = arrow::datatypes::TimeUnit::Microsecond;
            cast(column, &DataType::Timestamp(unit, zone.clone())).unwrap()
        }
        _ => column.clone(),
    };
    let column = cast(&micros, &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().iter().collect()
}

fn floats(rows: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    let column = cast(rows.column_by_name(name).unwrap(), &DataType::Float64).unwrap();
    assert_eq!(column.len(), rows.num_rows());
    column.as_primitive::<Float64Type>().iter().collect()
}

/// Within 1e-9 of `scale`, the sum of the absolute inputs.
fn near(found: Option<f64>, expected: Option<f64>, scale: f64) -> bool {
    match (found, expected) {
        (Some(found), Some(expected)) => (found - expected).abs() <= 1e-9 * scale.max(1.0),
        (found, expected) => found == expected,
    }
}
