//! Managed processes: supervised, restarted, checked (spec 05 §2).
//!
//! Decisions are pure ([`machine`], with [`policy`] and [`health`]); a [`driver`] performs them
//! through a [`host`]. A managed process is a series of *runs*, each an ordinary process of the
//! table with its own pid and output; [`Managed`] is what they have in common. It belongs to its
//! runs: when the last of them is forgotten, so is it.

mod driver;
mod health;
mod host;
mod machine;
mod policy;
mod probe;
mod standstill;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use tarn_daemon_api::{ManagedConfig, ManagedInfo, StartRequest};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::Instant,
};

use self::{
    driver::{Command, GRACE, MAX_COMMANDS},
    host::Guest,
    machine::{Effect, Event, Machine, Now, Phase},
};
use crate::{
    clock::now_ms,
    daemon::{Daemon, Opened},
    process::{
        Process,
        start::{Audience, StartError, start as start_process},
    },
};

/// A stop is answered when everything is gone, or this long after the grace.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// What the runs of one managed process have in common.
pub(crate) struct Managed {
    id: String,
    config: ManagedConfig,
    request: StartRequest,
    machine: RefCell<Machine>,
    /// The handle of the latest run.
    current: Cell<u64>,
    /// Another one has taken its name.
    displaced: Cell<bool>,
    /// To the driver, while there is one.
    commands: RefCell<Option<mpsc::Sender<Command>>>,
    changed: watch::Sender<()>,
    born: Instant,
}

/// Why a managed process was not started.
#[derive(Debug)]
pub(crate) enum ManagedStartError {
    /// A live one has that name; its latest pid.
    NameTaken(String, i32),
    /// As for any process.
    Start(StartError),
}

/// Why a restart brought no run.
#[derive(Debug)]
pub(crate) enum RestartError {
    /// The run did not start; in a shell's words.
    Failed(String),
    /// A stop came in between.
    Stopped,
}

/// Starts a managed process.
pub(crate) fn start(
    daemon: &Rc<Daemon>,
    opened: &Opened,
    request: StartRequest,
    config: ManagedConfig,
) -> Result<Rc<Process>, ManagedStartError> {
    let holder = config.name.as_deref().and_then(|name| daemon.processes.by_name(name));
    if let (Some(name), Some(holder)) = (&config.name, &holder)
        && holder.managed().is_some_and(|managed| managed.is_live())
    {
        return Err(ManagedStartError::NameTaken(name.clone(), holder.pid().as_raw()));
    }
    let process = start_process(daemon, opened, request.clone(), Audience::Followers)
        .map_err(ManagedStartError::Start)?;
    // Only now: a name changes hands when its new holder is there.
    if let Some(managed) = holder.and_then(|holder| holder.managed()) {
        managed.displaced.set(true);
    }
    // A name has no '/', so an assigned id is nobody's name.
    let id = config.name.clone().unwrap_or_else(|| format!("managed/{}", process.handle()));
    let managed = Rc::new(Managed::new(id, config, request));
    managed.adopt(daemon, &process);
    let effects = managed.step(Event::Started);
    managed.drive(daemon, effects);
    Ok(process)
}

/// Lets no managed process start again: the sandbox is ending.
pub(crate) async fn retire_all(daemon: &Daemon) {
    for process in daemon.processes.all() {
        if let Some(managed) = process.managed() {
            managed.retire().await;
        }
    }
}

// === impl Managed ===

impl Managed {
    fn new(id: String, config: ManagedConfig, request: StartRequest) -> Self {
        Self {
            id,
            machine: RefCell::new(Machine::new(&config)),
            config,
            request,
            current: Cell::new(0),
            displaced: Cell::new(false),
            commands: RefCell::new(None),
            changed: watch::channel(()).0,
            born: Instant::now(),
        }
    }

    /// Returns what stands for it in all its runs: the name if it has one.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns whether a run is there, or will be without a request.
    pub(crate) fn is_live(&self) -> bool {
        self.phase().is_live()
    }

    /// Returns whether a handle is that of the latest run, by which it is known.
    pub(crate) fn is_known_by(&self, handle: u64) -> bool {
        self.current.get() == handle && !self.displaced.get()
    }

    /// Returns its public description.
    pub(crate) fn info(&self) -> ManagedInfo {
        let machine = self.machine.borrow();
        let phase = machine.phase();
        ManagedInfo {
            id: self.id.clone(),
            name: self.config.name.clone(),
            status: phase.status(),
            restart_count: machine.restart_count(),
            restart: self.config.restart,
            health_check: self.config.health_check.clone(),
            health_status: machine.health_status(),
            consecutive_health_failures: machine.health_failures(),
            last_exit: machine.last_exit(),
            last_error: machine.last_error().map(str::to_owned),
            next_restart_at: phase.next_restart_at_ms(),
        }
    }

    /// Ends it, and waits until its tree is gone.
    pub(crate) async fn stop(self: &Rc<Self>) {
        let run = self.current.get();
        self.send(Command::Stop).await;
        let mut changed = self.changed.subscribe();
        let stopped = async {
            while self.is_live() && self.current.get() == run && changed.changed().await.is_ok() {}
        };
        // One that can't be killed in time is answered all the same; the driver goes on.
        _ = tokio::time::timeout(GRACE + STOP_MARGIN, stopped).await;
    }

    /// Ends its run, if there is one, waits for the next, and returns that one's handle.
    pub(crate) async fn restart(self: &Rc<Self>, daemon: &Rc<Daemon>) -> Result<u64, RestartError> {
        let (answer, answered) = oneshot::channel();
        self.drive(daemon, vec![]);
        self.send(Command::Restart(answer)).await;
        match answered.await {
            Ok(Ok(())) => Ok(self.current.get()),
            Ok(Err(cause)) => Err(RestartError::Failed(cause)),
            Err(_dropped) => Err(RestartError::Stopped),
        }
    }

    async fn retire(&self) {
        self.send(Command::Retire).await;
    }

    /// Hands a request to the driver; without one there is nothing to end.
    async fn send(&self, command: Command) {
        let Some(commands) = self.commands.borrow().clone() else { return };
        // At once if there is room, so that a driver just made does not end before it has it.
        if let Err(TrySendError::Full(command)) = commands.try_send(command) {
            // A driver that has gone meanwhile has left nothing to end.
            drop(commands.send(command).await);
        }
    }

    /// Makes a process its latest run.
    fn adopt(self: &Rc<Self>, daemon: &Daemon, process: &Process) {
        self.current.set(process.handle());
        process.set_run_of(Rc::clone(self));
        if let Some(name) = &self.config.name {
            daemon.processes.set_name(name, process.handle());
        }
    }

    /// Starts a driver unless there is one.
    fn drive(self: &Rc<Self>, daemon: &Rc<Daemon>, effects: Vec<Effect>) {
        if self.commands.borrow().is_some() {
            return;
        }
        let (sender, receiver) = mpsc::channel(MAX_COMMANDS);
        self.commands.replace(Some(sender));
        let host = Guest::new(Rc::clone(daemon), Rc::clone(self));
        let managed = Rc::clone(self);
        tokio::task::spawn_local(async move {
            driver::run(&managed, &host, effects, receiver).await;
        });
    }

    fn undriven(&self) {
        self.commands.replace(None);
    }

    fn phase(&self) -> Phase {
        self.machine.borrow().phase()
    }

    fn step(&self, event: Event) -> Vec<Effect> {
        let now = Now { elapsed: self.born.elapsed(), wall_ms: now_ms() };
        self.machine.borrow_mut().step(event, now)
    }

    fn notify(&self) {
        self.changed.send_replace(());
    }
}
