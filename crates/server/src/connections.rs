//! Connections: what accepts them, and speaks HTTP/2 on each.
//!
//! It is hyper that does, as it does in tonic's own server, and tonic's services are
//! behind it. Two things are done here that tonic's server leaves to chance, because
//! they take as much of a core as a small read:
//!
//! - the reads that came in one turn of a connection are answered there, and not by a
//!   task of their own each, unless one waits for something, or another core has nothing
//!   to do ([`Here`]);
//! - what a connection writes in one turn goes out in one system call, where HTTP/2's
//!   frames would take two an answer ([`gathered`]).

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use crate::admission::{Admission, CallerId, ConnectionTurn};
use crate::edge::{Edge, EdgeOf};
use crate::unread::UnreadHere;
use crate::work::{Polled, Work, poll_here};

mod gathered;

use gathered::{Gathered, Gathering};

/// What a stream may have under way before it waits for the reader: a large
/// answer fits, a slow reader does not hold more.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// What every HTTP/2 connection begins with.
const PREFACE_BYTES: u64 = 24;
/// How long that may take.
const PREFACE_WITHIN: Duration = Duration::from_secs(10);
/// Requests of a connection that are under way at a time; more wait at the client.
/// Who floods has so many before those of others, on each of its connections.
const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// Connections whose peer is gone are noticed within two of these.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// After so long no more is read in a turn, so that the answers go out, and other
/// connections have theirs.
const TURN: Duration = Duration::from_micros(500);
/// The same for a turn that begins while requests wait and it matters whose are next, and
/// how much is read before the time is looked at. Who floods holds up what others ask for
/// by so much, or by what so many bytes ask for, not by all it sends.
const SHORT_TURN: Duration = Duration::from_micros(50);
const SHORT_TURN_BYTES: usize = 1 << 10;
/// Less than this is what HTTP/2 says by itself to one who takes nothing.
const HARDLY_BYTES: u64 = 4 << 10;
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

type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
        // All that a connection may have: callers give up together, after a pause.
        .max_pending_accept_reset_streams(STREAMS_PER_CONNECTION_MAX as usize)
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
                    sleep(ACCEPT_AGAIN).await;
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
        let edge = Arc::clone(&self.edge);
        // Each is looked at with every turn: not all at the same one.
        let closing = self.closing.child_token();
        self.tasks.spawn(async move {
            if let Err(error) = serve_on(socket, &edge, &closing).await {
                debug!(?error, "a connection failed");
            }
        });
    }
}

/// Serves a connection until it ends, or takes no answer for much longer than a request may
/// take.
async fn serve_on(
    socket: TcpStream,
    edge: &Arc<Edge>,
    closing: &CancellationToken,
) -> Result<(), BoxError> {
    let spot = Arc::<Spot>::default();
    let here = Here {
        admission: Arc::clone(&edge.admission),
        spot: Arc::clone(&spot),
    };
    let unread = edge.unread.of_connection();
    let patience = edge.settings.request_time_max() * 2;
    let connected = socket.connect_info();
    let peer = connected.remote_addr();
    let edge = EdgeOf::new(edge, connected, Arc::clone(&unread), spot);
    let (gathered, gathering) = gathered::split(socket);
    let has_begun = || gathering.came() >= PREFACE_BYTES;
    let mut connection = pin!(Connection {
        http2: http2(here.clone()).serve_connection(TokioIo::new(gathered), edge),
        gathering: gathering.clone(),
        here,
        held: None,
    });
    let served = async {
        // HTTP/2 itself would wait for ever for a peer to begin.
        let at_first = timeout(PREFACE_WITHIN, connection.as_mut());
        let mut ended = closing.run_until_cancelled(at_first).await;
        if let Some(Err(late)) = ended {
            if !has_begun() {
                return Err(late.into());
            }
            ended = closing
                .run_until_cancelled(connection.as_mut())
                .await
                .map(Ok);
        }
        match ended {
            Some(ended) => ended?,
            None if has_begun() => {
                connection.as_mut().close();
                connection.await
            }
            // Who has asked for nothing waits for nothing.
            None => Ok(()),
        }
    };
    tokio::select! {
        biased;
        ended = served => ended,
        () = not_taken(&unread, &gathering, patience) => {
            warn!(?peer, "a connection is closed whose answers are not taken");
            Ok(())
        }
    }
}

/// Ends when some of a connection's answers have waited for so long, or twice as long,
/// and hardly anything went out meanwhile.
async fn not_taken(unread: &UnreadHere, gathering: &Gathering, patience: Duration) {
    let look = || (unread.emptied(), gathering.went());
    let mut before = look();
    loop {
        sleep(patience).await;
        let now = look();
        let is_same = now.0.is_some() && now.0 == before.0;
        if is_same && now.1 - before.1 < HARDLY_BYTES {
            return;
        }
        before = now;
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
    /// Wakes it when its caller's connections may read again.
    held: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Takes no more requests, and ends with those under way.
    fn close(self: Pin<&mut Self>) {
        Pin::new(&mut self.get_mut().http2).graceful_shutdown();
    }

    /// The next turn comes when the others had theirs.
    fn read_later(&mut self, turn: ConnectionTurn, context: &mut Context<'_>) {
        self.held = match turn {
            ConnectionTurn::Held(until) => Some(Box::pin(sleep_until(until))),
            _ => None,
        };
        let held = self.held.as_mut();
        if held.is_none_or(|held| held.as_mut().poll(context).is_ready()) {
            context.waker().wake_by_ref();
        }
    }
}

impl Future for Connection {
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let caller = this.here.spot.caller();
        let turn = this.here.admission.connection_turn(caller);
        let (length, at_a_time) = match turn {
            ConnectionTurn::Long => (TURN, usize::MAX),
            ConnectionTurn::Short => (SHORT_TURN, SHORT_TURN_BYTES),
            ConnectionTurn::Held(_) => (Duration::ZERO, 0),
        };
        let began = Instant::now();
        this.gathering.let_read(at_a_time);
        let mut is_over = at_a_time == 0;
        let ended = loop {
            let ended = Pin::new(&mut this.http2).poll(context);
            let reads = this.here.spot.take_reads();
            // Part of a large request may have come, and there is more of it.
            let is_more = !is_over && this.gathering.is_cut();
            if ended.is_ready() || reads.is_empty() && !is_more {
                break ended;
            }
            this.here.answer(reads);
            // What was answered goes out, and more comes in the next turn.
            is_over = is_over || began.elapsed() > length;
            this.gathering.let_read(if is_over { 0 } else { at_a_time });
        };
        if let (ConnectionTurn::Short, Some(caller)) = (turn, caller) {
            this.here.admission.took_turn(caller, began.elapsed());
        }
        if this.gathering.is_cut() {
            this.read_later(turn, context);
        }
        // Pending or not: what is left waits for the socket, and wakes this task.
        if let Poll::Ready(Err(error)) = this.gathering.poll_write_out(context) {
            return Poll::Ready(Err(error.into()));
        }
        ready!(ended)?;
        Poll::Ready(Ok(()))
    }
}

/// Answers the requests of one connection.
#[derive(Debug, Clone)]
struct Here {
    admission: Arc<Admission>,
    spot: Arc<Spot>,
}

/// What a connection and its requests tell each other. It is one task's; behind a lock
/// nobody waits for, since that goes from thread to thread.
#[derive(Default)]
pub(crate) struct Spot {
    /// Whose the last request was.
    caller: Mutex<Option<CallerId>>,
    /// Whether the request that is about to be executed is a read.
    is_read: AtomicBool,
    /// What came in this turn.
    reads: Mutex<Vec<Work>>,
}

impl fmt::Debug for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spot").finish_non_exhaustive()
    }
}

impl Spot {
    /// Said of a request before it is executed.
    pub fn next_is_of(&self, caller: CallerId) {
        *self.last_caller() = Some(caller);
    }

    /// The same.
    pub fn next_is_read(&self) {
        self.is_read.store(true, Ordering::Relaxed);
    }

    fn caller(&self) -> Option<CallerId> {
        *self.last_caller()
    }

    fn last_caller(&self) -> MutexGuard<'_, Option<CallerId>> {
        self.caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reads(&self) -> MutexGuard<'_, Vec<Work>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_reads(&self) -> Vec<Work> {
        std::mem::take(&mut *self.reads())
    }
}

impl Here {
    /// Reads on the spot, but for those that a core can begin with at once that has
    /// nothing to do.
    fn answer(&self, reads: Vec<Work>) {
        let mut others = reads.len();
        let mut idle = self.admission.idle_cores();
        for mut read in reads {
            others -= 1;
            if idle > 0 && others > 0 {
                idle -= 1;
                tokio::spawn(read);
                continue;
            }
            match poll_here(&mut read) {
                Polled::Done => {}
                Polled::Queued(place) => self.admission.hold(place, read),
                Polled::Waits => drop(tokio::spawn(read)),
            }
            idle = self.admission.idle_cores();
        }
    }
}

impl<F> Executor<F> for Here
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, answer: F) {
        match self.spot.is_read.swap(false, Ordering::Relaxed) {
            true => self.spot.reads().push(Box::pin(answer)),
            false => drop(tokio::spawn(answer)),
        }
    }
}
