//! The bare service that reads are measured against: what tonic alone takes to
//! decode the same request and to send an answer of the same length.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes};
use granary_proto::GetFeaturesRequest;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status};

#[derive(Debug)]
pub struct BytesEncoder;

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, target: &mut EncodeBuf<'_>) -> Result<(), Status> {
        target.put(item);
        Ok(())
    }
}

/// Decodes the request like Granary does, answers bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct BareCodec;

impl Codec for BareCodec {
    type Encode = Bytes;
    type Decode = GetFeaturesRequest;
    type Encoder = BytesEncoder;
    type Decoder = RequestDecoder;

    fn encoder(&mut self) -> BytesEncoder {
        BytesEncoder
    }

    fn decoder(&mut self) -> RequestDecoder {
        RequestDecoder
    }
}

#[derive(Debug)]
pub struct RequestDecoder;

impl Decoder for RequestDecoder {
    type Item = GetFeaturesRequest;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<GetFeaturesRequest>, Status> {
        GetFeaturesRequest::decode(source)
            .map(Some)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

/// The bare service: decodes a request and answers the same bytes to each.
#[derive(Debug, Clone)]
pub struct BareService {
    answer: Bytes,
}

impl BareService {
    pub fn new(answer: Bytes) -> Self {
        Self { answer }
    }
}

impl tonic::server::UnaryService<GetFeaturesRequest> for BareService {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<GetFeaturesRequest>) -> Self::Future {
        // Keeps the decoding from being optimised away.
        std::hint::black_box(request.into_inner());
        ready(Ok(Response::new(self.answer.clone())))
    }
}

impl tonic::server::NamedService for BareService {
    const NAME: &'static str = "granary.v1.Features";
}

impl<B> tonic::codegen::Service<tonic::codegen::http::Request<B>> for BareService
where
    B: tonic::codegen::Body + Send + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = tonic::codegen::http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::codegen::http::Request<B>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(BareCodec);
            Ok(grpc.unary(service, request).await)
        })
    }
}
