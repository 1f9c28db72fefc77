//! Work on a request that has no task of its own: whoever has it polls it, the
//! connection that it came on, or the queue where it waits for its turn. A task costs
//! as much as a small read.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tracing::error;

use crate::admission::Place;

pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What became of work that was polled on the spot.
#[derive(Debug)]
pub(crate) enum Polled {
    Done,
    /// It waits in the queue, which may have it.
    Queued(Place),
    /// It waits for something else, and needs a task, which hears when that is there.
    Waits,
}

#[derive(Debug, Clone, Copy)]
enum Poller {
    /// What is polled has a task, or a turn.
    Other,
    /// What is polled may say that it waits in the queue.
    Here(Option<Place>),
}

thread_local! {
    /// Between the one that polls and what is polled, which is of any type.
    static POLLER: Cell<Poller> = const { Cell::new(Poller::Other) };
}

/// Polls work once. Whoever it waits for is told of nobody, before a task polls it.
pub(crate) fn poll(work: &mut Work) -> Poll<()> {
    let mut nobody = Context::from_waker(Waker::noop());
    // A panic is a bug of one request, and must not end the others.
    let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut nobody)));
    polled.unwrap_or_else(|_| {
        error!("a request panicked, a bug; its stream is reset");
        Poll::Ready(())
    })
}

/// The same, by one who will leave work that waits for its turn to the queue.
pub(crate) fn poll_here(work: &mut Work) -> Polled {
    POLLER.set(Poller::Here(None));
    let polled = poll(work);
    match (polled, POLLER.replace(Poller::Other)) {
        (Poll::Ready(()), _) => Polled::Done,
        (Poll::Pending, Poller::Here(Some(place))) => Polled::Queued(place),
        (Poll::Pending, _) => Polled::Waits,
    }
}

/// Said by work before it waits for its turn.
pub(crate) fn waits_at(place: Place) {
    if let Poller::Here(_) = POLLER.get() {
        POLLER.set(Poller::Here(Some(place)));
    }
}

/// Asks for a task if there is none.
pub(crate) async fn leave_spot() {
    let mut is_here = matches!(POLLER.get(), Poller::Here(_));
    // Woken by nobody: a task begins with a poll.
    poll_fn(|_| match std::mem::take(&mut is_here) {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}
