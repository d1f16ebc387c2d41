//! The file of an entry: written, and put in the place of the one before.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::Durability;

pub(super) fn write_file(path: &Path, text: &[u8], durability: Durability) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    if durability == Durability::Synced {
        file.sync_data()?;
    }
    Ok(())
}

/// Has a file take the place of another, if there is one, which stays under the first's name.
pub(super) fn put_in_place(new: &Path, file: &Path) -> io::Result<()> {
    match renameat_with(CWD, new, CWD, file, RenameFlags::EXCHANGE) {
        // The first has nothing to change places with, and not every file system can do it.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(new, file),
        exchanged => Ok(exchanged?),
    }
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
