//! Named, counted background tasks with one shutdown.

use std::{future::Future, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::Instrument as _;

/// Spawns tasks, tells them to stop, and waits for them.
///
/// Clones share the same set.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// Makes an empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task under a name that shows in every log line of it.
    ///
    /// The task must return soon after [`Tasks::stopping`] resolves, unless it finishes by itself.
    #[allow(clippy::disallowed_methods, reason = "this is the seam itself")]
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!("task", name);
        self.tracker.spawn(future.instrument(span))
    }

    /// Runs blocking work on the blocking pool, counted like a task.
    pub fn spawn_blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.tracker.spawn_blocking(work)
    }

    /// Resolves when shutdown begins.
    pub fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    /// Says whether shutdown has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells every task to stop, without waiting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Tells every task to stop and waits at most `deadline` for them.
    ///
    /// Returns how many were still running then.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        _ = tokio::time::timeout(deadline, self.tracker.wait()).await;
        self.tracker.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_those_that_listen_and_counts_those_that_do_not() {
        let tasks = Tasks::new();
        tasks.spawn("listens", tasks.stopping());
        tasks.spawn("deaf", std::future::pending::<()>());
        assert_eq!(tasks.shutdown(Duration::from_secs(1)).await, 1);
        assert!(tasks.is_stopping());
    }
}
