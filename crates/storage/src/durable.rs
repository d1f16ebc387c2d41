//! Files that are either there whole, after a power cut too, or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
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
    path.parent().map_or(Ok(()), sync)
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

/// Makes a file durable, or the names in a directory.
pub(crate) fn sync(place: &Path) -> Result<(), HostStepError> {
    File::open(place).and_then(|file| file.sync_all()).step("sync", place)
}

/// Makes files and the names in directories durable, in no order: the disk is waited for once, and
/// not once for each.
pub(crate) fn sync_at_once(places: &[PathBuf]) -> Result<(), HostStepError> {
    let Some((last, others)) = places.split_last() else { return Ok(()) };
    thread::scope(|scope| {
        let start = |place| thread::Builder::new().spawn_scoped(scope, move || sync(place));
        let threads: Vec<_> = others.iter().map(|place| (place, start(place.as_path()))).collect();
        let mut synced = sync(last);
        for (place, thread) in threads {
            synced = synced.and(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|bad| resume_unwind(bad)),
                // Without a thread to be had it takes its turn here.
                Err(_none) => sync(place),
            });
        }
        synced
    })
}
