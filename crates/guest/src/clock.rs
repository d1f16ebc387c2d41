//! The wall clock, read in one place; and waiting that a freeze does not shorten.
//!
//! Durations and deadlines use tokio's clock, which tests can pause; only stamps on the wire need
//! the time of day. A sandbox may be frozen for minutes while the clock goes on: what waits for
//! somebody outside must not take that time for theirs.
#![allow(
    clippy::disallowed_methods,
    reason = "tarnd must stay small, so it does not link tarn-task; this is its only wall clock"
)]

use std::{
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::{Instant, Sleep, sleep};

/// A wait that took this much longer than it should was a freeze.
pub(crate) const TOLERANCE: Duration = Duration::from_secs(5);

/// Long waits are made of these, so that a freeze counts as one of them at most.
pub(crate) const STEP: Duration = Duration::from_secs(30);

/// How an interval passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// As it should.
    Regular,
    /// The sandbox was frozen meanwhile, or the clock jumped.
    Jumped,
}

/// An interval that comes again and again, each counted from the end of the one before.
#[derive(Debug)]
pub(crate) struct Timer {
    interval: Duration,
    begun: Instant,
    sleep: Pin<Box<Sleep>>,
}

// === impl Timer ===

impl Timer {
    /// Begins the first interval.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, begun: Instant::now(), sleep: Box::pin(sleep(interval)) }
    }

    /// Begins a fresh interval.
    pub(crate) fn restart(&mut self) {
        self.begun = Instant::now();
        self.sleep.as_mut().reset(self.begun + self.interval);
    }

    /// Waits for the end of the interval and begins the next. Cancel-safe.
    pub(crate) async fn passed(&mut self) -> Passed {
        self.sleep.as_mut().await;
        let passed = how(self.begun.elapsed(), self.interval);
        self.restart();
        passed
    }
}

/// Waits for a time of which a freeze takes away at most half a minute.
pub(crate) async fn pass(duration: Duration) {
    let mut left = duration;
    while !left.is_zero() {
        let step = left.min(STEP);
        sleep(step).await;
        left -= step;
    }
}

fn how(elapsed: Duration, interval: Duration) -> Passed {
    if elapsed > interval + TOLERANCE { Passed::Jumped } else { Passed::Regular }
}

/// Returns the time of day in ms since 1970; 0 if the clock stands before that.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_took_much_too_long_was_a_freeze() {
        let secs = Duration::from_secs;
        for (elapsed, expected) in [
            (30, Passed::Regular),
            (34, Passed::Regular),
            (36, Passed::Jumped),
            (600, Passed::Jumped),
        ] {
            assert_eq!(how(secs(elapsed), secs(30)), expected, "{elapsed}");
        }
    }
}
