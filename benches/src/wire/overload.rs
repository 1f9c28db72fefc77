//! More load than can be answered: what is answered nevertheless, how soon the rest
//! is refused, what memory that takes, and whether it is over when the load is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_testing::project::BoxError;

use super::bench::Bench;
use super::load::{Seen, Target, p99_millis};
use super::project::Service;
use super::report::{Row, figure};
use crate::process::status_bytes;

/// Of the greatest rate.
const OFFERED: f64 = 2.0;
/// Of the greatest rate, what is answered under more.
const USEFUL: f64 = 0.8;
/// Later answers are of no use.
const USEFUL_WITHIN: Duration = Duration::from_millis(10);
/// What may come late or not at all, as 99th percentiles allow.
const NEITHER: f64 = 0.01;
const REFUSED_MILLIS: f64 = 5.0;
const ACCEPTED_P99_MILLIS: f64 = 10.0;
/// What overload may add to a server's own memory.
const MEMORY_GROWTH_MAX: u64 = 256 << 20;
const RECOVERY: Duration = Duration::from_secs(2);
/// Back to normal: within so many times of what it was before, or fast anyway.
const RECOVERED_TIMES: f64 = 2.0;
const RECOVERED_MILLIS: f64 = 5.0;

pub async fn overload(bench: &mut Bench) -> Result<(), BoxError> {
    // That of 1 entity is only reported.
    for (entities, is_aim) in [(100, true), (1, false)] {
        let what = format!("overload, requests of {entities}");
        let overload = Overload::run(bench, &what, entities).await?;
        let is_late = bench.lateness(&what, [&overload.during]);
        for told in overload.told(&Latencies::of(&overload.during, is_late)) {
            let row = Row::new(format!("{what}: {}", told.name), told.text);
            bench.report.row(match is_aim {
                true => row.condition(told.aim, told.is_met),
                false => row,
            });
        }
    }
    Ok(())
}

/// Latencies from when requests were due, or, where the generator itself was late,
/// from when they were sent.
pub struct Latencies {
    /// 99th percentiles, milliseconds.
    pub accepted: f64,
    pub refused: f64,
    refused_most: f64,
    /// Answers that came soon enough to be of use.
    useful: u64,
    pub from: &'static str,
}

impl Latencies {
    pub fn of(seen: &Seen, is_late: bool) -> Self {
        let (accepted, refused, from) = match is_late {
            true => (&seen.served, &seen.rejected, "from when it was sent"),
            false => (&seen.answered, &seen.failed, "from when it was due"),
        };
        Self {
            accepted: p99_millis(accepted),
            refused: p99_millis(refused),
            refused_most: refused.max() as f64 / 1e6,
            useful: accepted.count_between(0, USEFUL_WITHIN.as_nanos() as u64),
            from,
        }
    }
}

/// One figure, and what it should be.
struct Told {
    name: &'static str,
    text: String,
    aim: &'static str,
    is_met: bool,
}

/// Half the greatest rate, twice of it, and half again.
struct Overload {
    greatest: f64,
    before: Seen,
    during: Seen,
    after: Seen,
    /// Anonymous memory before, and the most of it meanwhile, bytes.
    calm: u64,
    peak: u64,
    /// The most resident memory, with the store's pages, bytes.
    resident: u64,
}

impl Overload {
    async fn run(bench: &mut Bench, what: &str, entities: usize) -> Result<Self, BoxError> {
        // One of its own: its memory is that of this load.
        let server = bench.granary().await?;
        let target = bench.target(&server, &bench.requests(Service::Wide, entities));
        let greatest = bench.maximum(what, &target).await?;
        let before = target.open(greatest / 2.0).await?.clean()?;
        let calm = status_bytes(server.pid(), "RssAnon:").unwrap_or_default();
        let target = Target {
            // How it begins and ends is part of it.
            warm_up: Duration::ZERO,
            ..target
        };
        let flood = Target {
            duration: Duration::from_secs(bench.options.sustained_seconds),
            ..target.clone()
        };
        let watch = Watch::start(server.pid());
        let during = flood.open(greatest * OFFERED).await?;
        let peak = watch.stop();
        tokio::time::sleep(RECOVERY.saturating_sub(during.wall - during.sending)).await;
        Ok(Self {
            greatest,
            before,
            after: target.open(greatest / 2.0).await?,
            during,
            calm,
            peak,
            resident: status_bytes(server.pid(), "VmHWM:").unwrap_or_default(),
        })
    }

    fn told(&self, latencies: &Latencies) -> [Told; 5] {
        [
            self.useful(latencies),
            self.refusals(latencies),
            Told {
                name: "accepted reads",
                text: format!("p99 {:.2} ms {}", latencies.accepted, latencies.from),
                aim: "p99 under 10 ms",
                is_met: latencies.accepted < ACCEPTED_P99_MILLIS,
            },
            self.memory(),
            self.recovery(),
        ]
    }

    fn useful(&self, latencies: &Latencies) -> Told {
        let rate = latencies.useful as f64 / self.during.wall.as_secs_f64();
        let share = rate / self.greatest;
        Told {
            name: "answers within 10 ms",
            text: format!(
                "{} of {} requests/s offered, {share:.2} of the greatest rate {}",
                figure(rate),
                figure(self.during.offered()),
                figure(self.greatest)
            ),
            aim: "at least 0.8 of the greatest rate",
            is_met: share >= USEFUL,
        }
    }

    fn refusals(&self, latencies: &Latencies) -> Told {
        let seen = &self.during;
        let all = seen.answered.len() + seen.not_answered();
        let neither = all - latencies.useful - seen.refused();
        let share = neither as f64 / all.max(1) as f64;
        Told {
            name: "the rest",
            text: format!(
                "{}; p99 {:.2} ms, at most {:.2} ms, {}; neither refused nor answered within \
                 10 ms: {:.1} %",
                seen.failures(),
                latencies.refused,
                latencies.refused_most,
                latencies.from,
                share * 100.0
            ),
            aim: "99 % refused within 5 ms with RESOURCE_EXHAUSTED",
            is_met: share <= NEITHER && latencies.refused <= REFUSED_MILLIS,
        }
    }

    fn memory(&self) -> Told {
        let grown = self.peak.saturating_sub(self.calm);
        Told {
            name: "memory",
            text: format!(
                "peak RSS {} MiB with the store's pages; anonymous {} MiB, {} more than before",
                self.resident >> 20,
                self.peak >> 20,
                grown >> 20
            ),
            aim: "at most 256 MiB more than before",
            is_met: grown <= MEMORY_GROWTH_MAX,
        }
    }

    fn recovery(&self) -> Told {
        let drained = self.during.wall - self.during.sending;
        let p99 = p99_millis(&self.after.answered);
        let was = p99_millis(&self.before.answered);
        let bound = (was * RECOVERED_TIMES).max(RECOVERED_MILLIS);
        Told {
            name: "2 s later, at half the greatest rate",
            text: format!(
                "p99 {p99:.2} ms, failures: {}; before {was:.2} ms; the last answer came after \
                 {:.2} s",
                self.after.failures(),
                drained.as_secs_f64()
            ),
            aim: "no failure, p99 at most twice that before or under 5 ms",
            is_met: drained <= RECOVERY && self.after.not_answered() == 0 && p99 <= bound,
        }
    }
}

/// Samples a process's anonymous memory.
struct Watch {
    done: Arc<AtomicBool>,
    sampler: std::thread::JoinHandle<u64>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let sampler = std::thread::spawn(move || {
            let mut peak = 0;
            while !ended.load(Ordering::Relaxed) {
                peak = peak.max(status_bytes(pid, "RssAnon:").unwrap_or_default());
                std::thread::sleep(Duration::from_millis(100));
            }
            peak
        });
        Self { done, sampler }
    }

    /// The peak in bytes.
    fn stop(self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.sampler.join().unwrap_or_default()
    }
}
