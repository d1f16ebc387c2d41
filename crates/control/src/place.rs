//! Where a sandbox may go: anywhere, or where its snapshot or its own state is.

use tarn_scheduler::{AdmissionRule, Obstacle, Placement, Room, admit, place};
use tarn_store::StoreError;
use tarn_types::{
    ByteSize, PendingReason, Resources, SandboxRecord, SandboxSpec, SnapshotKind, SnapshotRecord,
};

use crate::{Control, ControlError};

// === impl Control ===

impl Control {
    /// Chooses a node for a sandbox that has none.
    pub(crate) async fn choose(
        &self,
        spec: &SandboxSpec,
        rooms: &[Room],
    ) -> Result<Placement, ControlError> {
        let Some(restore) = &spec.restore else {
            return Ok(place(&self.0.config.admission, &spec.resources, rooms));
        };
        match self.0.parts.store.snapshot_fetch(&restore.snapshot).await {
            Ok(snapshot) => Ok(self.choose_for(&spec.resources, &snapshot, rooms)),
            Err(StoreError::NotFound { .. }) => Ok(nowhere()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Chooses a node for a restore: the one that has the snapshot, if it has room.
    pub(crate) fn choose_for(
        &self,
        resources: &Resources,
        snapshot: &SnapshotRecord,
        rooms: &[Room],
    ) -> Placement {
        let here: Vec<_> =
            rooms.iter().filter(|room| room.node == snapshot.node).cloned().collect();
        if here.is_empty() {
            return nowhere();
        }
        let rule = match (snapshot.kind, &snapshot.facts) {
            (SnapshotKind::Filesystem, _) => self.0.config.admission,
            (SnapshotKind::Memory, Some(facts)) => {
                self.rule_for(facts.size.saturating_sub(facts.layer))
            }
            (SnapshotKind::Memory, None) => self.rule_for(resources.memory),
        };
        place(&rule, resources, &here)
    }

    /// Says whether the node of a suspended sandbox has room for it to go on.
    pub(crate) async fn room_to_resume(&self, record: &SandboxRecord) -> Result<(), PendingReason> {
        let rooms = self.rooms().await;
        let here = rooms.iter().find(|room| record.intent.node.as_ref() == Some(&room.node));
        let Some(room) = here else { return Err(PendingReason::NoExecutorsAvailable) };
        let resources = &record.asked.resources;
        let brings = match self.node(&room.node) {
            Some(node) => node.brings(&record.id).await,
            None => None,
        };
        match admit(&self.rule_for(brings.unwrap_or(resources.memory)), resources, room) {
            Ok(()) => Ok(()),
            Err(Obstacle::Draining) => Err(PendingReason::NoExecutorsAvailable),
            Err(
                Obstacle::TooLarge
                | Obstacle::Cpu
                | Obstacle::Memory
                | Obstacle::Disk
                | Obstacle::NoGpu
                | Obstacle::GpuBusy,
            ) => Err(PendingReason::NoResourcesAvailable),
        }
    }

    /// Makes the rule for a start that brings so much memory along, and those beside it.
    fn rule_for(&self, memory: ByteSize) -> AdmissionRule {
        let usual = self.0.config.admission;
        AdmissionRule { memory_per_start: usual.memory_per_start.max(memory), ..usual }
    }
}

fn nowhere() -> Placement {
    Placement::Wait { reason: PendingReason::NoExecutorForSnapshotLocation, obstacles: vec![] }
}
