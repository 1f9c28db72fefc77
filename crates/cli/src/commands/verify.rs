//! `granary verify`: values that a service serves beside those that a training
//! set has of the same times.

mod logged;
mod online;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::Schema;
use futures::TryStreamExt;
use granary_catalog::Snapshot;
use granary_engine::{Engine, EngineError, InputColumn, StreamSource};
use granary_model::UtcMicros;
use granary_model::definitions::{Column, RequestColumns};
use granary_serving::verify::{
    AskedFeature, Report, Sampler, Served, Verifier, asked_features, entities,
};

use crate::args::Listing;
use crate::events::ProjectEvents;
use crate::failure::{FAILED, Outcome};
use crate::project::Project;
use online::Online;
use show::{LeftOut, Summary};

/// Entities of one read.
const READ_ROWS: usize = 1_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads a sample of entities online, as of now, and computes each value again as a training set would: as of the
time that the value is of, from the sources, without what was written down later. Floats are equal within 1e-9
of the greater, all else bit for bit; what is not found and what is too old are one. Ends with 1 if a value
differs.

Entities are those that the sources of the service's views know, chosen by the hash of their keys: the same at
every call. Features that need inputs are left out without --spine, whose rows have keys and inputs by their
names; further columns are passed over, and so is a time.

With --logged the reads are those that a server logged (`granary serve --log-reads 0.01`): reads of the service as
it is now, as of when they came. Reads with request events, as of another time, or of a list of features are not
logged. Values over a stream without HISTORY are left out where events that they were made of may be gone.

Examples:
  granary verify risk_admission
  granary verify risk_admission --sample 100000 --output json
  granary verify risk_admission --spine loans.csv
  granary verify risk_admission --endpoint http://127.0.0.1:7420
  granary verify risk_admission --logged --since 2026-01-31")]
pub struct Args {
    /// The feature service
    pub service: String,

    /// How many entities, rows of the spine or logged reads
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub sample: usize,

    /// A file with keys and inputs in place of entities of the sources: Parquet, CSV or Arrow IPC
    #[arg(long, value_name = "FILE")]
    pub spine: Option<String>,

    /// Replay logged reads in place of reading
    #[arg(long, conflicts_with_all = ["spine", "endpoint"])]
    pub logged: bool,

    /// Only reads from this time on
    #[arg(long, value_name = "TIME", requires = "logged")]
    pub since: Option<UtcMicros>,

    /// Read from a server; training sets are computed from the project in this folder all the same
    #[arg(short, long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// The name to ask a server under [default: the user]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub client: Option<String>,

    /// The form of the report
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

pub async fn run(folder: Option<&Path>, args: &Args) -> Outcome {
    let project = Project::open(folder)?;
    let events = Arc::new(ProjectEvents::new(project.clone()));
    let engine = project.engine_over(Arc::clone(&events) as Arc<dyn StreamSource>)?;
    let snapshot = project.snapshot().await?;
    let (features, full_names) = asked_features(&engine, &snapshot, &args.service).await?;
    let (served, left_out) = match args.logged {
        true => {
            let mut served = logged::served(&engine, &snapshot, args).await?;
            let known = (&*snapshot, &*events);
            logged::leave_out_what_is_gone(known, &features, &mut served).await?;
            (served, Vec::new())
        }
        false => {
            let request = Request::of(&engine, &snapshot, args).await?;
            let left_out = request.left_out(&features);
            let online = Online::of(&project, (&engine, &events), args).await?;
            let request = request.with_null_inputs(&features)?;
            (read(&online, args, &request, full_names).await?, left_out)
        }
    };
    let compared = features.iter().map(|feature| feature.name.as_str());
    let compared = compared.filter(|name| left_out.iter().all(|left| left.feature != *name));
    let mut report = Report::of(compared);
    let catalog = project.catalog()?;
    let mut verifier = Verifier::new(&engine, &catalog, &args.service);
    for served in &served {
        verifier.compare(served, &mut report).await?;
    }
    Summary {
        service: &args.service,
        rows: served.iter().map(Served::rows).sum(),
        report: &report,
        left_out: &left_out,
    }
    .print(args.output)?;
    Ok(match report.different() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    })
}

/// What is asked of the service, a row an entity.
struct Request {
    /// Keys, then those inputs that are given.
    rows: RecordBatch,
    /// How many of the columns are keys.
    keys: usize,
}

impl Request {
    async fn of(engine: &Engine, snapshot: &Snapshot, args: &Args) -> anyhow::Result<Self> {
        let Some(file) = &args.spine else {
            let rows = entities(engine, snapshot, &args.service, args.sample).await?;
            if rows.num_rows() == 0 {
                bail!("{}: the sources have no entities to compare", args.service);
            }
            return Ok(Self {
                keys: rows.num_columns(),
                rows,
            });
        };
        let service = snapshot.definitions.services.get(&args.service);
        let from = service.map_or(&[][..], |service| &service.from);
        let RequestColumns { keys, inputs } = snapshot.definitions.request_columns(from);
        let maybe = |column: &Column| InputColumn {
            column: column.clone(),
            needed: false,
        };
        let typed: Vec<InputColumn> = inputs.iter().map(maybe).collect();
        let mut given = engine.spine_rows(file, None, &keys, &typed).await?;
        let has = |column: &&Column| given.schema().index_of(&column.name).is_ok();
        let is_key = |column: &&Column| keys.iter().any(|key| key.name == column.name);
        let inputs = inputs.iter().filter(|c| !is_key(c)).filter(has);
        let columns: Vec<Column> = keys.iter().chain(inputs).cloned().collect();
        let schema = schema(&columns);
        let mut sampler = Sampler::of_rows(Arc::clone(&schema), keys.clone(), args.sample);
        let failed = |error| EngineError::from_query(file, error);
        while let Some(batch) = given.try_next().await.map_err(failed)? {
            let arrays = columns.iter().map(|column| {
                let array = &batch.columns()[batch.schema().index_of(&column.name)?];
                cast(array, &column.data_type.to_arrow())
            });
            let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let rows = RecordBatch::try_new_with_options(Arc::clone(&schema), arrays, &options)?;
            sampler.offer(&rows)?;
        }
        Ok(Self {
            rows: sampler.finish()?,
            keys: keys.len(),
        })
    }

    fn lacks(&self, input: &Column) -> bool {
        self.rows.column_by_name(&input.name).is_none()
    }

    /// Features that need an input that is not given.
    fn left_out(&self, features: &[AskedFeature]) -> Vec<LeftOut> {
        let left_out = features.iter().filter_map(|feature| {
            let missing = feature.inputs.iter().filter(|input| self.lacks(input));
            let missing: Vec<&str> = missing.map(|input| input.name.as_str()).collect();
            (!missing.is_empty()).then(|| LeftOut {
                feature: feature.name.clone(),
                reason: format!("it needs {}: give rows with --spine", missing.join(", ")),
            })
        });
        left_out.collect()
    }

    /// A service is read with all that it needs; what is missing is NULL.
    fn with_null_inputs(self, features: &[AskedFeature]) -> anyhow::Result<Self> {
        let mut fields = self.rows.schema().fields().to_vec();
        let mut columns: Vec<ArrayRef> = self.rows.columns().to_vec();
        for input in features.iter().flat_map(|feature| &feature.inputs) {
            if fields.iter().all(|field| *field.name() != input.name) {
                let field = Arc::new(input.to_field());
                columns.push(new_null_array(field.data_type(), self.rows.num_rows()));
                fields.push(field);
            }
        }
        Ok(Self {
            rows: RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?,
            keys: self.keys,
        })
    }

    /// Keys, and inputs by name, of some rows.
    fn part(&self, from: usize) -> anyhow::Result<(RecordBatch, Vec<(String, ArrayRef)>)> {
        let rows = READ_ROWS.min(self.rows.num_rows() - from);
        let part = self.rows.slice(from, rows);
        let keys = part.project(&(0..self.keys).collect::<Vec<_>>())?;
        let schema = part.schema();
        let inputs = schema.fields().iter().zip(part.columns()).skip(self.keys);
        let inputs = inputs.map(|(field, values)| (field.name().clone(), Arc::clone(values)));
        Ok((keys, inputs.collect()))
    }
}

fn schema(columns: &[Column]) -> Arc<Schema> {
    let fields: Vec<_> = columns.iter().map(Column::to_field).collect();
    Arc::new(Schema::new(fields))
}

/// Reads all rows, some at a time; those of one snapshot come together.
async fn read(
    online: &Online,
    args: &Args,
    request: &Request,
    full_names: bool,
) -> anyhow::Result<Vec<Served>> {
    let mut all: Vec<Served> = Vec::new();
    for from in (0..request.rows.num_rows()).step_by(READ_ROWS) {
        let (keys, inputs) = request.part(from)?;
        let asked = request.rows.slice(from, keys.num_rows());
        let served = online.read(&args.service, (keys, inputs), full_names, asked);
        let served = served.await?;
        match all.last_mut() {
            Some(last) if last.snapshot == served.snapshot => last.append(served)?,
            _ => all.push(served),
        }
    }
    Ok(all)
}
