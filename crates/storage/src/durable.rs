//! Files that are either there whole, after a power cut too, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::step::{HostStepError, StepContext as _};

/// Writes a file with a mode, replacing one of that name at once.
pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), HostStepError> {
    let draft = path.with_extension("new");
    remove(&draft)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .step("make", &draft)?;
    file.write_all(content).step("write", &draft)?;
    file.sync_all().step("sync", &draft)?;
    fs::rename(&draft, path).step("rename", &draft)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<(), HostStepError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(HostStepError::new("remove", path, error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), HostStepError> {
    File::open(dir).and_then(|dir| dir.sync_all()).step("sync", dir)
}
