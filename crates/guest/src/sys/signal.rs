//! Signals and child status by raw number: nix knows no real-time signals, and would lose the
//! status of a child that one of them ended.
#![allow(unsafe_code, reason = "kill and waitpid with any signal number have no safe wrapper")]

use nix::{errno::Errno, unistd::Pid};

use crate::process::EndStatus;

/// Sends a signal to one process.
pub(crate) fn kill(pid: Pid, signal: i32) -> Result<(), Errno> {
    kill_raw(pid.as_raw(), signal)
}

/// Sends a signal to a process group.
pub(crate) fn kill_group(leader: Pid, signal: i32) -> Result<(), Errno> {
    kill_raw(-leader.as_raw(), signal)
}

/// Collects the status of one child that has ended, if there is one.
pub(crate) fn reap() -> Option<(Pid, EndStatus)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a live integer; -1 means any child.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid < 0 && Errno::last() == Errno::EINTR {
            continue;
        }
        if pid <= 0 {
            return None;
        }
        let end = if libc::WIFSIGNALED(status) {
            EndStatus::Signaled(libc::WTERMSIG(status))
        } else {
            EndStatus::Exited(libc::WEXITSTATUS(status))
        };
        return Some((Pid::from_raw(pid), end));
    }
}

fn kill_raw(target: i32, signal: i32) -> Result<(), Errno> {
    // -1 would be everybody.
    if target == -1 || target == 0 {
        return Err(Errno::ESRCH);
    }
    // SAFETY: plain integers.
    if unsafe { libc::kill(target, signal) } == 0 { Ok(()) } else { Err(Errno::last()) }
}
