//! The bound on what a client may send to a terminal (spec 05 §4: 1 MiB a second). Pure.

use std::time::Duration;

/// What may come within a second, and at once after a pause.
pub(crate) const BYTES_PER_SECOND: u64 = 1 << 20;

/// What a client may still send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputRate {
    allowance: u64,
    at: Duration,
}

// === impl InputRate ===

impl InputRate {
    /// Begins with a full second's worth.
    pub(crate) fn new() -> Self {
        Self { allowance: BYTES_PER_SECOND, at: Duration::ZERO }
    }

    /// Notes bytes; false if they are too many. `now` counts from any fixed moment.
    pub(crate) fn take(&mut self, bytes: usize, now: Duration) -> bool {
        let micros = u64::try_from(now.saturating_sub(self.at).as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(BYTES_PER_SECOND) / 1_000_000;
        self.at = now;
        self.allowance = self.allowance.saturating_add(gained).min(BYTES_PER_SECOND);
        match self.allowance.checked_sub(bytes as u64) {
            Some(left) => {
                self.allowance = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mebibyte_a_second_is_allowed_and_more_is_not() {
        let chunk = 64 << 10;
        let mut rate = InputRate::new();
        // 16 at once, then 16 a second.
        for number in 0..16 {
            assert!(rate.take(chunk, Duration::ZERO), "{number}");
        }
        assert!(!rate.take(1, Duration::ZERO));
        let mut rate = InputRate::new();
        for number in 0..200_u32 {
            assert!(rate.take(chunk, Duration::from_millis(63) * number), "{number}");
        }
        // Nothing is saved up for later.
        assert!(rate.take(1 << 20, Duration::from_secs(1000)));
        assert!(!rate.take(chunk, Duration::from_secs(1000)));
    }
}
