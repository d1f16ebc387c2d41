//! What `tarn doctor` says about storage.

use std::path::Path;

use tarn_types::ByteSize;

use crate::{Pool, PoolKind, loopdev, pool, tool};

/// One thing that storage needs or has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageFact {
    /// What it is, such as "loop devices".
    pub name: &'static str,
    /// Whether all is well with it.
    pub ok: bool,
    /// What was found, and what it costs where it is not well.
    pub detail: String,
    /// What to do about it; `None` where nothing is to do.
    pub remedy: Option<String>,
}

// === impl StorageFact ===

impl StorageFact {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into(), remedy: None }
    }

    fn bad(name: &'static str, detail: impl Into<String>, remedy: &str) -> Self {
        Self { name, ok: false, detail: detail.into(), remedy: Some(remedy.to_owned()) }
    }
}

/// Looks at what storage needs of the host. Blocks; changes nothing.
#[must_use]
pub fn host_facts() -> Vec<StorageFact> {
    vec![
        program("mkfs.ext4", "no sandbox can be made", "apt-get install e2fsprogs"),
        program(
            "resize2fs",
            "a snapshot cannot be restored to a larger disk",
            "apt-get install e2fsprogs",
        ),
        program("mkfs.xfs", "a pool that clones files cannot be made", "apt-get install xfsprogs"),
        program("xfs_growfs", "the pool cannot grow", "apt-get install xfsprogs"),
        match loopdev::probe() {
            Ok(()) => StorageFact::good("loop devices", "/dev/loop-control opens"),
            Err(error) => StorageFact::bad(
                "loop devices",
                format!("/dev/loop-control: {error}; no sandbox can be made"),
                "run as root, `modprobe loop`; in a container give it /dev and CAP_SYS_ADMIN",
            ),
        },
        file_system("ext4"),
        file_system("xfs"),
        file_system("overlay"),
    ]
}

impl Pool {
    /// Looks at the pool itself. Blocks.
    #[must_use]
    pub fn facts(&self) -> Vec<StorageFact> {
        vec![self.kind_fact(), self.space_fact()]
    }

    fn kind_fact(&self) -> StorageFact {
        let name = "pool";
        match self.kind() {
            PoolKind::DataDir => StorageFact::good(name, "the data directory clones files"),
            PoolKind::XfsImage => StorageFact::good(name, "an XFS image clones files"),
            PoolKind::PlainCopies => StorageFact::bad(
                name,
                format!(
                    "files are copied, not cloned: snapshots and forks are slow and take their full size ({})",
                    self.shortcoming().unwrap_or("unknown reason")
                ),
                "install xfsprogs, or put the data directory on XFS or btrfs, and begin with an empty data directory",
            ),
        }
    }

    fn space_fact(&self) -> StorageFact {
        let name = "pool space";
        let space = match self.space() {
            Ok(space) => space,
            Err(error) => {
                return StorageFact::bad(name, crate::step::chain(&error), "see the server's log");
            }
        };
        let reserve = pool::reserve(space.total);
        let detail = format!(
            "{} of {} free; no new sandboxes below {}, running ones are frozen below {}",
            gib(space.available),
            gib(space.total),
            gib(reserve),
            gib(space.floor)
        );
        if space.available < reserve {
            return StorageFact::bad(name, detail, "free disk space, or raise the pool's maximum");
        }
        StorageFact::good(name, detail)
    }
}

fn program(name: &'static str, cost: &str, install: &str) -> StorageFact {
    if tool::is_installed(name) {
        return StorageFact::good(name, "installed");
    }
    StorageFact::bad(name, format!("not installed: {cost}"), install)
}

/// Looks whether the kernel knows a file system, or could load it.
fn file_system(kind: &'static str) -> StorageFact {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some(kind)) {
        return StorageFact::good(kind, "known to the kernel");
    }
    let release = rustix::system::uname();
    let modules = Path::new("/lib/modules").join(release.release().to_string_lossy().as_ref());
    // The directory of the overlay module is named differently from its type.
    let folder = if kind == "overlay" { "overlayfs" } else { kind };
    if modules.join("kernel/fs").join(folder).is_dir() {
        return StorageFact::good(kind, "the kernel can load it");
    }
    let detail = "the kernel does not know it; no sandbox can be made";
    StorageFact::bad(kind, detail, &format!("modprobe {kind}, or a kernel that has it"))
}

fn gib(size: ByteSize) -> String {
    let tenths = size.mib() * 10 / 1024;
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_readable() {
        for (mib, text) in
            [(0, "0.0 GiB"), (512, "0.5 GiB"), (10240, "10.0 GiB"), (1740, "1.6 GiB")]
        {
            assert_eq!(gib(ByteSize::from_mib(mib)), text);
        }
    }

    #[test]
    fn a_missing_program_is_named_with_its_remedy() {
        let fact = program("mkfs.nothing", "nothing works", "apt-get install nothing");
        assert!(!fact.ok && fact.detail.contains("nothing works"));
        assert_eq!(fact.remedy.as_deref(), Some("apt-get install nothing"));
        assert!(program("sh", "", "").ok);
    }
}
