//! Snapshots.

use std::collections::BTreeSet;

use tarn_types::{BootImage, ProjectId, SandboxId, SnapshotId, SnapshotRecord};

use super::Tables;
use crate::{StoreError, format, rule};

// === impl Tables ===

impl Tables {
    pub(super) fn snapshot(&self, id: &SnapshotId) -> Result<SnapshotRecord, StoreError> {
        let bytes = self.snapshots.get(id).ok_or(StoreError::NotFound { what: "snapshot" })?;
        format::decode_snapshot(format::SNAPSHOT_FORMAT, id.as_str(), bytes)
    }

    /// Returns the snapshots of a kind, oldest first.
    fn snapshots_that(
        &self,
        wanted: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        let all = self.snapshots.keys().map(|id| self.snapshot(id));
        let mut found = all.collect::<Result<Vec<_>, _>>()?;
        found.retain(wanted);
        found.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        Ok(found)
    }

    pub(super) fn snapshot_insert(
        &mut self,
        record: &SnapshotRecord,
        bytes: String,
    ) -> Result<(), StoreError> {
        if self.snapshots.contains_key(&record.id) {
            return Err(StoreError::Exists { what: "snapshot" });
        }
        self.snapshots.insert(record.id.clone(), bytes);
        Ok(())
    }

    pub(super) fn snapshot_update(
        &mut self,
        record: &SnapshotRecord,
        bytes: String,
    ) -> Result<(), StoreError> {
        let stored = self.snapshot(&record.id)?;
        if record.sequence.checked_sub(1) != Some(stored.sequence) {
            return Err(StoreError::SnapshotConflict { id: stored.id });
        }
        let fixed = rule::StoredSnapshot {
            project: stored.project.as_str(),
            sandbox: stored.sandbox.as_str(),
            created_at: stored.created_at,
        };
        rule::check_snapshot_change(&fixed, record)?;
        self.snapshots.insert(stored.id, bytes);
        Ok(())
    }

    pub(super) fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxId>,
    ) -> Result<Vec<SnapshotRecord>, StoreError> {
        let mut found = self.snapshots_that(|record| {
            !record.hidden
                && record.project == *project
                && sandbox.is_none_or(|sandbox| record.sandbox == *sandbox)
        })?;
        found.reverse();
        Ok(found)
    }

    pub(super) fn snapshot_list_unsettled(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let images: BTreeSet<_> = self.images()?.into_iter().map(|it| it.snapshot).collect();
        self.snapshots_that(|record| {
            let unneeded = record.hidden && !images.contains(&record.id);
            unneeded || record.is_on_the_way()
        })
    }

    pub(super) fn snapshot_images(&self) -> Result<Vec<BootImage>, StoreError> {
        let all = self.snapshots_that(|_| true)?;
        let images: BTreeSet<_> = all.into_iter().map(|record| record.captured.image).collect();
        Ok(images.into_iter().collect())
    }
}
