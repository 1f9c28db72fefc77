//! Frees memtables where nobody waits for it.
//!
//! fjall lets go of a memtable that was flushed under the lock that every append
//! takes, and to free its many nodes takes a tenth of a second. So this thread
//! holds each memtable too, and is the last to let go.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::AbstractTree;

use super::shelf::Spaces;
use crate::error::StoreError;

/// Much less than a memtable takes to fill.
const PERIOD: Duration = Duration::from_millis(50);

/// Ends, with the thread, when it is dropped.
#[derive(Debug)]
pub(super) struct MemtableKeeper {
    open: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MemtableKeeper {
    pub(super) fn start(spaces: &Spaces) -> Result<Self, StoreError> {
        let spaces = spaces.all().map(Clone::clone);
        let (open, closed) = sync_channel(1);
        let active = move || spaces.each_ref().map(|space| space.tree.active_memtable());
        let thread = std::thread::Builder::new()
            .name("granary-memtables".to_owned())
            .spawn(move || keep(active, &closed))
            .map_err(|e| StoreError::Backend(format!("the thread that frees memtables: {e}")))?;
        Ok(Self {
            open: Some(open),
            thread: Some(thread),
        })
    }
}

impl Drop for MemtableKeeper {
    fn drop(&mut self) {
        self.open = None;
        if let Some(thread) = self.thread.take() {
            // It has no panic of its own to tell of.
            let _ = thread.join();
        }
    }
}

fn keep<M, const N: usize>(active: impl Fn() -> [Arc<M>; N], closed: &Receiver<()>) {
    let mut held: Vec<Arc<M>> = Vec::new();
    while closed.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
        for memtable in active() {
            if !held.iter().any(|known| Arc::ptr_eq(known, &memtable)) {
                held.push(memtable);
            }
        }
        held.retain(|memtable| Arc::strong_count(memtable) > 1);
    }
}
