//! What the streaming rpcs share: a place among the open streams, answers in
//! the order of the requests, and admission and the bounds of one request within
//! a stream.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use granary_model::ErrorKind;
use granary_proto as pb;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::admission::{Admission, Asked, CallerId, Class, Refusal};
use crate::edge::panicked;
use crate::metrics::Metrics;
use crate::settings::ServerSettings;
use crate::status::status;

/// What every rpc that streams works under.
#[derive(Debug, Clone)]
pub(crate) struct Items {
    pub metrics: Arc<Metrics>,
    pub settings: Arc<ServerSettings>,
    /// Of requests in streams and alone.
    pub admission: Arc<Admission>,
    /// One an open stream.
    pub streams: Arc<Semaphore>,
    /// Told when the server shuts down: streams take no more requests.
    pub closing: CancellationToken,
}

impl Items {
    /// A place among the open streams.
    pub fn open(&self) -> Result<OpenStream, Status> {
        OpenStream::new(&self.streams, &self.metrics, &self.settings)
    }

    /// Answers in the order of the requests, a few of them worked on at a
    /// time. `answer` makes an answer of a request that fails too; a broken
    /// stream ends it.
    pub fn answers<Q, A, F>(
        self,
        requests: Streaming<Q>,
        answer: impl Fn(Q) -> F + Send + 'static,
    ) -> BoxStream<'static, Result<A, Status>>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: Future<Output = A> + Send + 'static,
    {
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
            .take_until(self.closing.cancelled_owned())
            .map_ok(move |request| answer(request).map(Ok).boxed())
            .try_buffered(ahead)
            .chain(stream::once(farewell).filter_map(async |last| last))
            .boxed()
    }

    /// Answers for as long as the server runs; its end is told.
    pub fn until_closing<A: Send + 'static>(
        &self,
        answers: impl Stream<Item = Result<A, Status>> + Send + 'static,
    ) -> BoxStream<'static, Result<A, Status>> {
        let closed = self.closing.clone();
        let farewell = stream::once(async move {
            let message = "the server is shutting down; ask again".to_owned();
            let closed = closed.is_cancelled();
            closed.then(|| Err(status(ErrorKind::Unavailable, message)))
        });
        answers
            .take_until(self.closing.clone().cancelled_owned())
            .chain(farewell.filter_map(async |last| last))
            .boxed()
    }

    /// The outcome of one request within a stream, in the bounds of a request
    /// by itself, and counted.
    pub async fn item<A>(
        &self,
        (class, caller): (Class, CallerId),
        work: impl Future<Output = Result<A, Status>>,
    ) -> Result<A, pb::StreamError> {
        let allowed = self.settings.request_time_max();
        let since = Instant::now();
        let asked = Asked {
            class,
            caller,
            since,
            deadline: since + allowed,
        };
        let working = async {
            let turn = self.admission.turn(asked).await;
            let admitted = turn.map_err(Refusal::status)?;
            let working = AssertUnwindSafe(admitted.run(work));
            working
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(panicked()))
        };
        let outcome = tokio::time::timeout_at(asked.deadline, working).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let message = format!("no answer within {allowed:?}");
            Err(status(ErrorKind::DeadlineExceeded, message))
        });
        let code = outcome.as_ref().err().map_or(Code::Ok, Status::code);
        self.metrics.stream_item(code);
        outcome.map_err(|error| stream_error(&error))
    }
}

/// An error of one request within a stream.
pub(crate) fn stream_error(error: &Status) -> pb::StreamError {
    pb::StreamError {
        code: error.code().into(),
        message: error.message().to_owned(),
    }
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
