//! The gVisor driver: performs what the other modules decide.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};

use async_trait::async_trait;
use parking_lot::Mutex;
use tarn_runtime::{
    Adopted, Capabilities, CpuShare, ImageFacts, Runtime, RuntimeError, RuntimeEvent, RuntimeKind,
    RuntimeSpec, RuntimeStats, Started,
};
use tarn_task::Tasks;
use tarn_types::{ByteSize, ErrorClass, Resources, SandboxId};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tracing::{info, warn};

use crate::{
    bundle,
    cgroup::{Cgroups, Layout, LayoutError, SandboxCgroup},
    command::{Call, Origin, Runsc},
    config::GvisorConfig,
    control::{Control, Standing},
    doctor, image,
    limits::Limits,
    netns,
    paths::Paths,
    pressure::Round,
    process, programs,
    remains::{Remains, host},
    state::{BackendState, BackendStatus},
    straggler, volatile,
    watch::Rebound,
};

use self::{
    making::{Made, patience},
    watching::Sighting,
};

mod making;
mod resize;
mod watching;

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
    facts: ImageFacts,
    known: Mutex<HashMap<SandboxId, Known>>,
    /// Creates beyond this many only slow each other down. A start waits for none: what is half
    /// done is finished before more is begun, which halves the median of twenty at once.
    turns: Semaphore,
}

/// A sandbox created or adopted by this process.
#[derive(Debug)]
struct Known {
    spec: Arc<RuntimeSpec>,
    running: Option<Running>,
    /// Whether it waits for an image.
    staged: bool,
}

/// One that was started.
#[derive(Debug)]
struct Running {
    watch: JoinHandle<()>,
    /// Takes what the memory's bounds are to be.
    wishes: mpsc::Sender<Rebound>,
    control: Arc<Control>,
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
        let version = doctor::check_installation(&config.runsc_dir)
            .await
            .map_err(|what| GvisorStartError::Installation { what })?;
        let host = |step| move |source| GvisorStartError::Host { step, source };
        let facts = image::facts(version).map_err(host("read the CPU's features"))?;
        let paths = Paths::new(&config.state_dir);
        Cgroups::find(Layout::detect()?, &config.tag).come_in();
        let ending =
            tokio::time::timeout(config.deadlines.delete, straggler::end_all(&paths)).await;
        let ended = ending.unwrap_or_else(|late| Err(io::Error::other(late)));
        match ended.map_err(host("end the commands of an earlier server"))? {
            0 => {}
            commands => info!(commands, "commands of an earlier server ended"),
        }
        if let Err(error) = volatile::keep_in_memory(&config.state_dir, &paths.null_netns()) {
            warn!(%error, "gVisor's state lies on the disk, which makes starts slower");
        }
        let runsc_dir = programs::at_hand(&config.runsc_dir, &paths.programs());
        for dir in [paths.root(), paths.bundles(), &paths.shapes()] {
            fs::create_dir_all(dir).map_err(host("make the runtime's directories"))?;
        }
        let cgroups = Cgroups::open(Layout::detect()?, &config.tag)
            .map_err(host("make the parent cgroups"))?;
        netns::pin(&paths.null_netns()).map_err(host("pin an empty network namespace"))?;
        tasks.spawn("gvisor-close", close(tasks.clone(), paths.clone(), cgroups.clone()));
        Ok(Self {
            runsc: Runsc::new(&runsc_dir, paths.clone()),
            turns: Semaphore::new(config.parallel_creates.max(1)),
            known: Mutex::default(),
            remains: Remains { paths, cgroups, limit: config.deadlines.delete },
            config,
            tasks,
            events,
            facts,
        })
    }

    /// Lets this process come before what sandboxes compute: it passes on their requests. Holds
    /// until shutdown; for the process that is the server. Says no where the host or whoever runs
    /// the server has its share of the CPU to say.
    pub fn put_server_first(&self) -> bool {
        self.remains.cgroups.put_server_first().unwrap_or_else(|error| {
            warn!(%error, "the server gets no greater share of the CPU than sandboxes");
            false
        })
    }

    /// Returns the backend's state, if it has the sandbox and names a process.
    fn backend_state(&self, id: &SandboxId) -> Result<Option<BackendState>, RuntimeError> {
        let step = "read the state";
        let text = match fs::read_to_string(self.remains.paths.state(id)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(RuntimeError::Host { step, id: id.clone(), source }),
        };
        match BackendState::parse(&text) {
            // Cut short in the middle of writing it: the command that did has not answered.
            Err(error) if error.is_eof() => Ok(None),
            parsed => parsed.map_err(|error| RuntimeError::Backend {
                step,
                id: id.clone(),
                detail: error.to_string(),
            }),
        }
    }

    /// Returns the control of a sandbox that runs, or is paused.
    fn control(&self, step: &'static str, id: &SandboxId) -> Result<Arc<Control>, RuntimeError> {
        self.living(id)?;
        match self.known.lock().get(id) {
            Some(Known { running: Some(running), .. }) => Ok(Arc::clone(&running.control)),
            Some(Known { running: None, .. }) => {
                let detail = "it was not started".to_owned();
                Err(RuntimeError::Backend { step, id: id.clone(), detail })
            }
            None => Err(RuntimeError::NotFound { id: id.clone() }),
        }
    }

    /// Says whether a sandbox waits for its start: then it has no programs.
    fn is_created(&self, id: &SandboxId) -> Result<bool, RuntimeError> {
        let state = self.backend_state(id)?;
        Ok(state.is_some_and(|state| state.status == BackendStatus::Created))
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
        Capabilities {
            enforces_limits: true,
            freeze: true,
            memory_snapshots: true,
            live_resize: true,
            gpus: true,
        }
    }

    async fn create(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.make_waiting(spec, Origin::Nothing).await
    }

    async fn start(&self, id: &SandboxId) -> Result<Started, RuntimeError> {
        let known = self.known.lock().get(id).map(|known| Arc::clone(&known.spec));
        let spec = known.ok_or_else(|| RuntimeError::NotFound { id: id.clone() })?;
        let from_image = bundle::is_from_image(&self.remains.paths, id);
        if from_image.map_err(host("read the bundle", id))? {
            let detail = "it waits for a memory image".to_owned();
            return Err(RuntimeError::Backend { step: "start", id: id.clone(), detail });
        }
        let (runsc, sandbox) = (self.runsc.clone(), Arc::clone(&spec));
        let doors = self.remains.cgroups.sandbox(id).doors();
        let spawned = blocking(&self.tasks, move || runsc.spawn_start(&sandbox, &doors)).await;
        let child = spawned.map_err(host("start", id))?;
        let limit = patience(spec.share, self.config.deadlines.start);
        self.runsc.finish(&Call { step: "start", id, limit }, child).await?;
        self.end_aside("start", id).await?;
        let sighting = Sighting { round: Round::default(), standing: Standing::Running };
        self.watch_started("start", &spec, sighting)
    }

    async fn promote(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let cgroup = self.living(id)?;
        if cgroup.is_aside() {
            process::bring_in(&cgroup).await;
            self.follow_in(cgroup.clone());
        }
        let mut known = self.known.lock();
        let Some(known) = known.get_mut(id) else {
            return Err(RuntimeError::NotFound { id: id.clone() });
        };
        let spec = RuntimeSpec { share: CpuShare::Own, ..(*known.spec).clone() };
        cgroup.set_cpu_share(&Limits::of(&spec)).map_err(host("promote", id))?;
        known.spec = Arc::new(spec);
        Ok(())
    }

    async fn resize(&self, id: &SandboxId, resources: &Resources) -> Result<(), RuntimeError> {
        self.change_limits(id, resources).await
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
                let sighting = Sighting { round: Round::inherited(), standing: Standing::Unknown };
                let started = self.watch(&spec, &state, sighting)?;
                Ok(started.map_or(Adopted::Gone, Adopted::Running))
            }
            BackendStatus::Created => {
                let members = self.remains.cgroups.sandbox(&spec.id).processes();
                let members = members.map_err(host("find the processes", &spec.id))?;
                let from_image = bundle::is_from_image(&self.remains.paths, &spec.id)
                    .map_err(host("read the bundle", &spec.id))?;
                if from_image || members.binary_search(&state.pid).is_err() {
                    return Ok(Adopted::Gone);
                }
                let id = spec.id.clone();
                self.known.lock().insert(id, Known { spec, running: None, staged: false });
                Ok(Adopted::Created)
            }
            BackendStatus::Other => Ok(Adopted::Gone),
        }
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.living(id)?;
        if self.is_created(id)? {
            return Ok(());
        }
        self.control("freeze", id)?.pause().await
    }

    async fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        // By which earlier versions froze.
        self.living(id)?.thaw().map_err(host("thaw", id))?;
        if self.is_created(id)? {
            return Ok(());
        }
        self.control("thaw", id)?.resume().await
    }

    fn image_facts(&self) -> ImageFacts {
        self.facts.clone()
    }

    async fn pause(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.control("pause", id)?.pause().await
    }

    async fn resume(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.control("resume", id)?.resume().await
    }

    async fn checkpoint(&self, id: &SandboxId, image: &Path) -> Result<(), RuntimeError> {
        self.control("checkpoint", id)?.checkpoint(image).await
    }

    async fn restore(&self, spec: &RuntimeSpec, image: &Path) -> Result<Started, RuntimeError> {
        let made = if self.take_staged(&spec.id) { Made::Before } else { Made::Now };
        let _turn = match made {
            Made::Before => None,
            Made::Now => Some(self.turns.acquire().await),
        };
        if made == Made::Now {
            self.claim(spec)?;
        }
        let restored = self.restore_claimed(spec, image, made).await;
        if restored.is_err() {
            self.undo(&spec.id).await;
        }
        restored
    }

    async fn stage(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.make_waiting(spec, Origin::Later).await
    }

    async fn stats(&self, id: &SandboxId) -> Result<RuntimeStats, RuntimeError> {
        let cgroup = self.living(id)?;
        let memory = cgroup.memory().read().map_err(host("read the memory", id))?.demand;
        let cpu_micros = cgroup.cpu_micros().map_err(host("read the CPU time", id))?;
        Ok(RuntimeStats { memory: ByteSize::from_bytes(memory), cpu_micros })
    }

    async fn unwritten(&self, by: Option<&SandboxId>) -> io::Result<ByteSize> {
        let cgroups = &self.remains.cgroups;
        let memory = by.map_or_else(|| cgroups.memory(), |id| cgroups.sandbox(id).memory());
        memory.unwritten().map(ByteSize::from_bytes)
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
