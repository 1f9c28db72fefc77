//! The edge: what a connection gives its requests to. It makes the caller, asks for
//! admission, keeps the deadline of requests and counts them. Health and reflection
//! pass untouched, so that they answer under any load. Behind it a request goes to
//! tonic's services, or, a read, the short way (`short.rs`).

use std::convert::Infallible;
use std::future::{Future, ready};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use granary_model::{Caller, ErrorKind};
use hyper::body::Incoming;
use hyper::service::Service as HttpService;
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::Service;

use crate::admission::{Admission, Admitted, Asked, CallerId, Refusal};
use crate::bodies::{Bodies, Gathered, Gone};
use crate::connections::Spot;
use crate::features::FeaturesRpc;
use crate::metrics::{Metrics, Rpc};
use crate::settings::ServerSettings;
use crate::short::{AnswerBody, Taken};
use crate::status::status;
use crate::unread::{Unread, UnreadHere};
use crate::work;

/// The header in which a client names itself.
pub(crate) const CLIENT_HEADER: &str = "granary-client";
/// A longer message asks for so much that another core should have it, if one has nothing
/// to do.
const LONG_MESSAGE_BYTES: usize = 4 << 10;
const REFLECTION: &str = tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME;
/// Longer names are cut.
const CLIENT_NAME_BYTES_MAX: usize = 200;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Edge {
    pub settings: Arc<ServerSettings>,
    pub metrics: Arc<Metrics>,
    pub admission: Arc<Admission>,
    pub bodies: Bodies,
    pub unread: Arc<Unread>,
    pub features: Arc<FeaturesRpc>,
    /// The services, those that the edge does not answer itself.
    pub routes: Routes,
}

/// The edge as one connection has it.
#[derive(Debug)]
pub(crate) struct EdgeOf {
    edge: Arc<Edge>,
    peer: TcpConnectInfo,
    /// Who asks that does not name itself.
    address: String,
    unread: Arc<UnreadHere>,
    spot: Arc<Spot>,
}

/// What comes of a request: of whatever fails, an answer that says so.
type Answered = Result<Response<AnswerBody>, Infallible>;

/// The services, as tonic has them.
struct Routed {
    routes: Routes,
    peer: TcpConnectInfo,
}

impl EdgeOf {
    pub fn new(
        edge: &Arc<Edge>,
        peer: TcpConnectInfo,
        unread: Arc<UnreadHere>,
        spot: Arc<Spot>,
    ) -> Self {
        let address = peer.remote_addr();
        Self {
            edge: Arc::clone(edge),
            unread,
            peer,
            address: address.map_or_else(|| "unknown".to_owned(), |a| a.ip().to_string()),
            spot,
        }
    }

    fn routed(&self) -> Routed {
        Routed {
            routes: self.edge.routes.clone(),
            peer: self.peer.clone(),
        }
    }

    /// The name of who asks.
    fn caller<'a>(&'a self, headers: &'a HeaderMap) -> &'a str {
        let named = headers.get(CLIENT_HEADER);
        // Of visible ASCII.
        let named = named.and_then(|name| name.to_str().ok()).map(str::trim);
        match named.filter(|name| !name.is_empty()) {
            Some(name) => &name[..name.len().min(CLIENT_NAME_BYTES_MAX)],
            None => &self.address,
        }
    }
}

impl Edge {
    /// A caller, with the roles that its name has.
    fn known(&self, name: &str) -> Caller {
        Caller {
            name: name.to_owned(),
            roles: self.settings.roles.get(name).cloned().unwrap_or_default(),
        }
    }
}

impl Routed {
    async fn answer(mut self, mut request: Request<Body>) -> Answered {
        request.extensions_mut().insert(self.peer);
        let answer = self.routes.call(request).await?;
        Ok(answer.map(AnswerBody::Other))
    }
}

impl HttpService<Request<Incoming>> for EdgeOf {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Answered>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let Some(rpc) = Rpc::of(path) else {
            if is_beside(path) {
                return Box::pin(self.routed().answer(request.map(Body::new)));
            }
            let unknown = status(ErrorKind::Unimplemented, format!("no rpc is {path:?}"));
            return Box::pin(ready(Ok(unknown.into_http())));
        };
        let allowed = self.edge.settings.request_time_max();
        let allowed = asked_timeout(request.headers()).map_or(allowed, |t| t.min(allowed));
        let started = Instant::now();
        let name = self.caller(request.headers());
        let id = self.edge.admission.caller(name);
        self.spot.next_is_of(id);
        let bounded = Bounded {
            edge: Arc::clone(&self.edge),
            id,
            caller: self.edge.known(name),
            underway: Underway::new(&self.edge.metrics, rpc, started, started + allowed),
        };
        match rpc {
            Rpc::GetFeatures => {
                self.spot.next_is_read();
                Box::pin(bounded.read(request, Arc::clone(&self.unread)))
            }
            _ => Box::pin(bounded.answer(request, self.routed())),
        }
    }
}

/// A request, and what it has to do with the others.
#[derive(Debug)]
struct Bounded {
    edge: Arc<Edge>,
    id: CallerId,
    caller: Caller,
    underway: Underway,
}

impl Bounded {
    async fn read(self, request: Request<Incoming>, unread: Arc<UnreadHere>) -> Answered {
        let features = Arc::clone(&self.edge.features);
        let (head, body) = request.into_parts();
        let taken = match self.gather(body).await {
            Ok(body) => features.take(head, body),
            Err(why) => return Ok(self.without_body(&why)),
        };
        if let Taken::Message(message) = &taken
            && message.len() > LONG_MESSAGE_BYTES
            && self.edge.admission.idle_cores() > 0
        {
            work::leave_spot().await;
        }
        match self.turn().await {
            Ok(_) if unread.is_full() => {
                let refusal = Refusal::Unread;
                self.edge.metrics.admission.refused(refusal);
                Ok(refuse(refusal, self.underway))
            }
            Ok(admitted) => {
                let answer = pin!(features.answer_soon(taken, self.caller));
                let answered = finish(answer.map(Ok), self.underway, admitted).await?;
                Ok(answered.map(|body| body.counted_by(&unread)))
            }
            Err(refusal) => Ok(refuse(refusal, self.underway)),
        }
    }

    async fn answer(self, request: Request<Incoming>, routed: Routed) -> Answered {
        let (head, body) = request.into_parts();
        let body = match self.underway.rpc.takes_stream() {
            // It comes as it is worked on, and open streams are counted.
            true => Body::new(body),
            false => match self.gather(body).await {
                Ok(body) => body.into_body(),
                Err(why) => return Ok(self.without_body(&why)),
            },
        };
        let mut request = Request::from_parts(head, body);
        match self.turn().await {
            Ok(admitted) => {
                request.extensions_mut().insert(self.caller);
                let answer = pin!(routed.answer(request));
                finish(answer, self.underway, admitted).await
            }
            Err(refusal) => Ok(refuse(refusal, self.underway)),
        }
    }

    async fn gather(&self, body: Incoming) -> Result<Gathered, NoBody> {
        let gathered = self.edge.bodies.gather(body);
        match timeout_at(self.underway.deadline, gathered).await {
            Ok(Ok(body)) => Ok(body),
            Ok(Err(Gone)) => Err(NoBody::Gone),
            Err(_) => Err(NoBody::Late),
        }
    }

    fn without_body(mut self, why: &NoBody) -> Response<AnswerBody> {
        match why {
            NoBody::Late => self.underway.over(),
            NoBody::Gone => {
                self.underway.code = Some(Code::Cancelled);
                let message = "the request ended before its body did".to_owned();
                status(ErrorKind::Cancelled, message).into_http()
            }
        }
    }

    async fn turn(&self) -> Result<Admitted, Refusal> {
        let admission = &self.edge.admission;
        let asked = Asked {
            class: self.underway.rpc.class(),
            caller: self.id,
            since: Instant::now(),
            deadline: self.underway.deadline,
        };
        admission.turn(asked).await
    }
}

/// Why a request has no body.
enum NoBody {
    /// Its deadline came first.
    Late,
    /// The caller went away.
    Gone,
}

/// Health and reflection, which are not Granary's own.
fn is_beside(path: &str) -> bool {
    let service = path.split('/').nth(1);
    [tonic_health::pb::health_server::SERVICE_NAME, REFLECTION]
        .map(Some)
        .contains(&service)
}

fn refuse(refusal: Refusal, mut underway: Underway) -> Response<AnswerBody> {
    // Made beforehand: there may be more refusals than answers.
    static MADE: LazyLock<[(Code, HeaderMap); Refusal::ALL.len()]> = LazyLock::new(|| {
        Refusal::ALL.map(|refusal| {
            let refused = refusal.status();
            let (head, ()) = refused.clone().into_http::<()>().into_parts();
            (refused.code(), head.headers)
        })
    });
    let (code, headers) = &MADE[refusal as usize];
    underway.code = Some(*code);
    let mut refused = Response::new(AnswerBody::Nothing);
    *refused.headers_mut() = headers.clone();
    refused
}

/// Awaits the answer up to the deadline. A panic is a bug of one request and
/// must not take its connection, with other requests, along.
///
/// The answer is pinned before: what wraps it moves a pointer.
async fn finish(
    answer: impl Future<Output = Answered> + Unpin,
    mut underway: Underway,
    admitted: Admitted,
) -> Answered {
    let answer = AssertUnwindSafe(admitted.run(answer)).catch_unwind();
    let response = match timeout_at(underway.deadline, answer).await {
        Ok(Ok(answered)) => answered?,
        Ok(Err(_)) => panicked().into_http(),
        Err(_) => return Ok(underway.over()),
    };
    underway.code = Some(code_of(&response));
    Ok(response)
}

/// What a request is answered whose handling panicked.
pub(crate) fn panicked() -> Status {
    let message = "a bug of the server; its log tells where";
    status(ErrorKind::Internal, message.to_owned())
}

/// An answer that is an error says so in its headers; one that is a message, or
/// the beginning of a stream, is OK so far.
fn code_of(response: &Response<AnswerBody>) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

/// The `grpc-timeout` header: up to eight digits and a unit.
fn asked_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A request that is being answered; counted when it ends, however it ends.
#[derive(Debug)]
struct Underway {
    metrics: Arc<Metrics>,
    rpc: Rpc,
    started: Instant,
    deadline: Instant,
    /// `None` while there is no answer: the caller may still go away.
    code: Option<Code>,
}

impl Underway {
    fn new(metrics: &Arc<Metrics>, rpc: Rpc, started: Instant, deadline: Instant) -> Self {
        metrics.in_flight.inc();
        Self {
            metrics: Arc::clone(metrics),
            rpc,
            started,
            deadline,
            code: None,
        }
    }
}

impl Underway {
    /// What it is answered when it took too long.
    fn over(mut self) -> Response<AnswerBody> {
        let allowed = self.deadline.duration_since(self.started);
        let message = format!("no answer within {allowed:?}");
        self.code = Some(Code::DeadlineExceeded);
        status(ErrorKind::DeadlineExceeded, message).into_http()
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let now = Instant::now();
        let gone = if now >= self.deadline {
            Code::DeadlineExceeded
        } else {
            Code::Cancelled
        };
        let seconds = now.duration_since(self.started).as_secs_f64();
        self.metrics.in_flight.dec();
        self.metrics
            .request(self.rpc, self.code.unwrap_or(gone), seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        for (text, expected) in [
            ("100m", Some(Duration::from_millis(100))),
            ("2S", Some(Duration::from_secs(2))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("5u", Some(Duration::from_micros(5))),
            ("7n", Some(Duration::from_nanos(7))),
            ("1M", Some(Duration::from_secs(60))),
            ("123456789m", None),
            ("m", None),
            ("", None),
            ("-1S", None),
            ("1x", None),
            ("1é", None),
        ] {
            let mut headers = HeaderMap::new();
            if let Ok(value) = text.parse() {
                headers.insert("grpc-timeout", value);
            }
            assert_eq!(asked_timeout(&headers), expected, "{text}");
        }
    }
}
