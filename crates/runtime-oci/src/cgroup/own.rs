//! The group of the server itself, with a greater share of the CPU than that of all sandboxes
//! together: on version 1 `tarn_<tag>_server`, on version 2 the one that it is in anyway if it lies
//! beside theirs.
//!
//! Without one the server is to the scheduler what each other program of the host is, and shares
//! each CPU with all sandboxes by halves. That would do, but kernels from 6.13 on may let a group
//! that runs on several CPUs go on for 100 ms and more while somebody of no greater weight waits.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{at, create_group};

/// Four times what all sandboxes together have, which is the kernel's default.
const SHARES: &str = "4096";
/// The same on version 2's scale.
const WEIGHT: &str = "400";

const PROCESSES: &str = "cgroup.procs";

/// The kernel's word for whoever writes it.
const SELF: &str = "0";

/// Where the server is while it runs, and where it was before.
#[derive(Debug, Clone)]
pub(crate) struct OwnGroup {
    top: PathBuf,
    name: String,
}

// === impl OwnGroup ===

impl OwnGroup {
    /// Names a group at the top of the CPU controller's hierarchy.
    pub(crate) fn new(top: &Path, name: String) -> Self {
        Self { top: top.to_owned(), name }
    }

    /// Moves this process there, all threads of it.
    ///
    /// Says no, and leaves it, where somebody else has put it into a group: its share is theirs to
    /// say.
    pub(crate) fn enter(&self, own: &str) -> io::Result<bool> {
        match cpu_path(own) {
            Some("/") => {}
            other => return Ok(self.is(other)),
        }
        let dir = self.dir();
        create_group(&dir)?;
        for (file, text) in [("cpu.shares", SHARES), (PROCESSES, SELF)] {
            let file = dir.join(file);
            fs::write(&file, text).map_err(|error| at(&file, &error))?;
        }
        Ok(true)
    }

    /// Moves this process back, if it is there, and removes the group, unless another is.
    pub(crate) fn leave(&self, own: &str) {
        if self.is(cpu_path(own)) {
            drop(fs::write(self.top.join(PROCESSES), SELF));
        }
        drop(fs::remove_dir(self.dir()));
    }

    fn dir(&self) -> PathBuf {
        self.top.join(&self.name)
    }

    fn is(&self, path: Option<&str>) -> bool {
        path.and_then(|path| path.strip_prefix('/')) == Some(self.name.as_str())
    }
}

/// Gives a version 2 group, if it is there, the server's share.
pub(crate) fn weigh(dir: &Path) -> io::Result<bool> {
    if !dir.is_dir() {
        return Ok(false);
    }
    let file = dir.join("cpu.weight");
    fs::write(&file, WEIGHT).map_err(|error| at(&file, &error))?;
    Ok(true)
}

/// Finds where a process is in the CPU controller's hierarchy; see `cgroups(7)`.
fn cpu_path(own: &str) -> Option<&str> {
    own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == "cpu").then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_THE_TOP: &str = "9:memory:/a\n4:cpu,cpuacct:/\n1:name=cpu:/x\n0::/\n";

    #[test]
    fn the_controller_is_found_among_others() {
        for (own, path) in [
            (AT_THE_TOP, Some("/")),
            ("3:cpuacct:/b\n2:cpu:/tarn_x_server\n", Some("/tarn_x_server")),
            ("5:cpuset:/\n0::/\n", None),
            ("2:cpu:/a:b\n", Some("/a:b")),
            ("", None),
        ] {
            assert_eq!(cpu_path(own), path, "{own:?}");
        }
    }

    #[test]
    fn it_is_entered_from_the_top_alone_and_left_again() {
        let top = tempfile::tempdir().unwrap();
        let group = OwnGroup::new(top.path(), "tarn_x_server".into());
        let read = |file: &str| fs::read_to_string(top.path().join(file)).ok();
        for elsewhere in ["4:cpu:/system.slice/tarn.service\n", "0::/\n"] {
            assert!(!group.enter(elsewhere).unwrap());
            group.leave(elsewhere);
            assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
        }
        assert!(group.enter(AT_THE_TOP).unwrap());
        assert_eq!(read("tarn_x_server/cpu.shares").as_deref(), Some("4096"));
        assert_eq!(read("tarn_x_server/cgroup.procs").as_deref(), Some("0"));
        let there = "4:cpu:/tarn_x_server\n";
        assert!(group.enter(there).unwrap(), "it is there");
        group.leave("4:cpu:/\n");
        assert_eq!(read("cgroup.procs"), None, "who removes it is not there");
        group.leave(there);
        assert_eq!(read("cgroup.procs").as_deref(), Some("0"));
    }
}
