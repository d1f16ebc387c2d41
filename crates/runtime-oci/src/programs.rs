//! gVisor's large programs, in memory and in huge pages.
//!
//! A sandbox's life begins several of them, each of 80 MiB. From a file system on a disk each maps
//! what it runs in pages of 4 KiB, a fault for every few; from huge pages it takes fewer. What it
//! writes stays in small ones: see decision 46.

use std::{
    error::Error as _,
    fs,
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};
use tracing::info;

use crate::{huge, volatile};

/// Bounds what several versions may take of the host's memory.
const OPTIONS: &str = "mode=700,size=20%,huge=never";
const FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
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
        mount(Some("tarn"), dir, Some("tmpfs"), FLAGS, Some(OPTIONS))
            .map_err(|errno| failed("mount a file system in memory")(errno.into()))?;
    }
    let home = dir.join(installed.file_name().unwrap_or_default());
    if !is_copy(installed, &home) {
        copy(installed, &home, dir).map_err(failed("copy gVisor's programs"))?;
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
fn copy(installed: &Path, home: &Path, dir: &Path) -> io::Result<()> {
    let draft = home.with_file_name(DRAFT);
    volatile::remove(&draft)?;
    fs::create_dir_all(draft.join(SIDECARS))?;
    let [command, sentry] = copied();
    copy_file(&installed.join(&command), &draft.join(&command), dir)?;
    for entry in fs::read_dir(installed.join(SIDECARS))? {
        let name = Path::new(SIDECARS).join(entry?.file_name());
        let (from, to) = (installed.join(&name), draft.join(&name));
        if name != sentry {
            symlink(from, to)?;
        } else if is_one(&fs::metadata(&from)?, &fs::metadata(installed.join(&command))?) {
            fs::hard_link(draft.join(&command), to)?;
        } else {
            copy_file(&from, &to, dir)?;
        }
    }
    volatile::remove(home)?;
    fs::rename(draft, home)
}

/// Copies a program with its mode and the time of its last change.
fn copy_file(from: &Path, to: &Path, dir: &Path) -> io::Result<()> {
    let source = fs::File::open(from)?;
    let found = source.metadata()?;
    let copy = fs::File::create_new(to)?;
    copy.set_permissions(found.permissions())?;
    copy.set_len(found.len())?;
    let ranges = huge::ranges(&source)?;
    if !ranges.is_empty() {
        pages(dir, "always")?;
        let copied = copy_ranges(&source, &copy, &ranges);
        // Whatever comes next is not to lie in huge pages.
        pages(dir, "never")?;
        copied?;
    }
    copy_ranges(&source, &copy, &between(&ranges, found.len()))?;
    copy.set_modified(found.modified()?)
}

/// Says in which pages what is written to the file system on `dir` lies from now on.
fn pages(dir: &Path, huge: &str) -> io::Result<()> {
    let option = format!("huge={huge}");
    let none = None::<&str>;
    Ok(mount(none, dir, none, FLAGS | MsFlags::MS_REMOUNT, Some(option.as_str()))?)
}

fn copy_ranges(mut from: &fs::File, mut to: &fs::File, ranges: &[Range<u64>]) -> io::Result<()> {
    for range in ranges {
        from.seek(SeekFrom::Start(range.start))?;
        to.seek(SeekFrom::Start(range.start))?;
        let length = range.end - range.start;
        if io::copy(&mut from.take(length), &mut to)? != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Returns what lies between ranges, which are in order, up to `end`.
fn between(ranges: &[Range<u64>], end: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|range| range.end));
    let ends = ranges.iter().map(|range| range.start).chain([end]);
    starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty()).collect()
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

    /// A program of one segment, which is only read.
    fn program(length: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..length).map(|at| (at >> 12).to_le_bytes()[0]).collect();
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        // A header of 64 bytes for 64 bits, little-endian; after it one of 56, without sections.
        put(0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
        put(24, &[0x40_0000, 64, 0].map(u64::to_le_bytes).concat());
        put(48, &[0, 64 << 16].map(u32::to_le_bytes).concat());
        put(54, &[56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
        put(64, &[1, 4].map(u32::to_le_bytes).concat());
        put(72, &[0, 0x40_0000, 0x40_0000, length, length, 4096].map(u64::to_le_bytes).concat());
        bytes
    }

    #[test]
    fn what_lies_in_huge_pages_is_what_was_installed() -> io::Result<()> {
        let stage = Stage::new()?;
        let content = program((5 << 20) + 4097);
        fs::write(stage.installed().join(COMMAND), &content)?;
        let installed = fs::File::open(stage.installed().join(COMMAND))?;
        assert_eq!(huge::ranges(&installed)?.first(), Some(&(0..4 << 20)));
        let home = stage.keep();
        assert!(fs::read(home.join(COMMAND))? == content);
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let programs = stage.programs();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == programs.to_str());
        let options = line.expect("it is mounted");
        assert!(!options.contains("huge=always"), "{options}");
        for option in ["nosuid", "nodev", "mode=700"] {
            assert!(options.contains(option), "{options}");
        }
        Ok(())
    }

    #[test]
    fn all_that_is_left_is_copied_too() {
        /// Where each begins and ends.
        type Ends = &'static [(u64, u64)];
        let table: [(Ends, u64, Ends); 5] = [
            (&[], 9, &[(0, 9)]),
            (&[], 0, &[]),
            (&[(0, 9)], 9, &[]),
            (&[(2, 4), (4, 6)], 9, &[(0, 2), (6, 9)]),
            (&[(0, 2), (5, 6)], 9, &[(2, 5), (6, 9)]),
        ];
        for (ends, end, expected) in table {
            let ranges: Vec<_> = ends.iter().map(|(start, end)| *start..*end).collect();
            let found = between(&ranges, end);
            let found: Vec<_> = found.iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(found, expected, "{ranges:?}");
        }
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
