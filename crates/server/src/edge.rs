//! The edge: what a connection gives its requests to. It makes the caller, asks for
//! admission, keeps the deadline of requests and counts them. Health and reflection
//! pass untouched, so that they answer under any load. Behind it a request goes to
//! tonic's services, or, a read, the short way (`short.rs`).

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use granary_model::{Caller, ErrorKind};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::Service as HttpService;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::service::Routes;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::Service;

use crate::admission::{Admission, Admitted, Asked, Class, Refusal, Turn};
use crate::connections::Spot;
use crate::features::FeaturesRpc;
use crate::metrics::{Metrics, Rpc};
use crate::settings::ServerSettings;
use crate::short::AnswerBody;
use crate::status::status;

/// The header in which a client names itself.
pub(crate) const CLIENT_HEADER: &str = "granary-client";
/// A refused request's body is taken in up to there.
const TAKEN_IN_BYTES_MAX: usize = 64 << 10;
const TAKEN_IN_WITHIN: Duration = Duration::from_millis(100);
/// Longer names are cut.
const CLIENT_NAME_BYTES_MAX: usize = 200;

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Edge {
    pub settings: Arc<ServerSettings>,
    pub metrics: Arc<Metrics>,
    pub admission: Arc<Admission>,
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
    spot: Arc<Spot>,
}

/// What comes of a request: of whatever fails, an answer that says so.
type Answered = Result<Response<AnswerBody>, Infallible>;

/// What answers a request.
enum Route {
    Read(Arc<FeaturesRpc>),
    Other(Routed),
}

/// The services, as tonic has them.
struct Routed {
    routes: Routes,
    peer: TcpConnectInfo,
}

impl EdgeOf {
    pub fn new(edge: &Arc<Edge>, peer: TcpConnectInfo, spot: Arc<Spot>) -> Self {
        let address = peer.remote_addr();
        Self {
            edge: Arc::clone(edge),
            peer,
            address: address.map_or_else(|| "unknown".to_owned(), |a| a.ip().to_string()),
            spot,
        }
    }

    fn route(&self, rpc: Rpc) -> Route {
        match rpc {
            Rpc::GetFeatures => Route::Read(Arc::clone(&self.edge.features)),
            _ => Route::Other(self.routed()),
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

impl Route {
    async fn answer(self, mut request: Request<Incoming>, caller: Caller) -> Answered {
        match self {
            Self::Read(features) => Ok(features.answer_soon(request, caller).await),
            Self::Other(routed) => {
                request.extensions_mut().insert(caller);
                routed.answer(request).await
            }
        }
    }
}

impl Routed {
    async fn answer(mut self, mut request: Request<Incoming>) -> Answered {
        request.extensions_mut().insert(self.peer);
        let answer = self.routes.call(request.map(Body::new)).await?;
        Ok(answer.map(AnswerBody::Other))
    }
}

impl HttpService<Request<Incoming>> for EdgeOf {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    /// A refusal is there at once.
    type Future = Either<Ready<Answered>, BoxFuture<'static, Answered>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Some(rpc) = Rpc::of(request.uri().path()) else {
            return Either::Right(Box::pin(self.routed().answer(request)));
        };
        let edge = &self.edge;
        let allowed = edge.settings.request_time_max();
        let allowed = asked_timeout(request.headers()).map_or(allowed, |t| t.min(allowed));
        let started = Instant::now();
        let underway = Underway::new(&edge.metrics, rpc, started, started + allowed);
        let caller = self.caller(request.headers());
        let asked = Asked {
            class: rpc.class(),
            caller: edge.admission.caller(caller),
            since: started,
            deadline: underway.deadline,
        };
        let turn = match edge.admission.ask(asked) {
            Ok(turn) => turn,
            Err(refusal) => {
                let mut body = request.into_body();
                return match take_in(&mut body, asked.class).now_or_never() {
                    Some(()) => {
                        self.spot.next_is_short();
                        Either::Left(ready(Ok(refuse(refusal, underway))))
                    }
                    None => Either::Right(Box::pin(refuse_behind(body, refusal, underway))),
                };
            }
        };
        let caller = edge.known(caller);
        let route = self.route(rpc);
        Either::Right(match turn {
            Turn::Now(admitted) => {
                // Whatever else may wait in ways of its own.
                if rpc.class() == Class::Read {
                    self.spot.next_is_short();
                }
                Box::pin(finish(route.answer(request, caller), underway, admitted))
            }
            Turn::Later(ticket) => Box::pin(async move {
                match ticket.wait().await {
                    Ok(admitted) => finish(route.answer(request, caller), underway, admitted).await,
                    Err(refusal) => refuse_behind(request.into_body(), refusal, underway).await,
                }
            }),
        })
    }
}

/// Takes in a body that is on its way. An answer before its end resets the stream, and
/// what comes for it all the same is answered with another reset.
async fn take_in(body: &mut Incoming, class: Class) {
    if class != Class::Read {
        // Of a stream more may come for ever.
        return;
    }
    let mut left = TAKEN_IN_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(bytes) {
            Some(less) => left = less,
            None => return,
        }
    }
}

/// Refuses behind the body.
async fn refuse_behind(mut body: Incoming, refusal: Refusal, underway: Underway) -> Answered {
    // Who takes longer has a reset.
    let class = underway.rpc.class();
    let _ = tokio::time::timeout(TAKEN_IN_WITHIN, take_in(&mut body, class)).await;
    Ok(refuse(refusal, underway))
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
async fn finish(
    answer: impl Future<Output = Answered>,
    mut underway: Underway,
    admitted: Admitted,
) -> Answered {
    // What wraps it moves a pointer.
    let answer = pin!(answer);
    let answer = AssertUnwindSafe(admitted.run(answer)).catch_unwind();
    let response = match tokio::time::timeout_at(underway.deadline, answer).await {
        Ok(Ok(answered)) => answered?,
        Ok(Err(_)) => panicked().into_http(),
        Err(_) => {
            let allowed = underway.deadline.duration_since(underway.started);
            let message = format!("no answer within {allowed:?}");
            status(ErrorKind::DeadlineExceeded, message).into_http()
        }
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
