//! A mark on a process that its descendants inherit.
//!
//! `RLIMIT_RSS` has had no effect since Linux 2.4, and none in gVisor. Like every limit it is
//! inherited by `fork`, survives `execve`, `setsid`, another user and an empty environment, and
//! is read with one system call. Only `ulimit -m` can wipe it. Rejected: `RLIMIT_LOCKS` and its
//! like, which gVisor lets nobody set.
#![allow(unsafe_code, reason = "another process's limits have no safe wrapper")]

use nix::unistd::Pid;

/// Marks the calling process; safe to call between `clone` and `execve`.
pub(crate) fn set_limit_mark(mark: u64) {
    let limit = libc::rlimit { rlim_cur: mark, rlim_max: mark };
    // SAFETY: a live, initialised structure, only read.
    _ = unsafe { libc::setrlimit(libc::RLIMIT_RSS, &raw const limit) };
}

/// Reads the mark of a process, or whatever limit it has.
pub(crate) fn limit_mark(pid: Pid) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit; a live structure to write the old one to.
    let result =
        unsafe { libc::prlimit(pid.as_raw(), libc::RLIMIT_RSS, std::ptr::null(), &raw mut limit) };
    (result == 0).then_some(limit.rlim_max)
}
