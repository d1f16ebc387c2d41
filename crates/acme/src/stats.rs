//! What is counted; the server renders it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// Counts what becomes of tries.
#[derive(Debug, Default)]
pub struct AcmeStats {
    pub(crate) issued: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) next_try_ms: AtomicI64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AcmeCounts {
    /// Certificates that were issued since the start.
    pub issued: u64,
    /// Tries that failed since the start.
    pub failed: u64,
    /// When the next try is, in milliseconds of Unix time.
    pub next_try_ms: i64,
}

// === impl AcmeStats ===

impl AcmeStats {
    /// Reads every counter.
    #[must_use]
    pub fn counts(&self) -> AcmeCounts {
        AcmeCounts {
            issued: self.issued.load(Relaxed),
            failed: self.failed.load(Relaxed),
            next_try_ms: self.next_try_ms.load(Relaxed),
        }
    }
}
