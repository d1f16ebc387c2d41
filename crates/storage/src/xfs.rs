//! How much XFS copies for a write to a block that a file shares with its clones.
//!
//! By default it sets 128 KiB aside for each, so that what lies beside it finds its place there
//! later. A layer is written in blocks of 4 KiB, and what is set aside is not free: a program that
//! writes a block here and there takes 32 times the room of what it wrote, long after the host
//! has counted it. It also saves some work: a layer that shares no more than its blank stays so.

#![allow(unsafe_code, reason = "the ioctls have no safe wrapper in nix or rustix")]

use std::{fs::File, os::fd::AsRawFd as _, path::Path};

use crate::step::{HostStepError, StepContext as _};

/// `FS_XFLAG_COWEXTSIZE` (linux/fs.h).
const COW_EXTENT_SIZE: u32 = 0x0001_0000;

/// Has a file copy no more than the blocks that are written from now on.
///
/// # Errors
/// Fails where the file is not on an XFS that clones.
pub(crate) fn copy_by_block(path: &Path) -> Result<(), HostStepError> {
    let file = File::open(path).step("open", path)?;
    let block = rustix::fs::fstatvfs(&file).step("ask the block size of", path)?.f_bsize;
    let mut attributes = ioctl::Attributes::default();
    // SAFETY: the descriptor is open, and the pointer is to what the kernel fills.
    unsafe { ioctl::get(file.as_raw_fd(), &raw mut attributes) }
        .step("read the attributes of", path)?;
    let size = u32::try_from(block).unwrap_or(4096);
    if attributes.flags & COW_EXTENT_SIZE != 0 && attributes.cow_extent_size == size {
        return Ok(());
    }
    attributes.flags |= COW_EXTENT_SIZE;
    attributes.cow_extent_size = size;
    // SAFETY: the descriptor is open, and the pointer is to what the kernel reads.
    unsafe { ioctl::set(file.as_raw_fd(), &raw const attributes) }
        .step("set the attributes of", path)?;
    Ok(())
}

mod ioctl {
    //! The ioctls themselves (linux/fs.h).

    #![allow(missing_docs, reason = "macros write these functions and give them no place for docs")]

    /// `struct fsxattr`.
    #[derive(Debug, Default)]
    #[repr(C)]
    pub(super) struct Attributes {
        pub(super) flags: u32,
        extent_size: u32,
        extents: u32,
        project: u32,
        pub(super) cow_extent_size: u32,
        padding: [u8; 8],
    }

    nix::ioctl_read!(get, b'X', 31, Attributes);
    nix::ioctl_write_ptr!(set, b'X', 32, Attributes);
}
