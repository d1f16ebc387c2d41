//! The sandbox's files, touched with the default user's rights (spec 05 §3).
//!
//! Every action runs on one of a few threads that have given up root, so the kernel makes all
//! permission checks; tarnd makes none of its own, and there is no window between a check and
//! its use. A thread is held for one action or one chunk at a time, so a slow client holds none.

mod list;
mod path;
mod read;
mod upload;

use std::{io, os::unix::fs::FileTypeExt as _, path::Path};

use nix::errno::Errno;

pub(crate) use self::{
    list::{Listing, list},
    path::{FilePath, PathError},
    read::{OpenFile, delete, open, read_chunk},
    upload::Upload,
};
use crate::sys::{self, Identity};

/// Why nothing was done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileError {
    /// There is no such file.
    NotFound(String),
    /// It is a directory.
    IsDirectory(String),
    /// It, or something on the way to it, is not a directory.
    NotADirectory(String),
    /// The path can't mean a file: too long, a loop of links, a device.
    Invalid(String),
    /// The operating system refused.
    Failed(String),
}

/// Runs an action with an identity's rights, on a thread of the file pool.
pub(crate) async fn with_rights<T: Send + 'static>(
    identity: &Identity,
    action: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let identity = identity.clone();
    let work = move || {
        sys::assume(&identity)
            .map_err(|error| FileError::Failed(format!("cannot act as the user: {error}")))?;
        action()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(FileError::Failed(format!("the file thread ended: {error}"))),
    }
}

// === impl FileError ===

impl FileError {
    /// Sorts an operating system's error.
    fn new(path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT) => Self::NotFound(format!("there is no '{path}'")),
            Some(Errno::EISDIR) => Self::IsDirectory(format!("'{path}' is a directory")),
            Some(Errno::ENOTDIR) => {
                Self::NotADirectory(format!("a part of '{path}' is not a directory"))
            }
            Some(errno @ (Errno::ENAMETOOLONG | Errno::ELOOP | Errno::EINVAL)) => {
                Self::Invalid(format!("'{path}': {}", errno.desc()))
            }
            Some(errno) => Self::Failed(format!("'{path}': {}", errno.desc())),
            None => Self::Failed(format!("'{path}': {error}")),
        }
    }

    /// What is not there, however it is not there.
    fn missing_if_not_directory(self) -> Self {
        match self {
            Self::NotADirectory(text) => Self::NotFound(text),
            other @ (Self::NotFound(_)
            | Self::IsDirectory(_)
            | Self::Invalid(_)
            | Self::Failed(_)) => other,
        }
    }
}

/// Refuses what is not a plain file; opening a FIFO would wait for its other end, and opening a
/// device can do anything.
fn check_regular(path: &Path, metadata: &std::fs::Metadata) -> Result<(), FileError> {
    let kind = metadata.file_type();
    let name = if kind.is_file() {
        return Ok(());
    } else if kind.is_dir() {
        return Err(FileError::IsDirectory(format!("'{}' is a directory", path.display())));
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(FileError::Invalid(format!("'{}' is {name}, not a file", path.display())))
}
