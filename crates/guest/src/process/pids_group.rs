//! The bound on the number of processes, first line: a `pids` cgroup of the sandbox's own kernel.
//!
//! gVisor does not enforce `RLIMIT_NPROC`, and Linux not for root, but gVisor has a `pids`
//! controller. Its file system is mounted only while the group is made and then detached, so a
//! tenant sees none of it; the open `cgroup.procs` keeps it. The daemon itself stays outside:
//! a full sandbox must not keep it from starting the command that cleans up. Threads count too.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsRawFd as _, RawFd},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Covered for an instant, before any tenant's process exists; every sandbox has one of them.
const MOUNT_POINTS: [&str; 2] = ["/sys", "/proc"];

/// The group that every started process joins.
#[derive(Debug)]
pub(crate) struct PidsGroup {
    procs: File,
}

// === impl PidsGroup ===

impl PidsGroup {
    /// Makes the group, as PID 1 of a sandbox whose kernel has the controller.
    pub(crate) fn create(max_tasks: u32) -> io::Result<Self> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for point in MOUNT_POINTS {
            match mount(
                Some("tarn"),
                point,
                Some("cgroup"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some("pids"),
            ) {
                Ok(()) => {
                    let group = Self::create_at(point, max_tasks);
                    umount2(point, MntFlags::MNT_DETACH)?;
                    return group;
                }
                Err(errno) => failure = errno.into(),
            }
        }
        Err(failure)
    }

    fn create_at(point: &str, max_tasks: u32) -> io::Result<Self> {
        let group = format!("{point}/tarn");
        match fs::create_dir(&group) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        fs::write(format!("{group}/pids.max"), max_tasks.to_string())?;
        let procs = OpenOptions::new().write(true).open(format!("{group}/cgroup.procs"))?;
        Ok(Self { procs })
    }

    /// Returns the file into which a process writes itself.
    pub(crate) fn file(&self) -> RawFd {
        self.procs.as_raw_fd()
    }
}
