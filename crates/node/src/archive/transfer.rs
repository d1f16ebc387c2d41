//! The transfers under way, and what became of those before.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tarn_host::Progress;
use tarn_node_api::{Direction, Transfer};
use tarn_types::{ByteSize, SnapshotId};
use tokio::sync::{Semaphore, watch};

use super::millis;

/// How many uploads go on at once: beside running sandboxes more would only be in the way.
const UPLOADS: usize = 2;

const NOTHING: Progress =
    Progress { done: ByteSize::from_bytes(0), total: ByteSize::from_bytes(0) };

/// What became of transfers since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransferCounts {
    /// Uploads that wait for their turn.
    pub queued: u64,
    /// Uploads that go on.
    pub uploading: u64,
    /// Fetches that go on.
    pub fetching: u64,
    /// Uploads.
    pub uploads: DirectionCounts,
    /// Fetches.
    pub fetches: DirectionCounts,
    /// Removals that failed.
    pub removals_failed: u64,
}

/// What became of the transfers in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirectionCounts {
    /// Those that were done.
    pub done: u64,
    /// Those that failed.
    pub failed: u64,
    /// The bytes that went over the wire for uploads, and those of the captures for fetches.
    pub bytes: u64,
    /// How long those that were done took, in milliseconds, summed up.
    pub millis: u64,
}

/// The transfers of a node.
#[derive(Debug)]
pub(crate) struct Transfers {
    jobs: Mutex<BTreeMap<(Direction, SnapshotId), Job>>,
    /// Counts the jobs that ended, for those who wait for one.
    ended: watch::Sender<u64>,
    pub(super) turns: Semaphore,
    pub(super) uploads: Counters,
    pub(super) fetches: Counters,
    pub(super) removals_failed: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) active: bool,
    progress: Progress,
    cancelled: watch::Sender<bool>,
    /// How many share it: fetches of several starts.
    shares: usize,
}

/// A job's entry, as long as it lives.
pub(super) struct Entered<'a> {
    transfers: &'a Transfers,
    key: (Direction, SnapshotId),
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    done: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    millis: AtomicU64,
}

// === impl Transfers ===

impl Transfers {
    pub(crate) fn new() -> Self {
        Self {
            jobs: Mutex::default(),
            ended: watch::Sender::new(0),
            turns: Semaphore::new(UPLOADS),
            uploads: Counters::default(),
            fetches: Counters::default(),
            removals_failed: AtomicU64::new(0),
        }
    }

    pub(crate) fn counts(&self) -> TransferCounts {
        let jobs = self.jobs.lock();
        let count = |direction, active| {
            let found =
                jobs.iter().filter(|((is, _), job)| *is == direction && job.active == active);
            u64::try_from(found.count()).unwrap_or(u64::MAX)
        };
        TransferCounts {
            queued: count(Direction::Upload, false),
            uploading: count(Direction::Upload, true),
            fetching: count(Direction::Fetch, true),
            uploads: self.uploads.now(),
            fetches: self.fetches.now(),
            removals_failed: self.removals_failed.load(Ordering::Relaxed),
        }
    }

    pub(super) fn list(&self) -> Vec<Transfer> {
        let jobs = self.jobs.lock();
        let transfer = |((direction, snapshot), job): (&(Direction, SnapshotId), &Job)| Transfer {
            snapshot: snapshot.clone(),
            direction: *direction,
            active: job.active,
            done: job.progress.done,
            total: job.progress.total,
        };
        jobs.iter().map(transfer).collect()
    }

    /// Enters an upload; `None` if there is one of that snapshot.
    pub(super) fn enter_upload(
        &self,
        id: &SnapshotId,
    ) -> Option<(Entered<'_>, watch::Receiver<bool>)> {
        let key = (Direction::Upload, id.clone());
        let mut jobs = self.jobs.lock();
        if jobs.contains_key(&key) {
            return None;
        }
        let (cancelled, seen) = watch::channel(false);
        jobs.insert(key.clone(), Job { active: false, progress: NOTHING, cancelled, shares: 1 });
        Some((Entered { transfers: self, key }, seen))
    }

    pub(super) fn enter_fetch(&self, id: &SnapshotId) -> Entered<'_> {
        let key = (Direction::Fetch, id.clone());
        let mut jobs = self.jobs.lock();
        let job = jobs.entry(key.clone()).or_insert_with(|| {
            let cancelled = watch::Sender::new(false);
            Job { active: true, progress: NOTHING, cancelled, shares: 0 }
        });
        job.shares += 1;
        Entered { transfers: self, key }
    }

    /// Has an upload end soon, if there is one.
    pub(crate) fn cancel(&self, id: &SnapshotId) {
        if let Some(job) = self.jobs.lock().get(&(Direction::Upload, id.clone())) {
            job.cancelled.send_replace(true);
        }
    }

    /// Waits until there is no upload of a snapshot.
    pub(super) async fn until_ended(&self, id: &SnapshotId) {
        let key = (Direction::Upload, id.clone());
        let mut ended = self.ended.subscribe();
        // The sender is `self`'s.
        drop(ended.wait_for(|_| !self.jobs.lock().contains_key(&key)).await);
    }
}

// === impl Entered ===

impl Entered<'_> {
    pub(super) fn change(&self, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.transfers.jobs.lock().get_mut(&self.key) {
            change(job);
        }
    }

    pub(super) fn note(&self, progress: Progress) {
        self.change(|job| job.progress = progress);
    }

    pub(super) fn progress(&self) -> Progress {
        self.transfers.jobs.lock().get(&self.key).map_or(NOTHING, |job| job.progress)
    }

    /// Resolves when the upload is to end, and may: nothing is cut that may make the snapshot whole
    /// in the object store a moment later, after its removal.
    pub(super) async fn may_be_cut(&self, mut cancelled: watch::Receiver<bool>) {
        // The sender goes with the entry, which is held here.
        drop(cancelled.wait_for(|cancelled| *cancelled).await);
        let now = self.progress();
        if now.total.bytes() > 0 && now.done >= now.total {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut jobs = self.transfers.jobs.lock();
        let Some(job) = jobs.get_mut(&self.key) else { return };
        job.shares -= 1;
        if job.shares == 0 {
            jobs.remove(&self.key);
        }
        drop(jobs);
        self.transfers.ended.send_modify(|ended| *ended += 1);
    }
}

// === impl Counters ===

impl Counters {
    pub(super) fn done(&self, bytes: ByteSize, took: Duration) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.bytes(), Ordering::Relaxed);
        self.millis.fetch_add(millis(took), Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> DirectionCounts {
        DirectionCounts {
            done: self.done.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            millis: self.millis.load(Ordering::Relaxed),
        }
    }
}
