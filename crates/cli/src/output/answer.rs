//! The answer of a read, whoever gave it: as a table, as JSON, as Arrow.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::bail;
use arrow::array::{ArrayRef, Int8Array, RecordBatch, TimestampMicrosecondArray};
use arrow::ipc::writer::StreamWriter;
use comfy_table::Table;
use granary_client::ReadAnswer;
use granary_model::types::UTC;
use granary_model::{FeatureStatus, UtcMicros, json};
use serde::Serialize;
use serde_json::Value;

use super::table;

/// Keys, then features, of the entities in the order that was asked for.
#[derive(Debug)]
pub struct Answer {
    pub keys: RecordBatch,
    pub features: Vec<AnswerColumn>,
}

#[derive(Debug)]
pub struct AnswerColumn {
    pub name: String,
    pub values: ArrayRef,
    pub statuses: Arc<Vec<FeatureStatus>>,
    /// Of features whose view has an event time.
    pub event_times: Option<Arc<Vec<Option<UtcMicros>>>>,
}

/// A column of the JSON form.
#[derive(Serialize)]
struct ColumnJson<'a> {
    name: &'a str,
    values: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statuses: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_times: Option<Vec<Option<String>>>,
}

fn values(array: &ArrayRef) -> Vec<Value> {
    (0..array.len())
        .map(|row| json::value(array, row))
        .collect()
}

impl Answer {
    /// A server's answer to a read of these keys.
    pub fn received(keys: RecordBatch, answer: ReadAnswer) -> Self {
        let features = answer.features.into_iter().map(|feature| AnswerColumn {
            name: feature.name,
            values: feature.values,
            statuses: feature.statuses,
            event_times: feature.event_times.map(Arc::new),
        });
        Self {
            keys,
            features: features.collect(),
        }
    }

    fn entities(&self) -> usize {
        self.keys.num_rows()
    }

    /// Refuses an answer whose columns have not one value an entity.
    pub fn checked(self) -> anyhow::Result<Self> {
        let entities = self.entities();
        for column in &self.features {
            if column.values.len() != entities || column.statuses.len() != entities {
                bail!(
                    "{}: {} values for {entities} entities",
                    column.name,
                    column.values.len()
                );
            }
        }
        Ok(self)
    }

    /// `{"columns": [{"name", "values", "statuses", "event_times"}]}`, keys
    /// first, a column a line. Keys have names and values only; an entity
    /// without an event time has `null`.
    pub fn write_json(&self, mut out: impl Write) -> io::Result<()> {
        write!(out, "{{\"columns\": [")?;
        for (i, column) in self.columns_json().enumerate() {
            write!(out, "{}\n  ", if i == 0 { "" } else { "," })?;
            serde_json::to_writer(&mut out, &column)?;
        }
        writeln!(out, "\n]}}")?;
        out.flush()
    }

    fn columns_json(&self) -> impl Iterator<Item = ColumnJson<'_>> {
        let schema = self.keys.schema_ref();
        let keys = schema.fields().iter().zip(self.keys.columns());
        let keys = keys.map(|(field, array)| ColumnJson {
            name: field.name(),
            values: values(array),
            statuses: None,
            event_times: None,
        });
        let features = self.features.iter().map(|feature| ColumnJson {
            name: &feature.name,
            values: values(&feature.values),
            statuses: Some(feature.statuses.iter().map(|s| s.as_str()).collect()),
            event_times: Some(match &feature.event_times {
                Some(times) => times.iter().map(|t| t.map(|t| t.to_string())).collect(),
                None => vec![None; self.entities()],
            }),
        });
        keys.chain(features)
    }

    /// One row an entity; of many features, one row a feature.
    pub fn table(&self) -> Table {
        const SIDE_BY_SIDE: usize = 8;
        if self.features.len() > SIDE_BY_SIDE && self.features.len() > self.entities() {
            self.features_down()
        } else {
            self.entities_down()
        }
    }

    fn entities_down(&self) -> Table {
        let keys = self.keys.schema();
        let key_names = keys.fields().iter().map(|f| f.name().clone());
        let names = key_names.chain(self.features.iter().map(|f| f.name.clone()));
        let mut shown = table::table(names);
        for row in 0..self.entities() {
            let keys = self.keys.columns().iter().map(|k| table::cell(k, row));
            shown.add_row(keys.chain(self.features.iter().map(|f| f.cell(row))));
        }
        let arrays = self.keys.columns().iter();
        let arrays = arrays.chain(self.features.iter().map(|f| &f.values));
        let numbers = arrays.enumerate();
        let numbers = numbers.filter(|(_, a)| table::is_number(a.data_type()));
        table::align_right(&mut shown, numbers.map(|(i, _)| i).collect::<Vec<_>>());
        shown
    }

    fn features_down(&self) -> Table {
        let keys = self.keys.schema();
        let names: Vec<&str> = keys.fields().iter().map(|f| f.name().as_str()).collect();
        let entity = |row| {
            let parts = self.keys.columns().iter().map(|k| table::cell(k, row));
            parts.collect::<Vec<_>>().join(", ")
        };
        let header = std::iter::once(names.join(", "));
        let mut shown = table::table(header.chain((0..self.entities()).map(entity)));
        for feature in &self.features {
            let name = std::iter::once(feature.name.clone());
            shown.add_row(name.chain((0..self.entities()).map(|row| feature.cell(row))));
        }
        table::align_right(&mut shown, 1..=self.entities());
        shown
    }

    /// One Arrow IPC stream: keys, then each feature, its status
    /// (`<feature>__status`, the numbers of `granary.v1`) and, where it has
    /// one, its event time (`<feature>__event_time`).
    pub fn write_arrow(&self, out: impl Write) -> anyhow::Result<()> {
        let mut columns: Vec<(String, ArrayRef)> = Vec::new();
        let schema = self.keys.schema();
        for (field, array) in schema.fields().iter().zip(self.keys.columns()) {
            columns.push((field.name().clone(), Arc::clone(array)));
        }
        for feature in &self.features {
            let name = &feature.name;
            columns.push((name.clone(), Arc::clone(&feature.values)));
            let statuses: Int8Array = feature.statuses.iter().map(|s| Some(*s as i8)).collect();
            columns.push((format!("{name}__status"), Arc::new(statuses)));
            if let Some(times) = &feature.event_times {
                let times: TimestampMicrosecondArray =
                    times.iter().map(|t| t.map(|t| t.0)).collect();
                let times = times.with_timezone(UTC);
                columns.push((format!("{name}__event_time"), Arc::new(times)));
            }
        }
        let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
        let batch = RecordBatch::try_from_iter_with_nullable(nullable)?;
        let mut writer = StreamWriter::try_new(out, batch.schema_ref())?;
        writer.write(&batch)?;
        writer.finish()?;
        writer.into_inner()?.flush()?;
        Ok(())
    }
}

impl AnswerColumn {
    /// The value, or why there is none.
    fn cell(&self, row: usize) -> String {
        match self.statuses[row] {
            FeatureStatus::Present => table::cell(&self.values, row),
            FeatureStatus::NullValue => table::NULL.to_owned(),
            missing => format!("({})", missing.as_str()),
        }
    }
}
