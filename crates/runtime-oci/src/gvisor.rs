//! The gVisor driver: performs what the other modules decide.

use std::{collections::HashMap, fs, io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_runtime::{
    Adopted, Capabilities, Runtime, RuntimeError, RuntimeEvent, RuntimeKind, RuntimeSpec,
    RuntimeStats, Started,
};
use tarn_task::Tasks;
use tarn_types::{ByteSize, ErrorClass, SandboxId};
use thiserror::Error;
use tokio::{
    process::Child,
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tracing::{info, warn};

use crate::{
    bundle,
    cgroup::{Cgroups, Layout, LayoutError, SandboxCgroup},
    command::{Call, Motion, Runsc},
    config::GvisorConfig,
    doctor,
    limits::Limits,
    netns,
    paths::Paths,
    pressure::Round,
    process::{self, Process},
    remains::{Remains, host},
    state::{BackendState, BackendStatus},
    straggler,
    watch::Watch,
};

/// Why the driver cannot be used on this machine.
#[derive(Debug, Error)]
pub enum GvisorStartError {
    /// gVisor is not there, incomplete, or not ours.
    #[error("{what}; run `./x setup` and `./x build`")]
    Installation {
        /// What is the matter.
        what: String,
    },
    /// The machine's cgroups do not do.
    #[error("find the cgroup hierarchies")]
    Cgroups(#[from] LayoutError),
    /// A step on the host failed.
    #[error("{step}")]
    Host {
        /// Which.
        step: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Runs sandboxes on gVisor.
#[derive(Debug)]
pub struct GvisorRuntime {
    config: GvisorConfig,
    remains: Remains,
    runsc: Runsc,
    tasks: Tasks,
    events: mpsc::Sender<RuntimeEvent>,
    known: Mutex<HashMap<SandboxId, Known>>,
    /// Creates beyond this many only slow each other down. A start waits for none: what is half
    /// done is finished before more is begun, which halves the median of twenty at once.
    turns: Semaphore,
}

/// A sandbox created or adopted by this process.
#[derive(Debug)]
struct Known {
    spec: Arc<RuntimeSpec>,
    watch: Option<JoinHandle<()>>,
}

// === impl GvisorStartError ===

impl GvisorStartError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Installation { .. } | Self::Cgroups(_) => ErrorClass::Unavailable,
            Self::Host { .. } => ErrorClass::Internal,
        }
    }
}

// === impl GvisorRuntime ===

impl GvisorRuntime {
    /// Checks gVisor and the host, and makes what all sandboxes share.
    ///
    /// Needs root, and that no other server drives the same sandboxes. Those of an earlier one are
    /// left alone until they are adopted; its commands that still run are ended.
    ///
    /// # Errors
    /// Fails when gVisor is incomplete, a controller is missing, or the host refuses.
    pub async fn new(
        config: GvisorConfig,
        tasks: Tasks,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Self, GvisorStartError> {
        doctor::check_installation(&config.runsc_dir)
            .await
            .map_err(|what| GvisorStartError::Installation { what })?;
        let host = |step| move |source| GvisorStartError::Host { step, source };
        let paths = Paths::new(&config.state_dir);
        let ending =
            tokio::time::timeout(config.deadlines.delete, straggler::end_all(&paths)).await;
        let ended = ending.unwrap_or_else(|late| Err(io::Error::other(late)));
        match ended.map_err(host("end the commands of an earlier server"))? {
            0 => {}
            commands => info!(commands, "commands of an earlier server ended"),
        }
        for dir in [paths.root(), paths.bundles(), &paths.shapes()] {
            fs::create_dir_all(dir).map_err(host("make the runtime's directories"))?;
        }
        let cgroups = Cgroups::open(Layout::detect()?, &config.tag)
            .map_err(host("make the parent cgroups"))?;
        netns::pin(&paths.null_netns()).map_err(host("pin an empty network namespace"))?;
        tasks.spawn("gvisor-close", close(tasks.clone(), paths.clone(), cgroups.clone()));
        Ok(Self {
            runsc: Runsc::new(&config.runsc_dir, paths.clone()),
            turns: Semaphore::new(config.parallel_creates.max(1)),
            known: Mutex::default(),
            remains: Remains { paths, cgroups, limit: config.deadlines.delete },
            config,
            tasks,
            events,
        })
    }

    /// Makes the bundle and the cgroups, and spawns the command. Blocks: run it apart.
    async fn spawn_create(&self, spec: &RuntimeSpec, limits: Limits) -> io::Result<Child> {
        let (paths, runsc, spec) = (self.remains.paths.clone(), self.runsc.clone(), spec.clone());
        let cgroup = self.remains.cgroups.sandbox(&spec.id);
        blocking(&self.tasks, move || {
            bundle::write(&paths, &spec, &limits)?;
            cgroup.create(&limits)?;
            runsc.spawn_create(&spec.id, cgroup.doors()?)
        })
        .await
    }

    async fn create_claimed(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        let id = &spec.id;
        let limits = Limits::of(spec);
        let spawned = self.spawn_create(spec, limits).await;
        let child = spawned.map_err(host("prepare", id))?;
        let call = Call { step: "create", id, limit: self.config.deadlines.create };
        self.runsc.finish(&call, child).await
    }

    /// Returns the backend's state, if it has the sandbox and names a process.
    fn backend_state(&self, id: &SandboxId) -> Result<Option<BackendState>, RuntimeError> {
        let step = "read the state";
        let text = match fs::read_to_string(self.remains.paths.state(id)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RuntimeError::Host { step, id: id.clone(), source }),
        };
        BackendState::parse(&text).map_err(|error| RuntimeError::Backend {
            step,
            id: id.clone(),
            detail: error.to_string(),
        })
    }

    /// Takes hold of a running sentry and watches it. Nobody may be watching it already.
    fn watch(
        &self,
        spec: &Arc<RuntimeSpec>,
        pid: u32,
        round: Round,
    ) -> Result<Option<Started>, RuntimeError> {
        let id = &spec.id;
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
        cgroup.set_cpu_quota(&limits).map_err(host("limit the CPU", id))?;
        let watch = Watch {
            id: id.clone(),
            sentry,
            cgroup,
            bounds: limits.memory,
            events: self.events.clone(),
            tasks: self.tasks.clone(),
        };
        let handle = self.tasks.spawn("gvisor-watch", watch.run(round));
        let known = Known { spec: Arc::clone(spec), watch: Some(handle) };
        self.known.lock().insert(id.clone(), known);
        let daemon = SocketAddr::new(spec.address, tarn_guest_api::PORT);
        Ok(Some(Started { daemon, pid, pid_started }))
    }

    /// Stops watching. No event follows.
    async fn forget(&self, id: &SandboxId) {
        let known = self.known.lock().remove(id);
        if let Some(watch) = known.and_then(|known| known.watch) {
            watch.abort();
            // It ends by the abort, or has ended.
            drop(watch.await);
        }
    }

    /// Stops or continues the programs of a sandbox that has been started; in any other there are
    /// none. The backend writes down that they stand still, for the next server too.
    async fn set_motion(&self, id: &SandboxId, motion: Motion) -> Result<(), RuntimeError> {
        let step = match motion {
            Motion::Frozen => "freeze",
            Motion::Thawed => "thaw",
        };
        let cgroup = self.living(id)?;
        if motion == Motion::Thawed {
            // By which earlier versions froze.
            cgroup.thaw().map_err(host(step, id))?;
        }
        let status = self.backend_state(id)?.map(|state| state.status);
        let wanted = match motion {
            Motion::Frozen => BackendStatus::Running,
            Motion::Thawed => BackendStatus::Paused,
        };
        if status != Some(wanted) {
            return Ok(());
        }
        let (runsc, sandbox) = (self.runsc.clone(), id.clone());
        let spawned = blocking(&self.tasks, move || runsc.spawn_motion(&sandbox, motion)).await;
        let child = spawned.map_err(host(step, id))?;
        let call = Call { step, id, limit: self.config.deadlines.freeze };
        self.runsc.finish(&call, child).await
    }

    /// Returns the cgroup of a sandbox that has processes.
    fn living(&self, id: &SandboxId) -> Result<SandboxCgroup, RuntimeError> {
        let cgroup = self.remains.cgroups.sandbox(id);
        if cgroup.processes().map_err(host("find the processes", id))?.is_empty() {
            return Err(RuntimeError::NotFound { id: id.clone() });
        }
        Ok(cgroup)
    }
}

#[async_trait]
impl Runtime for GvisorRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Gvisor
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { enforces_limits: true, freeze: true }
    }

    async fn create(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        let id = &spec.id;
        let _turn = self.turns.acquire().await;
        match bundle::claim(&self.remains.paths, spec) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RuntimeError::Exists { id: id.clone() });
            }
            Err(error) => return Err(host("make the bundle", id)(error)),
        }
        if let Err(error) = self.create_claimed(spec).await {
            if let Err(undo) = self.remains.clear(id).await {
                warn!(sandbox.id = %id, error = %undo, "a failed create could not be undone");
            }
            return Err(error);
        }
        let known = Known { spec: Arc::new(spec.clone()), watch: None };
        self.known.lock().insert(id.clone(), known);
        Ok(())
    }

    async fn start(&self, id: &SandboxId) -> Result<Started, RuntimeError> {
        let known = self.known.lock().get(id).map(|known| Arc::clone(&known.spec));
        let spec = known.ok_or_else(|| RuntimeError::NotFound { id: id.clone() })?;
        let (runsc, sandbox) = (self.runsc.clone(), id.clone());
        let spawned = blocking(&self.tasks, move || runsc.spawn_start(&sandbox)).await;
        let child = spawned.map_err(host("start", id))?;
        let call = Call { step: "start", id, limit: self.config.deadlines.start };
        self.runsc.finish(&call, child).await?;
        let state = self.backend_state(id)?;
        let started = match state {
            Some(state) => self.watch(&spec, state.pid, Round::default())?,
            None => None,
        };
        started.ok_or_else(|| RuntimeError::Backend {
            step: "start",
            id: id.clone(),
            detail: "the sandbox ended at once".to_owned(),
        })
    }

    async fn lives(&self, id: &SandboxId) -> Result<bool, RuntimeError> {
        let members = self.remains.cgroups.sandbox(id).processes();
        let members = members.map_err(host("find the processes", id))?;
        if members.is_empty() {
            return Ok(false);
        }
        // Without a number of its own, whoever is there may be the sandbox.
        let state = self.backend_state(id)?;
        Ok(state.is_none_or(|state| members.binary_search(&state.pid).is_ok()))
    }

    async fn adopt(&self, spec: &RuntimeSpec) -> Result<Adopted, RuntimeError> {
        let spec = Arc::new(spec.clone());
        let Some(state) = self.backend_state(&spec.id)? else {
            return Ok(Adopted::Gone);
        };
        match state.status {
            BackendStatus::Running | BackendStatus::Paused => {
                // Two watches would report its end twice.
                self.forget(&spec.id).await;
                let started = self.watch(&spec, state.pid, Round::inherited())?;
                Ok(started.map_or(Adopted::Gone, Adopted::Running))
            }
            BackendStatus::Created => {
                let members = self.remains.cgroups.sandbox(&spec.id).processes();
                let members = members.map_err(host("find the processes", &spec.id))?;
                if members.binary_search(&state.pid).is_err() {
                    return Ok(Adopted::Gone);
                }
                let id = spec.id.clone();
                self.known.lock().insert(id, Known { spec, watch: None });
                Ok(Adopted::Created)
            }
            BackendStatus::Other => Ok(Adopted::Gone),
        }
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.set_motion(id, Motion::Frozen).await
    }

    async fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.set_motion(id, Motion::Thawed).await
    }

    async fn stats(&self, id: &SandboxId) -> Result<RuntimeStats, RuntimeError> {
        let cgroup = self.living(id)?;
        let usage = cgroup.memory().usage().map_err(host("read the memory", id))?;
        let cpu_micros = cgroup.cpu_micros().map_err(host("read the CPU time", id))?;
        Ok(RuntimeStats { memory: ByteSize::from_bytes(usage), cpu_micros })
    }

    async fn delete(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.forget(id).await;
        self.remains.clear(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxId>, RuntimeError> {
        self.remains.list()
    }
}

/// Lets go, at shutdown, of what sandboxes share: a server without sandboxes leaves no trace.
async fn close(tasks: Tasks, paths: Paths, cgroups: Cgroups) {
    tasks.stopping().await;
    if let Err(error) = netns::unpin(&paths.null_netns()) {
        warn!(%error, "the empty network namespace stays mounted");
    }
    cgroups.close();
}

async fn blocking<T: Send + 'static>(
    tasks: &Tasks,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tasks.spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
