//! Work on threads of its own, which ends soon after nobody waits for it any more.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tarn_task::Tasks;

use crate::workshop::StepError;

/// Tells work to stop when it is dropped.
struct GivenUp(Arc<AtomicBool>);

/// Does work that blocks or computes for long. What it is given is set when the future is dropped,
/// as a build's is at its deadline and when it is cancelled: nothing else can stop a thread.
pub(crate) async fn aside<T: Send + 'static>(
    tasks: &Tasks,
    work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
) -> Result<T, StepError> {
    let stop = Arc::new(AtomicBool::new(false));
    let _given_up = GivenUp(Arc::clone(&stop));
    let done = tasks.spawn_blocking(move || work(&stop)).await;
    done.map_err(|lost| StepError::Internal(lost.to_string()))
}

// === impl GivenUp ===

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_ends_when_nobody_waits_for_it() {
        let tasks = Tasks::new();
        assert_eq!(aside(&tasks, |stop| stop.load(Ordering::Relaxed)).await, Ok(false));
        let (begin, begun) = oneshot::channel();
        let endless = aside(&tasks, |stop| {
            begin.send(()).expect("somebody listens");
            while !stop.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
        });
        tokio::select! {
            _ended = endless => panic!("it has no end"),
            heard = begun => heard.expect("it begins"),
        }
        assert_eq!(tasks.shutdown(Duration::from_secs(10)).await, 0);
    }
}
