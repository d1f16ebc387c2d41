//! What becomes of a snapshot, and what is to be done about it.
//!
//! ```text
//!  in_progress ─▶ local_ready ─▶ completed      with an object store
//!       │   └──────────────────▶ completed      without one, and for what is made for a copy
//!       └─────▶ failed
//! ```
//!
//! A completed one may be put into an object store that was configured later; it stays completed.

use tarn_types::{Archival, CaptureFacts, SnapshotRecord, SnapshotStatus, UnixMillis};

/// How long a snapshot may take until it is durable on its node (spec 02 §2), in milliseconds.
pub const CAPTURE_LIMIT_MILLIS: u64 = 600_000;

/// The pause after the first failed transfer, in milliseconds; it doubles with each.
const RETRY_FIRST_MILLIS: u64 = 2_000;

/// The longest pause between transfers, in milliseconds.
const RETRY_LONGEST_MILLIS: u64 = 300_000;

/// Whether the node of a snapshot has an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectStore {
    /// It has.
    There,
    /// It has none: snapshots stay where they are.
    Absent,
    /// The node is away, and so is what it knows.
    Unknown,
}

/// Who needs a snapshot that nobody is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Registered images are made of it: it stays, as those do that are shown.
    ByImages,
    /// Nobody, for long.
    ByNobody,
}

/// What is to be done about a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Nothing, for now.
    Nothing,
    /// It took too long: it has failed.
    GiveUp,
    /// Its node is to put it into the object store.
    Archive,
    /// It is where it stays.
    Complete,
    /// It is to be removed everywhere, once nobody needs it.
    Remove,
}

/// Decides what is to be done about a snapshot at a time.
#[must_use]
pub fn care(record: &SnapshotRecord, kept: Kept, store: ObjectStore, now: UnixMillis) -> Care {
    let late = now.millis_since(record.created_at) >= CAPTURE_LIMIT_MILLIS;
    match (record.status, store) {
        // Of a node that is away nobody knows what it did.
        (SnapshotStatus::InProgress, ObjectStore::There | ObjectStore::Absent) if late => {
            Care::GiveUp
        }
        (SnapshotStatus::InProgress, _) => Care::Nothing,
        _ if !stays(record, kept) => Care::Remove,
        (SnapshotStatus::LocalReady, ObjectStore::There) => Care::Archive,
        (SnapshotStatus::LocalReady, ObjectStore::Absent) => Care::Complete,
        (SnapshotStatus::Completed, ObjectStore::There) => match record.archive {
            Archival::Begun => Care::Archive,
            Archival::Nothing | Archival::Whole { .. } => Care::Nothing,
        },
        (SnapshotStatus::LocalReady, ObjectStore::Unknown)
        | (SnapshotStatus::Completed, ObjectStore::Absent | ObjectStore::Unknown)
        | (SnapshotStatus::Failed, _) => Care::Nothing,
    }
}

/// Returns what a snapshot is after its capture; `None` if that was told before.
#[must_use]
pub fn captured(
    before: &SnapshotRecord,
    outcome: &Result<CaptureFacts, String>,
    store: ObjectStore,
) -> Option<SnapshotRecord> {
    if before.status != SnapshotStatus::InProgress {
        return None;
    }
    let (status, facts, error) = match outcome {
        Err(why) => (SnapshotStatus::Failed, None, Some(why.clone())),
        // What is made for a copy is gone soon.
        Ok(facts) if before.hidden || store == ObjectStore::Absent => {
            (SnapshotStatus::Completed, Some(*facts), None)
        }
        Ok(facts) => (SnapshotStatus::LocalReady, Some(*facts), None),
    };
    Some(SnapshotRecord { status, facts, error, ..before.clone() })
}

/// Returns what a snapshot is before its first upload is ordered, so that a removal knows of it;
/// `None` if that is known, or there is to be no upload.
#[must_use]
pub fn begun(before: &SnapshotRecord, kept: Kept) -> Option<SnapshotRecord> {
    let first = before.archive == Archival::Nothing;
    let wanted = stays(before, kept) && before.status.is_ready() && first;
    wanted.then(|| SnapshotRecord { archive: Archival::Begun, ..before.clone() })
}

/// Returns what a snapshot is once it is in the object store; `None` if that is known, or it was
/// deleted meanwhile.
#[must_use]
pub fn archived(before: &SnapshotRecord, kept: Kept, uri: &str) -> Option<SnapshotRecord> {
    let known = matches!(before.archive, Archival::Whole { .. });
    if !stays(before, kept) || known || !before.status.is_ready() {
        return None;
    }
    let archive = Archival::Whole { uri: uri.to_owned() };
    Some(SnapshotRecord { status: SnapshotStatus::Completed, archive, ..before.clone() })
}

/// Returns what a snapshot is that stays on its node; `None` if it is not ready, or completed.
#[must_use]
pub fn completed(before: &SnapshotRecord) -> Option<SnapshotRecord> {
    (before.status == SnapshotStatus::LocalReady)
        .then(|| SnapshotRecord { status: SnapshotStatus::Completed, ..before.clone() })
}

/// Says whether a snapshot is to stay where it is.
fn stays(record: &SnapshotRecord, kept: Kept) -> bool {
    !record.hidden || kept == Kept::ByImages
}

/// Returns how long after its last of so many failures a transfer is tried again, in milliseconds.
#[must_use]
pub fn retry_delay(failures: u32) -> u64 {
    let doubled = RETRY_FIRST_MILLIS.checked_shl(failures.saturating_sub(1).min(32));
    doubled.unwrap_or(u64::MAX).min(RETRY_LONGEST_MILLIS)
}

#[cfg(test)]
mod tests;
