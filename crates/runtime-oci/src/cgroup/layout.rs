//! Which hierarchies there are and where; read from the mount table.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// What the driver needs a hierarchy for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    CpuAccount,
    Pids,
    Freezer,
}

/// The two kinds of cgroups that Linux has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupVersion {
    /// A hierarchy for each controller.
    V1,
    /// One for all.
    V2,
}

/// Where our parent groups go, by controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Mount points; controllers mounted together share one.
    V1 {
        memory: PathBuf,
        cpu: PathBuf,
        cpu_account: PathBuf,
        pids: PathBuf,
        freezer: Option<PathBuf>,
    },
    /// The group below which ours goes: the mount point, or the service's own delegated group.
    V2 { base: PathBuf },
}

/// Why no hierarchy can be used.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// The kernel's tables cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A controller is neither in version 1 nor in version 2.
    #[error("the cgroup controller `{0}` is not mounted")]
    Missing(&'static str),
}

const MOUNTS: &str = "/proc/self/mountinfo";
const OWN: &str = "/proc/self/cgroup";

// === impl Layout ===

impl Layout {
    /// Finds the hierarchies of this machine.
    ///
    /// # Errors
    /// Fails when a controller that enforces a limit is missing.
    pub(crate) fn detect() -> Result<Self, LayoutError> {
        let read =
            |path| fs::read_to_string(path).map_err(|source| LayoutError::Read { path, source });
        let mounts = read(MOUNTS)?;
        let own = read(OWN)?;
        Self::parse(
            &mounts,
            &own,
            |dir| fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default(),
            is_delegated,
        )
    }

    /// Decides from the two tables, the controllers that a version 2 mount offers, and whether a
    /// group is ours to divide.
    fn parse(
        mounts: &str,
        own: &str,
        offered: impl Fn(&Path) -> String,
        delegated: impl Fn(&Path) -> bool,
    ) -> Result<Self, LayoutError> {
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let v1 = |controller: &str| {
            let holds = |mount: &&Mount| {
                mount.kind == "cgroup" && mount.options.split(',').any(|word| word == controller)
            };
            mounts.iter().find(holds).map(|mount| PathBuf::from(mount.point))
        };
        if let Some(memory) = v1("memory") {
            let must = |name| v1(name).ok_or(LayoutError::Missing(name));
            return Ok(Self::V1 {
                memory,
                cpu: must("cpu")?,
                cpu_account: must("cpuacct")?,
                pids: must("pids")?,
                freezer: v1("freezer"),
            });
        }
        let unified = mounts.iter().find(|mount| mount.kind == "cgroup2");
        let root = PathBuf::from(unified.ok_or(LayoutError::Missing("memory"))?.point);
        let offered = offered(&root);
        for name in ["memory", "cpu", "pids"] {
            if !offered.split_whitespace().any(|word| word == name) {
                return Err(LayoutError::Missing(name));
            }
        }
        Ok(Self::V2 { base: v2_base(&root, own, delegated) })
    }

    pub(crate) fn version(&self) -> CgroupVersion {
        match self {
            Self::V1 { .. } => CgroupVersion::V1,
            Self::V2 { .. } => CgroupVersion::V2,
        }
    }

    pub(crate) fn can_freeze(&self) -> bool {
        !matches!(self, Self::V1 { freezer: None, .. })
    }

    /// Returns the directory for a controller. Without a freezer, any will do: nobody freezes.
    pub(crate) fn dir(&self, controller: Controller) -> &Path {
        match self {
            Self::V1 { memory, cpu, cpu_account, pids, freezer } => match controller {
                Controller::Memory => memory,
                Controller::Cpu => cpu,
                Controller::CpuAccount => cpu_account,
                Controller::Pids => pids,
                Controller::Freezer => freezer.as_ref().unwrap_or(pids),
            },
            Self::V2 { base } => base,
        }
    }

    /// Returns the directory for CPU time, if a process can be moved there without leaving anything
    /// behind: neither its memory nor its count are kept in the same hierarchy.
    pub(crate) fn own_cpu_dir(&self) -> Option<&Path> {
        match self {
            Self::V1 { memory, cpu, pids, .. } if cpu != memory && cpu != pids => Some(cpu),
            Self::V1 { .. } | Self::V2 { .. } => None,
        }
    }

    /// Returns every directory once.
    pub(crate) fn dirs(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = Vec::new();
        for controller in [
            Controller::Memory,
            Controller::Cpu,
            Controller::CpuAccount,
            Controller::Pids,
            Controller::Freezer,
        ] {
            let dir = self.dir(controller);
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }
}

/// A line of the mount table.
struct Mount<'a> {
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

// === impl Mount ===

impl<'a> Mount<'a> {
    /// See `proc_pid_mountinfo(5)`: after the separator come type, source and options.
    fn parse(line: &'a str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1)?;
        Some(Self { point, kind, options })
    }
}

/// Where ours goes in a unified hierarchy.
///
/// A service manager owns the tree but for what it delegates: the group of a unit with
/// `Delegate=yes`. With `DelegateSubgroup=` we run one level below it. Elsewhere, as in
/// containers, the top is the place.
fn v2_base(root: &Path, own: &str, delegated: impl Fn(&Path) -> bool) -> PathBuf {
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::/")) else {
        return root.to_owned();
    };
    let own = root.join(path);
    own.ancestors()
        .take_while(|dir| *dir != root)
        .find(|dir| delegated(dir))
        .unwrap_or(root)
        .to_owned()
}

/// systemd marks what it delegates by an extended attribute.
fn is_delegated(dir: &Path) -> bool {
    ["trusted.delegate", "user.delegate"].iter().any(|name| {
        let mut value = [0; 8];
        matches!(rustix::fs::getxattr(dir, *name, &mut value), Ok(1) if value[0] == b'1')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
24 20 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 24 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
33 24 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
    const V2: &str = "34 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";

    fn parse(mounts: &str, own: &str, offered: &str, delegated: &str) -> Result<Layout, String> {
        Layout::parse(mounts, own, |_| offered.to_owned(), |dir| dir == Path::new(delegated))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn version_1_wins_where_it_has_the_memory_controller() {
        let layout = parse(V1, "0::/\n", "", "").unwrap();
        assert_eq!(layout.version(), CgroupVersion::V1);
        assert!(!layout.can_freeze());
        let dirs: Vec<_> = layout.dirs().iter().map(|dir| dir.to_str().unwrap()).collect();
        assert_eq!(
            dirs,
            ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/pids"]
        );
        assert_eq!(layout.own_cpu_dir(), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        let together = V1.replace("cpu,cpuacct", "cpu,cpuacct,pids");
        let layout = parse(&together.replace("rw,pids", "rw,net_cls"), "0::/\n", "", "").unwrap();
        assert_eq!(layout.own_cpu_dir(), None);
    }

    #[test]
    fn a_missing_controller_is_named() {
        let without_pids: String =
            V1.lines().filter(|line| !line.contains("pids")).map(|l| format!("{l}\n")).collect();
        let error = parse(&without_pids, "", "", "").unwrap_err();
        assert_eq!(error, "the cgroup controller `pids` is not mounted");
        let error = parse(V2, "", "cpuset cpu memory", "").unwrap_err();
        assert_eq!(error, "the cgroup controller `pids` is not mounted");
        assert!(parse("", "", "", "").is_err());
    }

    #[test]
    fn version_2_uses_the_delegated_group_or_the_top() {
        let all = "cpuset cpu io memory pids";
        for (own, delegated, base) in [
            ("0::/\n", "", "/sys/fs/cgroup"),
            ("0::/user.slice/x\n", "", "/sys/fs/cgroup"),
            ("0::/s.slice/t.service\n", "/sys/fs/cgroup/s.slice/t.service", "same"),
            ("0::/s.slice/t.service/main\n", "/sys/fs/cgroup/s.slice/t.service", "same"),
        ] {
            let expected = if base == "same" { delegated } else { base };
            let layout = parse(V2, own, all, delegated).unwrap();
            assert_eq!(layout.own_cpu_dir(), None);
            assert_eq!(layout, Layout::V2 { base: expected.into() }, "{own}");
        }
    }
}
