//! One lock per sandbox.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tarn_types::SandboxId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks that exist while somebody holds or awaits them.
#[derive(Debug, Default)]
pub(crate) struct IdLocks {
    locks: Mutex<HashMap<SandboxId, Arc<AsyncMutex<()>>>>,
}

// === impl IdLocks ===

impl IdLocks {
    /// Waits for the lock of a sandbox. The guard may be moved to another thread.
    pub(crate) async fn lock(&self, id: &SandboxId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            // A lock that only the table holds is in nobody's hands.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(id.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sandbox_has_one_holder_and_the_table_does_not_grow() {
        let locks = IdLocks::default();
        let [one, two] = [1, 2].map(|byte| SandboxId::from_random([byte; 21]));
        let held = locks.lock(&one).await;
        let other = locks.lock(&two).await;
        let mut second = std::pin::pin!(locks.lock(&one));
        let early = tokio::time::timeout(std::time::Duration::ZERO, &mut second).await;
        assert!(early.is_err());
        drop((held, other));
        drop(second.await);
        drop(locks.lock(&one).await);
        assert_eq!(locks.locks.lock().len(), 1);
    }
}
