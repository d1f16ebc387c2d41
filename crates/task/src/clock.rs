//! The wall clock as a seam.

use std::sync::atomic::{AtomicI64, Ordering};

use tarn_types::UnixMillis;

/// Tells the wall-clock time.
///
/// Durations and timers use `tokio::time`, which tests pause.
pub trait Clock: Send + Sync + 'static {
    /// Returns the time now.
    fn now(&self) -> UnixMillis;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

/// A clock that moves only when told; for tests and simulation.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

// === impl SystemClock ===

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam itself")]
    fn now(&self) -> UnixMillis {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        UnixMillis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// Starts a clock at a time.
    #[must_use]
    pub fn at(start: UnixMillis) -> Self {
        Self(AtomicI64::new(start.0))
    }

    /// Moves the clock forward.
    pub fn advance_millis(&self, millis: i64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }
}
