//! How many snapshots were taken, and what they took.

use std::sync::atomic::{AtomicU64, Ordering};

use tarn_types::{ByteSize, CaptureFacts};

/// What became of snapshots since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SnapshotCounts {
    /// Snapshots that were taken, those for copies included.
    pub taken: u64,
    /// Snapshots that failed.
    pub failed: u64,
    /// Snapshots that were deleted while they were being taken.
    pub cancelled: u64,
    /// The bytes that the taken ones occupied.
    pub bytes: u64,
    /// How long those took from order to answer, in milliseconds, summed up.
    pub duration_millis: u64,
    /// How long their sources stood still, in microseconds, summed up.
    pub standstill_micros: u64,
    /// The longest that a source stood still, in microseconds.
    pub standstill_micros_max: u64,
    /// Sandboxes made by copies.
    pub copies: u64,
    /// Times that a snapshot was read and was what was taken.
    pub sound: u64,
    /// Snapshots that were found damaged.
    pub damaged: u64,
    /// Times that a snapshot could not be read.
    pub unverified: u64,
    /// The bytes of those that were read and sound.
    pub verified_bytes: u64,
}

/// Counts snapshots.
#[derive(Debug, Default)]
pub(crate) struct SnapshotCounters {
    taken: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    bytes: AtomicU64,
    duration_millis: AtomicU64,
    standstill_micros: AtomicU64,
    standstill_micros_max: AtomicU64,
    copies: AtomicU64,
    sound: AtomicU64,
    damaged: AtomicU64,
    unverified: AtomicU64,
    verified_bytes: AtomicU64,
}

// === impl SnapshotCounters ===

impl SnapshotCounters {
    pub(crate) fn taken(&self, facts: &CaptureFacts, duration_millis: u64) {
        add(&self.taken, 1);
        add(&self.bytes, facts.size.bytes());
        add(&self.duration_millis, duration_millis);
        add(&self.standstill_micros, facts.standstill_micros);
        self.standstill_micros_max.fetch_max(facts.standstill_micros, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(crate) fn cancelled(&self) {
        add(&self.cancelled, 1);
    }

    pub(crate) fn copied(&self, sandboxes: u64) {
        add(&self.copies, sandboxes);
    }

    pub(crate) fn sound(&self, read: ByteSize) {
        add(&self.sound, 1);
        add(&self.verified_bytes, read.bytes());
    }

    pub(crate) fn damaged(&self) {
        add(&self.damaged, 1);
    }

    pub(crate) fn unverified(&self) {
        add(&self.unverified, 1);
    }

    pub(crate) fn now(&self) -> SnapshotCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SnapshotCounts {
            taken: get(&self.taken),
            failed: get(&self.failed),
            cancelled: get(&self.cancelled),
            bytes: get(&self.bytes),
            duration_millis: get(&self.duration_millis),
            standstill_micros: get(&self.standstill_micros),
            standstill_micros_max: get(&self.standstill_micros_max),
            copies: get(&self.copies),
            sound: get(&self.sound),
            damaged: get(&self.damaged),
            unverified: get(&self.unverified),
            verified_bytes: get(&self.verified_bytes),
        }
    }
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
