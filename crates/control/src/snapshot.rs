//! Snapshots: taken, found, listed, deleted.
//!
//! ```text
//!  create → in_progress ─▶ local_ready ─▶ completed ─(delete)─▶ hidden ─▶ removed everywhere
//!                   │            │ (found damaged) │
//!                   │            ▼                 ▼
//!                   └────▶ failed ◀────────────────┘ ───(delete)─▶ hidden ─▶ removed
//! ```
//!
//! Nobody is shown a hidden one. It stays as long as a pending sandbox is to be restored from it,
//! or its node or the object store is away: what is removed here and not there would be kept there
//! for ever.

mod archive;
mod copy;
mod counts;
mod settle;
mod verify;

use tarn_lifecycle::{Event, Ignored, step};
use tarn_node_api::{ApplyError, CaptureOrder};
use tarn_store::StoreError;
use tarn_types::{
    Archival, Captured, Lasting, ProjectId, SandboxId, SandboxRecord, SandboxRef, SandboxStatus,
    SnapshotId, SnapshotKind, SnapshotRecord, SnapshotStatus,
};

use crate::{
    Control, ControlError, ImageFiles, gpu::refuse_memory, suspend::refusal, transition::Moved,
};

pub(crate) use self::{
    archive::ArchiveTries,
    counts::SnapshotCounters,
    settle::{SnapshotUse, SnapshotUses},
};
pub use self::{
    archive::{ArchiveStatus, ArchiveTrouble, Attempt},
    counts::SnapshotCounts,
    verify::Verdict,
};

/// Who is shown a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    ToAll,
    /// It is made for so many copies.
    ToNobody(u32),
    /// It is made for an image, or is what a step of a build led to.
    AsImage,
}

// === impl Shown ===

impl Shown {
    /// What a snapshot is to outlast. The sandboxes that one for a copy is made for end with their
    /// host; while others wait for room, it is made durable.
    fn lasting(self) -> Lasting {
        match self {
            Self::ToAll | Self::AsImage => Lasting::Always,
            Self::ToNobody(_) => Lasting::Boot,
        }
    }

    fn copies(self) -> u32 {
        match self {
            Self::ToAll | Self::AsImage => 0,
            Self::ToNobody(copies) => copies,
        }
    }
}

// === impl Control ===

impl Control {
    /// Begins a snapshot of a running sandbox.
    ///
    /// # Errors
    /// Fails when there is none, it does not run, or a snapshot of it is under way.
    pub async fn snapshot_create(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        kind: SnapshotKind,
    ) -> Result<SnapshotRecord, ControlError> {
        let view = self.sandbox_fetch(project, sandbox).await?;
        let control = self.clone();
        self.finish("snapshot_create", async move {
            let id = control.new_snapshot_id();
            control.capture(&view.record.id, id, kind, Shown::ToAll).await
        })
        .await
    }

    /// Returns a snapshot.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub async fn snapshot_fetch(
        &self,
        project: &ProjectId,
        snapshot: &SnapshotId,
    ) -> Result<SnapshotRecord, ControlError> {
        match self.0.parts.store.snapshot_fetch(snapshot).await {
            Ok(record) if record.project == *project && !record.hidden => Ok(record),
            Ok(_) | Err(StoreError::NotFound { .. }) => {
                Err(ControlError::SnapshotNotFound(snapshot.to_string()))
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// Returns the project's snapshots, or those of one sandbox, ended, archived and forgotten ones
    /// too; newest first.
    ///
    /// # Errors
    /// Fails when there is no such sandbox and nothing is left of one.
    pub async fn snapshot_list(
        &self,
        project: &ProjectId,
        sandbox: Option<&SandboxRef>,
    ) -> Result<Vec<SnapshotRecord>, ControlError> {
        let store = &self.0.parts.store;
        let Some(sandbox) = sandbox else {
            return Ok(store.snapshot_list(project, None).await?);
        };
        match (self.find(project, sandbox).await, sandbox) {
            (Ok(record), _) => Ok(store.snapshot_list(project, Some(&record.id)).await?),
            (Err(refused @ ControlError::SandboxNotFound(_)), SandboxRef::Id(id)) => {
                let left = store.snapshot_list(project, Some(id)).await?;
                if left.is_empty() { Err(refused) } else { Ok(left) }
            }
            (Err(refused), _) => Err(refused),
        }
    }

    /// Removes a snapshot; one that is being taken is cancelled. Returns once that is durable.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub async fn snapshot_delete(
        &self,
        project: &ProjectId,
        snapshot: &SnapshotId,
    ) -> Result<(), ControlError> {
        let record = self.snapshot_fetch(project, snapshot).await?;
        let control = self.clone();
        self.finish("snapshot_delete", async move { control.hide(&record.id).await }).await
    }

    /// Takes the files of a running sandbox for an image. Nobody is shown them, and they go when
    /// the answer is dropped and no image is made of them.
    ///
    /// # Errors
    /// Fails when there is no such sandbox, it does not run, a snapshot of it is under way, or the
    /// capture does not work.
    pub async fn image_capture(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<ImageFiles, ControlError> {
        let source = self.sandbox_fetch(project, sandbox).await?.record.id;
        let control = self.clone();
        self.finish("image_capture", async move {
            let id = control.new_snapshot_id();
            let needed = control.use_snapshot(&id);
            let kind = SnapshotKind::Filesystem;
            control.capture(&source, id.clone(), kind, Shown::AsImage).await?;
            let failed = |reason| ControlError::ImageNotCaptured { id: source.clone(), reason };
            match control.concluded(&id).await? {
                Some(snapshot) if snapshot.status.is_ready() => {
                    Ok(ImageFiles::new(snapshot, needed))
                }
                Some(snapshot) => Err(failed(snapshot.error.unwrap_or_default())),
                None => Err(failed("its snapshot vanished; try again".to_owned())),
            }
        })
        .await
    }

    /// Returns what became of snapshots since the start.
    #[must_use]
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        self.0.snapshot_counters.now()
    }

    pub(crate) fn new_snapshot_id(&self) -> SnapshotId {
        SnapshotId::from_random(self.0.parts.entropy.bytes())
    }

    /// Has a node take a snapshot. Returns once the order is given: what becomes of it is reported.
    ///
    /// The snapshot is stored before the sandbox, and the sandbox before the node is told, so that
    /// a start after a death in between finds everything there is to repair.
    pub(crate) async fn capture(
        &self,
        sandbox: &SandboxId,
        id: SnapshotId,
        kind: SnapshotKind,
        shown: Shown,
    ) -> Result<SnapshotRecord, ControlError> {
        if let Some(entry) = self.0.table.get(sandbox) {
            // Whoever waited for its last snapshot may be quicker than the note that it is done.
            self.release_settled(&entry.now().record).await?;
        }
        let source = self.capturable(sandbox, &id)?;
        if kind == SnapshotKind::Memory {
            refuse_memory(&source, "a snapshot of its files alone (`filesystem`) can be taken")?;
        }
        let node = source.intent.node.as_ref().and_then(|node| self.node(node));
        let Some(node) = node else {
            let detail = format!("the node of sandbox {sandbox} is not attached");
            return Err(ControlError::Unavailable { detail });
        };
        let snapshot = self.new_snapshot(&source, node.id().clone(), id, kind, shown);
        self.0.parts.store.snapshot_insert(&snapshot).await?;
        let begun = self.transition(sandbox, Event::CaptureBegun(snapshot.id.clone())).await;
        let refused = match begun {
            Ok(Moved::Changed(_)) => None,
            Ok(Moved::Refused(source, why)) => Some(refusal(&source, why)),
            Ok(Moved::Unchanged(source)) => Some(ended(&source)),
            Err(failed) => Some(failed),
        };
        if let Some(refused) = refused {
            // If the sandbox was told all the same, it is released.
            self.0.snapshots.notify_one();
            self.0.parts.store.snapshot_delete(&snapshot.id).await?;
            return Err(refused);
        }
        tracing::info!(
            snapshot.id = %snapshot.id, sandbox.id = %sandbox, kind = kind.as_str(),
            "snapshot begun"
        );
        let order = CaptureOrder {
            snapshot: snapshot.id.clone(),
            sandbox: sandbox.clone(),
            kind,
            lasting: shown.lasting(),
            copies: shown.copies(),
        };
        let told = node.capture(order).await;
        // The snapshot is there now whatever fails here: the reconciler looks after it.
        if let Err(failed) = self.after_order(&snapshot, told).await {
            let detail = failed.detail().unwrap_or_default();
            tracing::warn!(snapshot.id = %snapshot.id, error = %failed, detail, "snapshot not followed");
        }
        Ok(snapshot)
    }

    async fn after_order(
        &self,
        snapshot: &SnapshotRecord,
        told: Result<(), ApplyError>,
    ) -> Result<(), ControlError> {
        if let Err(refused) = told {
            let why = format!("the node did not take it: {refused}; take it again");
            return self.conclude_failed(snapshot, why).await;
        }
        // Deleted before the node knew of it: the discard then came too early.
        if self.is_cancelled(&snapshot.id).await? {
            self.discard(snapshot).await;
        }
        Ok(())
    }

    /// Returns the record of a sandbox that a snapshot can be taken of.
    fn capturable(
        &self,
        sandbox: &SandboxId,
        snapshot: &SnapshotId,
    ) -> Result<SandboxRecord, ControlError> {
        let Some(entry) = self.0.table.get(sandbox) else {
            let status = SandboxStatus::Terminated;
            return Err(ControlError::NotRunning { id: sandbox.clone(), status });
        };
        let record = entry.now().record;
        match step(&record, Event::CaptureBegun(snapshot.clone()), self.0.parts.clock.now()) {
            Err(Ignored::Refused(why)) => Err(refusal(&record, why)),
            Err(Ignored::Ended(_)) => Err(ended(&record)),
            Ok(_) | Err(Ignored::Stale | Ignored::NoChange) => Ok(record.as_ref().clone()),
        }
    }

    fn new_snapshot(
        &self,
        source: &SandboxRecord,
        node: tarn_types::NodeId,
        id: SnapshotId,
        kind: SnapshotKind,
        shown: Shown,
    ) -> SnapshotRecord {
        SnapshotRecord {
            id,
            project: source.project.clone(),
            sandbox: source.id.clone(),
            node,
            created_at: self.0.parts.clock.now(),
            kind,
            status: SnapshotStatus::InProgress,
            hidden: shown != Shown::ToAll,
            captured: Captured {
                image: source.asked.image.clone(),
                resources: source.asked.resources,
                entrypoint: source.asked.entrypoint.clone(),
                secret_names: source.asked.secret_names.clone(),
            },
            facts: None,
            error: None,
            archive: Archival::Nothing,
            verified_at: None,
            sequence: 1,
        }
    }
}

fn ended(record: &SandboxRecord) -> ControlError {
    ControlError::NotRunning { id: record.id.clone(), status: SandboxStatus::Terminated }
}
