//! The wall clock, read in one place.
//!
//! Durations and deadlines use tokio's clock, which tests can pause; only stamps on the wire need
//! the time of day.
#![allow(
    clippy::disallowed_methods,
    reason = "tarnd must stay small, so it does not link tarn-task; this is its only wall clock"
)]

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the time of day in ms since 1970; 0 if the clock stands before that.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
