//! Reading and deleting files.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bytes::Bytes;

use super::{FileError, check_regular};

const CHUNK_BYTES: usize = 512 << 10;

/// A file that may be read.
pub(crate) struct OpenFile {
    /// The file.
    pub(crate) file: File,
    /// How much of it to send; files of `/proc` say 0 and have content all the same, so an empty
    /// one is read to its end.
    pub(crate) length: Option<u64>,
}

/// Opens a plain file.
pub(crate) fn open(path: &Path) -> Result<OpenFile, FileError> {
    let failed = |error: io::Error| FileError::new(path, &error).missing_if_not_directory();
    check_regular(path, &fs::metadata(path).map_err(failed)?)?;
    // It may have been replaced meanwhile: not to wait for a FIFO, and to look again.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    check_regular(path, &metadata)?;
    let length = Some(metadata.len()).filter(|length| *length > 0);
    Ok(OpenFile { file, length })
}

/// Reads the next chunk; nothing at the end of the file.
pub(crate) fn read_chunk(file: &File) -> io::Result<Option<Bytes>> {
    let mut buffer = Vec::with_capacity(CHUNK_BYTES);
    loop {
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut buffer)) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(buffer.into())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Deletes a file, whatever kind, but no directory; of a link, the link.
pub(crate) fn delete(path: &Path) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::new(path, &error).missing_if_not_directory();
    if fs::symlink_metadata(path).map_err(failed)?.is_dir() {
        return Err(FileError::IsDirectory(format!("'{}' is a directory", path.display())));
    }
    fs::remove_file(path).map_err(failed)
}
