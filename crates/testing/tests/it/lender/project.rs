//! The repository's `sql/` as a project of one data set, served in this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::{Caller, ManualClock, UtcMicros};
use granary_serving::{ReadRequest, ReadTarget, Reader, ServingSettings};
use granary_testing::TestProject;
use tempfile::TempDir;

use super::compare::Answer;
use super::expected::{Key, Reference};

/// The parts of `sql/` that every data set shares.
const SHARED: [&str; 3] = ["canonical.sql", "entities.sql", "services.sql"];

#[derive(Debug)]
pub struct Lender {
    _folder: TempDir,
    project: TestProject,
    clock: Arc<ManualClock>,
    reader: Reader,
}

/// The project's files: what is shared, the features, one adapter.
fn definitions(adapter: &str) -> Vec<(String, String)> {
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql");
    let mut names: Vec<String> = SHARED.map(str::to_owned).to_vec();
    for entry in std::fs::read_dir(sql.join("features")).unwrap() {
        names.push(format!(
            "features/{}",
            entry.unwrap().file_name().to_str().unwrap()
        ));
    }
    names.push(format!("adapters/{adapter}/sources.sql"));
    names.sort();
    names
        .into_iter()
        .map(|name| {
            (
                format!("sql/{name}"),
                std::fs::read_to_string(sql.join(&name)).unwrap(),
            )
        })
        .collect()
}

impl Lender {
    /// Applies the definitions over `data` and materialises them as of `t`.
    pub async fn begin(adapter: &str, data: &Path, t: i64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(data.canonicalize().unwrap(), folder.path().join("data"))
            .unwrap();
        let clock = Arc::new(ManualClock::new(UtcMicros(t)));
        let project =
            TestProject::open(folder.path(), EngineSettings::default(), clock.clone()).unwrap();
        let files = definitions(adapter);
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        project.apply(&files).await.unwrap();
        let reader = project.reader(ServingSettings::default()).await.unwrap();
        Self {
            _folder: folder,
            project,
            clock,
            reader,
        }
    }

    /// Sets the clock to `t` and runs these views as of it; all, if none is named.
    pub async fn materialize(&self, t: i64, views: Vec<String>) {
        self.clock.set(UtcMicros(t));
        self.project
            .materialize(MaterializeRequest {
                views,
                ..MaterializeRequest::default()
            })
            .await
            .unwrap();
        self.reader.refresh().await.unwrap();
    }

    /// Every feature of a view for every key of the reference.
    pub async fn read(&self, reference: &Reference, view: &str) -> BTreeMap<String, Answer> {
        let keys =
            RecordBatch::try_from_iter([(reference.key, key_column(&reference.keys))]).unwrap();
        let response = self
            .reader
            .read(ReadRequest {
                caller: Caller::named("test"),
                target: ReadTarget::Features(vec![format!("{view}.*")]),
                keys,
                as_of: None,
                strictly_before: false,
                full_names: false,
            })
            .await
            .unwrap();
        response
            .features
            .into_iter()
            .map(|f| {
                (
                    f.name.to_string(),
                    Answer {
                        values: f.values,
                        statuses: f.statuses.to_vec(),
                    },
                )
            })
            .collect()
    }

    pub async fn end(self) {}
}

fn key_column(keys: &[Key]) -> ArrayRef {
    match keys[0] {
        Key::Int(_) => Arc::new(Int64Array::from_iter_values(keys.iter().map(
            |key| match key {
                Key::Int(id) => *id,
                Key::Text(id) => panic!("{id:?} among numbers"),
            },
        ))),
        Key::Text(_) => Arc::new(StringArray::from_iter_values(keys.iter().map(
            |key| match key {
                Key::Text(id) => id.clone(),
                Key::Int(id) => panic!("{id} among texts"),
            },
        ))),
    }
}
