//! One lock per key: a sandbox, a capture.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Locks that exist while somebody holds or awaits them.
#[derive(Debug)]
pub(crate) struct KeyLocks<K> {
    locks: Mutex<HashMap<K, Arc<AsyncMutex<()>>>>,
}

// === impl KeyLocks ===

impl<K> Default for KeyLocks<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Hash + Eq + Clone> KeyLocks<K> {
    /// Waits for the lock of a key. The guard may be moved to another thread.
    pub(crate) async fn lock(&self, key: &K) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            // A lock that only the table holds is in nobody's hands.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(key.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_has_one_holder_and_the_table_does_not_grow() {
        let locks = KeyLocks::default();
        let held = locks.lock(&1).await;
        let other = locks.lock(&2).await;
        let mut second = std::pin::pin!(locks.lock(&1));
        let early = tokio::time::timeout(std::time::Duration::ZERO, &mut second).await;
        assert!(early.is_err());
        drop((held, other));
        drop(second.await);
        drop(locks.lock(&1).await);
        assert_eq!(locks.locks.lock().len(), 1);
    }
}
