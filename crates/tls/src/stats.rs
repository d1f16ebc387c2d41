//! The counters of handshakes; the server renders them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::AcceptError;

/// Counts what becomes of handshakes.
#[derive(Debug, Default)]
pub struct HandshakeStats {
    done: AtomicU64,
    refused: AtomicU64,
    slow: AtomicU64,
    plain: AtomicU64,
}

/// The counters at one moment. A client that left before it said anything,
/// or had a challenge, is in none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HandshakeCounts {
    /// Handshakes that were finished.
    pub done: u64,
    /// Handshakes that failed: no common version or suite, a certificate the client refused.
    pub refused: u64,
    /// Handshakes that did not end in time.
    pub slow: u64,
    /// Clients that spoke plain HTTP.
    pub plain: u64,
}

// === impl HandshakeStats ===

impl HandshakeStats {
    /// Reads every counter.
    #[must_use]
    pub fn counts(&self) -> HandshakeCounts {
        let read = |counter: &AtomicU64| counter.load(Relaxed);
        HandshakeCounts {
            done: read(&self.done),
            refused: read(&self.refused),
            slow: read(&self.slow),
            plain: read(&self.plain),
        }
    }

    pub(crate) fn count<T>(&self, outcome: &Result<T, AcceptError>) {
        let counter = match outcome {
            Ok(_) => &self.done,
            Err(AcceptError::Handshake(_)) => &self.refused,
            Err(AcceptError::Slow) => &self.slow,
            Err(AcceptError::PlainHttp) => &self.plain,
            Err(AcceptError::Gone | AcceptError::Challenge) => return,
        };
        counter.fetch_add(1, Relaxed);
    }
}
