//! Reads while the data and the catalog change beneath them, and the first reads
//! of a server that was just started.

use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
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
use super::roles::{self, Beside, SERVER_CORE};
use super::strain::{DAY_PER_SECOND, add};
use crate::process::{self, Server, evict, median};

const ENTITIES: usize = 10;
/// While something changes: of the rate without, and the slowest of a hundred.
const KEPT: f64 = 0.8;
const P99_MILLIS: f64 = 5.0;
/// A change is seen within so long after it is done.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
/// How often features are applied, and taken back.
const APPLIED: usize = 3;
/// For so long the load goes on after a change.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// How often it is looked whether a change is done.
const LOOKS_EVERY: Duration = Duration::from_millis(10);

const FIRST_MILLIS: f64 = 5.0;
const READY_SECONDS: f64 = 1.0;
/// How long a server may take to be ready at all.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

pub async fn changes(bench: &mut Bench) -> Result<(), BoxError> {
    let size = bench.options.usual();
    let folder = bench.project(size)?;
    let project = (folder.as_path(), size);
    // A run that was stopped may have left what it applied.
    process::run(&mut apply(project, false)?)?;
    let server = bench.granary().await?;
    let requests = bench.requests(Service::Changing, ENTITIES);
    let mut target = bench.target(&server, &requests);
    let greatest = bench.maximum("changes", &target).await?;
    target.duration = Duration::from_secs(bench.options.sustained_seconds);
    let client = Client::connect(&server.address, None).await?;
    let answer = bench.file("answer", &client.ask(requests[0].clone()).await?)?;
    let loads = [
        (
            DAY_PER_SECOND / ENTITIES as f64,
            "ten billion entities a day",
        ),
        (greatest / 2.0, "half of the greatest rate"),
    ];
    let mut ours = Vec::new();
    for (rate, _) in loads {
        ours.push(observe(project, &target, rate, Some(&server)).await?);
    }
    drop(server);
    // What the machine makes of whatever answers.
    let bare = Server::start(roles::command("bare")?.arg(&answer))?;
    target.address.clone_from(&bare.address);
    target.pids = vec![bare.pid()];
    for ((rate, is), ours) in loads.into_iter().zip(ours) {
        let load = format!("{} requests/s of {ENTITIES}, {is},", figure(rate));
        let bare = observe(project, &target, rate, None).await?;
        let what = format!(
            "{load} while a view of {} customers is materialised and swapped ({} s)",
            size.customers,
            figure(ours.took.as_secs_f64())
        );
        let sides = (&ours.materialized, &bare.materialized);
        row(bench, &what, sides, (&ours.calm, &bare.calm));
        let what = format!("{load} while catalog snapshots are applied");
        let sides = (&ours.applied, &bare.applied);
        row(bench, &what, sides, (&ours.calm, &bare.calm));
    }
    bench.report.note(
        "What changes a project is a process of its own on the server's core, at the lowest \
         priority (nice 19). Bare tonic answers in Granary's place, after it.",
    );
    Ok(())
}

/// One load, without a change and with each.
struct Observed {
    calm: Seen,
    materialized: Seen,
    took: Duration,
    applied: Seen,
}

/// `serves`: who has to have seen each change, if it is Granary.
async fn observe(
    project: (&Path, Size),
    target: &Target,
    rate: f64,
    serves: Option<&Server>,
) -> Result<Observed, BoxError> {
    let calm = target.open(rate).await?.clean()?;
    let mut command = roles::command("materialize")?;
    command.arg(project.0);
    let was = state(serves).await?;
    let (materialized, took) = meanwhile(target, rate, command).await?;
    await_news(serves, |state| state.daily > was.daily).await?;

    let mut applied: Option<Seen> = None;
    for n in 0..APPLIED * 2 {
        let has_extra = n % 2 == 0;
        let was = state(serves).await?;
        let (seen, _) = meanwhile(target, rate, apply(project, has_extra)?).await?;
        await_news(serves, |state| state.snapshot > was.snapshot).await?;
        add(&mut applied, seen)?;
    }
    Ok(Observed {
        calm,
        materialized,
        took,
        applied: applied.ok_or("nothing was applied")?,
    })
}

fn apply(project: (&Path, Size), has_extra: bool) -> Result<Command, BoxError> {
    let mut command = roles::command("apply")?;
    command.arg(project.0).arg(project.1.customers.to_string());
    if has_extra {
        command.arg("--extra");
    }
    Ok(command)
}

fn row(bench: &mut Bench, what: &str, (ours, bare): (&Seen, &Seen), calm: (&Seen, &Seen)) {
    bench.lateness(what, [ours]);
    let kept = ours.rate() / calm.0.rate();
    let p99 = |seen: &Seen| p99_millis(&seen.answered);
    let told = |seen: &Seen, calm: &Seen| {
        format!(
            "{} requests/s, p99 {:.2} ms, {:.2} without, failures: {}",
            figure(seen.rate()),
            p99(seen),
            p99(calm),
            seen.failures()
        )
    };
    let row = Row::new(what, told(ours, calm.0)).peer(told(bare, calm.1));
    bench.report.row(row.condition(
        format!("at least 0.8 of the rate (is {kept:.2}), p99 under 5 ms, none refused"),
        kept >= KEPT && p99(ours) < P99_MILLIS && ours.not_answered() == 0,
    ));
}

/// A process that does not outlive its measurement.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Load from the start of a command to a second after its end, so that the server
/// has taken up what it did.
async fn meanwhile(
    target: &Target,
    rate: f64,
    command: Command,
) -> Result<(Seen, Duration), BoxError> {
    let mut command = Some(command);
    let mut starting = None;
    let mut running: Option<Running> = None;
    let mut looks = Duration::ZERO;
    let mut took = None;
    let is_over = |time: Duration| {
        if took.is_none() && time >= looks {
            looks = time + LOOKS_EVERY;
            if let Some(command) = command.take() {
                starting = Some(thread::spawn(|| start_beside(command)));
            }
            if let Some(started) = starting.take_if(|started| started.is_finished()) {
                let started = started.join().map_err(|_| "starting a process panicked")?;
                running = Some(started?);
            }
            if let Some(running) = &mut running
                && let Some(status) = running.0.try_wait()?
            {
                if !status.success() {
                    return Err(format!("what changes the project ended with {status}").into());
                }
                took = Some(time);
            }
        }
        Ok(took.is_some_and(|took| time > took + AFTERWARDS))
    };
    let seen = target.open_until(rate, is_over).await?;
    Ok((seen, took.unwrap_or_default()))
}

/// Starts a process on the server's core, at the lowest priority from its beginning. On a
/// thread of its own, which has to wait until the process runs.
fn start_beside(mut command: Command) -> io::Result<Running> {
    process::give_way()?;
    process::pin_to_core(SERVER_CORE)?;
    Ok(Running(command.spawn()?))
}

/// What a server serves from.
#[derive(Default)]
struct State {
    snapshot: u64,
    /// What the view that changes is as of, UTC microseconds.
    daily: i64,
}

async fn state(server: Option<&Server>) -> Result<State, BoxError> {
    let Some(server) = server else {
        return Ok(State::default());
    };
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

async fn await_news(
    server: Option<&Server>,
    is_new: impl Fn(&State) -> bool,
) -> Result<(), BoxError> {
    let patience = Instant::now() + SEEN_WITHIN;
    while server.is_some() && !is_new(&state(server).await?) {
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
