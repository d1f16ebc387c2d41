//! The system calls that the safe wrappers do not offer: spawning, and one thread's identity.
//!
//! Everything unsafe of this crate is in `spawn`, `thread`, `signal` and `memory`, nowhere else.

mod descriptor;
mod memory;
mod signal;
mod smallfile;
mod spawn;
mod thread;

pub(crate) use descriptor::{descriptor_limit_before, raise_descriptor_limit};
pub(crate) use memory::GiveBack;
pub use memory::Memory;
pub(crate) use signal::{kill, kill_group, reap};
pub(crate) use smallfile::read_small_file;
pub(crate) use spawn::{ControllingTerminal, Launch, SpawnError, SpawnStep, limit_mark, spawn};
pub(crate) use thread::{as_root, assume};

/// Whose rights an action has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User id.
    pub(crate) uid: u32,
    /// Primary group id.
    pub(crate) gid: u32,
    /// All supplementary group ids.
    pub(crate) groups: Vec<u32>,
}
