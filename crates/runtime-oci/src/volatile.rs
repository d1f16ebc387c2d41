//! The state directory, in memory.
//!
//! What lies there is worth nothing after the host has restarted, and several files come and go
//! with each sandbox. On a disk they are a large part of what a server does for a start: see
//! decision 41.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::Path};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::{netns, paths::Paths};

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// Bounds what a mistake may take of the host's memory.
const OPTIONS: &str = "mode=700,size=10%";

/// Mounts a file system in memory on a directory, which is made, unless a file lies in it besides
/// `pin`: then there are sandboxes of a server from before this, and they stay where they are.
pub(crate) fn keep_in_memory(dir: &Path, pin: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if is_in_memory(dir) || has_files(dir, pin)? {
        return Ok(());
    }
    // Nobody could reach it any more.
    netns::unpin(pin)?;
    mount(
        Some("tarn"),
        dir,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some(OPTIONS),
    )?;
    Ok(())
}

/// Unmounts the state directory and the programs of a server that has ended, unless sandboxes are
/// left: then a server to come adopts them.
///
/// # Errors
/// Fails when it cannot be read, or not be unmounted.
pub fn let_go_if_unused(state_dir: &Path) -> io::Result<()> {
    let paths = Paths::new(state_dir);
    if has_files(state_dir, &paths.null_netns())? {
        return Ok(());
    }
    let_go(&paths.programs())?;
    let_go(state_dir)
}

/// Unmounts it with all that lies in it, however often it is mounted.
pub(crate) fn let_go(dir: &Path) -> io::Result<()> {
    while is_mount_point(dir)? && is_in_memory(dir) {
        umount2(dir, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Removes a directory with all that lies in it, if it is there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Says whether a file lies in a directory; what is removed meanwhile does not.
fn has_files(dir: &Path, pin: &Path) -> io::Result<bool> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        listing => listing?,
    };
    for entry in listing {
        let entry = entry?;
        let path = entry.path();
        let found = if entry.file_type()?.is_dir() { has_files(&path, pin)? } else { path != *pin };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) fn is_in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC)
}

fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let device = |path: &Path| match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.dev())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let above = dir.parent().map_or(Ok(None), device)?;
    Ok(device(dir)?.is_some_and(|own| Some(own) != above))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_in_memory_unless_something_lies_in_it() -> io::Result<()> {
        let home = tempfile::tempdir_in("/var/tmp")?;
        let (dir, root) = (home.path().join("state"), home.path().join("state/root"));
        let (pin, file) = (root.join("null-netns"), root.join("one.state"));
        fs::create_dir_all(&root)?;
        for path in [&pin, &file] {
            fs::write(path, "")?;
        }
        let mounted = || Ok::<_, io::Error>(is_mount_point(&dir)? && is_in_memory(&dir));
        keep_in_memory(&dir, &pin)?;
        assert!(!mounted()?, "a sandbox was made there before");
        fs::remove_file(&file)?;
        for _ in 0..2 {
            keep_in_memory(&dir, &pin)?;
            assert!(mounted()?);
        }
        assert!(!pin.exists());
        fs::create_dir(&root)?;
        fs::write(&file, "")?;
        let_go_if_unused(&dir)?;
        assert!(mounted()?, "a sandbox runs");
        fs::rename(&file, &pin)?;
        let_go_if_unused(&dir)?;
        assert!(!mounted()?);
        let_go(&dir)
    }
}
