//! Sides that alternate: Granary and bare tonic, Granary and Redis, a service with
//! and without computed features, many customers and few, observed and not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_proto::GetFeaturesResponse;
use granary_testing::project::BoxError;
use prost::Message;
use tokio::task::JoinHandle;

use super::bench::{Bench, bytes_below};
use super::client::Client;
use super::http;
use super::load::{Seen, Target, p99_millis};
use super::project::{self, Service};
use super::redis::{self as peer, RedisServer};
use super::report::{Aim, Row, figure};
use super::roles::{self, Beside, SERVER_CORE};
use crate::process::{Server, median, status_bytes};

const METRICS: &str = "/metrics";
/// How often metrics are read.
const SCRAPED_EVERY: Duration = Duration::from_secs(1);

/// Entities of a request, with the aims for rate and CPU time against bare tonic.
const BARE_AIMS: [(usize, f64, f64); 3] = [(1, 0.8, 1.3), (10, 0.55, 1.8), (100, 0.35, 2.8)];
const P99_AIM: f64 = 1.5;
/// The same for the rate against Redis.
const REDIS_AIMS: [(usize, f64); 2] = [(1, 1.3), (100, 2.0)];
const LARGE_AIM: f64 = 0.6;
const OBSERVED_AIM: f64 = 0.95;

fn entities_of(count: usize) -> String {
    match count {
        1 => "1 entity".to_owned(),
        count => format!("{count} entities"),
    }
}

fn aimed(row: Row, aim: Option<Aim>) -> Row {
    match aim {
        Some(aim) => row.aim(aim),
        None => row,
    }
}

fn cpu(seen: &[Seen]) -> Vec<f64> {
    seen.iter().map(Seen::server_cpu_micros).collect()
}

/// Rows for the rate and the CPU time of two sides; gives the rates.
async fn compare(
    bench: &mut Bench,
    what: &str,
    (ours, peer): (&Target, &Target),
    (rate, cost): (Option<Aim>, Option<Aim>),
) -> Result<(Vec<f64>, Vec<f64>), BoxError> {
    let (ours, peer) = bench.alternate(ours, peer).await?;
    let rates = bench.rates(what, &ours, &peer);
    let row = Row::sides(what, rates.unit, &rates.ours, &rates.peer);
    bench.report.row(aimed(row, rate));
    let row = Row::sides(
        format!("{what}, server CPU"),
        "us a request",
        &cpu(&ours),
        &cpu(&peer),
    );
    bench.report.row(aimed(row, cost));
    Ok((rates.ours, rates.peer))
}

pub async fn bare(bench: &mut Bench) -> Result<(), BoxError> {
    let ours = bench.granary().await?;
    for entities in bench.options.entities.clone() {
        let requests = bench.requests(Service::Wide, entities);
        let client = Client::connect(&ours.address, None).await?;
        let answer = client.ask(requests[0].clone()).await?;
        let file = bench.file("answer", &answer)?;
        let bare = Server::start(roles::command("bare")?.arg(&file))?;
        bench.same_answers((&ours, &bare), &requests[..1]).await?;

        bench.report.note(format!(
            "{}: a request of {} bytes, an answer of {}.",
            entities_of(entities),
            requests[0].len(),
            answer.len()
        ));
        let what = format!("{} against bare tonic", entities_of(entities));
        let aims = BARE_AIMS.iter().find(|aims| aims.0 == entities);
        let rate = aims.map(|aims| Aim::AtLeast(aims.1));
        let cost = aims.map(|aims| Aim::AtMost(aims.2));
        let sides = (
            bench.target(&ours, &requests),
            bench.target(&bare, &requests),
        );
        let (ours, bare) = compare(bench, &what, (&sides.0, &sides.1), (rate, cost)).await?;
        let halves = (median(&ours) / 2.0, median(&bare) / 2.0);
        half(bench, &what, (&sides.0, &sides.1), halves).await?;
    }
    Ok(())
}

/// Both at half of what ours can do at most, and the peer at half of its own.
async fn half(
    bench: &mut Bench,
    what: &str,
    (ours, bare): (&Target, &Target),
    (rate, own): (f64, f64),
) -> Result<(), BoxError> {
    let (mut of_ours, mut of_bare, mut at_own) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.rounds {
        of_bare.push(bare.open(rate).await?.clean()?);
        of_ours.push(ours.open(rate).await?.clean()?);
        at_own.push(bare.open(own).await?.clean()?);
    }
    let p99s =
        |seen: &[Seen]| -> Vec<f64> { seen.iter().map(|s| p99_millis(&s.answered)).collect() };
    let told = |seen: &[Seen], quantile| {
        let millis = |seen: &Seen| seen.answered.value_at_quantile(quantile) as f64 / 1e6;
        figure(median(&seen.iter().map(millis).collect::<Vec<_>>()))
    };
    for (what, peer) in [
        (
            format!("{what}, p99 at {rate:.0} requests/s"),
            of_bare.as_slice(),
        ),
        (
            format!(
                "{what}, p99 at {rate:.0} requests/s, half its own greatest rate, against {own:.0}"
            ),
            &at_own,
        ),
    ] {
        bench.lateness(&what, of_ours.iter().chain(peer));
        bench.refused(&what, of_ours.iter().chain(peer));
        let row = Row::sides(&what, "ms", &p99s(&of_ours), &p99s(peer));
        bench.report.row(row.aim(Aim::AtMost(P99_AIM)));
        let both = |quantile| format!("{} and {}", told(&of_ours, quantile), told(peer, quantile));
        bench.report.note(format!(
            "{what}: medians of Granary and its peer, p50 {} ms, p90 {} ms, p99.9 {} ms.",
            both(0.5),
            both(0.9),
            both(0.999)
        ));
    }
    Ok(())
}

pub async fn redis(bench: &mut Bench) -> Result<(), BoxError> {
    let program = bench.options.redis_server.clone();
    let folder = bench.scratch.path().to_owned();
    let Some(store) = RedisServer::start(&program, &folder, SERVER_CORE).await? else {
        let skipped = format!("skipped: there is no {}", program.display());
        bench.report.row(Row::new("against Redis", skipped));
        return Ok(());
    };
    let ours = bench.granary().await?;
    let client = Client::connect(&ours.address, None).await?;
    let template = peer::load(&client, &store.socket, bench.options.customers).await?;
    let template = bench.file("template", &template)?;
    let mut command = roles::command("redis")?;
    let service = Server::start(command.arg(&store.socket).arg(&template))?;
    for (entities, aim) in REDIS_AIMS {
        let requests = bench.requests(Service::Wide, entities);
        bench.same_answers((&ours, &service), &requests).await?;
        let what = format!("{} against a service over Redis", entities_of(entities));
        let own = bench.target(&ours, &requests);
        let mut other = bench.target(&service, &requests);
        other.pids.push(store.pid());
        compare(
            bench,
            &what,
            (&own, &other),
            (Some(Aim::AtLeast(aim)), None),
        )
        .await?;
        alone(bench, &store, entities).await?;
    }
    let memory = status_bytes(store.pid(), "VmRSS:").unwrap_or_default();
    let each = memory as f64 / bench.options.customers as f64;
    bench.report.note(format!(
        "The service over Redis and redis-server share one core, and their CPU times are counted \
         together. redis-server has {} bytes of memory a customer.",
        figure(each)
    ));
    Ok(())
}

/// The Redis client without a service before it.
async fn alone(bench: &mut Bench, store: &RedisServer, entities: usize) -> Result<(), BoxError> {
    let options = &bench.options;
    let ids = project::ids(200_000.max(entities), options.customers, options.keys);
    let in_flight = options.connections * options.in_flight;
    let duration = Duration::from_secs(options.seconds);
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let seen = peer::alone(store, &ids, entities, in_flight, duration).await?;
        rates.push(seen.requests_per_second);
        costs.push(seen.server_micros);
    }
    let command = if entities == 1 { "GET" } else { "MGET" };
    let row = Row::new(
        format!("the Redis client alone, {command} of {entities}"),
        "",
    );
    let told = format!(
        "{} requests/s, redis-server's CPU {} us each",
        figure(median(&rates)),
        figure(median(&costs))
    );
    bench.report.row(row.peer(told));
    Ok(())
}

pub async fn computed(bench: &mut Bench) -> Result<(), BoxError> {
    let server = bench.granary().await?;
    let client = Client::connect(&server.address, None).await?;
    let request = bench.requests(Service::Computed, 1)[0].clone();
    let answer = GetFeaturesResponse::decode(client.ask(request).await?)?;
    let more = answer.features.len() - project::FEATURES_READ;
    for entities in bench.options.entities.clone() {
        let with = bench.requests(Service::Computed, entities);
        let without = bench.requests(Service::Wide, entities);
        let what = format!(
            "{}, {more} windowed and on-demand features more",
            entities_of(entities)
        );
        let sides = (
            bench.target(&server, &with),
            bench.target(&server, &without),
        );
        compare(bench, &what, (&sides.0, &sides.1), (None, None)).await?;
    }
    Ok(())
}

pub async fn large(bench: &mut Bench) -> Result<(), BoxError> {
    let usual = bench.granary().await?;
    let size = bench.options.large();
    let folder = bench.project(size)?;
    let online = folder.join(".granary/online");
    let large = roles::start_granary(&folder, Beside::Nothing)?;
    // What reads fetch from the disk is in the rows of restarts.
    roles::warm(&large, size).await?;
    for entities in bench.options.entities.clone() {
        let Bench { options, .. } = &*bench;
        let wide = project::requests(Service::Wide, entities, size.customers, options.keys);
        let what = format!(
            "{}, {} customers against {}",
            entities_of(entities),
            options.large_customers,
            options.customers
        );
        let few = bench.requests(Service::Wide, entities);
        let sides = (
            bench.target(&large, &Arc::<Vec<Bytes>>::new(wide)),
            bench.target(&usual, &few),
        );
        let aims = (Some(Aim::AtLeast(LARGE_AIM)), None);
        compare(bench, &what, (&sides.0, &sides.1), aims).await?;
    }
    let each = |bytes: u64| figure(bytes as f64 / size.customers as f64);
    let memory = |field| status_bytes(large.pid(), field).unwrap_or_default();
    let told = format!(
        "{} bytes of memory, {} of them anonymous; {} bytes of disk online",
        each(memory("VmRSS:")),
        each(memory("RssAnon:")),
        each(bytes_below(&online)?)
    );
    let what = format!("a customer of {}, after these reads", size.customers);
    bench.report.row(Row::new(what, told));
    Ok(())
}

pub async fn observability(bench: &mut Bench) -> Result<(), BoxError> {
    let plain = bench.granary().await?;
    let folder = bench.project(bench.options.usual())?;
    let observed = roles::start_granary(&folder, Beside::HttpAndLogs)?;
    roles::warm(&observed, bench.options.usual()).await?;
    let address = observed.http.clone().ok_or("no HTTP")?;
    if !http::is_ok(&address, METRICS).await? {
        return Err("no metrics".into());
    }
    let scraping: JoinHandle<()> = tokio::spawn(async move {
        loop {
            tokio::time::sleep(SCRAPED_EVERY).await;
            // The first was looked at.
            let _ = http::is_ok(&address, METRICS).await;
        }
    });
    for entities in bench.options.entities.clone() {
        let requests = bench.requests(Service::Wide, entities);
        let what = format!(
            "{}, with logs and metrics against without",
            entities_of(entities)
        );
        let sides = (
            bench.target(&observed, &requests),
            bench.target(&plain, &requests),
        );
        let aims = (Some(Aim::AtLeast(OBSERVED_AIM)), None);
        compare(bench, &what, (&sides.0, &sides.1), aims).await?;
    }
    scraping.abort();
    bench.report.note(
        "With logs and metrics: the level that `granary serve` logs at, and /metrics read once a \
         second. Without: no subscriber and no HTTP; requests are counted nevertheless, which \
         no setting turns off.",
    );
    Ok(())
}
