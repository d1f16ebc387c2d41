//! Snapshots and the object store: uploads ordered and tried again, removals done until they are.
//!
//! That an upload is ordered is stored before it is, so that a removal knows what may be there.
//! What failed is remembered here alone: after a restart everything is tried at once.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tarn_lifecycle::{Kept, ObjectStore, archived, begun, retry_delay};
use tarn_node_api::{ArchiveOrder, ArchiveReport, Node, Transfer};
use tarn_store::StoreError;
use tarn_types::{Archival, NodeId, SnapshotId, SnapshotRecord};
use tokio::time::Instant;

use super::settle::Revised;
use crate::{Control, ControlError};

/// What is known of object stores.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArchiveStatus {
    /// Where it is; none if snapshots stay on their nodes.
    pub place: Option<String>,
    /// What goes to and comes from it now.
    pub transfers: Vec<Transfer>,
    /// What failed the last time, and is tried again.
    pub troubles: Vec<ArchiveTrouble>,
}

/// A snapshot that the object store did not take, or does not give up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveTrouble {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// What failed.
    pub attempt: Attempt,
    /// How often in a row.
    pub failures: u32,
    /// Why, the last time.
    pub error: String,
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// To put a snapshot into the object store. It is restorable meanwhile.
    Upload,
    /// To remove a deleted one from it. Nobody is shown it meanwhile.
    Removal,
}

/// What failed, and what is under way.
#[derive(Debug, Default)]
pub(crate) struct ArchiveTries {
    failed: Mutex<BTreeMap<SnapshotId, Failed>>,
    /// The removals under way.
    removing: Mutex<HashSet<SnapshotId>>,
}

#[derive(Debug)]
struct Failed {
    trouble: ArchiveTrouble,
    not_before: Instant,
}

/// A removal under way.
struct Removing {
    control: Control,
    id: SnapshotId,
}

// === impl Attempt ===

impl Attempt {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Removal => "removal",
        }
    }
}

// === impl ArchiveTries ===

impl ArchiveTries {
    /// Says whether something may be tried now.
    fn is_due(&self, id: &SnapshotId, attempt: Attempt) -> bool {
        let failed = self.failed.lock();
        failed
            .get(id)
            .is_none_or(|last| last.trouble.attempt != attempt || last.not_before <= Instant::now())
    }

    /// Notes a failure; returns after which pause it is tried again.
    fn fail(&self, id: &SnapshotId, attempt: Attempt, error: String) -> Duration {
        let mut failed = self.failed.lock();
        let before = failed.get(id).filter(|last| last.trouble.attempt == attempt);
        let failures = before.map_or(0, |last| last.trouble.failures).saturating_add(1);
        let pause = Duration::from_millis(retry_delay(failures));
        let trouble = ArchiveTrouble { snapshot: id.clone(), attempt, failures, error };
        failed.insert(id.clone(), Failed { trouble, not_before: Instant::now() + pause });
        pause
    }

    pub(super) fn forget(&self, id: &SnapshotId) {
        self.failed.lock().remove(id);
    }

    /// Returns how long it is until something is due, at most `longest`.
    pub(crate) fn until_due(&self, longest: Duration) -> Duration {
        let now = Instant::now();
        let failed = self.failed.lock();
        let pauses = failed.values().map(|last| last.not_before.saturating_duration_since(now));
        // What is due already is under way, or its snapshot waits for something else.
        pauses.filter(|pause| !pause.is_zero()).min().unwrap_or(longest).min(longest)
    }

    fn troubles(&self) -> Vec<ArchiveTrouble> {
        self.failed.lock().values().map(|last| last.trouble.clone()).collect()
    }
}

// === impl Removing ===

impl Drop for Removing {
    fn drop(&mut self) {
        self.control.0.archive_tries.removing.lock().remove(&self.id);
    }
}

// === impl Control ===

impl Control {
    /// Returns what is known of the nodes' object store.
    pub async fn archive_status(&self) -> ArchiveStatus {
        let mut status =
            ArchiveStatus { troubles: self.0.archive_tries.troubles(), ..ArchiveStatus::default() };
        for node in self.nodes() {
            if let Some(view) = node.archive_view().await {
                status.place.get_or_insert(view.place);
                status.transfers.extend(view.transfers);
            }
        }
        status
    }

    /// Says whether a node has an object store.
    pub(crate) fn object_store(&self, node: &NodeId) -> ObjectStore {
        match self.node(node) {
            None => ObjectStore::Unknown,
            Some(node) if node.has_archive() => ObjectStore::There,
            Some(_) => ObjectStore::Absent,
        }
    }

    /// Orders the upload of a snapshot, unless it failed a moment ago.
    pub(crate) async fn archive(&self, record: &SnapshotRecord) -> Result<(), ControlError> {
        if !self.0.archive_tries.is_due(&record.id, Attempt::Upload) {
            return Ok(());
        }
        let kept = self.kept(&record.id);
        match self.revise(&record.id, |before| begun(before, kept)).await? {
            Revised::Changed(_) => {}
            Revised::Unchanged(now) if !now.hidden || kept == Kept::ByImages => {}
            Revised::Unchanged(_) | Revised::Gone => return Ok(()),
        }
        let Some(node) = self.node(&record.node) else { return Ok(()) };
        let order = ArchiveOrder { snapshot: record.id.clone(), project: record.project.clone() };
        if let Err(refused) = node.archive(order).await {
            tracing::debug!(snapshot.id = %record.id, error = %refused, "an upload was not ordered");
        }
        Ok(())
    }

    /// Stores what became of an upload. What is not stored is ordered again.
    pub(crate) async fn conclude_archived(
        &self,
        report: &ArchiveReport,
    ) -> Result<(), ControlError> {
        let id = &report.snapshot;
        let tries = &self.0.archive_tries;
        match &report.outcome {
            Ok(facts) => {
                let kept = self.kept(id);
                let revised = self.revise(id, |before| archived(before, kept, &facts.uri)).await?;
                tries.forget(id);
                if let Revised::Changed(_) = revised {
                    tracing::info!(
                        snapshot.id = %id, size_bytes = facts.size.bytes(),
                        sent_bytes = facts.sent.bytes(), "snapshot is in the object store"
                    );
                }
            }
            Err(why) if self.is_mend(id).await? => {
                tries.forget(id);
                tracing::error!(
                    snapshot.id = %id, error = why,
                    "what the object store lacks of a snapshot was not sent again; the snapshot is \
                     whole on its node. Verify it once more when the object store answers"
                );
            }
            Err(why) => {
                let pause = tries.fail(id, Attempt::Upload, why.clone());
                tracing::warn!(
                    snapshot.id = %id, error = why, retry_secs = pause.as_secs(),
                    "snapshot is not in the object store yet; it can be restored all the same"
                );
            }
        }
        self.0.snapshots.notify_one();
        Ok(())
    }

    /// Says whether an upload was none that anybody waits for: of a snapshot that was sent before,
    /// or is gone by now.
    async fn is_mend(&self, id: &SnapshotId) -> Result<bool, ControlError> {
        match self.0.parts.store.snapshot_fetch(id).await {
            Ok(record) => Ok(matches!(record.archive, Archival::Whole { .. })),
            Err(StoreError::NotFound { .. }) => Ok(true),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Removes a hidden snapshot from the object store and then from the store, beside everything
    /// else: it may take long.
    pub(super) fn remove_archived(&self, node: Arc<dyn Node>, record: &SnapshotRecord) {
        let (tries, id) = (&self.0.archive_tries, record.id.clone());
        if !tries.is_due(&id, Attempt::Removal) || !tries.removing.lock().insert(id.clone()) {
            return;
        }
        let removing = Removing { control: self.clone(), id };
        let order = ArchiveOrder { snapshot: record.id.clone(), project: record.project.clone() };
        drop(self.0.parts.tasks.spawn("snapshot_removal", async move {
            let control = removing.control.clone();
            tokio::select! {
                // The next start does it.
                () = control.0.parts.tasks.stopping() => {}
                () = control.remove_everywhere(&*node, &order) => {}
            }
            drop(removing);
            control.0.snapshots.notify_one();
        }));
    }

    async fn remove_everywhere(&self, node: &dyn Node, order: &ArchiveOrder) {
        let id = &order.snapshot;
        let removed = if node.has_archive() {
            node.remove_archived(order).await
        } else {
            Err("no object store is configured, and a part of it may be in one; configure that \
                 one again to have it removed"
                .to_owned())
        };
        let removed = match removed {
            Ok(()) => self.forget_snapshot(id).await.map_err(|failed| failed.to_string()),
            Err(why) => Err(why),
        };
        if let Err(why) = removed {
            let pause = self.0.archive_tries.fail(id, Attempt::Removal, why.clone());
            tracing::warn!(
                snapshot.id = %id, error = why, retry_secs = pause.as_secs(),
                "a deleted snapshot is not removed from the object store yet"
            );
        }
    }
}
