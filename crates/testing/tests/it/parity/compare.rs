//! One view's online values beside those of a training set.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Schema};
use futures::TryStreamExt;
use granary_engine::{Spine, TileSettings, TrainingOptions, TrainingRequest};
use granary_model::definitions::Column;
use granary_model::{Caller, FeatureStatus, FeatureView, UtcMicros, json};
use granary_serving::plan::list_as_service;
use granary_serving::verify::{equal, same_status};
use granary_serving::{FeatureColumn, ReadRequest, ReadTarget, Reader, ServingSettings};
use granary_testing::TestProject;

/// Entities a read.
const ENTITIES: usize = 5_000;

/// What was compared, so that a test can tell that something was.
#[derive(Debug, Default)]
pub struct Counts {
    /// Over all views and times.
    pub keys: usize,
    /// Values that are neither NULL nor missing.
    pub present: usize,
    pub differences: Vec<String>,
}

/// Reads any key with more than an event or two from tiles, and keeps them all.
pub fn tiled() -> ServingSettings {
    ServingSettings {
        tiles: TileSettings {
            events_min: 2,
            tile_events_min: 1,
            tile_events_max: 4,
            edge_events_max: 2,
            ..TileSettings::default()
        },
        ..ServingSettings::default()
    }
}

/// Compares what is online with what was the case as of T.
pub struct Parity<'a> {
    project: &'a TestProject,
    reader: Reader,
    t: UtcMicros,
}

impl<'a> Parity<'a> {
    pub async fn as_of(project: &'a TestProject, t: UtcMicros) -> Self {
        Self::with(project, t, ServingSettings::default()).await
    }

    pub async fn with(project: &'a TestProject, t: UtcMicros, settings: ServingSettings) -> Self {
        let reader = project.reader(settings).await.unwrap();
        Self { project, reader, t }
    }

    /// `keys`: a query that gives the view's key columns.
    pub async fn compare(&self, view: &FeatureView, keys: &str, counts: &mut Counts) {
        let trained = self.train(view, keys).await;
        counts.keys += trained.num_rows();
        for from in (0..trained.num_rows()).step_by(ENTITIES) {
            let part = trained.slice(from, ENTITIES.min(trained.num_rows() - from));
            let online = self.read(view, &part).await;
            assert_eq!(online.len(), view.features.len());
            for column in &online {
                self.compare_column(view, column, &part, counts);
            }
        }
    }

    /// Keys, then a column a feature and one for its status.
    async fn train(&self, view: &FeatureView, keys: &str) -> RecordBatch {
        let snapshot = self.project.catalog.latest().await.unwrap().unwrap();
        let list = [format!("{}.*", view.name)];
        let (from, features) = list_as_service(&snapshot, &list).unwrap();
        let request = TrainingRequest {
            spine: Spine::Sql(format!(
                "SELECT *, TIMESTAMP '{}' AS event_time FROM ({keys})",
                self.t
            )),
            time: "event_time".into(),
            from,
            features,
            options: TrainingOptions {
                statuses: true,
                ..TrainingOptions::default()
            },
            request_events: Vec::new(),
        };
        let engine = &self.project.engine;
        let set = engine.training_set(&snapshot.definitions, request).await;
        let set = set.unwrap_or_else(|error| panic!("{}: {error}", view.name));
        let batches: Vec<RecordBatch> = set.execute().unwrap().try_collect().await.unwrap();
        concat_batches(&set.schema(), &batches).unwrap()
    }

    async fn read(&self, view: &FeatureView, trained: &RecordBatch) -> Vec<FeatureColumn> {
        let keys = view.keys.iter().map(|key| {
            let column = trained.column_by_name(&key.name).unwrap();
            cast(column, &key.data_type.to_arrow()).unwrap()
        });
        let fields: Vec<_> = view.keys.iter().map(Column::to_field).collect();
        let keys = RecordBatch::try_new(Arc::new(Schema::new(fields)), keys.collect()).unwrap();
        let asked = ReadRequest {
            caller: Caller::named("test"),
            target: ReadTarget::Features(vec![format!("{}.*", view.name)]),
            keys,
            inputs: Vec::new(),
            request_events: Vec::new(),
            as_of: Some(self.t),
            strictly_before: false,
            full_names: false,
        };
        self.reader.read(asked).await.unwrap().features
    }

    fn compare_column(
        &self,
        view: &FeatureView,
        online: &FeatureColumn,
        trained: &RecordBatch,
        counts: &mut Counts,
    ) {
        let values = trained.column_by_name(&online.name).unwrap();
        assert_eq!(values.data_type(), online.values.data_type());
        let statuses = format!("{}__status", online.name);
        let statuses = trained.column_by_name(&statuses).unwrap();
        let statuses = cast(statuses, &DataType::Utf8).unwrap();
        let statuses: &StringArray = statuses.as_string();
        for row in 0..trained.num_rows() {
            let status = online.statuses[row];
            counts.present += usize::from(status == FeatureStatus::Present);
            let alike = same_status(status, statuses.value(row))
                && equal((&online.values, row), (values, row));
            if !alike {
                let keys = view.keys.iter().map(|key| {
                    let column = trained.column_by_name(&key.name).unwrap();
                    json::text(column, row).unwrap_or("NULL".into())
                });
                counts.differences.push(format!(
                    "{}.{} of ({}) as of {}: online {} {:?}, trained {} {:?}",
                    view.name,
                    online.name,
                    keys.collect::<Vec<_>>().join(", "),
                    self.t,
                    status.as_str(),
                    json::text(&online.values, row),
                    statuses.value(row),
                    json::text(values, row),
                ));
            }
        }
    }
}
