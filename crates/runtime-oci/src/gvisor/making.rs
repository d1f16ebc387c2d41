//! Making sandboxes, for their start or for an image, and restoring into them.

use std::{io, path::Path, sync::Arc, time::Duration};

use tarn_runtime::{CpuShare, RuntimeError, RuntimeSpec, Started};
use tarn_types::SandboxId;
use tokio::process::Child;
use tracing::warn;

use crate::{
    bundle,
    cgroup::SandboxCgroup,
    command::{Call, Origin},
    control::Standing,
    image,
    limits::Limits,
    pressure::{LOAN, Round},
    process,
    remains::host,
};

use super::{GvisorRuntime, Known, blocking, watching::Sighting};

/// How often what is promoted while it starts is asked to come in.
const FOLLOW_PAUSE: Duration = Duration::from_millis(10);

/// How many times as long what nobody waits for may take: beside others that are busy it gets next
/// to nothing.
const LEAST_PATIENCE: u32 = 4;

/// When that was made which an image is restored into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    /// By the restore.
    Now,
    /// By a stage.
    Before,
}

// === impl GvisorRuntime ===

impl GvisorRuntime {
    /// Makes the bundle and the cgroups, and spawns the command. Blocks: run it apart.
    async fn spawn_making(
        &self,
        spec: &RuntimeSpec,
        origin: Origin,
    ) -> Result<Child, RuntimeError> {
        let (paths, runsc, spec) = (self.remains.paths.clone(), self.runsc.clone(), spec.clone());
        let (id, limits) = (spec.id.clone(), Limits::of(&spec));
        let cgroup = self.remains.cgroups.sandbox(&id);
        let spawned = blocking(&self.tasks, move || {
            bundle::write(&paths, &spec, &limits)?;
            cgroup.create(&limits)?;
            if !matches!(origin, Origin::Nothing) {
                bundle::mark_from_image(&paths, &spec.id)?;
                // For what reading needs besides the memory that is read. The watch takes it back.
                cgroup.memory().set_limit(limits.memory.hard.saturating_add(LOAN))?;
            }
            runsc.spawn_making(&spec, &origin, &cgroup.doors())
        });
        spawned.await.map_err(host("prepare", &id))
    }

    pub(super) fn claim(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        match bundle::claim(&self.remains.paths, spec) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(RuntimeError::Exists { id: spec.id.clone() })
            }
            Err(error) => Err(host("make the bundle", &spec.id)(error)),
        }
    }

    /// Removes what a making that failed has left.
    pub(super) async fn undo(&self, id: &SandboxId) {
        self.forget(id).await;
        if let Err(error) = self.remains.clear(id).await {
            warn!(sandbox.id = %id, %error, "a sandbox that could not be made is not removed");
        }
    }

    /// Makes one that waits, for its start or for an image.
    pub(super) async fn make_waiting(
        &self,
        spec: &RuntimeSpec,
        origin: Origin,
    ) -> Result<(), RuntimeError> {
        // One that nobody waits for gets on slowly on a busy machine, and holds up nobody.
        let _turn = match spec.share {
            CpuShare::Own => Some(self.turns.acquire().await),
            CpuShare::Least => None,
        };
        self.claim(spec)?;
        let staged = matches!(origin, Origin::Later);
        // Before it is there, so that it can be promoted meanwhile.
        let known = Known { spec: Arc::new(spec.clone()), running: None, staged };
        self.known.lock().insert(spec.id.clone(), known);
        let made = async {
            let child = self.spawn_making(spec, origin).await?;
            let step = if staged { "stage" } else { "create" };
            let limit = patience(spec.share, self.config.deadlines.create);
            self.runsc.finish(&Call { step, id: &spec.id, limit }, child).await?;
            // What waits for its start is not done yet.
            if staged { self.end_aside(step, &spec.id).await } else { Ok(()) }
        };
        let made = made.await;
        if made.is_err() {
            self.undo(&spec.id).await;
        }
        made
    }

    /// Brings in what is still aside until all of it is started: a command that was spawned a
    /// moment before the sandbox was promoted enters there.
    pub(super) fn follow_in(&self, cgroup: SandboxCgroup) {
        let tasks = self.tasks.clone();
        let follow = async move {
            while cgroup.is_aside() {
                process::bring_in(&cgroup).await;
                tokio::select! {
                    () = tasks.stopping() => return,
                    () = tokio::time::sleep(FOLLOW_PAUSE) => {}
                }
            }
        };
        drop(self.tasks.spawn("gvisor-follow", follow));
    }

    /// Brings what was started aside among the others.
    pub(super) async fn end_aside(
        &self,
        step: &'static str,
        id: &SandboxId,
    ) -> Result<(), RuntimeError> {
        let cgroup = self.remains.cgroups.sandbox(id);
        if !cgroup.is_aside() {
            return Ok(());
        }
        blocking(&self.tasks, move || cgroup.end_aside()).await.map_err(host(step, id))
    }

    /// Says whether one was made for an image; it is the caller's from now on.
    pub(super) fn take_staged(&self, id: &SandboxId) -> bool {
        let mut known = self.known.lock();
        known.get_mut(id).is_some_and(|known| std::mem::take(&mut known.staged))
    }

    pub(super) async fn restore_claimed(
        &self,
        spec: &RuntimeSpec,
        image: &Path,
        made: Made,
    ) -> Result<Started, RuntimeError> {
        let (step, id) = ("restore", &spec.id);
        let memory = image::memory(image).map_err(host("read the image", id))?;
        if let Some(detail) = image::too_large(memory, Limits::of(spec).memory) {
            return Err(RuntimeError::Backend { step, id: id.clone(), detail });
        }
        let child = match made {
            Made::Now => self.spawn_making(spec, Origin::Image(image.to_owned())).await?,
            Made::Before => self.spawn_filling(spec, image).await?,
        };
        let limit = image::deadline(self.config.deadlines.restore, memory);
        self.runsc.finish(&Call { step, id, limit }, child).await?;
        let sighting = Sighting { round: Round::inherited(), standing: Standing::Running };
        self.watch_started(step, &Arc::new(spec.clone()), sighting)
    }

    /// Spawns the command that brings an image into what was made for one.
    async fn spawn_filling(&self, spec: &RuntimeSpec, image: &Path) -> Result<Child, RuntimeError> {
        let (step, id) = ("restore", &spec.id);
        if !self.is_created(id)? {
            let detail = "what it was to be restored into has ended".to_owned();
            return Err(RuntimeError::Backend { step, id: id.clone(), detail });
        }
        // It may have been made at a time when nobody waited for it.
        let cgroup = self.living(id)?;
        cgroup.set_cpu_share(&Limits::of(spec)).map_err(host(step, id))?;
        let (runsc, sandbox, image) = (self.runsc.clone(), id.clone(), image.to_owned());
        let spawned = blocking(&self.tasks, move || runsc.spawn_filling(&sandbox, &image)).await;
        spawned.map_err(host(step, id))
    }
}

/// Returns how long a step may take: longer where it gets only what nobody else on the host wants.
pub(super) fn patience(share: CpuShare, limit: Duration) -> Duration {
    match share {
        CpuShare::Own => limit,
        CpuShare::Least => limit.saturating_mul(LEAST_PATIENCE),
    }
}
