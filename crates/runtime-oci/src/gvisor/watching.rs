//! Running sandboxes under our eyes: from their start or adoption until nobody is to hear of their
//! end.

use std::{net::SocketAddr, sync::Arc};

use tarn_runtime::{CpuShare, RuntimeError, RuntimeSpec, Started};
use tarn_types::SandboxId;
use tokio::sync::mpsc;

use crate::{
    control::{Control, ControlParts, Standing},
    limits::Limits,
    pressure::Round,
    process::{self, Process},
    remains::host,
    state::BackendState,
    watch::Watch,
};

use super::{GvisorRuntime, Known, Running};

/// How a running sandbox came under our eyes.
pub(super) struct Sighting {
    pub(super) round: Round,
    pub(super) standing: Standing,
}

// === impl GvisorRuntime ===

impl GvisorRuntime {
    /// Watches a sandbox that a command has just started.
    pub(super) fn watch_started(
        &self,
        step: &'static str,
        spec: &Arc<RuntimeSpec>,
        sighting: Sighting,
    ) -> Result<Started, RuntimeError> {
        let started = match self.backend_state(&spec.id)? {
            Some(state) => self.watch(spec, &state, sighting)?,
            None => None,
        };
        started.ok_or_else(|| RuntimeError::Backend {
            step,
            id: spec.id.clone(),
            detail: "the sandbox ended at once".to_owned(),
        })
    }

    /// Takes hold of a running sentry and watches it. Nobody may be watching it already.
    pub(super) fn watch(
        &self,
        spec: &Arc<RuntimeSpec>,
        state: &BackendState,
        sighting: Sighting,
    ) -> Result<Option<Started>, RuntimeError> {
        let (id, pid) = (&spec.id, state.pid);
        let cgroup = self.remains.cgroups.sandbox(id);
        let limits = Limits::of(spec);
        let Some(sentry) = Process::open(pid).map_err(host("watch", id))? else {
            return Ok(None);
        };
        // The number alone proves nothing; membership in its cgroup does.
        let members = cgroup.processes().map_err(host("watch", id))?;
        let Some(pid_started) = process::start_time(pid).map_err(host("watch", id))? else {
            return Ok(None);
        };
        if members.binary_search(&pid).is_err() {
            return Ok(None);
        }
        match sighting.standing {
            // It may have been resized under an earlier server.
            Standing::Unknown => {
                cgroup.set_cpu(&limits).map_err(host("limit the CPU", id))?;
                let memory = cgroup.memory();
                memory.admit(limits.memory.hard).map_err(host("limit the memory", id))?;
            }
            Standing::Running | Standing::Paused => {
                cgroup.set_cpu_quota(&limits).map_err(host("limit the CPU", id))?;
            }
        }
        let control = Control::new(ControlParts {
            id: id.clone(),
            socket: state.socket.clone(),
            memory: cgroup.memory(),
            bounds: limits.memory,
            deadlines: self.config.deadlines,
            tasks: self.tasks.clone(),
            standing: sighting.standing,
        });
        // One resize at a time, and a wish that nobody waits for is let go.
        let (wishes, wishes_of_watch) = mpsc::channel(1);
        let watch = Watch {
            id: id.clone(),
            sentry,
            cgroup,
            bounds: limits.memory,
            wishes: wishes_of_watch,
            still: control.still(),
            events: self.events.clone(),
            tasks: self.tasks.clone(),
        };
        let control = Arc::new(control);
        let (caller, tasks) = (Arc::clone(&control), self.tasks.clone());
        self.tasks.spawn("gvisor-connect", async move {
            tokio::select! {
                () = tasks.stopping() => {}
                () = caller.connect() => {}
            }
        });
        let watch = self.tasks.spawn("gvisor-watch", watch.run(sighting.round));
        let running = Some(Running { watch, wishes, control });
        {
            let mut known = self.known.lock();
            let spec = keep_promoted(spec, known.get(id).map(|known| known.spec.share));
            known.insert(id.clone(), Known { spec, running, staged: false });
        }
        let daemon = SocketAddr::new(spec.address, tarn_guest_api::PORT);
        Ok(Some(Started { daemon, pid, pid_started }))
    }

    /// Stops watching. No event follows.
    pub(super) async fn forget(&self, id: &SandboxId) {
        let known = self.known.lock().remove(id);
        if let Some(running) = known.and_then(|known| known.running) {
            running.watch.abort();
            // It ends by the abort, or has ended.
            drop(running.watch.await);
        }
    }
}

/// Returns a spec with the share that the sandbox was promoted to while it was being started, if
/// it was. Nothing ever takes that back.
fn keep_promoted(spec: &Arc<RuntimeSpec>, share: Option<CpuShare>) -> Arc<RuntimeSpec> {
    if share == Some(CpuShare::Own) && spec.share == CpuShare::Least {
        return Arc::new(RuntimeSpec { share: CpuShare::Own, ..(**spec).clone() });
    }
    Arc::clone(spec)
}
