//! How much of the cores a caller's connections have to read its requests: one that
//! floods on many of them would have as many turns for one of another's.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::CallerId;
use crate::settings::ServerSettings;

/// What is not read in one is in the next. Who asks for little waits for a caller's share
/// of one, and the system's timer is as coarse as a millisecond.
const PERIOD: Duration = Duration::from_millis(4);

/// Time that callers' connections took in this period.
#[derive(Debug)]
pub(super) struct Reading {
    began: Instant,
    spent: HashMap<CallerId, Duration>,
    /// The most that one caller's may take.
    most: Duration,
}

impl Reading {
    pub fn new(settings: &ServerSettings, workers: usize) -> Self {
        let cores = u32::try_from(workers).unwrap_or(u32::MAX);
        Self {
            began: Instant::now(),
            spent: HashMap::new(),
            most: PERIOD.mul_f64(settings.caller_share_max) * cores,
        }
    }

    /// When a caller's connections may take more time, if not at once.
    pub fn held_until(&mut self, caller: CallerId, now: Instant) -> Option<Instant> {
        self.begin_period(now);
        let spent = self.spent.get(&caller);
        let is_held = spent.is_some_and(|spent| *spent >= self.most);
        is_held.then(|| self.began + PERIOD)
    }

    /// Counts what a connection's turn took.
    pub fn spend(&mut self, caller: CallerId, time: Duration, now: Instant) {
        self.begin_period(now);
        *self.spent.entry(caller).or_default() += time;
    }

    /// A new one, if the last is over.
    fn begin_period(&mut self, now: Instant) {
        if now.saturating_duration_since(self.began) >= PERIOD {
            self.began = now;
            self.spent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_callers_connections_have_its_share_of_each_period() {
        let settings = ServerSettings {
            caller_share_max: 0.25,
            ..ServerSettings::default()
        };
        let mut reading = Reading::new(&settings, 2);
        let (flooder, quiet) = (CallerId(1), CallerId(2));
        let millis = Duration::from_millis;
        advance(millis(1)).await;
        let mut spend = |time| {
            reading.spend(flooder, time, Instant::now());
            let mut held = |caller| reading.held_until(caller, Instant::now());
            (held(flooder), held(quiet))
        };
        assert_eq!(spend(millis(1)), (None, None));
        let over = Instant::now() + millis(3);
        assert_eq!(spend(millis(1)), (Some(over), None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_spent_is_forgotten_with_its_period() {
        let mut reading = Reading::new(&ServerSettings::default(), 1);
        let caller = CallerId(1);
        reading.spend(caller, PERIOD, Instant::now());
        let until = reading.held_until(caller, Instant::now()).unwrap();
        advance(until - Instant::now()).await;
        assert_eq!(reading.held_until(caller, Instant::now()), None);
    }
}
