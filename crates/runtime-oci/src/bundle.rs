//! Writes what the backend reads: the bundle and the shape file.

use std::{fs, io, path::Path};

use rustix::{
    fs::{Dir, Mode, OFlags, ResolveFlags, mkdirat, open, openat2},
    io::Errno,
};
use tarn_runtime::RuntimeSpec;
use tarn_types::SandboxId;

use crate::{limits::Limits, oci, paths::Paths};

/// Makes the bundle. The directory is the claim on the id: an error of the kind `AlreadyExists`
/// says that somebody has it.
pub(crate) fn claim(paths: &Paths, spec: &RuntimeSpec) -> io::Result<()> {
    fs::create_dir(paths.bundle(&spec.id))
}

/// What the backend reads of a sandbox.
const CONFIG: &str = "config.json";

/// In the bundle of a sandbox that is restored: short of running it is nothing, whatever the
/// backend says, as a start would begin it anew.
const FROM_IMAGE: &str = "from-image";

/// Notes that the sandbox goes on from an image, or not at all. Comes after [`write`].
pub(crate) fn mark_from_image(paths: &Paths, id: &SandboxId) -> io::Result<()> {
    // It is the name that says so: that costs less than a file more.
    let bundle = paths.bundle(id);
    match fs::hard_link(bundle.join(CONFIG), bundle.join(FROM_IMAGE)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says whether a sandbox goes on from an image, or not at all.
pub(crate) fn is_from_image(paths: &Paths, id: &SandboxId) -> io::Result<bool> {
    fs::exists(paths.bundle(id).join(FROM_IMAGE))
}

/// Fills the bundle, and prepares the root file system.
pub(crate) fn write(paths: &Paths, spec: &RuntimeSpec, limits: &Limits) -> io::Result<()> {
    fs::write(paths.shape(&spec.id), limits.shape())?;
    let config = serde_json::to_vec(&oci::config(spec))?;
    fs::write(paths.bundle(&spec.id).join(CONFIG), config)?;
    unless_full(&spec.id, keep_tmp_on_disk(&spec.rootfs))
}

/// Removes bundle and shape file.
pub(crate) fn remove(paths: &Paths, id: &SandboxId) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    gone(fs::remove_file(paths.shape(id)))?;
    gone(fs::remove_dir_all(paths.bundle(id)))
}

/// Puts a directory into an empty `/tmp`.
///
/// Over an empty `/tmp`, or none, the backend mounts a file system in memory: what is written
/// there would then count as memory and be lost by a file system snapshot. The directory is one
/// that `/tmp` has on most systems anyway. The path is resolved without following links, as the
/// tree may come from a tenant's snapshot.
fn keep_tmp_on_disk(rootfs: &Path) -> io::Result<()> {
    let open_mode = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let shared = Mode::RWXU | Mode::RWXG | Mode::RWXO | Mode::SVTX;
    let root = open(rootfs, open_mode, Mode::empty())?;
    let tmp = match openat2(&root, "tmp", open_mode, Mode::empty(), resolve) {
        Ok(tmp) => tmp,
        Err(Errno::NOENT) => {
            make_shared(&root, "tmp", shared)?;
            openat2(&root, "tmp", open_mode, Mode::empty(), resolve)?
        }
        // Not a directory: the backend leaves that alone, too.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let is_empty = Dir::read_from(&tmp)?
        .filter_map(Result::ok)
        .all(|entry| [c".", c".."].contains(&entry.file_name()));
    if is_empty {
        make_shared(&tmp, ".X11-unix", shared)?;
    }
    Ok(())
}

/// Lets a sandbox start though its disk is full: room can be made only by who is inside.
///
/// If its `/tmp` is empty, one that begins anew has it in memory until its next start, and then
/// what is written there neither needs the disk nor outlives the sandbox. One that goes on from an
/// image has what was mounted when that was written.
fn unless_full(id: &SandboxId, kept: io::Result<()>) -> io::Result<()> {
    match kept {
        Err(error) if is_full(&error) => {
            tracing::warn!(sandbox.id = %id, %error, "nothing is put into /tmp: the disk is full");
            Ok(())
        }
        other => other,
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Makes a directory with exactly these permissions, whatever the process's mask.
fn make_shared(parent: impl std::os::fd::AsFd, name: &str, mode: Mode) -> io::Result<()> {
    mkdirat(&parent, name, Mode::RWXU)?;
    let made = rustix::fs::openat(
        &parent,
        name,
        OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::fchmod(&made, mode)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn an_empty_tmp_gets_a_directory_and_any_other_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let tmp = root.path().join("tmp");
        let names = || {
            let entries = fs::read_dir(&tmp).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
        };
        for _ in 0..2 {
            keep_tmp_on_disk(root.path()).unwrap();
            assert_eq!(names(), [".X11-unix"]);
        }
        for made in [tmp.clone(), tmp.join(".X11-unix")] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o7777, 0o1777);
        }
        fs::remove_dir(tmp.join(".X11-unix")).unwrap();
        fs::write(tmp.join("file"), "").unwrap();
        keep_tmp_on_disk(root.path()).unwrap();
        assert_eq!(names(), ["file"]);
    }

    #[test]
    fn only_a_full_disk_is_no_obstacle() {
        let id = SandboxId::from_random([1; SandboxId::LENGTH]);
        for (error, passes) in [
            (Errno::NOSPC, true),
            (Errno::DQUOT, true),
            (Errno::ROFS, false),
            (Errno::ACCESS, false),
            (Errno::IO, false),
        ] {
            assert_eq!(unless_full(&id, Err(error.into())).is_ok(), passes, "{error:?}");
        }
        unless_full(&id, Ok(())).unwrap();
    }
}
