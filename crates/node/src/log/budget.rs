//! How fast one sandbox's lines are read.

use std::time::Duration;

use tokio::time::Instant;

/// What a sandbox may print into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRate {
    /// Bytes a second, over time.
    pub bytes_per_sec: u64,
    /// Bytes that may come at once after a silence.
    pub burst_bytes: u64,
}

/// A bucket that fills with time; a batch may overdraw it, and then the next one waits.
#[derive(Debug)]
pub(super) struct Budget {
    rate: LogRate,
    /// Bytes that may still come; negative after an overdraft.
    left: i128,
    at: Instant,
}

// === impl Budget ===

impl Budget {
    /// Begins full.
    pub(super) fn new(rate: LogRate, now: Instant) -> Self {
        Self { rate, left: i128::from(rate.burst_bytes), at: now }
    }

    /// Takes what a batch cost.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) {
        self.fill(now);
        self.left -= i128::from(bytes);
    }

    /// Returns how long the next batch must wait.
    pub(super) fn pause(&mut self, now: Instant) -> Duration {
        self.fill(now);
        let debt = u64::try_from(-self.left).unwrap_or(0);
        Duration::from_millis(debt.saturating_mul(1000) / self.rate.bytes_per_sec.max(1))
    }

    fn fill(&mut self, now: Instant) {
        let micros = now.saturating_duration_since(self.at).as_micros();
        let earned = i128::try_from(micros).unwrap_or(i128::MAX / 2) / 1000
            * i128::from(self.rate.bytes_per_sec)
            / 1000;
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(i128::from(self.rate.burst_bytes));
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: LogRate = LogRate { bytes_per_sec: 1000, burst_bytes: 5000 };

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let begun = Instant::now();
        let mut budget = Budget::new(RATE, begun);
        let table = [
            // At ms, bytes, and the pause that follows in ms.
            (0, 5000, 0),
            (0, 500, 500),
            (500, 1000, 1000),
            (1500, 3000, 3000),
            // It was silent: the debt is paid and half a second earned.
            (5000, 0, 0),
            (5000, 600, 100),
            // However long it is silent, only the burst is saved.
            (60_000, 5000, 0),
            (60_000, 1, 1),
        ];
        for (at_ms, bytes, pause_ms) in table {
            let now = begun + Duration::from_millis(at_ms);
            budget.spend(bytes, now);
            assert_eq!(budget.pause(now), Duration::from_millis(pause_ms), "{at_ms} {bytes}");
        }
    }

    #[test]
    fn a_rate_of_zero_waits_and_does_not_divide() {
        let now = Instant::now();
        let mut budget = Budget::new(LogRate { bytes_per_sec: 0, burst_bytes: 0 }, now);
        budget.spend(u64::MAX, now);
        assert!(budget.pause(now) > Duration::from_secs(1_000_000));
    }
}
