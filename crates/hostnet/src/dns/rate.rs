//! Bounds how often one sandbox asks. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Questions at once, and questions a second in the long run. An installer asks for dozens; a
/// tunnel needs thousands.
const BURST: u32 = 1000;
const PER_SECOND: u32 = 200;

/// Questions that may still be asked.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    counted: Instant,
}

// === impl Allowance ===

impl Allowance {
    /// Starts with a full allowance.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, counted: now }
    }

    /// Takes one question out, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let each = Duration::from_secs(1) / PER_SECOND;
        let earned = now.saturating_duration_since(self.counted).as_millis() / each.as_millis();
        if let Ok(earned) = u32::try_from(earned)
            && earned < BURST
        {
            self.left = (self.left + earned).min(BURST);
            self.counted += each * earned;
        } else {
            *self = Self::new(now);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let taken = (0..5000).filter(|_| allowance.take(start)).count();
        assert_eq!(taken, 1000);
        let mut taken = 0;
        for millis in 0..1000 {
            let now = start + Duration::from_millis(millis);
            taken += u32::from(allowance.take(now)) + u32::from(allowance.take(now));
        }
        assert!((195..=200).contains(&taken), "{taken}");
        let much_later = start + Duration::from_secs(1 << 40);
        assert_eq!((0..5000).filter(|_| allowance.take(much_later)).count(), 1000);
    }
}
