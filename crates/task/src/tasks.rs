//! Named, counted background tasks with one shutdown.

use std::{future::Future, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tracing::Instrument as _;

/// Spawns tasks, tells them to stop, and waits for them.
///
/// Clones share the same set. Whoever spawns, a task runs where the set was made, unless it is said
/// otherwise: what works on behalf of a caller may outlive the caller's runtime.
#[derive(Debug, Clone)]
pub struct Tasks {
    /// None if it was made outside of any runtime.
    home: Option<Handle>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// Makes an empty set.
    #[must_use]
    pub fn new() -> Self {
        let home = Handle::try_current().ok();
        Self { home, tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Spawns a task under a name that shows in every log line of it.
    ///
    /// The task must return soon after [`Tasks::stopping`] resolves, unless it finishes by itself.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match &self.home {
            Some(home) => self.spawn_on(home, name, future),
            None => self.spawn_here(name, future),
        }
    }

    /// Spawns a task like [`Tasks::spawn`] where the caller runs: for what belongs to the caller,
    /// and uses its sockets.
    #[allow(clippy::disallowed_methods, reason = "this is the seam itself")]
    pub fn spawn_here<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!("task", name);
        self.tracker.spawn(future.instrument(span))
    }

    /// Spawns a task like [`Tasks::spawn`] on a runtime.
    pub fn spawn_on<F>(
        &self,
        runtime: &Handle,
        name: &'static str,
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let span = tracing::debug_span!("task", name);
        self.tracker.spawn_on(future.instrument(span), runtime)
    }

    /// Runs blocking work on the blocking pool, counted like a task.
    pub fn spawn_blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        match &self.home {
            Some(home) => self.tracker.spawn_blocking_on(work, home),
            None => self.tracker.spawn_blocking(work),
        }
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
    /// Returns how many were still running then; none if there was a moment without any.
    pub async fn shutdown(&self, deadline: Duration) -> usize {
        self.stop.cancel();
        self.tracker.close();
        match tokio::time::timeout(deadline, self.tracker.wait()).await {
            // Somebody who is no task of these may have spawned another since.
            Ok(()) => 0,
            Err(_elapsed) => self.tracker.len(),
        }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_runs_where_the_set_was_made() {
        let tasks = Tasks::new();
        let elsewhere = std::thread::spawn({
            let tasks = tasks.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                runtime.expect("a runtime").block_on(async {
                    let here = || async { Handle::current().id() };
                    let at_home = tasks.spawn("at-home", here());
                    let with_caller = tasks.spawn_here("with-the-caller", here());
                    let blocking = tasks.spawn_blocking(|| Handle::current().id());
                    let told = tasks.spawn_on(&Handle::current(), "where-it-is-told", here());
                    let caller = Handle::current().id();
                    assert_eq!(with_caller.await.expect("no panic"), caller);
                    assert_eq!(told.await.expect("no panic"), caller);
                    [at_home.await.expect("no panic"), blocking.await.expect("no panic")]
                })
            }
        });
        // The work needs this thread, which therefore must not wait for the other.
        let joined = tokio::task::spawn_blocking(|| elsewhere.join());
        let ran_at = joined.await.expect("no panic").expect("no panic there");
        assert_eq!(ran_at, [Handle::current().id(); 2]);
        assert_eq!(tasks.shutdown(Duration::from_secs(1)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_for_those_that_listen_and_counts_those_that_do_not() {
        let tasks = Tasks::new();
        tasks.spawn("listens", tasks.stopping());
        tasks.spawn("deaf", std::future::pending::<()>());
        assert_eq!(tasks.shutdown(Duration::from_secs(1)).await, 1);
        assert!(tasks.is_stopping());
    }
}
