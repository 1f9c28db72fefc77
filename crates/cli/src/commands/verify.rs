//! `granary verify`: values that a service serves beside those that a training
//! set has of the same times.

mod logged;
mod online;
mod request;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use granary_engine::StreamSource;
use granary_model::UtcMicros;
use granary_serving::verify::{Report, Served, Verifier, asked_features};

use crate::args::Listing;
use crate::events::ProjectEvents;
use crate::failure::{FAILED, Outcome};
use crate::project::Project;
use online::Online;
use request::Request;
use show::Summary;

/// Entities of one read.
const READ_ROWS: usize = 1_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads a sample of entities online, as of now, and computes each value again as a training set would:
as of the time that the value is of, from the sources, without what was written down later. Floats
are equal within 1e-9 of the greater, all else bit for bit; what is not found and what is too old
are one. Ends with 1 if a value differs.

Entities are those that the sources of the service's views know (with --since, that have an event
from then on), chosen by the hash of their keys and of --seed: the same at every call. Features that
need inputs are left out without --spine or --spine-sql, whose rows have keys and inputs by their
names; further columns are passed over, and so is a time.

With --logged the reads are those that a server logged (`granary serve --log-reads 0.01`), of the
service as it is now. Reads with request events, as of another time, or of a list of features are
not logged. Values over a stream that lost events are left out where they may have been made of
those.

Examples:
  granary verify risk_admission
  granary verify risk_admission --sample 100000 --output json
  granary verify risk_admission --since 2026-01-31 --seed 7
  granary verify risk_admission --spine loans.csv
  granary verify risk_admission --spine-sql \"SELECT customer_id, amount AS requested_amount FROM applications\"
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

    /// A query over the project's sources and views that gives keys and inputs
    #[arg(long, value_name = "SQL", conflicts_with = "spine")]
    pub spine_sql: Option<String>,

    /// Replay logged reads in place of reading
    #[arg(long, conflicts_with_all = ["spine", "spine_sql", "endpoint"])]
    pub logged: bool,

    /// Another sample than at 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,

    /// Only entities with an event from this time on, or with --logged reads from then on
    #[arg(long, value_name = "TIME", conflicts_with_all = ["spine", "spine_sql"])]
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
            logged::leave_out_what_is_gone(&events, &features, &mut served).await?;
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
    if report.compared() == 0 {
        anyhow::bail!("{}: there was nothing to compare", args.service);
    }
    Ok(match report.different() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    })
}

/// Reads all rows, some at a time; those of one snapshot come together.
async fn read(
    online: &Online,
    args: &Args,
    request: &Request,
    full_names: bool,
) -> anyhow::Result<Vec<Served>> {
    let mut all: Vec<Served> = Vec::new();
    for from in (0..request.rows()).step_by(READ_ROWS) {
        let (asked, keys, inputs) = request.part(from, READ_ROWS)?;
        let served = online.read(&args.service, (keys, inputs), full_names, asked);
        let served = served.await?;
        match all.last_mut() {
            Some(last) if last.snapshot == served.snapshot => last.append(served)?,
            _ => all.push(served),
        }
    }
    Ok(all)
}
