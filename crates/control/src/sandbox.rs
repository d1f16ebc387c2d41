//! The sandbox service: create, fetch, list, patch, delete.

use std::{sync::Arc, time::Duration};

use tarn_lifecycle::{Event, Patch, status};
use tarn_node_api::Unfound;
use tarn_scheduler::{Placement, Room, place};
use tarn_store::{ListQuery, PageKey};
use tarn_types::{
    BootImage, ByteSize, Generation, GpuStock, Intent, NetworkLog, NodeId, PendingReason,
    PoolMember, ProjectId, Resources, SandboxId, SandboxRecord, SandboxRef, SandboxSpec,
    SandboxStatus, SnapshotKind, Target, TemplateId, UnixMillis,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    Control, ControlError, CreateAsk, ListAsk, ListPage, NetworkPatch, PatchAsk, SandboxView,
    image::FoundImage,
    limits::{Most, over_image},
    table::{Entry, Live, Place},
};

/// How long a patch waits for its node to put a new policy in force.
const PATCH_DEADLINE: Duration = Duration::from_secs(10);

/// How long a patch of a policy waits for a sandbox that is on its way to run. What takes longer
/// waits for its image or for others, and its node puts in force what it is told meanwhile.
const START_DEADLINE: Duration = Duration::from_secs(2);

// === impl Control ===

impl Control {
    /// Creates a sandbox, and waits at most `hold` for it to run or to fail.
    ///
    /// Once accepted it is finished even if this future is dropped.
    ///
    /// # Errors
    /// Fails when the request is refused; a start that fails is no error but a terminated sandbox.
    pub async fn sandbox_create(
        &self,
        project: &ProjectId,
        ask: CreateAsk,
        hold: Duration,
    ) -> Result<SandboxView, ControlError> {
        let until = Instant::now() + hold;
        let (control, project) = (self.clone(), project.clone());
        let mut seen = self
            .finish("sandbox_create", async move { control.accept(project, ask).await })
            .await?;
        Ok(self.started(&mut seen, until).await)
    }

    /// Waits for a sandbox to leave its pending state, but not longer than `until`.
    pub(crate) async fn started(
        &self,
        seen: &mut watch::Receiver<Live>,
        until: Instant,
    ) -> SandboxView {
        let settled = seen.wait_for(|live| status(&live.record) != SandboxStatus::Pending);
        // Out of time is an answer too, and so is a server that stops: still pending then, and the
        // caller has the id.
        tokio::select! {
            _ = settled => {}
            () = tokio::time::sleep_until(until) => {}
            () = self.0.parts.tasks.stopping() => {}
        }
        let record = Arc::clone(&seen.borrow().record);
        self.view(&record)
    }

    /// Returns a sandbox, archived ones excepted.
    ///
    /// # Errors
    /// Fails when the project has none of that id or name.
    pub async fn sandbox_fetch(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<SandboxView, ControlError> {
        let record = self.find(project, sandbox).await?;
        let view = self.view(&record);
        match view.archived_at {
            Some(at) if at <= self.0.parts.clock.now() => {
                Err(ControlError::SandboxNotFound(sandbox.to_string()))
            }
            Some(_) | None => Ok(view),
        }
    }

    /// Returns an archived sandbox.
    ///
    /// # Errors
    /// Fails when the project's archive has none of that id.
    pub async fn sandbox_fetch_archived(
        &self,
        project: &ProjectId,
        id: &SandboxId,
    ) -> Result<SandboxView, ControlError> {
        let record = self.find(project, &SandboxRef::Id(id.clone())).await?;
        let view = self.view(&record);
        match view.archived_at {
            Some(at) if at <= self.0.parts.clock.now() => Ok(view),
            Some(_) | None => Err(ControlError::SandboxNotFound(id.to_string())),
        }
    }

    /// Returns a page of a project's sandboxes.
    ///
    /// # Errors
    /// Fails only when the store does.
    pub async fn sandbox_list(
        &self,
        project: &ProjectId,
        ask: &ListAsk,
    ) -> Result<ListPage, ControlError> {
        let now = self.0.parts.clock.now().0;
        let age = i64::try_from(self.0.config.archive_after_secs * 1000).unwrap_or(i64::MAX);
        let page = self
            .0
            .parts
            .store
            .sandbox_list(&ListQuery {
                project: project.clone(),
                archived: ask.archived,
                archived_before: UnixMillis(now.saturating_sub(age)),
                status: ask.status,
                from: ask.from.clone(),
                order: ask.order,
                limit: ask.limit,
            })
            .await?;
        let key = |record: Option<&SandboxRecord>| {
            record.map(|r| PageKey { created_at: r.created_at, id: r.id.clone() })
        };
        Ok(ListPage {
            prev: key(page.items.first().filter(|_| page.has_newer)),
            next: key(page.items.last().filter(|_| page.has_older)),
            items: page.items.iter().map(|record| self.view(record)).collect(),
        })
    }

    /// Changes a sandbox, all or nothing. A new policy is in force before this returns, or before
    /// the sandbox does anything if it does not run yet. While a snapshot is taken of it, which its
    /// node does first, that is waited for as long as `hold`.
    ///
    /// # Errors
    /// Fails when there is none, it has ended, the name is taken, or its node does not answer.
    pub async fn sandbox_patch(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
        ask: PatchAsk,
        hold: Duration,
    ) -> Result<SandboxView, ControlError> {
        let record = self.sandbox_fetch(project, sandbox).await?.record;
        if record.end.is_some() {
            return Err(ControlError::Terminated(record.id.clone()));
        }
        if ask.auto_resume == Some(false) && record.asked.name.is_none() && ask.name.is_none() {
            return Err(ControlError::Ephemeral { field: "auto_resume" });
        }
        let concerns_policy = !matches!(ask.network, NetworkPatch::Keep);
        // Of all else that can be changed its node knows nothing.
        let concerns_node = concerns_policy || ask.name.is_some() && record.asked.name.is_none();
        let patch = patch_of(ask);
        let (control, id) = (self.clone(), record.id.clone());
        let record = self
            .finish("sandbox_patch", async move {
                let record = control.transition(&id, Event::Patched(patch)).await?.into_record();
                if !concerns_node {
                    return Ok(record);
                }
                control.in_force(record, concerns_policy, hold).await
            })
            .await?;
        if record.end.is_some() {
            return Err(ControlError::Terminated(record.id.clone()));
        }
        Ok(self.view(&record))
    }

    /// Ends a sandbox. Returns once that is durable; an ended one stays as it is.
    ///
    /// # Errors
    /// Fails when the project has none of that id or name.
    pub async fn sandbox_delete(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<(), ControlError> {
        // An archived one is gone for every caller.
        let view = self.sandbox_fetch(project, sandbox).await?;
        let (control, id) = (self.clone(), view.record.id);
        self.finish("sandbox_delete", async move {
            control.transition(&id, Event::DeleteAsked).await.map(|_moved| ())
        })
        .await
    }

    /// Returns what a sandbox did with the network, and the time of that.
    ///
    /// # Errors
    /// Fails when the project has none of that id or name, when no log of it is kept, and when its
    /// node does not say.
    pub async fn sandbox_network_log(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<(NetworkLog, UnixMillis), ControlError> {
        let SandboxView { record, status, .. } = self.sandbox_fetch(project, sandbox).await?;
        let node = record.intent.node.as_ref().and_then(|node| self.node(node));
        let log = match node {
            Some(node) => node.network_log(&record.id).await,
            None => Ok(None),
        };
        let log = log.map_err(|detail| ControlError::Internal { detail })?;
        let missing = || ControlError::NoNetworkLog { id: record.id.clone(), status };
        Ok((log.ok_or_else(missing)?, self.0.parts.clock.now()))
    }

    /// Returns the sandboxes that some node has and the store does not know.
    pub async fn orphans(&self) -> Vec<SandboxId> {
        let mut orphans = Vec::new();
        for node in self.nodes() {
            orphans.extend(node.orphans().await);
        }
        orphans
    }

    /// Returns the sandboxes that some node cannot take over from its earlier run.
    pub async fn unfound(&self) -> Vec<Unfound> {
        let mut unfound = Vec::new();
        for node in self.nodes() {
            unfound.extend(node.unfound().await);
        }
        unfound
    }

    /// Returns how many live sandboxes have each status; what waits in a pool is none yet.
    #[must_use]
    pub fn live_counts(&self) -> Vec<(SandboxStatus, usize)> {
        let mut all = self.0.table.all();
        all.retain(|entry| !entry.now().record.is_unclaimed());
        let count =
            |wanted| all.iter().filter(|entry| status(&entry.now().record) == wanted).count();
        SandboxStatus::ALL.into_iter().map(|wanted| (wanted, count(wanted))).collect()
    }

    async fn accept(
        &self,
        project: ProjectId,
        ask: CreateAsk,
    ) -> Result<watch::Receiver<Live>, ControlError> {
        let Some(id) = ask.restore.clone() else { return self.accept_new(project, ask).await };
        let rooms = self.rooms().await;
        let limits = &self.0.config.limits;
        let template = self.find_template(&project, ask.template_id.as_deref())?;
        let _needed = self.use_snapshot(&id);
        let snapshot = self.snapshot_fetch(&project, &id).await?;
        let node = rooms.iter().find(|room| room.node == snapshot.node);
        let node = node.map(|room| largest(std::slice::from_ref(room)));
        let mut spec = limits.check_restore(ask, &snapshot, &most(&rooms), node.as_ref())?;
        if let Some((id, _)) = template {
            if snapshot.kind == SnapshotKind::Filesystem {
                agree(&id, &snapshot.captured.image, "the snapshot's image")?;
            }
            spec.template_id = Some(id);
        }
        if snapshot.kind == SnapshotKind::Filesystem {
            // In memory they are what they were, whatever became of them.
            self.check_secrets(&project, &spec.secret_names).await?;
        }
        if snapshot.kind == SnapshotKind::Memory
            && let Some(node) = self.node(&snapshot.node)
            && let Some(reason) = node.obstacle(&id).await
        {
            return Err(ControlError::SnapshotIncompatible { id, reason });
        }
        let in_quota = self.promise(&project, 1)?.pop();
        let turn = self.gpu_turn(&spec.resources).await;
        let rooms = if turn.is_some() { self.rooms().await } else { rooms };
        // Its image is below the snapshot, whether it can still be found by its name or not.
        let placement = self.choose_for(&spec.resources, &snapshot, &rooms);
        self.enter(project, spec, placement, None, in_quota).await
    }

    /// Accepts a sandbox that is made from an image.
    async fn accept_new(
        &self,
        project: ProjectId,
        ask: CreateAsk,
    ) -> Result<watch::Receiver<Live>, ControlError> {
        let (rooms, disk, named) = (self.rooms().await, ask.disk, ask.image.is_some());
        let template = self.find_template(&project, ask.template_id.as_deref())?;
        let awaited = ask.image.as_ref().and_then(|it| self.0.images.awaited.find(&project, it));
        let default_image = match &template {
            Some((_, name)) => name.clone(),
            None => self.0.parts.images.default_image(),
        };
        let mut spec = self.0.config.limits.check(ask, default_image, &most(&rooms))?;
        let found = match &template {
            _ if awaited.is_some() => FoundImage::stock(&self.0.parts.images.default_image()),
            Some((id, name)) if !named => self.find_image_of(&project, id, name).await?,
            Some(_) | None => self.find_image(&project, &spec.image.name).await?,
        };
        if let Some((id, _)) = template {
            agree(&id, &found.image, "the one that `image` names")?;
            spec.template_id = Some(id);
        }
        spec.image = found.image.clone();
        self.check_secrets(&project, &spec.secret_names).await?;
        let Some(files) = &found.files else {
            let in_quota = self.promise(&project, 1)?.pop();
            let turn = self.gpu_turn(&spec.resources).await;
            // While a registry was asked, others may have taken the room.
            let anew = found.asked || turn.is_some();
            let rooms = if anew { self.rooms().await } else { rooms };
            let placement = place(&self.0.config.admission, &spec.resources, &rooms);
            let seen = self.enter(project, spec, placement, None, in_quota).await?;
            if let Some(created) = awaited {
                created.send_replace(Some(seen.borrow().record.id.clone()));
            }
            return Ok(seen);
        };
        let snapshot = files.snapshot();
        let node = rooms.iter().find(|room| room.node == snapshot.node);
        let node = node.map(|room| largest(std::slice::from_ref(room)));
        over_image(&mut spec, disk, snapshot, node.as_ref())?;
        let in_quota = self.promise(&project, 1)?.pop();
        let turn = self.gpu_turn(&spec.resources).await;
        let rooms = if turn.is_some() { self.rooms().await } else { rooms };
        let placement = self.choose_for(&spec.resources, snapshot, &rooms);
        self.enter(project, spec, placement, None, in_quota).await
    }

    /// Stores a new sandbox, or one of a pool's, and has it made. From here on it is finished
    /// whatever happens. It takes the place; a container that nobody has claimed needs none.
    pub(crate) async fn enter(
        &self,
        project: ProjectId,
        spec: SandboxSpec,
        placement: Placement,
        member: Option<PoolMember>,
        in_quota: Option<Place>,
    ) -> Result<watch::Receiver<Live>, ControlError> {
        let give_up = spec.max_pending_secs == Some(0);
        // Until the record says that it is needed.
        let pin = spec.image.pin.as_ref();
        let _hold = pin.map(|pin| self.0.parts.images.holds().hold(&pin.digest));
        let mut record = self.new_record(project, spec, &placement, member);
        // What waits in a pool is in no hurry, and what is ready is for those who are.
        let ready = match record.is_unclaimed() {
            true => None,
            false => self.reserve(&record.asked, &placement).await,
        };
        if let Some(id) = &ready {
            record.id = id.clone();
        }
        let inserted = self.0.parts.store.sandbox_insert(&record, SandboxStatus::Pending).await;
        if let (Err(_), Some(id), Placement::On(node)) = (&inserted, &ready, &placement)
            && let Some(node) = self.node(node)
        {
            node.give_back(id).await;
        }
        inserted?;
        let entry = self.0.table.insert(record.clone(), in_quota);
        let seen = entry.subscribe();
        match placement {
            Placement::On(node) => {
                tracing::info!(sandbox.id = %record.id, node.id = %node, "sandbox accepted");
                self.apply(&record).await;
            }
            Placement::Wait { reason, obstacles } => {
                tracing::info!(
                    sandbox.id = %record.id, reason = reason.as_str(), ?obstacles,
                    "sandbox accepted; it waits for room"
                );
                if give_up {
                    self.transition(&record.id, Event::PendingExpired).await?;
                }
            }
        }
        Ok(seen)
    }

    /// Takes a sandbox that its node has started ahead, or made ready for the restore, if there is
    /// one like it.
    async fn reserve(&self, spec: &SandboxSpec, placement: &Placement) -> Option<SandboxId> {
        let Placement::On(node) = placement else { return None };
        let node = self.node(node)?;
        match &spec.restore {
            // Whoever was started ahead has none.
            None if spec.resources.gpus.is_some() => None,
            None => node.reserve(&spec.image, &spec.resources).await,
            Some(restore) if restore.kind == SnapshotKind::Memory => {
                node.reserve_stage(&restore.snapshot).await
            }
            Some(_) => None,
        }
    }

    fn new_record(
        &self,
        project: ProjectId,
        spec: SandboxSpec,
        placement: &Placement,
        member: Option<PoolMember>,
    ) -> SandboxRecord {
        let (node, reason): (Option<NodeId>, PendingReason) = match placement {
            Placement::On(node) => (Some(node.clone()), PendingReason::WaitingForContainer),
            Placement::Wait { reason, .. } => (None, *reason),
        };
        let claimed_at = member.as_ref().and_then(|member| member.claimed_at);
        SandboxRecord {
            id: SandboxId::from_random(self.0.parts.entropy.bytes()),
            project,
            created_at: claimed_at.unwrap_or_else(|| self.0.parts.clock.now()),
            asked: spec,
            intent: Intent {
                generation: Generation::FIRST,
                target: Target::Running,
                node,
                pending_reason: Some(reason),
            },
            observed: None,
            sequence: 1,
            running_at: None,
            terminated_at: None,
            end: None,
            capturing: None,
            member,
            resize: None,
        }
    }

    pub(crate) async fn rooms(&self) -> Vec<Room> {
        let mut rooms = Vec::new();
        for node in self.nodes() {
            let view = node.view().await;
            rooms.push(Room {
                node: view.id,
                cpu: view.cpu,
                cpu_promised: view.cpu_promised,
                memory: view.memory,
                memory_available: view.memory_available,
                starts_in_flight: view.starts_in_flight,
                disk: view.disk,
                disk_available: view.disk_available,
                draining: view.draining,
                gpus: view.gpus,
            });
        }
        rooms
    }

    /// Waits until the node of a sandbox has reported the record's generation; of one that is not
    /// there yet only where a policy was changed, which it may still miss. That a policy is not in
    /// force is an error; all else is the sandbox's once it is stored.
    async fn in_force(
        &self,
        record: Arc<SandboxRecord>,
        concerns_policy: bool,
        hold: Duration,
    ) -> Result<Arc<SandboxRecord>, ControlError> {
        let wanted = record.intent.generation;
        let done = |record: &SandboxRecord| {
            let seen = record.observed.as_ref().map(|observed| observed.generation);
            let waits = runs(record) || concerns_policy && is_underway(record);
            !waits || seen >= Some(wanted)
        };
        let Some(entry) = self.0.table.get(&record.id) else { return Ok(record) };
        let mut seen = entry.subscribe();
        let stopping = self.0.parts.tasks.stopping();
        tokio::pin!(stopping);
        // Each state has its own time: what a snapshot has taken is not the policy's.
        let (mut state, mut since) = (None, Instant::now());
        loop {
            let now = seen.borrow_and_update().record.clone();
            if done(&now) {
                return Ok(now);
            }
            if state.replace(status(&now)) != Some(status(&now)) {
                since = Instant::now();
            }
            let patience = match status(&now) {
                SandboxStatus::Running => PATCH_DEADLINE,
                SandboxStatus::Snapshotting => hold.max(PATCH_DEADLINE),
                SandboxStatus::Pending
                | SandboxStatus::Suspending
                | SandboxStatus::Suspended
                | SandboxStatus::Terminated => START_DEADLINE,
            };
            tokio::select! {
                changed = seen.changed() => match changed {
                    Ok(()) => continue,
                    // Nobody changes it any more.
                    Err(_closed) => return Ok(now),
                },
                () = tokio::time::sleep_until(since + patience) => {}
                () = &mut stopping => {}
            }
            if !runs(&now) || !concerns_policy {
                return Ok(now);
            }
            let detail = format!("the node of sandbox {} did not report {wanted}", now.id);
            return Err(ControlError::Unavailable { detail });
        }
    }

    /// Finds a record of the project: a name only among the live ones.
    pub(crate) async fn find(
        &self,
        project: &ProjectId,
        sandbox: &SandboxRef,
    ) -> Result<Arc<SandboxRecord>, ControlError> {
        let entry: Option<Arc<Entry>> = match sandbox {
            SandboxRef::Id(id) => self.0.table.get(id),
            SandboxRef::Name(name) => self.0.table.get_by_name(project, name),
        };
        let not_found = || ControlError::SandboxNotFound(sandbox.to_string());
        let record = match (entry, sandbox) {
            (Some(entry), _) => entry.now().record,
            (None, SandboxRef::Name(_)) => return Err(not_found()),
            (None, SandboxRef::Id(id)) => match self.0.parts.store.sandbox_fetch(id).await {
                Ok(record) => Arc::new(record),
                Err(tarn_store::StoreError::NotFound { .. }) => return Err(not_found()),
                Err(failed) => return Err(failed.into()),
            },
        };
        let theirs = record.project == *project && !record.is_unclaimed();
        if theirs { Ok(record) } else { Err(not_found()) }
    }

    pub(crate) fn view(&self, record: &SandboxRecord) -> SandboxView {
        let archive_after = self.0.config.archive_after_secs;
        SandboxView {
            status: status(record),
            runtime: self.0.config.runtime,
            archived_at: record.terminated_at.map(|ended| ended.plus_secs(archive_after)),
            trouble: record.observed.as_ref().and_then(|observed| {
                // What is so now matters more than what came of the last wish.
                observed.frozen.clone().or_else(|| observed.trouble.clone())
            }),
            record: record.clone(),
        }
    }
}

fn runs(record: &SandboxRecord) -> bool {
    matches!(status(record), SandboxStatus::Running | SandboxStatus::Snapshotting)
}

/// Says whether a node is about to have a sandbox run that does not, at a policy that it was told.
fn is_underway(record: &SandboxRecord) -> bool {
    record.end.is_none()
        && record.intent.node.is_some()
        && matches!(record.intent.target, Target::Running)
}

/// The shape of the largest node, in whole MiB as it is asked for; what the defaults need when
/// there is none yet.
pub(crate) fn largest(rooms: &[Room]) -> Resources {
    let default = Resources::default();
    let memory = rooms.iter().map(|room| room.memory).max().unwrap_or(default.memory);
    Resources {
        cpu: rooms.iter().map(|room| room.cpu).max().unwrap_or(default.cpu),
        memory: ByteSize::from_mib(memory.mib()),
        disk: default.disk,
        gpus: None,
    }
}

/// Refuses a template that is another image than what else a request names.
fn agree(id: &TemplateId, image: &BootImage, other: &str) -> Result<(), ControlError> {
    match &image.registered {
        Some(registered) if registered.id == id.image => Ok(()),
        Some(_) | None => {
            let other = format!("{other}, `{image}`");
            Err(ControlError::TemplateMismatch { id: id.clone(), other })
        }
    }
}

/// The most of everything that some node has.
pub(crate) fn most(rooms: &[Room]) -> Most {
    let mut gpus: Vec<GpuStock> = Vec::new();
    for stock in rooms.iter().flat_map(|room| &room.gpus) {
        match gpus.iter_mut().find(|most| most.model == stock.model) {
            Some(most) if most.total >= stock.total => {}
            Some(most) => *most = *stock,
            None => gpus.push(*stock),
        }
    }
    Most { shape: largest(rooms), gpus }
}

fn patch_of(ask: PatchAsk) -> Patch {
    let network = match ask.network {
        NetworkPatch::Keep => None,
        NetworkPatch::Clear => Some(None),
        NetworkPatch::Replace(policy) => Some(Some(policy)),
    };
    Patch {
        name: ask.name,
        exposed_ports: ask.exposed_ports,
        unauthenticated_ports: ask.allow_unauthenticated_access,
        auto_resume: ask.auto_resume,
        network,
    }
}
