//! Way 3: the case as requests. Joins and windows are live views, tables are
//! streams. Other tables are pushed first; then each row of the main table is read
//! for, being a request event where the window holds it, and pushed itself.
//!
//! So what the suite has before a row is what was pushed before it, and a window
//! without the current row is a read without the event.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat, filter_record_batch, is_not_null};
use arrow::datatypes::{Field, Schema, TimestampMicrosecondType};
use granary_engine::EngineSettings;
use granary_model::{Caller, FeatureType, ManualClock, UtcMicros};
use granary_serving::{ReadRequest, ReadTarget, Reader, ServingSettings};
use granary_testing::TestProject;

use super::training::Asked;

/// The stream of the main table.
const MAIN: &str = "main_rows";

/// The same as the training set would be: the spine's columns without keys and
/// time, then the features.
pub async fn answers(folder: &Path, asked: &Asked<'_>) -> Result<RecordBatch, String> {
    std::fs::create_dir(folder).unwrap();
    let clock = Arc::new(ManualClock::new("9999-12-30".parse().unwrap()));
    let project = TestProject::open(folder, EngineSettings::default(), clock).unwrap();
    let mut tables: Vec<(String, &RecordBatch)> = Vec::new();
    for (place, events) in asked.events.iter().enumerate() {
        tables.push((format!("events{place}"), events));
    }
    if asked.main.in_window() {
        tables.push((MAIN.to_owned(), &asked.spine));
    }
    let text = definitions(asked, &tables)?;
    let applied = project.apply(&[("sql/case.sql", &text)]).await;
    applied.map_err(|wrong| wrong.to_string())?;
    for (name, rows) in tables.iter().filter(|(name, _)| name != MAIN) {
        push(&project, name, rows).await?;
    }
    let reader = project.reader(ServingSettings::default()).await;
    let reader = reader.map_err(|error| error.to_string())?;
    let mut values: Vec<Vec<ArrayRef>> = vec![Vec::new(); asked.features.len()];
    for row in 0..asked.spine.num_rows() {
        let row = asked.spine.slice(row, 1);
        for (values, value) in values.iter_mut().zip(read(&reader, asked, &row).await?) {
            values.push(value);
        }
        if asked.main.pushed {
            push(&project, MAIN, &row).await?;
        }
    }
    assembled(asked, &values)
}

fn definitions(asked: &Asked<'_>, tables: &[(String, &RecordBatch)]) -> Result<String, String> {
    let keys = asked.keys.iter().enumerate();
    let keys: Vec<String> = keys
        .map(|(i, data_type)| format!("k{i} {data_type}"))
        .collect();
    let mut text = format!("CREATE ENTITY thing KEY ({});\n", keys.join(", "));
    for (name, rows) in tables {
        let mut columns = Vec::new();
        for field in rows.schema().fields() {
            let data_type = FeatureType::from_arrow(field.data_type());
            let data_type =
                data_type.ok_or_else(|| format!("{} is no type of a stream", field.data_type()))?;
            columns.push(format!("{} {data_type}", field.name()));
        }
        let columns = columns.join(", ");
        text += &format!("CREATE STREAM {name} ({columns}) EVENT TIME event_time;\n");
    }
    let union = tables
        .iter()
        .map(|(name, _)| format!("SELECT * FROM {name}"));
    let union: Vec<String> = union.map(|s| s.replace("*", &names(asked))).collect();
    let max_events = asked.max_events.map(|n| format!("MAX EVENTS {n}"));
    text += &format!(
        "CREATE VIEW events AS {};\n\
         CREATE FEATURE VIEW asked ENTITY thing EVENT TIME event_time {} AS {};\n",
        union.join(" UNION ALL "),
        max_events.unwrap_or_default(),
        asked.query
    );
    Ok(text)
}

/// Columns of the tables, without what a stream has besides.
fn names(asked: &Asked<'_>) -> String {
    let table = asked.events.first().unwrap_or(&asked.spine).schema();
    let names: Vec<&str> = table.fields().iter().map(|f| f.name().as_str()).collect();
    names.join(", ")
}

/// An event has a time: rows without one are in no window.
async fn push(project: &TestProject, stream: &str, rows: &RecordBatch) -> Result<(), String> {
    let timed = is_not_null(rows.column_by_name("event_time").unwrap()).unwrap();
    let rows = filter_record_batch(rows, &timed).unwrap();
    let pushed = project.streams.push(stream, &rows).await;
    pushed.map(drop).map_err(|error| error.to_string())
}

async fn read(
    reader: &Reader,
    asked: &Asked<'_>,
    row: &RecordBatch,
) -> Result<Vec<ArrayRef>, String> {
    let t = row.column_by_name("event_time").unwrap();
    let t = t.as_primitive::<TimestampMicrosecondType>().iter().next();
    let t = t.flatten().ok_or("a row without a time")?;
    let keys = (0..asked.keys.len()).map(|i| {
        let name = format!("k{i}");
        let key = row.column_by_name(&name).unwrap().clone();
        (name, key, true)
    });
    let event = asked.main.request.then(|| (MAIN.to_owned(), row.clone()));
    let features = asked.features.iter().map(|name| format!("asked.{name}"));
    let answer = reader.read(ReadRequest {
        caller: Caller::named("test"),
        target: ReadTarget::Features(features.collect()),
        keys: RecordBatch::try_from_iter_with_nullable(keys).unwrap(),
        inputs: Vec::new(),
        request_events: event.into_iter().collect(),
        as_of: Some(UtcMicros(t)),
        strictly_before: asked.strictly_before,
        full_names: false,
    });
    let answer = answer.await.map_err(|error| error.to_string())?;
    Ok(answer.features.into_iter().map(|f| f.values).collect())
}

fn assembled(asked: &Asked<'_>, values: &[Vec<ArrayRef>]) -> Result<RecordBatch, String> {
    let mut fields = Vec::new();
    let mut columns = Vec::new();
    let added =
        |name: &str| name == "event_time" || (0..asked.keys.len()).any(|i| name == format!("k{i}"));
    let schema = asked.spine.schema();
    for (field, column) in schema.fields().iter().zip(asked.spine.columns()) {
        if !added(field.name()) {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
        }
    }
    for (name, values) in asked.features.iter().zip(values) {
        let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
        if values.is_empty() {
            return Err("no rows".into());
        }
        let values = concat(&values).unwrap();
        fields.push(Field::new(name, values.data_type().clone(), true));
        columns.push(values);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| e.to_string())
}
