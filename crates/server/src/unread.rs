//! Answers that their callers have not taken yet. They are memory, of which a caller who
//! asks and takes nothing could have as much as it likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
        })
    }
}

impl UnreadHere {
    /// Whether there are too many for one more here. A connection with nothing unread has
    /// one all the same, or who takes nothing would shut out all others; of several at
    /// once they do lose the rest.
    pub fn is_full(&self) -> bool {
        self.all.bytes.get() >= self.all.bytes_max && self.bytes.load(Ordering::Relaxed) > 0
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
        self.here.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.here.all.bytes.sub(bytes as i64);
    }
}
