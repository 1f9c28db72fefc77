//! What reads of each feature service were, and what they found.
//!
//! The label is the service's name, and only names that the catalog has become
//! labels: reads by a list of features are all one, `(features)`, and so are those
//! of what is no service, `(unknown)`. A read finds its service's series in a map
//! that is made before, and counts once, when it ends.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use granary_model::FeatureStatus;
use granary_serving::{Answer, AsOf, Reader};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    Registry,
};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::CODES;

/// The label of reads by a list of features.
const LISTS: &str = "(features)";
/// The label of reads of what is no service.
const UNKNOWN: &str = "(unknown)";

const STATUSES: [FeatureStatus; 4] = [
    FeatureStatus::Present,
    FeatureStatus::NullValue,
    FeatureStatus::NotFound,
    FeatureStatus::OutsideMaxAge,
];

/// How many values of an answer have each status, in the order of [`STATUSES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StatusCounts([u64; STATUSES.len()]);

impl StatusCounts {
    /// Counts a status of so many values.
    pub fn add_alike(&mut self, status: u8, values: usize) {
        let known = STATUSES.iter().position(|known| *known as u8 == status);
        if let Some(count) = known.and_then(|at| self.0.get_mut(at)) {
            *count += values as u64;
        }
    }

    /// Counts statuses by their numbers.
    pub fn add(&mut self, statuses: &[u8]) {
        for (count, status) in self.0.iter_mut().zip(STATUSES) {
            // So many fit the sum of a byte each, which is quickly made.
            let chunks = statuses.chunks(usize::from(u8::MAX));
            let of_chunk = |chunk: &[u8]| -> u8 {
                let alike = chunk.iter().map(|s| u8::from(*s == status as u8));
                alike.sum()
            };
            *count += chunks.map(|chunk| u64::from(of_chunk(chunk))).sum::<u64>();
        }
    }
}

/// The series of one service.
#[derive(Debug)]
struct Service {
    name: String,
    reads: IntCounterVec,
    /// Of codes that there were, by their numbers.
    by_code: [OnceLock<IntCounter>; CODES],
    seconds: Histogram,
    entities: IntCounter,
    /// As in [`STATUSES`].
    values: [IntCounter; STATUSES.len()],
    cached: IntCounter,
    age: Gauge,
}

impl Service {
    fn ended(&self, code: Code, seconds: f64) {
        self.seconds.observe(seconds);
        if let Some(counter) = self.by_code.get(code as usize) {
            let first = || {
                let code = format!("{code:?}");
                self.reads.with_label_values(&[self.name.as_str(), &code])
            };
            counter.get_or_init(first).inc();
        }
    }

    fn found(&self, found: &Found) {
        self.entities.inc_by(found.entities);
        self.cached.inc_by(found.cached);
        for (counter, count) in self.values.iter().zip(found.statuses.0) {
            counter.inc_by(count);
        }
        if let Some(age) = found.age_seconds {
            self.age.set(age);
        }
    }
}

/// All services' series.
#[derive(Debug)]
pub(crate) struct ServiceMetrics {
    reads: IntCounterVec,
    seconds: HistogramVec,
    entities: IntCounterVec,
    values: IntCounterVec,
    cached: IntCounterVec,
    age: GaugeVec,
    known: RwLock<HashMap<String, Arc<Service>>>,
}

impl ServiceMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            r.register(Box::new(family.clone()))?;
            Ok::<_, prometheus::Error>(family)
        };
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "granary_service_read_seconds",
                "time that reads took from their turn to the encoded answer, by service",
            )
            .buckets(prometheus::exponential_buckets(50e-6, 2.0, 20)?),
            &["service"],
        )?;
        r.register(Box::new(seconds.clone()))?;
        let age = GaugeVec::new(
            Opts::new(
                "granary_service_data_age_seconds",
                "at a service's last read, from what its oldest view is as of to the time of the read",
            ),
            &["service"],
        )?;
        r.register(Box::new(age.clone()))?;
        Ok(Self {
            reads: counters(
                "granary_service_reads_total",
                "reads that began and ended, alone and in streams, by service and gRPC code",
                &["service", "code"],
            )?,
            entities: counters(
                "granary_service_entities_total",
                "entities that were read, by service",
                &["service"],
            )?,
            values: counters(
                "granary_service_values_total",
                "feature values that were read, one an entity and feature, by service and status",
                &["service", "status"],
            )?,
            cached: counters(
                "granary_service_query_cache_hits_total",
                "entities whose row of a SERVE QUERY view was computed before the read, by service",
                &["service"],
            )?,
            seconds,
            age,
            known: RwLock::default(),
        })
    }

    /// A read begins: of a service, or by a list of features.
    pub fn read<'a>(&'a self, service: Option<&str>, reader: &'a Reader) -> ServiceRead<'a> {
        let service = service.unwrap_or(LISTS);
        let found = self.of(service, reader);
        ServiceRead {
            services: self,
            reader,
            service: found.ok_or_else(|| service.to_owned()),
            since: Instant::now(),
            code: Code::Cancelled,
            found: None,
        }
    }

    /// Services that nobody has read have series as well.
    pub(super) fn know(&self, reader: &Reader) {
        for name in reader.snapshot().definitions.services.keys() {
            self.of(name, reader);
        }
    }

    /// `None` where the catalog has no such service.
    fn of(&self, name: &str, reader: &Reader) -> Option<Arc<Service>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(service) = known.get(name) {
            return Some(Arc::clone(service));
        }
        drop(known);
        let is_own = name == LISTS || name == UNKNOWN;
        if !is_own && !reader.snapshot().definitions.services.contains_key(name) {
            return None;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let service = known.entry(name.to_owned());
        Some(Arc::clone(service.or_insert_with(|| self.make(name))))
    }

    fn make(&self, name: &str) -> Arc<Service> {
        let labels = &[name];
        Arc::new(Service {
            name: name.to_owned(),
            reads: self.reads.clone(),
            by_code: [const { OnceLock::new() }; CODES],
            seconds: self.seconds.with_label_values(labels),
            entities: self.entities.with_label_values(labels),
            values: STATUSES.map(|s| self.values.with_label_values(&[name, s.as_str()])),
            cached: self.cached.with_label_values(labels),
            age: self.age.with_label_values(labels),
        })
    }
}

/// What an answer held.
#[derive(Debug)]
struct Found {
    entities: u64,
    cached: u64,
    age_seconds: Option<f64>,
    statuses: StatusCounts,
}

/// A read that is being answered; counted when it ends, however it ends.
#[derive(Debug)]
pub(crate) struct ServiceRead<'a> {
    services: &'a ServiceMetrics,
    reader: &'a Reader,
    /// Else the name of what was no service when the read began.
    service: Result<Arc<Service>, String>,
    since: Instant,
    code: Code,
    found: Option<Found>,
}

impl ServiceRead<'_> {
    /// What was found; statuses are counted as they are written.
    pub fn found(&mut self, answer: &Answer) {
        let mut oldest = None;
        let mut cached = 0;
        for view in answer.views() {
            let reaches = match &view.as_of {
                AsOf::All(t) => Some(*t),
                AsOf::Rows(times) => {
                    cached += times.iter().filter(|t| **t < answer.as_of).count();
                    times.iter().min().copied()
                }
            };
            oldest = [oldest, reaches].into_iter().flatten().min();
        }
        let age = oldest.map(|t| answer.as_of.0.saturating_sub(t.0) as f64 / 1e6);
        self.found = Some(Found {
            entities: answer.entities as u64,
            cached: cached as u64,
            age_seconds: age.map(|age| age.max(0.0)),
            statuses: StatusCounts::default(),
        });
    }

    pub fn ended<T>(mut self, outcome: &Result<T, Status>, statuses: StatusCounts) {
        self.code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
        if let Some(found) = &mut self.found {
            found.statuses = statuses;
        }
    }
}

impl Drop for ServiceRead<'_> {
    fn drop(&mut self) {
        let by_now;
        let service = match &self.service {
            Ok(service) => service,
            Err(name) => {
                let found = self.services.of(name, self.reader);
                by_now = found.or_else(|| self.services.of(UNKNOWN, self.reader));
                match &by_now {
                    Some(service) => service,
                    None => return,
                }
            }
        };
        service.ended(self.code, self.since.elapsed().as_secs_f64());
        if let Some(found) = &self.found {
            service.found(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_counted_by_their_numbers() {
        let mut counts = StatusCounts::default();
        counts.add(&[]);
        assert_eq!(counts.0, [0; 4]);
        let mut statuses = vec![FeatureStatus::Present as u8; 1_000];
        statuses.extend([FeatureStatus::OutsideMaxAge as u8; 300]);
        statuses.extend([FeatureStatus::NotFound as u8; 2]);
        counts.add(&statuses);
        counts.add(&[FeatureStatus::NullValue as u8]);
        counts.add_alike(FeatureStatus::NullValue as u8, 6);
        assert_eq!(counts.0, [1_000, 7, 2, 300]);
    }
}
