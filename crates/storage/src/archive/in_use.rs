//! Which chunks are in use by uploads of this server, so that none is removed while one counts on
//! it.
//!
//! An upload holds a chunk before it looks whether it is there, until its description is written.
//! Who collects claims what it would remove, and gets only what nobody holds. An upload that ends
//! while somebody collects is remembered until that is over: its description may have come too
//! late to be read. Uploads of other servers are protected by the grace alone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedMutexGuard};

use super::place::ChunkId;

/// Which chunks are in use.
#[derive(Debug, Clone, Default)]
pub(super) struct InUse(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when what was claimed is released.
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    uploads: HashMap<u64, HashSet<ChunkId>>,
    /// What uploads held that ended while somebody collects.
    ended: HashSet<ChunkId>,
    collecting: bool,
    claimed: HashSet<ChunkId>,
}

/// An upload, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadHold {
    shared: Arc<Shared>,
    number: u64,
}

/// A collection, until it is dropped.
#[derive(Debug)]
pub(super) struct CollectHold {
    shared: Arc<Shared>,
    /// There is one at a time.
    _alone: OwnedMutexGuard<()>,
}

/// Whether an upload had a chunk already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Now,
    Before,
}

// === impl InUse ===

impl InUse {
    pub(super) fn upload(&self) -> UploadHold {
        let mut state = self.0.state.lock();
        state.next += 1;
        let number = state.next;
        state.uploads.insert(number, HashSet::new());
        UploadHold { shared: self.0.clone(), number }
    }

    /// Begins to collect, before anything is read of what is needed.
    pub(super) fn collect(&self, alone: OwnedMutexGuard<()>) -> CollectHold {
        self.0.state.lock().collecting = true;
        CollectHold { shared: self.0.clone(), _alone: alone }
    }
}

// === impl UploadHold ===

impl UploadHold {
    /// Holds a chunk, when it is not just being removed.
    pub(super) async fn hold(&self, id: ChunkId) -> Held {
        loop {
            let released = self.shared.released.notified();
            {
                let mut state = self.shared.state.lock();
                if !state.claimed.contains(&id) {
                    let new = state.uploads.entry(self.number).or_default().insert(id);
                    return if new { Held::Now } else { Held::Before };
                }
            }
            released.await;
        }
    }
}

impl Drop for UploadHold {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let held = state.uploads.remove(&self.number).unwrap_or_default();
        if state.collecting {
            state.ended.extend(held);
        }
    }
}

// === impl CollectHold ===

impl CollectHold {
    /// Claims those of some chunks that nobody holds; returns them.
    pub(super) fn claim(&self, ids: impl IntoIterator<Item = ChunkId>) -> HashSet<ChunkId> {
        let mut state = self.shared.state.lock();
        let free = |id: &ChunkId| {
            !state.ended.contains(id) && !state.uploads.values().any(|held| held.contains(id))
        };
        state.claimed = ids.into_iter().filter(free).collect();
        state.claimed.clone()
    }

    /// Releases what was claimed.
    pub(super) fn release(&self) {
        self.shared.state.lock().claimed.clear();
        self.shared.released.notify_waiters();
    }
}

impl Drop for CollectHold {
    fn drop(&mut self) {
        self.release();
        let mut state = self.shared.state.lock();
        state.collecting = false;
        state.ended.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> ChunkId {
        ChunkId::new([byte; 32])
    }

    async fn collect(in_use: &InUse) -> CollectHold {
        in_use.collect(Arc::new(tokio::sync::Mutex::new(())).lock_owned().await)
    }

    #[tokio::test]
    async fn what_an_upload_holds_is_not_claimed() {
        let in_use = InUse::default();
        let (one, two) = (in_use.upload(), in_use.upload());
        assert_eq!(one.hold(id(1)).await, Held::Now);
        assert_eq!(one.hold(id(1)).await, Held::Before);
        assert_eq!(two.hold(id(1)).await, Held::Now);
        drop(one);
        let collecting = collect(&in_use).await;
        assert_eq!(collecting.claim([id(1), id(2)]), HashSet::from([id(2)]));
        collecting.release();
        // It ended while somebody collects.
        drop(two);
        assert_eq!(collecting.claim([id(1)]), HashSet::new());
        drop(collecting);
        assert_eq!(collect(&in_use).await.claim([id(1)]), HashSet::from([id(1)]));
    }

    #[tokio::test]
    async fn an_upload_waits_for_what_is_being_removed() {
        let in_use = InUse::default();
        let collecting = collect(&in_use).await;
        collecting.claim([id(1)]);
        let upload = in_use.upload();
        assert_eq!(upload.hold(id(2)).await, Held::Now);
        let mut held = std::pin::pin!(upload.hold(id(1)));
        let early = tokio::time::timeout(std::time::Duration::ZERO, &mut held).await;
        assert!(early.is_err());
        collecting.release();
        assert_eq!(held.await, Held::Now);
        assert_eq!(collecting.claim([id(1)]), HashSet::new());
        // A collection that is given up releases, too.
        collecting.claim([id(3)]);
        drop(collecting);
        assert_eq!(upload.hold(id(3)).await, Held::Now);
    }
}
