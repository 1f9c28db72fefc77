//! A service of views of every kind is verified, some time after its runs: all
//! values are those of training sets, and a wrong one is found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::Int64Type;
use arrow::json::ReaderBuilder;
use granary_engine::{EngineSettings, Lost};
use granary_ingest::MaterializeRequest;
use granary_model::{Caller, ManualClock, UtcMicros};
use granary_serving::verify::{
    AskedFeature, EntitySample, Report, Served, Verifier, asked_features, entities,
};
use granary_serving::{ReadRequest, ReadTarget, ServingSettings};
use granary_store::online::{Coverage, WriteMode};
use granary_store::{EntityKeys, RowLayout};
use granary_testing::TestProject;

const SQL: &str = include_str!("verify/views.sql");

/// Before the run; the last of customer 4 is beyond the TTL.
const PAYMENTS: &str = "\
customer_id,device_id,amount,at,written_at
1,d1,10.5,2026-02-20T10:00:00Z,2026-02-20T10:00:00Z
1,d2,0.1,2026-02-21T10:00:00Z,2026-02-21T10:00:00Z
2,d1,7,2026-02-25T10:00:00Z,
3,,1e17,2026-02-25T11:00:00Z,2026-02-25T11:00:00Z
3,,1e-3,2026-02-25T12:00:00Z,2026-02-25T12:00:00Z
4,d3,5,2026-02-05T10:00:00Z,2026-02-05T10:00:00Z
";

/// Come later: one that the run would have seen, had it been there, one of a
/// customer that no run knows.
const LATER: &str = "\
customer_id,device_id,amount,at,written_at
1,d9,1000,2026-02-28T10:00:00Z,2026-03-01T18:00:00Z
9,d1,3,2026-03-01T17:00:00Z,2026-03-01T17:00:00Z
";

struct Verified {
    project: TestProject,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn at(text: &str) -> UtcMicros {
    text.parse().unwrap()
}

impl Verified {
    /// Runs at noon of one day, events and late payments since, read the next day.
    async fn project() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(at("2026-03-01T12:00:00Z")));
        write(folder.path(), "a.csv", PAYMENTS);
        let project = TestProject::open(folder.path(), EngineSettings::default(), clock.clone());
        let project = project.unwrap();
        let snapshot = project.apply(&[("sql/views.sql", SQL)]).await;
        let snapshot = snapshot.unwrap_or_else(|wrong| panic!("{wrong}"));
        project
            .materialize(MaterializeRequest::default())
            .await
            .unwrap();
        write(folder.path(), "b.csv", LATER);
        clock.set(at("2026-03-02T09:30:00Z"));
        let columns: Vec<usize> = (0..4).collect();
        let schema = snapshot.definitions.streams["tap"].row_schema();
        let schema = Arc::new(schema.project(&columns).unwrap());
        let taps = r#"
            {"id":"a","customer_id":1,"n":3,"at":"2026-03-02T09:00:00Z"}
            {"id":"b","customer_id":1,"n":4,"at":"2026-03-02T09:29:00Z"}
            {"id":"c","customer_id":5,"n":1,"at":"2026-03-02T08:00:00Z"}"#;
        let mut reader = ReaderBuilder::new(schema).build(taps.as_bytes()).unwrap();
        let taps = reader.next().unwrap().unwrap();
        project.streams.push("tap", &taps).await.unwrap();
        clock.set(at("2026-03-02T09:40:00Z"));
        Self {
            project,
            clock,
            _folder: folder,
        }
    }

    async fn read(&self, asked: Option<f64>) -> Served {
        let snapshot = self.project.catalog.latest().await.unwrap().unwrap();
        let engine = &self.project.engine;
        let keys = entities(engine, &snapshot, "admission", of(100))
            .await
            .unwrap();
        let input: ArrayRef = Arc::new(Float64Array::from(vec![asked; keys.num_rows()]));
        let request = RecordBatch::try_from_iter_with_nullable([
            ("customer_id", Arc::clone(keys.column(0)), true),
            ("asked", Arc::clone(&input), true),
        ]);
        let reader = self
            .project
            .reader(ServingSettings::default())
            .await
            .unwrap();
        let answer = reader.read(ReadRequest {
            caller: Caller::named("test"),
            target: ReadTarget::Service("admission".into()),
            keys,
            inputs: vec![("asked".into(), input)],
            request_events: Vec::new(),
            as_of: None,
            strictly_before: false,
            full_names: false,
        });
        Served::of(request.unwrap(), answer.await.unwrap())
    }

    async fn report(&self, served: &Served) -> Report {
        let names = served.features.iter().map(|feature| feature.name.as_str());
        let mut report = Report::of(names);
        let mut verifier = Verifier::new(&self.project.engine, &self.project.catalog, "admission");
        verifier.compare(served, &mut report).await.unwrap();
        report
    }

    /// Puts a greater payment at the time of the newest one of customer 1.
    async fn corrupt(&self) {
        let store = &self.project.store;
        let snapshot = self.project.catalog.latest().await.unwrap().unwrap();
        let view = &snapshot.definitions.feature_views["last_payment"];
        let layout = Arc::new(RowLayout::of(view));
        let generation = store.generation(&view.name, view.version).await;
        let coverage: Coverage = generation.unwrap().unwrap().state().coverage;
        let customer: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let time = |text: &str| -> ArrayRef {
            let time = TimestampMicrosecondArray::from(vec![at(text).0]);
            Arc::new(time.with_timezone("UTC"))
        };
        let device: ArrayRef = Arc::new(StringArray::from(vec!["d2"]));
        let amount: ArrayRef = Arc::new(Float64Array::from(vec![77.25]));
        let row = RecordBatch::try_from_iter([
            ("customer_id", Arc::clone(&customer)),
            ("at", time("2026-02-21T10:00:00Z")),
            ("written_at", time("2026-02-21T10:00:00Z")),
            ("last_amount", amount),
            ("device_id", device),
        ]);
        let rows = layout.encode(&row.unwrap(), Some("at"), Some("written_at"));
        let keys = EntityKeys::encode(&view.keys, &[customer]).unwrap();
        let up_to = coverage.as_of;
        let writer = store.writer(
            &view.name,
            view.version,
            layout,
            WriteMode::Upsert { up_to },
        );
        let mut writer = writer.await.unwrap();
        let written = writer.write(&keys, &rows.unwrap()).await.unwrap();
        assert!(written.changed());
        writer.publish(coverage).await.unwrap();
    }
}

fn write(folder: &Path, name: &str, rows: &str) {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join(name), rows).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_what_the_training_set_says() {
    let verified = Verified::project().await;
    for (asked, t) in [
        (Some(3.5), "2026-03-02T09:40:00Z"),
        (None, "2026-03-02T09:40:00Z"),
        // Runs are beyond their TTL, some rows too.
        (Some(1.0), "2026-03-14T00:00:00Z"),
        (Some(1.0), "2026-04-30T00:00:00Z"),
    ] {
        verified.clock.set(at(t));
        let served = verified.read(asked).await;
        // 1 to 4 of the first payments, 9 of the later ones, 5 of the taps.
        assert_eq!(served.rows(), 6);
        let report = verified.report(&served).await;
        assert_eq!(report.different(), 0, "as of {t}: {report:#?}");
        assert_eq!(report.compared(), 6 * 12, "{report:#?}");
        for feature in &report.features {
            assert_eq!((feature.compared, feature.equal), (6, 6), "{feature:#?}");
        }
        if t.starts_with("2026-03-02") {
            let present = |name: &str| {
                let mut features = report.features.iter();
                features.find(|f| f.name == name).unwrap().present
            };
            // Customer 4's payment is too old, 3's has no device.
            assert_eq!(present("last_amount"), 3);
            assert_eq!(present("uses"), 2);
            assert_eq!(present("amount_30d"), 4);
            assert_eq!(present("taps_1h"), 6);
            assert_eq!(present("last_n"), 2);
            assert_eq!(present("per_payment"), 4);
            assert_eq!(present("asked_share"), if asked.is_some() { 4 } else { 0 });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_row_online_is_found_with_all_that_it_decides() {
    let verified = Verified::project().await;
    verified.corrupt().await;
    let served = verified.read(Some(1.0)).await;
    let report = verified.report(&served).await;
    assert_eq!(report.different(), 1, "{report:#?}");
    let feature = { report.features.iter() }
        .find(|f| f.different > 0)
        .unwrap();
    assert_eq!(feature.name, "last_amount");
    assert_eq!((feature.compared, feature.equal), (6, 5));
    assert!(
        (feature.worst.unwrap() - 77.15).abs() < 1e-9,
        "{feature:#?}"
    );
    let [example] = &feature.examples[..] else {
        panic!("{feature:#?}");
    };
    assert_eq!(example.as_of, at("2026-03-01T12:00:00Z"));
    assert_eq!(example.read_at, at("2026-03-02T09:40:00Z"));
    let shown = |value: &ArrayRef| granary_model::json::text(value, 0).unwrap();
    assert_eq!(shown(&example.online.1), "77.25");
    assert_eq!(shown(&example.training.1), "0.1");
    assert_eq!(shown(example.request.column(0)), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn features_that_need_an_input_are_told() {
    let verified = Verified::project().await;
    let snapshot = verified.project.catalog.latest().await.unwrap().unwrap();
    let engine = &verified.project.engine;
    let (features, full_names) = asked_features(engine, &snapshot, "admission")
        .await
        .unwrap();
    assert!(!full_names);
    let needy = features.iter().filter(|f| !f.inputs.is_empty());
    let needy: Vec<_> = needy.map(|f| (&*f.name, &*f.inputs[0].name)).collect();
    assert_eq!(needy, [("asked_share", "asked")]);
    let all = Lost {
        before: UtcMicros::MAX,
        newest_from: UtcMicros::MAX,
        newest_kept: BTreeMap::new(),
    };
    let lost = BTreeMap::from([("tap".to_owned(), all)]);
    let now = at("2026-03-02T09:40:00Z");
    let is_computable = |f: &&AskedFeature| f.live.iter().all(|l| l.is_computable(&lost, now));
    let gone: Vec<_> = { features.iter() }
        .filter(|f| !is_computable(f))
        .map(|f| &*f.name)
        .collect();
    assert_eq!(gone, ["taps_1h", "n_1h", "last_n"]);
    let keys = entities(engine, &snapshot, "admission", of(2))
        .await
        .unwrap();
    assert_eq!(keys.num_rows(), 2);
    let recent = EntitySample {
        since: Some(at("2026-03-02T09:15:00Z")),
        ..of(100)
    };
    let keys = entities(engine, &snapshot, "admission", recent)
        .await
        .unwrap();
    let customers = keys.column(0).as_primitive::<Int64Type>();
    assert_eq!(customers.values()[..], [1]);
    let mut of_seeds = BTreeSet::new();
    for seed in 0..9 {
        let one = EntitySample { seed, ..of(1) };
        let keys = entities(engine, &snapshot, "admission", one).await.unwrap();
        let again = entities(engine, &snapshot, "admission", one).await.unwrap();
        assert_eq!(keys, again);
        of_seeds.extend(keys.column(0).as_primitive::<Int64Type>().iter().flatten());
    }
    assert!(of_seeds.len() > 1, "{of_seeds:?}");
}

fn of(rows: usize) -> EntitySample {
    EntitySample {
        rows,
        seed: 0,
        since: None,
    }
}
