//! What every runtime does, and the words it uses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tarn_types::{ByteSize, ErrorClass, GpuFiles, Resources, SandboxId};
use thiserror::Error;

/// The isolation technologies tarn can drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// A user-space kernel: `runsc`.
    Gvisor,
    /// In memory, for tests and benches.
    Sim,
}

/// What a runtime can do beyond running sandboxes; asking for more is refused beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Memory and CPU limits are enforced.
    pub enforces_limits: bool,
    /// Freezing stops every process of the sandbox.
    pub freeze: bool,
    /// Memory and processes can be written down and brought back.
    pub memory_snapshots: bool,
    /// A running sandbox can be given other limits.
    pub live_resize: bool,
    /// A sandbox can use GPUs of the host.
    pub gpus: bool,
}

/// What must be the same where a memory image is restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The technology.
    pub runtime: RuntimeKind,
    /// The backend's version, to the letter.
    pub version: String,
    /// The flags that are part of an image.
    pub flags: Vec<String>,
    /// The features of the CPU that its processes may have seen; another one must have them all.
    pub cpu_features: Vec<String>,
}

/// How much of a busy CPU a sandbox gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CpuShare {
    /// What its shape says.
    #[default]
    Own,
    /// As good as nothing: nobody waits for it. [`Runtime::promote`] gives it its own.
    Least,
}

/// All a runtime needs to make one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeSpec {
    /// The sandbox; also the backend's id.
    pub id: SandboxId,
    /// The mounted root file system.
    pub rootfs: PathBuf,
    /// The network namespace's file.
    pub netns: PathBuf,
    /// The address at which the host reaches the sandbox.
    pub address: IpAddr,
    /// The host name inside.
    pub hostname: String,
    /// The shape.
    pub resources: Resources,
    /// The host's copy of `tarnd`, bound read-only to `/.tarn/tarnd` inside.
    pub tarnd: PathBuf,
    /// The most processes the inside may have; the runtime sets its own fuse well above.
    pub processes: u32,
    /// How much of a busy CPU it gets to begin with.
    pub share: CpuShare,
    /// What it needs of the host to use its GPUs, if it has any. Not needed to adopt it.
    pub gpus: Option<GpuFiles>,
}

/// A started sandbox: where its daemon listens, and enough to recognise its process again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Where the daemon will listen.
    pub daemon: SocketAddr,
    /// The backend's main process on the host.
    pub pid: u32,
    /// Its start time, in clock ticks since boot (`/proc/<pid>/stat` field 22).
    pub pid_started: u64,
}

/// What became of a sandbox while nobody watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Adopted {
    /// It lives, and is watched again.
    Running(Started),
    /// It was created but never started.
    Created,
    /// It is gone.
    Gone,
}

/// Why a sandbox ended without being asked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeExit {
    /// It used more memory than it may, and could not be saved.
    OutOfMemory,
    /// The backend ended; a stable word says why.
    Died(&'static str),
}

/// Something that happened to a sandbox by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The sandbox stands at its memory limit. The runtime is lending it memory for a moment; the
    /// receiver makes the daemon end the largest process.
    MemoryPressure {
        /// The sandbox.
        id: SandboxId,
    },
    /// The sandbox ended.
    Exited {
        /// The sandbox.
        id: SandboxId,
        /// Why.
        exit: RuntimeExit,
    },
}

/// What a sandbox uses now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuntimeStats {
    /// Memory that it needs: what is charged to it, without the files that are only cached.
    pub memory: ByteSize,
    /// CPU time used since its start, in microseconds.
    pub cpu_micros: u64,
}

/// Says which step of a runtime failed.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The backend has no such sandbox.
    #[error("the runtime has no sandbox {id}")]
    NotFound {
        /// The sandbox.
        id: SandboxId,
    },
    /// The backend already has a sandbox with that id.
    #[error("the runtime already has a sandbox {id}")]
    Exists {
        /// The sandbox.
        id: SandboxId,
    },
    /// This runtime cannot do that.
    #[error("this runtime cannot {what}")]
    NotSupported {
        /// What was asked.
        what: &'static str,
    },
    /// The backend did not answer in time.
    #[error("{step} of sandbox {id} took longer than {limit_ms} ms")]
    Timeout {
        /// What was being done.
        step: &'static str,
        /// On which sandbox.
        id: SandboxId,
        /// The deadline, in milliseconds.
        limit_ms: u64,
    },
    /// The sandbox needs more memory than it shall have.
    #[error(
        "the sandbox uses {used} and its programs are to have {wanted}; end some of them, or ask \
         for more"
    )]
    MemoryInUse {
        /// What it needs, page cache aside.
        used: ByteSize,
        /// What it was to have.
        wanted: ByteSize,
    },
    /// The backend refused or failed.
    #[error("{step} of sandbox {id}: {detail}")]
    Backend {
        /// What was being done.
        step: &'static str,
        /// On which sandbox.
        id: SandboxId,
        /// What the backend said, trimmed.
        detail: String,
    },
    /// A step on the host failed.
    #[error("{step} of sandbox {id}")]
    Host {
        /// What was being done.
        step: &'static str,
        /// On which sandbox.
        id: SandboxId,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Drives one isolation technology.
///
/// Sandboxes outlive the process that made them; [`Runtime::adopt`] takes them back. Events of
/// sandboxes created or adopted go to the channel given at construction.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Returns which technology this is.
    fn kind(&self) -> RuntimeKind;

    /// Returns what it can do.
    fn capabilities(&self) -> Capabilities;

    /// Makes a sandbox without starting it. A failure leaves nothing behind.
    ///
    /// # Errors
    /// Fails when the backend fails, or has the id already.
    async fn create(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError>;

    /// Starts a created sandbox. It is watched from now on.
    ///
    /// # Errors
    /// Fails when the backend fails; the sandbox must then be deleted.
    async fn start(&self, id: &SandboxId) -> Result<Started, RuntimeError>;

    /// Gives a sandbox that had the least of a busy CPU its own share, also while it is created or
    /// started. Does nothing to one that has it.
    ///
    /// # Errors
    /// Fails when the sandbox is not there, or the host refuses.
    async fn promote(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Gives a running sandbox other limits of CPU and memory, all of them or, on a failure, none.
    /// They hold when this returns. What its programs see of them is the backend's affair.
    ///
    /// # Errors
    /// Fails when it needs more memory than it shall have, when it is not running or paused, and
    /// when the host refuses.
    async fn resize(&self, id: &SandboxId, resources: &Resources) -> Result<(), RuntimeError>;

    /// Says whether a sandbox that an earlier server made still has its main process. No is said
    /// only where that is certain: it ends the sandbox.
    ///
    /// # Errors
    /// Fails when it cannot be told now; it may be asked again.
    async fn lives(&self, id: &SandboxId) -> Result<bool, RuntimeError>;

    /// Takes back a sandbox after a restart of the server, and watches it again.
    ///
    /// # Errors
    /// Fails when the backend's state cannot be read, or the host refuses a step. Nothing of the
    /// sandbox was touched then, and it may be tried again.
    async fn adopt(&self, spec: &RuntimeSpec) -> Result<Adopted, RuntimeError>;

    /// Stops every process of a sandbox in place.
    ///
    /// # Errors
    /// Fails when the sandbox is not there or does not answer.
    async fn freeze(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Continues a frozen sandbox.
    ///
    /// # Errors
    /// Fails when the sandbox is not there or does not answer.
    async fn thaw(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Returns what a memory image made now depends on.
    fn image_facts(&self) -> ImageFacts;

    /// Stops every process of a sandbox at an instant, in a way that [`Runtime::checkpoint`] can
    /// work. It stays stopped, whoever dies, until [`Runtime::resume`].
    ///
    /// # Errors
    /// Fails when the sandbox is not there or does not answer; it is not paused then.
    async fn pause(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Continues a paused sandbox. Does nothing to one that is not paused.
    ///
    /// # Errors
    /// Fails when the sandbox is not there or does not answer.
    async fn resume(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Writes memory and processes of a paused sandbox into an empty directory; it stays paused.
    /// What is written is not synced.
    ///
    /// # Errors
    /// Fails when it cannot be written; the sandbox is paused still, unless it died.
    async fn checkpoint(&self, id: &SandboxId, image: &Path) -> Result<(), RuntimeError>;

    /// Makes a sandbox that goes on from a memory image, in place of [`Runtime::create`] and
    /// [`Runtime::start`]: id, root path, namespace, address and limits are the spec's, all else is
    /// the image's. It runs and is watched when this returns. A failure leaves nothing behind.
    ///
    /// One that was staged under that id is used, and the spec must be what it was staged with, but
    /// for the share.
    ///
    /// # Errors
    /// Fails when the backend fails, or has the id already and it was not staged.
    async fn restore(&self, spec: &RuntimeSpec, image: &Path) -> Result<Started, RuntimeError>;

    /// Makes what a memory image is going to be restored into, which makes that
    /// [`Runtime::restore`] quicker. The image need not be there yet, but all that it needs of the
    /// root file system must be. Short of its restore it has no programs, cannot be started, and
    /// is not adopted.
    ///
    /// # Errors
    /// Fails when the backend fails, or has the id already. A failure leaves nothing behind.
    async fn stage(&self, spec: &RuntimeSpec) -> Result<(), RuntimeError>;

    /// Returns what a sandbox uses.
    ///
    /// # Errors
    /// Fails when the sandbox is not there.
    async fn stats(&self, id: &SandboxId) -> Result<RuntimeStats, RuntimeError>;

    /// Returns how much a sandbox, or all of them, have written that is in the host's memory and
    /// not on its disks yet. It takes its room there only then.
    ///
    /// # Errors
    /// Fails when the host does not say.
    async fn unwritten(&self, by: Option<&SandboxId>) -> io::Result<ByteSize>;

    /// Ends a sandbox in whatever state, and removes everything the runtime made for it. Does
    /// nothing when there is none. No event follows.
    ///
    /// # Errors
    /// Fails when something could not be removed; it may then be tried again.
    async fn delete(&self, id: &SandboxId) -> Result<(), RuntimeError>;

    /// Returns every sandbox of ours of which the backend, or the host, still has anything.
    ///
    /// # Errors
    /// Fails when the backend's state cannot be read.
    async fn list(&self) -> Result<Vec<SandboxId>, RuntimeError>;
}

// === impl RuntimeKind ===

impl RuntimeKind {
    /// Returns the word for `SandboxInfo.runtime`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gvisor => "gvisor",
            Self::Sim => "sim",
        }
    }
}

// === impl RuntimeError ===

impl RuntimeError {
    /// Sorts the error.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::NotFound,
            Self::Exists { .. } | Self::MemoryInUse { .. } => ErrorClass::Conflict,
            Self::NotSupported { .. } => ErrorClass::Invalid,
            Self::Timeout { .. } => ErrorClass::Unavailable,
            Self::Backend { .. } | Self::Host { .. } => ErrorClass::Internal,
        }
    }
}
