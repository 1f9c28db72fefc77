//! The edge: one tower layer that makes the caller, asks for admission, keeps
//! the deadline of requests and counts them. Health and reflection pass
//! untouched, so that they answer under any load. Behind it a request goes to the
//! router, or, a read, the short way (`short.rs`).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use granary_model::{Caller, ErrorKind};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::admission::{Admission, Admitted, Asked, Refusal, Turn};
use crate::features::FeaturesRpc;
use crate::metrics::{Metrics, Rpc};
use crate::settings::ServerSettings;
use crate::status::status;

/// The header in which a client names itself.
pub(crate) const CLIENT_HEADER: &str = "granary-client";
/// Longer names are cut.
const CLIENT_NAME_CHARS_MAX: usize = 200;

/// Wraps the whole gRPC router.
#[derive(Debug, Clone)]
pub(crate) struct EdgeLayer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    settings: Arc<ServerSettings>,
    metrics: Arc<Metrics>,
    admission: Arc<Admission>,
    features: Arc<FeaturesRpc>,
}

impl EdgeLayer {
    pub fn new(
        settings: Arc<ServerSettings>,
        metrics: Arc<Metrics>,
        admission: Arc<Admission>,
        features: Arc<FeaturesRpc>,
    ) -> Self {
        Self(Arc::new(Shared {
            settings,
            metrics,
            admission,
            features,
        }))
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, router: S) -> Edge<S> {
        Edge {
            router,
            shared: Arc::clone(&self.0),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Edge<S> {
    router: S,
    shared: Arc<Shared>,
}

/// What answers a request.
enum Route<S> {
    Read(Arc<FeaturesRpc>),
    Other(S),
}

impl<S> Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
{
    fn route(&mut self, rpc: Rpc) -> Route<S> {
        match rpc {
            Rpc::GetFeatures => Route::Read(Arc::clone(&self.shared.features)),
            _ => {
                // The one that said it was ready; the next call asks its clone.
                let next = self.router.clone();
                Route::Other(std::mem::replace(&mut self.router, next))
            }
        }
    }
}

impl<S> Route<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    async fn answer(
        self,
        mut request: Request<Body>,
        caller: Caller,
    ) -> Result<Response<Body>, S::Error> {
        match self {
            Self::Read(features) => Ok(features.answer_soon(request, caller).await),
            Self::Other(mut router) => {
                request.extensions_mut().insert(caller);
                router.call(request).await
            }
        }
    }
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.router.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(rpc) = Rpc::of(request.uri().path()) else {
            return Box::pin(self.router.call(request));
        };
        let shared = &self.shared;
        let allowed = shared.settings.request_time_max();
        let allowed = asked_timeout(request.headers()).map_or(allowed, |t| t.min(allowed));
        // Taken before anything is awaited, so that it ends no later than the
        // transport's own timer, which would call it CANCELLED.
        let started = Instant::now();
        let underway = Underway::new(&shared.metrics, rpc, started, started + allowed);
        let caller = caller(&request, &shared.settings);
        let asked = Asked {
            class: rpc.class(),
            caller: shared.admission.caller(&caller.name),
            since: started,
            deadline: underway.deadline,
        };
        let turn = match shared.admission.ask(asked) {
            Ok(turn) => turn,
            Err(refusal) => return Box::pin(async move { Ok(refuse(refusal, underway)) }),
        };
        let route = self.route(rpc);
        match turn {
            Turn::Now(admitted) => {
                Box::pin(finish(route.answer(request, caller), underway, admitted))
            }
            Turn::Later(ticket) => Box::pin(async move {
                match ticket.wait().await {
                    Ok(admitted) => finish(route.answer(request, caller), underway, admitted).await,
                    Err(refusal) => Ok(refuse(refusal, underway)),
                }
            }),
        }
    }
}

fn refuse(refusal: Refusal, mut underway: Underway) -> Response<Body> {
    let refused = refusal.status();
    underway.code = Some(refused.code());
    refused.into_http()
}

/// Awaits the answer up to the deadline. A panic is a bug of one request and
/// must not take its connection, with other requests, along.
async fn finish<E>(
    answer: impl Future<Output = Result<Response<Body>, E>>,
    mut underway: Underway,
    admitted: Admitted,
) -> Result<Response<Body>, E> {
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
fn code_of(response: &Response<Body>) -> Code {
    Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
}

fn caller(request: &Request<Body>, settings: &ServerSettings) -> Caller {
    let named = request.headers().get(CLIENT_HEADER);
    let named = named.and_then(|name| name.to_str().ok()).map(str::trim);
    let name: String = match named.filter(|name| !name.is_empty()) {
        Some(name) => name.chars().take(CLIENT_NAME_CHARS_MAX).collect(),
        None => {
            let peer = request.extensions().get::<TcpConnectInfo>();
            let address = peer.and_then(TcpConnectInfo::remote_addr);
            address.map_or_else(|| "unknown".to_owned(), |a| a.ip().to_string())
        }
    };
    let roles = settings.roles.get(&name).cloned().unwrap_or_default();
    Caller { name, roles }
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
