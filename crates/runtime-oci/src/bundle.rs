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
    keep_tmp_on_disk(&spec.rootfs)
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
