//! What a server counts, for Prometheus.
//!
//! Names are `granary_<noun>_<unit>`, labels are closed sets: the rpcs, the gRPC
//! codes and the catalog's services; consumers have those of the configuration.
//! Everything is registered once and counted without a look-up, but for a read's
//! service, which is looked up once.

use std::time::Duration;

use granary_ingest::Consumer;
use granary_proto::PushResponse;
use granary_serving::{Answer, Reader};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};
use tonic::Code;

use crate::admission::Class;

mod admission;
mod consumers;
mod services;

pub(crate) use admission::AdmissionMetrics;
use consumers::ConsumerMetrics;
pub(crate) use services::{ServiceMetrics, ServiceRead, StatusCounts};

/// Every rpc that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rpc {
    GetFeatures,
    StreamFeatures,
    ListObjects,
    DescribeObject,
    Materialize,
    FollowMaterialization,
    GetHistorical,
    Push,
    PushStream,
    PushHistory,
    Scan,
    ListStreams,
}

impl Rpc {
    const ALL: [Self; 12] = [
        Self::GetFeatures,
        Self::StreamFeatures,
        Self::ListObjects,
        Self::DescribeObject,
        Self::Materialize,
        Self::FollowMaterialization,
        Self::GetHistorical,
        Self::Push,
        Self::PushStream,
        Self::PushHistory,
        Self::Scan,
        Self::ListStreams,
    ];

    /// `None` for what is not Granary's own: health, reflection, unknown paths.
    pub fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rpc| rpc.path() == path)
    }

    /// What the queue of requests takes it for.
    pub fn class(self) -> Class {
        match self {
            Self::GetFeatures => Class::Read,
            _ => Class::Call,
        }
    }

    /// Whether requests of it are streams of messages.
    pub fn takes_stream(self) -> bool {
        match self {
            Self::StreamFeatures | Self::GetHistorical | Self::PushStream | Self::PushHistory => {
                true
            }
            Self::GetFeatures
            | Self::ListObjects
            | Self::DescribeObject
            | Self::Materialize
            | Self::FollowMaterialization
            | Self::Push
            | Self::Scan
            | Self::ListStreams => false,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::GetFeatures => "/granary.v1.Features/GetFeatures",
            Self::StreamFeatures => "/granary.v1.Features/StreamFeatures",
            Self::ListObjects => "/granary.v1.Catalog/ListObjects",
            Self::DescribeObject => "/granary.v1.Catalog/DescribeObject",
            Self::Materialize => "/granary.v1.Materialization/Materialize",
            Self::FollowMaterialization => "/granary.v1.Materialization/FollowMaterialization",
            Self::GetHistorical => "/granary.v1.Historical/GetHistorical",
            Self::Push => "/granary.v1.Streams/Push",
            Self::PushStream => "/granary.v1.Streams/PushStream",
            Self::PushHistory => "/granary.v1.Streams/PushHistory",
            Self::Scan => "/granary.v1.Streams/Scan",
            Self::ListStreams => "/granary.v1.Streams/ListStreams",
        }
    }

    fn name(self) -> &'static str {
        match self.path().rsplit_once('/') {
            Some((_, name)) => name,
            None => self.path(),
        }
    }
}

/// Codes in the order of their numbers, 0 to 16.
const CODES: usize = 17;

#[derive(Debug)]
struct RpcMetrics {
    by_code: Vec<IntCounter>,
    seconds: Histogram,
}

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    rpcs: Vec<RpcMetrics>,
    stream_items: Vec<IntCounter>,
    pub in_flight: IntGauge,
    pub open_streams: IntGauge,
    pub unread_answer_bytes: IntGauge,
    pub admission: AdmissionMetrics,
    pub services: ServiceMetrics,
    entities: IntCounter,
    values: IntCounter,
    pub refresh_failures: IntCounter,
    pub swept_rows: IntCounter,
    pub flushed_events: IntCounter,
    pub trimmed_events: IntCounter,
    pub materializations: IntCounter,
    pub failed_materializations: IntCounter,
    pub training_rows: IntCounter,
    pub read_log: ReadLogMetrics,
    pushes: PushMetrics,
    consumers: ConsumerMetrics,
    reader: ReaderMetrics,
}

/// What became of pushed events.
#[derive(Debug)]
struct PushMetrics {
    pushed: IntCounter,
    duplicate: IntCounter,
    refused: IntCounter,
    seconds: Histogram,
}

impl PushMetrics {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "granary_push_seconds",
            "time until the events of a push were durable",
        );
        let seconds = Histogram::with_opts(
            options.buckets(prometheus::exponential_buckets(100e-6, 2.0, 18)?),
        )?;
        r.register(Box::new(seconds.clone()))?;
        let events = |name: &str, how: &str| counter(r, name, &format!("pushed events {how}"));
        Ok(Self {
            pushed: events("granary_pushed_events_total", "that were appended")?,
            duplicate: events("granary_duplicate_events_total", "that were stored already")?,
            refused: events("granary_refused_events_total", "that were refused")?,
            seconds,
        })
    }
}

/// What became of reads that might be logged, an entity each.
#[derive(Debug)]
pub(crate) struct ReadLogMetrics {
    pub logged: IntCounter,
    pub unlogged: IntCounter,
}

impl ReadLogMetrics {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let reads = |name: &str, how: &str| counter(r, name, &format!("reads of entities {how}"));
        Ok(Self {
            logged: reads("granary_logged_reads_total", "that were logged")?,
            unlogged: reads(
                "granary_unlogged_reads_total",
                "that the log had no room for, or that could not be written",
            )?,
        })
    }
}

/// What the reader counts itself, copied when it is asked for.
#[derive(Debug)]
struct ReaderMetrics {
    snapshot: IntGauge,
    query_cache_hits: IntGauge,
    query_keys_computed: IntGauge,
    query_keys_shared: IntGauge,
}

impl ReaderMetrics {
    fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let keys = "keys of SERVE QUERY views";
        let query =
            |name: &str, how: &str| gauge(r, name, &format!("{keys} {how} since the start"));
        Ok(Self {
            snapshot: gauge(
                r,
                "granary_catalog_snapshot",
                "the newest catalog snapshot seen",
            )?,
            query_cache_hits: query("granary_query_cache_hits", "answered from the cache")?,
            query_keys_computed: query("granary_query_keys_computed", "computed")?,
            query_keys_shared: query(
                "granary_query_keys_shared",
                "that waited for another request's computation",
            )?,
        })
    }

    fn copy(&self, reader: &Reader) {
        let counts = reader.counts();
        self.snapshot.set(reader.snapshot().number as i64);
        self.query_cache_hits.set(counts.query_cache_hits as i64);
        self.query_keys_computed
            .set(counts.query_keys_computed as i64);
        self.query_keys_shared.set(counts.query_keys_shared as i64);
    }
}

/// What gRPC codes are called.
fn codes() -> impl Iterator<Item = String> {
    (0..CODES as i32).map(|code| format!("{:?}", Code::from_i32(code)))
}

/// Of each rpc, in the order of [`Rpc::ALL`].
fn rpcs(r: &Registry) -> Result<Vec<RpcMetrics>, prometheus::Error> {
    let requests = IntCounterVec::new(
        Opts::new(
            "granary_requests_total",
            "requests that ended, by rpc and gRPC code",
        ),
        &["rpc", "code"],
    )?;
    r.register(Box::new(requests.clone()))?;
    let seconds = HistogramVec::new(
        HistogramOpts::new("granary_request_seconds", "time until the answer, by rpc")
            .buckets(prometheus::exponential_buckets(50e-6, 2.0, 20)?),
        &["rpc"],
    )?;
    r.register(Box::new(seconds.clone()))?;
    let rpcs = Rpc::ALL.map(|rpc| RpcMetrics {
        by_code: codes()
            .map(|code| requests.with_label_values(&[rpc.name(), code.as_str()]))
            .collect(),
        seconds: seconds.with_label_values(&[rpc.name()]),
    });
    Ok(rpcs.into())
}

/// A counter a code.
fn stream_items(r: &Registry) -> Result<Vec<IntCounter>, prometheus::Error> {
    let items = IntCounterVec::new(
        Opts::new(
            "granary_stream_items_total",
            "requests within streams, by gRPC code",
        ),
        &["code"],
    )?;
    r.register(Box::new(items.clone()))?;
    Ok(codes()
        .map(|code| items.with_label_values(&[code]))
        .collect())
}

impl Metrics {
    pub fn new(consumers: &[Consumer]) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        Ok(Self {
            rpcs: rpcs(r)?,
            stream_items: stream_items(r)?,
            in_flight: gauge(
                r,
                "granary_requests_in_flight",
                "requests being answered or waiting to be",
            )?,
            open_streams: gauge(r, "granary_streams_open", "streams that are open")?,
            unread_answer_bytes: gauge(
                r,
                "granary_unread_answer_bytes",
                "answers to reads that wait to be taken",
            )?,
            admission: AdmissionMetrics::new(r)?,
            services: ServiceMetrics::new(r)?,
            entities: counter(r, "granary_entities_total", "entities that were read")?,
            values: counter(r, "granary_values_total", "feature values that were read")?,
            refresh_failures: counter(
                r,
                "granary_refresh_failures_total",
                "looks at the catalog or the store that failed",
            )?,
            swept_rows: counter(
                r,
                "granary_swept_rows_total",
                "expired rows that were removed",
            )?,
            flushed_events: counter(
                r,
                "granary_flushed_events_total",
                "events of streams that were taken into their histories",
            )?,
            trimmed_events: counter(
                r,
                "granary_trimmed_events_total",
                "events of streams that need not be kept and were removed",
            )?,
            materializations: counter(
                r,
                "granary_materializations_total",
                "materialisations that this server made",
            )?,
            failed_materializations: counter(
                r,
                "granary_failed_materializations_total",
                "materialisations of this server in which a view failed",
            )?,
            training_rows: counter(
                r,
                "granary_training_rows_total",
                "rows of training sets that were sent",
            )?,
            read_log: ReadLogMetrics::new(r)?,
            pushes: PushMetrics::new(r)?,
            consumers: ConsumerMetrics::new(r, consumers)?,
            reader: ReaderMetrics::new(r)?,
            registry,
        })
    }

    pub fn request(&self, rpc: Rpc, code: Code, seconds: f64) {
        let rpc = &self.rpcs[rpc as usize];
        rpc.seconds.observe(seconds);
        if let Some(counter) = rpc.by_code.get(code as usize) {
            counter.inc();
        }
    }

    pub fn stream_item(&self, code: Code) {
        if let Some(counter) = self.stream_items.get(code as usize) {
            counter.inc();
        }
    }

    pub fn read(&self, answer: &Answer) {
        let values = answer.entities * answer.width();
        self.entities.inc_by(answer.entities as u64);
        self.values.inc_by(values as u64);
    }

    pub fn pushed(&self, answer: &PushResponse, elapsed: Duration) {
        self.pushes.pushed.inc_by(answer.appended);
        self.pushes.duplicate.inc_by(answer.duplicates);
        self.pushes.refused.inc_by(answer.refused);
        self.pushes.seconds.observe(elapsed.as_secs_f64());
    }

    /// Everything in Prometheus's text format.
    pub fn render(&self, reader: &Reader) -> Result<Vec<u8>, prometheus::Error> {
        self.reader.copy(reader);
        self.consumers.copy();
        self.services.know(reader);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    let gauge = IntGauge::new(name, help)?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}
