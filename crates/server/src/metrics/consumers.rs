//! What the consumers of message logs count themselves, copied when it is asked
//! for. The labels are the streams and names of the configuration, and no more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use granary_ingest::{Consumer, ConsumerCounts};
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

const LABELS: [&str; 2] = ["stream", "consumer"];

/// What a counter is copied from.
type Count = fn(&ConsumerCounts) -> &AtomicU64;

const COUNTERS: [(&str, &str, Count); 6] = [
    (
        "granary_consumed_messages_total",
        "messages behind which a consumer has moved",
        |counts| &counts.messages,
    ),
    (
        "granary_consumed_events_total",
        "events that consumers appended",
        |counts| &counts.events,
    ),
    (
        "granary_consumed_duplicates_total",
        "rows of messages whose event was stored already",
        |counts| &counts.duplicates,
    ),
    (
        "granary_bad_messages_total",
        "messages that were no events, or rows of them",
        |counts| &counts.bad,
    ),
    (
        "granary_lost_messages_total",
        "messages that were gone before they were read",
        |counts| &counts.gone,
    ),
    (
        "granary_consumer_failures_total",
        "times that a log or a store failed and was tried again",
        |counts| &counts.failures,
    ),
];

#[derive(Debug)]
struct One {
    counts: Arc<ConsumerCounts>,
    /// As in [`COUNTERS`].
    counters: Vec<IntCounter>,
    pending: IntGauge,
    running: IntGauge,
}

#[derive(Debug, Default)]
pub(super) struct ConsumerMetrics(Mutex<Vec<One>>);

impl ConsumerMetrics {
    pub(super) fn new(r: &Registry, consumers: &[Consumer]) -> Result<Self, prometheus::Error> {
        if consumers.is_empty() {
            return Ok(Self::default());
        }
        let mut counters = Vec::new();
        for (name, help, _) in COUNTERS {
            let family = IntCounterVec::new(Opts::new(name, help), &LABELS)?;
            r.register(Box::new(family.clone()))?;
            counters.push(family);
        }
        let gauge = |name: &str, help: &str| -> Result<IntGaugeVec, prometheus::Error> {
            let family = IntGaugeVec::new(Opts::new(name, help), &LABELS)?;
            r.register(Box::new(family.clone()))?;
            Ok(family)
        };
        let pending = gauge(
            "granary_consumer_pending_messages",
            "messages that wait in a consumer's log",
        )?;
        let running = gauge(
            "granary_consumer_running",
            "1 while a consumer goes on, 0 once it has ended",
        )?;
        let one = |consumer: &Consumer| {
            let settings = consumer.settings();
            let labels = [settings.stream.as_str(), settings.consumer.as_str()];
            let counters = counters.iter();
            One {
                counts: Arc::clone(consumer.counts()),
                counters: counters.map(|f| f.with_label_values(&labels)).collect(),
                pending: pending.with_label_values(&labels),
                running: running.with_label_values(&labels),
            }
        };
        Ok(Self(Mutex::new(consumers.iter().map(one).collect())))
    }

    pub(super) fn copy(&self) {
        // Held, or two who ask would add the same twice.
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for one in all.iter() {
            for (counter, (_, _, count)) in one.counters.iter().zip(COUNTERS) {
                let counted = count(&one.counts).load(Ordering::Relaxed);
                counter.inc_by(counted.saturating_sub(counter.get()));
            }
            let pending = one.counts.pending.load(Ordering::Relaxed);
            one.pending.set(i64::try_from(pending).unwrap_or(i64::MAX));
            let running = one.counts.running.load(Ordering::Relaxed);
            one.running.set(i64::from(running));
        }
    }
}
