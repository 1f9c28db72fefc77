//! The load generator: closed loops for the greatest rate, and an open loop, in
//! which requests are due at fixed times, so that waiting for a slow answer is
//! counted and not left out.
//!
//! It runs on one thread: what it waits for and what it polls take turns, and do
//! not fight for its core. Under load it never sleeps: whoever sends to a process
//! of its own machine that sleeps has the cost of waking it, by several
//! microseconds a time, which no server has whose clients are elsewhere. A second
//! generator beside it has a thread of its own, and does sleep ([`Target::open_aside`]).

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep_until;
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;

use super::client::{CallError, Client};
use crate::process::cpu_time;

/// Requests under way at once in an open loop: what is due beyond that is not
/// sent, and counted, so that the generator's memory is bounded.
const UNDER_WAY_MAX: u64 = 8_192;
/// How long the last answers of a round are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

/// How far a generator may be behind at the end, and still make what is left.
const BEHIND_MAX: Duration = Duration::from_millis(100);
/// The longest latency that is told from others.
const LONGEST: Duration = Duration::from_secs(120);

type BoxError = Box<dyn Error + Send + Sync>;

/// Where load is put, and for how long.
#[derive(Debug, Clone)]
pub struct Target {
    pub address: String,
    /// The server's processes: their CPU times are one.
    pub pids: Vec<u32>,
    /// Framed; taken in turn.
    pub requests: Arc<Vec<Bytes>>,
    pub connections: usize,
    /// Of the same load before the measurement, which is not counted: a server that did
    /// nothing while its peer was measured has given memory back, and its caches hold
    /// what is the other's.
    pub warm_up: Duration,
    pub duration: Duration,
    /// What the client calls itself.
    pub caller: Option<&'static str>,
    /// Whether the generator keeps its core while it has nothing to do.
    pub stays_awake: bool,
}

/// What the load generator saw of one round.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Up to the last answer.
    pub wall: Duration,
    /// Up to the last request.
    pub sending: Duration,
    /// Nanoseconds from when a request was due (in closed loops: sent) to its answer.
    pub answered: Histogram<u64>,
    /// The same from when it was sent: without what the generator itself was late.
    pub served: Histogram<u64>,
    /// As `answered`, of those that were answered with an error.
    pub failed: Histogram<u64>,
    /// As `served`, of the same.
    pub rejected: Histogram<u64>,
    /// Nanoseconds from when a request was due to when it was sent.
    pub late: Histogram<u64>,
    pub codes: BTreeMap<i32, u64>,
    /// What the first that failed, and was not refused, failed with.
    pub first_failure: Option<String>,
    /// Due while too many were under way.
    pub not_sent: u64,
    /// Due, but the generator did not get to them in time.
    pub not_made: u64,
    /// CPU time of the server's processes.
    pub server_cpu: Duration,
}

impl Seen {
    fn new() -> Result<Self, BoxError> {
        // Longer ones count as the longest.
        let histogram = || Histogram::new_with_max(nanos(LONGEST), 3);
        Ok(Self {
            wall: Duration::ZERO,
            sending: Duration::ZERO,
            answered: histogram()?,
            served: histogram()?,
            failed: histogram()?,
            rejected: histogram()?,
            late: histogram()?,
            codes: BTreeMap::new(),
            first_failure: None,
            not_sent: 0,
            not_made: 0,
            server_cpu: Duration::ZERO,
        })
    }

    /// Answers a second that were no error.
    pub fn rate(&self) -> f64 {
        self.answered.len() as f64 / self.wall.as_secs_f64()
    }

    /// CPU time of the server's processes, per answer.
    pub fn server_cpu_micros(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.answered.len().max(1) as f64
    }

    /// What the server's processes had of their core.
    pub fn server_share(&self) -> f64 {
        self.server_cpu.as_secs_f64() / self.wall.as_secs_f64()
    }

    /// Requests a second that one core of the server gives.
    pub fn of_a_core(&self) -> f64 {
        // The kernel counts in ticks of 10 ms: a short round may show none.
        1e6 / self.server_cpu_micros().max(0.01)
    }

    pub fn refused(&self) -> u64 {
        let code = Code::ResourceExhausted as i32;
        self.codes.get(&code).copied().unwrap_or_default()
    }

    /// Requests that failed, those that were refused among them, or were not sent.
    pub fn not_answered(&self) -> u64 {
        self.failed.len() + self.not_sent
    }

    /// Requests a second that the generator made.
    pub fn offered(&self) -> f64 {
        (self.answered.len() + self.not_answered()) as f64 / self.sending.as_secs_f64()
    }

    /// Fails if any request did, but for those that the server refused.
    pub fn clean(self) -> Result<Self, BoxError> {
        match self.not_answered() - self.refused() {
            0 => Ok(self),
            _ => Err(format!("not all was answered: {}", self.failures()).into()),
        }
    }

    /// Codes and how often they came.
    pub fn failures(&self) -> String {
        let codes = self.codes.iter();
        let mut each: Vec<_> = codes
            .map(|(code, count)| format!("{count} {:?}", Code::from_i32(*code)))
            .collect();
        if self.not_sent > 0 {
            each.push(format!("{} not sent", self.not_sent));
        }
        each.extend(
            self.first_failure
                .iter()
                .map(|first| format!("the first: {first}")),
        );
        match each.is_empty() {
            true => "none".to_owned(),
            false => each.join(", "),
        }
    }

    /// As if both were one round, one after the other.
    pub fn merge(&mut self, other: &Self) -> Result<(), BoxError> {
        self.wall += other.wall;
        self.sending += other.sending;
        self.server_cpu += other.server_cpu;
        self.answered.add(&other.answered)?;
        self.served.add(&other.served)?;
        self.failed.add(&other.failed)?;
        self.rejected.add(&other.rejected)?;
        self.late.add(&other.late)?;
        self.not_sent += other.not_sent;
        self.not_made += other.not_made;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&other.first_failure);
        }
        for (code, count) in &other.codes {
            *self.codes.entry(*code).or_default() += count;
        }
        Ok(())
    }
}

/// The quantile that service levels are about, in milliseconds.
pub fn p99_millis(latencies: &Histogram<u64>) -> f64 {
    latencies.value_at_quantile(0.99) as f64 / 1e6
}

/// A round under way: what its requests came to so far.
#[derive(Clone)]
struct Round {
    tally: Arc<Mutex<Tally>>,
    began: Instant,
    server: Duration,
}

struct Tally {
    seen: Seen,
    under_way: u64,
}

impl Round {
    fn begin(pids: &[u32]) -> Result<Self, BoxError> {
        let tally = Tally {
            seen: Seen::new()?,
            under_way: 0,
        };
        Ok(Self {
            tally: Arc::new(Mutex::new(tally)),
            began: Instant::now(),
            server: cpu_of(pids)?,
        })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks, and counts what came of it from `due` on.
    async fn ask(&self, client: &Client, request: Bytes, due: Instant) -> Result<(), CallError> {
        let late = due.elapsed();
        let answer = client.call(request, |_| {}).await;
        let took = due.elapsed();
        let served = nanos(took.saturating_sub(late));
        let took = nanos(took);
        let mut tally = self.tally();
        let seen = &mut tally.seen;
        seen.late.saturating_record(nanos(late));
        match &answer {
            Ok(()) => {
                seen.answered.saturating_record(took);
                seen.served.saturating_record(served);
            }
            Err(error) => {
                seen.failed.saturating_record(took);
                seen.rejected.saturating_record(served);
                *seen.codes.entry(error.code() as i32).or_default() += 1;
                if error.code() != Code::ResourceExhausted {
                    seen.first_failure.get_or_insert_with(|| error.to_string());
                }
            }
        }
        answer
    }

    fn end(&self, sending: Duration, pids: &[u32]) -> Result<Seen, BoxError> {
        let mut seen = self.tally().seen.clone();
        seen.wall = self.began.elapsed();
        seen.sending = sending;
        seen.server_cpu = cpu_of(pids)?.saturating_sub(self.server);
        Ok(seen)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn cpu_of(pids: &[u32]) -> std::io::Result<Duration> {
    pids.iter().map(|pid| cpu_time(*pid)).sum()
}

/// Keeps this thread from sleeping for as long as the result lives.
fn keep_awake() -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async {
        loop {
            yield_now().await;
        }
    }))
}

impl Target {
    async fn clients(&self) -> Result<Vec<Client>, BoxError> {
        let mut clients = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            clients.push(Client::connect(&self.address, self.caller).await?);
        }
        Ok(clients)
    }

    /// So many requests under way at once on each connection: the next goes out
    /// when one is answered. Any failed request that was not refused fails the round.
    pub async fn closed(&self, in_flight: usize) -> Result<Seen, BoxError> {
        let clients = self.clients().await?;
        let _awake = self.stays_awake.then(keep_awake);
        self.closed_for(self.warm_up, &clients, in_flight).await?;
        self.closed_for(self.duration, &clients, in_flight).await
    }

    async fn closed_for(
        &self,
        duration: Duration,
        clients: &[Client],
        in_flight: usize,
    ) -> Result<Seen, BoxError> {
        let round = Round::begin(&self.pids)?;
        let end = round.began + duration;
        let mut loops = JoinSet::new();
        for (connection, client) in clients.iter().enumerate() {
            for lane in 0..in_flight {
                let (client, requests) = (client.clone(), Arc::clone(&self.requests));
                let round = round.clone();
                let mut next = (connection * in_flight + lane) * 7919;
                loops.spawn(async move {
                    while Instant::now() < end {
                        let request = requests[next % requests.len()].clone();
                        match round.ask(&client, request, Instant::now()).await {
                            Err(error) if error.code() != Code::ResourceExhausted => {
                                return Err(error);
                            }
                            _ => next += 1,
                        }
                    }
                    Ok::<_, CallError>(())
                });
            }
        }
        while let Some(one) = loops.join_next().await {
            one??;
        }
        round.end(round.began.elapsed(), &self.pids)
    }

    /// So many requests a second, each due at its time whether or not those
    /// before it were answered; latencies are counted from when they were due. A
    /// generator that cannot make so many ends when the time is over.
    pub async fn open(&self, requests_per_second: f64) -> Result<Seen, BoxError> {
        let duration = self.duration;
        self.open_until(requests_per_second, |time| Ok(time >= duration))
            .await
    }

    /// The same beside a generator that takes all of its core: on a thread of its own,
    /// which runs as soon as it wakes. Answers would wait behind those of the other.
    pub async fn open_aside(mut self, requests_per_second: f64) -> Result<Seen, BoxError> {
        self.stays_awake = false;
        let (tell, seen) = oneshot::channel();
        std::thread::spawn(move || {
            granary_server::answer_soon();
            let runtime = Builder::new_current_thread().enable_all().build();
            let seen = runtime
                .map_err(BoxError::from)
                .and_then(|runtime| runtime.block_on(self.open(requests_per_second)));
            // Nobody waits any more if the other failed.
            let _ = tell.send(seen);
        });
        seen.await?
    }

    /// The same until it is over, which is asked with the time since the warm-up.
    pub async fn open_until(
        &self,
        requests_per_second: f64,
        is_over: impl FnMut(Duration) -> Result<bool, BoxError>,
    ) -> Result<Seen, BoxError> {
        let clients = self.clients().await?;
        let _awake = self.stays_awake.then(keep_awake);
        let is_warm = |time| Ok(time >= self.warm_up);
        self.open_on(&clients, requests_per_second, is_warm).await?;
        self.open_on(&clients, requests_per_second, is_over).await
    }

    async fn open_on(
        &self,
        clients: &[Client],
        requests_per_second: f64,
        mut is_over: impl FnMut(Duration) -> Result<bool, BoxError>,
    ) -> Result<Seen, BoxError> {
        let round = Round::begin(&self.pids)?;
        let mut n = 0;
        let ended = loop {
            let due = Duration::from_secs_f64(n as f64 / requests_per_second);
            let time = due.max(round.began.elapsed().saturating_sub(BEHIND_MAX));
            if is_over(time)? {
                break time;
            }
            let due = round.began + due;
            if !self.stays_awake {
                sleep_until(due.into()).await;
            }
            // The timer is as coarse as a millisecond.
            while Instant::now() < due {
                yield_now().await;
            }
            // Late: others have their turn nevertheless.
            if n % 16 == 0 {
                yield_now().await;
            }
            self.send(&round, clients, n, due);
            n += 1;
        };
        let all = (ended.as_secs_f64() * requests_per_second) as usize;
        round.tally().seen.not_made = all.saturating_sub(n) as u64;
        let sending = round.began.elapsed().max(ended);
        let patience = Instant::now() + LAST_ANSWERS;
        while round.tally().under_way > 0 {
            if Instant::now() > patience {
                return Err("requests were not answered within 30 s".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        round.end(sending, &self.pids)
    }

    /// The request of that number, unless too many are under way.
    fn send(&self, round: &Round, clients: &[Client], n: usize, due: Instant) {
        {
            let mut tally = round.tally();
            if tally.under_way >= UNDER_WAY_MAX {
                tally.seen.not_sent += 1;
                return;
            }
            tally.under_way += 1;
        }
        let client = clients[n % clients.len()].clone();
        let request = self.requests[n % self.requests.len()].clone();
        let round = round.clone();
        tokio::spawn(async move {
            // Counted by its code.
            let _ = round.ask(&client, request, due).await;
            round.tally().under_way -= 1;
        });
    }
}
