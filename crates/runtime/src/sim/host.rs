//! The simulated machine: what outlives the server.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tarn_task::{Clock, SystemClock, Tasks};
use tarn_types::{ByteSize, Resources, SandboxId};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};

use super::{
    daemon::Daemon,
    fault::{Faults, SimStep},
    image::DaemonImage,
};
use crate::{Adopted, RuntimeError, RuntimeEvent, RuntimeExit, RuntimeSpec, RuntimeStats, Started};

/// The first simulated pid: above every pid of a real machine, so that none can be hit by mistake.
const FIRST_PID: u32 = 1 << 30;

/// A machine with simulated sandboxes. Clones are the same machine.
///
/// The sandboxes live as long as a clone does, and no longer than the tasks they were given.
#[derive(Clone)]
pub struct SimHost(Arc<Machine>);

struct Machine {
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    faults: Faults,
    sandboxes: Mutex<BTreeMap<SandboxId, Sandbox>>,
    started: AtomicU32,
    /// In bytes.
    unwritten: AtomicU64,
}

/// Somebody who wants to know what happens to sandboxes; dropped together with its runtime.
pub(super) struct Watch {
    events: mpsc::Sender<RuntimeEvent>,
}

struct Sandbox {
    address: IpAddr,
    state: State,
    watch: Weak<Watch>,
}

enum State {
    /// Made, not started.
    Created,
    /// Made for an image.
    Staged,
    /// A start is between its first step and its last.
    Starting,
    /// Serving, or frozen.
    Running(Live),
    /// Ended by itself; what it left waits for `delete`.
    Dead,
}

/// Makes a sandbox whose start failed, or was given up, an unstarted one again.
struct UndoStart<'a> {
    host: &'a SimHost,
    id: &'a SandboxId,
}

/// Removes a sandbox whose restore failed, or was given up.
struct UndoRestore<'a> {
    host: &'a SimHost,
    id: &'a SandboxId,
}

struct Live {
    started: Started,
    daemon: Arc<Daemon>,
    /// Ends when the port is closed.
    serving: JoinHandle<()>,
}

// === impl Watch ===

impl Watch {
    pub(super) fn new(events: mpsc::Sender<RuntimeEvent>) -> Self {
        Self { events }
    }
}

// === impl SimHost ===

impl SimHost {
    /// Makes an empty machine on the system's clock, whose daemons are tasks of `tasks`.
    #[must_use]
    pub fn new(tasks: Tasks) -> Self {
        Self::with_clock(tasks, Arc::new(SystemClock))
    }

    /// Makes an empty machine on a clock of the caller's.
    #[must_use]
    pub fn with_clock(tasks: Tasks, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Machine {
            tasks,
            clock,
            faults: Faults::default(),
            sandboxes: Mutex::default(),
            started: AtomicU32::new(0),
            unwritten: AtomicU64::new(0),
        }))
    }

    /// Returns the switch of the machine's faults.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.0.faults.clone()
    }

    /// Says how much sandboxes have written that is not on a disk yet.
    pub fn set_unwritten(&self, size: ByteSize) {
        self.0.unwritten.store(size.bytes(), Ordering::Relaxed);
    }

    pub(super) fn unwritten(&self) -> ByteSize {
        ByteSize::from_bytes(self.0.unwritten.load(Ordering::Relaxed))
    }

    /// Makes a running sandbox end by itself; who watches it gets the event.
    ///
    /// Returns whether it ran.
    pub async fn kill(&self, id: &SandboxId, exit: RuntimeExit) -> bool {
        let Some((live, watch)) = self.take_live(id) else { return false };
        live.end().await;
        tell(&watch, RuntimeEvent::Exited { id: id.clone(), exit }).await;
        true
    }

    /// Says to who watches a running sandbox that it stands at its memory limit.
    ///
    /// Returns whether it runs.
    pub async fn memory_pressure(&self, id: &SandboxId) -> bool {
        let watch = {
            let sandboxes = self.0.sandboxes.lock();
            match sandboxes.get(id) {
                Some(Sandbox { state: State::Running(_), watch, .. }) => watch.clone(),
                Some(_) | None => return false,
            }
        };
        tell(&watch, RuntimeEvent::MemoryPressure { id: id.clone() }).await;
        true
    }

    /// Loses everything, as a machine that is switched off does. No event follows.
    pub async fn reboot(&self) {
        let sandboxes = std::mem::take(&mut *self.0.sandboxes.lock());
        for sandbox in sandboxes.into_values() {
            sandbox.end().await;
        }
    }

    pub(super) async fn create(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.meet(SimStep::Create, &spec.id).await?;
        self.claim(spec, State::Created)
    }

    fn claim(&self, spec: &RuntimeSpec, state: State) -> Result<(), RuntimeError> {
        let mut sandboxes = self.0.sandboxes.lock();
        if sandboxes.contains_key(&spec.id) {
            return Err(RuntimeError::Exists { id: spec.id.clone() });
        }
        let sandbox = Sandbox { address: spec.address, state, watch: Weak::new() };
        sandboxes.insert(spec.id.clone(), sandbox);
        Ok(())
    }

    pub(super) async fn start(
        &self,
        id: &SandboxId,
        watch: &Arc<Watch>,
    ) -> Result<Started, RuntimeError> {
        let address = self.begin_start(id)?;
        let undo = UndoStart { host: self, id };
        self.meet(SimStep::Start, id).await?;
        let live = self.boot(id, address, DaemonImage::empty(self.0.clock.now())).await?;
        let started = self.finish_start(id, live, watch).await;
        drop(undo);
        started
    }

    fn begin_start(&self, id: &SandboxId) -> Result<IpAddr, RuntimeError> {
        let mut sandboxes = self.0.sandboxes.lock();
        let Some(sandbox) = sandboxes.get_mut(id) else { return Err(not_found(id)) };
        match sandbox.state {
            State::Created => {
                sandbox.state = State::Starting;
                Ok(sandbox.address)
            }
            State::Staged => Err(backend(SimStep::Start, id, "it waits for an image")),
            State::Starting | State::Running(_) | State::Dead => {
                Err(backend(SimStep::Start, id, "it was started before"))
            }
        }
    }

    async fn boot(
        &self,
        id: &SandboxId,
        address: IpAddr,
        image: DaemonImage,
    ) -> Result<Live, RuntimeError> {
        let mute = self.0.faults.meet(SimStep::Daemon).await;
        // Only the machine itself may reach a daemon that nothing isolates.
        let address = if address.is_loopback() { address } else { Ipv4Addr::LOCALHOST.into() };
        let host =
            |source| RuntimeError::Host { step: "bind the daemon's port", id: id.clone(), source };
        let listener = TcpListener::bind((address, 0)).await.map_err(host)?;
        let number = self.0.started.fetch_add(1, Ordering::Relaxed);
        let started = Started {
            daemon: listener.local_addr().map_err(host)?,
            pid: FIRST_PID + number,
            pid_started: u64::from(number),
        };
        let daemon = Daemon::new(
            self.0.tasks.clone(),
            Arc::clone(&self.0.clock),
            self.0.faults.clone(),
            mute,
            image,
        );
        let daemon = Arc::new(daemon);
        daemon.wake();
        let serving = self.0.tasks.spawn("sim_daemon", Arc::clone(&daemon).serve(listener));
        Ok(Live { started, daemon, serving })
    }

    async fn finish_start(
        &self,
        id: &SandboxId,
        live: Live,
        watch: &Arc<Watch>,
    ) -> Result<Started, RuntimeError> {
        let started = live.started.clone();
        let deleted_meanwhile = {
            let mut sandboxes = self.0.sandboxes.lock();
            match sandboxes.get_mut(id) {
                Some(sandbox) => {
                    sandbox.state = State::Running(live);
                    sandbox.watch = Arc::downgrade(watch);
                    None
                }
                None => Some(live),
            }
        };
        match deleted_meanwhile {
            None => Ok(started),
            Some(live) => {
                live.end().await;
                Err(not_found(id))
            }
        }
    }

    pub(super) async fn promote(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.meet(SimStep::Promote, id).await?;
        let sandboxes = self.0.sandboxes.lock();
        match sandboxes.get(id).map(|sandbox| &sandbox.state) {
            Some(State::Created | State::Staged | State::Starting | State::Running(_)) => Ok(()),
            Some(State::Dead) | None => Err(RuntimeError::NotFound { id: id.clone() }),
        }
    }

    /// There are no limits here; what a sandbox uses counts all the same.
    pub(super) async fn resize(
        &self,
        id: &SandboxId,
        resources: &Resources,
    ) -> Result<(), RuntimeError> {
        let daemon = self.daemon(id, SimStep::Resize)?;
        self.meet(SimStep::Resize, id).await?;
        let (used, _) = daemon.usage();
        if used > resources.memory {
            return Err(RuntimeError::MemoryInUse { used, wanted: resources.memory });
        }
        Ok(())
    }

    pub(super) async fn lives(&self, id: &SandboxId) -> Result<bool, RuntimeError> {
        self.meet(SimStep::Lives, id).await?;
        let sandboxes = self.0.sandboxes.lock();
        Ok(match sandboxes.get(id).map(|sandbox| &sandbox.state) {
            Some(State::Created | State::Staged | State::Starting | State::Running(_)) => true,
            Some(State::Dead) | None => false,
        })
    }

    pub(super) async fn adopt(
        &self,
        id: &SandboxId,
        watch: &Arc<Watch>,
    ) -> Result<Adopted, RuntimeError> {
        self.meet(SimStep::Adopt, id).await?;
        let mut sandboxes = self.0.sandboxes.lock();
        let Some(sandbox) = sandboxes.get_mut(id) else { return Ok(Adopted::Gone) };
        Ok(match &sandbox.state {
            State::Created | State::Starting => Adopted::Created,
            State::Running(live) => {
                sandbox.watch = Arc::downgrade(watch);
                Adopted::Running(live.started.clone())
            }
            State::Staged | State::Dead => Adopted::Gone,
        })
    }

    pub(super) async fn set_frozen(
        &self,
        id: &SandboxId,
        step: SimStep,
    ) -> Result<(), RuntimeError> {
        let daemon = self.daemon(id, step)?;
        self.meet(step, id).await?;
        daemon.set_frozen(step == SimStep::Freeze);
        Ok(())
    }

    /// Pauses or resumes; `step` says which.
    pub(super) async fn set_paused(
        &self,
        id: &SandboxId,
        step: SimStep,
    ) -> Result<(), RuntimeError> {
        let daemon = self.daemon(id, step)?;
        self.meet(step, id).await?;
        daemon.set_paused(step == SimStep::Pause);
        Ok(())
    }

    pub(super) async fn checkpoint(&self, id: &SandboxId, dir: &Path) -> Result<(), RuntimeError> {
        let step = SimStep::Checkpoint;
        let daemon = self.daemon(id, step)?;
        self.meet(step, id).await?;
        let image = daemon.image().ok_or_else(|| backend(step, id, "it is not paused"))?;
        let dir = dir.to_owned();
        self.on_disk("write the image", id, move || image.write(&dir)).await
    }

    pub(super) async fn stage(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError> {
        self.meet(SimStep::Stage, &spec.id).await?;
        self.claim(spec, State::Staged)
    }

    /// Says whether one was staged; its restore has begun then.
    fn take_staged(&self, id: &SandboxId) -> bool {
        let mut sandboxes = self.0.sandboxes.lock();
        let Some(Sandbox { state, .. }) = sandboxes.get_mut(id) else { return false };
        let staged = matches!(state, State::Staged);
        if staged {
            *state = State::Starting;
        }
        staged
    }

    pub(super) async fn restore(
        &self,
        spec: &RuntimeSpec,
        dir: &Path,
        watch: &Arc<Watch>,
    ) -> Result<Started, RuntimeError> {
        let id = &spec.id;
        if !self.take_staged(id) {
            self.claim(spec, State::Starting)?;
        }
        let undo = UndoRestore { host: self, id };
        self.meet(SimStep::Restore, id).await?;
        let dir = dir.to_owned();
        let mut image = self.on_disk("read the image", id, move || DaemonImage::read(&dir)).await?;
        if let Some(identity) = &mut image.identity {
            identity.hostname.clone_from(&spec.hostname);
        }
        let live = self.boot(id, spec.address, image).await?;
        let started = self.finish_start(id, live, watch).await;
        drop(undo);
        started
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        step: &'static str,
        id: &SandboxId,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let done = self.0.tasks.spawn_blocking(work).await;
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|source| RuntimeError::Host { step, id: id.clone(), source })
    }

    pub(super) fn stats(&self, id: &SandboxId) -> Result<RuntimeStats, RuntimeError> {
        let sandboxes = self.0.sandboxes.lock();
        match sandboxes.get(id).map(|sandbox| &sandbox.state) {
            Some(State::Running(live)) => {
                let (memory, cpu_micros) = live.daemon.usage();
                Ok(RuntimeStats { memory, cpu_micros })
            }
            Some(State::Created | State::Staged | State::Starting) => Ok(RuntimeStats::default()),
            Some(State::Dead) | None => Err(not_found(id)),
        }
    }

    pub(super) async fn delete(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        self.meet(SimStep::Delete, id).await?;
        let sandbox = self.0.sandboxes.lock().remove(id);
        if let Some(sandbox) = sandbox {
            sandbox.end().await;
        }
        Ok(())
    }

    pub(super) fn list(&self) -> Vec<SandboxId> {
        self.0.sandboxes.lock().keys().cloned().collect()
    }

    async fn meet(&self, step: SimStep, id: &SandboxId) -> Result<(), RuntimeError> {
        if self.0.faults.meet(step).await {
            return Err(backend(step, id, "it was made to fail"));
        }
        Ok(())
    }

    fn daemon(&self, id: &SandboxId, step: SimStep) -> Result<Arc<Daemon>, RuntimeError> {
        let sandboxes = self.0.sandboxes.lock();
        match sandboxes.get(id).map(|sandbox| &sandbox.state) {
            Some(State::Running(live)) => Ok(Arc::clone(&live.daemon)),
            Some(State::Created | State::Staged | State::Starting) => {
                Err(backend(step, id, "it does not run"))
            }
            Some(State::Dead) | None => Err(not_found(id)),
        }
    }

    fn take_live(&self, id: &SandboxId) -> Option<(Live, Weak<Watch>)> {
        let mut sandboxes = self.0.sandboxes.lock();
        let sandbox = sandboxes.get_mut(id)?;
        match std::mem::replace(&mut sandbox.state, State::Dead) {
            State::Running(live) => Some((live, sandbox.watch.clone())),
            state @ (State::Created | State::Staged | State::Starting | State::Dead) => {
                sandbox.state = state;
                None
            }
        }
    }
}

// === impl Machine ===

impl Drop for Machine {
    fn drop(&mut self) {
        for sandbox in self.sandboxes.get_mut().values() {
            if let State::Running(live) = &sandbox.state {
                live.daemon.end();
            }
        }
    }
}

// === impl Sandbox ===

impl Sandbox {
    async fn end(self) {
        match self.state {
            State::Running(live) => live.end().await,
            State::Created | State::Staged | State::Starting | State::Dead => {}
        }
    }
}

// === impl UndoStart ===

impl Drop for UndoStart<'_> {
    fn drop(&mut self) {
        let mut sandboxes = self.host.0.sandboxes.lock();
        if let Some(sandbox) = sandboxes.get_mut(self.id)
            && matches!(sandbox.state, State::Starting)
        {
            sandbox.state = State::Created;
        }
    }
}

// === impl UndoRestore ===

impl Drop for UndoRestore<'_> {
    fn drop(&mut self) {
        let mut sandboxes = self.host.0.sandboxes.lock();
        if let Some(Sandbox { state: State::Starting, .. }) = sandboxes.get(self.id) {
            sandboxes.remove(self.id);
        }
    }
}

// === impl Live ===

impl Live {
    /// Ends the daemon and returns when its port is closed.
    async fn end(self) {
        self.daemon.end();
        // It fails only if the task panicked, and then the port is closed too.
        drop(self.serving.await);
    }
}

/// Sends an event, if anybody still watches.
async fn tell(watch: &Weak<Watch>, event: RuntimeEvent) {
    let Some(watch) = watch.upgrade() else { return };
    // A receiver that is gone no longer wants to know.
    drop(watch.events.send(event).await);
}

fn not_found(id: &SandboxId) -> RuntimeError {
    RuntimeError::NotFound { id: id.clone() }
}

fn backend(step: SimStep, id: &SandboxId, detail: &str) -> RuntimeError {
    RuntimeError::Backend { step: step.as_str(), id: id.clone(), detail: detail.to_owned() }
}
