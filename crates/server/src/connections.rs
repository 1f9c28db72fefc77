//! Connections: what accepts them, and speaks HTTP/2 on each.
//!
//! It is hyper that does, as it does in tonic's own server, and tonic's services are
//! behind it. Two things are done here that tonic's server leaves to chance, because
//! they take as much of a core as a small read:
//!
//! - a request is answered where its connection was read, and not by a task of its own,
//!   unless it waits for something or another core has nothing to do ([`Here`]);
//! - what a connection writes in one turn goes out in one system call, where HTTP/2's
//!   frames would take two an answer ([`gathered`]).

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

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
    http2: http2::Builder<Here>,
    closing: CancellationToken,
    open: TaskTracker,
}

impl Connections {
    pub fn new(edge: Edge, closing: CancellationToken) -> Self {
        let mut http2 = http2::Builder::new(Here(Arc::clone(&edge.admission)));
        http2
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .keep_alive_interval(Some(KEEPALIVE))
            // No gRPC client looks at it.
            .auto_date_header(false);
        Self {
            edge: Arc::new(edge),
            http2,
            closing,
            open: TaskTracker::new(),
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
        self.open.close();
        self.open.wait().await;
    }

    fn open(&self, socket: TcpStream) {
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "a connection without nodelay");
        }
        let edge = EdgeOf::new(&self.edge, socket.connect_info());
        let (gathered, gathering) = gathered::split(socket);
        let connection = Connection {
            http2: self.http2.serve_connection(TokioIo::new(gathered), edge),
            gathering,
            admission: Arc::clone(&self.edge.admission),
        };
        let closing = self.closing.clone();
        self.open.spawn(async move {
            let mut connection = std::pin::pin!(connection);
            let ended = match closing.run_until_cancelled(connection.as_mut()).await {
                Some(ended) => ended,
                None => {
                    connection.as_mut().close();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!(%error, "a connection failed");
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
    admission: Arc<Admission>,
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
        let others_wait = this.admission.waiting() > 0;
        let readable = if others_wait { TURN_BYTES } else { usize::MAX };
        this.gathering.let_read(readable);
        let ended = Pin::new(&mut this.http2).poll(context);
        // Pending or not: what is left waits for the socket, and wakes this task.
        if let Poll::Ready(Err(error)) = this.gathering.poll_write_out(context) {
            return Poll::Ready(Err(error.into()));
        }
        ready!(ended)?;
        Poll::Ready(Ok(()))
    }
}

/// Answers requests on the spot.
#[derive(Debug, Clone)]
struct Here(Arc<Admission>);

impl<F> Executor<F> for Here
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, answer: F) {
        if !self.0.is_busy() {
            tokio::spawn(answer);
            return;
        }
        let mut answer = Box::pin(answer);
        // Whoever it waits for is told of its task when that polls it.
        let mut nobody = Context::from_waker(Waker::noop());
        if answer.as_mut().poll(&mut nobody).is_pending() {
            tokio::spawn(answer);
        }
    }
}
