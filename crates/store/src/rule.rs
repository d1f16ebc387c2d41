//! What holds for every stored sandbox and snapshot, whichever store keeps it.
//!
//! A record that breaks one of these is a fault of the caller's, so the answer is
//! [`StoreError::Internal`] and nothing is written.

use tarn_types::{PoolRecord, SandboxRecord, SandboxStatus, SnapshotRecord, UnixMillis};

use crate::StoreError;

/// The part of a stored sandbox that an update must respect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The project it belongs to, as text.
    pub project: &'a str,
    /// When it was accepted.
    pub created_at: UnixMillis,
    /// When it ended, if it has.
    pub terminated_at: Option<UnixMillis>,
    /// Whether it waited in a pool to be claimed.
    pub unclaimed: bool,
}

/// The part of a stored pool that an update must respect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPool<'a> {
    /// The project it belongs to, as text.
    pub project: &'a str,
    /// When it was made.
    pub created_at: UnixMillis,
}

/// The part of a stored snapshot that an update must respect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot<'a> {
    /// The project it belongs to, as text.
    pub project: &'a str,
    /// What it was taken of, as text.
    pub sandbox: &'a str,
    /// When it was asked for.
    pub created_at: UnixMillis,
}

/// Checks that a record agrees with itself and with the status given along with it.
///
/// # Errors
/// `Internal` when `terminated_at`, `end` and a terminated status do not come together.
pub fn check_record(record: &SandboxRecord, status: SandboxStatus) -> Result<(), StoreError> {
    let ended = record.terminated_at.is_some();
    if record.end.is_some() != ended {
        return Err(broken(record, "has only one of `end` and `terminated_at`"));
    }
    if status.is_terminal() != ended {
        return Err(broken(record, "has a status that contradicts `terminated_at`"));
    }
    Ok(())
}

/// Checks that a record may take the place of the stored one.
///
/// # Errors
/// `Internal` when the project changed, the time of creation did by anything but a claim, or an
/// ended or claimed sandbox came back.
pub fn check_change(stored: &Stored<'_>, record: &SandboxRecord) -> Result<(), StoreError> {
    if stored.project != record.project.as_str() {
        return Err(broken(record, "moved to another project"));
    }
    if !stored.unclaimed && record.is_unclaimed() {
        return Err(broken(record, "went back to its pool"));
    }
    let claim = stored.unclaimed && !record.is_unclaimed();
    if stored.created_at != record.created_at && !claim {
        return Err(broken(record, "changed its `created_at`"));
    }
    if stored.terminated_at.is_some() && record.terminated_at.is_none() {
        return Err(broken(record, "came back after its end"));
    }
    Ok(())
}

/// Checks that a snapshot's record may take the place of the stored one.
///
/// # Errors
/// `Internal` when the project, the sandbox or the time of creation changed.
pub fn check_snapshot_change(
    stored: &StoredSnapshot<'_>,
    record: &SnapshotRecord,
) -> Result<(), StoreError> {
    let how = if stored.project != record.project.as_str() {
        "moved to another project"
    } else if stored.sandbox != record.sandbox.as_str() {
        "moved to another sandbox"
    } else if stored.created_at != record.created_at {
        "changed its `created_at`"
    } else {
        return Ok(());
    };
    Err(StoreError::Internal { detail: format!("the record of snapshot {} {how}", record.id) })
}

/// Checks that a pool's record may take the place of the stored one.
///
/// # Errors
/// `Internal` when the project or the time of creation changed.
pub fn check_pool_change(stored: &StoredPool<'_>, record: &PoolRecord) -> Result<(), StoreError> {
    let how = if stored.project != record.project.as_str() {
        "moved to another project"
    } else if stored.created_at != record.created_at {
        "changed its `created_at`"
    } else {
        return Ok(());
    };
    Err(StoreError::Internal { detail: format!("the record of pool {} {how}", record.id) })
}

fn broken(record: &SandboxRecord, how: &str) -> StoreError {
    StoreError::Internal { detail: format!("the record of sandbox {} {how}", record.id) }
}
