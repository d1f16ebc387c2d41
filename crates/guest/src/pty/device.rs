//! A pseudo-terminal: our end, and the end that the program has.
//!
//! We keep the program's end open, too. Without it a program that closes its terminal, or has
//! handed it to a child, would look like the end of the output; the end is that of the process.

use std::{
    fs::{OpenOptions, Permissions},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{OpenOptionsExt as _, PermissionsExt as _, fchown},
        },
    },
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::{Pid, read, write},
};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcgetpgrp, tcsetwinsize},
};
use tarn_daemon_api::TerminalSize;
use tokio::io::{Interest, unix::AsyncFd};

use crate::sys::Identity;

/// Who owns a terminal may read and write it; others of the group may write messages to it.
const MODE: u32 = 0o620;

/// A pseudo-terminal with both ends open.
#[derive(Debug)]
pub(crate) struct Device {
    ours: AsyncFd<OwnedFd>,
    theirs: OwnedFd,
}

// === impl Device ===

impl Device {
    /// Makes one of a size, for a user.
    pub(crate) fn open(size: TerminalSize, owner: &Identity) -> io::Result<Self> {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let path = ptsname(&ours, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let flags = libc::O_NOCTTY;
        let theirs = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        // Programs that open it by its name need this; best effort, as most use what they inherit.
        drop(fchown(&theirs, Some(owner.uid), Some(owner.gid)));
        drop(theirs.set_permissions(Permissions::from_mode(MODE)));
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))?;
        #[allow(deprecated, reason = "an OwnedFd keeps what the unsafe successor has one promise")]
        let ours = AsyncFd::new(ours)?;
        let device = Self { ours, theirs: theirs.into() };
        device.resize(size)?;
        Ok(device)
    }

    /// Returns the program's end.
    pub(crate) fn theirs(&self) -> &OwnedFd {
        &self.theirs
    }

    /// Reads what the program wrote; `WouldBlock` when there is nothing.
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ours.try_io(Interest::READABLE, |ours| Ok(read(ours, buffer)?))
    }

    /// The same without asking the event loop, which may not have heard of it yet.
    pub(crate) fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(read(&self.ours, buffer)?)
    }

    /// Writes what the program is to read; `WouldBlock` when it reads too little.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.ours.try_io(Interest::WRITABLE, |ours| Ok(write(ours, bytes)?))
    }

    /// Waits until the program may have written.
    pub(crate) async fn readable(&self) {
        drop(self.ours.readable().await);
    }

    /// Waits until the program may have read.
    pub(crate) async fn writable(&self) {
        drop(self.ours.writable().await);
    }

    /// Sets the size; the kernel tells the programs in the foreground.
    pub(crate) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize { ws_row: size.rows(), ws_col: size.cols(), ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.ours.as_fd(), size)?)
    }

    /// Returns the process group in the foreground.
    pub(crate) fn foreground(&self) -> Option<Pid> {
        let group = tcgetpgrp(self.ours.as_fd()).ok()?;
        Some(Pid::from_raw(group.as_raw_nonzero().get()))
    }
}
