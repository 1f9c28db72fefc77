//! A project for a test: events in a CSV file, a few views over them, and the
//! values that they must have, worked out from the events by hand.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use granary_catalog::{Catalog, DurableLocal, Plan, Snapshot};
use granary_engine::{Engine, EngineSettings};
use granary_ingest::{
    IngestError, MaterializeRequest, Materializer, MaterializerSettings, Progress, RunOutcome,
    Silent, Stage,
};
use granary_model::definitions::{
    Column, Definitions, Entity, EventTime, ExternalTable, FeatureView, ServeMode, SourceColumn,
};
use granary_model::fingerprint::Fingerprint;
use granary_model::{FeatureStatus, FeatureType, ManualClock, UtcMicros, ViewKind};
use granary_store::{
    EmbeddedSettings, EmbeddedStore, EntityKeys, GenerationState, MemoryStore, OnlineStore,
    RowDecoder, RowReader, RowSink,
};
use object_store::ObjectStore;
use object_store::path::Path as StorePath;
use url::Url;

/// Customers that are read back; events have some of these.
pub const CUSTOMERS: i64 = 20;

pub fn at(text: &str) -> UtcMicros {
    text.parse().unwrap()
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub customer: i64,
    pub at: UtcMicros,
    pub written: UtcMicros,
    pub amount: f64,
}

pub fn event(customer: i64, at: &str, amount: f64) -> Event {
    let at = at.parse().unwrap();
    Event {
        customer,
        at,
        written: at,
        amount,
    }
}

/// Values of one view by customer: event time and features.
pub type Values = BTreeMap<i64, (Option<UtcMicros>, Vec<f64>)>;

pub struct Project {
    pub folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
    pub clock: Arc<ManualClock>,
    pub engine: Engine,
    pub catalog: Catalog,
    pub store: Arc<dyn OnlineStore>,
    pub snapshot: Snapshot,
}

impl Project {
    /// The clock stands at 2026-01-01. The store is in memory.
    pub fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut project = Self::at(temporary.path(), Arc::new(MemoryStore::new()));
        project._temporary = Some(temporary);
        project
    }

    pub fn embedded() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let mut project = Self::at(temporary.path(), embedded(temporary.path()));
        project._temporary = Some(temporary);
        project
    }

    /// In a folder that is there already, and stays.
    pub fn at(folder: &Path, store: Arc<dyn OnlineStore>) -> Self {
        Self::over(folder, Arc::new(DurableLocal::new()), store)
    }

    /// `files` is the whole file system.
    pub fn over(folder: &Path, files: Arc<dyn ObjectStore>, store: Arc<dyn OnlineStore>) -> Self {
        let clock = Arc::new(ManualClock::new(at("2026-01-01")));
        let root = folder.join("root");
        let engine = Engine::new(
            EngineSettings {
                target_partitions: 2,
                ..EngineSettings::default()
            },
            Url::from_directory_path(&root).unwrap(),
            folder.to_owned(),
            {
                let files = files.clone();
                Arc::new(move |_| Ok(files.clone()))
            },
            clock.clone(),
        )
        .unwrap();
        let root = StorePath::from_absolute_path(&root).unwrap();
        let plan = Plan::new(None, definitions());
        Self {
            folder: folder.to_owned(),
            _temporary: None,
            engine,
            catalog: Catalog::new(files, root, clock.clone()),
            clock,
            store,
            snapshot: Snapshot {
                format: 1,
                number: 1,
                commit_id: Default::default(),
                committed_at: UtcMicros(0),
                committed_by: "test".into(),
                definitions: plan.next,
                versions: plan.versions,
            },
        }
    }

    pub fn view(&self, name: &str) -> &FeatureView {
        &self.snapshot.definitions.feature_views[name]
    }

    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut FeatureView)) {
        change(
            self.snapshot
                .definitions
                .feature_views
                .get_mut(name)
                .unwrap(),
        );
    }

    pub fn write(&self, events: &[Event]) {
        let mut csv = String::from("customer_id,at,written_at,amount\n");
        for e in events {
            writeln!(csv, "{},{},{},{:?}", e.customer, e.at, e.written, e.amount).unwrap();
        }
        std::fs::write(self.folder.join("event.csv"), csv).unwrap();
    }

    pub fn write_grades(&self, grades: &[(i64, i64)]) {
        let mut csv = String::from("customer_id,grade\n");
        for (customer, grade) in grades {
            writeln!(csv, "{customer},{grade}").unwrap();
        }
        std::fs::write(self.folder.join("account.csv"), csv).unwrap();
    }

    pub fn materializer(&self) -> Materializer {
        self.materializer_with(MaterializerSettings::default())
    }

    pub fn materializer_with(&self, settings: MaterializerSettings) -> Materializer {
        Materializer::new(
            self.engine.clone(),
            self.catalog.clone(),
            Arc::clone(&self.store),
            self.clock.clone(),
            settings,
        )
    }

    pub async fn materialize(
        &self,
        request: MaterializeRequest,
    ) -> Result<Vec<RunOutcome>, IngestError> {
        self.materializer()
            .materialize(&self.snapshot, request, Arc::new(Silent))
            .await
    }

    /// Materialises some views as of a time; gives one line an outcome.
    pub async fn run(&self, views: &[&str], as_of: &str) -> Vec<String> {
        lines(self.materialize(request(views, as_of)).await.unwrap())
    }

    /// What is published of a view.
    pub async fn published(&self, view: &str) -> Option<GenerationState> {
        let view = self.view(view);
        let generation = self.store.generation(&view.name, view.version);
        generation.await.unwrap().map(|g| g.state())
    }

    /// Reads every customer of a view online.
    pub async fn online(&self, view: &str) -> Values {
        let view = self.view(view);
        let generation = self.store.generation(&view.name, view.version);
        let generation = generation.await.unwrap().expect("a published generation");
        let customers: ArrayRef = Arc::new((0..CUSTOMERS).collect::<Int64Array>());
        let keys = EntityKeys::encode(&view.keys, &[customers]).unwrap();
        let projection = (0..view.features.len()).collect();
        let mut rows = Rows(RowReader::new(
            &RowDecoder::new(generation.layout(), projection),
            keys.len(),
            None,
        ));
        let generations = [generation];
        self.store
            .read(&keys, &generations, &mut rows)
            .await
            .unwrap();
        let found = rows.0.finish().unwrap();
        let customers = (0..CUSTOMERS).filter(|c| {
            let status = found.statuses[0][usize::try_from(*c).unwrap()];
            status != FeatureStatus::NotFound
        });
        customers
            .map(|customer| {
                let row = usize::try_from(customer).unwrap();
                let time = found.event_times.as_ref().and_then(|times| times[row]);
                let values = found.values.iter().map(|v| number(v, row)).collect();
                (customer, (time, values))
            })
            .collect()
    }
}

struct Rows(RowReader);

impl RowSink for Rows {
    fn row(&mut self, _: usize, entity: usize, row: &[u8]) {
        self.0.push(entity, row).unwrap();
    }
}

fn number(values: &ArrayRef, row: usize) -> f64 {
    match values.data_type() {
        _ if values.is_null(row) => f64::NAN,
        DataType::Float64 => values.as_primitive::<Float64Type>().value(row),
        DataType::Int64 => values.as_primitive::<Int64Type>().value(row) as f64,
        other => panic!("{other}"),
    }
}

pub fn embedded(folder: &Path) -> Arc<dyn OnlineStore> {
    let settings = EmbeddedSettings::default();
    Arc::new(EmbeddedStore::open(&folder.join("online"), settings).unwrap())
}

pub fn request(views: &[&str], as_of: &str) -> MaterializeRequest {
    MaterializeRequest {
        views: views.iter().map(|v| (*v).to_owned()).collect(),
        as_of: Some(at(as_of)),
        ..MaterializeRequest::default()
    }
}

/// `spend 2025-02-01: 3 rows`, `spend 2025-02-01: skipped (..)`, ...
pub fn lines(outcomes: Vec<RunOutcome>) -> Vec<String> {
    let line = |outcome| match outcome {
        RunOutcome::Committed(r) => format!("{} {}: {} rows", r.view, day(r.as_of), r.rows),
        RunOutcome::Skipped {
            view,
            as_of,
            reason,
        } => format!("{view} {}: skipped ({reason})", day(as_of)),
        RunOutcome::Failed { view, as_of, error } => {
            format!("{view} {}: failed ({error})", day(as_of))
        }
        RunOutcome::NotStarted { view, because_of } => {
            format!("{view}: not started ({because_of})")
        }
    };
    outcomes.into_iter().map(line).collect()
}

fn day(t: UtcMicros) -> String {
    t.to_string().replace("T00:00:00Z", "")
}

/// What the `spend` view must hold as of T: the greatest event of each customer.
pub fn spend(events: &[Event], as_of: &str) -> Values {
    let mut values = Values::new();
    let mut greatest: BTreeMap<i64, &Event> = BTreeMap::new();
    for e in events.iter().filter(|e| e.at <= at(as_of)) {
        let rank = |e: &Event| (e.at, e.written, e.amount);
        let kept = greatest.entry(e.customer).or_insert(e);
        if rank(e) > rank(kept) {
            *kept = e;
        }
    }
    for (customer, e) in greatest {
        values.insert(customer, (Some(e.at), vec![e.amount]));
    }
    values
}

/// What the `total` view must hold as of T: sum and count of each customer.
pub fn total(events: &[Event], as_of: &str) -> Values {
    let mut values = Values::new();
    for e in events.iter().filter(|e| e.at <= at(as_of)) {
        let (_, features) = values.entry(e.customer).or_insert((None, vec![0.0, 0.0]));
        features[0] += e.amount;
        features[1] += 1.0;
    }
    values
}

/// What `doubled` must hold: twice the total.
pub fn doubled(events: &[Event], as_of: &str) -> Values {
    let totals = total(events, as_of).into_iter();
    totals
        .map(|(c, (t, v))| (c, (t, vec![v[0] * 2.0])))
        .collect()
}

/// Writes down every stage.
#[derive(Debug, Default)]
pub struct Log(pub Mutex<Vec<(String, UtcMicros, Stage)>>);

impl Progress for Log {
    fn stage(&self, view: &str, as_of: UtcMicros, stage: Stage) {
        self.0.lock().unwrap().push((view.to_owned(), as_of, stage));
    }
}

fn table(name: &str, columns: &[(&str, DataType)], event_time: Option<EventTime>) -> ExternalTable {
    let options = "OPTIONS ('format.has_header' 'true')";
    ExternalTable {
        name: name.into(),
        sql: format!("CREATE EXTERNAL TABLE {name} STORED AS CSV LOCATION '{name}.csv' {options}"),
        columns: columns
            .iter()
            .map(|(name, data_type)| SourceColumn {
                name: (*name).to_owned(),
                data_type: data_type.to_string(),
                comment: None,
            })
            .collect(),
        event_time,
        annotations: Default::default(),
        fingerprint: Fingerprint::of([name]),
    }
}

fn snapshot_view(
    name: &str,
    reads: &str,
    query: &str,
    features: &[(&str, FeatureType)],
) -> FeatureView {
    FeatureView {
        name: name.into(),
        version: 0,
        fingerprint: Fingerprint::of([query]),
        kind: ViewKind::Snapshot,
        entities: vec!["customer".into()],
        keys: vec![Column::new("customer_id", FeatureType::BigInt)],
        event_time: None,
        created_time: None,
        then_by: vec![],
        ttl: None,
        max_events: None,
        refresh_every: None,
        serve: ServeMode::Online,
        query: query.into(),
        features: features
            .iter()
            .map(|(name, data_type)| Column::new(*name, data_type.clone()))
            .collect(),
        depends_on: vec![reads.into()],
        current_state: vec![],
        calls_as_of: false,
        live: false,
        windows: Vec::new(),
        annotations: Default::default(),
    }
}

fn definitions() -> Definitions {
    Definitions {
        entities: [(
            "customer".to_owned(),
            Entity {
                name: "customer".into(),
                keys: vec![Column::new("customer_id", FeatureType::BigInt)],
                annotations: Default::default(),
            },
        )]
        .into(),
        tables: tables().map(|t| (t.name.clone(), t)).into(),
        feature_views: views().map(|v| (v.name.clone(), v)).into(),
        ..Definitions::default()
    }
}

fn tables() -> [ExternalTable; 2] {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let event_time = EventTime {
        event_time: "at".into(),
        created_time: Some("written_at".into()),
    };
    let event = [
        ("customer_id", DataType::Int64),
        ("at", time.clone()),
        ("written_at", time),
        ("amount", DataType::Float64),
    ];
    let account = [("customer_id", DataType::Int64), ("grade", DataType::Int64)];
    [
        table("event", &event, Some(event_time)),
        table("account", &account, None),
    ]
}

/// `spend` (timestamped), `total`, `doubled` (reads total), `grade` (reads a
/// source without an event time), `twice` (two rows a key) and `above_twice`.
fn views() -> [FeatureView; 6] {
    use FeatureType::{BigInt, Double};
    let spend = "SELECT customer_id, at, written_at, amount FROM event";
    let total =
        "SELECT customer_id, sum(amount) AS total, count(*) AS n FROM event GROUP BY customer_id";
    let doubled = "SELECT customer_id, total * 2 AS doubled FROM total";
    let grade = "SELECT customer_id, grade FROM account";
    let twice = "SELECT customer_id, amount AS x FROM event";
    let above_twice = "SELECT customer_id, x AS y FROM twice";
    [
        FeatureView {
            kind: ViewKind::Timestamped,
            event_time: Some("at".into()),
            created_time: Some("written_at".into()),
            ..snapshot_view("spend", "event", spend, &[("amount", Double)])
        },
        snapshot_view("total", "event", total, &[("total", Double), ("n", BigInt)]),
        snapshot_view("doubled", "total", doubled, &[("doubled", Double)]),
        FeatureView {
            current_state: vec!["account".into()],
            ..snapshot_view("grade", "account", grade, &[("grade", BigInt)])
        },
        snapshot_view("twice", "event", twice, &[("x", Double)]),
        snapshot_view("above_twice", "twice", above_twice, &[("y", Double)]),
    ]
}
