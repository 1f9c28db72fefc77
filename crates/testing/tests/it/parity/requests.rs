//! Request events: a read that carries an event answers as one after the event
//! was pushed, and as a training set whose spine has the event.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::compute::{concat_batches, filter_record_batch, is_not_null, take_record_batch};
use arrow::datatypes::{Field, Schema, TimestampMicrosecondType};
use futures::TryStreamExt;
use granary_engine::{Spine, SpineEvents, TrainingOptions, TrainingRequest};
use granary_ingest::Pushed;
use granary_model::definitions::Column;
use granary_model::{Caller, FeatureView, UtcMicros, json};
use granary_serving::plan::list_as_service;
use granary_serving::verify::equal;
use granary_serving::{FeatureColumn, ReadRequest, ReadTarget, Reader, ServingSettings};
use granary_testing::TestProject;
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use super::compare::tiled;
use super::{project, random};

/// One key, that of an event, or another where the event has none.
fn keys_of(view: &FeatureView, event: &RecordBatch) -> RecordBatch {
    let columns = view.keys.iter().map(|key| event.column_by_name(&key.name));
    let fields: Vec<_> = view.keys.iter().map(Column::to_field).collect();
    let schema = arrow::datatypes::Schema::new(fields);
    let columns = columns.map(|column| column.unwrap().clone());
    RecordBatch::try_new(schema.into(), columns.collect()).unwrap()
}

async fn read(
    reader: &Reader,
    view: &FeatureView,
    event: &RecordBatch,
    (request_event, t, strictly_before): (Option<&RecordBatch>, UtcMicros, bool),
) -> Vec<FeatureColumn> {
    let events = request_event.map(|rows| ("events".to_owned(), rows.clone()));
    let asked = ReadRequest {
        caller: Caller::named("test"),
        target: ReadTarget::Features(vec![format!("{}.*", view.name)]),
        keys: keys_of(view, event),
        inputs: Vec::new(),
        request_events: events.into_iter().collect(),
        as_of: Some(t),
        strictly_before,
        full_names: false,
    };
    reader.read(asked).await.unwrap().features
}

fn same(a: &[FeatureColumn], b: &[FeatureColumn], told: &str) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        let values = |column: &FeatureColumn| json::text(&column.values, 0);
        assert!(
            a.statuses == b.statuses && equal((&a.values, 0), (&b.values, 0)),
            "{told}: {}: {:?} {:?}, then {:?} {:?}",
            a.name,
            a.statuses,
            values(a),
            b.statuses,
            values(b)
        );
    }
}

/// The columns of the stream by which events are told apart.
pub(super) const DEDUPLICATE: [&str; 5] = ["id", "at", "shop", "n", "tag"];

fn can_be_told_apart(event: &RecordBatch) -> bool {
    let columns = DEDUPLICATE
        .iter()
        .map(|name| event.column_by_name(name).unwrap());
    columns.into_iter().all(|column| column.is_valid(0))
}

/// Of the stream.
pub(super) fn clauses() -> String {
    format!(" DEDUPLICATE BY ({})", DEDUPLICATE.join(", "))
}

/// Events with the time that each is asked as of.
fn spine(events: &RecordBatch, times: &[UtcMicros]) -> RecordBatch {
    let times = times.iter().map(|t| Some(t.0));
    let times = times
        .collect::<TimestampMicrosecondArray>()
        .with_timezone("UTC");
    let mut fields = events.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("t", times.data_type().clone(), true)));
    let mut columns = events.columns().to_vec();
    columns.push(Arc::new(times));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The features of a view of each row, beside the row.
async fn train(
    project: &TestProject,
    view: &FeatureView,
    spine: &RecordBatch,
    query: Option<&str>,
) -> RecordBatch {
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let list = [format!("{}.*", view.name)];
    let (from, features) = list_as_service(&snapshot, &list).unwrap();
    let path = project.folder.join("spine.parquet");
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), spine.schema(), None);
    writer.as_mut().unwrap().write(spine).unwrap();
    writer.unwrap().close().unwrap();
    let request = TrainingRequest {
        spine: Spine::File(path.to_str().unwrap().to_owned()),
        time: "t".into(),
        from,
        features,
        options: TrainingOptions::default(),
        request_events: vec![SpineEvents {
            stream: "events".into(),
            query: query.map(str::to_owned),
        }],
    };
    let set = project.engine.training_set(&snapshot.definitions, request);
    let set = set
        .await
        .unwrap_or_else(|error| panic!("{}: {error}", view.name));
    let batches: Vec<RecordBatch> = set.execute().unwrap().try_collect().await.unwrap();
    concat_batches(&set.schema(), &batches).unwrap()
}

fn assert_trained(told: &str, trained: &RecordBatch, row: usize, online: &[FeatureColumn]) {
    for column in online {
        let value: ArrayRef = trained.column_by_name(&column.name).unwrap().slice(row, 1);
        assert!(
            equal((&column.values, 0), (&value, 0)),
            "{told}: {}: online {:?}, trained {:?}",
            column.name,
            json::text(&column.values, 0),
            json::text(&value, 0)
        );
    }
}

/// An event as one that is at the time of the read.
fn untimed(event: &RecordBatch) -> RecordBatch {
    let at = event.schema().index_of("at").unwrap();
    let mut columns = event.columns().to_vec();
    columns[at] = new_null_array(columns[at].data_type(), event.num_rows());
    RecordBatch::try_new(event.schema(), columns).unwrap()
}

async fn views(project: &TestProject, sql: &str) -> Vec<FeatureView> {
    let snapshot = project.apply(&[("sql/all.sql", sql)]).await;
    let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}\n{sql}"));
    snapshot
        .definitions
        .feature_views
        .values()
        .cloned()
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Event by event: asked with it, asked with it again when it is stored and
    /// is no news, and asked without it. As of the event's own time where it has
    /// one, and of a fixed one.
    #[test]
    fn made_up_request_events(case in random::case()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let project = project(folder.path());
            let sql = case.stream_sql(&clauses());
            let views = views(&project, &sql).await;
            let reader = project.reader(tiled()).await.unwrap();
            for batch in random::batches(&case.events) {
                let (bulk, single) = (batch.num_rows() * 3 / 4, batch.num_rows());
                project.streams.push("events", &batch.slice(0, bulk)).await.unwrap();
                for row in bulk..single {
                    let event = batch.slice(row, 1);
                    let at = event.column_by_name("at").unwrap();
                    if at.is_null(0) {
                        continue;
                    }
                    let at = at.as_primitive::<TimestampMicrosecondType>().value(0);
                    let times = [UtcMicros(at), case.times()[0]];
                    let mut with = Vec::new();
                    for t in times {
                        for view in &views {
                            with.push(read(&reader, view, &event, (Some(&event), t, false)).await);
                        }
                    }
                    let pushed = project.streams.push("events", &event).await.unwrap();
                    // Too old for what live views keep: it is not there afterwards.
                    if matches!(pushed[0], Pushed::Refused(_)) {
                        continue;
                    }
                    let mut with = with.into_iter();
                    for t in times {
                        for view in &views {
                            let with = with.next().unwrap();
                            let told = format!("{} as of {t}\n{sql}", view.name);
                            let after = read(&reader, view, &event, (None, t, false)).await;
                            same(&with, &after, &told);
                            if !can_be_told_apart(&event) {
                                continue;
                            }
                            let again = read(&reader, view, &event, (Some(&event), t, false)).await;
                            same(&after, &again, &format!("stored {told}"));
                        }
                    }
                }
            }
        });
    }

    /// Every event as a request event of its own key, as of its time or another,
    /// strictly before: the training set of a spine of them answers the same.
    #[test]
    fn made_up_training_request_events(case in random::case(), untimed_too in any::<bool>()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let project = project(folder.path());
            let sql = case.stream_sql(&clauses());
            let views = views(&project, &sql).await;
            let batches = random::batches(&case.events);
            for batch in &batches {
                project.streams.push("events", batch).await.unwrap();
            }
            let all = concat_batches(&batches[0].schema(), &batches).unwrap();
            let timed = is_not_null(all.column_by_name("at").unwrap()).unwrap();
            let all = filter_record_batch(&all, &timed).unwrap();
            let some = UInt32Array::from_iter_values((0..all.num_rows().min(12) as u32).rev());
            let mut events = take_record_batch(&all, &some).unwrap();
            let at = events.column_by_name("at").unwrap();
            let at = at.as_primitive::<TimestampMicrosecondType>().values().to_vec();
            let others = case.times();
            let times = at.iter().enumerate().map(|(row, at)| match row % 3 {
                0 => UtcMicros(*at),
                1 => others[row % others.len()],
                _ => UtcMicros(at + 7),
            });
            let times: Vec<UtcMicros> = times.collect();
            let query = "SELECT id, shop, written, amount, n, tag, flag FROM spine";
            let query = untimed_too.then_some(query);
            let spine = spine(&events, &times);
            if untimed_too {
                events = untimed(&events);
            }
            let reader = project.reader(ServingSettings::default()).await.unwrap();
            for view in &views {
                let trained = train(&project, view, &spine, query).await;
                assert_eq!(trained.num_rows(), spine.num_rows());
                for (row, t) in times.iter().enumerate().take(spine.num_rows()) {
                    let event = events.slice(row, 1);
                    let asked = (Some(&event), *t, true);
                    let online = read(&reader, view, &event, asked).await;
                    let told = format!("{} row {row} as of {t}\n{sql}", view.name);
                    assert_trained(&told, &trained, row, &online);
                }
            }
        });
    }
}
