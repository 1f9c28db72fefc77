//! A consumer: messages of a log become events of a stream, each once.
//!
//! The position in the log is kept with the events and moves in the batch that
//! brings them, so a killed process, a lost connection and a second consumer of
//! the same name leave neither a gap nor an event twice. After every failure the
//! stored position is read again and the log is sought from there.
//!
//! Nothing is left out silently. A message that is no event is told with its
//! place and reason, and counted. Where messages behind the stored position are
//! gone the consumer ends, until its settings say to go on.
//!
//! This module knows nothing of how a log is reached: see [`log::MessageLog`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_store::StoreError;
use granary_store::events::{Appended, ConsumerOffset};
use tracing::instrument;

use crate::error::IngestError;
use crate::streams::{Intake, SeenRows, Streams};

mod decode;
pub mod log;
#[cfg(feature = "nats")]
pub mod nats;
mod pause;
mod settings;

use decode::{Bad, Rows};
use log::{Gone, Message, MessageLog, Messages, Position};
use pause::Pause;
pub use settings::{BadMessages, ConsumeSettings, MessageFormat, TruncatedLog};

/// Bad messages that are told one by one, of a batch.
const TOLD_MAX: usize = 5;

/// What a consumer did since it was made.
#[derive(Debug, Default)]
pub struct ConsumerCounts {
    /// Messages behind which the position has moved, bad ones among them.
    pub messages: AtomicU64,
    /// Events that were appended.
    pub events: AtomicU64,
    /// Rows whose event was stored already, by the stream's DEDUPLICATE BY.
    pub duplicates: AtomicU64,
    /// Messages that were left out, or rows of them.
    pub bad: AtomicU64,
    /// Messages that were gone before they were read, where that can be told.
    pub gone: AtomicU64,
    /// Times that the log or the store failed and were tried again.
    pub failures: AtomicU64,
    /// Messages that wait in the log, as of the last look.
    pub pending: AtomicU64,
    /// Whether it goes on: not before it runs, nor once it has ended.
    pub running: AtomicBool,
}

/// Reads one log into one stream.
#[derive(Debug)]
pub struct Consumer {
    settings: ConsumeSettings,
    streams: Arc<Streams>,
    log: Box<dyn MessageLog>,
    counts: Arc<ConsumerCounts>,
    /// Something was appended since the last failure.
    progressed: bool,
}

/// Where a consumer is.
#[derive(Debug)]
struct At {
    /// The position that is stored.
    stored: Option<Bytes>,
    position: Position,
}

/// Messages that were looked at.
#[derive(Debug)]
struct Seen {
    intake: Intake,
    rows: Vec<SeenRows>,
    bad: Bad,
}

impl Consumer {
    pub fn new(settings: ConsumeSettings, streams: Arc<Streams>, log: Box<dyn MessageLog>) -> Self {
        Self {
            settings,
            streams,
            log,
            counts: Arc::default(),
            progressed: false,
        }
    }

    pub fn settings(&self) -> &ConsumeSettings {
        &self.settings
    }

    pub fn counts(&self) -> &Arc<ConsumerCounts> {
        &self.counts
    }

    /// Appends messages for as long as this is polled; gives why it must not go
    /// on: `IngestError::LogTruncated`, `BadMessage`, or `Refused` for settings
    /// that do not fit what is stored. What passes is tried again. May be
    /// dropped at any time.
    #[instrument(skip_all, fields(stream = self.settings.stream, consumer = self.settings.consumer))]
    pub async fn run(&mut self) -> IngestError {
        let counts = Arc::clone(&self.counts);
        let _running = Running::new(&counts);
        let mut pause = Pause::new(Duration::from_millis(self.settings.retry_millis_max));
        let mut told = String::new();
        loop {
            let Err(error) = self.follow().await;
            if ends(&error) {
                return error;
            }
            if std::mem::take(&mut self.progressed) {
                pause.reset();
                told.clear();
            }
            counts.failures.fetch_add(1, Ordering::Relaxed);
            let text = error.to_string();
            // Many times while a server is away: told once.
            if text != told {
                tracing::warn!(%error, "a consumer begins again where it was");
                told = text;
            }
            pause.wait().await;
        }
    }

    /// From the stored position on, until something fails.
    async fn follow(&mut self) -> Result<Infallible, IngestError> {
        let intake = self.streams.intake(&self.settings.stream)?;
        let stored = intake.offset(&self.settings.consumer).await?;
        let position = match &stored {
            Some(bytes) => Some(self.stored_position(bytes)?),
            None => None,
        };
        let found = self.log.seek(position.as_ref()).await?;
        if let (Some(gone), Some(position)) = (found.gone, position) {
            self.gone(&position, gone)?;
        }
        let mut at = At {
            stored,
            position: found.position,
        };
        loop {
            let Messages {
                messages,
                end,
                pending,
            } = self.log.next().await?;
            self.take(&mut at, &messages, &end).await?;
            self.counts.pending.store(pending, Ordering::Relaxed);
        }
    }

    fn stored_position(&self, stored: &[u8]) -> Result<Position, IngestError> {
        let consumer = &self.settings.consumer;
        let position = Position::decode(consumer, stored)?;
        let (log, subject) = (&self.settings.jetstream, &self.settings.subject);
        if (&position.log, &position.subject) == (log, subject) {
            return Ok(position);
        }
        Err(IngestError::Refused(format!(
            "consumer {consumer} of stream {} has read {:?} of {:?}, not {subject:?} of {log:?}: a consumer of another log or subject needs another name",
            self.settings.stream, position.subject, position.log
        )))
    }

    /// Ends, or tells what is lost.
    fn gone(&self, stored: &Position, gone: Gone) -> Result<(), IngestError> {
        let Gone { found, messages } = gone;
        match self.settings.truncated {
            TruncatedLog::Stop => Err(IngestError::LogTruncated {
                stream: self.settings.stream.clone(),
                consumer: self.settings.consumer.clone(),
                stored: stored.to_string(),
                found,
            }),
            TruncatedLog::Skip => {
                tracing::warn!(%stored, found, "messages are gone; reading on as the settings say");
                self.counts.gone.fetch_add(messages, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    /// Appends messages, as few at a time as the store's bound asks for.
    async fn take(
        &mut self,
        at: &mut At,
        messages: &[Message],
        end: &Position,
    ) -> Result<(), IngestError> {
        let mut rest = messages;
        let mut most = messages.len();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(most.min(rest.len()));
            let last = match (after.is_empty(), part.last()) {
                (false, Some(message)) => &message.position,
                _ => end,
            };
            match self.append(at, part, last, None).await {
                Err(IngestError::Store(StoreError::EventTooLarge { .. })) if part.len() > 1 => {
                    most = part.len() / 2;
                    continue;
                }
                Err(IngestError::Store(error @ StoreError::EventTooLarge { .. })) => {
                    let reason = Some(error.to_string());
                    self.append(at, part, last, reason).await?;
                }
                appended => appended?,
            }
            rest = after;
        }
        if messages.is_empty() && *end != at.position {
            self.append(at, &[], end, None).await?;
        }
        Ok(())
    }

    /// Appends messages as a whole, with the position behind them; `refused`:
    /// why none of them can be stored. Where bad ones end the consumer, only what
    /// is before the first.
    async fn append(
        &mut self,
        at: &mut At,
        messages: &[Message],
        end: &Position,
        refused: Option<String>,
    ) -> Result<(), IngestError> {
        let seen = self.see(messages, refused)?;
        let first = seen.bad.first_key_value();
        let stop = match (self.settings.bad, first) {
            (BadMessages::Stop, Some((first, reason))) => (*first, reason.clone()),
            _ => return self.store(at, messages, end, seen).await,
        };
        let (good, rest) = messages.split_at(stop.0);
        if let Some(last) = good.last() {
            let seen = self.see(good, None)?;
            self.store(at, good, &last.position, seen).await?;
        }
        let position = rest.first().map(|message| message.position.to_string());
        Err(IngestError::BadMessage {
            stream: self.settings.stream.clone(),
            consumer: self.settings.consumer.clone(),
            position: position.unwrap_or_default(),
            reason: stop.1,
        })
    }

    /// Looks at every row; a message is bad by the first reason.
    fn see(&self, messages: &[Message], refused: Option<String>) -> Result<Seen, IngestError> {
        let intake = self.streams.intake(&self.settings.stream)?;
        let (decoded, mut bad) = match refused {
            None => decode::decode(self.settings.format, messages, intake.columns())?,
            Some(reason) => (Vec::new(), Bad::from([(0, reason)])),
        };
        let mut rows = Vec::with_capacity(decoded.len());
        for Rows { batch, messages } in decoded {
            match intake.see(&batch) {
                Ok(seen) => {
                    for (message, reason) in messages.iter().zip(&seen.refused) {
                        if let Some(reason) = reason {
                            bad.entry(*message).or_insert_with(|| reason.clone());
                        }
                    }
                    rows.push(seen);
                }
                Err(IngestError::Refused(reason)) => {
                    for message in messages {
                        bad.entry(message).or_insert_with(|| reason.clone());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Seen { intake, rows, bad })
    }

    async fn store(
        &mut self,
        at: &mut At,
        messages: &[Message],
        end: &Position,
        seen: Seen,
    ) -> Result<(), IngestError> {
        let Seen { intake, rows, bad } = seen;
        let offset = ConsumerOffset {
            consumer: self.settings.consumer.clone(),
            previous: at.stored.clone(),
            offset: end.encode()?,
        };
        let stored = offset.offset.clone();
        let appended = intake.append(rows, offset).await?;
        at.stored = Some(stored);
        at.position = end.clone();
        self.progressed = true;
        self.count(messages, &appended, &bad);
        Ok(())
    }

    fn count(&self, messages: &[Message], appended: &[Appended], bad: &Bad) {
        let add = |counter: &AtomicU64, count: usize| {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        };
        let new = appended.iter().filter(|event| event.is_new()).count();
        add(&self.counts.messages, messages.len());
        add(&self.counts.events, new);
        add(&self.counts.duplicates, appended.len() - new);
        add(&self.counts.bad, bad.len());
        let placed = |at: &usize| messages.get(*at).map(|message| &message.position);
        for (at, reason) in bad.iter().take(TOLD_MAX) {
            if let Some(position) = placed(at) {
                tracing::warn!(%position, reason, "a message is no event and is left out");
            }
        }
        if let (true, Some(last)) = (bad.len() > TOLD_MAX, bad.keys().last().and_then(placed)) {
            let more = bad.len() - TOLD_MAX;
            tracing::warn!(more, %last, "more messages are no events and are left out");
        }
    }
}

/// Whether trying again would end the same way.
fn ends(error: &IngestError) -> bool {
    matches!(
        error,
        IngestError::LogTruncated { .. } | IngestError::BadMessage { .. } | IngestError::Refused(_)
    )
}

/// Says that a consumer runs for as long as it does.
struct Running<'a>(&'a ConsumerCounts);

impl<'a> Running<'a> {
    fn new(counts: &'a ConsumerCounts) -> Self {
        counts.running.store(true, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Relaxed);
    }
}
