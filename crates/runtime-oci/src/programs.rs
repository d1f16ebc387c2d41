//! gVisor's large programs, in memory and in huge pages.
//!
//! A sandbox's life begins several of them, each of 80 MiB. From a file system on a disk each maps
//! what it runs in pages of 4 KiB, a fault for every few; from huge pages it takes fewer: see
//! decision 46.

use std::{
    error::Error as _,
    fs, io,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};
use tracing::info;

use crate::volatile;

/// Bounds what several versions may take of the host's memory.
const OPTIONS: &str = "mode=700,size=20%,huge=always";
/// A host whose memory is not so many times as large has better use for it.
const SHARE: u64 = 24;
/// What is begun for each sandbox. The rest of an installation is linked to.
const COMMAND: &str = "runsc";
const SENTRY: &str = "gvisor_sentry";
/// Where a command looks for the others, beside itself.
const SIDECARS: &str = "gvisor-bin";
/// A copy that is not whole yet.
const DRAFT: &str = ".draft";

/// Says why the programs stay on the disk.
#[derive(Debug, thiserror::Error)]
enum OnDisk {
    /// The host is too small.
    #[error("they are {programs} bytes, and the host's memory is less than {SHARE} times that")]
    Short {
        /// What they would take.
        programs: u64,
    },
    /// It cannot be done.
    #[error("{step}")]
    Failed {
        /// What.
        step: &'static str,
        /// What the host said.
        #[source]
        source: io::Error,
    },
}

/// Returns the directory whose programs are to be used: a copy on `dir`, in memory, or the
/// installation itself.
///
/// Sandboxes that run keep the program they were begun with, whatever becomes of its file.
pub(crate) fn at_hand(installed: &Path, dir: &Path) -> PathBuf {
    match keep_in_memory(installed, dir) {
        Ok(copy) => copy,
        Err(reason) => {
            let cause = reason.source().map(tracing::field::display);
            info!(%reason, cause, "gVisor's programs stay on the disk, so starts are slower");
            installed.to_owned()
        }
    }
}

/// Copies the programs of an installation to a file system in memory on `dir`, unless they lie
/// there.
fn keep_in_memory(installed: &Path, dir: &Path) -> Result<PathBuf, OnDisk> {
    let failed = |step| move |source| OnDisk::Failed { step, source };
    let programs = size(installed).map_err(failed("look at gVisor's programs"))?;
    if memory() / SHARE < programs {
        return Err(OnDisk::Short { programs });
    }
    fs::create_dir_all(dir).map_err(failed("make their directory"))?;
    if !volatile::is_in_memory(dir) {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tarn"), dir, Some("tmpfs"), flags, Some(OPTIONS))
            .map_err(|errno| failed("mount a file system of huge pages")(errno.into()))?;
    }
    let home = dir.join(installed.file_name().unwrap_or_default());
    if !is_copy(installed, &home) {
        copy(installed, &home).map_err(failed("copy gVisor's programs"))?;
    }
    Ok(home)
}

/// The files that are copied, under their names in an installation.
fn copied() -> [PathBuf; 2] {
    [PathBuf::from(COMMAND), Path::new(SIDECARS).join(SENTRY)]
}

/// Returns what a copy takes. One program may have two names.
fn size(installed: &Path) -> io::Result<u64> {
    let [command, sentry] = copied().map(|name| fs::metadata(installed.join(name)));
    let (command, sentry) = (command?, sentry?);
    Ok(if is_one(&command, &sentry) { command.size() } else { command.size() + sentry.size() })
}

fn is_one(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// Says whether a copy is whole and of what is installed now: its files are as old.
fn is_copy(installed: &Path, home: &Path) -> bool {
    let age = |path: PathBuf| fs::metadata(path).ok().map(|found| (found.size(), found.mtime()));
    let same = |name: &PathBuf| {
        let (installed, copy) = (age(installed.join(name)), age(home.join(name)));
        installed.is_some() && installed == copy
    };
    copied().iter().all(same)
}

/// Makes a copy beside its place, so that what has the name is whole.
fn copy(installed: &Path, home: &Path) -> io::Result<()> {
    let draft = home.with_file_name(DRAFT);
    volatile::remove(&draft)?;
    fs::create_dir_all(draft.join(SIDECARS))?;
    let [command, sentry] = copied();
    copy_file(&installed.join(&command), &draft.join(&command))?;
    for entry in fs::read_dir(installed.join(SIDECARS))? {
        let name = Path::new(SIDECARS).join(entry?.file_name());
        let (from, to) = (installed.join(&name), draft.join(&name));
        if name != sentry {
            symlink(from, to)?;
        } else if is_one(&fs::metadata(&from)?, &fs::metadata(installed.join(&command))?) {
            fs::hard_link(draft.join(&command), to)?;
        } else {
            copy_file(&from, &to)?;
        }
    }
    volatile::remove(home)?;
    fs::rename(draft, home)
}

/// Copies a program with the time of its last change.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    let changed = fs::metadata(from)?.modified()?;
    fs::File::options().write(true).open(to)?.set_modified(changed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// An installation, and where its copy goes; nothing stays mounted.
    struct Stage(tempfile::TempDir);

    impl Stage {
        fn new() -> io::Result<Self> {
            let stage = Self(tempfile::tempdir_in("/var/tmp")?);
            let bin = stage.installed().join(SIDECARS);
            fs::create_dir_all(&bin)?;
            fs::write(stage.installed().join(COMMAND), "one")?;
            fs::set_permissions(
                stage.installed().join(COMMAND),
                fs::Permissions::from_mode(0o755),
            )?;
            fs::hard_link(stage.installed().join(COMMAND), bin.join(SENTRY))?;
            fs::write(bin.join("other"), "linked to")?;
            Ok(stage)
        }

        fn installed(&self) -> PathBuf {
            self.0.path().join("release-1")
        }

        fn programs(&self) -> PathBuf {
            self.0.path().join("programs")
        }

        fn keep(&self) -> PathBuf {
            keep_in_memory(&self.installed(), &self.programs()).expect("a copy")
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            volatile::let_go(&self.programs()).expect("unmounted");
        }
    }

    #[test]
    fn what_is_begun_for_each_sandbox_lies_in_memory() -> io::Result<()> {
        let stage = Stage::new()?;
        let home = stage.keep();
        assert_eq!(home, stage.programs().join("release-1"));
        assert!(volatile::is_in_memory(&home));
        let [command, sentry] = copied().map(|name| fs::metadata(home.join(name)));
        let (command, sentry) = (command?, sentry?);
        assert!(is_one(&command, &sentry), "one program with two names");
        assert_eq!(command.mode() & 0o777, 0o755);
        let other = home.join(SIDECARS).join("other");
        assert_eq!(fs::read_link(&other)?, stage.installed().join(SIDECARS).join("other"));
        assert_eq!(fs::read_to_string(other)?, "linked to");
        Ok(())
    }

    #[test]
    fn a_copy_is_used_again_until_something_else_is_installed() -> io::Result<()> {
        let stage = Stage::new()?;
        let inode = |home: &Path| fs::metadata(home.join(COMMAND)).map(|found| found.ino());
        let first = inode(&stage.keep())?;
        assert_eq!(inode(&stage.keep())?, first);

        let draft = stage.installed().join("draft");
        fs::write(&draft, "another")?;
        fs::rename(&draft, stage.installed().join(COMMAND))?;
        let home = stage.keep();
        assert_ne!(inode(&home)?, first);
        assert_eq!(fs::read_to_string(home.join(COMMAND))?, "another");
        assert_eq!(fs::read_to_string(home.join(SIDECARS).join(SENTRY))?, "one");

        fs::remove_file(home.join(SIDECARS).join(SENTRY))?;
        let mended = stage.keep();
        assert_eq!(fs::read_to_string(mended.join(SIDECARS).join(SENTRY))?, "one");
        Ok(())
    }

    #[test]
    fn an_installation_that_is_not_whole_stays_where_it_is() -> io::Result<()> {
        let stage = Stage::new()?;
        fs::remove_file(stage.installed().join(COMMAND))?;
        let refused = keep_in_memory(&stage.installed(), &stage.programs());
        assert!(matches!(refused, Err(OnDisk::Failed { .. })), "{refused:?}");
        assert!(!stage.programs().exists());
        Ok(())
    }
}
