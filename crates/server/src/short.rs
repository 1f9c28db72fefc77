//! The short way of single reads, from the bytes of a request's body to those of
//! the answer's: past the router, and without a codec that would copy both.
//!
//! It takes requests that are one message and not compressed. What is not goes on to
//! tonic, and is answered or refused as the requests of every other rpc.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use granary_model::{Caller, ErrorKind};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::request::Parts;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tower::Service;

use crate::answer::{Encoded, FRAME_HEAD_BYTES};
use crate::bodies::Gathered;
use crate::features::{FeaturesRpc, FeaturesService, request};
use crate::status::status;
use crate::unread::UnreadHere;

/// Which says how messages are compressed that are.
const ENCODING_HEADER: &str = "grpc-encoding";
const NOT_COMPRESSED: &str = "identity";

/// A read whose body came.
pub(crate) enum Taken {
    /// One message, without its frame.
    Message(Bytes),
    /// Whatever else it is.
    Other(Box<Request<Body>>),
}

impl FeaturesRpc {
    pub fn take(&self, head: Parts, body: Gathered) -> Taken {
        let encoding = head.headers.get(ENCODING_HEADER);
        let is_plain = encoding.is_none_or(|encoding| encoding == NOT_COMPRESSED);
        if is_plain
            && let Gathered::Whole(frame) = &body
            && let Some(message) = message(frame, self.request_bytes_max)
        {
            return Taken::Message(message);
        }
        Taken::Other(Box::new(Request::from_parts(head, body.into_body())))
    }

    /// Answers it.
    pub async fn answer_soon(
        self: Arc<Self>,
        taken: Taken,
        caller: Caller,
    ) -> Response<AnswerBody> {
        let mut asked = match taken {
            Taken::Message(message) => {
                let answer = match request(message) {
                    Ok(request) => self.read(request, caller).await,
                    Err(error) => Err(error),
                };
                return answer.and_then(ok).unwrap_or_else(Status::into_http);
            }
            Taken::Other(asked) => *asked,
        };
        asked.extensions_mut().insert(caller);
        match FeaturesService(self).call(asked).await {
            Ok(answer) => answer.map(AnswerBody::Other),
            Err(never) => match never {},
        }
    }
}

/// The message of a frame that is whole and not compressed.
fn message(frame: &Bytes, bytes_max: usize) -> Option<Bytes> {
    let (head, message) = frame.split_first_chunk::<FRAME_HEAD_BYTES>()?;
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    let is_whole = compressed == 0 && length == message.len() && length <= bytes_max;
    is_whole.then(|| frame.slice(FRAME_HEAD_BYTES..))
}

fn ok(answer: Encoded) -> Result<Response<AnswerBody>, Status> {
    let message = answer.framed().ok_or_else(|| {
        let message = "the answer is of more than 4 GiB: ask for fewer entities".to_owned();
        status(ErrorKind::ResourceExhausted, message)
    })?;
    let mut response = Response::new(AnswerBody::Message(message));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    Ok(response)
}

/// The body of an answer, and what of it is still to be sent.
#[derive(Debug, Default)]
pub(crate) enum AnswerBody {
    /// A framed message, then that all is well.
    Message(Bytes),
    AllIsWell,
    #[default]
    Nothing,
    /// As tonic made it.
    Other(Body),
}

impl AnswerBody {
    pub fn counted_by(self, unread: &Arc<UnreadHere>) -> Self {
        match self {
            Self::Message(message) => Self::Message(unread.count(message)),
            Self::Other(body) => {
                let unread = Arc::clone(unread);
                let counted = move |frame: Frame<_>| frame.map_data(|data| unread.count(data));
                Self::Other(Body::new(body.map_frame(counted)))
            }
            nothing => nothing,
        }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Self::Other(body) = this {
            return Pin::new(body).poll_frame(context);
        }
        let frame = match std::mem::take(this) {
            Self::Message(message) => {
                *this = Self::AllIsWell;
                Some(Frame::data(message))
            }
            Self::AllIsWell => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                Some(Frame::trailers(trailers))
            }
            Self::Nothing | Self::Other(_) => None,
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message(_) | Self::AllIsWell => false,
            Self::Nothing => true,
            Self::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Other(body) => body.size_hint(),
            _ => SizeHint::default(),
        }
    }
}
