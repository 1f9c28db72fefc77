//! Turns, bounds, deadlines, and that nothing leaks; stepped through by hand, on a clock
//! that stands still meanwhile.

use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::poll;
use tokio::time::advance;
use tonic::Code;

use super::*;

/// One request has a slot at a time; reads wait for an hour.
fn admission(tune: impl FnOnce(&mut ServerSettings)) -> Arc<Admission> {
    let mut settings = ServerSettings {
        running_requests_max: 1,
        read_wait_millis_max: 3_600_000,
        caller_share_max: 1.0,
        ..ServerSettings::default()
    };
    tune(&mut settings);
    let metrics = Metrics::new(&[]).unwrap();
    Admission::new(&settings, 1, Arc::new(metrics))
}

fn asked(admission: &Admission, class: Class, caller: &str) -> Asked {
    let since = Instant::now();
    Asked {
        class,
        caller: admission.caller(caller),
        since,
        deadline: since + Duration::from_secs(3_600),
    }
}

fn ask(admission: &Arc<Admission>, class: Class, caller: &str) -> Result<Turn, Refusal> {
    admission.ask(asked(admission, class, caller))
}

fn now(admission: &Arc<Admission>, caller: &str) -> Admitted {
    match ask(admission, Class::Read, caller) {
        Ok(Turn::Now(admitted)) => admitted,
        other => panic!("{other:?}"),
    }
}

type Waits = Pin<Box<dyn Future<Output = Result<Admitted, Refusal>>>>;

fn later(admission: &Arc<Admission>, class: Class, caller: &str) -> Waits {
    match ask(admission, class, caller) {
        Ok(Turn::Later(ticket)) => Box::pin(ticket.wait()),
        other => panic!("{other:?}"),
    }
}

fn refused(admission: &Arc<Admission>, class: Class, caller: &str) -> Refusal {
    match ask(admission, class, caller) {
        Err(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

/// The numbers of those that were refused and of those that began, in the order
/// in which they began, each ended at once.
fn run_out(admission: &Admission, first: Admitted, waits: Vec<Waits>) -> (Vec<usize>, Vec<usize>) {
    let mut waits: Vec<Option<Waits>> = waits.into_iter().map(Some).collect();
    let (mut refused, mut began) = (Vec::new(), Vec::new());
    let mut running = Some(first);
    while let Some(ended) = running.take() {
        drop(ended);
        for (number, place) in waits.iter_mut().enumerate() {
            let verdict = place.as_mut().and_then(FutureExt::now_or_never);
            match verdict {
                Some(Ok(admitted)) => {
                    assert!(running.is_none(), "two at a time");
                    began.push(number);
                    running = Some(admitted);
                }
                Some(Err(_)) => refused.push(number),
                None => continue,
            }
            *place = None;
        }
    }
    assert!(waits.iter().all(Option::is_none), "some wait for ever");
    assert!(admission.queue().is_idle());
    (refused, began)
}

#[tokio::test(start_paused = true)]
async fn callers_take_turns_however_many_requests_they_have() {
    let admission = admission(|_| {});
    let first = now(&admission, "flooder");
    let mut waits = Vec::new();
    for caller in ["flooder", "flooder", "flooder", "flooder", "calm", "calm"] {
        waits.push(later(&admission, Class::Read, caller));
    }
    waits.push(later(&admission, Class::Call, "third"));
    let (refused, began) = run_out(&admission, first, waits);
    assert_eq!(began, [0, 4, 6, 1, 5, 2, 3]);
    assert!(refused.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_takes_from_who_has_most_in_it() {
    let admission = admission(|settings| settings.waiting_requests_max = 4);
    let first = now(&admission, "flooder");
    let mut waits: Vec<_> = (0..4)
        .map(|_| later(&admission, Class::Read, "flooder"))
        .collect();
    let refusal = refused(&admission, Class::Read, "flooder");
    assert_eq!(refusal, Refusal::CallerFull);
    // The newest of the flooder's goes, and then it has as many but one.
    waits.push(later(&admission, Class::Read, "calm"));
    assert_eq!(refused(&admission, Class::Read, "flooder"), Refusal::Full);
    waits.push(later(&admission, Class::Read, "calm"));
    assert_eq!(refused(&admission, Class::Call, "calm"), Refusal::Full);
    let (refused, began) = run_out(&admission, first, waits);
    assert_eq!(refused, [2, 3]);
    assert_eq!(began, [0, 4, 1, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_has_its_share_of_the_queue_and_of_what_is_under_way() {
    let admission = admission(|settings| {
        settings.waiting_requests_max = 4;
        settings.concurrent_requests_max = 2;
        settings.caller_share_max = 0.5;
    });
    // It waits for something, so that the slot is free.
    let mut slow = Box::pin(now(&admission, "a").run(pending::<()>()));
    assert!(poll!(&mut slow).is_pending());
    let mut second = later(&admission, Class::Read, "a");
    let third = later(&admission, Class::Call, "a");
    assert_eq!(refused(&admission, Class::Read, "a"), Refusal::CallerFull);
    let other = now(&admission, "b");
    assert!(poll!(&mut second).is_pending());
    drop(other);
    assert!(poll!(&mut second).is_pending());
    // Then its second has the place, and the third waits for that one.
    drop(slow);
    let (refused, began) = run_out(&admission, second.await.unwrap(), vec![third]);
    assert_eq!((refused, began), (vec![], vec![0]));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_something_leaves_its_slot_to_others() {
    let admission = admission(|_| {});
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut work = Box::pin(now(&admission, "slow").run(pending::<()>()));
        assert!(poll!(&mut work).is_pending());
        slow.push(work);
    }
    assert_eq!(admission.counts().running.get(), 0);
    let held = now(&admission, "quick");
    assert_eq!(admission.counts().running.get(), 1);
    drop((slow, held));
    assert!(admission.queue().is_idle());
}

#[tokio::test(start_paused = true)]
async fn pushes_of_streams_need_no_slot_and_are_never_refused() {
    let admission = admission(|settings| settings.waiting_requests_max = 0);
    let held = now(&admission, "reads");
    assert!(matches!(
        ask(&admission, Class::StreamedPush, "pushes"),
        Ok(Turn::Now(_))
    ));
    assert_eq!(refused(&admission, Class::Read, "reads"), Refusal::Full);
    let waits = vec![later(&admission, Class::StreamedRead, "reads")];
    assert_eq!(run_out(&admission, held, waits).1, [0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_over_its_time_is_dropped_without_work() {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let hour = Duration::from_secs(3_600);
    let of = |class: Class, age: Duration, allowed: Duration| {
        let asked = asked(&admission, class, "old");
        Asked {
            since: asked.since - age,
            deadline: asked.since - age + allowed,
            ..asked
        }
    };
    let ticket = |asked| match admission.ask(asked) {
        Ok(Turn::Later(ticket)) => ticket,
        other => panic!("{other:?}"),
    };
    let first = now(&admission, "first");
    // The tick tells the one, its turn the other.
    let ticking = tokio::spawn(Arc::clone(&admission).tick());
    let told = ticket(of(Class::Read, hour, 2 * hour)).wait().await;
    assert_eq!(told.unwrap_err(), Refusal::Late);
    let told = ticket(of(Class::Call, hour, hour / 2)).wait().await;
    assert_eq!(told.unwrap_err(), Refusal::Deadline);
    ticking.abort();
    let late = ticket(of(Class::Read, hour, 2 * hour));
    let over = ticket(of(Class::StreamedRead, hour, hour / 2));
    let patient = ticket(of(Class::Call, hour, 2 * hour));
    drop(first);
    assert_eq!(late.wait().await.unwrap_err(), Refusal::Late);
    assert_eq!(over.wait().await.unwrap_err(), Refusal::Deadline);
    assert!(patient.wait().await.is_ok());
    assert!(admission.queue().is_idle());
}

#[tokio::test(start_paused = true)]
async fn nothing_leaks_when_whoever_waits_or_works_goes_away() {
    let admission = admission(|_| {});
    let first = now(&admission, "a");
    let mut waits = later(&admission, Class::Read, "a");
    assert!(poll!(&mut waits).is_pending());
    let never_polled = later(&admission, Class::Read, "b");
    assert_eq!(admission.counts().waiting.get(), 2);
    drop(waits);
    assert_eq!(admission.counts().waiting.get(), 1);
    // Its turn comes, and it goes before it hears of it.
    drop(first);
    assert_eq!(admission.counts().waiting.get(), 0);
    assert_eq!(admission.counts().running.get(), 1);
    drop(never_polled);
    assert!(admission.queue().is_idle());

    let broken = now(&admission, "a").run(async { panic!("a bug") });
    let broken = AssertUnwindSafe(broken).catch_unwind().await;
    assert!(broken.is_err());
    assert!(admission.queue().is_idle());
    assert_eq!(admission.counts().running.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_comes_at_random_ends_and_leaves_nothing_behind() {
    let admission = admission(|settings| {
        settings.waiting_requests_max = 6;
        settings.concurrent_requests_max = 5;
        settings.running_requests_max = 2;
        settings.caller_share_max = 0.7;
    });
    let classes = [
        Class::Read,
        Class::Call,
        Class::StreamedRead,
        Class::StreamedPush,
    ];
    let mut random = 7_u64;
    let mut random = move |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33) as usize % below
    };
    let (mut waits, mut running) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        match random(4) {
            0 | 1 => {
                let caller = ["a", "a", "a", "b", "c"][random(5)];
                match ask(&admission, classes[random(4)], caller) {
                    Ok(Turn::Now(admitted)) => running.push(admitted),
                    Ok(Turn::Later(ticket)) => waits.push(ticket),
                    Err(_) => {}
                }
            }
            2 if !waits.is_empty() => drop(waits.swap_remove(random(waits.len()))),
            _ if !running.is_empty() => {
                drop(running.swap_remove(random(running.len())));
                while let Some(at) = waits.iter_mut().position(|w| !w.verdict.is_empty()) {
                    running.extend(waits.swap_remove(at).wait().await.ok());
                }
            }
            _ => {}
        }
        assert!(admission.counts().running.get() <= 2);
        assert!(running.len() <= 5);
    }
    drop((waits, running));
    assert!(admission.queue().is_idle());
    assert_eq!(admission.counts().waiting.get(), 0);
    assert_eq!(admission.counts().running.get(), 0);
}

/// What reads said that were polled on the spot, and held where they waited.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<&'static str>>>);

impl Heard {
    /// Has a read asked for, as a connection does.
    fn ask(&self, admission: &Arc<Admission>, name: &'static str, gone: &Arc<AtomicBool>) {
        let heard = Arc::clone(&self.0);
        let (queue, gone) = (Arc::clone(admission), Arc::clone(gone));
        let mut turn = Box::pin(async move {
            let turn = queue.turn(asked(&queue, Class::Read, "a")).await;
            let says = match &turn {
                Ok(_) => name,
                Err(refusal) => refusal.name(),
            };
            heard.lock().unwrap().push(says);
        });
        // As one that is reset, it looks whether it is still of use where it waits.
        let read = poll_fn(move |context| match turn.poll_unpin(context) {
            Poll::Pending if gone.load(Ordering::Relaxed) => Poll::Ready(()),
            polled => polled,
        });
        let mut read: Work = Box::pin(read);
        match work::poll_here(&mut read) {
            work::Polled::Done => {}
            work::Polled::Queued(place) => admission.hold(place, read),
            work::Polled::Waits => panic!("it waits for its turn alone"),
        }
    }

    fn said(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

async fn yields() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn reads_wait_in_the_queue_itself_and_begin_from_there() {
    let admission = admission(|settings| settings.waiting_requests_max = 3);
    let working = tokio::spawn(Arc::clone(&admission).work_off());
    let (heard, here) = (Heard::default(), Arc::default());
    heard.ask(&admission, "at once", &here);
    let first = now(&admission, "b");
    heard.ask(&admission, "second", &here);
    let gone = Arc::new(AtomicBool::new(false));
    heard.ask(&admission, "gone", &gone);
    heard.ask(&admission, "third", &here);
    heard.ask(&admission, "fourth", &here);
    yields().await;
    assert_eq!(heard.said(), ["at once", "caller_full"]);
    assert_eq!(admission.waiting(), 3);
    gone.store(true, Ordering::Relaxed);
    drop(first);
    yields().await;
    assert_eq!(heard.said()[2..], ["second", "third"]);
    assert!(admission.queue().is_idle());
    assert_eq!(admission.counts().running.get(), 0);
    assert_eq!(admission.counts().waiting.get(), 0);
    working.abort();
}

#[tokio::test(start_paused = true)]
async fn reads_in_the_queue_are_told_that_they_are_over_their_time() {
    let admission = admission(|settings| settings.read_wait_millis_max = 1);
    let ticking = tokio::spawn(Arc::clone(&admission).tick());
    let working = tokio::spawn(Arc::clone(&admission).work_off());
    let _first = now(&admission, "b");
    let (heard, here) = (Heard::default(), Arc::default());
    heard.ask(&admission, "began", &here);
    while heard.said().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(heard.said(), ["late"]);
    assert_eq!(admission.waiting(), 0);
    ticking.abort();
    working.abort();
}

/// Which hear when their callers go away.
#[tokio::test(start_paused = true)]
async fn reads_that_have_waited_for_long_have_tasks() {
    let admission = admission(|_| {});
    let first = now(&admission, "b");
    let heard = Heard::default();
    heard.ask(&admission, "long", &Arc::default());
    admission.tick_at(Instant::now() + LONG_WAIT);
    assert!(admission.queue().work_since(Instant::now()).is_empty());
    assert_eq!(admission.waiting(), 1);
    drop(first);
    yields().await;
    assert_eq!(heard.said(), ["long"]);
}

/// Who should have polled it is held up by another.
#[tokio::test(start_paused = true)]
async fn reads_whose_turn_has_come_do_not_wait_for_a_poll_that_lasts() {
    let admission = admission(|_| {});
    let first = now(&admission, "b");
    let heard = Heard::default();
    heard.ask(&admission, "stuck", &Arc::default());
    drop(first);
    admission.tick_at(Instant::now());
    yields().await;
    assert!(heard.said().is_empty());
    admission.tick_at(Instant::now() + STUCK);
    yields().await;
    assert_eq!(heard.said(), ["stuck"]);
    assert!(admission.queue().is_idle());
}

#[tokio::test(start_paused = true)]
async fn reads_begin_before_others_are_refused_and_all_are_told() {
    let admission = admission(|settings| settings.waiting_requests_max = 1_000);
    let first = now(&admission, "b");
    let (heard, here) = (Heard::default(), Arc::default());
    (0..300).for_each(|_| heard.ask(&admission, "began", &here));
    let taken = admission.queue().take_those(|waiting| waiting.number() > 0);
    assert_eq!(taken.len(), 299);
    for waiting in taken {
        admission.deliver(waiting, Err(Refusal::Late));
    }
    drop(first);
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let working = tokio::spawn(unconstrained(Arc::clone(&admission).work_off()));
    yields().await;
    let said = heard.said();
    assert_eq!((said.len(), said[0], said[1]), (300, "began", "late"));
    // None had a task of its own, in which it would have been told later.
    let now = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(now, tasks + 1);
    working.abort();
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_place_is_gone_when_it_is_held_is_polled_all_the_same() {
    let admission = admission(|_| {});
    let working = tokio::spawn(Arc::clone(&admission).work_off());
    let first = now(&admission, "b");
    let began = Arc::new(AtomicBool::new(false));
    let (queue, begins) = (Arc::clone(&admission), Arc::clone(&began));
    let mut read: Work = Box::pin(async move {
        let turn = queue.turn(asked(&queue, Class::Read, "a")).await;
        begins.store(turn.is_ok(), Ordering::Relaxed);
    });
    let work::Polled::Queued(place) = work::poll_here(&mut read) else {
        panic!("it did not wait");
    };
    drop(first);
    admission.hold(place, read);
    yields().await;
    assert!(began.load(Ordering::Relaxed));
    assert!(admission.queue().is_idle());
    working.abort();
}

#[tokio::test(start_paused = true)]
async fn a_read_that_panics_in_its_turn_ends_nothing_else() {
    let admission = admission(|_| {});
    let working = tokio::spawn(Arc::clone(&admission).work_off());
    let first = now(&admission, "b");
    let queue = Arc::clone(&admission);
    let mut read: Work = Box::pin(async move {
        let _turn = queue.turn(asked(&queue, Class::Read, "a")).await;
        panic!("a bug");
    });
    match work::poll_here(&mut read) {
        work::Polled::Queued(place) => admission.hold(place, read),
        other => panic!("{other:?}"),
    }
    let heard = Heard::default();
    heard.ask(&admission, "next", &Arc::default());
    drop(first);
    yields().await;
    assert_eq!(heard.said(), ["next"]);
    assert!(admission.queue().is_idle());
    assert_eq!(admission.counts().running.get(), 0);
    working.abort();
}

#[tokio::test(start_paused = true)]
async fn a_read_whose_deadline_passes_before_it_is_polled_is_not_worked_on() {
    let admission = admission(|_| {});
    let first = now(&admission, "b");
    let heard = Heard::default();
    heard.ask(&admission, "worked", &Arc::default());
    drop(first);
    let due = admission.next_due().unwrap();
    advance(Duration::from_secs(3_600)).await;
    due.begin();
    assert_eq!(heard.said(), ["deadline"]);
    assert_eq!(admission.counts().refusals(Refusal::Deadline), 1);
    assert!(admission.queue().is_idle());
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_the_server_ends_is_dropped() {
    let admission = admission(|_| {});
    let working = Working::start(&admission, 1);
    let first = now(&admission, "b");
    let (heard, here) = (Heard::default(), Arc::default());
    heard.ask(&admission, "second", &here);
    heard.ask(&admission, "third", &here);
    // The second is due, and nobody has polled it.
    drop(first);
    drop(working);
    assert!(heard.said().is_empty());
    assert!(admission.queue().is_idle());
    assert_eq!(admission.counts().waiting.get(), 0);
    // Who comes now is told.
    let running = now(&admission, "b");
    heard.ask(&admission, "fourth", &here);
    assert_eq!(heard.said(), ["closing"]);
    drop((heard, here));
    yields().await;
    drop(running);
    assert!(Arc::into_inner(admission).is_some(), "somebody holds it");
}

/// A queue whose slot was held for a while, by reads that took so long each.
fn worked(admission: &Admission, read: Duration) -> bool {
    let mut queue = admission.queue();
    // Until the mean is that.
    let ended = Instant::now();
    (0..100).for_each(|_| queue.remember(read, ended, &admission.limits));
    queue.leave_slot(Duration::from_millis(2), ended, &admission.limits)
}

/// Lets time pass while the server runs.
async fn pass(admission: &Arc<Admission>, millis: u64) {
    for _ in 0..millis {
        advance(Duration::from_millis(1)).await;
        admission.tick_at(Instant::now());
    }
}

/// Reads wait for 4 ms and take one each: one is under way, three wait.
fn busy() -> (Arc<Admission>, Admitted) {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let mut first = now(&admission, "a");
    first.has_slot = false;
    assert!(worked(&admission, Duration::from_millis(1)));
    (admission, first)
}

#[tokio::test(start_paused = true)]
async fn after_some_work_the_sockets_are_looked_at_before_more_begins() {
    let admission = admission(|_| {});
    let mut first = now(&admission, "a");
    first.has_slot = false;
    assert!(worked(&admission, Duration::from_millis(1)));
    let second = later(&admission, Class::Read, "a");
    let looking = tokio::spawn(Arc::clone(&admission).look_around());
    admission.look.notify_one();
    assert!(second.await.is_ok());
    looking.abort();
}

#[tokio::test(start_paused = true)]
async fn a_look_at_many_sockets_does_not_hold_up_what_waits() {
    let admission = admission(|_| {});
    let mut first = now(&admission, "a");
    first.has_slot = false;
    assert!(worked(&admission, Duration::from_millis(1)));
    advance(Duration::from_millis(1)).await;
    // Nobody is done with looking, or has begun.
    let second = later(&admission, Class::Read, "a");
    assert!(second.now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn one_caller_is_worked_for_longer_between_looks_than_several() {
    let admission = admission(|_| {});
    let is_tired = || {
        let mut first = now(&admission, "a");
        first.has_slot = false;
        let mut queue = admission.queue();
        let work = Duration::from_millis(1);
        let is_tired = queue.leave_slot(work, Instant::now(), &admission.limits);
        queue.looked();
        is_tired
    };
    assert!(!is_tired());
    drop(now(&admission, "b"));
    assert!(is_tired());
    advance(Duration::from_millis(999)).await;
    assert!(is_tired());
    advance(Duration::from_millis(1)).await;
    assert!(!is_tired());
}

#[tokio::test(start_paused = true)]
async fn reads_that_would_begin_too_late_are_refused_at_once() {
    let (admission, _first) = busy();
    // For 25 ms where the queue has just begun.
    let mut waits: Vec<_> = (0..24)
        .map(|_| ask(&admission, Class::Read, "a").unwrap())
        .collect();
    assert_eq!(refused(&admission, Class::Read, "a"), Refusal::Full);
    // Which is remembered, though nothing waits meanwhile.
    waits.clear();
    waits.extend((0..3).map(|_| ask(&admission, Class::Read, "a").unwrap()));
    assert_eq!(refused(&admission, Class::Read, "a"), Refusal::Full);
    // What is no read has time.
    waits.push(ask(&admission, Class::Call, "a").unwrap());
    // Whoever has nothing waiting is heard, and takes from who has most if anybody
    // has more.
    for caller in ["b", "c", "d", "e"] {
        waits.push(ask(&admission, Class::Read, caller).unwrap());
    }
    assert_eq!(refused(&admission, Class::Read, "b"), Refusal::Full);
    // A call, which is in no read's way, and five reads.
    assert_eq!(admission.counts().waiting.get(), 6);
}

#[tokio::test(start_paused = true)]
async fn where_some_have_waited_for_long_reads_are_refused_sooner() {
    let (admission, _first) = busy();
    let mut waits = vec![ask(&admission, Class::Read, "a").unwrap()];
    let long_ago = Instant::now() - Duration::from_secs(1);
    admission.queue().stand_since(long_ago);
    waits.extend((0..2).map(|_| ask(&admission, Class::Read, "a").unwrap()));
    assert_eq!(refused(&admission, Class::Read, "a"), Refusal::Full);
}

/// What came during a pause is answered, though it takes a while.
#[tokio::test(start_paused = true)]
async fn a_queue_that_becomes_shorter_is_not_of_more_than_can_be_done() {
    let (admission, _first) = busy();
    let ask_all = |reads| -> Vec<_> {
        (0..reads)
            .map(|_| ask(&admission, Class::Read, "a"))
            .collect()
    };
    let mut waits = ask_all(20);
    let almost_long = Instant::now() - Duration::from_millis(20);
    admission.queue().stand_since(almost_long);
    waits.truncate(10);
    pass(&admission, 10).await;
    waits.extend(ask_all(10));
    assert!(waits.iter().all(Result::is_ok));
    // One that does not is.
    pass(&admission, 30).await;
    assert!(ask_all(10).iter().any(Result::is_err));
}

/// Refusing is work, and so is whatever else lies between two reads.
#[tokio::test(start_paused = true)]
async fn what_lies_between_reads_that_others_wait_for_is_of_their_turn() {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let _first = now(&admission, "a");
    let _waits = ask(&admission, Class::Read, "a").unwrap();
    let (work, between) = (Duration::from_micros(100), Duration::from_micros(900));
    let mut queue = admission.queue();
    let mut ended = Instant::now();
    for _ in 0..200 {
        ended += work + between;
        queue.remember(work, ended, &admission.limits);
    }
    drop(queue);
    // A millisecond a turn: 25 at first, of which one runs.
    let more: Vec<_> = (0..23)
        .map(|_| ask(&admission, Class::Read, "a").unwrap())
        .collect();
    assert_eq!(refused(&admission, Class::Read, "a"), Refusal::Full);
    drop(more);
}

/// What is read now and then takes no longer for it.
#[tokio::test(start_paused = true)]
async fn the_time_before_somebody_waits_is_of_no_turn() {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let _first = now(&admission, "a");
    let mut queue = admission.queue();
    let ended = Instant::now();
    let (work, between) = (Duration::from_micros(100), Duration::from_millis(100));
    for n in 1..200 {
        let ended = ended + between * n;
        queue.stand_since(ended - work);
        queue.remember(work, ended, &admission.limits);
    }
    assert!(queue.read_time() <= work, "{:?}", queue.read_time());
}

/// A burst that found no room is no reason to refuse all that come after it.
#[tokio::test(start_paused = true)]
async fn bursts_do_not_keep_themselves_without_room() {
    let (admission, _first) = busy();
    let burst = |reads: usize| {
        let asked: Vec<_> = (0..reads)
            .map(|_| ask(&admission, Class::Read, "a"))
            .collect();
        asked.iter().filter(|turn| turn.is_err()).count()
    };
    assert!(burst(60) > 0);
    // Before that is forgotten, and after.
    assert!(burst(10) > 0);
    advance(Duration::from_millis(60)).await;
    assert!(burst(10) > 0);
    advance(Duration::from_millis(60)).await;
    assert_eq!(burst(10), 0);
}

/// There is room for more than come, and yet they come too fast.
#[tokio::test(start_paused = true)]
async fn reads_that_waited_in_vain_tell_of_overload() {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let _first = now(&admission, "a");
    let wait_for = async |millis| {
        let mut waits = later(&admission, Class::Read, "a");
        pass(&admission, millis).await;
        waits.as_mut().now_or_never().and_then(Result::err)
    };
    assert_eq!(wait_for(24).await, None);
    assert_eq!(wait_for(25).await, Some(Refusal::Late));
    assert_eq!(wait_for(4).await, Some(Refusal::Late));
    // Which is no sign of more.
    pass(&admission, 96).await;
    assert_eq!(wait_for(24).await, None);
}

#[tokio::test(start_paused = true)]
async fn reads_that_are_late_when_their_turn_comes_tell_of_overload_too() {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let first = now(&admission, "a");
    let read = later(&admission, Class::Read, "a");
    // Nobody ticks.
    let mut calls = Vec::new();
    for _ in 0..25 {
        advance(Duration::from_millis(1)).await;
        calls.push(later(&admission, Class::Call, "a"));
    }
    assert!(admission.queue().is_overloaded(Instant::now()));
    drop(first);
    assert_eq!(read.await.unwrap_err(), Refusal::Late);
    drop(calls);
    assert!(admission.queue().is_overloaded(Instant::now()));
    advance(Duration::from_millis(100)).await;
    assert!(!admission.queue().is_overloaded(Instant::now()));
}

/// Whoever waited meanwhile did not wait for others.
#[tokio::test(start_paused = true)]
async fn a_pause_of_the_server_is_no_overload() {
    let (admission, _first) = busy();
    let waited = later(&admission, Class::Read, "a");
    advance(Duration::from_millis(100)).await;
    let waits: Vec<_> = (0..20).map(|_| ask(&admission, Class::Read, "a")).collect();
    assert!(waits.iter().all(Result::is_ok));
    admission.tick_at(Instant::now());
    assert_eq!(waited.await.unwrap_err(), Refusal::Late);
    assert!(!admission.queue().is_overloaded(Instant::now()));
    // One has begun.
    assert_eq!(admission.waiting(), 19);
}

/// Though nobody looks at the queue meanwhile.
#[tokio::test(start_paused = true)]
async fn the_work_of_others_is_no_pause() {
    for (is_work, is_overload) in [(true, true), (false, false)] {
        let (admission, _first) = busy();
        let mut waits = vec![later(&admission, Class::Call, "a")];
        for _ in 0..6 {
            let work = Duration::from_millis(6);
            advance(work).await;
            if is_work {
                admission.queue().ran(work);
            }
            waits.push(later(&admission, Class::Call, "a"));
        }
        assert_eq!(admission.queue().is_overloaded(Instant::now()), is_overload);
    }
}

/// Cores are free for others.
#[tokio::test(start_paused = true)]
async fn what_its_callers_share_holds_back_is_in_nobodys_way() {
    let admission = admission(|settings| {
        settings.read_wait_millis_max = 4;
        settings.concurrent_requests_max = 4;
        settings.caller_share_max = 0.5;
    });
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let mut work = Box::pin(now(&admission, "slow").run(pending::<()>()));
            assert!(work.as_mut().now_or_never().is_none());
            work
        })
        .collect();
    let call = later(&admission, Class::Call, "slow");
    let held_back: Vec<_> = (0..30)
        .map(|_| later(&admission, Class::Read, "slow"))
        .collect();
    let mut first = now(&admission, "quick");
    first.has_slot = false;
    // Its slot waits for a look.
    assert!(worked(&admission, Duration::from_millis(1)));
    let ask_quick = || ask(&admission, Class::Read, "quick");
    let waits: Vec<_> = (0..24).map(|_| ask_quick().unwrap()).collect();
    assert_eq!(ask_quick().unwrap_err(), Refusal::Full);
    assert_eq!(admission.waiting(), 1 + 30 + 24);
    drop((waits, first));
    advance(Duration::from_millis(100)).await;
    // Those give up as soon as reads may, and tell of nothing.
    admission.looked();
    pass(&admission, 1).await;
    for held_back in held_back {
        assert_eq!(held_back.await.unwrap_err(), Refusal::Late);
    }
    assert!(!admission.queue().is_overloaded(Instant::now()));
    drop(slow);
    assert!(call.await.is_ok());
}

/// One cold page, say, is no reason to refuse what is quick.
#[tokio::test(start_paused = true)]
async fn a_read_that_was_slow_for_once_refuses_no_others() {
    let admission = admission(|settings| settings.read_wait_millis_max = 4);
    let mut first = now(&admission, "a");
    let ended = Instant::now();
    let second = Duration::from_secs(1);
    admission.queue().remember(second, ended, &admission.limits);
    first.has_slot = false;
    let for_long = asked(&admission, Class::Read, "a");
    let since = for_long.since - Duration::from_secs(1);
    let long = admission.ask(Asked { since, ..for_long }).unwrap();
    let waits: Vec<_> = (0..100)
        .map(|_| ask(&admission, Class::Read, "a").unwrap())
        .collect();
    assert_eq!(admission.counts().waiting.get(), 101);
    drop((long, waits));
}

#[test]
fn a_refusal_says_what_is_full_and_what_to_do() {
    for refusal in Refusal::ALL {
        let status = refusal.status();
        let code = match refusal {
            Refusal::Deadline => Code::DeadlineExceeded,
            Refusal::Closing => Code::Unavailable,
            _ => Code::ResourceExhausted,
        };
        assert_eq!(status.code(), code, "{refusal:?}");
        if code == Code::ResourceExhausted {
            let message = status.message();
            let full = match refusal {
                Refusal::Unread => "too many answers",
                _ => "queue of requests",
            };
            assert!(message.contains(full), "{message}");
            assert!(message.contains("try"), "{message}");
        }
    }
}
