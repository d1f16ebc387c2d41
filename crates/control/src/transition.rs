//! The one way a sandbox's record changes: decide, store, publish, act.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tarn_lifecycle::{Effect, Event, Ignored, Refusal, lasting, status, step};
use tarn_node_api::{
    ApplyError, ArchiveReport, CaptureReport, NodeIntent, NodeTarget, Report, ReportSink,
};
use tarn_store::StoreError;
use tarn_types::{Generation, ObservedPhase, SandboxId, SandboxRecord, SandboxStatus, Target};

use crate::{
    Control, ControlError,
    table::{Entry, Place, Table},
    usage::counts,
};

/// How often a decision is taken anew when the record changed under it.
const CONFLICT_ROUNDS: usize = 8;

/// How long a report that could not be stored rests before the next try, at first and at most.
const REPORT_PAUSE_FIRST: Duration = Duration::from_millis(100);
const REPORT_PAUSE_MOST: Duration = Duration::from_secs(5);

/// What an event led to.
#[derive(Debug)]
pub(crate) enum Moved {
    /// The record is now this one.
    Changed(Arc<SandboxRecord>),
    /// Nothing changed; the record is still this one.
    Unchanged(Arc<SandboxRecord>),
    /// Nothing changed, because the sandbox cannot do that now.
    Refused(Arc<SandboxRecord>, Refusal),
}

// === impl Moved ===

impl Moved {
    pub(crate) fn into_record(self) -> Arc<SandboxRecord> {
        match self {
            Self::Changed(record) | Self::Unchanged(record) | Self::Refused(record, _) => record,
        }
    }
}

// === impl Control ===

impl Control {
    /// Applies an event to a sandbox: decides by `lifecycle`, stores, publishes, performs effects.
    ///
    /// The record is stored before anybody sees it.
    ///
    /// # Errors
    /// Fails with `QuotaExceeded` for a resume or a claim that the project's quota does not allow.
    pub(crate) async fn transition(
        &self,
        id: &SandboxId,
        event: Event,
    ) -> Result<Moved, ControlError> {
        let Some(entry) = self.0.table.get(id) else {
            return self.transition_ended(id, event).await;
        };
        let turn = entry.turn.lock().await;
        for _ in 0..CONFLICT_ROUNDS {
            let before = entry.now().record;
            let next = match step(&before, event.clone(), self.0.parts.clock.now()) {
                Ok(next) => next,
                Err(Ignored::Ended(effects)) => {
                    drop(turn);
                    self.perform(&before, &effects).await;
                    return Ok(Moved::Unchanged(before));
                }
                Err(Ignored::Stale | Ignored::NoChange) => return Ok(Moved::Unchanged(before)),
                Err(Ignored::Refused(refusal)) => return Ok(Moved::Refused(before, refusal)),
            };
            let place = self.place_for(&event, &before, &next.record)?;
            let store = &self.0.parts.store;
            let lasts = lasting(&before, &next.record);
            let stored = store.sandbox_update(&next.record, status(&next.record), lasts).await;
            match stored {
                Ok(()) => {
                    log_move(&before, &next.record);
                    self.0.table.publish(&entry, next.record.clone(), place);
                    drop(turn);
                    self.ring(&before, &next.record);
                    self.perform(&next.record, &next.effects).await;
                    return Ok(Moved::Changed(Arc::new(next.record)));
                }
                Err(StoreError::Conflict { .. }) => self.reload(&entry, id).await?,
                Err(refused) => return Err(refused.into()),
            }
        }
        let detail = format!("sandbox {id} changed {CONFLICT_ROUNDS} times under one event");
        Err(ControlError::Unavailable { detail })
    }

    /// Takes a place in the quota for a sandbox that somebody wants to go on or claims. What a node
    /// reports is so, whatever the quota.
    fn place_for(
        &self,
        event: &Event,
        before: &SandboxRecord,
        after: &SandboxRecord,
    ) -> Result<Option<Place>, ControlError> {
        let wanted = matches!(event, Event::ResumeAsked | Event::Claimed { .. });
        if !wanted || counts(before) || !counts(after) {
            return Ok(None);
        }
        Ok(self.promise(&after.project, 1)?.pop())
    }

    /// The end of a sandbox is stored and nothing changes it; a node may still have to be told.
    async fn transition_ended(&self, id: &SandboxId, event: Event) -> Result<Moved, ControlError> {
        let record = self.0.parts.store.sandbox_fetch(id).await?;
        if let Err(Ignored::Ended(effects)) = step(&record, event, self.0.parts.clock.now()) {
            self.perform(&record, &effects).await;
        }
        Ok(Moved::Unchanged(Arc::new(record)))
    }

    async fn reload(&self, entry: &Entry, id: &SandboxId) -> Result<(), ControlError> {
        let record = self.0.parts.store.sandbox_fetch(id).await?;
        self.0.table.publish(entry, record, None);
        Ok(())
    }

    /// Tells reconcilers what a move made possible.
    fn ring(&self, before: &SandboxRecord, after: &SandboxRecord) {
        let (old, new) = (status(before), status(after));
        let started = old == SandboxStatus::Pending && new != SandboxStatus::Pending;
        if started && after.asked.restore.is_some() {
            // It no longer needs its snapshot, and the next copy may start.
            self.0.snapshots.notify_one();
            self.0.placement.notify_one();
        }
        if old != new && matches!(new, SandboxStatus::Suspended | SandboxStatus::Terminated) {
            self.0.placement.notify_one();
        }
        self.ring_pool(before, after);
    }

    async fn perform(&self, record: &SandboxRecord, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Apply => self.apply(record).await,
                Effect::Forget(generation) => self.forget(record, *generation).await,
            }
        }
    }

    /// Sends the intent to its node. A node that cannot take it is asked again in the background.
    pub(crate) async fn apply(&self, record: &SandboxRecord) {
        let Some(intent) = intent_of(record) else { return };
        let Some(node) = record.intent.node.as_ref().and_then(|node| self.node(node)) else {
            // Not attached yet: `attach` compares everything.
            return;
        };
        let Err(refused) = node.apply(intent.clone()).await else { return };
        if let ApplyError::Stale { .. } = refused {
            return;
        }
        tracing::warn!(
            sandbox.id = %record.id, generation = %intent.generation, error = %refused,
            "the node did not take the intent; trying again"
        );
        let stopping = self.0.parts.tasks.stopping();
        drop(self.0.parts.tasks.spawn("intent_retry", async move {
            let again = async {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    match node.apply(intent.clone()).await {
                        Ok(()) | Err(ApplyError::Stale { .. }) => break,
                        Err(ApplyError::Stopping) => {}
                    }
                }
            };
            tokio::select! { () = again => {}, () = stopping => {} }
        }));
    }

    async fn forget(&self, record: &SandboxRecord, generation: Generation) {
        if let Some(node) = record.intent.node.as_ref().and_then(|node| self.node(node)) {
            node.forget(&record.id, generation).await;
        }
    }
}

#[async_trait]
impl ReportSink for Control {
    async fn report(&self, report: Report) {
        let id = report.id.clone();
        let event = Event::Reported(report.observed.clone());
        let mut pause = REPORT_PAUSE_FIRST;
        // The sandbox's own task waits here, so its reports stay in order.
        while let Err(failed) = self.transition(&id, event.clone()).await {
            if self.rest(&id, &failed, &mut pause).await == Again::No {
                return;
            }
        }
        let Some(entry) = self.0.table.get(&id) else { return };
        let record = entry.now().record;
        // A late one tells of an endpoint that is gone.
        let current = record.observed.as_ref().is_some_and(|observed| {
            observed.phase == ObservedPhase::Running
                && observed.phase == report.observed.phase
                && observed.generation == report.observed.generation
        });
        if current {
            Table::set_endpoint(&entry, report.endpoint);
            if record.member.is_some() {
                self.0.pools.ring();
            }
        }
    }

    async fn archived(&self, report: ArchiveReport) {
        if let Err(failed) = self.conclude_archived(&report).await {
            let detail = failed.detail().unwrap_or_default();
            // It is unsettled still, so it is ordered again, which then costs nothing.
            tracing::warn!(
                snapshot.id = %report.snapshot, error = %failed, detail,
                "what became of an upload was not stored; asking again"
            );
        }
    }

    async fn captured(&self, report: CaptureReport) {
        let mut pause = REPORT_PAUSE_FIRST;
        while let Err(failed) = self.conclude(&report).await {
            if self.rest(&report.sandbox, &failed, &mut pause).await == Again::No {
                return;
            }
        }
    }
}

/// Whether to try again to store what a node reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Yes,
    No,
}

impl Control {
    /// Rests after a report could not be stored, if another try makes sense.
    async fn rest(&self, id: &SandboxId, failed: &ControlError, pause: &mut Duration) -> Again {
        if let ControlError::NotFound(_) = failed {
            return Again::No;
        }
        let detail = failed.detail().unwrap_or_default();
        tracing::error!(
            sandbox.id = %id, error = %failed, detail, "a report was not stored; trying again"
        );
        tokio::select! {
            // The node keeps it; the next start asks again.
            () = self.0.parts.tasks.stopping() => Again::No,
            () = tokio::time::sleep(*pause) => {
                *pause = (*pause * 2).min(REPORT_PAUSE_MOST);
                Again::Yes
            }
        }
    }
}

/// Makes what a node gets to see of a record.
fn intent_of(record: &SandboxRecord) -> Option<NodeIntent> {
    record.intent.node.as_ref()?;
    let target = match &record.intent.target {
        Target::Running => NodeTarget::Running(record.launch()),
        Target::Suspended => NodeTarget::Suspended,
        Target::Terminated(cause) => NodeTarget::Terminated(cause.clone()),
    };
    Some(NodeIntent {
        id: record.id.clone(),
        project: record.project.clone(),
        generation: record.intent.generation,
        target,
    })
}

fn log_move(before: &SandboxRecord, after: &SandboxRecord) {
    let trouble =
        |record: &SandboxRecord| record.observed.as_ref().and_then(|seen| seen.trouble.clone());
    if let Some(trouble) = trouble(after).filter(|now| Some(now) != trouble(before).as_ref()) {
        tracing::warn!(
            sandbox.id = %after.id, generation = %after.intent.generation, reason = trouble,
            "sandbox could not be suspended or resumed"
        );
    }
    let (old, new) = (status(before), status(after));
    if old == new {
        return;
    }
    let reason = after.end.as_ref().map(|end| end.outcome().to_string());
    tracing::info!(
        sandbox.id = %after.id,
        project.id = %after.project,
        generation = %after.intent.generation,
        old = old.as_str(),
        new = new.as_str(),
        reason,
        "sandbox changed state"
    );
}
