//! The service `Features`: reads, one by one and as a stream.
//!
//! Unlike the other services it is not what tonic generates: answers go out as
//! bytes that are written where the values lie (`answer.rs`), and the generated
//! one takes only messages. Most single reads do not come here at all, but by a
//! shorter way: see `short.rs`.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use granary_model::{Caller, ErrorKind};
use granary_proto as pb;
use granary_proto::get_features_request::Target;
use granary_proto::stream_features_response::Answer;
use granary_serving::Reader;
use prost::Message;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tower::{Service, service_fn};

use crate::admission::{CallerId, Class};
use crate::answer::{Encoded, write_item};
use crate::edge::panicked;
use crate::items::{Items, stream_error};
use crate::metrics::{ServiceRead, StatusCounts};
use crate::read_log::ReadLogger;
use crate::status::{IntoStatus, status};
use crate::wire;

#[derive(Debug)]
pub(crate) struct FeaturesRpc {
    pub reader: Arc<Reader>,
    pub items: Items,
    /// Where answers are logged, if they are.
    pub log: Option<ReadLogger>,
    pub request_bytes_max: usize,
}

impl FeaturesRpc {
    async fn get_features(
        self: Arc<Self>,
        request: Request<pb::GetFeaturesRequest>,
    ) -> Result<Response<Encoded>, Status> {
        let caller = caller(&request)?;
        let answer = self.read(request.into_inner(), caller).await?;
        Ok(Response::new(answer))
    }

    async fn stream_features(
        self: Arc<Self>,
        request: Request<Streaming<pb::GetFeaturesRequest>>,
    ) -> Result<Response<BoxStream<'static, Result<Encoded, Status>>>, Status> {
        let caller = caller(&request)?;
        let open = self.items.open()?;
        let items = self.items.clone();
        let by = items.admission.caller(&caller.name);
        // A task each: one whose turn has come holds a slot, and must not wait
        // for whoever reads the answers of the stream.
        let answer = move |request| {
            let answer = Arc::clone(&self).answer(request, caller.clone(), by);
            let answer = AbortOnDropHandle::new(tokio::spawn(answer));
            answer.map(|answer| answer.unwrap_or_else(|_| failed(stream_error(&panicked()))))
        };
        let answers = items.answers(request.into_inner(), answer);
        let answers = answers.inspect(move |_| {
            let _held = &open;
        });
        Ok(Response::new(answers.boxed()))
    }

    pub async fn read(
        &self,
        request: pb::GetFeaturesRequest,
        caller: Caller,
    ) -> Result<Encoded, Status> {
        let service = match &request.target {
            Some(Target::Features(_)) => None,
            Some(Target::Service(name)) => Some(name.as_str()),
            None => Some(""),
        };
        let mut counted = self.items.metrics.services.read(service, &self.reader);
        let mut statuses = StatusCounts::default();
        let outcome = self.encoded(request, caller, (&mut counted, &mut statuses));
        let outcome = outcome.await;
        counted.ended(&outcome, statuses);
        outcome
    }

    async fn encoded(
        &self,
        request: pb::GetFeaturesRequest,
        caller: Caller,
        (counted, statuses): (&mut ServiceRead<'_>, &mut StatusCounts),
    ) -> Result<Encoded, Status> {
        let (read, form) = wire::decode(request, caller)?;
        let logged = { self.log.as_ref() }.and_then(|log| Some((log, log.keep(&read)?)));
        let answer = self.reader.answer(&read).await;
        let answer = answer.map_err(IntoStatus::into_status)?;
        self.items.metrics.read(&answer);
        counted.found(&answer);
        if let Some((log, read)) = logged {
            log.offer(read, &answer);
        }
        wire::encode(answer, &form, statuses)
    }

    async fn answer(
        self: Arc<Self>,
        request: pb::GetFeaturesRequest,
        caller: Caller,
        by: CallerId,
    ) -> Encoded {
        let asked = (Class::StreamedRead, by);
        match self.items.item(asked, self.read(request, caller)).await {
            Ok(response) => write_item(&response),
            Err(error) => failed(error),
        }
    }
}

/// The answer of a request in a stream that failed.
fn failed(error: pb::StreamError) -> Encoded {
    Encoded::of(&pb::StreamFeaturesResponse {
        answer: Some(Answer::Error(error)),
    })
}

/// A request from its message; a refusal is worded as tonic words those of every
/// other rpc.
pub(crate) fn request(message: impl Buf) -> Result<pb::GetFeaturesRequest, Status> {
    pb::GetFeaturesRequest::decode(message).map_err(|error| Status::internal(error.to_string()))
}

/// The service as tonic's router takes it.
#[derive(Debug, Clone)]
pub(crate) struct FeaturesService(pub Arc<FeaturesRpc>);

impl NamedService for FeaturesService {
    const NAME: &'static str = pb::features_server::SERVICE_NAME;
}

impl Service<http::Request<Body>> for FeaturesService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let rpc = Arc::clone(&self.0);
        let bytes_max = Some(rpc.request_bytes_max);
        let grpc = || Grpc::new(ReadCodec).apply_max_message_size_config(bytes_max, None);
        match request.uri().path() {
            "/granary.v1.Features/GetFeatures" => {
                let mut grpc = grpc();
                let get = service_fn(move |request| Arc::clone(&rpc).get_features(request));
                Box::pin(async move { Ok(grpc.unary(get, request).await) })
            }
            "/granary.v1.Features/StreamFeatures" => {
                let mut grpc = grpc();
                let stream = service_fn(move |request| Arc::clone(&rpc).stream_features(request));
                Box::pin(async move { Ok(grpc.streaming(stream, request).await) })
            }
            _ => Box::pin(ready(Ok(Status::unimplemented("no such rpc").into_http()))),
        }
    }
}

/// Requests as messages, answers as bytes.
#[derive(Debug, Clone, Copy)]
struct ReadCodec;

impl Codec for ReadCodec {
    type Encode = Encoded;
    type Decode = pb::GetFeaturesRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for ReadCodec {
    type Item = Encoded;
    type Error = Status;

    fn encode(&mut self, answer: Encoded, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let message = answer.message();
        to.reserve(message.len());
        to.put_slice(message);
        Ok(())
    }
}

impl Decoder for ReadCodec {
    type Item = pb::GetFeaturesRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        request(from).map(Some)
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
