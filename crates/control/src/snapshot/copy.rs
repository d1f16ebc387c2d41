//! Copies of a running sandbox: one memory capture that nobody is shown, and a restore a copy.

use std::{sync::Arc, time::Duration};

use tarn_lifecycle::status;
use tarn_types::{
    ProjectId, Restore, SandboxId, SandboxRecord, SandboxRef, SandboxSpec, SandboxStatus,
    SnapshotKind, SnapshotRecord,
};
use tokio::sync::watch;

use super::Shown;
use crate::{
    Control, ControlError, SandboxView,
    table::{Live, Place},
};

// === impl Control ===

impl Control {
    /// Makes `times` sandboxes that go on from where this one is, and waits at most `hold` for
    /// them (spec 02 §5); for the capture itself it waits in any case.
    ///
    /// Once accepted it is finished even if this future is dropped.
    ///
    /// # Errors
    /// Fails when there is none, it does not run, `times` is out of range, the project's quota
    /// leaves fewer, or the capture fails. A copy that does not start is no error, but a sandbox
    /// that is pending or terminated.
    pub async fn sandbox_copy(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        times: u32,
        hold: Duration,
    ) -> Result<(SandboxId, Vec<SandboxView>), ControlError> {
        let out_of_time = tokio::time::sleep(hold);
        tokio::pin!(out_of_time);
        self.check_times(times)?;
        let source = self.sandbox_fetch(project, sandbox).await?.record.id;
        let (control, id) = (self.clone(), source.clone());
        let mut copies =
            self.finish("sandbox_copy", async move { control.copy(&id, times).await }).await?;
        let settled = async {
            for seen in &mut copies {
                let left = seen.wait_for(|live| status(&live.record) != SandboxStatus::Pending);
                drop(left.await);
            }
        };
        tokio::select! {
            () = settled => {}
            () = &mut out_of_time => {}
            () = self.0.parts.tasks.stopping() => {}
        }
        let view = |seen: &watch::Receiver<Live>| {
            let record = Arc::clone(&seen.borrow().record);
            self.view(&record)
        };
        Ok((source, copies.iter().map(view).collect()))
    }

    fn check_times(&self, times: u32) -> Result<(), ControlError> {
        let most = self.0.config.copy_max;
        if times == 0 {
            let reason = "0 copies are none; ask for at least 1".to_owned();
            return Err(ControlError::Invalid { field: "times", reason });
        }
        if times > most {
            return Err(ControlError::LimitExceeded {
                field: "times",
                value: times.to_string(),
                limit: format!("at most {most}"),
            });
        }
        Ok(())
    }

    async fn copy(
        &self,
        source: &SandboxId,
        times: u32,
    ) -> Result<Vec<watch::Receiver<Live>>, ControlError> {
        let id = self.new_snapshot_id();
        // It is removed after this, and after the last copy that was made left its pending state.
        let _needed = self.use_snapshot(&id);
        if let Some(entry) = self.0.table.get(source) {
            // Whoever waited for its last snapshot may be quicker than the note that it is done.
            self.release_settled(&entry.now().record).await?;
        }
        let SandboxRecord { project, asked, .. } = self.capturable(source, &id)?;
        // Before the capture, which is in vain if there are none.
        let places = self.promise(&project, times)?;
        self.capture(source, id.clone(), SnapshotKind::Memory, Shown::ToNobody(times)).await?;
        let failed = |reason: String| ControlError::CaptureFailed { id: source.clone(), reason };
        let Some(snapshot) = self.concluded(&id).await? else {
            return Err(failed("its snapshot vanished; try again".to_owned()));
        };
        if !snapshot.status.is_ready() {
            return Err(failed(snapshot.error.unwrap_or_default()));
        }
        // What was patched while it was captured holds for the copies, too.
        let asked =
            self.0.table.get(source).map_or(asked, |entry| entry.now().record.asked.clone());
        let copies = self.restore_copies(&asked, &snapshot, places).await?;
        self.0.snapshot_counters.copied(copies.len() as u64);
        Ok(copies)
    }

    /// Makes the copies one after the other, each placed with those before it in view.
    async fn restore_copies(
        &self,
        source: &SandboxSpec,
        snapshot: &SnapshotRecord,
        places: Vec<Place>,
    ) -> Result<Vec<watch::Receiver<Live>>, ControlError> {
        let times = places.len();
        let spec = copy_spec(source, snapshot);
        let mut copies = Vec::new();
        for place in places {
            let placement = self.choose_for(&spec.resources, snapshot, &self.rooms().await);
            let project = snapshot.project.clone();
            let entered = self.enter(project, spec.clone(), placement, None, Some(place)).await;
            match entered {
                Ok(copy) => copies.push(copy),
                Err(failed) if copies.is_empty() => return Err(failed),
                Err(failed) => {
                    let detail = failed.detail().unwrap_or_default();
                    tracing::error!(
                        sandbox.id = %snapshot.sandbox, copies = copies.len(), times,
                        error = %failed, detail, "not every copy was stored"
                    );
                    break;
                }
            }
        }
        Ok(copies)
    }
}

/// Says what a copy is: all that its source is, without a name.
fn copy_spec(source: &SandboxSpec, snapshot: &SnapshotRecord) -> SandboxSpec {
    SandboxSpec {
        name: None,
        image: snapshot.captured.image.clone(),
        resources: snapshot.captured.resources,
        entrypoint: snapshot.captured.entrypoint.clone(),
        secret_names: snapshot.captured.secret_names.clone(),
        timeout_secs: source.timeout_secs,
        network: source.network.clone(),
        ports: source.ports.clone(),
        auto_resume: true,
        max_pending_secs: None,
        template_id: source.template_id.clone(),
        restore: Some(Restore { snapshot: snapshot.id.clone(), kind: snapshot.kind }),
    }
}
