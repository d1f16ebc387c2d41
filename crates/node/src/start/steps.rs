//! How long the steps of a start take.

use tarn_types::SandboxId;
use tokio::time::Instant;

/// Tells how long the steps of a start take, each from the end of the one before.
pub(super) struct Steps(Instant);

// === impl Steps ===

impl Steps {
    pub(super) fn begin() -> Self {
        Self(Instant::now())
    }

    pub(super) fn end(&mut self, id: &SandboxId, step: &'static str) {
        let duration_us = u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(sandbox.id = %id, step, duration_us, "a step of a start");
        self.0 = Instant::now();
    }
}
