//! Time in which the sandbox ran.
//!
//! A frozen, suspended or restored sandbox finds its clock jumped ahead by what it missed:
//! everything that was waited for is late at once, though nobody had a chance to act. Waits that
//! judge somebody (a check's limit, the grace before a kill, the delay before a first check) are
//! therefore measured in slices; a slice that took much too long is waited again.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// A slice that took this much longer held a standstill, or a machine so loaded that it is fair
/// to call it one.
const SLACK: Duration = Duration::from_secs(1);

const SLICE: Duration = Duration::from_secs(1);

/// Of a long wait, so much is one slice.
const MAX_SLICES: u32 = 10;

/// Whether the sandbox stood still during a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// It ran all the time.
    Steady,
    /// It stood still.
    Jumped,
}

/// Waits for `duration` of time in which the sandbox ran.
pub(super) async fn sleep(duration: Duration) {
    let slice = SLICE.max(duration / MAX_SLICES);
    let mut left = duration;
    while !left.is_zero() {
        let step = left.min(slice);
        let began = Instant::now();
        tokio::time::sleep(step).await;
        if began.elapsed() <= step + SLACK {
            left = left.saturating_sub(step);
        }
    }
}

/// Waits for `future`, but not longer than `limit` of time in which the sandbox ran.
pub(super) async fn timeout<T>(
    limit: Duration,
    future: impl Future<Output = T>,
) -> (Option<T>, Clock) {
    let began = Instant::now();
    let outcome = tokio::select! {
        biased;
        outcome = future => Some(outcome),
        () = sleep(limit) => None,
    };
    let clock = if began.elapsed() > limit + SLACK { Clock::Jumped } else { Clock::Steady };
    (outcome, clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUMP: Duration = Duration::from_secs(300);

    /// Polls a wait once, lets the clock jump, and returns how long it waits after that.
    async fn left_after_jump(wait: impl Future<Output = ()>) -> Duration {
        let mut wait = std::pin::pin!(wait);
        tokio::select! {
            biased;
            () = &mut wait => return Duration::ZERO,
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
        }
        tokio::time::advance(JUMP).await;
        let after = Instant::now();
        wait.await;
        after.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_on_a_steady_clock_takes_its_time() {
        for ms in [0, 1, 500, 1000, 1500, 60_000] {
            let (began, duration) = (Instant::now(), Duration::from_millis(ms));
            sleep(duration).await;
            let late = began.elapsed() - duration;
            assert!(late < Duration::from_millis(20), "{ms}: {late:?} late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_standstill_costs_at_most_the_slice_it_hit() {
        for (secs, at_least) in [(1, 1), (5, 5), (10, 10), (60, 60)] {
            let left = left_after_jump(sleep(Duration::from_secs(secs))).await;
            assert!(left >= Duration::from_secs(at_least), "{secs}: {left:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_tells_of_a_standstill() {
        let limit = Duration::from_millis(500);
        let never = std::future::pending::<()>();
        assert_eq!(timeout(limit, never).await, (None, Clock::Steady));
        assert_eq!(timeout(limit, async { 7 }).await, (Some(7), Clock::Steady));
        let jump = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tokio::time::advance(JUMP).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            7
        };
        assert_eq!(timeout(limit, jump).await, (Some(7), Clock::Jumped));
        let jump_and_hang = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            tokio::time::advance(JUMP).await;
            std::future::pending::<()>().await;
        };
        assert_eq!(timeout(limit, jump_and_hang).await, (None, Clock::Jumped));
    }
}
