//! Group commit: one thread takes what queued up while the last sync ran, and
//! writes it as one batch with one sync.
//!
//! Writers that append one batch after the other come back just after they were
//! answered. Whoever of them is the first would have a sync alone, and the
//! others the next one: so the thread gives them a moment, a part of what a sync
//! takes, and goes on as soon as as many are there as may come. Who appends
//! alone, or now and then, does not wait.
//!
//! The queue is bounded by requests and by bytes; who finds it full waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::group::Group;
use super::shelf::Shelf;
use crate::error::StoreError;
use crate::events::{Appended, EventBatch, NewEvent, NewTile, SnapshotPoint};

/// What a handle asks for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) stream: Arc<str>,
    pub(super) epoch: u64,
    pub(super) work: Work,
    /// Gives the queue's bytes back when the request is done.
    pub(super) room: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) enum Work {
    Append(EventBatch, Reply<Vec<Appended>>),
    Tiles {
        set: usize,
        computed_from: SnapshotPoint,
        tiles: Vec<NewTile>,
        reply: Reply<usize>,
    },
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// The queue and the thread behind it. Dropped, it ends the thread after what
/// is queued.
#[derive(Debug)]
pub(super) struct Committer {
    queue: Option<mpsc::Sender<Request>>,
    room: Arc<Semaphore>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Semaphores count in units of this many bytes.
const ROOM_UNIT: usize = 1 << 10;

impl Committer {
    pub(super) fn start(shelf: Arc<Shelf>) -> Result<Self, StoreError> {
        let settings = &shelf.settings;
        let (queue, requests) = mpsc::channel(settings.queue_requests_max.max(1));
        let room = Semaphore::new(settings.queue_bytes_max.div_ceil(ROOM_UNIT).max(1));
        let thread = std::thread::Builder::new()
            .name("granary-events".to_owned())
            .spawn(move || run(&shelf, requests))
            .map_err(|e| StoreError::Backend(format!("the committing thread: {e}")))?;
        Ok(Self {
            queue: Some(queue),
            room: Arc::new(room),
            thread: Some(thread),
        })
    }

    /// Queues a request of so many bytes, waiting for room.
    pub(super) async fn send(
        &self,
        stream: Arc<str>,
        epoch: u64,
        work: Work,
        bytes: usize,
        bytes_max: usize,
    ) -> Result<(), StoreError> {
        let ended = || StoreError::EventsHalted("the committing thread ended".to_owned());
        let units = bytes
            .min(bytes_max)
            .div_ceil(ROOM_UNIT)
            .min(Semaphore::MAX_PERMITS);
        let room = Arc::clone(&self.room)
            .acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX))
            .await
            .map_err(|_| ended())?;
        let request = Request {
            stream,
            epoch,
            work,
            room,
        };
        let queue = self.queue.as_ref().ok_or_else(ended)?;
        queue.send(request).await.map_err(|_| ended())
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It has no panic of its own to tell of.
            let _ = thread.join();
        }
    }
}

/// How long writers are given to come back: this part of what the last group
/// took, and no longer than that.
const PATIENCE: u32 = 8;
const PATIENCE_MAX: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(50);

fn run(shelf: &Shelf, mut requests: mpsc::Receiver<Request>) {
    let bytes_max = shelf.settings.group_bytes_max;
    // How many requests the next group may have, and until when it waits for them.
    let mut expected = (0, Instant::now());
    while let Some(first) = requests.blocking_recv() {
        let mut bytes = first.bytes();
        let mut group = vec![first];
        loop {
            while bytes < bytes_max
                && let Ok(next) = requests.try_recv()
            {
                bytes += next.bytes();
                group.push(next);
            }
            let (hoped_for, until) = expected;
            let whole = group.len() >= hoped_for || bytes >= bytes_max;
            if whole || Instant::now() + PAUSE > until {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let begin = Instant::now();
        let written = Group::write(shelf, group);
        // Before anyone is told, so that nobody is counted twice.
        let may_come = requests.len() + written.appends();
        written.tell();
        let patience = (begin.elapsed() / PATIENCE).min(PATIENCE_MAX);
        expected = (may_come, Instant::now() + patience);
    }
}

impl Request {
    fn bytes(&self) -> usize {
        match &self.work {
            Work::Append(batch, _) => batch_bytes(batch),
            Work::Tiles { tiles, .. } => tiles_bytes(tiles),
        }
    }
}

/// What a batch takes of the queue.
pub(super) fn batch_bytes(batch: &EventBatch) -> usize {
    let events = batch.events.iter().map(event_bytes);
    let offsets = batch.offsets.iter();
    let offsets = offsets.map(|at| EVENT_BYTES + at.consumer.len() + at.offset.len());
    events.sum::<usize>() + offsets.sum::<usize>()
}

pub(super) fn event_bytes(event: &NewEvent) -> usize {
    // Each further key of an index is an entry of its own, payload and all.
    let further = event.keys.iter().map(|keys| keys.len().saturating_sub(1));
    let further = further.sum::<usize>() * (EVENT_BYTES + event.payload.len());
    let keys = event.keys.iter().flatten().map(bytes::Bytes::len);
    let dedup = event.dedup_key.as_ref().map_or(0, bytes::Bytes::len);
    EVENT_BYTES + event.payload.len() + dedup + keys.sum::<usize>() + further
}

pub(super) fn tiles_bytes(tiles: &[NewTile]) -> usize {
    let tiles = tiles.iter();
    tiles
        .map(|tile| EVENT_BYTES + tile.key.len() + tile.value.len())
        .sum()
}

/// What an event has beside its bytes.
const EVENT_BYTES: usize = 64;
