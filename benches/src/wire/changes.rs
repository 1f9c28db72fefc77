//! Reads while the data and the catalog change beneath them, and the first reads
//! of a server that was just started.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use granary_proto::GetFeaturesResponse;
use granary_testing::project::BoxError;
use prost::Message;

use super::bench::Bench;
use super::client::{Client, frame};
use super::http;
use super::load::{Seen, Target, p99_millis};
use super::project::{self, DAILY, Service, Size};
use super::report::{Row, figure};
use super::roles::{self, Beside};
use crate::process::{self, Server, evict, median};

const ENTITIES: usize = 10;
/// While something changes: of the rate without, and the slowest of a hundred.
const KEPT: f64 = 0.8;
const P99_MILLIS: f64 = 5.0;
/// A change is seen within so long after it is done.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

const FIRST_MILLIS: f64 = 5.0;
const READY_SECONDS: f64 = 1.0;
/// How long a server may take to be ready at all.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

pub async fn changes(bench: &mut Bench) -> Result<(), BoxError> {
    let size = bench.options.usual();
    let folder = bench.project(size)?;
    // A run that was stopped may have left what it applied.
    process::run(&mut apply(&folder, size, false)?)?;
    let server = bench.granary().await?;
    let mut target = bench.target(&server, &bench.requests(Service::Changing, ENTITIES));
    let rate = bench.maximum("changes", &target).await? / 2.0;
    let calm = target.open(rate).await?.clean()?;
    // Nothing of a change is left out.
    target.warm_up = Duration::ZERO;
    target.duration = Duration::from_secs(1);

    let mut command = roles::command("materialize")?;
    command.arg(&folder);
    let was = state(&server).await?;
    let (seen, took) = meanwhile(&target, rate, &mut command).await?;
    await_news(&server, |state| state.daily > was.daily).await?;
    let what = format!(
        "{} requests/s of {ENTITIES} while a view of {} customers is materialised and swapped ({} s)",
        figure(rate),
        size.customers,
        figure(took.as_secs_f64())
    );
    row(bench, &what, &seen, &calm);

    let mut all: Option<Seen> = None;
    for has_extra in [true, false] {
        let was = state(&server).await?;
        let mut command = apply(&folder, size, has_extra)?;
        let (seen, _) = meanwhile(&target, rate, &mut command).await?;
        await_news(&server, |state| state.snapshot > was.snapshot).await?;
        match &mut all {
            Some(all) => all.merge(&seen)?,
            None => all = Some(seen),
        }
    }
    let what = format!(
        "{} requests/s of {ENTITIES} while catalog snapshots are applied",
        figure(rate)
    );
    if let Some(seen) = all {
        row(bench, &what, &seen, &calm);
    }
    bench.report.note(
        "What changes a project is a process of its own on the server's core, at the lowest \
         priority (nice 19).",
    );
    Ok(())
}

fn apply(folder: &Path, size: Size, has_extra: bool) -> Result<Command, BoxError> {
    let mut command = roles::command("apply")?;
    command.arg(folder).arg(size.customers.to_string());
    if has_extra {
        command.arg("--extra");
    }
    Ok(command)
}

fn row(bench: &mut Bench, what: &str, seen: &Seen, calm: &Seen) {
    bench.lateness(what, [seen]);
    let kept = seen.rate() / calm.rate();
    let p99 = p99_millis(&seen.answered);
    let told = |seen: &Seen| {
        format!(
            "{} requests/s, p99 {:.2} ms, failures: {}",
            figure(seen.rate()),
            p99_millis(&seen.answered),
            seen.failures()
        )
    };
    let row = Row::new(what, told(seen)).peer(format!("without: {}", told(calm)));
    bench.report.row(row.condition(
        format!("at least 0.8 of the rate (is {kept:.2}), p99 under 5 ms"),
        kept >= KEPT && p99 < P99_MILLIS && seen.not_answered() == 0,
    ));
}

/// Load from the start of a command to a second after its end, so that the server
/// has taken up what it did.
async fn meanwhile(
    target: &Target,
    rate: f64,
    command: &mut Command,
) -> Result<(Seen, Duration), BoxError> {
    let started = Instant::now();
    let mut child = command.spawn()?;
    let mut took = None;
    let mut seen = target.open(rate).await?;
    while took.is_none() {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                return Err(format!("{command:?} ended with {status}").into());
            }
            took = Some(started.elapsed());
        }
        seen.merge(&target.open(rate).await?)?;
    }
    Ok((seen, took.unwrap_or_default()))
}

/// What a server serves from.
struct State {
    snapshot: u64,
    /// What the view that changes is as of, UTC microseconds.
    daily: i64,
}

async fn state(server: &Server) -> Result<State, BoxError> {
    let client = Client::connect(&server.address, None).await?;
    let mut request = project::request(Service::Changing, vec![0]);
    request.include_as_of = true;
    let answer = GetFeaturesResponse::decode(client.ask(frame(&request)).await?)?;
    let daily = answer.features.iter().find(|column| column.view == DAILY);
    let daily = daily.and_then(|column| column.as_of.first());
    Ok(State {
        snapshot: answer.snapshot,
        daily: *daily.ok_or("an answer without what it is as of")?,
    })
}

async fn await_news(server: &Server, is_new: impl Fn(&State) -> bool) -> Result<(), BoxError> {
    let patience = Instant::now() + SEEN_WITHIN;
    while !is_new(&state(server).await?) {
        if Instant::now() > patience {
            return Err("the server does not see what changed".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What a start took.
struct Start {
    /// Until the server says that it is ready.
    ready: Duration,
    /// Of the first read after that, on a connection that stands.
    first: Duration,
    /// Until that was answered.
    answered: Duration,
}

pub async fn cold(bench: &mut Bench) -> Result<(), BoxError> {
    for size in [bench.options.usual(), bench.options.large()] {
        let folder = bench.project(size)?;
        starts(bench, &folder, size, Pages::InMemory).await?;
        starts(bench, &folder, size, Pages::OnDisk).await?;
    }
    Ok(())
}

/// Where the project's files are when a server starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// As after a restart of the server.
    InMemory,
    /// As after a restart of the machine.
    OnDisk,
}

async fn starts(
    bench: &mut Bench,
    folder: &Path,
    size: Size,
    pages: Pages,
) -> Result<(), BoxError> {
    let mut starts = Vec::new();
    if pages == Pages::InMemory {
        let server = roles::start_granary(folder, Beside::Nothing)?;
        roles::warm(&server, size).await?;
    }
    for round in 0..bench.options.rounds {
        if pages == Pages::OnDisk {
            evict(folder)?;
        }
        let customer = (round * 7919 % size.customers) as i64;
        starts.push(start(folder, customer).await?);
    }
    let of = |took: fn(&Start) -> Duration| -> Vec<f64> {
        starts.iter().map(|s| took(s).as_secs_f64()).collect()
    };
    let told = |seconds: &[f64]| {
        let most = seconds.iter().copied().fold(0.0, f64::max);
        let (median, most) = (figure(median(seconds) * 1e3), figure(most * 1e3));
        format!("{median} ms, at most {most}")
    };
    let where_from = match pages {
        Pages::InMemory => "of the server",
        Pages::OnDisk => "of the machine",
    };
    let what = format!("a restart {where_from}, {} customers", size.customers);
    let first = of(|s| s.first);
    let row = Row::new(format!("first read after {what}"), told(&first));
    let met = median(&first) * 1e3 < FIRST_MILLIS;
    bench.report.row(row.condition("under 5 ms", met));
    let ready = of(|s| s.ready);
    let row = Row::new(format!("ready after {what}"), told(&ready));
    let met = median(&ready) < READY_SECONDS;
    bench.report.row(row.condition("under 1 s", met));
    let row = Row::new(
        format!("first answer after {what}"),
        told(&of(|s| s.answered)),
    );
    bench.report.row(row);
    Ok(())
}

/// Starts a server, waits until it says that it is ready, and reads once.
async fn start(folder: &Path, customer: i64) -> Result<Start, BoxError> {
    let request = frame(&project::request(Service::Wide, vec![customer]));
    let started = Instant::now();
    let server = roles::start_granary(folder, Beside::Http)?;
    let http = server.http.as_deref().ok_or("no HTTP")?;
    while !http::is_ok(http, "/readyz").await? {
        if started.elapsed() > STARTED_WITHIN {
            return Err("the server is not ready".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let ready = started.elapsed();
    let client = Client::connect(&server.address, None).await?;
    let asked = Instant::now();
    client.ask(request).await?;
    Ok(Start {
        ready,
        first: asked.elapsed(),
        answered: started.elapsed(),
    })
}
