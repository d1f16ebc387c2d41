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
    sync(dir)
}

/// Makes files and the names in directories durable, in no order: the disk is waited for once, and
/// not once for each.
pub(crate) fn sync_at_once<'a>(places: &'a [PathBuf]) -> Result<(), HostStepError> {
    let Some((last, others)) = places.split_last() else { return Ok(()) };
    thread::scope(|scope| {
        let start = |place: &'a PathBuf| {
            let thread = thread::Builder::new().name("sync".to_owned());
            // Without a thread to be had it takes its turn here.
            thread.spawn_scoped(scope, || sync(place)).map_err(|_none| sync(place))
        };
        let others: Vec<_> = others.iter().map(start).collect();
        let synced = sync(last);
        others.into_iter().fold(synced, |synced, other| {
            let ended = other.map(|it| it.join().unwrap_or_else(|bad| resume_unwind(bad)));
            synced.and(ended.unwrap_or_else(|synced_here| synced_here))
        })
    })
}

fn sync(place: &Path) -> Result<(), HostStepError> {
    File::open(place).and_then(|file| file.sync_all()).step("sync", place)
}
