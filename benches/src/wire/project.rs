//! The project that is read: 50 features of 5 views of customers, and what other
//! scenarios need beside them; and requests for it, encoded once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use granary_engine::EngineSettings;
use granary_ingest::MaterializeRequest;
use granary_model::SystemClock;
use granary_proto::{
    Column, DataType, DoubleValues, GetFeaturesRequest, Int64Values, Type, Values,
    get_features_request, values,
};
use granary_testing::TestProject;
use granary_testing::project::BoxError;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::client::frame;
use crate::data;

pub const VIEWS: usize = 5;
pub const FEATURES_READ: usize = VIEWS * data::FEATURES;
/// Ten features of each view: 4 DOUBLE, 2 BIGINT, INT, BOOLEAN, TIMESTAMP, VARCHAR;
/// two of them NULL in every tenth row or so.
const FEATURES: [(&str, &str); data::FEATURES] = [
    ("amount", "f0"),
    ("limit", "CASE WHEN f1 < 100000 THEN NULL ELSE f1 END"),
    ("score", "f2 / 1000000"),
    ("ratio", "f3 / (f4 + 1)"),
    ("count", "f8"),
    ("cents", "CAST(f5 AS BIGINT)"),
    ("days", "CAST(f6 / 3000 AS INT)"),
    ("good", "f7 > 300000"),
    ("seen", "at"),
    ("segment", "CASE WHEN f8 < 1000 THEN NULL ELSE f9 END"),
];
/// The snapshot view that is made anew while it is read.
pub const DAILY: &str = "daily";
/// What was prepared in a folder; nothing is prepared twice.
const PREPARED: &str = "prepared";

/// Of some views some rows are too old.
pub fn ttl_days(view: usize) -> usize {
    3650 - 800 * view
}

/// The services that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// 50 features of 5 timestamped views.
    Wide,
    /// The same, a windowed view of 5 aggregates, and an on-demand view of 5 expressions.
    Computed,
    /// 50 features of 4 timestamped views and the snapshot view that changes.
    Changing,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::Wide => "wide",
            Self::Computed => "computed",
            Self::Changing => "changing",
        }
    }
}

/// How keys are drawn.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Keys {
    #[default]
    Uniform,
    /// Zipf with exponent 1.1.
    Skewed,
}

/// How many customers a project has, and whether it has more than `wide`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub customers: usize,
    pub has_all: bool,
}

impl Size {
    pub fn folder(self, under: &Path) -> PathBuf {
        let of = if self.has_all { "all" } else { "wide" };
        under.join(format!("{of}-{}", self.customers))
    }

    fn definitions(self) -> Result<String, std::fmt::Error> {
        let mut sql = wide()?;
        if self.has_all {
            more(&mut sql)?;
        }
        Ok(sql)
    }
}

fn features(view: &str) -> String {
    FEATURES
        .map(|(name, of)| format!("{of} AS {view}_{name}"))
        .join(", ")
}

fn wide() -> Result<String, std::fmt::Error> {
    let mut sql = String::from(
        "CREATE ENTITY customer KEY (customer_id BIGINT);
         CREATE EXTERNAL TABLE facts STORED AS PARQUET LOCATION 'facts.parquet';\n",
    );
    for view in 0..VIEWS {
        writeln!(
            sql,
            "CREATE FEATURE VIEW view{view} ENTITY customer EVENT TIME at TTL INTERVAL '{} days' \
             AS SELECT customer_id, at, {} FROM facts;",
            ttl_days(view),
            features(&format!("v{view}"))
        )?;
    }
    let views: Vec<String> = (0..VIEWS).map(|view| format!("view{view}")).collect();
    writeln!(sql, "{}", service(Service::Wide, &views))?;
    Ok(sql)
}

fn service(service: Service, views: &[String]) -> String {
    let name = service.name();
    let all = views.join(".*, ");
    let from = views.join(", ");
    format!("CREATE FEATURE SERVICE {name} AS SELECT {all}.* FROM {from};")
}

fn more(sql: &mut String) -> Result<(), std::fmt::Error> {
    writeln!(
        sql,
        "CREATE FEATURE VIEW {DAILY} ENTITY customer AS SELECT customer_id, {} FROM facts;
         CREATE FEATURE VIEW recent ENTITY customer EVENT TIME at
         AS SELECT customer_id,
            count(*) OVER d180       AS events_180d,
            sum(f0) OVER d180        AS amount_180d,
            max(f1) OVER d365        AS amount_max_365d,
            avg(f2) OVER d365        AS amount_mean_365d,
            last_value(f8) OVER d365 AS last_count
         FROM facts
         WINDOW d180 AS (PARTITION BY customer_id ORDER BY at RANGE INTERVAL '180 days' PRECEDING),
                d365 AS (PARTITION BY customer_id ORDER BY at RANGE INTERVAL '365 days' PRECEDING);
         CREATE ON DEMAND FEATURE VIEW offer INPUT (requested DOUBLE)
         AS SELECT requested / nullif(v0_amount, 0)                   AS to_amount,
                   round(requested / 36, 2)                           AS instalment,
                   coalesce(v0_limit, 0) + coalesce(v0_score, 0)      AS balance,
                   CASE WHEN v0_ratio > requested THEN 1 ELSE 0 END   AS is_covered,
                   upper(v0_segment)                                  AS segment_upper
            FROM view0;",
        features(DAILY)
    )?;
    let named = |views: &[&str]| views.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = [
        "view0", "view1", "view2", "view3", "view4", "recent", "offer",
    ];
    writeln!(sql, "{}", service(Service::Computed, &named(&all)))?;
    let all = ["view0", "view1", "view2", "view3", DAILY];
    writeln!(sql, "{}", service(Service::Changing, &named(&all)))?;
    Ok(())
}

pub fn open(folder: &Path) -> Result<TestProject, BoxError> {
    TestProject::open(folder, EngineSettings::default(), Arc::new(SystemClock))
}

/// Writes the facts, applies and materialises, unless that was done before.
pub async fn prepare(folder: &Path, size: Size) -> Result<(), BoxError> {
    let definitions = size.definitions()?;
    let wanted = format!("-- {} customers\n{definitions}", size.customers);
    let mark = folder.join(PREPARED);
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == wanted) {
        return Ok(());
    }
    // What is here is of another version of the benchmark, or half done.
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    std::fs::create_dir_all(folder)?;
    let facts = folder.join("facts.parquet");
    data::write_facts(&facts, size.customers, size.customers, 7).map_err(|e| e.to_string())?;
    let project = open(folder)?;
    project.apply(&[("wide.sql", &definitions)]).await?;
    project.materialize(MaterializeRequest::default()).await?;
    std::fs::write(mark, wanted)?;
    Ok(())
}

/// Makes the view that changes anew and publishes it.
pub async fn materialize_daily(folder: &Path) -> Result<(), BoxError> {
    let request = MaterializeRequest {
        views: vec![DAILY.to_owned()],
        ..MaterializeRequest::default()
    };
    open(folder)?.materialize(request).await?;
    Ok(())
}

/// Commits definitions that are those of before and a service more, or those of
/// before again.
pub async fn apply(folder: &Path, size: Size, has_extra: bool) -> Result<(), BoxError> {
    let mut definitions = size.definitions()?;
    if has_extra {
        definitions.push_str("CREATE FEATURE SERVICE extra AS SELECT view0.v0_amount FROM view0;");
    }
    open(folder)?.apply(&[("wide.sql", &definitions)]).await?;
    Ok(())
}

/// A request for these customers.
pub fn request(service: Service, ids: Vec<i64>) -> GetFeaturesRequest {
    let column = |name: &str, kind: Type, values| Column {
        name: name.to_owned(),
        r#type: Some(DataType {
            r#type: kind.into(),
            ..DataType::default()
        }),
        values: Some(Values {
            values: Some(values),
            validity: Bytes::new(),
        }),
    };
    let ids = values::Values::Int64s(Int64Values { values: ids });
    let mut request = GetFeaturesRequest {
        target: Some(get_features_request::Target::Service(
            service.name().to_owned(),
        )),
        keys: vec![column("customer_id", Type::Bigint, ids)],
        ..GetFeaturesRequest::default()
    };
    if service == Service::Computed {
        let amount = values::Values::Doubles(DoubleValues {
            values: vec![5_000.0],
        });
        request.inputs = vec![column("requested", Type::Double, amount)];
    }
    request
}

/// Framed requests of so many entities each.
pub fn requests(service: Service, entities: usize, customers: usize, keys: Keys) -> Vec<Bytes> {
    // Enough not to read the same rows again and again.
    let count = (200_000 / entities).max(10_000);
    let ids = ids(count * entities, customers, keys);
    let each = ids.chunks(entities);
    each.map(|ids| frame(&request(service, ids.to_vec())))
        .collect()
}

/// Customers, drawn the same at every call.
pub fn ids(count: usize, customers: usize, keys: Keys) -> Vec<i64> {
    let mut random = StdRng::seed_from_u64(13);
    let all = customers as i64;
    match keys {
        Keys::Uniform => (0..count).map(|_| random.random_range(0..all)).collect(),
        Keys::Skewed => {
            let zipf = Zipf::new(customers, 1.1);
            // Spread over the key range: the hot ones are not neighbours.
            let spread = |rank: usize| (rank as i64).wrapping_mul(2_654_435_761) % all;
            (0..count)
                .map(|_| spread(zipf.rank(random.random())))
                .collect()
        }
    }
}

/// Ranks from 0, each the less likely the greater it is.
struct Zipf {
    /// Up to each rank, inclusive.
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(ranks: usize, exponent: f64) -> Self {
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-exponent));
        let sums = weights.scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self {
            cumulative: sums.collect(),
        }
    }

    /// `uniform`: from 0 to 1.
    fn rank(&self, uniform: f64) -> usize {
        let all = self.cumulative.last().copied().unwrap_or_default();
        self.cumulative.partition_point(|sum| *sum < uniform * all)
    }
}
