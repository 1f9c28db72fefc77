//! The seam between a consumer and the log that it reads.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::IngestError;

/// A place in a log, and enough of the log to notice that it is not the one that
/// was read. Kept with the events as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The log's name.
    pub log: String,
    /// Which of its messages are read; empty for all.
    pub subject: String,
    /// When the log was made, in nanoseconds: one that was made anew counts from
    /// 1 again.
    pub created_nanos: i64,
    /// The sequence of the last message that was seen, 0 before the first.
    pub sequence: u64,
    /// When that message was published, in nanoseconds: another message under
    /// its sequence has another time.
    pub published_nanos: i64,
}

impl Position {
    pub fn encode(&self) -> Result<Bytes, IngestError> {
        let bytes = serde_json::to_vec(self);
        let bytes = bytes.map_err(|e| IngestError::Log(format!("a position: {e}")))?;
        Ok(Bytes::from(bytes))
    }

    pub fn decode(consumer: &str, stored: &[u8]) -> Result<Self, IngestError> {
        serde_json::from_slice(stored).map_err(|error| {
            IngestError::Refused(format!(
                "the stored position of consumer {consumer} cannot be read: {error}"
            ))
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message {} of {}", self.sequence, self.log)
    }
}

/// One message, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub position: Position,
    pub payload: Bytes,
}

/// Messages in the log's order, all that are between the position before them
/// and `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Messages {
    pub messages: Vec<Message>,
    /// The last message's position, or beyond it where none of ours follows.
    pub end: Position,
    /// How many messages follow, as far as the log tells.
    pub pending: u64,
}

/// Where a log can be read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What was seen last: the position that was asked for, but where messages
    /// behind it are gone.
    pub position: Position,
    pub gone: Option<Gone>,
}

/// Messages that were not read and cannot be any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// What was found, with the position that it begins or ends at.
    pub found: String,
    /// How many, where that can be told.
    pub messages: u64,
}

/// A log of numbered messages. Errors of kind `Unavailable` pass: whoever reads
/// seeks again.
#[async_trait]
pub trait MessageLog: fmt::Debug + Send {
    /// Connects where that is needed, and goes behind a position; to the
    /// beginning without one. Looks whether what follows it is all there.
    async fn seek(&mut self, after: Option<&Position>) -> Result<Found, IngestError>;

    /// Waits for messages behind the last that were given; none where none came
    /// for a while. `IngestError::LogTruncated` where some are gone.
    async fn next(&mut self) -> Result<Messages, IngestError>;
}
