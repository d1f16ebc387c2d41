//! The private wire between a node and the `tarnd` inside each of its sandboxes.
//!
//! Plain HTTP/1.1 with JSON bodies on [`PORT`]. `tarnd` serves the public daemon API (spec 05,
//! `tarn-daemon-api`) on the same port; the routes here are its back door and are answered only
//! to the slot's gateway, [`GATEWAY`], never to a process inside the sandbox.
//!
//! ```text
//!            POST init (no token: it installs one)
//!  closed ───────────────────────────────────────────▶ open
//!  every other route: 503 SANDBOX_NOT_READY            every route wants TOKEN_HEADER, else 401
//!
//!            POST seal                    POST unseal (may install another token)
//!  open ───────────────────▶ sealed ──────────────────────────────────────────────▶ open
//!            every other request waits, its token unread
//! ```
//!
//! The node must speak every protocol version that a live sandbox or a stored snapshot may still
//! use, so the bytes of each message are pinned by the golden tests below: change them only
//! together with [`PROTOCOL`]. Errors have the body of the public API,
//! [`tarn_daemon_api::ErrorBody`].
//!
//! This crate knows no HTTP library, no I/O and no clock.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};
use tarn_daemon_api::OutputStream;

/// The version of this protocol, checked by `init`.
pub const PROTOCOL: u32 = 1;

/// The port of the daemon, public API and private routes alike.
pub const PORT: u16 = tarn_daemon_api::PORT;

/// The header that carries the sandbox's token, 64 hex digits, on every request after `init`.
pub const TOKEN_HEADER: &str = "x-tarn-token";

/// The only peer whose calls of the private routes are answered: the gateway of every slot.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);

/// Where the node binds `tarnd` into the sandbox; the one argument of PID 1.
pub const DAEMON_PATH: &str = "/.tarn/tarnd";

/// What every private route's path begins with.
pub const INTERNAL_PREFIX: &str = "/internal/";

/// `POST`: [`InitRequest`] → [`InitResponse`].
pub const INIT_PATH: &str = "/internal/v1/init";

/// `POST` with [`MemoryPressureRequest`] → [`MemoryPressureResponse`].
pub const MEMORY_PRESSURE_PATH: &str = "/internal/v1/memory-pressure";

/// `POST` with [`SealRequest`] → [`SealResponse`].
///
/// Daemons from before this route answer 404 `NOT_FOUND` to it and to [`UNSEAL_PATH`]: their
/// sandboxes' memory cannot be written down, their file systems can.
pub const SEAL_PATH: &str = "/internal/v1/seal";

/// `POST` with [`UnsealRequest`] → [`UnsealResponse`]. 404 as [`SEAL_PATH`].
pub const UNSEAL_PATH: &str = "/internal/v1/unseal";

/// `GET` → [`Stats`].
pub const STATS_PATH: &str = "/internal/v1/stats";

/// `POST` with an empty body → [`ShutdownResponse`].
pub const SHUTDOWN_PATH: &str = "/internal/v1/shutdown";

/// `GET` with `?port=N` and `Upgrade:` [`CONNECT_UPGRADE`]: 101, and from then on the connection is
/// one to that port of the sandbox's loopback, byte for byte. 502 with
/// [`tarn_daemon_api::code::CONNECTION_REFUSED`] if nothing accepts there.
pub const CONNECT_PATH: &str = "/internal/v1/connect";

/// The protocol that [`CONNECT_PATH`] switches to.
pub const CONNECT_UPGRADE: &str = "tarn-tcp";

/// `POST` with [`LogsRequest`] → [`LogsResponse`].
///
/// Daemons from before this route answer 404 `NOT_FOUND`; their output is not persisted.
pub const LOGS_PATH: &str = "/internal/v1/logs";

/// What `tarnd copy-in` and `copy-out` print before the port that the copy goes over.
pub const COPY_ANNOUNCEMENT: &str = "port ";

/// Where `tarnd rootfs-build`, a client's process, finds `tarnd rootfs-bridge`, the server's, in
/// the sandbox that both run in.
pub const ROOTFS_SOCKET: &str = "/run/tarn/rootfs-build.sock";

/// The longest line that `tarnd rootfs-build` sends or reads.
pub const ROOTFS_LINE_BYTES: u64 = 1 << 20;

/// The bytes of lines after which a batch is full. The last line may go beyond it.
pub const LOG_BATCH_BYTES: usize = 256 << 10;

/// The longest [`LogsRequest::wait_ms`] that is granted.
pub const MAX_LOG_WAIT_MS: u64 = 300_000;

/// Error codes of the private routes, and of the token check on the public ones.
pub mod code {
    /// 503: no `init` was received yet.
    pub const SANDBOX_NOT_READY: &str = "SANDBOX_NOT_READY";
    /// 401: the token is missing or wrong.
    pub const UNAUTHENTICATED: &str = "UNAUTHENTICATED";
    /// 403: a private route was called by somebody other than the gateway.
    pub const FORBIDDEN: &str = "FORBIDDEN";
    /// 409: the daemon was already initialised.
    pub const ALREADY_INITIALIZED: &str = "ALREADY_INITIALIZED";
    /// 409: `unseal` is to install a token in a daemon that is not sealed.
    pub const NOT_SEALED: &str = "NOT_SEALED";
    /// 400: the user, working directory, entrypoint or environment cannot be used. The daemon stays
    /// closed, or sealed, and another `init` or `unseal` may follow.
    pub const CONFIGURATION_ERROR: &str = "CONFIGURATION_ERROR";
    /// 400: the daemon does not speak the asked [`super::PROTOCOL`].
    pub const UNSUPPORTED_PROTOCOL: &str = "UNSUPPORTED_PROTOCOL";
}

/// The argument of `tarnd copy-in`: where the files of an archive go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyIn {
    /// The destination, from the root; with a slash at its end it is a directory.
    pub dest: String,
    /// Whose the files become: `user`, `user:group` or numbers; absent means the archive's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chown: Option<String>,
    /// Their permissions; absent means the archive's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The argument of `tarnd copy-out`: which files come out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyOut {
    /// Their paths from the root, in which `*`, `?` and `[…]` are patterns.
    pub sources: Vec<String>,
}

/// The first line of a copy; a tar archive follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyHead {
    /// Whether it is one file, so that its destination may be its new name.
    pub is_one_file: bool,
}

/// The first line of `tarnd rootfs-build`: what of its spec (spec 06 §3) is not known yet where the
/// build is done.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsAsk {
    /// The build.
    pub build_id: String,
    /// Where the context lies in the sandbox.
    pub context_dir: String,
    /// The image to take as it is, instead of a Dockerfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<String>,
    /// The size of the image's disk.
    pub disk_bytes: u64,
    /// A docker configuration with what registries are to be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config: Option<String>,
}

/// A line of the answer to [`RootfsAsk`]; the last one is not the first kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootfsNews {
    /// The build said something.
    Line(String),
    /// It is done.
    Done(RootfsMetadata),
    /// It failed, and has said why.
    Failed {
        /// Whether it ran out of memory.
        out_of_memory: bool,
    },
}

/// What `--metadata-out` is to hold (spec 06 §3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsMetadata {
    /// The files.
    pub snapshot_id: String,
    /// The files again.
    pub snapshot_uri: String,
    /// In which form they are kept.
    pub snapshot_format_version: String,
    /// The bytes that they occupy beside the image below.
    pub snapshot_size_bytes: u64,
    /// The size of the disk.
    pub rootfs_disk_bytes: u64,
    /// `base`: they need no other snapshot.
    pub rootfs_node_kind: String,
}

/// Opens a daemon: who the sandbox is, and what its processes start with.
///
/// Sent once. After the answer every request needs the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitRequest {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// The token to ask for from now on: 64 hex digits.
    pub token: Secret,
    /// The public id, for messages; processes do not see it.
    pub sandbox_id: String,
    /// The host name to set.
    pub hostname: String,
    /// The sandbox-wide environment: the image's ENV, then secrets; a later pair wins.
    pub env: Environment,
    /// The image's USER: `name`, `uid`, `uid:gid` or `name:group`. Absent means root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// The image's WORKDIR. Absent means the default user's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// A command to start at once, as an ordinary listed process of the default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// At least 32 random bytes, base64 (standard alphabet, padded), mixed into the guest
    /// kernel's pool as far as it allows.
    pub entropy: Secret,
    /// The node's wall clock, in ms since 1970. Informational: gVisor has its own clock.
    pub now_ms: u64,
    /// Bounds that the daemon enforces inside.
    pub limits: Limits,
}

/// What the daemon bounds inside the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Processes in the sandbox at one time, the daemon not counted.
    ///
    /// Bound by `RLIMIT_NPROC` per user, and for root too by a cgroup of the sandbox's kernel,
    /// where the daemon can make one: under gVisor that takes `--in-sandbox-cgroup=v2` and
    /// `CAP_SYS_ADMIN` for PID 1. Both count threads.
    pub processes: u32,
    /// Retained output of all processes together: the smaller of 64 MiB and 1/16 of the memory.
    pub output_bytes: u64,
}

/// The daemon is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitResponse {
    /// [`PROTOCOL`] of the daemon.
    pub protocol: u32,
    /// The daemon's version, as in the public `/info`.
    pub version: String,
    /// The process made from [`InitRequest::entrypoint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint_pid: Option<i32>,
}

/// Seals an open daemon before its memory is written down.
///
/// A sealed daemon accepts connections and reads requests, but begins none of them, this route
/// and [`UNSEAL_PATH`] excepted; streams under way go on. So whatever the image is restored
/// to serves nobody until it knows who it is. Sealing a sealed daemon does nothing.
///
/// The other private routes wait, too, health and [`STATS_PATH`] among them: a node that has lost
/// count of what it sealed sends an unseal, which does no harm to a daemon that is not.
///
/// The limits of processes (`timeout`, the pause before a restart) stand still from seal to unseal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealRequest {}

/// The daemon is sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealResponse {}

/// Unseals a daemon: the one whose memory was written down, or one restored from it.
///
/// Authorised by the token from before. Repeated with the new token it does nothing: the token
/// from before is 401 from then on. A refused one changes nothing, and the daemon stays sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsealRequest {
    /// [`PROTOCOL`] of the sender.
    pub protocol: u32,
    /// What is it that goes on.
    pub continues: Continues,
    /// The token to ask for from now on: 64 hex digits.
    pub token: Secret,
    /// The public id, for messages.
    pub sandbox_id: String,
    /// The environment for processes started from now on; absent keeps what there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Environment>,
    /// As [`InitRequest::entropy`].
    pub entropy: Secret,
    /// The node's wall clock, in ms since 1970. Informational, as [`InitRequest::now_ms`].
    pub now_ms: u64,
}

/// What goes on in a daemon that is unsealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Continues {
    /// The sandbox itself, which never stopped being: held requests go on, nothing is dropped.
    Itself,
    /// The sandbox, after a suspend: every connection accepted before this unseal, but for the
    /// one that it came on, is dropped at once with all that is under way on it: held requests,
    /// streams, tunnels, uploads, visits at terminals. Terminals and processes stay.
    Suspended,
    /// Another sandbox, made from its memory: as after a suspend, and lines of output that the
    /// first one has not handed over are forgotten, for they are the first one's; batches have
    /// another [`LogsResponse::boot`] and count from 1.
    Copy,
}

/// The daemon serves again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnsealResponse {
    /// [`PROTOCOL`] of the daemon.
    pub protocol: u32,
    /// The daemon's version, as in the public `/info`.
    pub version: String,
}

/// Asks the daemon to end the largest process, because memory has run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPressureRequest {}

/// What was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPressureResponse {
    /// `null` when there was nothing to end: only the daemon is left.
    ///
    /// A victim still dying is named again rather than a second one chosen.
    pub killed: Option<KilledProcess>,
}

/// The victim of memory pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KilledProcess {
    /// Its pid inside the sandbox.
    pub pid: i32,
    /// Its resident memory when it was chosen.
    pub rss_bytes: u64,
}

/// Counters for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Listed processes that run.
    pub running_processes: u32,
    /// Processes started since boot.
    pub total_processes: u64,
    /// Processes in the sandbox, descendants included, the daemon not counted.
    pub guest_processes: u32,
}

/// Every process but the daemon was sent SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownResponse {
    /// How many processes were signalled.
    pub signaled: u32,
}

/// Asks for the next lines of output of all processes, and acknowledges earlier ones.
///
/// ```text
///  ack n ──▶ batch n is forgotten ──▶ batch n + 1, once there are lines, or nothing after wait_ms
///  any other ack, while a batch is unacknowledged ──▶ the same batch, byte for byte
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// The last batch that is safely stored; 0 for none, or not known.
    pub ack: u64,
    /// How long to wait for a line; 0 asks for what is there now.
    pub wait_ms: u64,
    /// How long to gather more lines after the first, so that they come in few batches.
    pub gather_ms: u64,
}

/// A batch of lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsResponse {
    /// Names this life of the daemon; batches are counted within it.
    pub boot: String,
    /// Counts from 1; 0 says that there was nothing, and needs no acknowledgement.
    pub batch: u64,
    /// Every process that a line mentions.
    pub processes: Vec<LoggedProcess>,
    /// The lines, in the order in which they were read; those of one process exactly so.
    pub lines: Vec<LoggedLine>,
}

/// A process whose lines are in a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedProcess {
    /// Its `handle` in the public API, which is never used again.
    pub handle: u64,
    /// Its pid.
    pub pid: i32,
    /// Its command line, shortened to [`MAX_LOGGED_COMMAND_BYTES`].
    pub command: String,
    /// The id of the managed process that it is an incarnation of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_id: Option<String>,
    /// That one's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed_name: Option<String>,
}

/// The longest [`LoggedProcess::command`].
pub const MAX_LOGGED_COMMAND_BYTES: usize = 1024;

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedLine {
    /// The [`LoggedProcess::handle`] of its process.
    pub handle: u64,
    /// Where it came from.
    pub stream: OutputStream,
    /// When it was read, ms since 1970.
    pub at_ms: u64,
    /// How many lines are gone where this one stands; absent for a line of output.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// The text, without newline.
    pub text: String,
}

/// Text that must not be printed: `Debug` shows a placeholder.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// Pairs of name and value, `[["K","V"],…]` on the wire; `Debug` shows the names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Environment(pub Vec<(String, String)>);

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

// === impl Secret ===

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the secret itself, for the one place that needs it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

// === impl Environment ===

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests;
