//! Mounts: make, find, remove.
//!
//! Propagation is left as the data directory has it. Where `/` is shared, unmounting reaches the
//! copies in other mount namespaces; where it is private, removing the mount point does (the
//! kernel detaches copies whose mount point is gone). So [`unmount`] is always followed by
//! [`remove_mount_point`].

use std::{
    ffi::{CString, OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::statfs,
    io::Errno,
    mount::{MountFlags, UnmountFlags},
};

use crate::step::{HostStepError, StepContext as _};

/// `EXT4_SUPER_MAGIC` (linux/magic.h).
pub(crate) const EXT4_MAGIC: u64 = 0xEF53;
/// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
pub(crate) const OVERLAY_MAGIC: u64 = 0x794C_7630;
/// `XFS_SUPER_MAGIC` (linux/magic.h).
pub(crate) const XFS_MAGIC: u64 = 0x5846_5342;

/// The pauses between tries at something the kernel still holds: 5 s in all.
const BUSY_PAUSES_MS: [u64; 12] = [1, 2, 4, 8, 15, 30, 60, 120, 240, 520, 1500, 2500];

/// What became of an unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unmounted {
    /// Nothing is mounted there any more.
    Gone,
    /// Somebody still used it: it left the tree and ends with its last user.
    Detached,
}

/// One line of `/proc/self/mountinfo`, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// Where it is mounted.
    pub(crate) target: PathBuf,
    /// The type of its file system.
    pub(crate) fs_type: String,
    /// What is mounted: for a disk its device node.
    pub(crate) source: OsString,
}

/// Mounts a file system.
pub(crate) fn mount(
    source: &Path,
    target: &Path,
    fs_type: &str,
    flags: MountFlags,
    options: &OsStr,
) -> Result<(), HostStepError> {
    let options = CString::new(options.as_bytes())
        .map_err(|_nul| HostStepError::new("mount", target, Errno::INVAL))?;
    rustix::mount::mount(source, target, fs_type, flags, options.as_c_str()).step("mount", target)
}

/// Unmounts whatever is mounted on a directory, waiting up to 5 s for its last users.
pub(crate) fn unmount(target: &Path) -> Result<Unmounted, HostStepError> {
    let mut pauses = BUSY_PAUSES_MS.into_iter();
    loop {
        match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
            // More than one file system can be stacked on the same directory.
            Ok(()) => {}
            // Not a mount point, or not there at all: the end we want.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(Unmounted::Gone),
            Err(Errno::BUSY) => match pauses.next() {
                Some(pause) => thread::sleep(Duration::from_millis(pause)),
                None => break,
            },
            Err(errno) => return Err(HostStepError::new("unmount", target, errno)),
        }
    }
    rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
        .step("detach", target)?;
    Ok(Unmounted::Detached)
}

/// Removes an empty directory that was a mount point; also in every other mount namespace.
pub(crate) fn remove_mount_point(target: &Path) -> Result<(), HostStepError> {
    match fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(HostStepError::new("remove", target, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Waits up to 5 s for something to become true.
pub(crate) fn wait_until(
    mut ready: impl FnMut() -> Result<bool, HostStepError>,
) -> Result<bool, HostStepError> {
    for pause in BUSY_PAUSES_MS {
        if ready()? {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(pause));
    }
    ready()
}

/// Says whether a directory lies on a file system of a kind; one that is not there does not.
pub(crate) fn is_on(target: &Path, magic: u64) -> Result<bool, HostStepError> {
    match statfs(target) {
        Ok(stat) => Ok(u64::try_from(stat.f_type).is_ok_and(|kind| kind == magic)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(HostStepError::new("look at", target, errno)),
    }
}

/// Returns every mount beneath a directory or on it, in the order they were made.
pub(crate) fn mounts_beneath(dir: &Path) -> Result<Vec<MountEntry>, HostStepError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).step("read", table)?;
    Ok(parse_mountinfo(&text).filter(|entry| entry.target.starts_with(dir)).collect())
}

/// Reads the lines of a mount table; a line of an unknown shape is passed over.
///
/// Format: proc_pid_mountinfo(5).
fn parse_mountinfo(text: &[u8]) -> impl Iterator<Item = MountEntry> {
    text.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let target = fields.nth(4)?;
        // Optional fields end with a lone hyphen.
        fields.find(|field| *field == b"-")?;
        let fs_type = fields.next()?;
        let source = fields.next()?;
        Some(MountEntry {
            target: PathBuf::from(OsString::from_vec(unescape(target))),
            fs_type: String::from_utf8_lossy(fs_type).into_owned(),
            source: OsString::from_vec(unescape(source)),
        })
    })
}

/// Undoes the `\040` notation of mount tables.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_tables_are_read() {
        let table = b"23 27 0:22 / /sys rw,relatime - sysfs sysfs rw\n\
            99 27 7:3 / /data\\040dir/pool rw shared:4 master:1 - xfs /dev/loop3 rw,nouuid\n\
            broken line\n\
            100 27 0:50 / /data/a\\134b rw - overlay overlay rw,lowerdir=/x\n";
        let read: Vec<_> = parse_mountinfo(table)
            .map(|entry| (entry.target, entry.fs_type, entry.source))
            .collect();
        let expected = [
            ("/sys", "sysfs", "sysfs"),
            ("/data dir/pool", "xfs", "/dev/loop3"),
            ("/data/a\\b", "overlay", "overlay"),
        ]
        .map(|(target, kind, source)| (PathBuf::from(target), kind.to_owned(), source.into()));
        assert_eq!(read, expected);
    }

    #[test]
    fn escapes_are_undone_and_the_rest_kept() {
        for (field, plain) in
            [("a\\040b", "a b"), ("\\134", "\\"), ("\\9", "\\9"), ("end\\", "end\\"), ("", "")]
        {
            assert_eq!(unescape(field.as_bytes()), plain.as_bytes(), "{field}");
        }
    }

    #[test]
    fn unmounting_what_is_not_mounted_is_done_at_once() {
        assert_eq!(unmount(Path::new("/nowhere/at/all")).ok(), Some(Unmounted::Gone));
    }
}
