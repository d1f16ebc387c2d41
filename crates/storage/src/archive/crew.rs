//! The threads that hash, compress and encrypt: few, so that sandboxes keep the CPUs.

use std::{io, path::PathBuf, sync::Arc};

use tarn_host::{ArchiveError, CaptureError};
use tarn_task::Tasks;
use tokio::sync::Semaphore;

/// Does blocking work for transfers.
#[derive(Debug, Clone)]
pub(super) struct Crew {
    tasks: Tasks,
    hands: Arc<Semaphore>,
}

// === impl Crew ===

impl Crew {
    /// So many work at once.
    pub(super) fn of(hands: usize, tasks: Tasks) -> Self {
        Self { tasks, hands: Arc::new(Semaphore::new(hands)) }
    }

    /// Runs blocking work when there is a hand free for it; refuses when the server is stopping.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ArchiveError> {
        let hand = self.hands.clone().acquire_owned().await.expect("it is never closed");
        if self.tasks.is_stopping() {
            return Err(ended(io::Error::other("the server is stopping")));
        }
        let working = self.tasks.spawn_blocking(move || {
            let _hand = hand;
            work()
        });
        working.await.map_err(|error| ended(io::Error::other(error)))
    }
}

fn ended(source: io::Error) -> ArchiveError {
    let path = PathBuf::from("a snapshot");
    CaptureError::Step { step: "transfer", path, source }.into()
}
