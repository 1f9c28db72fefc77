//! The connection, and what every call carries.

use std::time::Duration;

use granary_proto::catalog_client::CatalogClient;
use granary_proto::features_client::FeaturesClient;
use granary_proto::historical_client::HistoricalClient;
use granary_proto::materialization_client::MaterializationClient;
use granary_proto::streams_client::StreamsClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, codegen::http::Uri};

use crate::error::ClientError;

/// What tunes a client.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    pub connect_seconds_max: u64,
    /// The largest answer.
    pub answer_bytes_max: usize,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            connect_seconds_max: 10,
            answer_bytes_max: 256 << 20,
        }
    }
}

/// A connection to a server, and who asks through it.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    settings: ClientSettings,
    name: Option<MetadataValue<Ascii>>,
    deadline: Option<Duration>,
}

impl Client {
    /// `endpoint`: `http://host:port`; `host:port` will do.
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        Self::connect_with(endpoint, ClientSettings::default()).await
    }

    pub async fn connect_with(
        endpoint: &str,
        settings: ClientSettings,
    ) -> Result<Self, ClientError> {
        let failed = |reason: String| ClientError::Connect {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let url = if endpoint.contains("://") {
            endpoint.to_owned()
        } else {
            format!("http://{endpoint}")
        };
        let uri: Uri = url
            .parse()
            .map_err(|_| failed("not an address; write it as http://host:port".into()))?;
        if uri.scheme_str() != Some("http") {
            return Err(failed("only http:// is spoken here".into()));
        }
        let channel = Endpoint::from(uri)
            .connect_timeout(Duration::from_secs(settings.connect_seconds_max))
            .tcp_nodelay(true)
            .initial_stream_window_size(2 << 20)
            .initial_connection_window_size(8 << 20)
            .connect()
            .await
            .map_err(|error| failed(innermost(&error)))?;
        Ok(Self {
            channel,
            settings,
            name: None,
            deadline: None,
        })
    }

    /// The name under which the server counts, limits and grants. Characters
    /// that a header cannot carry become `?`.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        let printable = |c: char| if (' '..='~').contains(&c) { c } else { '?' };
        let name: String = name.chars().map(printable).collect();
        self.name = MetadataValue::try_from(name).ok();
        self
    }

    /// How long each read may take; told to the server.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(crate) fn features(&self) -> FeaturesClient<Channel> {
        FeaturesClient::new(self.channel.clone())
            .max_decoding_message_size(self.settings.answer_bytes_max)
            .max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn catalog(&self) -> CatalogClient<Channel> {
        CatalogClient::new(self.channel.clone())
            .max_decoding_message_size(self.settings.answer_bytes_max)
    }

    pub(crate) fn materialization(&self) -> MaterializationClient<Channel> {
        MaterializationClient::new(self.channel.clone())
    }

    pub(crate) fn historical(&self) -> HistoricalClient<Channel> {
        HistoricalClient::new(self.channel.clone())
            .max_decoding_message_size(self.settings.answer_bytes_max)
            .max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn streams(&self) -> StreamsClient<Channel> {
        StreamsClient::new(self.channel.clone())
            .max_decoding_message_size(self.settings.answer_bytes_max)
            .max_encoding_message_size(usize::MAX)
    }

    /// A request that says who asks.
    pub(crate) fn named<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(name) = &self.name {
            request
                .metadata_mut()
                .insert("granary-client", name.clone());
        }
        request
    }

    /// A request that says who asks, and by when it wants its answer.
    pub(crate) fn bounded<T>(&self, message: T) -> Request<T> {
        let mut request = self.named(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }
}

/// The cause that says most: tonic wraps "connection refused" in "transport error".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
