//! What becomes of a snapshot once it is ordered: taken, failed, cancelled, given up, removed.
//!
//! Every step may come late, twice, or after a death of the server.

use std::collections::HashMap;

use parking_lot::Mutex;
use tarn_lifecycle::{CAPTURE_LIMIT_MILLIS, Care, Event, Kept, captured, care, completed, status};
use tarn_node_api::{CaptureReport, Node};
use tarn_store::StoreError;
use tarn_types::{
    Archival, BootImage, CaptureFacts, SandboxId, SandboxRecord, SandboxStatus, SnapshotId,
    SnapshotRecord, SnapshotStatus,
};

use crate::{Control, ControlError};

/// How often a decision is taken anew when the record changed under it.
const CONFLICT_ROUNDS: usize = 8;

const RESTARTED: &str =
    "the server was restarted while the snapshot was being taken; take it again";

/// Snapshots that a request is about to restore from, and how many requests there are.
#[derive(Debug, Default)]
pub(crate) struct SnapshotUses(Mutex<HashMap<SnapshotId, usize>>);

/// Keeps a snapshot from being removed between the look at it and the sandbox that needs it.
pub(crate) struct SnapshotUse {
    control: Control,
    id: SnapshotId,
}

/// What a change of a record led to.
pub(super) enum Revised {
    Changed(SnapshotRecord),
    Unchanged(SnapshotRecord),
    Gone,
}

// === impl SnapshotUse ===

impl Drop for SnapshotUse {
    fn drop(&mut self) {
        let mut uses = self.control.0.snapshot_uses.0.lock();
        if let Some(count) = uses.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                uses.remove(&self.id);
            }
        }
        drop(uses);
        self.control.0.snapshots.notify_one();
    }
}

// === impl Control ===

impl Control {
    pub(crate) fn use_snapshot(&self, id: &SnapshotId) -> SnapshotUse {
        *self.0.snapshot_uses.0.lock().entry(id.clone()).or_default() += 1;
        SnapshotUse { control: self.clone(), id: id.clone() }
    }

    /// Stores what became of a snapshot, the first time it is told.
    pub(crate) async fn conclude(&self, report: &CaptureReport) -> Result<(), ControlError> {
        let id = &report.snapshot;
        let store = self.object_store(&report.node);
        let revised = self.revise(id, |before| captured(before, &report.outcome, store));
        match revised.await? {
            Revised::Changed(record) => self.count(&record),
            // It was given up meanwhile, and is there all the same.
            Revised::Unchanged(record) if report.outcome.is_ok() && was_given_up(&record) => {
                self.discard(&record).await;
            }
            Revised::Unchanged(_) => {}
            // It was deleted while it was being taken.
            Revised::Gone => {
                tracing::debug!(snapshot.id = %id, "a snapshot that is gone was reported");
                if let Some(node) = self.node(&report.node).filter(|_| report.outcome.is_ok()) {
                    discard_from(&*node, id).await;
                }
            }
        }
        self.release(&report.sandbox, id).await?;
        self.0.captures.send_modify(|settled| *settled += 1);
        self.0.snapshots.notify_one();
        Ok(())
    }

    /// Stores that there will be no snapshot, and removes what there is of it.
    pub(super) async fn conclude_failed(
        &self,
        record: &SnapshotRecord,
        why: String,
    ) -> Result<(), ControlError> {
        let report = CaptureReport {
            snapshot: record.id.clone(),
            sandbox: record.sandbox.clone(),
            node: record.node.clone(),
            outcome: Err(why),
        };
        self.conclude(&report).await?;
        self.discard(record).await;
        Ok(())
    }

    /// Deletes a snapshot for everybody who could see it.
    pub(super) async fn hide(&self, id: &SnapshotId) -> Result<(), ControlError> {
        let mut cancelled = false;
        let revised = self.revise(id, |before| {
            cancelled = before.status == SnapshotStatus::InProgress;
            let (status, error) = if cancelled {
                (SnapshotStatus::Failed, Some("it was deleted while it was being taken".to_owned()))
            } else {
                (before.status, before.error.clone())
            };
            (!before.hidden).then(|| SnapshotRecord {
                hidden: true,
                status,
                error,
                ..before.clone()
            })
        });
        let Revised::Changed(record) = revised.await? else {
            return Err(ControlError::SnapshotNotFound(id.to_string()));
        };
        tracing::info!(snapshot.id = %id, cancelled, "snapshot deleted");
        self.0.archive_tries.forget(id);
        if cancelled {
            self.0.snapshot_counters.cancelled();
            self.0.captures.send_modify(|settled| *settled += 1);
        }
        // That is durable; what follows is repeated until it is done.
        let followed = async {
            self.remove(&record).await?;
            self.release(&record.sandbox, id).await
        };
        if let Err(failed) = followed.await {
            let detail = failed.detail().unwrap_or_default();
            tracing::warn!(snapshot.id = %id, error = %failed, detail, "snapshot not removed yet");
        }
        Ok(())
    }

    /// Returns a snapshot's record once it is no longer in progress; `None` if it is gone.
    pub(crate) async fn concluded(
        &self,
        id: &SnapshotId,
    ) -> Result<Option<SnapshotRecord>, ControlError> {
        let mut captures = self.0.captures.subscribe();
        loop {
            captures.mark_unchanged();
            match self.0.parts.store.snapshot_fetch(id).await {
                Ok(record) if record.status == SnapshotStatus::InProgress => {}
                Ok(record) => return Ok(Some(record)),
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(failed) => return Err(failed.into()),
            }
            tokio::select! {
                // The sender is `self`'s.
                _ = captures.changed() => {}
                () = self.0.parts.tasks.stopping() => {
                    let detail = "stopping while a snapshot is being taken".to_owned();
                    return Err(ControlError::Unavailable { detail });
                }
            }
        }
    }

    pub(super) async fn is_cancelled(&self, id: &SnapshotId) -> Result<bool, ControlError> {
        match self.0.parts.store.snapshot_fetch(id).await {
            Ok(record) => Ok(record.status == SnapshotStatus::Failed),
            Err(StoreError::NotFound { .. }) => Ok(true),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Looks after every snapshot that is not settled, and every sandbox that waits for one.
    ///
    /// # Errors
    /// Fails when the store does; the next pass begins anew.
    pub(crate) async fn settle_snapshots(&self) -> Result<(), ControlError> {
        let now = self.0.parts.clock.now();
        for record in self.0.parts.store.snapshot_list_unsettled().await? {
            let kept = self.kept(&record.id);
            match care(&record, kept, self.object_store(&record.node), now) {
                Care::Nothing => {}
                Care::GiveUp => {
                    let limit = CAPTURE_LIMIT_MILLIS / 1000;
                    let why = format!("it was not done within {limit} s; take it again");
                    self.conclude_failed(&record, why).await?;
                }
                Care::Archive => self.archive(&record).await?,
                Care::Complete => drop(self.revise(&record.id, completed).await?),
                Care::Remove => {
                    if let Err(failed) = self.remove(&record).await {
                        // One that resists keeps no other from being looked after.
                        let detail = failed.detail().unwrap_or_default();
                        tracing::warn!(snapshot.id = %record.id, error = %failed, detail, "snapshot not removed; trying again");
                    }
                }
            }
        }
        for entry in self.0.table.all() {
            self.release_settled(&entry.now().record).await?;
        }
        Ok(())
    }

    /// Lets a sandbox know that its snapshot is settled, if it is: others may know it before.
    pub(crate) async fn release_settled(&self, record: &SandboxRecord) -> Result<(), ControlError> {
        let Some(snapshot) = &record.capturing else { return Ok(()) };
        match self.0.parts.store.snapshot_fetch(snapshot).await {
            Ok(found) if found.status == SnapshotStatus::InProgress => Ok(()),
            Ok(_) | Err(StoreError::NotFound { .. }) => self.release(&record.id, snapshot).await,
            Err(failed) => Err(failed.into()),
        }
    }

    /// Compares a node's snapshots with the store. `begun` are those that were not settled before
    /// the node was there: of an order given by an earlier run, it knows only if it is done.
    pub(crate) async fn compare_snapshots(
        &self,
        node: &dyn Node,
        begun: Vec<SnapshotRecord>,
    ) -> Result<(), ControlError> {
        for held in node.snapshots().await {
            let record = match self.0.parts.store.snapshot_fetch(&held.snapshot).await {
                Ok(record) => record,
                Err(StoreError::NotFound { .. }) => {
                    tracing::error!(
                        snapshot.id = %held.snapshot, sandbox.id = %held.sandbox,
                        node.id = %node.id(),
                        "the node has a snapshot that the store does not know; it is kept. If the \
                         store was replaced by mistake, restore it"
                    );
                    continue;
                }
                Err(failed) => return Err(failed.into()),
            };
            match record.status {
                SnapshotStatus::InProgress => self.conclude_taken(&record, held.facts).await?,
                SnapshotStatus::Failed if was_given_up(&record) => {
                    discard_from(node, &record.id).await;
                }
                // Taken before there was an object store.
                SnapshotStatus::Completed
                    if node.has_archive()
                        && (!record.hidden || self.kept(&record.id) == Kept::ByImages)
                        && record.archive == Archival::Nothing =>
                {
                    self.archive(&record).await?;
                }
                // A damaged one is kept until it is deleted.
                SnapshotStatus::Failed | SnapshotStatus::LocalReady | SnapshotStatus::Completed => {
                }
            }
        }
        for record in begun.into_iter().filter(|record| record.node == *node.id()) {
            if record.status == SnapshotStatus::InProgress && !self.is_settled(&record.id).await? {
                self.conclude_failed(&record, RESTARTED.to_owned()).await?;
            }
        }
        self.settle_snapshots().await
    }

    async fn conclude_taken(
        &self,
        record: &SnapshotRecord,
        facts: CaptureFacts,
    ) -> Result<(), ControlError> {
        let report = CaptureReport {
            snapshot: record.id.clone(),
            sandbox: record.sandbox.clone(),
            node: record.node.clone(),
            outcome: Ok(facts),
        };
        self.conclude(&report).await
    }

    async fn is_settled(&self, id: &SnapshotId) -> Result<bool, ControlError> {
        match self.0.parts.store.snapshot_fetch(id).await {
            Ok(record) => Ok(record.status != SnapshotStatus::InProgress),
            Err(StoreError::NotFound { .. }) => Ok(true),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Removes a hidden snapshot, here, on its node and in the object store, unless somebody still
    /// needs it.
    async fn remove(&self, record: &SnapshotRecord) -> Result<(), ControlError> {
        let in_progress = record.status == SnapshotStatus::InProgress;
        if in_progress || self.is_needed(&record.id) {
            return Ok(());
        }
        // `attach` looks again.
        let Some(node) = self.node(&record.node) else { return Ok(()) };
        if let Err(failed) = node.discard(&record.id).await {
            // As long as the record is there, somebody comes back to it.
            return Err(ControlError::Unavailable { detail: failed.to_string() });
        }
        match record.archive {
            Archival::Nothing => self.forget_snapshot(&record.id).await,
            Archival::Begun | Archival::Whole { .. } => {
                self.remove_archived(node, record);
                Ok(())
            }
        }
    }

    /// Removes the record of a snapshot of which nothing is left anywhere.
    pub(super) async fn forget_snapshot(&self, id: &SnapshotId) -> Result<(), ControlError> {
        self.0.parts.store.snapshot_delete(id).await?;
        self.0.archive_tries.forget(id);
        tracing::info!(snapshot.id = %id, "snapshot removed");
        Ok(())
    }

    /// Says whether registered images are made of a snapshot.
    pub(super) fn kept(&self, id: &SnapshotId) -> Kept {
        if self.0.images.is_made_of(id) { Kept::ByImages } else { Kept::ByNobody }
    }

    /// Says whether an image is made of it, or a sandbox is, or is about to be, pending that is
    /// restored from it.
    fn is_needed(&self, id: &SnapshotId) -> bool {
        // Uses first: who looks an image up uses its files before.
        if self.0.snapshot_uses.0.lock().contains_key(id)
            || self.0.kept_steps.holds(id)
            || self.0.images.is_made_of(id)
            || self.0.pools.images().iter().any(|image| is_made_of(image, id))
        {
            return true;
        }
        self.0.table.all().iter().any(|entry| {
            let record = entry.now().record;
            record.asked.restore.as_ref().is_some_and(|restore| restore.snapshot == *id)
                && status(&record) == SandboxStatus::Pending
        })
    }

    /// Lets a sandbox know that its snapshot is settled.
    async fn release(&self, sandbox: &SandboxId, id: &SnapshotId) -> Result<(), ControlError> {
        match self.transition(sandbox, Event::CaptureSettled(id.clone())).await {
            // Forgotten meanwhile.
            Ok(_) | Err(ControlError::NotFound(_)) => Ok(()),
            Err(failed) => Err(failed),
        }
    }

    pub(super) async fn discard(&self, record: &SnapshotRecord) {
        if let Some(node) = self.node(&record.node) {
            discard_from(&*node, &record.id).await;
        }
    }

    /// Changes a record, deciding anew when it changed meanwhile; `None` keeps it.
    pub(super) async fn revise(
        &self,
        id: &SnapshotId,
        mut change: impl FnMut(&SnapshotRecord) -> Option<SnapshotRecord>,
    ) -> Result<Revised, ControlError> {
        for _ in 0..CONFLICT_ROUNDS {
            let before = match self.0.parts.store.snapshot_fetch(id).await {
                Ok(record) => record,
                Err(StoreError::NotFound { .. }) => return Ok(Revised::Gone),
                Err(failed) => return Err(failed.into()),
            };
            let Some(next) = change(&before) else { return Ok(Revised::Unchanged(before)) };
            let next = SnapshotRecord { sequence: before.sequence + 1, ..next };
            match self.0.parts.store.snapshot_update(&next).await {
                Ok(()) => return Ok(Revised::Changed(next)),
                Err(StoreError::SnapshotConflict { .. }) => {}
                Err(StoreError::NotFound { .. }) => return Ok(Revised::Gone),
                Err(failed) => return Err(failed.into()),
            }
        }
        let detail = format!("snapshot {id} changed {CONFLICT_ROUNDS} times under one event");
        Err(ControlError::Unavailable { detail })
    }

    fn count(&self, record: &SnapshotRecord) {
        let duration_ms = self.0.parts.clock.now().millis_since(record.created_at);
        match (&record.facts, &record.error) {
            (Some(facts), _) => {
                self.0.snapshot_counters.taken(facts, duration_ms);
                tracing::info!(
                    snapshot.id = %record.id, sandbox.id = %record.sandbox, duration_ms,
                    size_bytes = facts.size.bytes(), standstill_us = facts.standstill_micros,
                    "snapshot taken"
                );
            }
            (None, error) => {
                self.0.snapshot_counters.failed();
                tracing::warn!(
                    snapshot.id = %record.id, sandbox.id = %record.sandbox, duration_ms,
                    error = error.as_deref().unwrap_or_default(), "snapshot failed"
                );
            }
        }
    }
}

/// Removes what nobody was told of or nobody wants any more. What stays is tried again when the
/// node is attached.
async fn discard_from(node: &dyn Node, id: &SnapshotId) {
    if let Err(failed) = node.discard(id).await {
        tracing::error!(snapshot.id = %id, node.id = %node.id(), error = %failed, "what is left of a snapshot stays");
    }
}

fn is_made_of(image: &BootImage, id: &SnapshotId) -> bool {
    image.registered.as_ref().is_some_and(|registered| registered.snapshot == *id)
}

/// Says whether a snapshot was given up before it was taken; what is left of it is worth nothing.
fn was_given_up(record: &SnapshotRecord) -> bool {
    record.status == SnapshotStatus::Failed && record.facts.is_none()
}
