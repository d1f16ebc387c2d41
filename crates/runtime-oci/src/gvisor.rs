//! The gVisor driver: performs what the other modules decide.

use std::{collections::HashMap, fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

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
    process::Child,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    bundle,
    cgroup::{Cgroups, Layout, LayoutError, SandboxCgroup},
    command::{Call, Origin, Runsc},
    config::GvisorConfig,
    control::{Control, ControlParts, Standing},
    doctor, image,
    limits::{Limits, MemoryBounds},
    netns,
    paths::Paths,
    pressure::{LOAN, Round},
    process::{self, Process},
    programs,
    remains::{Remains, host},
    state::{BackendState, BackendStatus},
    straggler, volatile,
    watch::{Rebound, ReboundError, Watch},
};

/// How a resize is named in errors, and how long it may take: longer than a watch tries for.
const RESIZE: &str = "resize";
const RESIZE_LIMIT: Duration = Duration::from_secs(10);

/// How long a sandbox that is to have less memory is given to let go of it: what a program had is
/// given back a while after its end.
const GIVING_BACK: Duration = Duration::from_secs(1);
const GIVING_BACK_PAUSE: Duration = Duration::from_millis(50);

/// How often what is promoted while it starts is asked to come in.
const FOLLOW_PAUSE: Duration = Duration::from_millis(10);

/// How many times as long what nobody waits for may take: beside others that are busy it gets next
/// to nothing.
const LEAST_PATIENCE: u32 = 4;

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

/// When that was made which an image is restored into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// By the restore.
    Now,
    /// By a stage.
    Before,
}

/// How a running sandbox came under our eyes.
struct Sighting {
    round: Round,
    standing: Standing,
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

    fn claim(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        match bundle::claim(&self.remains.paths, spec) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(RuntimeError::Exists { id: spec.id.clone() })
            }
            Err(error) => Err(host("make the bundle", &spec.id)(error)),
        }
    }

    /// Removes what a making that failed has left.
    async fn undo(&self, id: &SandboxId) {
        self.forget(id).await;
        if let Err(error) = self.remains.clear(id).await {
            warn!(sandbox.id = %id, %error, "a sandbox that could not be made is not removed");
        }
    }

    /// Makes one that waits, for its start or for an image.
    async fn make_waiting(&self, spec: &RuntimeSpec, origin: Origin) -> Result<(), RuntimeError> {
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
    fn follow_in(&self, cgroup: SandboxCgroup) {
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
    async fn end_aside(&self, step: &'static str, id: &SandboxId) -> Result<(), RuntimeError> {
        let cgroup = self.remains.cgroups.sandbox(id);
        if !cgroup.is_aside() {
            return Ok(());
        }
        blocking(&self.tasks, move || cgroup.end_aside()).await.map_err(host(step, id))
    }

    /// Says whether one was made for an image; it is the caller's from now on.
    fn take_staged(&self, id: &SandboxId) -> bool {
        let mut known = self.known.lock();
        known.get_mut(id).is_some_and(|known| std::mem::take(&mut known.staged))
    }

    async fn restore_claimed(
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

    /// Watches a sandbox that a command has just started.
    fn watch_started(
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

    /// Takes hold of a running sentry and watches it. Nobody may be watching it already.
    fn watch(
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

    /// Has the watch of a running sandbox change the bounds of its memory: it alone moves the
    /// limit.
    async fn rebound(
        &self,
        id: &SandboxId,
        bounds: MemoryBounds,
        wanted: ByteSize,
    ) -> Result<(), RuntimeError> {
        let not_found = || RuntimeError::NotFound { id: id.clone() };
        let wishes = match self.known.lock().get(id) {
            Some(Known { running: Some(running), .. }) => running.wishes.clone(),
            Some(Known { running: None, .. }) | None => return Err(not_found()),
        };
        let (told, answer) = oneshot::channel();
        let asked = async {
            // A closed channel is a watch that has ended, with its sandbox.
            wishes.send(Rebound { bounds, told }).await.map_err(|_closed| not_found())?;
            answer.await.map_err(|_closed| not_found())
        };
        let limit_ms = u64::try_from(RESIZE_LIMIT.as_millis()).unwrap_or(u64::MAX);
        let late = || RuntimeError::Timeout { step: RESIZE, id: id.clone(), limit_ms };
        match tokio::time::timeout(RESIZE_LIMIT, asked).await.map_err(|_elapsed| late())?? {
            Ok(()) => Ok(()),
            Err(ReboundError::InUse(bytes)) => {
                let used = ByteSize::from_mib(bytes.div_ceil(1 << 20));
                Err(RuntimeError::MemoryInUse { used, wanted })
            }
            Err(ReboundError::Host(error)) => Err(host(RESIZE, id)(error)),
        }
    }

    /// Stops watching. No event follows.
    async fn forget(&self, id: &SandboxId) {
        let known = self.known.lock().remove(id);
        if let Some(running) = known.and_then(|known| known.running) {
            running.watch.abort();
            // It ends by the abort, or has ended.
            drop(running.watch.await);
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
        let cgroup = self.living(id)?;
        let control = self.control(RESIZE, id)?;
        let known = self.known.lock().get(id).map(|known| Arc::clone(&known.spec));
        let before = known.ok_or_else(|| RuntimeError::NotFound { id: id.clone() })?;
        let spec = RuntimeSpec { resources: *resources, ..(*before).clone() };
        let (old, new) = (Limits::of(&before), Limits::of(&spec));
        let begun = Instant::now();
        while let Err(refused) = self.rebound(id, new.memory, resources.memory).await {
            let in_use = matches!(refused, RuntimeError::MemoryInUse { .. });
            if !in_use || begun.elapsed() >= GIVING_BACK {
                return Err(refused);
            }
            tokio::time::sleep(GIVING_BACK_PAUSE).await;
        }
        if let Err(error) = cgroup.set_cpu(&new) {
            drop(cgroup.set_cpu(&old));
            drop(self.rebound(id, old.memory, before.resources.memory).await);
            return Err(host("limit the CPU", id)(error));
        }
        control.set_bounds(new.memory);
        if let Some(known) = self.known.lock().get_mut(id) {
            // Of what is there now: it may have been promoted meanwhile.
            let spec = RuntimeSpec { resources: *resources, ..(*known.spec).clone() };
            known.spec = Arc::new(spec);
        }
        Ok(())
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

/// Returns how long a step may take: longer where it gets only what nobody else on the host wants.
fn patience(share: CpuShare, limit: Duration) -> Duration {
    match share {
        CpuShare::Own => limit,
        CpuShare::Least => limit.saturating_mul(LEAST_PATIENCE),
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

async fn blocking<T: Send + 'static>(
    tasks: &Tasks,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tasks.spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
