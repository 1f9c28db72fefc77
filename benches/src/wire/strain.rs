//! A day's load, and a caller who floods.

use std::time::Duration;

use granary_testing::project::BoxError;

use super::bench::Bench;
use super::load::{Seen, Target, p99_millis};
use super::overload::Latencies;
use super::project::Service;
use super::report::{Row, figure};

/// Ten billion entities a day.
pub const DAY_PER_SECOND: f64 = 115_741.0;
const DAY_ENTITIES: usize = 10;
const DAY_P99_MILLIS: f64 = 5.0;

/// Of the requests of a quiet caller, what is answered whatever others do, and how soon.
const FAIR_SHARE: f64 = 0.8;
const FAIR_P99_MILLIS: f64 = 10.0;
const FAIR_ENTITIES: usize = 10;
/// What the quiet caller asks for, of the greatest rate.
const QUIET: f64 = 0.05;
/// Of a caller who floods with many clients.
const MANY_CONNECTIONS: usize = 200;

pub async fn day(bench: &mut Bench) -> Result<(), BoxError> {
    let server = bench.granary().await?;
    let requests = bench.requests(Service::Wide, DAY_ENTITIES);
    let mut target = bench.target(&server, &requests);
    target.duration = Duration::from_secs(bench.options.sustained_seconds);
    let what = format!(
        "{DAY_PER_SECOND:.0} entities/s in requests of {DAY_ENTITIES}, {} s: ten billion a day",
        bench.options.sustained_seconds
    );
    let seen = target.open(DAY_PER_SECOND / DAY_ENTITIES as f64).await?;
    bench.lateness(&what, [&seen]);
    let told = format!(
        "{} requests/s, p50 {:.2} ms, p99 {:.2} ms, failures: {}, server's core {:.0} %",
        figure(seen.rate()),
        seen.answered.value_at_quantile(0.5) as f64 / 1e6,
        p99_millis(&seen.answered),
        seen.failures(),
        seen.server_cpu.as_secs_f64() / seen.wall.as_secs_f64() * 100.0
    );
    let p99 = p99_millis(&seen.answered);
    let is_all = seen.not_answered() + seen.not_made == 0;
    let met = is_all && p99 < DAY_P99_MILLIS;
    bench
        .report
        .row(Row::new(&what, told).condition("p99 under 5 ms, no error", met));

    let requests = bench.requests(Service::Wide, 1);
    let what = "servers of one core for ten billion requests of 1 entity a day";
    let target = bench.target(&server, &requests);
    let one = bench.maximum(what, &target).await?;
    let told = format!(
        "{:.0} at their greatest rate of {} requests/s, {:.0} at half of it",
        (DAY_PER_SECOND / one).ceil(),
        figure(one),
        (DAY_PER_SECOND / one * 2.0).ceil()
    );
    bench.report.row(Row::new(what, told));
    Ok(())
}

pub async fn fairness(bench: &mut Bench) -> Result<(), BoxError> {
    let server = bench.granary().await?;
    let requests = bench.requests(Service::Wide, FAIR_ENTITIES);
    let target = bench.target(&server, &requests);
    let greatest = bench.maximum("fairness", &target).await?;
    let quiet = Target {
        caller: Some("quiet"),
        connections: 1,
        // How a flood begins is part of it.
        warm_up: Duration::ZERO,
        ..target.clone()
    };
    for connections in [target.connections, MANY_CONNECTIONS] {
        let flooder = Target {
            caller: Some("flooder"),
            connections,
            ..quiet.clone()
        };
        beside_flood(bench, &quiet, &flooder, greatest).await?;
    }
    Ok(())
}

async fn beside_flood(
    bench: &mut Bench,
    quiet: &Target,
    flooder: &Target,
    greatest: f64,
) -> Result<(), BoxError> {
    let (rate, flood_rate) = (greatest * QUIET, greatest * 2.0);
    let (mut alone, mut beside, mut flood): (Option<Seen>, Option<Seen>, Option<Seen>) =
        (None, None, None);
    for _ in 0..bench.options.rounds {
        add(&mut alone, quiet.clone().open_aside(rate).await?)?;
        let of_quiet = quiet.clone().open_aside(rate);
        let (of_quiet, of_flooder) = tokio::try_join!(of_quiet, flooder.open(flood_rate))?;
        add(&mut beside, of_quiet)?;
        add(&mut flood, of_flooder)?;
    }
    let (Some(alone), Some(beside), Some(flood)) = (alone, beside, flood) else {
        return Err("no rounds".into());
    };
    let flooding = format!(
        "who offers {} on {} connections",
        figure(flood_rate),
        flooder.connections
    );
    let what = format!(
        "a quiet caller of {} requests/s beside one {flooding}",
        figure(rate)
    );
    bench.lateness(&format!("{what}, the flooder"), [&flood]);
    let is_late = bench.lateness(&what, [&alone, &beside]);
    let told = |seen: &Seen, is_late| {
        let latencies = Latencies::of(seen, is_late);
        let (p99, from) = (latencies.accepted, latencies.from);
        format!("p99 {p99:.2} ms {from}, failures: {}", seen.failures())
    };
    let row = Row::new(&what, told(&beside, is_late));
    let row = row.peer(format!("without the other: {}", told(&alone, is_late)));
    let asked = beside.answered.len() + beside.not_answered();
    let answered = beside.answered.len() as f64 / asked.max(1) as f64;
    let p99 = Latencies::of(&beside, is_late).accepted;
    bench.report.row(row.condition(
        format!("at least 0.8 answered (are {answered:.2}), p99 under 10 ms"),
        answered >= FAIR_SHARE && p99 < FAIR_P99_MILLIS,
    ));
    let told = format!(
        "{} requests/s answered, failures: {}",
        figure(flood.rate()),
        flood.failures()
    );
    let what = format!("the caller {flooding}");
    bench.report.row(Row::new(what, told));
    Ok(())
}

/// Adds what one round saw to those before it.
pub fn add(sum: &mut Option<Seen>, seen: Seen) -> Result<(), BoxError> {
    match sum {
        Some(sum) => sum.merge(&seen),
        None => {
            *sum = Some(seen);
            Ok(())
        }
    }
}
