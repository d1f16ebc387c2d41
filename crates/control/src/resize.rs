//! The resize of a running sandbox: checked, given room, ordered, and waited for a moment
//! (spec 01 §9).

use std::{sync::Arc, time::Duration};

use tarn_lifecycle::{Event, may_resize};
use tarn_scheduler::{Obstacle, admit_growth};
use tarn_types::{ProjectId, Resources, SandboxId, SandboxRecord, SandboxRef};

use crate::{
    Control, ControlError, ResizeAsk, SandboxView, sandbox::largest, suspend::refusal,
    transition::Moved,
};

/// How long the answer waits for the node: most resizes take milliseconds, and their callers then
/// need not ask again. Those that take longer are pending in the answer.
const HOLD: Duration = Duration::from_secs(1);

// === impl Control ===

impl Control {
    /// Gives a running sandbox other resources.
    ///
    /// Returns once the wish is stored and either settled or a second old; what becomes of it is
    /// the `resize` of its record.
    ///
    /// # Errors
    /// Fails when there is none, it does not run, is busy, a limit or its disk forbids it, or its
    /// node has no room. Nothing was changed then.
    pub async fn sandbox_resize(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        ask: ResizeAsk,
    ) -> Result<SandboxView, ControlError> {
        let id = self.sandbox_fetch(project, sandbox).await?.record.id;
        let control = self.clone();
        let record =
            self.finish("sandbox_resize", async move { control.resize_ordered(&id, ask).await });
        let record = record.await?;
        let Some(entry) = self.0.table.get(&record.id) else { return Ok(self.view(&record)) };
        let mut seen = entry.subscribe();
        tokio::select! {
            _ = seen.wait_for(|live| !live.record.is_resizing()) => {}
            () = tokio::time::sleep(HOLD) => {}
            () = self.0.parts.tasks.stopping() => {}
        }
        let record = Arc::clone(&seen.borrow().record);
        Ok(self.view(&record))
    }

    /// Decides on a resize and sends it. One at a time: the room that one was given, the next one
    /// finds taken.
    async fn resize_ordered(
        &self,
        id: &SandboxId,
        ask: ResizeAsk,
    ) -> Result<Arc<SandboxRecord>, ControlError> {
        let _turn = self.0.resizes.lock().await;
        let terminated = || ControlError::Terminated(id.clone());
        if let Some(entry) = self.0.table.get(id) {
            // Whoever waited for its last snapshot may be quicker than the note that it is done.
            self.release_settled(&entry.now().record).await?;
        }
        let record = self.0.table.get(id).ok_or_else(terminated)?.now().record;
        may_resize(&record).map_err(|why| refusal(&record, why))?;
        let wanted = self.resize_fits(&record, ask).await?;
        match self.transition(id, Event::ResizeAsked(wanted)).await? {
            Moved::Changed(record) => {
                tracing::info!(
                    sandbox.id = %id, generation = %record.intent.generation,
                    cpus = %wanted.cpu, memory = %wanted.memory, disk = %wanted.disk,
                    "sandbox is to be resized"
                );
                Ok(record)
            }
            Moved::Unchanged(_) => Err(terminated()),
            Moved::Refused(record, why) => Err(refusal(&record, why)),
        }
    }

    /// Checks a resize against the limits and the room of the sandbox's node.
    async fn resize_fits(
        &self,
        record: &SandboxRecord,
        ask: ResizeAsk,
    ) -> Result<Resources, ControlError> {
        let unreachable = || ControlError::Unavailable {
            detail: format!("the node of sandbox {} is not attached", record.id),
        };
        let node = record.intent.node.as_ref().and_then(|node| self.node(node));
        let node = node.ok_or_else(unreachable)?;
        if !node.resizes() {
            return Err(ControlError::NotSupported { field: "resources" });
        }
        let rooms = self.rooms().await;
        let room = rooms.iter().find(|room| room.node == *node.id()).ok_or_else(unreachable)?;
        let had = record.asked.resources;
        let here = largest(std::slice::from_ref(room));
        let wanted = self.0.config.limits.resized(&had, ask, &here)?;
        admit_growth(&self.0.config.admission, &had, &wanted, room).map_err(|obstacle| {
            ControlError::NoRoom { id: record.id.clone(), what: shortage(obstacle) }
        })?;
        Ok(wanted)
    }
}

/// Says what a node is short of.
fn shortage(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::Draining => "its node is stopping",
        Obstacle::TooLarge => "its node is smaller than that",
        Obstacle::Cpu => "the CPUs of its node are promised as often as they may be",
        Obstacle::Memory => "its node has no memory to spare",
        Obstacle::Disk => "the pool of its node has no room to spare",
        Obstacle::NoGpu | Obstacle::GpuBusy => "its node has no GPU to spare",
    }
}
