//! What an on-demand view costs: a read of 10 stored features and 10 expressions
//! over them and two inputs, beside the read of the stored features alone, by one
//! reader in this process, alternating. Of 1 entity and of 100.
//!
//! Run with `cargo bench -p granary-benches --bench on_demand`; a number sets the
//! rounds (default 400).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench tells what it measured, and ends when something fails"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Float64Array, Int32Array};
use granary_benches::data;
use granary_benches::process::median;
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::SystemClock;
use granary_serving::{ReadRequest, Reader, ServingSettings};
use granary_testing::TestProject;
use granary_testing::memory::{customers, from_service};

const CUSTOMERS: usize = 10_000;
/// Reads of one side before it is the other's turn.
const TURN: usize = 16;
/// Until caches are warm.
const WARM_UP: usize = 20;

/// What lenders write: ratios, an instalment, bins, a word, a date part.
const EXPRESSIONS: &str = "
CREATE ON DEMAND FEATURE VIEW offer INPUT (requested DOUBLE, term_months INT)
AS SELECT requested / nullif(f0, 0)                          AS to_income,
          round(requested / term_months, 2)                  AS instalment,
          coalesce(f1, 0) + coalesce(f2, 0)                  AS balance,
          CASE WHEN f3 > requested THEN 1 ELSE 0 END         AS is_covered,
          binned(f4, [1e5, 3e5, 6e5], [12, 18, 25, 31])      AS points,
          greatest(f5, f6)                                   AS peak,
          ln(1 + f7)                                         AS log_spend,
          f8 % 7 = 0                                         AS is_seventh,
          upper(f9)                                          AS segment,
          date_part('dow', as_of())                          AS weekday
     FROM customer_facts;
CREATE FEATURE SERVICE stored AS SELECT customer_facts.* FROM customer_facts;
CREATE FEATURE SERVICE computed AS SELECT customer_facts.*, offer.* FROM customer_facts, offer;
";
const OUTPUTS: usize = 10;

async fn reader(folder: &Path) -> Reader {
    data::write_facts(&folder.join("facts.parquet"), CUSTOMERS, CUSTOMERS, 7).unwrap();
    let clock = Arc::new(SystemClock);
    let project = TestProject::open(folder, EngineSettings::default(), clock).unwrap();
    let definitions = format!("{}{EXPRESSIONS}", data::DEFINITIONS);
    let applied = project.apply(&[("offer.sql", &definitions)]).await;
    applied.unwrap();
    let materialized = project.materialize(MaterializeRequest::default()).await;
    materialized.unwrap();
    project.reader(ServingSettings::default()).await.unwrap()
}

fn request(service: &str, entities: usize, round: usize) -> ReadRequest {
    let ids = (0..entities).map(|n| Some(((round * 7_919 + n * 104_729) % CUSTOMERS) as i64));
    let mut request = from_service(service, customers(&ids.collect::<Vec<_>>()));
    if service == "computed" {
        request.inputs = vec![
            (
                "requested".to_owned(),
                Arc::new(Float64Array::from(vec![5_000.0])),
            ),
            (
                "term_months".to_owned(),
                Arc::new(Int32Array::from(vec![36])),
            ),
        ];
    }
    request
}

/// Microseconds of a read, over one turn.
async fn turn(reader: &Reader, service: &str, entities: usize, round: usize) -> f64 {
    let requests: Vec<_> = (0..TURN)
        .map(|n| request(service, entities, round * TURN + n))
        .collect();
    let begin = Instant::now();
    for request in requests {
        black_box(reader.read(request).await.unwrap());
    }
    begin.elapsed().as_secs_f64() * 1e6 / TURN as f64
}

async fn compare(reader: &Reader, entities: usize, rounds: usize) {
    let features = |service| async move {
        let read = reader.read(request(service, entities, 0)).await.unwrap();
        read.features.len()
    };
    assert_eq!(features("stored").await, data::FEATURES);
    assert_eq!(features("computed").await, data::FEATURES + OUTPUTS);
    let (mut stored, mut computed, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..WARM_UP + rounds {
        // Neither side always comes second.
        let (without, with) = if round % 2 == 0 {
            let without = turn(reader, "stored", entities, round).await;
            (without, turn(reader, "computed", entities, round).await)
        } else {
            let with = turn(reader, "computed", entities, round).await;
            (turn(reader, "stored", entities, round).await, with)
        };
        if round >= WARM_UP {
            stored.push(without);
            computed.push(with);
            costs.push(with - without);
        }
    }
    let cost = median(&costs);
    println!(
        "{entities} entities: {:.1} us a read of {} features, {:.1} us with {OUTPUTS} expressions; \
         they cost {cost:.1} us, {:.2} us a row",
        median(&stored),
        data::FEATURES,
        median(&computed),
        cost / entities as f64
    );
}

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok());
    let rounds = rounds.unwrap_or(400);
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let reader = reader(folder.path()).await;
        for entities in [1, 100] {
            compare(&reader, entities, rounds).await;
        }
    });
}
