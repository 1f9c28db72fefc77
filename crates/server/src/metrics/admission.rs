//! What the queue of requests counts: how long it is, and what it refuses.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::gauge;
use crate::admission::Refusal;

#[derive(Debug)]
pub(crate) struct AdmissionMetrics {
    pub waiting: IntGauge,
    pub running: IntGauge,
    /// As in [`Refusal::ALL`].
    refused: [IntCounter; Refusal::ALL.len()],
    waited: Histogram,
}

impl AdmissionMetrics {
    pub(super) fn new(r: &Registry) -> Result<Self, prometheus::Error> {
        let refused = IntCounterVec::new(
            Opts::new(
                "granary_refused_requests_total",
                "requests that did not get to begin, by reason",
            ),
            &["reason"],
        )?;
        r.register(Box::new(refused.clone()))?;
        let waited = Histogram::with_opts(
            HistogramOpts::new(
                "granary_request_wait_seconds",
                "time that requests waited to begin, of those that waited and began",
            )
            .buckets(prometheus::exponential_buckets(50e-6, 2.0, 20)?),
        )?;
        r.register(Box::new(waited.clone()))?;
        Ok(Self {
            waiting: gauge(r, "granary_requests_waiting", "requests that wait to begin")?,
            running: gauge(r, "granary_requests_running", "requests that use a core")?,
            refused: Refusal::ALL.map(|refusal| refused.with_label_values(&[refusal.name()])),
            waited,
        })
    }

    pub fn refused(&self, refusal: Refusal) {
        self.refused[refusal as usize].inc();
    }

    #[cfg(test)]
    pub fn refusals(&self, refusal: Refusal) -> u64 {
        self.refused[refusal as usize].get()
    }

    pub fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }
}
