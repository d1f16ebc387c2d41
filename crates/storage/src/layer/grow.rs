//! The growth of a layer while it is in use.
//!
//! ```text
//!  file lengthened, durably ─▶ loop device told ─▶ file system enlarged by the kernel
//! ```
//!
//! Each step may be repeated, and a crash after any of them leaves a layer that can be mounted: the
//! file is never shorter than the file system in it. What is missing is made up for by the next
//! growth to the same size, or before the next mount.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use rustix::io::Errno;
use tarn_host::LayerError;
use tarn_types::ByteSize;

use super::disk::LayerDisk;
use crate::{
    ext4,
    loopdev::{self, AttachedLoop},
    step::{HostStepError, StepContext as _, chain},
};

// === impl LayerDisk ===

impl LayerDisk {
    /// Enlarges a mounted layer; one that is no smaller stays as it is.
    ///
    /// A failure leaves it as it was, unless it says that a part was done.
    pub(crate) fn grow(&self, size: ByteSize) -> Result<(), LayerError> {
        let (path, layer) = (self.image(), self.layer());
        let device = loopdev::below(&layer).filter(|it| it.backing == path);
        let device = device.ok_or_else(|| {
            HostStepError::new("find the loop device of", &path, io::ErrorKind::NotFound)
        })?;
        let image = OpenOptions::new().write(true).open(&path).step("open", &path)?;
        let length = image.metadata().step("look at", &path)?.len();
        if length >= size.bytes() && ext4::is_filled(&path, length).step("read", &path)? {
            return Ok(());
        }
        let size = ByteSize::from_bytes(size.bytes().max(length));
        let before = blocks(&layer)?;
        let Err(failed) = lengthen(&image, &path, &device, size.bytes())
            .and_then(|()| ext4::enlarge_mounted(&layer, size))
        else {
            return Ok(());
        };
        if blocks(&layer)? > before {
            return Err(LayerError::PartlyGrown { size, source: failed.source });
        }
        if let Err(undo) = lengthen(&image, &path, &device, length) {
            // A file that is too long does no harm, and the next growth uses it.
            tracing::warn!(path = %path.display(), error = chain(&undo), "a layer's file stays too long");
        }
        if failed.source.raw_os_error() == Some(Errno::PERM.raw_os_error()) {
            return Err(LayerError::Unprivileged);
        }
        Err(failed.into())
    }
}

/// Gives file and device another length. The file's is durable before anything relies on it.
fn lengthen(
    image: &File,
    path: &Path,
    device: &AttachedLoop,
    length: u64,
) -> Result<(), HostStepError> {
    image.set_len(length).step("size", path)?;
    image.sync_all().step("sync", path)?;
    device.refresh_capacity()
}

/// Returns how many blocks the file system of a layer has.
fn blocks(layer: &Path) -> Result<u64, HostStepError> {
    Ok(rustix::fs::statvfs(layer).step("look at", layer)?.f_blocks)
}
