//! The bound on the number of processes, first line: a `pids` cgroup of the sandbox's own kernel.
//!
//! `RLIMIT_NPROC` binds everybody but root, in gVisor as in Linux. A root's fork bomb without a
//! bound in the kernel starves the guard task, then the sandbox, then the host (measured: 21,000
//! host processes within seconds), so root needs a cgroup. It must be cgroup v2, which runsc has
//! with `--in-sandbox-cgroup=v2`: its v1 controller looks at one hierarchy of seven, chosen at
//! random, for each fork, so a bomb walks through it.
//!
//! The file system is mounted only while the group is made and then detached, so a tenant sees
//! none of it; the open `cgroup.procs` keeps it. The daemon is in a group of its own without a
//! bound, so that a full sandbox can be cleaned up. Threads count too. Needs `CAP_SYS_ADMIN`,
//! which a tenant's root has as well: who mounts the file system again and leaves the group
//! meets the host's fuse and loses the own sandbox.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::fs::FileExt as _,
    },
    path::Path,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Covered for an instant, before any tenant's process exists; every sandbox has it.
const MOUNT_POINT: &str = "/sys";

/// The group that every started process joins.
#[derive(Debug)]
pub(crate) struct PidsGroup {
    procs: File,
    current: File,
}

// === impl PidsGroup ===

impl PidsGroup {
    /// Makes the group, as PID 1 of a sandbox whose kernel has the controller.
    pub(crate) fn create(max_tasks: u32) -> io::Result<Self> {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tarn"), MOUNT_POINT, Some("cgroup2"), flags, None::<&str>)?;
        let group = Self::create_below(Path::new(MOUNT_POINT), max_tasks);
        umount2(MOUNT_POINT, MntFlags::MNT_DETACH)?;
        group
    }

    /// A group may have processes or children with controllers, not both: hence one for us.
    fn create_below(root: &Path, max_tasks: u32) -> io::Result<Self> {
        let (daemon, guests) = (root.join("tarnd"), root.join("guests"));
        for group in [&daemon, &guests] {
            match fs::create_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        fs::write(daemon.join("cgroup.procs"), "1")?;
        fs::write(root.join("cgroup.subtree_control"), "+pids")?;
        fs::write(guests.join("pids.max"), max_tasks.to_string())?;
        let procs = OpenOptions::new().write(true).open(guests.join("cgroup.procs"))?;
        let current = File::open(guests.join("pids.current"))?;
        Ok(Self { procs, current })
    }

    /// Returns how many tasks are in the group, threads included.
    pub(crate) fn tasks(&self) -> Option<usize> {
        let mut text = [0; 20];
        let length = self.current.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.get(..length)?).ok()?.trim().parse().ok()
    }

    /// Returns the file into which a process writes itself.
    pub(crate) fn file(&self) -> RawFd {
        self.procs.as_raw_fd()
    }
}
