//! The `data:` payloads of the server-sent streams (spec 05 §2.1, §2.2).

use serde::{Deserialize, Serialize};

/// The first frame of `processes/run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedFrame {
    /// The process's handle.
    pub handle: u64,
    /// The process's pid.
    pub pid: i32,
    /// When it was started, ms since 1970.
    pub started_at: u64,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineFrame {
    /// The text, without newline.
    pub line: String,
    /// When the daemon read it, ms since 1970.
    pub timestamp: u64,
    /// Where it came from; absent on `/stdout/follow` and `/stderr/follow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<OutputStream>,
}

/// One of a process's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

/// The last frame of `processes/run`; `exit_code` or `signal` is what clients know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFrame {
    /// Set, and then `signal` is absent, when the process exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it ended.
    pub reason: ExitReason,
    /// Present, and true, when memory ran out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
}

/// Why a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// By itself.
    Exited,
    /// By a signal.
    Signaled,
    /// Because memory ran out.
    OomKilled,
    /// Because its time limit passed.
    TimedOut,
}
