//! One gRPC connection of the load generator, on HTTP/2 frames: it has one core
//! for all its callers, and a client that does more for each call would be what
//! is measured. Messages go out and come in encoded.

use std::error::Error;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use prost::Message;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codegen::http::{HeaderMap, HeaderValue, Method, Request, Uri};

/// The path of the rpc that all sides speak.
const PATH: &str = "/granary.v1.Features/GetFeatures";
/// As Granary's server has them for what comes in.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Before the server has said how many it takes: as hyper's clients have it.
const FIRST_STREAMS_MAX: usize = 100;

/// A connection, and what every call's head is.
#[derive(Clone)]
pub struct Client {
    send: SendRequest<Bytes>,
    head: Head,
}

#[derive(Clone)]
struct Head {
    uri: Uri,
    headers: HeaderMap,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallError {
    /// The server said so: a gRPC code and its message.
    Status(Code, String),
    Transport(h2::Error),
}

impl CallError {
    pub fn code(&self) -> Code {
        match self {
            Self::Status(code, _) => *code,
            Self::Transport(_) => Code::Unavailable,
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code, message) => write!(f, "{code:?}: {message}"),
            Self::Transport(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl Error for CallError {}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Transport(error)
    }
}

/// A message as gRPC frames it: not compressed, its length, itself.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    framed.freeze()
}

impl Client {
    /// `caller`: the name that goes out in the `granary-client` header.
    pub async fn connect(
        address: &str,
        caller: Option<&'static str>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (send, connection) = h2::client::Builder::new()
            .initial_max_send_streams(FIRST_STREAMS_MAX)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(stream)
            .await?;
        // It ends with the last client; its error is each call's as well.
        tokio::spawn(connection);
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        if let Some(caller) = caller {
            headers.insert("granary-client", HeaderValue::from_static(caller));
        }
        let uri = format!("http://{address}{PATH}").parse()?;
        let head = Head { uri, headers };
        Ok(Self { send, head })
    }

    /// Sends a framed request; `each` gets the framed answer piece by piece.
    pub async fn call(&self, request: Bytes, mut each: impl FnMut(&[u8])) -> Result<(), CallError> {
        let mut send = self.send.clone().ready().await?;
        let mut head = Request::new(());
        *head.method_mut() = Method::POST;
        *head.uri_mut() = self.head.uri.clone();
        *head.headers_mut() = self.head.headers.clone();
        let (response, mut body) = send.send_request(head, false)?;
        body.send_data(request, true)?;
        let (head, mut body) = response.await?.into_parts();
        if let Some(failed) = failure(&head.headers) {
            return Err(failed);
        }
        while let Some(data) = body.data().await {
            let data = data?;
            each(&data);
            body.flow_control().release_capacity(data.len())?;
        }
        match body.trailers().await? {
            Some(trailers) => failure(&trailers).map_or(Ok(()), Err),
            None => {
                let message = "the answer ended without a status".to_owned();
                Err(CallError::Status(Code::Unknown, message))
            }
        }
    }

    /// The encoded answer.
    pub async fn ask(&self, request: Bytes) -> Result<Bytes, CallError> {
        let mut answer = Vec::new();
        self.call(request, |part| answer.extend_from_slice(part))
            .await?;
        Ok(Bytes::from(answer).slice(5..))
    }
}

fn failure(headers: &HeaderMap) -> Option<CallError> {
    let code = Code::from_bytes(headers.get("grpc-status")?.as_bytes());
    let message = headers.get("grpc-message").and_then(|m| m.to_str().ok());
    match code {
        Code::Ok => None,
        code => Some(CallError::Status(
            code,
            message.unwrap_or_default().to_owned(),
        )),
    }
}
