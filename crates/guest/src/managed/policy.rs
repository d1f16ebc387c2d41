//! When a process that ended is started again: pure arithmetic.
//!
//! The pause doubles from the first to the longest. A run that lasted longer than the longest
//! pause was a good one, so the next pause is the first again. `max_restarts` is a budget of
//! automatic restarts that a good run does not refill: a process that fails once an hour is to
//! stop one day, if its caller said so. Only a caller refills it, by asking for a restart.

use std::time::Duration;

use tarn_daemon_api::{RestartConfig, RestartPolicy};

/// Whether an end calls for a restart under `on_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It exited with 0.
    Success,
    /// It exited with something else, by a signal, did not start, or was found unwell.
    Failure,
}

/// The restarts of one managed process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Restarts {
    config: RestartConfig,
    /// Automatic ones, since a caller asked last.
    spent: u32,
    /// Doublings of the pause.
    streak: u32,
    closed: bool,
}

// === impl Restarts ===

impl Restarts {
    pub(super) fn new(config: RestartConfig) -> Self {
        Self { config, spent: 0, streak: 0, closed: false }
    }

    /// Returns the pause before the next restart, or none if there is none. Spends nothing.
    pub(super) fn after(&mut self, outcome: Outcome, ran: Duration) -> Option<Duration> {
        let wanted = match (self.config.policy, outcome) {
            (RestartPolicy::Never, _) | (RestartPolicy::OnFailure, Outcome::Success) => false,
            (RestartPolicy::OnFailure, Outcome::Failure) | (RestartPolicy::Always, _) => true,
        };
        let left = self.config.max_restarts.is_none_or(|max| self.spent < max);
        if !wanted || !left || self.closed {
            return None;
        }
        let longest = Duration::from_millis(self.config.max_backoff_ms);
        if ran > longest {
            self.streak = 0;
        }
        let first = Duration::from_millis(self.config.initial_backoff_ms);
        let factor = 1_u32.checked_shl(self.streak).unwrap_or(u32::MAX);
        self.streak = self.streak.saturating_add(1);
        Some(first.saturating_mul(factor).min(longest))
    }

    /// Notes an automatic restart.
    pub(super) fn spend(&mut self) {
        self.spent = self.spent.saturating_add(1);
    }

    /// A caller asked for a restart: the budget is whole again and the pause the first.
    pub(super) fn renew(&mut self) {
        (self.spent, self.streak) = (0, 0);
    }

    /// Allows no more automatic restarts: the sandbox is ending.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Outcome::{Failure, Success};
    use RestartPolicy::{Always, Never, OnFailure};

    fn restarts(policy: RestartPolicy, max_restarts: Option<u32>) -> Restarts {
        let (initial_backoff_ms, max_backoff_ms) = (500, 30_000);
        Restarts::new(RestartConfig { policy, max_restarts, initial_backoff_ms, max_backoff_ms })
    }

    #[test]
    fn the_policy_decides() {
        let table = [
            (Never, Success, false),
            (Never, Failure, false),
            (OnFailure, Success, false),
            (OnFailure, Failure, true),
            (Always, Success, true),
            (Always, Failure, true),
        ];
        for (policy, outcome, again) in table {
            let pause = restarts(policy, None).after(outcome, Duration::ZERO);
            assert_eq!(pause.is_some(), again, "{policy:?} {outcome:?}");
            let none = restarts(policy, Some(0)).after(outcome, Duration::ZERO);
            assert_eq!(none, None, "{policy:?} {outcome:?}");
        }
    }

    #[test]
    fn the_pause_doubles_up_to_the_longest_and_begins_anew_after_a_good_run() {
        let mut restarts = restarts(Always, None);
        let mut pauses = |ran_ms: u64, count| {
            let ran = Duration::from_millis(ran_ms);
            std::iter::repeat_with(|| restarts.after(Failure, ran).expect("again").as_millis())
                .take(count)
                .collect::<Vec<_>>()
        };
        assert_eq!(pauses(1000, 8), [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(pauses(30_000, 70), [30_000; 70]);
        assert_eq!(pauses(30_001, 2), [500, 500]);
        assert_eq!(pauses(0, 2), [1000, 2000]);
    }

    #[test]
    fn a_first_pause_beyond_the_longest_is_the_longest() {
        let config = RestartConfig {
            policy: Always,
            max_restarts: None,
            initial_backoff_ms: 5000,
            max_backoff_ms: 100,
        };
        let pause = Restarts::new(config).after(Failure, Duration::ZERO);
        assert_eq!(pause, Some(Duration::from_millis(100)));
    }

    #[test]
    fn the_budget_is_spent_refilled_by_request_and_closed() {
        let mut restarts = restarts(Always, Some(2));
        for _ in 0..2 {
            assert!(restarts.after(Failure, Duration::ZERO).is_some());
            restarts.spend();
        }
        assert_eq!(restarts.after(Failure, Duration::from_secs(3600)), None);
        restarts.renew();
        assert_eq!(restarts.after(Failure, Duration::ZERO), Some(Duration::from_millis(500)));
        restarts.close();
        assert_eq!(restarts.after(Failure, Duration::ZERO), None);
    }
}
