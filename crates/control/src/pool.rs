//! Pools: make, read, change, delete (spec 03).
//!
//! ```text
//!                 ┌─ claim ──▶ a sandbox like any other
//!  started ──▶ idle
//!                 └─ the pool needs it no longer ──▶ ended
//! ```
//!
//! A container of a pool is a sandbox that nobody has claimed: stored, placed, started, adopted and
//! ended as any other, and seen by nobody. A claim is one commit of its record, so of any number of
//! them one gets it, whoever dies meanwhile. What a pool should have is decided by
//! [`tarn_scheduler::pool`]; one thing at a time is done about a pool.

mod claim;
mod converge;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, RwLock};
use tarn_lifecycle::status;
use tarn_scheduler::{PoolPlace, PoolRule};
use tarn_store::StoreError;
use tarn_types::{
    BootImage, EgressPolicy, EndCause, PoolDefinition, PoolId, PoolRecord, PortAccess, ProjectId,
    SandboxId, SandboxRecord, SandboxSpec, SandboxStatus, Target,
};
use tokio::{
    sync::{MutexGuard, Notify},
    time::Instant,
};

use crate::{
    Control, ControlError, PoolAsk, PoolContainer, PoolView,
    image::FoundImage,
    limits::PoolSettings,
    limits::disk_over,
    project::check_count,
    sandbox::most,
    table::{Entry, Live},
};

/// How often a change of a pool is decided anew when its record is another than was known.
const CONFLICT_ROUNDS: usize = 2;

/// How many containers of a pool are started at once.
const STARTS: u32 = 4;

/// How long a pool rests after a container that nobody had claimed ended by itself: at first, at
/// most, and after which time of peace that is forgotten.
const REST_FIRST: Duration = Duration::from_secs(1);
const REST_MOST: Duration = Duration::from_secs(60);
const PEACE: Duration = Duration::from_secs(300);

/// Every pool, as stored.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    map: RwLock<BTreeMap<PoolId, Arc<Pool>>>,
    /// Rung when something is to be done about one.
    changed: Notify,
}

/// One pool.
#[derive(Debug)]
pub(crate) struct Pool {
    record: RwLock<Arc<PoolRecord>>,
    /// Held while something is done about it.
    turn: tokio::sync::Mutex<()>,
    trouble: Mutex<Trouble>,
}

/// What went wrong with containers that nobody had claimed.
#[derive(Debug, Default)]
struct Trouble {
    times: u32,
    last: Option<Instant>,
    until: Option<Instant>,
}

/// How many containers the pools have, and what their claims wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolCounts {
    /// The pools.
    pub pools: u64,
    /// Containers that wait to be claimed.
    pub idle: u64,
    /// Containers that are being started, or go, and that nobody has claimed.
    pub starting: u64,
    /// Claimed sandboxes that have a container.
    pub claimed: u64,
    /// Claims that wait for one.
    pub waiting: u64,
}

/// One of a pool's, where it is.
struct Member {
    entry: Arc<Entry>,
    live: Live,
    place: PoolPlace,
}

// === impl Pools ===

impl Pools {
    pub(crate) fn new(records: Vec<PoolRecord>) -> Self {
        let pools = Self::default();
        for record in records {
            pools.insert(record);
        }
        pools
    }

    /// Has somebody look at the pools.
    pub(crate) fn ring(&self) {
        self.changed.notify_one();
    }

    fn insert(&self, record: PoolRecord) {
        let id = record.id.clone();
        let pool = Pool {
            record: RwLock::new(Arc::new(record)),
            turn: tokio::sync::Mutex::default(),
            trouble: Mutex::default(),
        };
        self.map.write().insert(id, Arc::new(pool));
    }

    fn get(&self, id: &PoolId) -> Option<Arc<Pool>> {
        self.map.read().get(id).cloned()
    }

    fn all(&self) -> Vec<Arc<Pool>> {
        self.map.read().values().cloned().collect()
    }

    /// Returns what the containers of all pools boot.
    pub(crate) fn images(&self) -> Vec<BootImage> {
        self.all().iter().map(|pool| pool.now().definition.image.clone()).collect()
    }

    /// Says whether a pool is not deleted yet; asked in its turn.
    fn has(&self, pool: &Arc<Pool>) -> bool {
        self.get(&pool.now().id).is_some_and(|known| Arc::ptr_eq(&known, pool))
    }
}

// === impl Pool ===

impl Pool {
    fn now(&self) -> Arc<PoolRecord> {
        Arc::clone(&self.record.read())
    }

    /// Waits for the turn to do something about it.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

// === impl Trouble ===

impl Trouble {
    /// Notes an end that nobody asked for; returns for how long the pool rests. What ends while it
    /// rests already, as all do with their host, is the same trouble.
    fn note(&mut self, now: Instant) -> Duration {
        if let Some(until) = self.until.filter(|until| now < *until) {
            return until - now;
        }
        if self.last.is_some_and(|last| now.duration_since(last) > PEACE) {
            self.times = 0;
        }
        let rest = REST_FIRST.saturating_mul(1 << self.times.min(16)).min(REST_MOST);
        self.times = self.times.saturating_add(1);
        self.last = Some(now);
        self.until = Some(now + rest);
        rest
    }

    fn rests(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

// === impl Control ===

impl Control {
    /// Makes a pool. Its containers are started in the background.
    ///
    /// # Errors
    /// Fails when the request is refused, or the project has as many as it may.
    pub async fn pool_create(
        &self,
        project: &ProjectId,
        ask: PoolAsk,
    ) -> Result<PoolView, ControlError> {
        let (settings, found) = self.pool_settings(project, ask, None).await?;
        let now = self.0.parts.clock.now();
        let record = PoolRecord {
            id: PoolId::from_random(self.0.parts.entropy.bytes()),
            project: project.clone(),
            created_at: now,
            updated_at: now,
            definition: settings.definition,
            timeout_secs: settings.timeout_secs,
            max_containers: settings.max_containers,
            warm_containers: settings.warm_containers,
            sequence: 1,
        };
        let control = self.clone();
        self.finish("pool_create", async move {
            let _turn = control.0.quotas.turn().await;
            control.check_pool_count(&record.project)?;
            control.0.parts.store.pool_insert(&record).await?;
            tracing::info!(
                pool.id = %record.id, project.id = %record.project,
                warm = record.warm_containers, max = record.max_containers, "pool made"
            );
            control.0.pools.insert(record.clone());
            drop(found);
            control.0.pools.ring();
            Ok(PoolView { record, containers: Vec::new() })
        })
        .await
    }

    /// Returns a project's pools, oldest first.
    #[must_use]
    pub fn pool_list(&self, project: &ProjectId) -> Vec<PoolView> {
        let mut pools = self.0.pools.all();
        pools.retain(|pool| pool.now().project == *project);
        pools.sort_by_key(|pool| (pool.now().created_at, pool.now().id.clone()));
        pools.iter().map(|pool| self.pool_view(&pool.now())).collect()
    }

    /// Returns a pool.
    ///
    /// # Errors
    /// Fails when the project has none of that id.
    pub fn pool_fetch(&self, project: &ProjectId, id: &PoolId) -> Result<PoolView, ControlError> {
        Ok(self.pool_view(&self.find_pool(project, id)?.now()))
    }

    /// Replaces everything of a pool, but a policy that the request keeps. Containers that nobody
    /// has claimed are replaced in the background if they are no longer like it.
    ///
    /// # Errors
    /// Fails when the project has none of that id, or the request is refused.
    pub async fn pool_update(
        &self,
        project: &ProjectId,
        id: &PoolId,
        ask: PoolAsk,
    ) -> Result<PoolView, ControlError> {
        let pool = self.find_pool(project, id)?;
        let control = self.clone();
        self.finish("pool_update", async move { control.replace_pool(&pool, ask).await }).await
    }

    async fn replace_pool(&self, pool: &Arc<Pool>, ask: PoolAsk) -> Result<PoolView, ControlError> {
        for _ in 0..CONFLICT_ROUNDS {
            let seen = pool.now();
            let network = seen.definition.network.as_ref();
            // A registry may be asked, for seconds: nothing of the pool waits for it.
            let (settings, _found) =
                self.pool_settings(&seen.project, ask.clone(), network).await?;
            let _turn = pool.turn().await;
            let before = pool.now();
            if !self.0.pools.has(pool) {
                return Err(ControlError::PoolNotFound(before.id.to_string()));
            }
            if before.definition.network != seen.definition.network {
                continue;
            }
            let after = PoolRecord {
                updated_at: self.0.parts.clock.now(),
                definition: settings.definition,
                timeout_secs: settings.timeout_secs,
                max_containers: settings.max_containers,
                warm_containers: settings.warm_containers,
                sequence: before.sequence + 1,
                ..before.as_ref().clone()
            };
            match self.0.parts.store.pool_update(&after).await {
                Ok(()) => {}
                Err(StoreError::PoolConflict { .. } | StoreError::NotFound { .. }) => {
                    self.reload_pool(pool).await?;
                    continue;
                }
                Err(failed) => return Err(failed.into()),
            }
            tracing::info!(
                pool.id = %after.id, warm = after.warm_containers, max = after.max_containers,
                replaced = after.definition != before.definition, "pool changed"
            );
            *pool.record.write() = Arc::new(after.clone());
            *pool.trouble.lock() = Trouble::default();
            self.0.pools.ring();
            return Ok(self.pool_view(&after));
        }
        let detail =
            format!("pool {} changed {CONFLICT_ROUNDS} times under one request", pool.now().id);
        Err(ControlError::Unavailable { detail })
    }

    /// Reads a pool anew: the answer to an earlier change of it was lost.
    async fn reload_pool(&self, pool: &Pool) -> Result<(), ControlError> {
        let id = pool.now().id.clone();
        let stored = self.0.parts.store.pool_list().await?;
        match stored.into_iter().find(|record| record.id == id) {
            Some(record) => *pool.record.write() = Arc::new(record),
            None => drop(self.0.pools.map.write().remove(&id)),
        }
        Ok(())
    }

    /// Deletes a pool and ends its containers. Returns once it is durable that it is gone.
    ///
    /// # Errors
    /// Fails when the project has none of that id, or a sandbox claimed from it lives.
    pub async fn pool_delete(&self, project: &ProjectId, id: &PoolId) -> Result<(), ControlError> {
        let pool = self.find_pool(project, id)?;
        let control = self.clone();
        self.finish("pool_delete", async move {
            let _turn = pool.turn().await;
            let id = pool.now().id.clone();
            if !control.0.pools.has(&pool) {
                return Err(ControlError::PoolNotFound(id.to_string()));
            }
            let members = control.0.table.of_pool(&id);
            let live = members.iter().filter(|entry| !entry.now().record.is_unclaimed()).count();
            if live > 0 {
                return Err(ControlError::PoolInUse { id, live });
            }
            control.0.parts.store.pool_delete(&id).await?;
            control.0.pools.map.write().remove(&id);
            tracing::info!(pool.id = %id, containers = members.len(), "pool deleted");
            // Nobody can claim them any more; the reconciler ends them.
            control.0.pools.ring();
            Ok(())
        })
        .await
    }

    /// Returns how many containers the pools have.
    #[must_use]
    pub fn pool_counts(&self) -> PoolCounts {
        let mut counts = PoolCounts::default();
        for pool in self.0.pools.all() {
            counts.pools += 1;
            for member in self.members(&pool.now()) {
                match member.place {
                    PoolPlace::Idle => counts.idle += 1,
                    PoolPlace::Starting | PoolPlace::Outdated => counts.starting += 1,
                    PoolPlace::Claimed => counts.claimed += 1,
                    PoolPlace::Waiting => counts.waiting += 1,
                    PoolPlace::Suspended => {}
                }
            }
        }
        counts
    }

    /// Says whether an id is that of a container that waits in a pool, or did until its end.
    pub(crate) async fn is_unclaimed(&self, id: &SandboxId) -> Result<bool, ControlError> {
        if let Some(entry) = self.0.table.get(id) {
            return Ok(entry.now().record.is_unclaimed());
        }
        match self.0.parts.store.sandbox_fetch(id).await {
            Ok(record) => Ok(record.is_unclaimed()),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Returns the pool of a live sandbox that is of one.
    pub(crate) fn pool_of(&self, id: &SandboxId) -> Option<Arc<Pool>> {
        let record = self.0.table.get(id)?.now().record;
        self.0.pools.get(&record.member.as_ref()?.pool)
    }

    /// Tells the pool of a sandbox that something of that changed.
    pub(crate) fn ring_pool(&self, before: &SandboxRecord, after: &SandboxRecord) {
        let Some(member) = &before.member else { return };
        self.0.pools.ring();
        let Some(end) = after.end.as_ref().filter(|_| before.is_unclaimed()) else { return };
        if matches!(end, EndCause::Deleted | EndCause::Cancelled) {
            return;
        }
        let Some(pool) = self.0.pools.get(&member.pool) else { return };
        let rest = pool.trouble.lock().note(Instant::now());
        tracing::warn!(
            pool.id = %member.pool, sandbox.id = %after.id, reason = end.error_message(),
            rest_secs = rest.as_secs(), "a container of a pool ended by itself; another is started \
             after a rest"
        );
    }

    fn check_pool_count(&self, project: &ProjectId) -> Result<(), ControlError> {
        let all = self.0.pools.all();
        let theirs = all.iter().filter(|pool| pool.now().project == *project).count();
        check_count(("pools", "quota.pools"), theirs, 1, self.0.config.pools_per_project)
    }

    fn find_pool(&self, project: &ProjectId, id: &PoolId) -> Result<Arc<Pool>, ControlError> {
        let pool = self.0.pools.get(id).filter(|pool| pool.now().project == *project);
        pool.ok_or_else(|| ControlError::PoolNotFound(id.to_string()))
    }

    /// Checks what is asked of a pool. Its image stays at least as long as what comes with it.
    async fn pool_settings(
        &self,
        project: &ProjectId,
        ask: PoolAsk,
        network: Option<&EgressPolicy>,
    ) -> Result<(PoolSettings, FoundImage), ControlError> {
        let (most, disk) = (most(&self.rooms().await), ask.disk);
        let mut settings = self.0.config.limits.check_pool(ask, network, &most)?;
        let found = self.find_image(project, &settings.definition.image.name).await?;
        settings.definition.image = found.image.clone();
        if let Some(files) = &found.files {
            let resources = &mut settings.definition.resources;
            resources.disk = disk_over(disk, resources.disk, files.snapshot())?;
        }
        Ok((settings, found))
    }

    fn pool_view(&self, record: &PoolRecord) -> PoolView {
        let members = self.members(record).into_iter();
        let shown = members.filter_map(|Member { live, place, .. }| {
            let claimed = match place {
                PoolPlace::Idle => false,
                PoolPlace::Claimed => true,
                PoolPlace::Outdated
                | PoolPlace::Starting
                | PoolPlace::Waiting
                | PoolPlace::Suspended => return None,
            };
            let node = live.record.intent.node.clone()?;
            Some(PoolContainer { id: live.record.id.clone(), claimed, node })
        });
        PoolView { record: record.clone(), containers: shown.collect() }
    }

    /// Returns what a pool has, oldest first.
    fn members(&self, pool: &PoolRecord) -> Vec<Member> {
        let entries = self.0.table.of_pool(&pool.id).into_iter();
        let member = |entry: Arc<Entry>| {
            let live = entry.now();
            let place = place_of(&live, &pool.definition);
            Member { entry, live, place }
        };
        entries.map(member).collect()
    }
}

fn rule_of(pool: &PoolRecord) -> PoolRule {
    PoolRule { warm: pool.warm_containers.unwrap_or(0), max: pool.max_containers, starts: STARTS }
}

fn place_of(live: &Live, definition: &PoolDefinition) -> PoolPlace {
    let record = &live.record;
    if record.is_unclaimed() {
        return unclaimed_place(live, definition);
    }
    match status(record) {
        SandboxStatus::Suspended if record.intent.target == Target::Suspended => {
            PoolPlace::Suspended
        }
        SandboxStatus::Pending if record.intent.node.is_none() => PoolPlace::Waiting,
        // It goes on, or is about to.
        SandboxStatus::Suspended
        | SandboxStatus::Pending
        | SandboxStatus::Running
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending
        | SandboxStatus::Terminated => PoolPlace::Claimed,
    }
}

fn unclaimed_place(live: &Live, definition: &PoolDefinition) -> PoolPlace {
    let record = &live.record;
    if definition_of(&record.asked) != *definition {
        return PoolPlace::Outdated;
    }
    let frozen = record.observed.as_ref().is_some_and(|observed| observed.frozen.is_some());
    match status(record) {
        // Not before its node has said how to reach it.
        SandboxStatus::Running if live.endpoint.is_some() && !frozen => PoolPlace::Idle,
        SandboxStatus::Running
        | SandboxStatus::Pending
        | SandboxStatus::Snapshotting
        | SandboxStatus::Suspending
        | SandboxStatus::Suspended
        | SandboxStatus::Terminated => PoolPlace::Starting,
    }
}

fn definition_of(spec: &SandboxSpec) -> PoolDefinition {
    PoolDefinition {
        image: spec.image.clone(),
        resources: spec.resources,
        entrypoint: spec.entrypoint.clone(),
        network: spec.network.clone(),
    }
}

/// Says what a container of a pool is asked to be. The limit of time is that of a claim.
fn spec_of(definition: &PoolDefinition, timeout_secs: u64) -> SandboxSpec {
    SandboxSpec {
        name: None,
        image: definition.image.clone(),
        resources: definition.resources,
        timeout_secs,
        entrypoint: definition.entrypoint.clone(),
        network: definition.network.clone(),
        ports: PortAccess::default(),
        auto_resume: true,
        max_pending_secs: None,
        restore: definition.image.files(),
        // No fields of a pool (spec 03).
        secret_names: Vec::new(),
        template_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rests_grow_and_are_forgotten_in_peace() {
        let mut trouble = Trouble::default();
        let mut now = Instant::now();
        for expected in [1_u64, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(trouble.note(now).as_secs(), expected);
            let half = Duration::from_millis(500);
            assert_eq!(trouble.note(now + half).as_millis(), u128::from(expected) * 1000 - 500);
            assert!(trouble.rests(now + half));
            now += Duration::from_secs(expected);
            assert!(!trouble.rests(now));
        }
        assert_eq!(trouble.note(now + PEACE + REST_FIRST), REST_FIRST);
    }
}
