//! Admission: which request is worked on next, and which is refused.
//!
//! Two things bound the work. A *slot* is held by a request that uses a core, and
//! there is one more than worker threads; it goes on to the next request as soon
//! as its holder waits for something else (a disk, a look-up, the rest of the
//! request) or ends. A *place* is held from a request's turn to its end, and there are
//! many.
//! So requests that wait for something slow leave the cores to others, and what
//! is not admitted is ordered here, not in the scheduler's queue, which is FIFO
//! and knows neither callers nor deadlines.
//!
//! Who finds both free goes ahead: one lock, no allocation. All others wait, in
//! the order of their coming within a caller, and callers take turns. They are
//! counted in requests, not in work, which is not known before a request was
//! read. A request that has waited past its deadline is dropped without work.
//!
//! A read by itself is moreover refused rather than answered late, and at once if
//! so many wait already that its turn would come too late, by how long reads have
//! held slots of late; but only once some have always waited for a while, since a
//! pause is no overload, or where reads were refused just now, since overload has
//! pauses too. A caller that has nothing waiting may wait all the same.
//! Where the queue is full, a caller with at least two fewer waiting than the one
//! with most takes the place of that one's newest request: it has lost the least
//! time, and the oldest is about to begin.
//!
//! Reads and pushes within streams wait as long as they may and are never
//! refused for want of room: there are no more of them than streams take ahead.
//!
//! The transport hands requests over one by one as the scheduler comes to them.
//! If each began then and there, one behind the other, they would wait in the
//! scheduler after all. So after half a millisecond of work slots are not passed
//! on before all workers' queues and the sockets were looked at
//! ([`Admission::look_around`]), or for as long again: by then most of what has come
//! stands in this queue. While there is but one caller, and no overload, it does not
//! matter who is next, and what came during a pause is done sooner with fewer looks.
//!
//! To read requests, and to refuse them, is work as well. Where some wait, all connections
//! of a caller have its share of the cores to do so, and what they do not come to stays in
//! their sockets ([`Admission::connection_turn`]).
//!
//! A read that waits does so in the queue itself ([`Admission::hold`]), and is polled
//! from there when its turn comes ([`Admission::work_off`]). With a task, a timer and a
//! wake of its own it would take twice as long as one that need not wait, and what is
//! left of a pause would never be worked off. Who has waited for long has a task after
//! all, which hears when its caller goes away; before, one that is gone keeps its room.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use granary_model::ErrorKind;
use tokio::sync::{Notify, oneshot};
use tokio::task::unconstrained;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::metrics::{AdmissionMetrics, Metrics};
use crate::settings::ServerSettings;
use crate::status::status;
use crate::work::{self, Work};

mod queue;
mod reading;

use queue::{Limits, Queue, Waiting};
use reading::Reading;

/// How soon who has waited for as long as it may is told.
const TICK: Duration = Duration::from_millis(1);
/// How soon it is noticed that somebody waits.
const IDLE_TICK: Duration = Duration::from_millis(10);
/// After so much work what is worked off lets others have their turn.
const WORK_AT_A_TIME: Duration = Duration::from_millis(1);
/// What was not polled for so long gets a task: who should have has a poll that lasts.
const STUCK: Duration = Duration::from_millis(3);
/// Who has waited for longer is more than a pause behind, and gets a task.
const LONG_WAIT: Duration = Duration::from_millis(20);

/// A caller in the queue: a hash of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CallerId(u64);

/// Where in the queue a request waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    caller: CallerId,
    number: u64,
}

/// What a request is to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// A read by itself: soon or not at all.
    Read,
    /// Any other request by itself.
    Call,
    /// A read within a stream.
    StreamedRead,
    /// A push within a stream: it waits for a disk, and takes a place but no
    /// slot. One that was given a slot might keep it for as long as the reader
    /// of its stream's answers does nothing.
    StreamedPush,
}

impl Class {
    fn takes_slot(self) -> bool {
        self != Self::StreamedPush
    }

    /// Whether the queue's bounds are for it.
    fn is_bounded(self) -> bool {
        matches!(self, Self::Read | Self::Call)
    }
}

/// A request that wants to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub class: Class,
    pub caller: CallerId,
    /// When it came: a read, when its body had.
    pub since: Instant,
    pub deadline: Instant,
}

/// Why a request is not worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The queue is full.
    Full,
    /// The caller's share of it is.
    CallerFull,
    /// Another caller with less in the queue took its place.
    Displaced,
    /// A read that has waited for too long.
    Late,
    /// The caller's own deadline is over.
    Deadline,
    /// The server ends.
    Closing,
    /// Too many answers wait to be taken, some of the connection's among them.
    Unread,
}

impl Refusal {
    pub const ALL: [Self; 7] = [
        Self::Full,
        Self::CallerFull,
        Self::Displaced,
        Self::Late,
        Self::Deadline,
        Self::Closing,
        Self::Unread,
    ];

    /// As metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::CallerFull => "caller_full",
            Self::Displaced => "displaced",
            Self::Late => "late",
            Self::Deadline => "deadline",
            Self::Closing => "closing",
            Self::Unread => "unread",
        }
    }

    pub fn status(self) -> Status {
        macro_rules! and_now {
            ($why:literal) => {
                concat!(
                    $why,
                    "; wait a little before trying again, or ask less at a time"
                )
            };
        }
        let message = match self {
            Self::Full => and_now!("the queue of requests is full"),
            Self::CallerFull => {
                and_now!("this caller's share of the queue of requests is full")
            }
            Self::Displaced => and_now!(
                "the queue of requests is full, and this caller has most of those that wait"
            ),
            Self::Late => {
                and_now!("the read waited in the queue of requests for as long as reads may")
            }
            Self::Unread => concat!(
                "too many answers wait to be read, some of this connection among them; ",
                "read those before trying again"
            ),
            Self::Deadline => {
                let message = "the deadline was over before the request's turn came";
                return status(ErrorKind::DeadlineExceeded, message.to_owned());
            }
            Self::Closing => {
                let message = "the server is shutting down; ask another, or again later";
                return status(ErrorKind::Unavailable, message.to_owned());
            }
        };
        status(ErrorKind::ResourceExhausted, message.to_owned())
    }
}

type Verdict = Result<Admitted, Refusal>;

#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    names: RandomState,
    metrics: Arc<Metrics>,
    queue: Mutex<Queue>,
    reading: Mutex<Reading>,
    /// Requests that hold a slot and work.
    running: AtomicUsize,
    /// Told when slots wait for [`Self::look_around`], or somebody begins to wait.
    look: Notify,
    /// What was held and is to be polled, for [`Self::work_off`].
    due: Mutex<Dues>,
    work: Notify,
}

/// Work that was held.
struct Due {
    work: Work,
    /// What it is still to hear.
    untold: Option<Untold>,
    /// When it was to be polled.
    since: Instant,
}

/// A verdict on its way.
#[derive(Debug)]
struct Untold {
    teller: oneshot::Sender<Verdict>,
    verdict: Verdict,
    deadline: Instant,
}

/// What is to be polled, in the order of its coming.
#[derive(Debug, Default)]
struct Dues {
    /// What may begin, and holds slots.
    begins: VecDeque<Due>,
    /// What is to be told that it may not.
    refused: VecDeque<Due>,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut told = f.debug_struct("Due");
        told.field("untold", &self.untold);
        told.finish_non_exhaustive()
    }
}

/// What a request got that asked.
#[derive(Debug)]
pub(crate) enum Turn {
    Now(Admitted),
    Later(Ticket),
}

/// How a connection is to read what its peer sends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ConnectionTurn {
    Long,
    /// Requests wait, and it matters whose are next.
    Short,
    /// Not before then: its caller's connections have had their share.
    Held(Instant),
}

impl Admission {
    /// `workers`: how many requests can use a core at a time.
    pub fn new(settings: &ServerSettings, workers: usize, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            limits: Limits::of(settings, workers),
            names: RandomState::new(),
            metrics,
            queue: Mutex::default(),
            reading: Mutex::new(Reading::new(settings, workers)),
            running: AtomicUsize::new(0),
            look: Notify::new(),
            due: Mutex::default(),
            work: Notify::new(),
        })
    }

    pub fn caller(&self, name: &str) -> CallerId {
        CallerId(self.names.hash_one(name))
    }

    /// Passes slots on when everything that could be polled was; for as long as
    /// the server runs.
    pub async fn look_around(self: Arc<Self>) {
        loop {
            self.look.notified().await;
            // The first lets all go ahead that are ready, the second those that
            // the sockets had something for.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            self.looked();
        }
    }

    /// Tells who has waited for too long, and helps on what stands still; for as long as
    /// the server runs. A task that only its timer wakes: one that is told of something
    /// in the middle of a long poll may have to wait for the end of that.
    pub async fn tick(self: Arc<Self>) {
        loop {
            let is_idle = self.waiting() == 0 && self.due().is_empty();
            tokio::time::sleep(if is_idle { IDLE_TICK } else { TICK }).await;
            self.tick_at(Instant::now());
        }
    }

    /// Has those leave the queue who have waited for too long, and those have tasks who
    /// have waited for long, or whose turn has come and who are not polled.
    fn tick_at(self: &Arc<Self>, now: Instant) {
        let ago = |time: Duration| now.checked_sub(time);
        let mut queue = self.queue();
        let over = queue.take_over(now);
        let long = ago(LONG_WAIT).map(|since| queue.work_since(since));
        drop(queue);
        long.into_iter().flatten().for_each(spawn);
        let is_any = !over.is_empty();
        for (waiting, refusal) in over {
            self.deliver(waiting, Err(refusal));
        }
        if is_any {
            // Who waited behind them may begin.
            self.change(|_| ());
        }
        let stuck = ago(STUCK).map(|since| self.due().take_since(since));
        for due in stuck.into_iter().flatten() {
            due.spawn();
        }
    }

    /// Polls what was held in the queue and has its verdict; for as long as the server
    /// runs, once for each worker thread.
    pub async fn work_off(self: Arc<Self>) {
        loop {
            self.work.notified().await;
            let mut began = Instant::now();
            while let Some(due) = self.next_due() {
                due.begin();
                // Not even by refusals, which need no slot.
                if began.elapsed() > WORK_AT_A_TIME {
                    tokio::task::yield_now().await;
                    began = Instant::now();
                }
            }
        }
    }

    fn due(&self) -> MutexGuard<'_, Dues> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_due(&self) -> Option<Due> {
        let mut dues = self.due();
        let next = dues.next();
        let is_more = !dues.is_empty();
        drop(dues);
        if is_more {
            // Two that are told at once may be told once.
            self.work.notify_one();
        }
        next
    }

    /// Leaves work that waits for its turn to the queue.
    pub fn hold(&self, place: Place, work: Work) {
        let held = self.queue().hold(place, work);
        if let Err(work) = held {
            // Its turn came meanwhile, and it was told so.
            self.add_due(Due {
                work,
                untold: None,
                since: Instant::now(),
            });
        }
    }

    fn add_due(&self, due: Due) {
        self.due().add(due);
        self.work.notify_one();
    }

    /// Drops what still waits, and lets nothing wait any more: work that is held holds
    /// this queue.
    fn close(&self) {
        let mut queue = self.queue();
        queue.close();
        let waiting = queue.take_all();
        drop(queue);
        for waiting in waiting {
            self.deliver(waiting, Err(Refusal::Closing));
        }
        let due = std::mem::take(&mut *self.due());
        drop(due);
    }

    /// Everything that has come stands in the queue.
    fn looked(self: &Arc<Self>) {
        self.change(Queue::looked);
    }

    /// Lets a request begin or wait.
    pub fn ask(self: &Arc<Self>, asked: Asked) -> Result<Turn, Refusal> {
        let refused = |refusal| {
            self.counts().refused(refusal);
            refusal
        };
        if asked.deadline <= asked.since {
            return Err(refused(Refusal::Deadline));
        }
        let mut queue = self.queue();
        if queue.admit(asked, &self.limits) {
            drop(queue);
            return Ok(Turn::Now(self.admitted(asked)));
        }
        let outcome = queue.wait(asked, &self.limits);
        self.counts().waiting.add(i64::from(outcome.is_ok()));
        let looks_long = queue.looks_long(asked.since);
        drop(queue);
        if looks_long {
            self.looked();
        }
        let (ticket, displaced) = outcome.map_err(refused)?;
        if let Some(displaced) = displaced {
            self.deliver(displaced, Err(Refusal::Displaced));
        }
        Ok(Turn::Later(Ticket {
            admission: Arc::clone(self),
            place: ticket.place,
            verdict: ticket.verdict,
        }))
    }

    /// The same, and waits.
    pub async fn turn(self: &Arc<Self>, asked: Asked) -> Verdict {
        match self.ask(asked)? {
            Turn::Now(admitted) => Ok(admitted),
            Turn::Later(ticket) => {
                work::waits_at(ticket.place);
                ticket.wait().await
            }
        }
    }

    /// Changes the queue, then lets all begin that may by now.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue();
        change(&mut queue);
        // Under one lock: nobody who comes now goes ahead of them.
        let mut due = Vec::new();
        while let Some(next) = queue.next(&self.limits) {
            due.push(next);
        }
        drop(queue);
        for (next, verdict) in due {
            let verdict = verdict.map(|()| self.admitted(next.asked));
            self.deliver(next, verdict);
        }
    }

    /// Not under the lock: a verdict that nobody waits for any more is dropped
    /// here, and gives back what it holds.
    fn deliver(&self, to: Waiting, verdict: Verdict) {
        self.counts().waiting.dec();
        match &verdict {
            Ok(_) => self.counts().waited(to.asked.since.elapsed()),
            Err(refusal) => self.counts().refused(*refusal),
        }
        match to.work {
            Some(work) => self.add_due(Due {
                work,
                untold: Some(Untold {
                    teller: to.verdict,
                    verdict,
                    deadline: to.asked.deadline,
                }),
                since: Instant::now(),
            }),
            None => drop(to.verdict.send(verdict)),
        }
    }

    fn admitted(self: &Arc<Self>, asked: Asked) -> Admitted {
        let has_slot = asked.class.takes_slot();
        if has_slot {
            self.running.fetch_add(1, Ordering::Relaxed);
            self.counts().running.inc();
        }
        Admitted {
            admission: Arc::clone(self),
            asked,
            has_slot,
            began: None,
        }
    }

    /// Cores beside the caller's that have no work, as far as can be told.
    pub fn idle_cores(&self) -> usize {
        let others = self.limits.cores - 1;
        others.saturating_sub(self.running.load(Ordering::Relaxed))
    }

    /// Requests that wait to begin.
    fn waiting(&self) -> usize {
        self.queue().waiting()
    }

    /// What turn a connection has whose last request was that caller's.
    pub fn connection_turn(&self, caller: Option<CallerId>) -> ConnectionTurn {
        let now = Instant::now();
        let queue = self.queue();
        if queue.waiting() == 0 || !queue.minds_turns(now) {
            return ConnectionTurn::Long;
        }
        let has_others = queue.has_others(now);
        drop(queue);
        let of_others = caller.filter(|_| has_others);
        let held = of_others.and_then(|caller| self.reading().held_until(caller, now));
        held.map_or(ConnectionTurn::Short, ConnectionTurn::Held)
    }

    /// Counts what a short one took.
    pub fn took_turn(&self, caller: CallerId, time: Duration) {
        self.reading().spend(caller, time, Instant::now());
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> &AdmissionMetrics {
        &self.metrics.admission
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request under way; gives back its slot and its place when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    asked: Asked,
    has_slot: bool,
    began: Option<Instant>,
}

impl Admitted {
    /// Works, and passes the slot on once the work waits for something.
    pub async fn run<F: Future>(mut self, work: F) -> F::Output {
        self.began = self.has_slot.then(Instant::now);
        let mut work = pin!(work);
        poll_fn(|context| {
            let polled = work.as_mut().poll(context);
            if polled.is_pending() && self.has_slot {
                self.give_back(false);
            }
            polled
        })
        .await
    }

    fn give_back(&mut self, place: bool) {
        let had_slot = std::mem::take(&mut self.has_slot);
        let now = Instant::now();
        let worked = self.began.filter(|_| had_slot).map(|began| now - began);
        if had_slot {
            self.admission.running.fetch_sub(1, Ordering::Relaxed);
            self.admission.counts().running.dec();
        }
        let admission = &self.admission;
        admission.change(|queue| {
            if let Some(worked) = worked
                && self.asked.class != Class::Read
            {
                queue.ran(worked);
            }
            if had_slot && queue.leave_slot(worked.unwrap_or_default(), now, &admission.limits) {
                admission.look.notify_one();
            }
            // The slot of a read that waited for something was not held to its end.
            if let (true, Class::Read, Some(worked)) = (place, self.asked.class, worked) {
                queue.remember(worked, now, &admission.limits);
            }
            if place {
                queue.leave_place(self.asked.caller, &admission.limits);
            }
        });
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.give_back(true);
    }
}

impl Due {
    /// Tells the work its verdict.
    fn tell(mut self) -> Option<Work> {
        let Some(untold) = self.untold else {
            return Some(self.work);
        };
        let verdict = match untold.verdict {
            // Not to be worked on any more.
            Ok(admitted) if untold.deadline <= Instant::now() => {
                admitted.admission.counts().refused(Refusal::Deadline);
                Err(Refusal::Deadline)
            }
            verdict => verdict,
        };
        // Before it hears that it may begin: whether its caller is still there.
        if verdict.is_ok() && work::poll(&mut self.work).is_ready() {
            return None;
        }
        drop(untold.teller.send(verdict));
        Some(self.work)
    }

    fn begin(self) {
        let Some(mut work) = self.tell() else {
            return;
        };
        if work::poll(&mut work).is_pending() {
            spawn(work);
        }
    }

    fn spawn(self) {
        self.tell().into_iter().for_each(spawn);
    }
}

fn spawn(work: Work) {
    tokio::spawn(work);
}

impl Dues {
    fn add(&mut self, due: Due) {
        let is_refused = due.untold.as_ref().is_some_and(|u| u.verdict.is_err());
        match is_refused {
            true => self.refused.push_back(due),
            false => self.begins.push_back(due),
        }
    }

    fn next(&mut self) -> Option<Due> {
        self.begins.pop_front().or_else(|| self.refused.pop_front())
    }

    fn is_empty(&self) -> bool {
        self.begins.is_empty() && self.refused.is_empty()
    }

    /// Takes what has been here since then.
    fn take_since(&mut self, since: Instant) -> Vec<Due> {
        let mut taken = Vec::new();
        for dues in [&mut self.begins, &mut self.refused] {
            let those = dues.iter().take_while(|due| due.since <= since).count();
            taken.extend(dues.drain(..those));
        }
        taken
    }
}

/// The tasks of a queue, which ends with them.
#[derive(Debug)]
pub(crate) struct Working {
    admission: Arc<Admission>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Working {
    /// Starts them on the runtime of the reads, which has so many workers.
    pub fn start(admission: &Arc<Admission>, workers: usize) -> Self {
        let queue = || Arc::clone(admission);
        let mut tasks = vec![
            tokio::spawn(queue().look_around()),
            tokio::spawn(queue().tick()),
        ];
        // Each verdict that is heard would count as something to be given way for.
        let working = (0..workers).map(|_| tokio::spawn(unconstrained(queue().work_off())));
        tasks.extend(working);
        Self {
            admission: queue(),
            _tasks: tasks.into_iter().map(AbortOnDropHandle::new).collect(),
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.admission.close();
    }
}

/// Waits for its turn; leaves the queue when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    place: Place,
    verdict: oneshot::Receiver<Verdict>,
}

impl Ticket {
    pub async fn wait(mut self) -> Verdict {
        let verdict = (&mut self.verdict).await;
        // The queue drops nobody without one.
        verdict.unwrap_or(Err(Refusal::Closing))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.admission.queue().leave(self.place) {
            self.admission.counts().waiting.dec();
            // Who waited behind it may begin.
            self.admission.change(|_| ());
        }
    }
}

#[cfg(test)]
mod tests;
