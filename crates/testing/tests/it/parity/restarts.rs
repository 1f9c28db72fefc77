//! Made-up views over a stream in the embedded store, which is closed and
//! opened again after every push: events that came twice, in no order, some
//! of them in the history already.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use granary_engine::EngineSettings;
use granary_ingest::Pushed;
use granary_model::{Definitions, ManualClock};
use granary_serving::ServingSettings;
use granary_store::{EmbeddedEventSettings, EmbeddedEventStore, StoreError};
use granary_testing::TestProject;
use proptest::prelude::*;

use super::compare::{Counts, Parity, tiled};
use super::random;
use super::requests::{DEDUPLICATE, clauses};

/// Opens the project with its events; who reads them still may take a moment.
async fn open(folder: &Path) -> TestProject {
    let clock = Arc::new(ManualClock::new("2040-01-01".parse().unwrap()));
    for _ in 0..500 {
        let settings = EmbeddedEventSettings::default();
        let events = folder.join("kept");
        match EmbeddedEventStore::open(&events, settings, clock.clone()) {
            Ok(events) => {
                let settings = EngineSettings::default();
                return TestProject::over(folder, settings, clock, Arc::new(events)).unwrap();
            }
            Err(StoreError::EventsOwned { .. }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the events are still owned after ten seconds");
}

async fn opened_again(project: TestProject, definitions: &Definitions) -> TestProject {
    let folder = project.folder.clone();
    drop(project);
    let project = open(&folder).await;
    let followed = project.streams.follow(&project.engine, definitions);
    followed.await.unwrap();
    project
}

/// Rows that no column tells from another.
fn untold_rows(batch: &RecordBatch) -> usize {
    let is_told = |row: &usize| {
        let columns = DEDUPLICATE
            .iter()
            .map(|name| batch.column_by_name(name).unwrap());
        columns.into_iter().all(|column| column.is_valid(*row))
    };
    (0..batch.num_rows()).filter(|row| !is_told(row)).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn made_up_live_views_after_restarts(case in random::case(), flushed in 0..3_usize) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let mut project = open(folder.path()).await;
            let sql = case.stream_sql(&format!("{} HISTORY event_history", clauses()));
            let snapshot = project.apply(&[("sql/all.sql", &sql)]).await;
            let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}\n{sql}"));
            let mut counts = Counts::default();
            for (number, batch) in random::batches(&case.events).iter().enumerate() {
                project.streams.push("events", batch).await.unwrap();
                let again = project.streams.push("events", batch).await.unwrap();
                let is_new = |row: &&Pushed| matches!(row, Pushed::Appended(_));
                let untold = again.iter().filter(is_new).count();
                // Only a row with a NULL among those columns is never a duplicate.
                assert!(untold <= untold_rows(batch), "{untold} came twice");
                if number == flushed {
                    project.streams.flush("events").await.unwrap();
                }
                project = opened_again(project, &snapshot.definitions).await;
                for t in case.times() {
                    for settings in [ServingSettings::default(), tiled()] {
                        let parity = Parity::with(&project, t, settings).await;
                        for view in snapshot.definitions.feature_views.values() {
                            parity.compare(view, &random::keys(view), &mut counts).await;
                        }
                    }
                }
            }
            assert!(counts.differences.is_empty(), "{sql}\n{:#?}", counts.differences);
            assert!(counts.keys > 0);
        });
    }
}
