//! Writing a file: all of it or nothing, and on the disk before the answer.
//!
//! The content goes to a hidden file beside the target, which it replaces by a rename at the
//! end; whatever interrupts it leaves the old content. Where the target may be written but its
//! directory may not, or it can't be renamed over (a bind mount), the content waits in `/tmp`
//! and is copied into the target at the end: not atomic, but still untouched until then.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{fs::FallocateFlags, io::Errno};

use super::{FileError, check_regular};
use crate::sys;

/// As many links as the kernel follows.
const MAX_LINKS: usize = 40;

/// As many files of earlier uploads are passed by.
const MAX_LEFT: usize = 1000;

const NEW_FILE_MODE: u32 = 0o644;
const MODE_BITS: u32 = 0o7777;
const PERMISSION_BITS: u32 = 0o777;

/// Where content waits when it can't wait beside its target.
const SPOOL_DIR: &str = "/tmp";

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A file being written.
#[derive(Debug)]
pub(crate) struct Upload {
    target: PathBuf,
    existing: Option<Existing>,
    content: Content,
}

/// What the target was.
#[derive(Clone, Copy, Debug)]
struct Existing {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// The content so far; its file is removed with it.
#[derive(Debug)]
struct Content {
    file: Arc<File>,
    path: PathBuf,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Beside,
    Spool,
}

// === impl Upload ===

impl Upload {
    /// Makes the parent directories and an empty file beside the target.
    pub(crate) fn begin(path: &Path) -> Result<Self, FileError> {
        let target = follow_links(path)?;
        let directory = target.parent().unwrap_or(Path::new("/"));
        create_directories(directory)?;
        let existing = check_target(&target)?;
        let content = match Content::create(directory, Place::Beside) {
            Err(error) if existing.is_some() && is_refusal(&error) => {
                Content::create(Path::new(SPOOL_DIR), Place::Spool)
            }
            outcome => outcome,
        };
        let content = content.map_err(|error| FileError::new(&target, &error))?;
        Ok(Self { target, existing, content })
    }

    /// Appends to the content.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        (&*self.content.file).write_all(bytes).map_err(|error| FileError::new(&self.target, &error))
    }

    /// What brings to the disk what there is of the content, also while more is appended; nothing
    /// where the content waits elsewhere and is written once more.
    ///
    /// A failure of it must fail the upload: the kernel says only once that a write was lost.
    pub(crate) fn sync(&self) -> Option<impl FnOnce() -> Result<(), FileError> + Send + use<>> {
        let (file, target) = (Arc::clone(&self.content.file), self.target.clone());
        let sync = move || file.sync_data().map_err(|error| FileError::new(&target, &error));
        (self.content.place == Place::Beside).then_some(sync)
    }

    /// Puts the content in the target's place, durably.
    pub(crate) fn commit(mut self) -> Result<(), FileError> {
        let outcome = match self.content.place {
            Place::Spool => self.copy_into_target(),
            Place::Beside => self.replace_target(),
        };
        outcome.map_err(|error| FileError::new(&self.target, &error))
    }

    fn replace_target(&mut self) -> io::Result<()> {
        self.take_over_attributes()?;
        self.content.file.sync_all()?;
        match fs::rename(&self.content.path, &self.target) {
            // A mount point can't be renamed over.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EXDEV)) => {
                self.copy_into_target()
            }
            outcome => {
                outcome?;
                sync_directory(self.target.parent().unwrap_or(Path::new("/")))
            }
        }
    }

    /// An existing file keeps its mode and owner. Giving a file away is root's: the user was
    /// allowed to replace the content (checked by opening it), not to take the file.
    fn take_over_attributes(&self) -> io::Result<()> {
        let file = &*self.content.file;
        let Some(existing) = self.existing else {
            return file.set_permissions(Permissions::from_mode(NEW_FILE_MODE));
        };
        let own = file.metadata()?;
        if (own.uid(), own.gid()) == (existing.uid, existing.gid) {
            return file.set_permissions(Permissions::from_mode(existing.mode & MODE_BITS));
        }
        sys::as_root(|| {
            fchown(file, Some(existing.uid), Some(existing.gid))?;
            // As the kernel does when somebody else writes: no set-id bits for foreign content.
            file.set_permissions(Permissions::from_mode(existing.mode & PERMISSION_BITS))
        })
    }

    fn copy_into_target(&mut self) -> io::Result<()> {
        let mut target = open_for_writing(&self.target)?;
        let mut content = &*self.content.file;
        let (had, needed) = (target.metadata()?.len(), content.metadata()?.len());
        reserve(&target, had, needed)?;
        content.rewind()?;
        io::copy(&mut content, &mut target)?;
        target.set_len(needed)?;
        target.sync_all()
    }
}

// === impl Content ===

impl Content {
    fn create(directory: &Path, place: Place) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".tarn-upload-{}-{number}", std::process::id()));
            let opened = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path);
            match opened {
                Ok(file) => return Ok(Self { file: Arc::new(file), path, place }),
                // What an upload left that was under way when a snapshot of these files was taken,
                // or when the host died: its number was not this process's.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries < MAX_LEFT => {
                    drop(fs::remove_file(&path));
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // After the rename it is gone already.
        drop(fs::remove_file(&self.path));
    }
}

/// Follows links by hand, as the rename must replace the file at their end; what is at the end
/// need not exist.
fn follow_links(path: &Path) -> Result<PathBuf, FileError> {
    let mut target = path.to_path_buf();
    if path.file_name().is_none() || path.to_string_lossy().ends_with('/') {
        return Err(FileError::IsDirectory(format!("'{}' is a directory", path.display())));
    }
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(link) => target = target.parent().unwrap_or(Path::new("/")).join(link),
            // Not a link, or not there; whatever else is wrong shows when it is used.
            Err(_) => return Ok(target),
        }
    }
    Err(FileError::new(path, &io::Error::from_raw_os_error(libc::ELOOP)))
}

fn check_target(target: &Path) -> Result<Option<Existing>, FileError> {
    let metadata = match fs::symlink_metadata(target) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::new(target, &error)),
    };
    check_regular(target, &metadata)?;
    drop(open_for_writing(target).map_err(|error| FileError::new(target, &error))?);
    Ok(Some(Existing { uid: metadata.uid(), gid: metadata.gid(), mode: metadata.mode() }))
}

/// Takes the room for what a file is to hold, so that the lack of it shows while the file is still
/// what it was.
fn reserve(target: &File, had: u64, needed: u64) -> io::Result<()> {
    if needed <= had {
        return Ok(());
    }
    match rustix::fs::fallocate(target, FallocateFlags::empty(), 0, needed) {
        Err(lack @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
            target.set_len(had)?;
            Err(lack.into())
        }
        // Not every file system can say it.
        Ok(()) | Err(_) => Ok(()),
    }
}

fn open_for_writing(target: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY)
        .open(target)
}

fn create_directories(directory: &Path) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::new(directory, &error);
    let mut missing = Vec::new();
    let mut known = directory;
    loop {
        match fs::metadata(known) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(known),
            Err(error) => return Err(failed(error)),
        }
        known = known.parent().unwrap_or(Path::new("/"));
    }
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => sync_directory(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?,
        }
    }
    Ok(())
}

/// Makes new names durable; as root, because a directory may be writable but not readable.
fn sync_directory(path: &Path) -> io::Result<()> {
    sys::as_root(|| {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NONBLOCK)
            .open(path)?
            .sync_all()
    })
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

#[cfg(test)]
mod tests;
