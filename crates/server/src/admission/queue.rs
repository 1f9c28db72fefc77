//! Who is under way and who waits, as data: what the bounds let begin, what is
//! refused, and whose turn is next. Wakes nobody, polls nothing and knows nothing of
//! tasks.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Admitted, Asked, CallerId, Class, Place, Refusal};
use crate::settings::ServerSettings;
use crate::work::Work;

/// Work of a core after which the sockets are looked at before more begins.
const WORK_BETWEEN_LOOKS: Duration = Duration::from_micros(500);
/// The same where it does not matter who is next.
const WORK_BETWEEN_LOOKS_MAX: Duration = Duration::from_millis(2);
/// Who has asked for nothing for so long is no other caller any more.
const CALLER_REMEMBERED: Duration = Duration::from_secs(1);
/// A look that takes longer is given up: many connections have much to be looked at,
/// and meanwhile nothing is worked on.
const LOOK_MAX: Duration = Duration::from_micros(500);
/// A queue that was empty within so long, or twice as long as it is, is not one of
/// more than can be done: the server paused, or many came at once, and they are better
/// answered a little late than not at all.
const STANDING: Duration = Duration::from_millis(25);
/// While some wait, the queue is looked at whenever a request comes, begins or ends, and
/// every millisecond in which a thread has time for it: if it was not for so long, and for
/// longer by far than reads take, the server did not run, and they have not waited for
/// others.
const PAUSE: Duration = Duration::from_millis(5);
/// For so long after a read found no room, or waited in vain, an empty queue is a pause of
/// overload, and not the other way round.
const OVERLOAD_REMEMBERED: Duration = Duration::from_millis(100);
/// Reads may always wait so many at a time, however slow they have been.
const WAITING_READS_MIN: u32 = 2;
/// How much of the mean time in a slot the newest read makes: one in so many.
const READS_REMEMBERED: u32 = 16;
/// No mean is below it, and it is the first.
const QUICK_READ: Duration = Duration::from_micros(25);
/// So many times the mean, a read is longer by far.
const OUTLIER: u32 = 4;

/// The bounds, in numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    slots: usize,
    /// How many of them can have a core at once.
    pub cores: usize,
    places: usize,
    places_a_caller: usize,
    waiting: usize,
    waiting_a_caller: usize,
    read_wait: Duration,
}

impl Limits {
    pub fn of(settings: &ServerSettings, workers: usize) -> Self {
        // One whose thread waits for a page of a file leaves the core to one more.
        let slots = match settings.running_requests_max {
            0 => workers.saturating_add(1),
            slots => slots,
        };
        let share = |of: usize| (of as f64 * settings.caller_share_max).ceil() as usize;
        let places = settings.concurrent_requests_max.max(1);
        Self {
            slots,
            cores: workers.clamp(1, slots),
            places,
            places_a_caller: share(places).max(1),
            waiting: settings.waiting_requests_max,
            waiting_a_caller: share(settings.waiting_requests_max).max(1),
            read_wait: Duration::from_millis(settings.read_wait_millis_max.into()),
        }
    }
}

impl Asked {
    /// Why it is refused that gave up then.
    pub fn over(&self, give_up: Instant) -> Refusal {
        match give_up < self.deadline {
            true => Refusal::Late,
            false => Refusal::Deadline,
        }
    }
}

/// One that waits, as the queue has it.
pub(super) struct Waiting {
    pub asked: Asked,
    give_up: Instant,
    number: u64,
    pub verdict: oneshot::Sender<Result<Admitted, Refusal>>,
    /// What has no task that hears of the verdict.
    pub work: Option<Work>,
}

impl Waiting {
    /// Why it is refused that gave up.
    fn over(&self) -> Refusal {
        self.asked.over(self.give_up)
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("Waiting");
        told.field("asked", &self.asked);
        told.field("has_work", &self.work.is_some());
        told.finish_non_exhaustive()
    }
}

/// The same, as it is given to who waits.
#[derive(Debug)]
pub(super) struct Waits {
    pub place: Place,
    pub verdict: oneshot::Receiver<Result<Admitted, Refusal>>,
}

/// What is known of a caller that has something under way or waiting.
#[derive(Debug, Default)]
struct Line {
    places: usize,
    /// In the order of their coming.
    waiting: VecDeque<Waiting>,
    /// Those of them that the queue's bounds are for.
    bounded: usize,
    /// Those of these that are reads.
    reads: usize,
}

impl Line {
    /// Whether what waits does so until something of the same caller ends.
    fn has_its_share(&self, limits: &Limits) -> bool {
        self.places >= limits.places_a_caller
    }
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Slots that are held, or wait for a look around.
    running: usize,
    /// Those of them that nobody holds.
    tired: usize,
    /// Since when there are any of these.
    looking: Option<Instant>,
    /// Time that slots were held since the last look around.
    worked: Duration,
    /// The mean of what reads held one for; where others wait, with what lies between
    /// two of them, as refusing the rest does.
    read_time: Duration,
    /// When the last of them ended.
    read_ended: Option<Instant>,
    places: usize,
    /// Callers that have their share of them.
    shares: usize,
    /// Requests that wait.
    waiting: usize,
    /// Those of them that the bounds are for.
    bounded: usize,
    /// Those of these that are reads.
    reads: usize,
    /// Since when there have always been some that waited for others, and not many fewer
    /// than there were; without the time that the server paused.
    standing: Option<Instant>,
    /// The most that there were since then.
    most: usize,
    /// When that was last looked at.
    seen: Option<Instant>,
    /// When a read last found no room, or waited in vain.
    crowded: Option<Instant>,
    /// Requests that wait and need no slot.
    slotless: usize,
    /// Who asked last.
    asked_last: Option<CallerId>,
    /// When another had asked before.
    others_asked: Option<Instant>,
    lines: HashMap<CallerId, Line>,
    /// Callers that have something waiting, the next one first.
    turns: VecDeque<CallerId>,
    numbers: u64,
    /// Nobody waits any more.
    is_closed: bool,
}

impl Queue {
    /// Takes a slot and a place, if there are any that nobody waits for.
    pub fn admit(&mut self, asked: Asked, limits: &Limits) -> bool {
        let before = self.asked_last.replace(asked.caller);
        if before.is_some_and(|before| before != asked.caller) {
            self.others_asked = Some(asked.since);
        }
        if !self.has_slot_for(asked.class, limits) || self.places >= limits.places {
            return false;
        }
        let line = self.lines.entry(asked.caller).or_default();
        // Who waits of other callers does so for want of what these may not have.
        if line.has_its_share(limits) || !line.waiting.is_empty() {
            return false;
        }
        line.places += 1;
        self.shares += usize::from(line.places == limits.places_a_caller);
        self.places += 1;
        self.running += usize::from(asked.class.takes_slot());
        true
    }

    fn has_slot_for(&self, class: Class, limits: &Limits) -> bool {
        !class.takes_slot() || self.running < limits.slots
    }

    /// Puts a request into the queue; gives whom it displaces, too.
    pub fn wait(
        &mut self,
        asked: Asked,
        limits: &Limits,
    ) -> Result<(Waits, Option<Waiting>), Refusal> {
        if self.is_closed {
            return Err(Refusal::Closing);
        }
        self.see(asked.since);
        let line = self.lines.get(&asked.caller);
        let is_held_back = line.is_some_and(|line| line.has_its_share(limits));
        let give_up = self.give_up(asked, is_held_back, limits);
        let displaced = match asked.class.is_bounded() {
            true => self.make_room(asked, is_held_back, limits)?,
            false => None,
        };
        let (verdict, receiver) = oneshot::channel();
        let number = self.numbers;
        self.numbers += 1;
        let line = self.lines.entry(asked.caller).or_default();
        if line.waiting.is_empty() {
            self.turns.push_back(asked.caller);
        }
        line.waiting.push_back(Waiting {
            asked,
            give_up,
            number,
            verdict,
            work: None,
        });
        self.waiting += 1;
        if asked.class.is_bounded() {
            line.bounded += 1;
            self.bounded += 1;
            line.reads += usize::from(asked.class == Class::Read);
            self.reads += usize::from(asked.class == Class::Read);
            self.most = self.most.max(self.bounded);
            if !is_held_back {
                self.standing.get_or_insert(asked.since);
            }
        }
        self.slotless += usize::from(!asked.class.takes_slot());
        let place = Place {
            caller: asked.caller,
            number,
        };
        let waits = Waits {
            place,
            verdict: receiver,
        };
        Ok((waits, displaced))
    }

    /// Until when it waits.
    fn give_up(&self, asked: Asked, is_held_back: bool, limits: &Limits) -> Instant {
        match asked.class {
            Class::Read => {
                // Where reads are so slow, a few still have a turn.
                let few = self.read_time * (WAITING_READS_MIN + 1);
                let soon = asked.since + limits.read_wait.max(few);
                let late = match is_held_back || self.is_overloaded(asked.since) {
                    true => soon,
                    false => soon.max(self.standing.unwrap_or(asked.since) + STANDING),
                };
                asked.deadline.min(late)
            }
            Class::Call | Class::StreamedRead | Class::StreamedPush => asked.deadline,
        }
    }

    /// Room for one more, or why there is none.
    fn make_room(
        &mut self,
        asked: Asked,
        is_held_back: bool,
        limits: &Limits,
    ) -> Result<Option<Waiting>, Refusal> {
        let line = self.lines.get(&asked.caller);
        if line.is_some_and(|line| line.bounded >= limits.waiting_a_caller) {
            return Err(Refusal::CallerFull);
        }
        let is_full = self.bounded >= limits.waiting;
        // One that is held back could not begin where another made room.
        let is_read = asked.class == Class::Read && !is_held_back;
        let is_late = is_read && self.has_no_room_for_reads(asked.since, limits);
        if !is_full && !is_late {
            return Ok(None);
        }
        // Else a burst now and then would keep itself without room.
        if is_late && (had_stood(self.standing, asked.since) || !self.is_overloaded(asked.since)) {
            self.crowded = Some(asked.since);
        }
        // Only reads are in the way of one that would be late.
        let is_in_the_way = |class: Class| class.is_bounded() && (is_full || class == Class::Read);
        let in_the_way = |caller: &CallerId| match self.lines.get(caller) {
            Some(line) if is_full => line.bounded,
            Some(line) if !line.has_its_share(limits) => line.reads,
            _ => 0,
        };
        let mine = in_the_way(&asked.caller);
        let greediest = self.turns.iter().copied().max_by_key(in_the_way);
        // With one less than the greediest they would displace each other in turn.
        if let Some(greediest) = greediest.filter(|greediest| mine + 1 < in_the_way(greediest)) {
            return Ok(self.newest(greediest, is_in_the_way));
        }
        match mine == 0 && !is_full {
            true => Ok(None),
            false => Err(Refusal::Full),
        }
    }

    /// Whether so many reads wait for a core that one more would be late.
    fn has_no_room_for_reads(&self, now: Instant, limits: &Limits) -> bool {
        let room = self.room_for_reads(now, limits);
        self.reads >= room && (self.shares == 0 || self.reads - self.held_back(limits) >= room)
    }

    /// Reads that wait until something of their caller ends.
    fn held_back(&self, limits: &Limits) -> usize {
        let lines = { self.turns.iter() }.filter_map(|caller| self.lines.get(caller));
        let held_back = lines.filter(|line| line.has_its_share(limits));
        held_back.map(|line| line.reads).sum()
    }

    /// Whether it matters who is next: not to one caller, whose requests are all
    /// answered.
    pub fn minds_turns(&self, now: Instant) -> bool {
        self.has_others(now) || self.is_overloaded(now)
    }

    /// Whether there is more than one caller.
    pub fn has_others(&self, now: Instant) -> bool {
        let since = |others| now.saturating_duration_since(others);
        { self.others_asked }.is_some_and(|others| since(others) < CALLER_REMEMBERED)
    }

    /// Whether more comes than can be done, and not just now.
    pub fn is_overloaded(&self, now: Instant) -> bool {
        let since = |crowded| now.saturating_duration_since(crowded);
        let was_crowded = { self.crowded }.is_some_and(|time| since(time) < OVERLOAD_REMEMBERED);
        was_crowded || had_stood(self.standing, now)
    }

    /// What the server paused is no time that requests waited for others.
    fn see(&mut self, now: Instant) {
        let seen = self.seen.unwrap_or(now);
        self.seen = Some(seen.max(now));
        let unseen = now.saturating_duration_since(seen);
        if unseen >= PAUSE.max(self.read_time * OUTLIER) {
            self.standing = self.standing.map(|since| (since + unseen).min(now));
        }
    }

    /// Remembers an overload if a read was late in a queue that had stood for long, by
    /// what it was before the read left it. Connections may not have so much under way
    /// that a read finds no room, and all that wait may give up together: what comes
    /// next would wait as long again.
    fn remember_late(&mut self, refusal: Refusal, standing: Option<Instant>, now: Instant) {
        if refusal == Refusal::Late && had_stood(standing, now) {
            self.crowded = Some(now);
        }
    }

    /// How many may wait so that the last of them begins in time, or, in a queue
    /// that has just begun, before that has stood for long.
    fn room_for_reads(&self, now: Instant, limits: &Limits) -> usize {
        let wait = match self.is_overloaded(now) {
            true => limits.read_wait,
            false => limits.read_wait.max(STANDING),
        };
        let turns = wait.as_nanos().checked_div(self.read_time.as_nanos());
        let turns = turns.map_or(usize::MAX, |turns| {
            usize::try_from(turns).unwrap_or(usize::MAX)
        });
        // Those that run are still to end.
        let room = turns.saturating_sub(1).saturating_mul(limits.cores);
        room.max(WAITING_READS_MIN as usize)
    }

    /// Takes the newest request of a caller and of such a class from the queue.
    fn newest(&mut self, caller: CallerId, which: impl Fn(Class) -> bool) -> Option<Waiting> {
        let line = self.lines.get(&caller)?;
        let at = line.waiting.iter().rposition(|w| which(w.asked.class))?;
        self.take(caller, at)
    }

    /// Takes a request from the queue.
    fn take(&mut self, caller: CallerId, at: usize) -> Option<Waiting> {
        let line = self.lines.get_mut(&caller)?;
        let taken = line.waiting.remove(at)?;
        let class = taken.asked.class;
        self.waiting -= 1;
        line.bounded -= usize::from(class.is_bounded());
        self.bounded -= usize::from(class.is_bounded());
        line.reads -= usize::from(class == Class::Read);
        self.reads -= usize::from(class == Class::Read);
        self.slotless -= usize::from(!class.takes_slot());
        if line.waiting.is_empty() {
            let is_idle = line.places == 0;
            self.turns.retain(|turn| *turn != caller);
            if is_idle {
                self.lines.remove(&caller);
            }
        }
        let is_half = self.bounded * 2 <= self.most;
        if self.bounded == 0 || is_half && !self.is_overloaded(Instant::now()) {
            self.standing = (self.bounded > 0).then(Instant::now);
            self.most = self.bounded;
        }
        Some(taken)
    }

    /// The next that begins, with what it takes, or that has waited too long.
    pub fn next(&mut self, limits: &Limits) -> Option<(Waiting, Result<(), Refusal>)> {
        if self.waiting == 0 {
            return None;
        }
        let now = Instant::now();
        self.see(now);
        let no_slot = self.running >= limits.slots && self.slotless == 0;
        if no_slot || self.places >= limits.places {
            return None;
        }
        let begins = |caller: &CallerId| {
            let line = self.lines.get(caller)?;
            let first = line.waiting.front()?;
            let fits = !line.has_its_share(limits);
            (fits && self.has_slot_for(first.asked.class, limits)).then_some(*caller)
        };
        let Some(caller) = self.turns.iter().find_map(begins) else {
            if self.running < limits.slots {
                // It is not for want of a core that they wait.
                self.standing = None;
                self.most = 0;
            }
            return None;
        };
        let standing = self.standing;
        let next = self.take(caller, 0)?;
        if next.give_up <= now {
            let refusal = next.over();
            self.remember_late(refusal, standing, now);
            return Some((next, Err(refusal)));
        }
        let line = self.lines.entry(caller).or_default();
        line.places += 1;
        self.shares += usize::from(line.places == limits.places_a_caller);
        self.places += 1;
        self.running += usize::from(next.asked.class.takes_slot());
        if !line.waiting.is_empty() {
            self.turns.retain(|turn| *turn != caller);
            self.turns.push_back(caller);
        }
        Some((next, Ok(())))
    }

    fn at(&self, place: Place) -> Option<usize> {
        let line = self.lines.get(&place.caller)?;
        let at = line
            .waiting
            .binary_search_by_key(&place.number, |w| w.number);
        at.ok()
    }

    /// False if it is not there.
    pub fn leave(&mut self, place: Place) -> bool {
        let at = self.at(place);
        at.is_some_and(|at| self.take(place.caller, at).is_some())
    }

    /// Has the work wait at its place; gives it back if that is gone.
    pub fn hold(&mut self, place: Place, work: Work) -> Result<(), Work> {
        let at = self.at(place);
        let waiting = at.and_then(|at| self.lines.get_mut(&place.caller)?.waiting.get_mut(at));
        match waiting {
            Some(waiting) => {
                waiting.work = Some(work);
                Ok(())
            }
            None => Err(work),
        }
    }

    /// Takes those from the queue that have waited for as long as they may, and why each
    /// is refused.
    pub fn take_over(&mut self, now: Instant) -> Vec<(Waiting, Refusal)> {
        self.see(now);
        let standing = self.standing;
        let over = self.take_those(|waiting| waiting.give_up <= now);
        let refused = over.into_iter().map(|waiting| {
            let refusal = waiting.over();
            self.remember_late(refusal, standing, now);
            (waiting, refusal)
        });
        refused.collect()
    }

    pub fn close(&mut self) {
        self.is_closed = true;
    }

    pub fn take_all(&mut self) -> Vec<Waiting> {
        self.take_those(|_| true)
    }

    pub(super) fn take_those(&mut self, which: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let mut places = Vec::new();
        for (caller, line) in &self.lines {
            let those = line.waiting.iter().filter(|waiting| which(waiting));
            places.extend(those.map(|waiting| Place {
                caller: *caller,
                number: waiting.number,
            }));
        }
        let take = |place: Place| self.take(place.caller, self.at(place)?);
        places.into_iter().filter_map(take).collect()
    }

    /// The work of all that have waited since then, which wait on without it.
    pub fn work_since(&mut self, since: Instant) -> Vec<Work> {
        let waiting = self.lines.values_mut().flat_map(|line| &mut line.waiting);
        let long = waiting.filter(|waiting| waiting.asked.since <= since);
        long.filter_map(|waiting| waiting.work.take()).collect()
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Every worker's queue and all sockets were looked at.
    pub fn looked(&mut self) {
        self.running -= std::mem::take(&mut self.tired);
        self.looking = None;
        self.worked = Duration::ZERO;
    }

    /// A request that is no read used a core for so long, which is no pause.
    pub fn ran(&mut self, worked: Duration) {
        self.seen = self.seen.map(|seen| seen + worked);
    }

    /// True if the slot is not free before a look around.
    pub fn leave_slot(&mut self, worked: Duration, now: Instant, limits: &Limits) -> bool {
        self.worked += worked;
        let cores = u32::try_from(limits.cores).unwrap_or(u32::MAX);
        let is_tired = self.worked >= WORK_BETWEEN_LOOKS * cores
            && (self.worked >= WORK_BETWEEN_LOOKS_MAX * cores || self.minds_turns(now));
        match is_tired {
            true => {
                self.tired += 1;
                self.looking.get_or_insert(now);
            }
            false => self.running -= 1,
        }
        is_tired
    }

    /// Whether slots have waited for a look around for too long.
    pub fn looks_long(&self, now: Instant) -> bool {
        self.looking
            .is_some_and(|since| now.saturating_duration_since(since) > LOOK_MAX)
    }

    pub fn leave_place(&mut self, caller: CallerId, limits: &Limits) {
        self.places -= 1;
        if let Some(line) = self.lines.get_mut(&caller) {
            self.shares -= usize::from(line.places == limits.places_a_caller);
            line.places -= 1;
            if line.places == 0 && line.waiting.is_empty() {
                self.lines.remove(&caller);
            }
        }
    }

    /// One that is longer by far than those before tells of a cold page or of a
    /// thread that was not let run, not of reads: only a part of it counts.
    pub fn remember(&mut self, read: Duration, ended: Instant, limits: &Limits) {
        let before = self.read_ended.replace(ended);
        // Before some waited nothing was in anybody's way.
        let since = before.zip(self.standing).map(|(a, b)| a.max(b));
        let cores = u32::try_from(limits.cores).unwrap_or(u32::MAX);
        let between = since.map(|since| ended.saturating_duration_since(since));
        let turn = between.map_or(read, |between| between.saturating_mul(cores));
        let known = self.read_time.max(QUICK_READ);
        let turn = turn.max(read).min(known * OUTLIER);
        self.read_time = known - known / READS_REMEMBERED + turn / READS_REMEMBERED;
    }
}

/// Whether a queue that stood since then was one of more than can be done.
fn had_stood(standing: Option<Instant>, now: Instant) -> bool {
    standing.is_some_and(|since| now.saturating_duration_since(since) >= STANDING)
}

#[cfg(test)]
impl Waiting {
    pub fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
impl Queue {
    /// As if somebody had waited since then.
    pub fn stand_since(&mut self, since: Instant) {
        self.standing = Some(since);
    }

    pub fn read_time(&self) -> Duration {
        self.read_time
    }

    /// Whether nothing is under way or waits, and nobody is remembered.
    pub fn is_idle(&self) -> bool {
        let counted = [self.waiting, self.bounded, self.reads, self.slotless];
        let nobody = self.lines.is_empty() && self.turns.is_empty();
        nobody && self.places + self.shares == 0 && counted == [0; 4] && self.running == self.tired
    }
}
