//! The only module with `unsafe`: code between fork and exec, and descriptors in the event loop.
#![allow(unsafe_code, reason = "neither has a safe form")]

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags, open},
    io::write,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Command,
};

/// Sandboxes go before everything else of ours when the host runs out of memory.
const OOM_SCORE: &[u8] = b"500";

/// Makes a command enter cgroups by their open files, and be the first to go when the host runs out
/// of memory; its children inherit both.
///
/// A shell in front would need no `unsafe`, but a process start more for each create.
pub(crate) fn confine(command: &mut Command, doors: Vec<OwnedFd>) {
    let enter = move || -> io::Result<()> {
        for door in &doors {
            write(door, b"0")?;
        }
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let own = open(c"/proc/self/oom_score_adj", flags, Mode::empty())?;
        write(&own, OOM_SCORE)?;
        Ok(())
    };
    // SAFETY: `enter` runs in the child of a process with many threads, where only functions that
    // are safe in a signal handler may be called. It makes the system calls open, write and close
    // on descriptors it owns, through rustix without libc, and does not allocate or lock.
    unsafe {
        command.pre_exec(enter);
    }
}

/// Registers a descriptor with the event loop, for reading.
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor is open, and stays open and the same until it is dropped, which
    // only the `AsyncFd` can do.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(registered?)
}
