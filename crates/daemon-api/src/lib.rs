//! The public wire types of the in-sandbox daemon (spec 05): what `tarnd` answers on port 9501.
//!
//! Shared by the daemon itself, the simulated runtime and clients, so every type serialises and
//! parses. The field names, optional fields and `null` rules are contracts with SDKs that parse
//! strictly (spec 00 §5): fields that may not be `null` are omitted when absent. On input `null`
//! equals absent and unknown keys are ignored.
//!
//! This crate knows no HTTP library, no I/O and no clock; times are ms since 1970.

mod error;
mod file;
mod managed;
mod process;
mod pty;
mod stream;

pub use error::{ErrorBody, code};
pub use file::{DirectoryEntry, DirectoryListing};
pub use managed::{
    BadField, HealthCheckConfig, HealthCheckRequest, HealthCheckType, HealthStatus, MAX_NAME_BYTES,
    ManagedConfig, ManagedExit, ManagedInfo, ManagedStatus, RestartConfig, RestartPolicy,
    RestartRequest,
};
pub use process::{
    OutputMode, OutputResponse, ProcessInfo, ProcessList, ProcessStatus, RunRequest, SignalRequest,
    SignalResponse, StartRequest, StdinMode, UserSpec,
};
pub use pty::{
    ClientFrame, CreatePtyRequest, CreatePtyResponse, MAX_PTY_MESSAGE_BYTES, PtyFrameError,
    PtyList, PtySession, ResizeRequest, ServerFrame, TerminalSize, exit_reason,
};
pub use stream::{ExitFrame, ExitReason, LineFrame, OutputStream, StartedFrame};

use serde::{Deserialize, Serialize};

/// The daemon's port inside every sandbox.
pub const PORT: u16 = 9501;

/// What every public route's path begins with.
pub const PREFIX: &str = "/api/v1";

/// The largest JSON body the daemon reads, in bytes.
pub const MAX_JSON_BYTES: usize = 4 << 20;

/// Lines longer than this many bytes are split.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// `GET /health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always true: a daemon that answers is healthy.
    pub healthy: bool,
}

/// `GET /info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The daemon's version, never empty.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_secs: u64,
    /// Listed processes that run.
    pub running_processes: u32,
    /// Processes started since the daemon started.
    pub total_processes: u64,
}

#[cfg(test)]
mod tests;
