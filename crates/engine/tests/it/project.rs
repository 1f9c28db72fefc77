//! A project for a test: a temporary folder, a clock that is set, sources
//! written as Parquet, and definitions made by hand.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use granary_engine::{
    Engine, EngineError, EngineSettings, OfflineTable, RunMode, RunRecord, RunScope,
};
use granary_model::definitions::{
    Column, EventTime, ExternalTable, PlainView, ServeMode, SourceColumn,
};
use granary_model::{
    Clock, Definitions, FeatureType, FeatureView, ManualClock, UtcMicros, ViewKind,
};
use object_store::local::LocalFileSystem;
use parquet::arrow::ArrowWriter;
use url::Url;

pub(crate) struct Project {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) engine: Engine,
    pub(crate) definitions: Definitions,
}

pub(crate) fn at(text: &str) -> UtcMicros {
    text.parse().unwrap()
}

impl Project {
    /// The clock stands at 2026-01-01.
    pub(crate) fn new() -> Self {
        Self::with_settings(EngineSettings {
            target_partitions: 2,
            ..EngineSettings::default()
        })
    }

    pub(crate) fn with_settings(settings: EngineSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(at("2026-01-01")));
        let engine = Self::engine(folder.path(), settings, clock.clone());
        Self {
            folder,
            clock,
            engine,
            definitions: Definitions::default(),
        }
    }

    pub(crate) fn engine(folder: &Path, settings: EngineSettings, clock: Arc<dyn Clock>) -> Engine {
        Engine::new(
            settings,
            Url::from_directory_path(folder.join("root")).unwrap(),
            folder.to_owned(),
            Arc::new(|_| Ok(Arc::new(LocalFileSystem::new()))),
            clock,
        )
        .unwrap()
    }

    /// Writes `<name>.parquet` in row groups of `group_rows` and defines a table over it.
    pub(crate) fn table_in_groups(
        &mut self,
        name: &str,
        rows: &RecordBatch,
        event_time: Option<&str>,
        group_rows: usize,
    ) {
        let path = self.folder.path().join(format!("{name}.parquet"));
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_max_row_group_row_count(Some(group_rows))
            .build();
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
        writer.write(rows).unwrap();
        writer.close().unwrap();
        let table = ExternalTable {
            name: name.into(),
            sql: format!(
                "CREATE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{name}.parquet'"
            ),
            columns: source_columns(&rows.schema()),
            event_time: event_time.map(event_time_of),
            annotations: Default::default(),
            fingerprint: Default::default(),
        };
        self.definitions.tables.insert(name.into(), table);
    }

    pub(crate) fn table(&mut self, name: &str, rows: &RecordBatch, event_time: Option<&str>) {
        self.table_in_groups(name, rows, event_time, 1 << 20);
    }

    /// A table from a SELECT without FROM or over VALUES.
    pub(crate) async fn table_from_sql(&mut self, name: &str, sql: &str, event_time: Option<&str>) {
        let context = self
            .engine
            .session(&Definitions::default(), None)
            .await
            .unwrap();
        let frame = context.sql(sql).await.unwrap();
        let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
        let batches = frame.collect().await.unwrap();
        let rows = arrow::compute::concat_batches(&schema, &batches).unwrap();
        self.table(name, &rows, event_time);
    }

    pub(crate) async fn plain_view(&mut self, name: &str, query: &str, event_time: Option<&str>) {
        let context = self.engine.session(&self.definitions, None).await.unwrap();
        let frame = context.sql(query).await.unwrap();
        let view = PlainView {
            name: name.into(),
            sql: format!("CREATE VIEW {name} AS {query}"),
            columns: source_columns(frame.schema().as_arrow()),
            event_time: event_time.map(event_time_of),
            depends_on: Vec::new(),
            annotations: Default::default(),
            fingerprint: Default::default(),
        };
        self.definitions.views.insert(name.into(), view);
    }

    /// A feature view whose features are the columns of `query` that are
    /// neither keys nor times. `times`: event time and created time.
    pub(crate) async fn feature_view(
        &mut self,
        name: &str,
        keys: &[&str],
        times: &[&str],
        query: &str,
    ) -> FeatureView {
        let context = self.engine.session(&self.definitions, None).await.unwrap();
        let frame = context.sql(query).await.unwrap();
        let schema = frame.schema().as_arrow().clone();
        let typed = |name: &str| {
            let field = schema.field_with_name(name).unwrap();
            Column::new(name, FeatureType::from_arrow(field.data_type()).unwrap())
        };
        let others = schema.fields().iter().map(|f| f.name().as_str());
        let features = others.filter(|name| !keys.contains(name) && !times.contains(name));
        let view = FeatureView {
            name: name.into(),
            version: 1,
            fingerprint: Default::default(),
            kind: if times.is_empty() {
                ViewKind::Snapshot
            } else {
                ViewKind::Timestamped
            },
            entities: vec!["customer".into()],
            keys: keys.iter().map(|name| typed(name)).collect(),
            event_time: times.first().map(|t| (*t).to_owned()),
            created_time: times.get(1).map(|t| (*t).to_owned()),
            then_by: Vec::new(),
            ttl: None,
            max_events: None,
            refresh_every: None,
            serve: ServeMode::Online,
            query: query.into(),
            features: features.map(typed).collect(),
            depends_on: Vec::new(),
            current_state: Vec::new(),
            calls_as_of: false,
            live: false,
            windows: Vec::new(),
            annotations: Default::default(),
        };
        self.definitions
            .feature_views
            .insert(name.into(), view.clone());
        view
    }

    pub(crate) async fn run(
        &self,
        view: &FeatureView,
        as_of: &str,
        mode: RunMode,
    ) -> Result<RunRecord, EngineError> {
        self.run_scope(view, None, as_of, mode).await
    }

    pub(crate) async fn run_scope(
        &self,
        view: &FeatureView,
        from: Option<&str>,
        as_of: &str,
        mode: RunMode,
    ) -> Result<RunRecord, EngineError> {
        let scope = RunScope {
            as_of: at(as_of),
            from: from.map(at),
            current_state: false,
            mode,
        };
        self.engine
            .run(&self.definitions, view, scope, &|_| {})
            .await
    }

    pub(crate) async fn open(&self, view: &FeatureView) -> OfflineTable {
        OfflineTable::open(&self.engine, view)
            .await
            .unwrap()
            .unwrap()
    }

    /// The rows of a query as text, one line a row, values separated by `|`.
    pub(crate) async fn sql(&self, as_of: Option<&str>, sql: &str) -> Vec<String> {
        let context = self
            .engine
            .session(&self.definitions, as_of.map(at))
            .await
            .unwrap();
        lines(&context.sql(sql).await.unwrap().collect().await.unwrap())
    }

    /// Rows for the online store, which come in the order of their keys
    /// (compared as text here), sorted altogether.
    pub(crate) async fn online(
        &self,
        view: &FeatureView,
        since: Option<u64>,
        not_before: Option<&str>,
    ) -> Vec<String> {
        let table = self.open(view).await;
        let rows = table.online_rows(since, not_before.map(at)).await.unwrap();
        let batches: Vec<_> = futures::TryStreamExt::try_collect(rows).await.unwrap();
        let lines = lines(&batches);
        let key = |line: &String| line.split('|').next().map(str::to_owned);
        assert!(lines.is_sorted_by_key(key), "by key: {lines:?}");
        let mut lines = lines;
        lines.sort();
        lines
    }
}

pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| {
                granary_model::json::text(column, row).unwrap_or_else(|| "NULL".into())
            });
            lines.push(values.collect::<Vec<_>>().join("|"));
        }
    }
    lines
}

fn event_time_of(column: &str) -> EventTime {
    EventTime {
        event_time: column.into(),
        created_time: None,
    }
}

fn source_columns(schema: &arrow::datatypes::Schema) -> Vec<SourceColumn> {
    let fields = schema.fields().iter();
    fields
        .map(|field| SourceColumn {
            name: field.name().clone(),
            data_type: field.data_type().to_string(),
            comment: None,
        })
        .collect()
}
