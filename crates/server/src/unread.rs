//! Answers that their callers have not taken yet. They are memory, of which a caller who
//! asks and takes nothing could have as much as it likes.
//!
//! A connection may have as much as is left when it has that: the first that takes nothing
//! gets half of what there may be, the next half of the rest. One answer it may have
//! whatever is left, or those that take nothing would shut out all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use prometheus::IntGauge;

/// Those of all connections.
#[derive(Debug)]
pub(crate) struct Unread {
    bytes: IntGauge,
    bytes_max: i64,
}

/// Those of one.
#[derive(Debug)]
pub(crate) struct UnreadHere {
    all: Arc<Unread>,
    bytes: AtomicUsize,
    /// How often all of them were taken.
    emptied: AtomicU64,
}

impl Unread {
    pub fn new(bytes: IntGauge, bytes_max: u64) -> Arc<Self> {
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        Arc::new(Self { bytes, bytes_max })
    }

    pub fn of_connection(self: &Arc<Self>) -> Arc<UnreadHere> {
        Arc::new(UnreadHere {
            all: Arc::clone(self),
            bytes: AtomicUsize::new(0),
            emptied: AtomicU64::new(0),
        })
    }
}

impl UnreadHere {
    /// Whether there are too many for one more here.
    pub fn is_full(&self) -> bool {
        let left = self.all.bytes_max - self.all.bytes.get();
        let here = self.bytes.load(Ordering::Relaxed);
        here > 0 && here as i64 >= left
    }

    /// How often all of them had been taken before; none if there are none now.
    pub fn emptied(&self) -> Option<u64> {
        let is_any = self.bytes.load(Ordering::Relaxed) > 0;
        is_any.then(|| self.emptied.load(Ordering::Relaxed))
    }

    /// Counts an answer until the last of it is gone.
    pub fn count(self: &Arc<Self>, answer: Bytes) -> Bytes {
        self.bytes.fetch_add(answer.len(), Ordering::Relaxed);
        self.all.bytes.add(answer.len() as i64);
        Bytes::from_owner(Counted {
            answer,
            here: Arc::clone(self),
        })
    }
}

struct Counted {
    answer: Bytes,
    here: Arc<UnreadHere>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let bytes = self.answer.len();
        let before = self.here.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.here.all.bytes.sub(bytes as i64);
        if before == bytes {
            self.here.emptied.fetch_add(1, Ordering::Relaxed);
        }
    }
}
