//! What `[[streams.consume]]` says: one consumer each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A consumer of a message log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumeSettings {
    /// The stream that the messages are appended to.
    pub stream: String,
    /// What the position is kept under, with the events of the stream: another
    /// name reads the log from its beginning.
    pub consumer: String,
    /// The servers, as `nats://host:port` or `tls://host:port`, several with
    /// commas. Secrets do not stand here.
    pub url: String,
    /// The JetStream stream.
    pub jetstream: String,
    /// Only messages of this subject, which may have wildcards; all without it.
    #[serde(default)]
    pub subject: String,
    pub format: MessageFormat,
    #[serde(default)]
    pub bad: BadMessages,
    #[serde(default)]
    pub truncated: TruncatedLog,
    /// A file of certificates in PEM that the server's is checked against, beside
    /// those of the system.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Messages that are read, and appended as a whole, at most.
    #[serde(default = "batch_messages_max")]
    pub batch_messages_max: usize,
    /// Bytes that are read at once, at most; a single message may have more.
    #[serde(default = "batch_bytes_max")]
    pub batch_bytes_max: usize,
    /// How long a request waits for a first message before it is made anew.
    #[serde(default = "wait_millis")]
    pub wait_millis: u64,
    /// The longest pause before a log or a store that failed is tried again.
    #[serde(default = "retry_millis_max")]
    pub retry_millis_max: u64,
}

fn batch_messages_max() -> usize {
    1_000
}

fn batch_bytes_max() -> usize {
    4 << 20
}

fn wait_millis() -> u64 {
    5_000
}

fn retry_millis_max() -> u64 {
    30_000
}

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageFormat {
    /// One row: an object of the stream's columns.
    Json,
    /// Any number of rows: an Arrow IPC stream.
    Arrow,
}

/// What becomes of a message that is no event of the stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadMessages {
    /// Told, counted and left out.
    #[default]
    Skip,
    /// What is before it is appended, then the consumer ends.
    Stop,
}

/// What becomes of messages that were gone before they were read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncatedLog {
    /// The consumer ends.
    #[default]
    Stop,
    /// Told, counted, and read on with what is there.
    Skip,
}
