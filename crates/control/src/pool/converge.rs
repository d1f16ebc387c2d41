//! The reconciler of pools: makes what they have match what they should have.

use std::{sync::Arc, time::Duration};

use tarn_lifecycle::Event;
use tarn_scheduler::{Placement, PoolPlan, pool as plan_pool};
use tarn_types::{PendingReason, PoolId, PoolMember, PoolRecord, SandboxId};
use tokio::time::Instant;

use super::{Pool, rule_of, spec_of};
use crate::{Control, ControlError};

/// How often pools are looked at when nothing rings.
const PERIOD: Duration = Duration::from_secs(1);

// === impl Control ===

impl Control {
    pub(crate) fn spawn_pool_reconciler(&self) {
        let control = self.clone();
        drop(self.0.parts.tasks.spawn("pool_reconciler", async move {
            let stopping = control.0.parts.tasks.stopping();
            tokio::pin!(stopping);
            loop {
                tokio::select! {
                    () = &mut stopping => break,
                    () = control.0.pools.changed.notified() => {}
                    () = tokio::time::sleep(PERIOD) => {}
                }
                // Before a node has said what it has, nothing is known to be missing.
                if !control.0.nodes.read().is_empty() {
                    control.converge_pools().await;
                }
            }
        }));
    }

    async fn converge_pools(&self) {
        for pool in self.0.pools.all() {
            if let Err(failed) = self.converge(&pool).await {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(
                    pool.id = %pool.now().id, error = %failed, detail,
                    "a pool was not looked after; trying again"
                );
            }
        }
        for id in self.0.table.pools() {
            if self.0.pools.get(&id).is_none() {
                self.retire_all(&id).await;
            }
        }
    }

    /// Does what is to be done about a pool now.
    async fn converge(&self, pool: &Arc<Pool>) -> Result<(), ControlError> {
        let _turn = pool.turn().await;
        if !self.0.pools.has(pool) {
            return Ok(());
        }
        let record = pool.now();
        let members = self.members(&record).into_iter();
        let members: Vec<_> =
            members.map(|member| (member.live.record.id.clone(), member.place)).collect();
        let PoolPlan { end, place, hold, start } = plan_pool(&rule_of(&record), &members);
        for id in end {
            self.transition(&id, Event::Retired).await?;
        }
        for id in hold {
            self.transition(&id, Event::NotPlaced(PendingReason::PoolAtCapacity)).await?;
        }
        let mut room = true;
        for id in place {
            room &= self.place_claim(&id).await?;
        }
        if room && !pool.trouble.lock().rests(Instant::now()) {
            self.start_idle(&record, start).await?;
        }
        Ok(())
    }

    /// Gives a claim a container, and says whether there was room for one.
    async fn place_claim(&self, id: &SandboxId) -> Result<bool, ControlError> {
        let Some(entry) = self.0.table.get(id) else { return Ok(true) };
        let asked = entry.now().record.asked.clone();
        let _gpus = self.gpu_turn(&asked.resources).await;
        let placement = self.choose(&asked, &self.rooms().await).await?;
        let (event, room) = match placement {
            Placement::On(node) => (Event::Placed(node), true),
            Placement::Wait { reason, .. } => (Event::NotPlaced(reason), false),
        };
        self.transition(id, event).await?;
        Ok(room)
    }

    /// Starts containers that wait to be claimed, as many as there is room for.
    async fn start_idle(&self, pool: &PoolRecord, count: u32) -> Result<(), ControlError> {
        for _ in 0..count {
            if !self.has_room_in_store(&pool.project) {
                tracing::debug!(pool.id = %pool.id, "no place in the quota for another container");
                return Ok(());
            }
            // Nothing limits the time that one waits.
            let spec = spec_of(&pool.definition, 0);
            let _gpus = self.gpu_turn(&spec.resources).await;
            let placement = self.choose(&spec, &self.rooms().await).await?;
            if let Placement::Wait { reason, obstacles } = placement {
                tracing::debug!(
                    pool.id = %pool.id, reason = reason.as_str(), ?obstacles,
                    "no room for another container of a pool"
                );
                return Ok(());
            }
            let member = PoolMember { pool: pool.id.clone(), claimed_at: None };
            drop(self.enter(pool.project.clone(), spec, placement, Some(member), None).await?);
        }
        Ok(())
    }

    /// Ends what is left of a deleted pool.
    async fn retire_all(&self, id: &PoolId) {
        for entry in self.0.table.of_pool(id) {
            let sandbox = entry.now().record.id.clone();
            if let Err(failed) = self.transition(&sandbox, Event::Retired).await {
                let detail = failed.detail().unwrap_or_default();
                tracing::warn!(
                    pool.id = %id, sandbox.id = %sandbox, error = %failed, detail,
                    "a container of a deleted pool was not ended; trying again"
                );
            }
        }
    }
}
