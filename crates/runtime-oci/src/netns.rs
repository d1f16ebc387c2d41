//! The empty network namespace that all gofers share.
//!
//! The backend would make and pin one itself at the first create, several at once when creates
//! come in parallel, and never remove them.

use std::{fs, io, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Pins an empty network namespace at a path, unless one is there.
pub(crate) fn pin(path: &Path) -> io::Result<()> {
    if is_pinned(path) {
        return Ok(());
    }
    fs::File::create(path)?;
    let target = path.to_owned();
    // A thread of its own: it changes its namespace, and must not be used again.
    let pinned = std::thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)?;
        Ok(())
    });
    pinned.join().unwrap_or_else(|_panic| Err(io::Error::other("the thread panicked")))
}

/// Lets go of it. Gofers that use it keep it.
pub(crate) fn unpin(path: &Path) -> io::Result<()> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

fn is_pinned(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}
