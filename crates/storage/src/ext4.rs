//! What is done to an ext4 image that is not mounted.
//!
//! It is not enlarged online by the kernel's `EXT4_IOC_RESIZE_FS`: that wants `CAP_SYS_RESOURCE`,
//! which a container that may mount often lacks, and a second way would have to be there for those
//! hosts.

use std::{ffi::OsStr, fs::OpenOptions, path::Path};

use tarn_types::ByteSize;

use crate::{
    step::{HostStepError, StepContext as _},
    tool,
};

/// What e2fsck ends with when there was nothing to repair, or it repaired it (e2fsck(8)).
const SOUND: [i32; 2] = [0, 1];

/// Makes an image and the file system in it as large as it is to be; one that is no smaller stays
/// as it is.
///
/// A clone of a layer in use has a journal to be replayed, which e2fsck does on its way;
/// resize2fs would refuse it.
pub(crate) fn enlarge(path: &Path, size: ByteSize) -> Result<(), HostStepError> {
    let image = OpenOptions::new().write(true).open(path).step("open", path)?;
    if image.metadata().step("look at", path)?.len() >= size.bytes() {
        return Ok(());
    }
    let check = [OsStr::new("-f"), OsStr::new("-p"), path.as_os_str()];
    tool::run_to(&SOUND, "e2fsck", &check).step("check", path)?;
    image.set_len(size.bytes()).step("size", path)?;
    tool::run("resize2fs", &[path.as_os_str()]).step("enlarge the file system in", path)?;
    // The loop device reads past the page cache.
    image.sync_all().step("sync", path)
}

/// Writes what the journal of an image still holds to its place, as the next mount would.
///
/// The clone of a layer in use always holds something, and every layer that is built from it would
/// begin with that work.
pub(crate) fn replay_journal(path: &Path) -> Result<(), HostStepError> {
    let only = [OsStr::new("-p"), OsStr::new("-E"), OsStr::new("journal_only"), path.as_os_str()];
    tool::run_to(&SOUND, "e2fsck", &only).step("replay the journal of", path)
}
