//! NATS JetStream as a message log; the position is the stream's sequence.
//!
//! Messages are pulled through a consumer of the server that lives as long as a
//! connection, remembers nothing and acknowledges nothing: what was read is known
//! by the stored position alone. The server numbers what it delivers, so a
//! message that is lost on the way shows as a gap, and the log is sought again.
//!
//! A log is told from one of the same name by when it was made, and from itself
//! after its end was lost by the publication time of the message at the position.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{self, Batch};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy};
use async_nats::jetstream::stream::{Info, LastRawMessageErrorKind, Stream};
use async_nats::{Client, ConnectOptions, ServerAddr, connection, jetstream};
use async_trait::async_trait;
use futures::StreamExt;
use granary_model::UtcMicros;

use super::log::{Found, Gone, Message, MessageLog, Messages, Position};
use super::settings::ConsumeSettings;
use crate::error::IngestError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long messages that the server says it has may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server keeps its side of a connection that is gone.
const INACTIVE: Duration = Duration::from_secs(60);

/// Who a consumer is to the server: none, one or more of these.
#[derive(Clone, Default)]
pub struct NatsSecrets {
    pub token: Option<String>,
    pub user_and_password: Option<(String, String)>,
    /// The text of a credentials file: a JWT and the seed of its key.
    pub credentials: Option<String>,
}

impl fmt::Debug for NatsSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NatsSecrets(..)")
    }
}

/// A JetStream stream, or one subject of it.
#[derive(Debug)]
pub struct NatsLog {
    settings: ConsumeSettings,
    servers: Vec<ServerAddr>,
    secrets: NatsSecrets,
    client: Option<Client>,
    reading: Option<Reading>,
}

/// Reading from a position on.
#[derive(Debug)]
struct Reading {
    stream: Stream,
    consumer: Consumer<pull::Config>,
    /// Of what was seen last.
    position: Position,
    /// Messages that the server has delivered.
    delivered: u64,
    pending: u64,
}

impl NatsLog {
    /// `IngestError::Refused` for a URL that is none, or that holds a secret.
    pub fn new(settings: &ConsumeSettings, secrets: NatsSecrets) -> Result<Self, IngestError> {
        let refused = |what: String| {
            let (consumer, stream) = (&settings.consumer, &settings.stream);
            IngestError::Refused(format!("consumer {consumer} of stream {stream}: {what}"))
        };
        let mut servers = Vec::new();
        for url in settings.url.split(',') {
            let server: ServerAddr = url
                .trim()
                .parse()
                .map_err(|_| refused("url is not of the form nats://host:port".to_owned()))?;
            if server.has_user_pass() {
                return Err(refused("url holds a secret".to_owned()));
            }
            servers.push(server);
        }
        Ok(Self {
            settings: settings.clone(),
            servers,
            secrets,
            client: None,
            reading: None,
        })
    }

    async fn client(&mut self) -> Result<Client, IngestError> {
        if let Some(client) = &self.client
            && client.connection_state() == connection::State::Connected
        {
            return Ok(client.clone());
        }
        let mut options = ConnectOptions::new()
            .name(format!("granary {}", self.settings.consumer))
            .connection_timeout(CONNECT_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .subscription_capacity(self.settings.batch_messages_max.saturating_add(64));
        if let Some(token) = &self.secrets.token {
            options = options.token(token.clone());
        }
        if let Some((user, password)) = &self.secrets.user_and_password {
            options = options.user_and_password(user.clone(), password.clone());
        }
        if let Some(credentials) = &self.secrets.credentials {
            let with = options.credentials(credentials);
            options = with.map_err(|e| IngestError::Refused(format!("NATS credentials: {e}")))?;
        }
        if let Some(file) = &self.settings.ca_file {
            options = options.add_root_certificates(file.clone());
        }
        let client = options.connect(self.servers.clone()).await;
        let client = client.map_err(|e| self.failed("cannot connect", &e))?;
        self.client = Some(client.clone());
        Ok(client)
    }

    fn failed(&self, what: &str, error: &dyn std::error::Error) -> IngestError {
        let (url, name) = (&self.settings.url, &self.settings.jetstream);
        IngestError::Log(format!("{url}, {name}: {what}: {error}"))
    }

    /// What is there of what a position asks for.
    async fn find(&self, stream: &Stream, after: Option<&Position>) -> Result<Found, IngestError> {
        let info = stream.cached_info();
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let at = |sequence, published_nanos| Position {
            log: self.settings.jetstream.clone(),
            subject: self.settings.subject.clone(),
            created_nanos: nanos(info.created),
            sequence,
            published_nanos,
        };
        let beginning = at(first.saturating_sub(1), 0);
        let gone = |position, found, messages| Found {
            position,
            gone: Some(Gone { found, messages }),
        };
        let Some(stored) = after else {
            return Ok(Found {
                position: beginning,
                gone: None,
            });
        };
        if stored.created_nanos != beginning.created_nanos {
            let made = time(beginning.created_nanos);
            let found = format!("the log was made anew at {made}, with messages {first} to {last}");
            return Ok(gone(beginning, found, 0));
        }
        if last < stored.sequence {
            let found = format!("the last message there is {last}");
            return Ok(gone(at(last, nanos(info.state.last_timestamp)), found, 0));
        }
        let lost = beginning.sequence.saturating_sub(stored.sequence);
        if lost > 0 {
            let found = format!("the first message there is {first}");
            return Ok(gone(beginning, found, lost));
        }
        let position = stored.clone();
        Ok(match self.published(stream, stored).await? {
            Some(published) if published != stored.published_nanos => {
                let (number, when) = (stored.sequence, time(published));
                let found = format!("message {number} there is another one, published at {when}");
                gone(at(number, published), found, 0)
            }
            _ => Found {
                position,
                gone: None,
            },
        })
    }

    /// When the message at a position was published, if it is there and its time
    /// is known.
    async fn published(
        &self,
        stream: &Stream,
        stored: &Position,
    ) -> Result<Option<i64>, IngestError> {
        let first = stream.cached_info().state.first_sequence;
        if stored.published_nanos == 0 || stored.sequence < first {
            return Ok(None);
        }
        match stream.get_raw_message(stored.sequence).await {
            Ok(message) => Ok(Some(nanos(message.time))),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(self.failed("a message cannot be read", &error)),
        }
    }

    fn pull(&self, after: &Position) -> pull::Config {
        pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: after.sequence + 1,
            },
            ack_policy: AckPolicy::None,
            filter_subject: self.settings.subject.clone(),
            inactive_threshold: INACTIVE + Duration::from_millis(self.settings.wait_millis),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        }
    }
}

#[async_trait]
impl MessageLog for NatsLog {
    async fn seek(&mut self, after: Option<&Position>) -> Result<Found, IngestError> {
        self.reading = None;
        let context = jetstream::new(self.client().await?);
        let stream = context.get_stream(&self.settings.jetstream).await;
        let stream = stream.map_err(|e| self.failed("the stream cannot be read", &e))?;
        let found = self.find(&stream, after).await?;
        let consumer = stream.create_consumer(self.pull(&found.position)).await;
        let consumer = consumer.map_err(|e| self.failed("no consumer can be made", &e))?;
        self.reading = Some(Reading {
            stream,
            consumer,
            position: found.position.clone(),
            delivered: 0,
            pending: 0,
        });
        Ok(found)
    }

    async fn next(&mut self) -> Result<Messages, IngestError> {
        let settings = &self.settings;
        let Some(reading) = &mut self.reading else {
            return Err(IngestError::Log("it was not sought yet".to_owned()));
        };
        let messages = reading.read(settings).await.map_err(|error| {
            let (url, name) = (&settings.url, &settings.jetstream);
            IngestError::Log(format!("{url}, {name}: {error}"))
        })?;
        Ok(Messages {
            messages,
            end: reading.position.clone(),
            pending: reading.pending,
        })
    }
}

impl Reading {
    /// Waits for one message, then takes those that follow it already.
    async fn read(
        &mut self,
        settings: &ConsumeSettings,
    ) -> Result<Vec<Message>, async_nats::Error> {
        let before = self.position.sequence;
        let wait = Duration::from_millis(settings.wait_millis.max(1));
        let mut messages = Vec::new();
        let first = self.consumer.batch().max_messages(1).expires(wait);
        let first = first.messages().await?;
        self.gather(first, wait + DELIVERY_TIMEOUT, &mut messages)
            .await?;
        if messages.is_empty() {
            self.idle().await?;
            return Ok(messages);
        }
        let pending = usize::try_from(self.pending).unwrap_or(usize::MAX);
        let more = pending.min(settings.batch_messages_max.saturating_sub(1));
        if more > 0 {
            let rest = self.consumer.batch().max_messages(more);
            let rest = rest.max_bytes(settings.batch_bytes_max.max(1));
            let rest = rest.expires(DELIVERY_TIMEOUT).messages().await?;
            // Ends early where the bytes are reached: those are read next.
            let end = self.gather(rest, 2 * DELIVERY_TIMEOUT, &mut messages).await;
            if let Err(error) = end {
                tracing::debug!(%error, "fewer messages than were asked for");
            }
        }
        let contiguous = self.position.sequence - before == messages.len() as u64;
        if !contiguous {
            // Of other subjects or removed one by one; but the log's beginning
            // may have passed us.
            let info = self.stream.get_info().await?;
            check_beginning(&info, before)?;
        }
        Ok(messages)
    }

    async fn gather(
        &mut self,
        mut batch: Batch,
        within: Duration,
        messages: &mut Vec<Message>,
    ) -> Result<(), async_nats::Error> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let next = tokio::time::timeout_at(deadline, batch.next()).await;
            let Some(message) = next? else {
                return Ok(());
            };
            let message = message?;
            let info = message.info()?;
            if info.consumer_sequence != self.delivered + 1 {
                return Err("a message was lost on the way".into());
            }
            self.delivered = info.consumer_sequence;
            self.pending = info.pending;
            self.position.sequence = info.stream_sequence;
            self.position.published_nanos = nanos(info.published);
            let position = self.position.clone();
            let payload = message.message.payload.clone();
            messages.push(Message { position, payload });
        }
    }

    /// Nothing of ours came: looks why, and goes behind messages of other
    /// subjects, so that their removal is not taken for a loss.
    async fn idle(&mut self) -> Result<(), async_nats::Error> {
        // In this order: what the consumer has seen then holds for all of the log.
        let info = self.stream.get_info().await?;
        let consumer = self.consumer.get_info().await?;
        check_beginning(&info, self.position.sequence)?;
        if consumer.delivered.consumer_sequence != self.delivered {
            return Err("a message was lost on the way".into());
        }
        self.pending = consumer.num_pending;
        if self.pending == 0 && info.state.last_sequence > self.position.sequence {
            self.position.sequence = info.state.last_sequence;
            self.position.published_nanos = nanos(info.state.last_timestamp);
        }
        Ok(())
    }
}

/// Whether what follows a sequence is all there; else the log is sought again,
/// which tells what is gone.
fn check_beginning(info: &Info, seen: u64) -> Result<(), async_nats::Error> {
    match info.state.first_sequence > seen + 1 {
        true => Err(format!("messages behind {seen} are gone").into()),
        false => Ok(()),
    }
}

fn nanos(time: async_nats::datetime::DateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

fn time(nanos: i64) -> UtcMicros {
    UtcMicros(nanos.div_euclid(1_000))
}
