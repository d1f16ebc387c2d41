//! Suspend and resume: asked for, waited for, and tried again while there is no room.

use std::{sync::Arc, time::Duration};

use tarn_lifecycle::{Event, Refusal, status, waits_to_resume};
use tarn_types::{
    Generation, Observed, ObservedPhase, PendingReason, ProjectId, SandboxId, SandboxRecord,
    SandboxRef, SandboxStatus, Target,
};

use crate::{Control, ControlError, gpu::refuse_memory, transition::Moved};

/// How far a suspend or resume got while its caller waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The sandbox is where it was asked to be.
    Done,
    /// It is on the way, or, if the view has a `trouble`, did not get there.
    UnderWay,
}

/// What becomes of a resume that the project's quota does not allow now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OverQuota {
    /// Its caller is told.
    Refused,
    /// It waits, as it does for room.
    Waits,
}

/// What a record says about a suspend or resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    There,
    OnTheWay,
    /// It will not get there: it failed, or the sandbox has ended.
    GivenUp,
}

// === impl Control ===

impl Control {
    /// Suspends a named sandbox, and waits at most `hold` for it (spec 02 §1).
    ///
    /// Without `hold` nothing is waited for. A suspend that fails leaves the sandbox running.
    ///
    /// # Errors
    /// Fails when there is none, it has no name, is pending, or has ended.
    pub async fn sandbox_suspend(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        hold: Option<Duration>,
    ) -> Result<Settled, ControlError> {
        let view = self.sandbox_fetch(project, sandbox).await?;
        let awake = matches!(view.status, SandboxStatus::Running | SandboxStatus::Snapshotting);
        if awake && view.record.asked.name.is_some() {
            refuse_memory(
                &view.record,
                "take a filesystem snapshot of it and terminate it; its idle limit suspends it \
                 with its files alone",
            )?;
        }
        let (control, id) = (self.clone(), view.record.id);
        let moved = self.finish("sandbox_suspend", async move {
            control.transition(&id, Event::SuspendAsked).await
        });
        let record = match moved.await? {
            Moved::Changed(record) | Moved::Unchanged(record) => record,
            Moved::Refused(record, why) => return Err(refusal(&record, why)),
        };
        let wanted = record.intent.generation;
        self.settled(&record, hold, |record| suspended(record, wanted)).await
    }

    /// Has a suspended sandbox go on, and waits at most `hold` for it (spec 02 §1).
    ///
    /// Without `hold` nothing is waited for. A resume that fails leaves the sandbox suspended; one
    /// that finds no room goes on trying.
    ///
    /// # Errors
    /// Fails when there is none, it has ended, or the project's quota does not allow it.
    pub async fn sandbox_resume(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        hold: Option<Duration>,
    ) -> Result<Settled, ControlError> {
        let view = self.sandbox_fetch(project, sandbox).await?;
        let (control, id) = (self.clone(), view.record.id);
        let resume = async move { control.resume(&id, OverQuota::Refused).await };
        let moved = self.finish("sandbox_resume", resume).await?;
        let changed = matches!(moved, Moved::Changed(_));
        let record = moved.into_record();
        match status(&record) {
            SandboxStatus::Running if !changed => return Ok(Settled::Done),
            // A suspend that was to follow the snapshot is called off.
            SandboxStatus::Snapshotting => return Ok(Settled::Done),
            SandboxStatus::Running
            | SandboxStatus::Pending
            | SandboxStatus::Suspending
            | SandboxStatus::Suspended
            | SandboxStatus::Terminated => {}
        }
        let wanted = if waits_to_resume(&record) {
            record.intent.generation.next()
        } else {
            record.intent.generation
        };
        self.settled(&record, hold, |record| resumed(record, wanted)).await
    }

    /// Has a sandbox go on if there is room, and wait for room if there is none.
    pub(crate) async fn resume(
        &self,
        id: &SandboxId,
        over_quota: OverQuota,
    ) -> Result<Moved, ControlError> {
        // One of a pool's takes a container, of which there may be only so many.
        let pool = self.pool_of(id);
        let _turn = match &pool {
            Some(pool) => Some(pool.turn().await),
            None => None,
        };
        let record = self.0.table.get(id).map(|entry| entry.now().record);
        let _gpus = match &record {
            Some(record) => self.gpu_turn(&record.asked.resources).await,
            None => None,
        };
        let event = match &record {
            Some(record) => self.resume_event(record).await,
            None => Event::ResumeAsked,
        };
        let moved = match self.transition(id, event).await {
            Err(ControlError::QuotaExceeded { .. }) if over_quota == OverQuota::Waits => {
                let waits = Event::ResumeWaits(PendingReason::MaxCapacityReached);
                self.transition(id, waits).await?
            }
            moved => moved?,
        };
        if let Moved::Changed(record) = &moved
            && let Some(reason) = record.intent.pending_reason
            && waits_to_resume(record)
        {
            tracing::info!(sandbox.id = %id, reason = reason.as_str(), "resume waits for room");
        }
        Ok(moved)
    }

    async fn resume_event(&self, record: &SandboxRecord) -> Event {
        let needs_room =
            status(record) == SandboxStatus::Suspended && record.intent.target == Target::Suspended;
        if !needs_room {
            return Event::ResumeAsked;
        }
        if self.waits_for_pool(record) {
            return Event::ResumeWaits(PendingReason::PoolAtCapacity);
        }
        match self.room_to_resume(record).await {
            Ok(()) => Event::ResumeAsked,
            Err(reason) => Event::ResumeWaits(reason),
        }
    }

    async fn settled(
        &self,
        record: &SandboxRecord,
        hold: Option<Duration>,
        progress: impl Fn(&SandboxRecord) -> Progress,
    ) -> Result<Settled, ControlError> {
        let last = match (hold, self.0.table.get(&record.id)) {
            (Some(hold), Some(entry)) => {
                let mut seen = entry.subscribe();
                tokio::select! {
                    _ = seen.wait_for(|live| progress(&live.record) != Progress::OnTheWay) => {}
                    () = tokio::time::sleep(hold) => {}
                    () = self.0.parts.tasks.stopping() => {}
                }
                Arc::clone(&seen.borrow().record)
            }
            (None, _) => Arc::new(record.clone()),
            (Some(_), None) => self.find_by_id(&record.id).await?,
        };
        if last.end.is_some() {
            return Err(ControlError::Terminated(last.id.clone()));
        }
        Ok(match progress(&last) {
            Progress::There => Settled::Done,
            Progress::OnTheWay | Progress::GivenUp => Settled::UnderWay,
        })
    }

    async fn find_by_id(&self, id: &SandboxId) -> Result<Arc<SandboxRecord>, ControlError> {
        Ok(Arc::new(self.0.parts.store.sandbox_fetch(id).await?))
    }
}

/// Says in a caller's words why a sandbox cannot do something now.
pub(crate) fn refusal(record: &SandboxRecord, why: Refusal) -> ControlError {
    let id = record.id.clone();
    match why {
        Refusal::NotRunning => ControlError::NotRunning { id, status: status(record) },
        Refusal::Ephemeral => ControlError::Unnamed(id),
        Refusal::Busy => {
            let what = match (&record.capturing, &record.resize) {
                (Some(snapshot), _) => format!("snapshot {snapshot} of it is being taken"),
                (None, Some(resize)) if resize.is_pending() => {
                    format!("its resize of generation {} is under way", resize.generation)
                }
                (None, _) => "it is on the way to another state".to_owned(),
            };
            ControlError::Busy { id, what }
        }
    }
}

fn suspended(record: &SandboxRecord, wanted: Generation) -> Progress {
    if record.end.is_some() {
        return Progress::GivenUp;
    }
    let seen = record.observed.as_ref().map(|observed| observed.generation);
    match status(record) {
        // Else a resume of before may be under way.
        SandboxStatus::Suspended if seen >= Some(wanted) => Progress::There,
        SandboxStatus::Running | SandboxStatus::Snapshotting
            if failed_at(record, &ObservedPhase::Running, wanted) =>
        {
            Progress::GivenUp
        }
        SandboxStatus::Pending
        | SandboxStatus::Running
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending
        | SandboxStatus::Suspended
        | SandboxStatus::Terminated => Progress::OnTheWay,
    }
}

fn resumed(record: &SandboxRecord, wanted: Generation) -> Progress {
    if record.end.is_some() {
        return Progress::GivenUp;
    }
    let seen = record.observed.as_ref().map(|observed| observed.generation);
    match status(record) {
        SandboxStatus::Running | SandboxStatus::Snapshotting if seen >= Some(wanted) => {
            Progress::There
        }
        SandboxStatus::Suspended if failed_at(record, &ObservedPhase::Suspended, wanted) => {
            Progress::GivenUp
        }
        SandboxStatus::Pending
        | SandboxStatus::Running
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending
        | SandboxStatus::Suspended
        | SandboxStatus::Terminated => Progress::OnTheWay,
    }
}

/// Says whether a node reported that it stayed where it was.
fn failed_at(record: &SandboxRecord, stayed: &ObservedPhase, wanted: Generation) -> bool {
    record.observed.as_ref().is_some_and(|Observed { generation, phase, trouble, .. }| {
        *generation >= wanted && phase == stayed && trouble.is_some()
    })
}
