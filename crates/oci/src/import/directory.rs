//! A layout in a directory.

use std::{fs::File, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2},
    io::Errno,
};

use crate::OciError;

use super::{Content, Store};

/// A directory from which nothing leads away.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

// === impl Directory ===

impl Directory {
    pub(super) fn open(path: &Path) -> Result<Self, OciError> {
        let opened = open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        opened.map(Self).map_err(|error| OciError::disk("open", path, error))
    }
}

impl Store for Directory {
    fn open(&self, name: &str) -> Result<Option<Content>, OciError> {
        let fail = |error: Errno| OciError::disk("open", name, error);
        // A pipe in the place of a file must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = match openat2(&self.0, name, flags, Mode::empty(), resolve) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::XDEV | Errno::NXIO) => {
                let what = "is a link, or leads out of the layout";
                return Err(OciError::Hostile { entry: crate::digest::shown(name), what });
            }
            Err(error) => return Err(fail(error)),
        };
        let meta = fstat(&file).map_err(fail)?;
        if FileType::from_raw_mode(meta.st_mode) != FileType::RegularFile {
            let what = "is no regular file";
            return Err(OciError::Hostile { entry: crate::digest::shown(name), what });
        }
        let size = u64::try_from(meta.st_size).unwrap_or(0);
        Ok(Some(Content { file: File::from(file), offset: 0, size }))
    }
}
