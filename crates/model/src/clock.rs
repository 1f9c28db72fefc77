//! The only place that reads the wall clock.
//!
//! Everything that needs "now" takes a [`Clock`], so that tests decide what
//! time it is.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::UtcMicros;

/// Tells the time, in UTC microseconds.
pub trait Clock: Debug + Send + Sync + 'static {
    fn now(&self) -> UtcMicros;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that may")]
    fn now(&self) -> UtcMicros {
        UtcMicros(chrono::Utc::now().timestamp_micros())
    }
}

/// A clock that stands still until it is set.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn new(now: UtcMicros) -> Self {
        Self(AtomicI64::new(now.0))
    }

    pub fn set(&self, now: UtcMicros) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UtcMicros {
        UtcMicros(self.0.load(Ordering::SeqCst))
    }
}
