//! Gives each sandbox a `machine-id` of its own, whatever layer it begins with.
//!
//! It is made from the sandbox's id, not by chance: a sandbox that is resumed from its own capture
//! must find the one it had, and a copy of it another.
//!
//! The tree is a tenant's: nothing here follows a link, leaves the tree, or trusts a file to be
//! one. What cannot be written is left and logged; a tenant may do with the file as it likes.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{
        CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, fchmod, fstat, ftruncate,
        futimens, openat, openat2,
    },
    io::{self, Errno, pread, pwrite},
};
use tarn_types::SandboxId;

/// Sets these ids apart from all else that is derived from a sandbox's id.
const CONTEXT: &str = "tarn 2026-11-25 machine-id of a sandbox";
const NAME: &str = "machine-id";
const READABLE: Mode = Mode::RUSR.union(Mode::RGRP).union(Mode::ROTH);

/// What to do when a directory has no such file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Make,
    Leave,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assigned {
    Written,
    /// It was there already, nothing is changed.
    Same,
    /// There is no such place, or no regular file.
    Left,
}

/// Writes the `machine-id` of a sandbox into its mounted tree, in which nothing runs yet.
pub(super) fn assign(root: &Path, id: &SandboxId) {
    let content = content(id);
    for (dir, absent) in [("etc", Absent::Make), ("var/lib/dbus", Absent::Leave)] {
        match put(root, dir, absent, content.as_bytes()) {
            Ok(Assigned::Written | Assigned::Same) => {}
            Ok(Assigned::Left) => tracing::debug!(sandbox.id = %id, dir, "no machine-id there"),
            Err(error) => tracing::warn!(sandbox.id = %id, dir, %error, "machine-id not written"),
        }
    }
}

/// Returns what the file holds: 32 hex digits of a random UUID's form (machine-id(5)).
fn content(id: &SandboxId) -> String {
    let hash = blake3::derive_key(CONTEXT, id.as_str().as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = (bytes[6] & 0x0F) | 0x40;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    format!("{:032x}\n", u128::from_be_bytes(bytes))
}

fn put(root: &Path, dir: &str, absent: Absent, content: &[u8]) -> io::Result<Assigned> {
    let dir_flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = openat(CWD, root, dir_flags, Mode::empty())?;
    let dir = match openat2(&root, dir, dir_flags, Mode::empty(), beneath()) {
        Ok(dir) => dir,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Assigned::Left),
        Err(errno) => return Err(errno),
    };
    // A fifo must not block; opened for both it does not even want a peer.
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    match openat2(&dir, NAME, flags | OFlags::CLOEXEC, Mode::empty(), beneath()) {
        Ok(file) => replace(&file, content),
        Err(Errno::NOENT) if absent == Absent::Make => make(&dir, content),
        Err(Errno::NOENT | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Ok(Assigned::Left),
        Err(errno) => Err(errno),
    }
}

fn make(dir: &OwnedFd, content: &[u8]) -> io::Result<Assigned> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat2(dir, NAME, flags, READABLE, beneath())?;
    // Whatever the server's umask is.
    fchmod(&file, READABLE)?;
    write_all(&file, content)?;
    Ok(Assigned::Written)
}

/// Writes the file in place: a process in a memory image may have it open.
fn replace(file: &OwnedFd, content: &[u8]) -> io::Result<Assigned> {
    let before = fstat(file)?;
    if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
        return Ok(Assigned::Left);
    }
    let mut held = [0; 64];
    let length = pread(file, &mut held, 0)?;
    if held[..length] == *content {
        return Ok(Assigned::Same);
    }
    // Written before it is cut: on a full disk it then needs no new block.
    write_all(file, content)?;
    ftruncate(file, content.len() as u64)?;
    // gVisor restores no memory image whose open files have other times than they had.
    let times = Timestamps {
        last_access: Timespec { tv_sec: before.st_atime, tv_nsec: nanos(before.st_atime_nsec) },
        last_modification: Timespec {
            tv_sec: before.st_mtime,
            tv_nsec: nanos(before.st_mtime_nsec),
        },
    };
    futimens(file, &times)?;
    Ok(Assigned::Written)
}

fn nanos(kernel: impl TryInto<i64>) -> i64 {
    kernel.try_into().unwrap_or_default()
}

/// Writes so little that the file system takes it whole or says why not.
fn write_all(file: &OwnedFd, content: &[u8]) -> io::Result<()> {
    if pwrite(file, content, 0)? == content.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    fn id(byte: u8) -> SandboxId {
        SandboxId::from_random([byte; SandboxId::LENGTH])
    }

    #[test]
    fn ids_are_those_of_machines_and_the_sandboxs_own() {
        let [one, two] = [content(&id(1)), content(&id(2))];
        assert_ne!(one, two);
        assert_eq!(one, content(&id(1)));
        // Golden: it must stay what it is for sandboxes that are suspended.
        assert_eq!(one, "99edd2f0e81a4f969ab602bd4ae63058\n");
    }

    #[test]
    fn it_is_made_where_there_is_none_and_written_in_place_where_there_is() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        assert_eq!(put(root, "etc", Absent::Make, b"x\n")?, Assigned::Left, "no /etc");
        fs::create_dir(root.join("etc"))?;
        assert_eq!(put(root, "etc", Absent::Leave, b"x\n")?, Assigned::Left);
        assign(root, &id(1));
        let file = root.join("etc/machine-id");
        let before = fs::metadata(&file)?;
        assert_eq!(before.permissions().mode() & 0o7777, 0o444);
        assert_eq!(fs::read_to_string(&file)?, content(&id(1)));

        fs::write(&file, "a longer text than an id\n".repeat(9))?;
        let old = fs::File::options().write(true).open(&file)?;
        old.set_modified(std::time::SystemTime::UNIX_EPOCH)?;
        let outcome = put(root, "etc", Absent::Make, content(&id(2)).as_bytes())?;
        assert_eq!(outcome, Assigned::Written);
        let after = fs::metadata(&file)?;
        assert_eq!(fs::read_to_string(&file)?, content(&id(2)));
        assert_eq!((after.ino(), after.mtime()), (before.ino(), 0), "in place, with its times");
        let again = put(root, "etc", Absent::Make, content(&id(2)).as_bytes())?;
        assert_eq!(again, Assigned::Same);
        Ok(())
    }

    #[test]
    fn nothing_outside_is_touched_and_nothing_blocks() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let outside = dir.path().join("outside");
        fs::create_dir(&outside)?;
        fs::write(outside.join("machine-id"), "the host's")?;
        let tree = |name: &str| -> anyhow::Result<std::path::PathBuf> {
            let root = dir.path().join(name);
            fs::create_dir_all(root.join("etc"))?;
            Ok(root)
        };
        let link = tree("link")?;
        symlink(outside.join("machine-id"), link.join("etc/machine-id"))?;
        let etc = dir.path().join("etc-link");
        fs::create_dir(&etc)?;
        symlink(&outside, etc.join("etc"))?;
        let climb = dir.path().join("climb");
        fs::create_dir(&climb)?;
        symlink("../outside", climb.join("etc"))?;
        let folder = tree("folder")?;
        fs::create_dir(folder.join("etc/machine-id"))?;
        let fifo = tree("fifo")?;
        rustix::fs::mknodat(
            CWD,
            fifo.join("etc/machine-id"),
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )?;
        for root in [link, etc, climb, folder, fifo] {
            let outcome = put(&root, "etc", Absent::Make, b"x\n")?;
            assert_eq!(outcome, Assigned::Left, "{}", root.display());
        }
        assert_eq!(fs::read_to_string(outside.join("machine-id"))?, "the host's");
        Ok(())
    }
}
