//! What a node must know of a sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tarn_host::SlotId;
use tarn_runtime::Started;
use tarn_types::{
    BootId, DaemonToken, EndCause, Generation, GpuId, Launch, ProjectId, SandboxId, UnixMillis,
};

/// What is said of a sandbox that the host's restart has suspended.
const REBOOTED: &str = "the host restarted while the sandbox ran: its files are kept, its memory \
                        and processes are lost; the next resume boots it from its files";

/// What is said of a sandbox whose limit has suspended it, and that has GPUs.
const UNPLUGGED: &str = "a sandbox with GPUs is suspended with its files alone: its memory and \
                         processes have ended, its GPUs are free for others; the next resume boots \
                         it from its files";

/// Where a sandbox is in its life on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum State {
    /// Being built; everything of it may be half there.
    Starting,
    /// It serves.
    Running {
        /// Since when: its absolute clock starts here.
        since: UnixMillis,
    },
    /// It is suspended. Its frozen processes may still be there, which make a resume quick; they
    /// may be dropped at any time.
    Suspended {
        /// Since when.
        at: UnixMillis,
        /// What it goes on from.
        #[serde(default)]
        kept: Kept,
    },
    /// It has ended; what is left of it is being removed, or control has not heard yet.
    Ended {
        /// Why.
        cause: EndCause,
        /// When.
        at: UnixMillis,
    },
}

/// What there is of a suspended sandbox; nothing else of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    /// A capture of its name, with its files and its memory.
    #[default]
    Capture,
    /// Its layer, as the restart of the host left it, or its time limit if it has GPUs.
    Layer,
}

/// All that a node must know of a sandbox to adopt it or to clean up after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) format_version: u32,
    pub(crate) id: SandboxId,
    pub(crate) project: ProjectId,
    pub(crate) generation: Generation,
    /// The boot of the host in which it was built.
    pub(crate) boot_id: BootId,
    pub(crate) launch: Launch,
    #[serde(flatten)]
    pub(crate) state: State,
    pub(crate) slot: Option<SlotId>,
    pub(crate) token: DaemonToken,
    /// The host's copy of `tarnd` that is bound into it.
    pub(crate) tarnd: PathBuf,
    pub(crate) started: Option<Started>,
    /// Since when control's store does not know it.
    pub(crate) orphaned: Option<UnixMillis>,
    /// The digest of the template below its layer; entries of format 1 have none.
    #[serde(default)]
    pub(crate) template: Option<String>,
    /// A capture may have paused it and sealed its daemon.
    #[serde(default)]
    pub(crate) held: bool,
    /// It is held because it has been suspended and is about to go on, not by a capture.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resuming: bool,
    /// What its idle clock is set back to by a restart of the server: how long it had been idle
    /// when this was written, in ms.
    #[serde(default)]
    pub(crate) idle_ms: u64,
    /// It is frozen, or about to be, because the pool has no room. Up to format 4 it was `held`
    /// then, too, on disk.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) frozen: bool,
    /// Its resources are on their way to an intent's: it has them, or what it had, or some of each,
    /// and of nothing more than `launch` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) resizing: bool,
    /// The GPUs that it has, or is about to have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) gpus: Vec<GpuId>,
}

// === impl Entry ===

impl Entry {
    /// Returns what it goes on from, if it is suspended.
    pub(crate) fn kept(&self) -> Option<Kept> {
        match self.state {
            State::Suspended { kept, .. } => Some(kept),
            State::Starting | State::Running { .. } | State::Ended { .. } => None,
        }
    }

    /// Returns what a caller should know about where it is.
    pub(crate) fn notice(&self) -> Option<&'static str> {
        let notice = if self.launch.resources.gpus.is_some() { UNPLUGGED } else { REBOOTED };
        (self.kept() == Some(Kept::Layer)).then_some(notice)
    }

    /// Says whether a restart of the host leaves something of it.
    pub(super) fn outlasts_reboot(&self) -> bool {
        match self.state {
            State::Running { .. } => self.launch.named,
            State::Suspended { .. } => true,
            State::Starting | State::Ended { .. } => false,
        }
    }
}
