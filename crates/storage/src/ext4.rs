//! What is done to the ext4 file system of a layer: to an image that is not mounted, and its growth
//! in use.
//!
//! The kernel enlarges what is mounted only for who has `CAP_SYS_RESOURCE`, which a container that
//! may mount often lacks. So images are enlarged before they are mounted, wherever that can be.

#![allow(unsafe_code, reason = "EXT4_IOC_RESIZE_FS has no safe wrapper in nix or rustix")]

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _},
    path::Path,
};

use tarn_types::ByteSize;

use crate::{
    step::{HostStepError, StepContext as _},
    tool,
};

/// What e2fsck ends with when there was nothing to repair, or it repaired it (e2fsck(8)).
const SOUND: [i32; 2] = [0, 1];

/// ext4 counts in blocks of this size: see [`crate::blank`].
const BLOCK: u64 = 4096;

/// Where an image has its superblock, and how much of it is read here (`struct ext4_super_block`).
const SUPERBLOCK: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 0x154;
const MAGIC: [u8; 2] = [0x53, 0xEF];
/// Where the superblock has `s_feature_incompat`, and `EXT4_FEATURE_INCOMPAT_RECOVER` in it.
const INCOMPATIBLE: u64 = 0x60;
const RECOVER: u32 = 4;

/// A last block group smaller than its own tables is left out by mke2fs and by the kernel.
const TAIL: u64 = 8 << 20;

mod request {
    //! The ioctl itself (`fs/ext4/ext4.h`).
    #![allow(
        missing_docs,
        reason = "the macro writes this function and gives it no place for docs"
    )]

    nix::ioctl_write_ptr!(resize_fs, b'f', 16, u64);
}

/// Makes an image and the file system in it as large as it is to be; one that is no smaller stays
/// as it is. A growth that a crash cut short is finished.
///
/// A clone of a layer in use has a journal to be replayed, which e2fsck does on its way;
/// resize2fs would refuse it.
pub(crate) fn enlarge(path: &Path, size: ByteSize) -> Result<(), HostStepError> {
    let image = OpenOptions::new().write(true).open(path).step("open", path)?;
    let length = image.metadata().step("look at", path)?.len();
    if length >= size.bytes() && is_filled(path, length).step("read", path)? {
        return Ok(());
    }
    let check = [OsStr::new("-f"), OsStr::new("-p"), path.as_os_str()];
    tool::run_to(&SOUND, "e2fsck", &check).step("check", path)?;
    image.set_len(size.bytes().max(length)).step("size", path)?;
    tool::run("resize2fs", &[path.as_os_str()]).step("enlarge the file system in", path)?;
    // The loop device reads past the page cache.
    image.sync_all().step("sync", path)
}

/// Enlarges the file system that is mounted on a directory, in use, as far as its device goes. One
/// that is no smaller stays as it is.
pub(crate) fn enlarge_mounted(root: &Path, size: ByteSize) -> Result<(), HostStepError> {
    let dir = File::open(root).step("open", root)?;
    let blocks = size.bytes() / BLOCK;
    // SAFETY: the descriptor is an open directory, and the call reads one `u64` that outlives it.
    unsafe { request::resize_fs(dir.as_raw_fd(), &raw const blocks) }
        .step("enlarge the file system on", root)?;
    Ok(())
}

/// Says whether the file system of an image takes all of it.
pub(crate) fn is_filled(path: &Path, length: u64) -> io::Result<bool> {
    let mut block = [0; SUPERBLOCK_BYTES];
    File::open(path)?.read_exact_at(&mut block, SUPERBLOCK)?;
    Ok(size_of_file_system(&block).is_none_or(|size| size.saturating_add(TAIL) >= length))
}

/// Reads the size of a file system from its superblock, in bytes; `None` if it is none.
fn size_of_file_system(block: &[u8; SUPERBLOCK_BYTES]) -> Option<u64> {
    let word = |at: usize| {
        let bytes = block.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    if block[0x38..0x3A] != MAGIC {
        return None;
    }
    let blocks = word(0x4)? | (word(0x150)? << 32);
    let block_size = 1024_u64.checked_shl(u32::try_from(word(0x18)?).ok()?)?;
    blocks.checked_mul(block_size)
}

/// Says whether the journal of an image holds what a mount would have to put in its place.
pub(crate) fn needs_recovery(path: &Path) -> io::Result<bool> {
    let mut features = [0; 4];
    File::open(path)?.read_exact_at(&mut features, SUPERBLOCK + INCOMPATIBLE)?;
    Ok(u32::from_le_bytes(features) & RECOVER != 0)
}

/// Writes what the journal of an image still holds to its place, as the next mount would.
///
/// The clone of a layer in use always holds something, and every layer that is built from it
/// begins with that work.
pub(crate) fn replay_journal(path: &Path) -> Result<(), HostStepError> {
    let only = [OsStr::new("-p"), OsStr::new("-E"), OsStr::new("journal_only"), path.as_os_str()];
    tool::run_to(&SOUND, "e2fsck", &only).step("replay the journal of", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read_from_the_superblock() {
        let mut block = [0; SUPERBLOCK_BYTES];
        assert_eq!(size_of_file_system(&block), None, "no magic");
        block[0x38..0x3A].copy_from_slice(&MAGIC);
        block[0x4..0x8].copy_from_slice(&2_621_440_u32.to_le_bytes());
        block[0x18] = 2;
        assert_eq!(size_of_file_system(&block), Some(10 << 30));
        block[0x150] = 1;
        assert_eq!(size_of_file_system(&block), Some((10 << 30) + (16 << 40)));
    }

    #[test]
    fn a_growth_that_was_cut_short_is_finished() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("disk.img");
        File::create(&path)?.set_len(64 << 20)?;
        let quiet = [OsStr::new("-q"), OsStr::new("-F"), path.as_os_str()];
        tool::run("mkfs.ext4", &quiet)?;
        let filled = || is_filled(&path, std::fs::metadata(&path)?.len());
        assert!(filled()?);
        // The server died when the file was longer, and the file system was not.
        OpenOptions::new().write(true).open(&path)?.set_len(200 << 20)?;
        assert!(!filled()?);
        enlarge(&path, ByteSize::from_mib(200))?;
        assert!(filled()?);
        let before = std::fs::metadata(&path)?.modified()?;
        enlarge(&path, ByteSize::from_mib(200))?;
        assert_eq!(std::fs::metadata(&path)?.modified()?, before, "whole ones stay untouched");
        Ok(())
    }
}
