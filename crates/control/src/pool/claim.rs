//! Claims: from a container that waits, or from one that is started for it.

use std::{sync::Arc, time::Duration};

use tarn_lifecycle::{Event, status};
use tarn_scheduler::{Placement, PoolPlace, pool as plan_pool};
use tarn_types::{
    PendingReason, PoolId, PoolMember, PoolRecord, ProjectId, SandboxRecord, SandboxStatus,
};
use tokio::{sync::watch, time::Instant};

use super::{Member, Pool, rule_of, spec_of};
use crate::{Control, ControlError, SandboxView, table::Live, transition::Moved};

/// Before or behind those that wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Last,
}

// === impl Control ===

impl Control {
    /// Claims a sandbox from a pool, and waits at most `hold` for it to run or to fail.
    ///
    /// Once accepted it is finished even if this future is dropped.
    ///
    /// # Errors
    /// Fails when the project has no such pool, or its quota is exceeded. A pool that has all
    /// the containers it may is no error: the claim waits for one.
    pub async fn pool_claim(
        &self,
        project: &ProjectId,
        id: &PoolId,
        hold: Duration,
    ) -> Result<SandboxView, ControlError> {
        let until = Instant::now() + hold;
        let pool = self.find_pool(project, id)?;
        let control = self.clone();
        let mut seen = self.finish("pool_claim", async move { control.claim(&pool).await }).await?;
        Ok(self.started(&mut seen, until).await)
    }

    async fn claim(&self, pool: &Arc<Pool>) -> Result<watch::Receiver<Live>, ControlError> {
        let _turn = pool.turn().await;
        let record = pool.now();
        if !self.0.pools.has(pool) {
            return Err(ControlError::PoolNotFound(record.id.to_string()));
        }
        let members = self.members(&record);
        // What waits may be about to go: for a resume, for a claim before this one, or because the
        // maximum was lowered.
        let places: Vec<_> = members.iter().map(|member| member.place).collect();
        if is_held(&record, &places, Turn::Last) {
            let reason = PendingReason::PoolAtCapacity;
            let placement = Placement::Wait { reason, obstacles: Vec::new() };
            return self.claim_new(&record, placement).await;
        }
        // The oldest that is ready, else the oldest that soon will be.
        let ready = members.iter().filter(|member| member.place == PoolPlace::Idle);
        let soon = members.iter().filter(|member| {
            let pending = status(&member.live.record) == SandboxStatus::Pending;
            member.place == PoolPlace::Starting && pending
        });
        for Member { entry, live, .. } in ready.chain(soon) {
            let event = Event::Claimed { timeout_secs: record.timeout_secs };
            let id = &live.record.id;
            if let Moved::Changed(claimed) = self.transition(id, event).await? {
                let status = status(&claimed).as_str();
                tracing::info!(sandbox.id = %id, pool.id = %record.id, status, "claimed");
                return Ok(entry.subscribe());
            }
        }
        let spec = spec_of(&record.definition, record.timeout_secs);
        let _gpus = self.gpu_turn(&spec.resources).await;
        let placement = self.choose(&spec, &self.rooms().await).await?;
        self.claim_new(&record, placement).await
    }

    /// Has a container started for a claim, or has the claim wait for one.
    async fn claim_new(
        &self,
        pool: &PoolRecord,
        placement: Placement,
    ) -> Result<watch::Receiver<Live>, ControlError> {
        let spec = spec_of(&pool.definition, pool.timeout_secs);
        let in_quota = self.promise(&pool.project, 1)?.pop();
        let claimed_at = Some(self.0.parts.clock.now());
        let member = PoolMember { pool: pool.id.clone(), claimed_at };
        let entered =
            self.enter(pool.project.clone(), spec, placement, Some(member), in_quota).await;
        self.0.pools.ring();
        entered
    }

    /// Says whether a suspended sandbox that should go on waits for its pool to have fewer
    /// containers; asked in the turn of that pool.
    pub(crate) fn waits_for_pool(&self, record: &SandboxRecord) -> bool {
        let Some(pool) = self.pool_of(&record.id) else { return false };
        let pool = pool.now();
        let others = self.members(&pool).into_iter();
        let others = others.filter(|member| member.live.record.id != record.id);
        let places: Vec<_> = others.map(|member| member.place).collect();
        is_held(&pool, &places, Turn::First)
    }
}

/// Says whether one more that wants a container of a pool waits until there are fewer.
fn is_held(pool: &PoolRecord, others: &[PoolPlace], turn: Turn) -> bool {
    let mut all: Vec<_> = others.iter().map(|place| (false, *place)).collect();
    let at = match turn {
        Turn::First => 0,
        Turn::Last => all.len(),
    };
    all.insert(at, (true, PoolPlace::Waiting));
    plan_pool(&rule_of(pool), &all).hold.contains(&true)
}
