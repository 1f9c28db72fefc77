//! How long to wait before what failed is tried again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);

/// Twice as long each time, up to a bound.
#[derive(Debug)]
pub(super) struct Pause {
    next: Duration,
    longest: Duration,
}

impl Pause {
    pub(super) fn new(longest: Duration) -> Self {
        let longest = longest.max(FIRST);
        Self {
            next: FIRST,
            longest,
        }
    }

    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
