//! What the daemon knows and owns; everything else borrows it.
//!
//! One thread, one owner: a current-thread runtime runs all tasks, so this is shared by `Rc` and
//! interior mutability, and no borrow is held across an await. The only other threads are those
//! of the file pool, which see none of it.

use std::{
    cell::{OnceCell, RefCell},
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
    rc::Rc,
};

use nix::unistd::getpid;
use tarn_daemon_api::Info;
use tarn_guest_api::{GATEWAY, Limits, Secret};
use tokio::{
    sync::{Mutex, MutexGuard, Notify},
    task::yield_now,
    time::Instant,
};

use crate::{
    account::Account,
    clock::now_ms,
    process::{
        PidsGroup, ProcessTable,
        census::{Census, Scope},
        pressure::MemoryPressure,
    },
    pty::Terminals,
    random::random_hex,
    scratch::Scratch,
    seal::Seal,
};

/// The version that `info` and `init` report.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

const LOG_BOOT_BYTES: usize = 8;

/// The state of the daemon.
pub(crate) struct Daemon {
    /// All processes that were started.
    pub(crate) processes: Rc<ProcessTable>,
    /// All processes that are there.
    pub(crate) census: RefCell<Census>,
    /// The last victim of memory pressure.
    pub(crate) pressure: MemoryPressure,
    /// All terminals.
    pub(crate) terminals: Terminals,
    /// Where bytes are on their way through.
    pub(crate) scratch: Scratch,
    /// Whether requests are begun.
    pub(crate) seal: Seal,
    /// Told of every start; wakes the guard.
    pub(crate) started: Notify,
    starts: Mutex<()>,
    opened: OnceCell<Opened>,
    pids_group: OnceCell<PidsGroup>,
    null: OwnedFd,
    random: io::Result<File>,
    booted: Instant,
    log_boot: RefCell<String>,
    role: Role,
    internal_peers: InternalPeers,
}

/// What `init` installed; of it `unseal` replaces the token and the environment.
pub(crate) struct Opened {
    /// Asked for on every request.
    pub(crate) token: RefCell<Secret>,
    /// The default user.
    pub(crate) account: Account,
    /// The sandbox-wide environment.
    pub(crate) env: RefCell<Vec<(String, String)>>,
    /// Where processes start and relative paths begin.
    pub(crate) working_dir: PathBuf,
    /// What is bounded.
    pub(crate) limits: Limits,
    /// `RLIMIT_NPROC` of every process.
    pub(crate) rlimit_processes: Option<u64>,
}

/// Whether this is a sandbox's first process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// PID 1: the sandbox is ours to set up.
    Init,
    /// An ordinary process, in a test: the machine is not ours.
    Ordinary,
}

/// Who may call the private routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InternalPeers {
    /// The slot's gateway alone.
    Gateway,
    /// Loopback too, for tests.
    GatewayAndLoopback,
}

// === impl Daemon ===

impl Daemon {
    /// Makes a closed daemon.
    pub(crate) fn new(internal_peers: InternalPeers) -> io::Result<Self> {
        let pid = getpid();
        let (role, scope) = match pid.as_raw() {
            1 => (Role::Init, Scope::Everything),
            _ => (Role::Ordinary, Scope::Descendants),
        };
        let instance = format!("{:x}-{pid}", now_ms());
        Ok(Self {
            processes: Rc::default(),
            census: RefCell::new(Census::new(pid, scope, instance.clone())),
            pressure: MemoryPressure::default(),
            terminals: Terminals::default(),
            scratch: Scratch::default(),
            seal: Seal::default(),
            started: Notify::new(),
            starts: Mutex::new(()),
            opened: OnceCell::new(),
            pids_group: OnceCell::new(),
            null: OpenOptions::new().read(true).write(true).open("/dev/null")?.into(),
            random: OpenOptions::new().write(true).open("/dev/urandom"),
            booted: Instant::now(),
            log_boot: RefCell::new(instance),
            role,
            internal_peers,
        })
    }

    /// Waits for one's turn to start a process.
    ///
    /// A start holds everything up until the program runs: on a busy machine that takes tens of
    /// milliseconds. Between two starts all is served that has come meanwhile, so who asks for
    /// something else waits for one of them and not for a hundred.
    pub(crate) async fn turn_to_start(&self) -> MutexGuard<'_, ()> {
        let turn = self.starts.lock().await;
        // It goes on only when the runtime has looked what has come.
        yield_now().await;
        // What waited for its turn while a snapshot is taken begins afterwards, and in a copy
        // never: its connection is dropped first.
        self.seal.opened().await;
        turn
    }

    /// Returns what tells the numbers of this life's batches of lines from every other's.
    pub(crate) fn log_boot(&self) -> String {
        self.log_boot.borrow().clone()
    }

    /// Forgets the lines that were not handed over, and numbers those to come anew.
    ///
    /// The name has randomness in it, since all copies of a sandbox may do this at one moment.
    pub(crate) fn begin_logs_anew(&self) -> io::Result<()> {
        let boot = format!("{:x}-{}", now_ms(), random_hex(LOG_BOOT_BYTES)?);
        self.log_boot.replace(boot);
        self.processes.log.forget_all(&self.processes);
        Ok(())
    }

    /// Mixes bytes into the kernel's randomness.
    pub(crate) fn mix_in(&self, entropy: &[u8]) -> io::Result<()> {
        match &self.random {
            Ok(random) => (&*random).write_all(entropy),
            Err(error) => Err(io::Error::new(error.kind(), format!("/dev/urandom: {error}"))),
        }
    }

    /// Returns whether this is a sandbox's first process.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Returns what `init` installed, if it has come.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.opened.get()
    }

    /// Opens the daemon; false if it was open.
    pub(crate) fn open(&self, opened: Opened) -> bool {
        let bytes = usize::try_from(opened.limits.output_bytes).unwrap_or(usize::MAX);
        self.processes.set_output_cap(bytes);
        self.opened.set(opened).is_ok()
    }

    /// Puts every process started from now on into a group.
    pub(crate) fn use_pids_group(&self, group: PidsGroup) {
        // A second group would be a second `init`, which is refused.
        drop(self.pids_group.set(group));
    }

    /// Returns whether the kernel bounds the number of processes.
    pub(crate) fn has_pids_group(&self) -> bool {
        self.pids_group.get().is_some()
    }

    /// Returns the file by which a process joins the group.
    pub(crate) fn pids_group_file(&self) -> Option<RawFd> {
        self.pids_group.get().map(PidsGroup::file)
    }

    /// Returns how many tasks started processes have, if the kernel counts them.
    pub(crate) fn tasks(&self) -> Option<usize> {
        self.pids_group.get().and_then(PidsGroup::tasks)
    }

    /// Returns `/dev/null` as it was before any tenant could replace it.
    pub(crate) fn null(&self) -> io::Result<OwnedFd> {
        self.null.try_clone()
    }

    /// Returns whether a peer may call the private routes.
    pub(crate) fn is_internal_peer(&self, peer: IpAddr) -> bool {
        match self.internal_peers {
            InternalPeers::Gateway => is_gateway(peer),
            InternalPeers::GatewayAndLoopback => is_gateway(peer) || peer.is_loopback(),
        }
    }

    /// Returns the public description.
    pub(crate) fn info(&self) -> Info {
        Info {
            version: VERSION.to_owned(),
            uptime_secs: self.booted.elapsed().as_secs(),
            running_processes: self.processes.running(),
            total_processes: self.processes.total(),
        }
    }
}

// === impl Opened ===

impl Opened {
    /// Returns the bound on processes.
    pub(crate) fn max_processes(&self) -> usize {
        usize::try_from(self.limits.processes).unwrap_or(usize::MAX)
    }
}

/// Returns whether a peer is the slot's gateway, behind which only the node is.
pub(crate) fn is_gateway(peer: IpAddr) -> bool {
    peer == IpAddr::V4(GATEWAY)
}
