//! A socket that gathers what is written to it.
//!
//! HTTP/2 writes the head of an answer with its first data, each further frame of data,
//! and the trailers by themselves, and asks for all of it to be flushed every time: it
//! cannot know whether more comes. Who polls the connection does: nothing more, before
//! the next time. A system call takes some microseconds, more than to copy what it
//! writes.
//!
//! And one that reads no more in one turn than it is told, where others wait for theirs.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Before more than so much is held, what there is goes out: four frames of data, and the
/// heads and trailers of answers.
const GATHERED_BYTES_MAX: usize = 72 << 10;

/// The socket, as HTTP/2 has it.
#[derive(Debug)]
pub(super) struct Gathered {
    read: OwnedReadHalf,
    out: Gathering,
}

/// The same, as who polls the connection has it.
#[derive(Debug, Clone)]
pub(super) struct Gathering(Arc<Mutex<Out>>);

#[derive(Debug)]
struct Out {
    socket: OwnedWriteHalf,
    /// What may still be read in this turn.
    readable: usize,
    /// Whether more was to be read than that.
    is_cut: bool,
    /// All that was read.
    came: u64,
    /// All that was written.
    went: u64,
    /// Has memory while there is something in it: a connection that does nothing
    /// takes none.
    waiting: BytesMut,
}

pub(super) fn split(socket: TcpStream) -> (Gathered, Gathering) {
    let (read, socket) = socket.into_split();
    let out = Out {
        socket,
        readable: 0,
        is_cut: false,
        came: 0,
        went: 0,
        waiting: BytesMut::new(),
    };
    let out = Gathering(Arc::new(Mutex::new(out)));
    let gathered = Gathered {
        read,
        out: out.clone(),
    };
    (gathered, out)
}

impl Gathering {
    /// Lets so many bytes be read until this is called again. Nobody is woken when that
    /// is more than before.
    pub fn let_read(&self, bytes: usize) {
        let mut out = self.out();
        out.readable = bytes;
        out.is_cut = false;
    }

    /// Whether more would have been read.
    pub fn is_cut(&self) -> bool {
        self.out().is_cut
    }

    /// How much has come from the peer.
    pub fn came(&self) -> u64 {
        self.out().came
    }

    /// How much has gone to the peer.
    pub fn went(&self) -> u64 {
        self.out().went
    }

    /// Writes what was gathered.
    pub fn poll_write_out(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.out().poll_write_out(context)
    }

    /// Nobody else waits for it: both ends are of one task.
    fn out(&self) -> MutexGuard<'_, Out> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out {
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let socket = Pin::new(&mut self.socket);
            let written = ready!(socket.poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
            self.went += written as u64;
        }
        self.waiting = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    fn poll_gather(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting.len() + length > GATHERED_BYTES_MAX {
            ready!(self.poll_write_out(context))?;
        }
        if length > GATHERED_BYTES_MAX {
            let socket = Pin::new(&mut self.socket);
            let written = ready!(socket.poll_write_vectored(context, slices))?;
            self.went += written as u64;
            return Poll::Ready(Ok(written));
        }
        if self.waiting.is_empty() {
            self.waiting = BytesMut::with_capacity(GATHERED_BYTES_MAX);
        }
        for slice in slices {
            self.waiting.extend_from_slice(slice);
        }
        Poll::Ready(Ok(length))
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut out = this.out.out();
        let count = out.readable.min(into.remaining());
        if count == 0 && into.remaining() > 0 {
            out.is_cut = true;
            return Poll::Pending;
        }
        let mut part = ReadBuf::new(into.initialize_unfilled_to(count));
        ready!(Pin::new(&mut this.read).poll_read(context, &mut part))?;
        let count = part.filled().len();
        out.readable -= count;
        out.came += count as u64;
        into.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.out.out().poll_gather(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.out.out().poll_gather(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// When the connection was polled, which is about to be.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut out = self.out.out();
        ready!(out.poll_write_out(context))?;
        Pin::new(&mut out.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::IoSlice;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Gathered, Gathering, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (gathered, gathering) = split(accepted.unwrap().0);
        (gathered, gathering, client.unwrap())
    }

    #[tokio::test]
    async fn no_more_is_read_in_a_turn_than_may_be() {
        let (mut gathered, gathering, client) = pair().await;
        client.writable().await.unwrap();
        assert_eq!(client.try_write(b"one two").unwrap(), 7);
        let mut read = async |bytes| {
            gathering.let_read(bytes);
            let mut read = Vec::new();
            let reading = gathered.read_buf(&mut read);
            let read_in_time = tokio::time::timeout(std::time::Duration::from_millis(50), reading);
            read_in_time.await.is_ok().then_some(read)
        };
        assert_eq!(read(4).await.unwrap(), b"one ");
        assert!(!gathering.is_cut());
        assert_eq!(read(0).await, None);
        assert!(gathering.is_cut());
        assert_eq!(read(100).await.unwrap(), b"two");
        assert!(!gathering.is_cut());
        drop(client);
        assert_eq!(read(1).await.unwrap(), b"");
    }

    async fn write(gathered: &mut Gathered, slices: &[&[u8]]) -> usize {
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut gathered = Pin::new(gathered);
        let write = poll_fn(|context| gathered.as_mut().poll_write_vectored(context, &slices));
        write.await.unwrap()
    }

    async fn write_out(gathering: &Gathering) {
        let write_out = poll_fn(|context| gathering.poll_write_out(context));
        write_out.await.unwrap();
    }

    #[tokio::test]
    async fn writes_go_out_together_and_in_order() {
        let (mut gathered, gathering, mut client) = pair().await;
        assert_eq!(write(&mut gathered, &[b"head ", b"data "]).await, 10);
        poll_fn(|context| Pin::new(&mut gathered).poll_flush(context))
            .await
            .unwrap();
        assert_eq!(write(&mut gathered, &[b"trailers"]).await, 8);
        let mut read = [0; 64];
        let nothing = client.try_read(&mut read).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        write_out(&gathering).await;
        let count = client.read(&mut read).await.unwrap();
        assert_eq!(&read[..count], b"head data trailers");
    }

    #[tokio::test]
    async fn what_is_too_much_to_gather_goes_out_behind_what_was_gathered() {
        let (mut gathered, gathering, mut client) = pair().await;
        let large = vec![7; 3 * GATHERED_BYTES_MAX];
        write(&mut gathered, &[b"first"]).await;
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.map(|_| read)
        });
        let mut written = 0;
        while written < large.len() {
            written += write(&mut gathered, &[&large[written..]]).await;
        }
        write(&mut gathered, &[b"last"]).await;
        write_out(&gathering).await;
        drop((gathered, gathering));
        let read = reading.await.unwrap().unwrap();
        assert_eq!(read, [b"first", &large[..], b"last"].concat());
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_holds_the_writer_up() {
        let (mut gathered, gathering, mut client) = pair().await;
        let part = [1; 1_000];
        let mut written = 0;
        loop {
            let mut context = Context::from_waker(std::task::Waker::noop());
            match Pin::new(&mut gathered).poll_write(&mut context, &part) {
                Poll::Ready(count) => written += count.unwrap(),
                Poll::Pending => break,
            }
            let held = gathering.out().waiting.len();
            assert!(held <= GATHERED_BYTES_MAX, "{held}");
        }
        let reading = tokio::spawn(async move {
            let mut read = Vec::new();
            client.read_to_end(&mut read).await.map(|_| read)
        });
        write_out(&gathering).await;
        poll_fn(|context| Pin::new(&mut gathered).poll_shutdown(context))
            .await
            .unwrap();
        assert_eq!(reading.await.unwrap().unwrap().len(), written);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_error() {
        let (mut gathered, gathering, client) = pair().await;
        drop(client);
        let failed = loop {
            write(&mut gathered, &[b"anybody"]).await;
            let write_out = poll_fn(|context| gathering.poll_write_out(context));
            if let Err(failed) = write_out.await {
                break failed;
            }
            tokio::task::yield_now().await;
        };
        let kind = failed.kind();
        let gone = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        assert!(gone.contains(&kind), "{kind:?}");
    }
}
