//! Keys with more events than a read looks at one by one.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use granary_model::UtcMicros;
use granary_store::events::{TileRange, TileSink};
use granary_store::{EntityKeys, OpenStream};
use granary_testing::TestProject;

use super::{at, project};
use crate::parity::compare::{Counts, Parity};

const SQL: &str = include_str!("tiles.sql");
const MINUTE: i64 = 60_000_000;
/// Minutes that calls lie in, 40 days.
const MINUTES: i64 = 40 * 1_440;

/// Numbers without a pattern.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// Calls in no order of time, nearly all of one phone.
fn calls(numbers: &mut Numbers, count: usize, first: UtcMicros) -> RecordBatch {
    let mut of = |bound: i64| -> Vec<i64> { (0..count).map(|_| numbers.below(bound)).collect() };
    let phones = of(50).into_iter();
    let phones = phones.map(|n| Some(if n == 0 { "cold" } else { "hot" }));
    let peers = of(40).into_iter().map(|n| (n > 0).then(|| format!("p{n}")));
    let seconds = of(600).into_iter().map(|n| (n > 20).then_some(n));
    let costs = of(10_000).into_iter().map(|n| Some(n as f64 / 64.0));
    // Many at the same time.
    let times = of(MINUTES)
        .into_iter()
        .map(|n| first.0 + n / 7 * 7 * MINUTE);
    let times = TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC");
    let columns: [(&str, ArrayRef); 5] = [
        ("phone", Arc::new(phones.collect::<StringArray>())),
        ("peer", Arc::new(peers.collect::<StringArray>())),
        ("seconds", Arc::new(seconds.collect::<Int64Array>())),
        ("cost", Arc::new(costs.collect::<Float64Array>())),
        ("at", Arc::new(times)),
    ];
    let columns = columns.map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[derive(Default)]
struct Count(usize);

impl TileSink for Count {
    fn tile(&mut self, _: usize, _: UtcMicros, _: &[u8]) {
        self.0 += 1;
    }
}

/// How many tiles of the phone are stored.
async fn tiles(project: &TestProject, stream: &OpenStream) -> usize {
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let view = &snapshot.definitions.feature_views["calls"];
    let phone: ArrayRef = Arc::new(StringArray::from(vec!["hot"]));
    let keys = EntityKeys::encode(&view.keys, &[phone]).unwrap();
    let spans = &stream.events.spec().tile_sets[0].spans;
    let ranges = (0..spans.len()).map(|level| TileRange {
        key: keys.get(0).unwrap(),
        level,
        from: UtcMicros::MIN,
        to: UtcMicros::MAX,
    });
    let ranges: Vec<TileRange<'_>> = ranges.collect();
    let mut count = Count::default();
    let snapshot = stream.events.snapshot().await.unwrap();
    snapshot.tiles(0, &ranges, &mut count).await.unwrap();
    count.0
}

/// Tiles are kept behind the back of the read that made them.
async fn kept_tiles(project: &TestProject, stream: &OpenStream) -> usize {
    for _ in 0..200 {
        let kept = tiles(project, stream).await;
        if kept > 0 {
            return kept;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    0
}

async fn agree(project: &TestProject) {
    let definitions = project
        .catalog
        .latest()
        .await
        .unwrap()
        .unwrap()
        .definitions
        .clone();
    let keys = "SELECT column1 AS phone FROM (VALUES ('hot'), ('cold'), ('none'), (NULL))";
    for t in [
        "2026-03-02T00:00:00Z",
        "2026-03-20T11:07:00.000001Z",
        "2026-04-08T10:00:00Z",
        "2026-04-10T23:59:59Z",
    ] {
        let parity = Parity::as_of(project, at(t)).await;
        let mut counts = Counts::default();
        for view in definitions.feature_views.values() {
            parity.compare(view, keys, &mut counts).await;
        }
        assert!(counts.differences.is_empty(), "{:#?}", counts.differences);
        assert!(counts.present > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_many_events_is_read_from_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let now = at("2026-04-11T00:00:00Z");
    let project = project(folder.path(), now);
    let snapshot = project.apply(&[("sql/tiles.sql", SQL)]).await;
    snapshot.unwrap_or_else(|wrong| panic!("{wrong}"));
    let mut numbers = Numbers(7);
    let first = at("2026-03-01T00:00:00Z");
    let push = async |batch: &RecordBatch| {
        let pushed = project.streams.push("call", batch).await.unwrap();
        assert_eq!(pushed.len(), batch.num_rows());
    };
    push(&calls(&mut numbers, 20_000, first)).await;
    agree(&project).await;
    let stream = project.streams.opened().get("call").unwrap();
    assert!(kept_tiles(&project, &stream).await > 0);
    agree(&project).await;

    // Late ones, in the spans of tiles.
    push(&calls(&mut numbers, 500, first)).await;
    agree(&project).await;
    assert!(kept_tiles(&project, &stream).await > 0);

    stream.events.drop_tiles(0).await.unwrap();
    agree(&project).await;
}
