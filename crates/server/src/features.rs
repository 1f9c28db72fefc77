//! The service `Features`: reads, one by one and as a stream.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use granary_model::{Caller, ErrorKind};
use granary_proto as pb;
use granary_proto::features_server::Features;
use granary_proto::stream_features_response::Answer;
use granary_serving::Reader;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::edge::panicked;
use crate::metrics::Metrics;
use crate::settings::ServerSettings;
use crate::status::{IntoStatus, status};
use crate::wire;

#[derive(Debug, Clone)]
pub(crate) struct FeaturesRpc {
    pub reader: Arc<Reader>,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<ServerSettings>,
    /// One a request that may be worked on at a time, in streams or alone.
    pub permits: Arc<Semaphore>,
    /// One an open stream.
    pub streams: Arc<Semaphore>,
    /// Told when the server shuts down: streams take no more requests.
    pub closing: CancellationToken,
}

#[tonic::async_trait]
impl Features for FeaturesRpc {
    async fn get_features(
        &self,
        request: Request<pb::GetFeaturesRequest>,
    ) -> Result<Response<pb::GetFeaturesResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.read(request.into_inner(), caller).await?;
        Ok(Response::new(answer))
    }

    type StreamFeaturesStream = BoxStream<'static, Result<pb::StreamFeaturesResponse, Status>>;

    async fn stream_features(
        &self,
        request: Request<Streaming<pb::GetFeaturesRequest>>,
    ) -> Result<Response<Self::StreamFeaturesStream>, Status> {
        let caller = caller(&request)?;
        let open = OpenStream::new(&self.streams, &self.metrics, &self.settings)?;
        let answers = self.clone().answers(request.into_inner(), caller);
        let answers = answers.inspect(move |_| {
            let _held = &open;
        });
        Ok(Response::new(answers.boxed()))
    }
}

impl FeaturesRpc {
    async fn read(
        &self,
        request: pb::GetFeaturesRequest,
        caller: Caller,
    ) -> Result<pb::GetFeaturesResponse, Status> {
        let (read, form) = wire::decode(request, caller)?;
        let response = self
            .reader
            .read(read)
            .await
            .map_err(IntoStatus::into_status)?;
        self.metrics.read(&response);
        wire::encode(&response, &form)
    }

    /// Answers in the order of the requests, a few of them worked on at a
    /// time. A request that fails is an answer; a broken stream ends it.
    fn answers(
        self,
        requests: Streaming<pb::GetFeaturesRequest>,
        caller: Caller,
    ) -> BoxStream<'static, Result<pb::StreamFeaturesResponse, Status>> {
        let closing = self.closing.clone();
        let ahead = self.settings.stream_requests_ahead.max(1);
        let closed = self.closing.clone();
        let farewell = async move {
            let message =
                "the server is shutting down; the requests after the last answer were not read";
            closed
                .is_cancelled()
                .then(|| Err(status(ErrorKind::Unavailable, message.to_owned())))
        };
        requests
            .take_until(closing.cancelled_owned())
            .map_ok(move |request| {
                let (rpc, caller) = (self.clone(), caller.clone());
                async move { Ok(rpc.answer(request, caller).await) }.boxed()
            })
            .try_buffered(ahead)
            .chain(futures::stream::once(farewell).filter_map(async |last| last))
            .boxed()
    }

    async fn answer(
        &self,
        request: pb::GetFeaturesRequest,
        caller: Caller,
    ) -> pb::StreamFeaturesResponse {
        let allowed = self.settings.request_time_max();
        let reading = async {
            let _permit = self.permits.acquire().await;
            let reading = AssertUnwindSafe(self.read(request, caller));
            reading
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(panicked()))
        };
        let answered = tokio::time::timeout(allowed, reading).await;
        let answered = answered.unwrap_or_else(|_| {
            let message = format!("no answer within {allowed:?}");
            Err(status(ErrorKind::DeadlineExceeded, message))
        });
        let code = answered.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.stream_item(code);
        let answer = match answered {
            Ok(response) => Answer::Response(response),
            Err(error) => Answer::Error(pb::StreamError {
                code: error.code().into(),
                message: error.message().to_owned(),
            }),
        };
        pb::StreamFeaturesResponse {
            answer: Some(answer),
        }
    }
}

/// Who asks, as the edge made it.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| {
            let message = "the request did not come through the edge";
            status(ErrorKind::Internal, message.to_owned())
        })
}

/// Holds a place among the open streams.
#[derive(Debug)]
pub(crate) struct OpenStream {
    metrics: Arc<Metrics>,
    _permit: tokio::sync::OwnedSemaphorePermit,
}

impl OpenStream {
    pub fn new(
        streams: &Arc<Semaphore>,
        metrics: &Arc<Metrics>,
        settings: &ServerSettings,
    ) -> Result<Self, Status> {
        let permit = Arc::clone(streams).try_acquire_owned().map_err(|_| {
            let bound = settings.concurrent_streams_max;
            let message = format!("{bound} streams are open already; try again");
            status(ErrorKind::ResourceExhausted, message)
        })?;
        metrics.open_streams.inc();
        Ok(Self {
            metrics: Arc::clone(metrics),
            _permit: permit,
        })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.metrics.open_streams.dec();
    }
}
