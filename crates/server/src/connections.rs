//! Connections: what accepts them, and speaks HTTP/2 on each.
//!
//! It is hyper that does, as it does in tonic's own server, and tonic's services are
//! behind it. Two things are done here that tonic's server leaves to chance, because
//! they take as much of a core as a small read:
//!
//! - a read is answered where its connection was read, and not by a task of its own,
//!   unless it waits for something, another core has nothing to do, or the connection
//!   has had its turn ([`Here`]);
//! - what a connection writes in one turn goes out in one system call, where HTTP/2's
//!   frames would take two an answer ([`gathered`]).

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, error, warn};

use crate::admission::Admission;
use crate::edge::{Edge, EdgeOf};

mod gathered;

use gathered::{Gathered, Gathering};

/// What a stream may have under way before it waits for the reader: a large
/// answer fits, a slow reader does not hold more.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Requests of a connection that are under way at a time; more wait at the client.
/// Who floods has so many before those of others, on each of its connections.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Connections whose peer is gone are noticed within two of these.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// While requests wait to begin, a connection is read so far at a time: some tens of
/// them. Who floods holds up what others ask for by so much, not by all it sends.
const TURN_BYTES: usize = 4 << 10;
/// After so long the rest of a turn's requests have tasks of their own, so that the
/// answers to the first go out, and other connections have their turn.
const TURN: Duration = Duration::from_micros(500);
/// After a connection could not be accepted for want of something, a file
/// descriptor most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// tonic's own server, with the settings that Granary serves with.
pub fn transport() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
}

/// All connections of a server.
#[derive(Debug)]
pub(crate) struct Connections {
    edge: Arc<Edge>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

/// HTTP/2 as Granary serves it.
fn http2(here: Here) -> http2::Builder<Here> {
    let mut http2 = http2::Builder::new(here);
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .keep_alive_interval(Some(KEEPALIVE))
        // hyper's bound is one for all of a connection's life, and each answer before
        // the end of its request may count towards it.
        .max_local_error_reset_streams(None)
        // No gRPC client looks at it.
        .auto_date_header(false);
    http2
}

impl Connections {
    pub fn new(edge: Edge, closing: CancellationToken) -> Self {
        Self {
            edge: Arc::new(edge),
            closing,
            tasks: TaskTracker::new(),
        }
    }

    /// Accepts connections until the server closes, then waits for those that are
    /// open: each ends with the requests that it has.
    pub async fn serve(self, listener: TcpListener) {
        while let Some(accepted) = self.closing.run_until_cancelled(listener.accept()).await {
            match accepted {
                Ok((socket, _)) => self.open(socket),
                // Gone before it was accepted.
                Err(error) if is_of_peer(&error) => {}
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        // Nobody else waits to be accepted in vain.
        drop(listener);
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn open(&self, socket: TcpStream) {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "a connection without nodelay");
        }
        let spot = Arc::<Spot>::default();
        let edge = EdgeOf::new(&self.edge, socket.connect_info(), Arc::clone(&spot));
        let here = Here {
            admission: Arc::clone(&self.edge.admission),
            spot,
        };
        let (gathered, gathering) = gathered::split(socket);
        let http2 = http2(here.clone());
        let connection = Connection {
            http2: http2.serve_connection(TokioIo::new(gathered), edge),
            gathering,
            here,
        };
        // Each is looked at with every turn: not all at the same one.
        let closing = self.closing.child_token();
        self.tasks.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = match closing.run_until_cancelled(connection.as_mut()).await {
                Some(ended) => ended,
                None => {
                    connection.as_mut().close();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(?error, "a connection failed");
            }
        });
    }
}

fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

/// A connection, which writes when it was polled what it gathered meanwhile.
struct Connection {
    http2: http2::Connection<TokioIo<Gathered>, EdgeOf, Here>,
    gathering: Gathering,
    here: Here,
}

impl Connection {
    /// Takes no more requests, and ends with those under way.
    fn close(self: Pin<&mut Self>) {
        Pin::new(&mut self.get_mut().http2).graceful_shutdown();
    }
}

impl Future for Connection {
    type Output = Result<(), Box<dyn std::error::Error + Send + Sync>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let others_wait = this.here.admission.waiting() > 0;
        let readable = if others_wait { TURN_BYTES } else { usize::MAX };
        this.gathering.let_read(readable);
        this.here.begin_turn();
        let ended = Pin::new(&mut this.http2).poll(context);
        // Pending or not: what is left waits for the socket, and wakes this task.
        if let Poll::Ready(Err(error)) = this.gathering.poll_write_out(context) {
            return Poll::Ready(Err(error.into()));
        }
        ready!(ended)?;
        Poll::Ready(Ok(()))
    }
}

/// Answers the requests of one connection, on the spot where that is well.
#[derive(Debug, Clone)]
struct Here {
    admission: Arc<Admission>,
    spot: Arc<Spot>,
}

/// What a connection and its requests tell each other. It is one task's; behind a lock
/// nobody waits for, since that goes from thread to thread.
#[derive(Debug)]
pub(crate) struct Spot {
    /// When the turn is over.
    until: Mutex<Instant>,
    /// Whether the request that is about to be answered takes little time.
    is_short: AtomicBool,
}

impl Default for Spot {
    fn default() -> Self {
        Self {
            until: Mutex::new(Instant::now()),
            is_short: AtomicBool::new(false),
        }
    }
}

impl Spot {
    /// Said of a request before it is answered.
    pub fn next_is_short(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }

    fn until(&self) -> MutexGuard<'_, Instant> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Here {
    fn begin_turn(&self) {
        *self.spot.until() = Instant::now() + TURN;
    }

    fn is_well(&self) -> bool {
        let is_short = self.spot.is_short.swap(false, Ordering::Relaxed);
        is_short && self.admission.is_busy() && Instant::now() < *self.spot.until()
    }
}

impl<F> Executor<F> for Here
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, answer: F) {
        if !self.is_well() {
            tokio::spawn(answer);
            return;
        }
        let mut answer = Box::pin(answer);
        // Whoever it waits for is told of its task when that polls it.
        let mut nobody = Context::from_waker(Waker::noop());
        // A panic is a bug of one request, and must not end the others.
        let polled = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(&mut nobody)));
        match polled {
            Ok(Poll::Pending) => drop(tokio::spawn(answer)),
            Ok(Poll::Ready(())) => {}
            Err(_) => error!("a request panicked, a bug; its stream is reset"),
        }
    }
}
