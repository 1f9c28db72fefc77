//! What tunes a server.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSettings {
    /// Requests under way at a time, those among them that wait for a disk or a
    /// look-up; one more waits to begin.
    pub concurrent_requests_max: usize,
    /// Requests at a time that use a core; 0: one more than there are worker threads.
    pub running_requests_max: usize,
    /// Requests that wait to begin; one more is turned away with RESOURCE_EXHAUSTED.
    pub waiting_requests_max: usize,
    /// The longest that a read waits to begin before it is turned away with
    /// RESOURCE_EXHAUSTED, or three times what reads have taken of late; not before
    /// some have always waited for 25 ms and are not half as many as they were, or one
    /// was refused for that or for want of room within the last 100 ms. Reads within
    /// streams, and whatever is no read, wait up to their deadline.
    pub read_wait_millis_max: u32,
    /// Answers to reads that wait to be taken. A connection may have as much of it as is
    /// left when it has that, and one answer in any case; more reads are turned away with
    /// RESOURCE_EXHAUSTED.
    #[serde(with = "granary_model::bytes")]
    pub unread_answer_bytes_max: u64,
    /// The share, 0 to 1, that one caller may have of the requests under way, of those
    /// that wait, and of the time in which connections are read meanwhile.
    #[serde(deserialize_with = "share")]
    pub caller_share_max: f64,
    /// Open streams at a time; one more is turned away with RESOURCE_EXHAUSTED.
    pub concurrent_streams_max: usize,
    /// Requests of one stream that are worked on at a time.
    pub stream_requests_ahead: usize,
    /// The longest that a request may take; a caller's own deadline may be shorter. A
    /// connection that takes nothing of its answers for two times as long is closed.
    pub request_seconds_max: u64,
    /// The largest request.
    pub request_bytes_max: usize,
    /// How often the catalog and the store are looked at for news.
    pub refresh_millis: u64,
    /// How often expired rows are swept from the online store; 0: never.
    pub sweep_seconds: u64,
    /// Whether the server itself makes the runs that REFRESH EVERY says are due.
    pub refresh_views: bool,
    /// How often it looks for such runs.
    pub refresh_views_seconds: u64,
    /// Materialisations at a time; one more is turned away with RESOURCE_EXHAUSTED.
    pub concurrent_materializations_max: usize,
    /// Ended materialisations that can still be followed.
    pub materializations_kept: usize,
    /// Training sets at a time; one more is turned away with RESOURCE_EXHAUSTED.
    pub concurrent_training_sets_max: usize,
    /// The longest spine of a training set, which is kept on disk meanwhile.
    #[serde(with = "granary_model::bytes")]
    pub spine_bytes_max: u64,
    /// The most that one call brings of a stream's older events, which are held in
    /// memory until they are in its history.
    #[serde(with = "granary_model::bytes")]
    pub history_bytes_max: u64,
    /// The share of keys whose reads are logged under the root, 0 to 1: `reads/`.
    #[serde(deserialize_with = "share")]
    pub log_reads: f64,
    /// How often they are written.
    pub log_reads_seconds: u64,
    /// Rows that wait to be written at most: then they are at once.
    pub log_reads_rows_max: usize,
    /// How long a shutdown waits for reads under way.
    pub shutdown_seconds_max: u64,
    /// The roles of each caller, by its name: what grants are compared with.
    pub roles: BTreeMap<String, Vec<String>>,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            concurrent_requests_max: 1_024,
            running_requests_max: 0,
            waiting_requests_max: 4_096,
            read_wait_millis_max: 2,
            caller_share_max: 0.5,
            concurrent_streams_max: 256,
            stream_requests_ahead: 8,
            request_seconds_max: 30,
            request_bytes_max: 64 << 20,
            refresh_millis: 200,
            sweep_seconds: 600,
            refresh_views: false,
            refresh_views_seconds: 10,
            concurrent_materializations_max: 2,
            materializations_kept: 100,
            concurrent_training_sets_max: 2,
            unread_answer_bytes_max: 256 << 20,
            spine_bytes_max: 8 << 30,
            history_bytes_max: 256 << 20,
            log_reads: 0.0,
            log_reads_seconds: 30,
            log_reads_rows_max: 100_000,
            shutdown_seconds_max: 30,
            roles: BTreeMap::new(),
        }
    }
}

impl ServerSettings {
    pub(crate) fn request_time_max(&self) -> Duration {
        // A year is for ever, and still a time.
        Duration::from_secs(self.request_seconds_max.clamp(1, 365 * 24 * 3600))
    }
}

fn share<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(serde::de::Error::custom(format!(
            "{share} is no share: a share is 0 to 1"
        ))),
    }
}
