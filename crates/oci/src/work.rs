//! The directory in which one image is made: `blobs/`, what was fetched, and `rootfs/`, the tree.

use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{self, DirBuilder},
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock, open},
    io::Errno,
};

use crate::{OciError, manifest::Descriptor};

/// A work directory, ours alone until it is dropped.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    /// Holds the lock; the kernel lets go of it even if we are killed.
    _locked: OwnedFd,
}

// === impl Work ===

impl Work {
    /// Waits for the directory. Blocks.
    pub(crate) fn lock(path: PathBuf) -> Result<Self, OciError> {
        let fail = |error: Errno| OciError::disk("lock", &path, error);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let locked = open(&path, flags, Mode::empty()).map_err(fail)?;
        loop {
            match flock(&locked, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(fail(error)),
                Ok(()) => return Ok(Self { path, _locked: locked }),
            }
        }
    }

    /// Returns the directory of blobs, in which are no others than those of these layers.
    pub(crate) fn blobs(&self, layers: &[Descriptor]) -> Result<PathBuf, OciError> {
        let dir = self.blob_dir()?;
        let wanted: HashSet<OsString> = layers
            .iter()
            .map(|layer| format!("{}-{}", layer.digest.algorithm(), layer.digest.hex()).into())
            .collect();
        let fail = |error| OciError::disk("list", &dir, error);
        for entry in fs::read_dir(&dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if !wanted.contains(&entry.file_name()) {
                let path = entry.path();
                fs::remove_file(&path).map_err(|error| OciError::disk("remove", path, error))?;
            }
        }
        Ok(dir)
    }

    /// Returns the directory of blobs, whatever is in it.
    pub(crate) fn blob_dir(&self) -> Result<PathBuf, OciError> {
        let dir = self.path.join("blobs");
        let made = DirBuilder::new().mode(0o700).create(&dir);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(OciError::disk("make", dir, error))
            }
            Ok(()) | Err(_) => Ok(dir),
        }
    }

    /// Removes what was fetched.
    pub(crate) fn forget_blobs(&self) -> Result<(), OciError> {
        remove_dir(&self.path.join("blobs"))
    }

    /// Removes the tree; returns where it is to be.
    pub(crate) fn empty_root(&self) -> Result<PathBuf, OciError> {
        let root = self.path.join("rootfs");
        remove_dir(&root)?;
        Ok(root)
    }
}

/// Removes a directory with all that is in it, following no link.
fn remove_dir(path: &Path) -> Result<(), OciError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(OciError::disk("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
