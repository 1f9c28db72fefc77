//! What all scenarios share: projects, targets, alternating rounds, and what is
//! said of a generator that was busy or late.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use granary_proto::GetFeaturesResponse;
use granary_testing::project::BoxError;
use prost::Message;
use tempfile::TempDir;

use super::Options;
use super::answers::difference;
use super::client::Client;
use super::load::{Seen, Target, p99_millis};
use super::project::{self, Service, Size};
use super::report::Report;
use super::roles::{self, Beside};
use crate::process::{self, Server, median};

/// With less than this share of its core a server is not what bounds its rate.
const FULL: f64 = 0.95;
/// Later than this at the 99th percentile, the generator is said to be late.
const LATE_MILLIS: f64 = 0.5;
/// A server that was started has caught up after so long.
const SETTLED: Duration = Duration::from_secs(2);
/// Requests whose answers are compared before anything is timed.
const COMPARED: usize = 50;
/// Before each measurement.
const WARM_UP: Duration = Duration::from_millis(500);

pub struct Bench {
    pub options: Options,
    pub report: Report,
    folder: PathBuf,
    /// What only this run needs; it goes with it.
    pub scratch: TempDir,
}

/// Rates of both sides, round by round, and how they were found.
pub struct Rates {
    pub ours: Vec<f64>,
    pub peer: Vec<f64>,
    pub unit: &'static str,
}

impl Bench {
    pub fn new(options: Options) -> Result<Self, BoxError> {
        let scratch = tempfile::tempdir()?;
        let folder = match &options.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder)?;
                folder.clone()
            }
            None => scratch.path().to_owned(),
        };
        Ok(Self {
            options,
            report: Report::default(),
            folder,
            scratch,
        })
    }

    pub fn write(&self) -> Result<(), BoxError> {
        let text = self.report.markdown(&self.head());
        match &self.options.report {
            Some(file) => std::fs::write(file, text)?,
            None => print!("{text}"),
        }
        Ok(())
    }

    fn head(&self) -> String {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut models = cpus.lines().filter(|line| line.starts_with("model name"));
        let model = models.next().and_then(|line| line.split_once(": "));
        let model = model.map_or("unknown CPU", |(_, model)| model);
        let options = &self.options;
        let built = match cfg!(debug_assertions) {
            true => "a debug build, whose figures say nothing",
            false => "a release build",
        };
        format!(
            "{model}, {built}; the server on one core, the generator on another. {} customers, \
             {} in the large project, {} features of {} views; medians of {} alternating rounds \
             of {} s, and the spread of the ratio.",
            options.customers,
            options.large_customers,
            project::FEATURES_READ,
            project::VIEWS,
            options.rounds,
            options.seconds
        )
    }

    /// A project's folder, made if it is not there. Not by this process, which has
    /// but one core.
    pub fn project(&self, size: Size) -> Result<PathBuf, BoxError> {
        let folder = size.folder(&self.folder);
        let mut command = roles::command("prepare")?;
        command.arg(&folder).arg(size.customers.to_string());
        if size.has_all {
            command.arg("--all");
        }
        process::run(&mut command)?;
        Ok(folder)
    }

    /// A server on the usual project, of which rows were read: what a start takes is in
    /// the rows of restarts.
    pub async fn granary(&self) -> Result<Server, BoxError> {
        let size = self.options.usual();
        let server = roles::start_granary(&self.project(size)?, Beside::Nothing)?;
        std::thread::sleep(SETTLED);
        roles::warm(&server, size).await?;
        Ok(server)
    }

    pub fn requests(&self, service: Service, entities: usize) -> Arc<Vec<Bytes>> {
        let Options {
            customers, keys, ..
        } = self.options;
        Arc::new(project::requests(service, entities, customers, keys))
    }

    pub fn target(&self, server: &Server, requests: &Arc<Vec<Bytes>>) -> Target {
        Target {
            address: server.address.clone(),
            pids: vec![server.pid()],
            requests: Arc::clone(requests),
            connections: self.options.connections,
            warm_up: WARM_UP,
            duration: Duration::from_secs(self.options.seconds),
            caller: None,
            stays_awake: true,
        }
    }

    /// Closed loops on both, in turn.
    pub async fn alternate(
        &self,
        ours: &Target,
        peer: &Target,
    ) -> Result<(Vec<Seen>, Vec<Seen>), BoxError> {
        let in_flight = self.options.in_flight;
        let mut seen = (Vec::new(), Vec::new());
        for _ in 0..self.options.rounds {
            seen.1.push(peer.closed(in_flight).await?);
            seen.0.push(ours.closed(in_flight).await?);
        }
        Ok(seen)
    }

    /// The greatest rates: as loaded, or by the servers' CPU time where
    /// one of them was not fully loaded.
    pub fn rates(&mut self, what: &str, ours: &[Seen], peer: &[Seen]) -> Rates {
        let of = |seen: &[Seen], rate: fn(&Seen) -> f64| seen.iter().map(rate).collect();
        let bounded = self.is_bound(what, ours) | self.is_bound(what, peer);
        self.refused(what, ours.iter().chain(peer));
        let (rate, unit): (fn(&Seen) -> f64, _) = match bounded {
            true => (Seen::of_a_core, "requests/s by CPU time"),
            false => (Seen::rate, "requests/s"),
        };
        Rates {
            ours: of(ours, rate),
            peer: of(peer, rate),
            unit,
        }
    }

    /// Whether something else than the server's core was the bound; said if it was.
    fn is_bound(&mut self, what: &str, seen: &[Seen]) -> bool {
        let shares: Vec<f64> = seen.iter().map(Seen::server_share).collect();
        let is_bound = !shares.is_empty() && median(&shares) < FULL;
        if is_bound {
            self.report.note(format!(
                "{what}: a server had {:.0} % of its core, so the greatest rates are taken from \
                 the servers' CPU time a request.",
                median(&shares) * 100.0
            ));
        }
        is_bound
    }

    /// Says how many requests were refused, which are not counted as answered.
    pub fn refused<'a>(&mut self, what: &str, seen: impl IntoIterator<Item = &'a Seen>) {
        let (mut refused, mut all) = (0, 0);
        for seen in seen {
            refused += seen.refused();
            all += seen.answered.len() + seen.not_answered();
        }
        if refused > 0 {
            self.report
                .note(format!("{what}: {refused} of {all} requests were refused."));
        }
    }

    /// The greatest rate of one target.
    pub async fn maximum(&mut self, what: &str, target: &Target) -> Result<f64, BoxError> {
        let mut seen = Vec::new();
        for _ in 0..self.options.rounds {
            seen.push(target.closed(self.options.in_flight).await?);
        }
        Ok(median(&self.rates(what, &seen, &[]).ours))
    }

    /// Whether the generator was late in any round, in which case it is said of the
    /// worst: latencies from when a request was due have that in them.
    pub fn lateness<'a>(&mut self, what: &str, seen: impl IntoIterator<Item = &'a Seen>) -> bool {
        let late = |seen: &Seen| p99_millis(&seen.late);
        let worst = seen.into_iter().max_by(|a, b| late(a).total_cmp(&late(b)));
        let Some(worst) = worst.filter(|seen| late(seen) > LATE_MILLIS) else {
            return false;
        };
        let mut left_out = String::new();
        for (count, why) in [
            (worst.not_made, "it did not get to"),
            (worst.not_sent, "it did not send, with too many under way"),
        ] {
            if count > 0 {
                // Writing to a String does not fail.
                let _ = write!(left_out, "; {count} more {why}");
            }
        }
        self.report.note(format!(
            "{what}: the generator was late itself, p99 {:.2} ms at worst; it offered {:.0} \
             requests/s{left_out}.",
            late(worst),
            worst.offered()
        ));
        true
    }

    /// Fails unless both answer the same to some requests.
    pub async fn same_answers(
        &self,
        (ours, peer): (&Server, &Server),
        requests: &[Bytes],
    ) -> Result<(), BoxError> {
        let ours = Client::connect(&ours.address, None).await?;
        let peer = Client::connect(&peer.address, None).await?;
        for request in &requests[..COMPARED.min(requests.len())] {
            let ours = GetFeaturesResponse::decode(ours.ask(request.clone()).await?)?;
            let peer = GetFeaturesResponse::decode(peer.ask(request.clone()).await?)?;
            if let Some(difference) = difference(&ours, &peer) {
                return Err(format!("the peer answers otherwise: {difference}").into());
            }
        }
        Ok(())
    }

    /// A file that goes with this run.
    pub fn file(&self, name: &str, bytes: &[u8]) -> std::io::Result<PathBuf> {
        let file = self.scratch.path().join(name);
        std::fs::write(&file, bytes)?;
        Ok(file)
    }
}

/// Bytes of the files below a folder.
pub fn bytes_below(folder: &Path) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += match data.is_dir() {
            true => bytes_below(&entry.path())?,
            // Files may be sparse.
            false => data.blocks() * 512,
        };
    }
    Ok(bytes)
}
