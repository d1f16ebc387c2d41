//! The identity of one thread.
//!
//! `setfsuid` would be the natural call, but gVisor answers it with `ENOSYS`; the effective ids
//! work in both kernels. The C library's wrappers change *every* thread of the process (POSIX
//! says so), hence the raw calls, which change the calling thread alone. The real and the saved
//! user id stay 0: the thread can come back, and no process of that user may signal or trace it.
#![allow(unsafe_code, reason = "per-thread credentials have no safe wrapper")]

use std::{cell::RefCell, io};

use super::Identity;

thread_local! {
    static ASSUMED: RefCell<Option<Identity>> = const { RefCell::new(None) };
}

/// Gives the calling thread the rights of `identity`, until told otherwise.
///
/// A tarnd that is not root (a test) keeps its own identity if it is the one asked for.
pub(crate) fn assume(identity: &Identity) -> io::Result<()> {
    if ASSUMED.with_borrow(|assumed| assumed.as_ref() == Some(identity)) {
        return Ok(());
    }
    if nix::unistd::getuid().is_root() {
        set_effective_uid(0)?;
        set_groups(&identity.groups)?;
        set_effective_gid(identity.gid)?;
        set_effective_uid(identity.uid)?;
    } else if nix::unistd::getuid().as_raw() != identity.uid {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    ASSUMED.set(Some(identity.clone()));
    Ok(())
}

/// Runs `action` as root on a thread that has assumed an identity, for what only root may do
/// with a file that the identity was allowed to replace.
pub(crate) fn as_root<T>(action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(identity) = ASSUMED.with_borrow(Option::clone) else { return action() };
    if identity.uid == 0 || !nix::unistd::getuid().is_root() {
        return action();
    }
    set_effective_uid(0)?;
    let outcome = action();
    set_effective_uid(identity.uid)?;
    outcome
}

fn set_effective_uid(uid: u32) -> io::Result<()> {
    // SAFETY: takes plain integers (-1: leave as it is) and changes this thread's ids only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) })
}

fn set_effective_gid(gid: u32) -> io::Result<()> {
    // SAFETY: takes plain integers (-1: leave as it is) and changes this thread's ids only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, -1, gid, -1) })
}

fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one live slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
