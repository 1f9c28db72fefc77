//! A stream with a history, its events and an engine that reads both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use granary_catalog::DurableLocal;
use granary_engine::{
    Engine, EngineError, EngineSettings, HistoryAppend, HistoryTable, Retention, StreamSource,
};
use granary_ingest::{HistoryPushed, IngestError, OpenEvents, Pushed, StreamSettings, Streams};
use granary_model::definitions::{Annotations, Column, Definitions, Stream};
use granary_model::fingerprint::Fingerprint;
use granary_model::{FeatureType, Interval, ManualClock, UtcMicros};
use granary_store::events::{StreamState, TrimPolicy};
use granary_store::{EmbeddedEventSettings, EventRows};
use url::Url;

/// 2023-11-14 22:13:20.
pub const NOW: i64 = 1_700_000_000_000_000;
pub const DAY: i64 = 86_400_000_000;
pub const STREAM: &str = "card_event";

pub struct Home {
    folder: PathBuf,
    settings: StreamSettings,
    definitions: Definitions,
    pub engine: Engine,
    pub streams: Arc<Streams>,
}

pub fn settings() -> StreamSettings {
    StreamSettings::default()
}

fn definitions(history: Option<&str>) -> Definitions {
    let stream = Stream {
        name: STREAM.into(),
        columns: vec![
            Column::new("event_id".to_owned(), FeatureType::Varchar),
            Column::new("customer_id".to_owned(), FeatureType::BigInt),
            Column::new("amount".to_owned(), FeatureType::Double),
            Column::new("at".to_owned(), FeatureType::Timestamp),
        ],
        event_time: "at".into(),
        deduplicate_by: vec!["event_id".into()],
        history: history.map(str::to_owned),
        then_by: Vec::new(),
        annotations: Annotations::default(),
        fingerprint: Fingerprint("1".into()),
    };
    let mut definitions = Definitions::default();
    definitions.streams.insert(stream.name.clone(), stream);
    definitions
}

pub fn batch(ids: &[&str], at: i64) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_value(at, ids.len()).with_timezone("UTC");
    let customers = Int64Array::from_iter_values(0..ids.len() as i64);
    let amounts = Float64Array::from_iter_values(ids.iter().map(|_| 1.5));
    RecordBatch::try_from_iter([
        (
            "event_id",
            Arc::new(StringArray::from(ids.to_vec())) as ArrayRef,
        ),
        ("customer_id", Arc::new(customers) as ArrayRef),
        ("amount", Arc::new(amounts) as ArrayRef),
        ("at", Arc::new(times) as ArrayRef),
    ])
    .unwrap()
}

impl Home {
    pub async fn open(folder: &Path, settings: StreamSettings) -> Self {
        Self::of(folder, settings, definitions(Some("card_history"))).await
    }

    /// With HISTORY and without DEDUPLICATE BY.
    pub async fn repeating(folder: &Path, settings: StreamSettings) -> Self {
        let mut definitions = definitions(Some("card_history"));
        let stream = definitions.streams.get_mut(STREAM).unwrap();
        stream.deduplicate_by.clear();
        Self::of(folder, settings, definitions).await
    }

    /// Without HISTORY.
    pub async fn bare(folder: &Path, settings: StreamSettings) -> Self {
        Self::of(folder, settings, definitions(None)).await
    }

    async fn of(folder: &Path, settings: StreamSettings, definitions: Definitions) -> Self {
        let clock = Arc::new(ManualClock::new(UtcMicros(NOW)));
        let events = EmbeddedEventSettings::default();
        let streams = Streams::open(
            &folder.join("events"),
            events,
            settings.clone(),
            clock.clone(),
        );
        let streams = Arc::new(streams.unwrap());
        let files = Arc::new(DurableLocal::new());
        let engine = Engine::new(
            EngineSettings {
                target_partitions: 2,
                ..EngineSettings::default()
            },
            Url::from_directory_path(folder.join("root")).unwrap(),
            folder.to_owned(),
            Arc::new(move |_| Ok(files.clone())),
            clock,
        );
        let source = OpenEvents(Arc::clone(streams.opened()));
        let engine = engine.unwrap().with_streams(Arc::new(source));
        // What is needed is up to each test.
        streams.open_all(&engine, &definitions).await.unwrap();
        Self {
            folder: folder.to_owned(),
            settings,
            definitions,
            engine,
            streams,
        }
    }

    pub async fn restart(self) -> Self {
        let definitions = self.definitions.clone();
        self.with(definitions).await
    }

    /// Restarted after the events were lost.
    pub async fn without_events(self) -> Self {
        let (folder, settings) = (self.folder.clone(), self.settings.clone());
        let definitions = self.definitions.clone();
        drop(self);
        std::fs::remove_dir_all(folder.join("events")).unwrap();
        Self::of(&folder, settings, definitions).await
    }

    pub async fn renamed(self, history: &str) -> Self {
        self.with(definitions(Some(history))).await
    }

    async fn with(self, definitions: Definitions) -> Self {
        let (folder, settings) = (self.folder.clone(), self.settings.clone());
        drop(self);
        Self::of(&folder, settings, definitions).await
    }

    pub fn stream(&self) -> &Stream {
        &self.definitions.streams[STREAM]
    }

    pub async fn push(&self, ids: &[&str], at: i64) -> Vec<Pushed> {
        let pushed = self.streams.push(STREAM, &batch(ids, at)).await;
        pushed.unwrap()
    }

    pub async fn push_history(&self, batches: &[RecordBatch]) -> HistoryPushed {
        let pushed = self.streams.push_history(STREAM, batches).await;
        pushed.unwrap()
    }

    /// Live views need so many days from now on; restores and trims.
    pub async fn need(&self, days: i32) {
        let range = Interval {
            days,
            ..Interval::ZERO
        };
        let needs = BTreeMap::from([(STREAM.to_owned(), Retention::range(range))]);
        self.streams.retain(needs);
        self.streams.restore(STREAM).await.unwrap();
        self.streams.trim(STREAM).await.unwrap();
    }

    /// What the event store has, and all that lies so many days behind the
    /// newest event.
    pub async fn kept_and_needed(&self, days: i32) -> (Vec<String>, Vec<String>) {
        let source = OpenEvents(Arc::clone(self.streams.opened()));
        let mut bare = self.stream().clone();
        bare.history = None;
        let kept = source.scan(&bare, &[0]).await.unwrap().kept;
        let kept: Vec<RecordBatch> = kept.try_collect().await.unwrap();
        let kept = kept.iter().flat_map(|batch| {
            let ids = batch.column(0).as_string::<i32>().iter();
            ids.map(|id| id.unwrap().to_owned()).collect::<Vec<_>>()
        });
        let needed = format!(
            "SELECT event_id FROM card_event \
             WHERE at >= (SELECT max(at) FROM card_event) - INTERVAL '{days} days' ORDER BY 1"
        );
        (kept.collect(), self.texts(&needed).await)
    }

    pub async fn flush(&self) -> u64 {
        self.try_flush().await.unwrap()
    }

    pub async fn try_flush(&self) -> Result<u64, IngestError> {
        self.streams.flush(STREAM).await
    }

    /// The first half of a flush: the commit, and no note of it.
    pub async fn commit_only(&self) {
        let open = self.streams.opened().get(STREAM).unwrap();
        let append = HistoryAppend::begin(&self.engine, self.stream()).await;
        let mut append = append.unwrap();
        let reached = append.base().map_or(0, HistoryTable::flushed);
        let snapshot = open.events.snapshot().await.unwrap();
        let mut rows = EventRows::new(&open.layout, &[0, 1, 2, 3, 4]);
        snapshot.scan_log(reached, 2, &mut rows).await.unwrap();
        let read = rows.finish().unwrap();
        let Some(last) = read.sequences.last() else {
            return;
        };
        let sequences = read.sequences.iter().map(|sequence| *sequence as i64);
        let mut columns = read.batch.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(sequences)));
        let batch = RecordBatch::try_new(self.stream().history_schema(), columns);
        append.write(&batch.unwrap()).await.unwrap();
        append.commit(*last, None, None).await.unwrap();
    }

    pub async fn trim(&self, older_than: i64) {
        let open = self.streams.opened().get(STREAM).unwrap();
        let policy = TrimPolicy {
            older_than: UtcMicros(older_than),
            keep_newest: Vec::new(),
        };
        let mut from = None;
        loop {
            from = open.events.trim(&policy, from).await.unwrap().next;
            if from.is_none() {
                return;
            }
        }
    }

    pub async fn state(&self) -> StreamState {
        let open = self.streams.opened().get(STREAM).unwrap();
        *open.events.snapshot().await.unwrap().state()
    }

    pub async fn history(&self) -> Option<HistoryTable> {
        let table = HistoryTable::open(&self.engine, self.stream()).await;
        table.unwrap()
    }

    /// Commits to the history.
    pub fn commits(&self) -> usize {
        let log = self.folder.join("root/history/card_history/_delta_log");
        let entries = std::fs::read_dir(log).unwrap();
        let entries = entries.map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.extension().is_some_and(|e| e == "json"))
            .count()
    }

    pub async fn texts(&self, sql: &str) -> Vec<String> {
        self.try_texts(None, sql).await.unwrap()
    }

    /// Rows as text, of a session as of a time.
    pub async fn try_texts(
        &self,
        as_of: Option<UtcMicros>,
        sql: &str,
    ) -> Result<Vec<String>, EngineError> {
        let session = self.engine.session(&self.definitions, as_of).await?;
        let failed = |e| EngineError::from_query(STREAM, e);
        let batches = session.sql(sql).await.map_err(failed)?;
        let batches = batches.collect().await.map_err(failed)?;
        let mut texts = Vec::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                let values = batch.columns().iter();
                let values = values.map(|column| array_value_to_string(column, row).unwrap());
                texts.push(values.collect::<Vec<_>>().join("|"));
            }
        }
        Ok(texts)
    }

    /// Of every event, sorted.
    pub async fn ids(&self) -> Vec<String> {
        self.try_ids().await.unwrap()
    }

    pub async fn try_ids(&self) -> Result<Vec<String>, EngineError> {
        let ids = "SELECT event_id FROM card_event ORDER BY 1";
        self.try_texts(None, ids).await
    }
}
