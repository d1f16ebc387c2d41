//! The pool's XFS image: made, mounted, grown.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
    mount::MountFlags,
};
use tarn_types::{ByteSize, InstanceTag};

use super::{PoolError, PoolSizing, allocated, growth::PoolFill, room};
use crate::{
    durable,
    loopdev::{self, LoopDevice},
    mount::{self, XFS_MAGIC},
    step::{HostStepError, StepContext as _},
    tool,
};

/// The least that `mkfs.xfs` accepts, with something to spare.
const LEAST: ByteSize = ByteSize::from_mib(512);
/// The most that one allocation group of a new image gets. Growth adds groups of the first ones'
/// size, so small ones would become many.
const GROUP_BYTES: u64 = 4 << 30;

/// The image file and the directory it is mounted on.
#[derive(Debug)]
pub(super) struct PoolImage {
    file: PathBuf,
    dir: PathBuf,
    name: String,
}

// === impl PoolImage ===

impl PoolImage {
    pub(super) fn new(file: &Path, dir: &Path, tag: &InstanceTag) -> Self {
        Self { file: file.to_owned(), dir: dir.to_owned(), name: format!("tarn-{tag}/pool") }
    }

    pub(super) fn exists(&self) -> bool {
        self.file.exists()
    }

    /// Returns a path on the disk below.
    pub(super) fn disk(&self) -> &Path {
        &self.file
    }

    pub(super) fn size(&self) -> Result<u64, HostStepError> {
        Ok(fs::metadata(&self.file).step("look at", &self.file)?.len())
    }

    /// Returns how much of the image has no blocks on the disk below.
    pub(super) fn holes(&self) -> Result<u64, HostStepError> {
        let meta = fs::metadata(&self.file).step("look at", &self.file)?;
        Ok(meta.len().saturating_sub(allocated(&meta).bytes()))
    }

    /// Makes the image; it appears under its name only when it is complete.
    pub(super) fn create(&self, sizing: &PoolSizing) -> Result<(), PoolError> {
        let parent = self.file.parent().unwrap_or(Path::new("/"));
        let (_, disk_free) = room(parent)?;
        let possible = sizing.room_to_grow(PoolFill { size: 0, free: 0, disk_free, holes: 0 });
        let size = sizing.initial.bytes().min(possible);
        if size < LEAST.bytes() {
            return Err(PoolError::NoRoom {
                path: parent.to_owned(),
                available: ByteSize::from_bytes(possible),
                least: LEAST,
            });
        }
        let draft = self.file.with_extension("img.new");
        // Not written over: whoever still works on an old one does not work on this one.
        durable::remove(&draft)?;
        let image = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .step("make", &draft)?;
        fallocate(&image, FallocateFlags::empty(), 0, size).step("allocate", &draft)?;
        format(&draft, size)?;
        image.sync_all().step("write", &draft)?;
        fs::rename(&draft, &self.file).step("rename", &draft)?;
        durable::sync(parent)?;
        Ok(())
    }

    /// Mounts the image unless it is mounted, and takes over its size.
    pub(super) fn ensure_mounted(&self) -> Result<(), HostStepError> {
        if !self.is_mounted()? {
            let device = LoopDevice::attach(&self.file, &self.name)?;
            // `nouuid`: a copy of the data directory may be mounted beside the original.
            mount::mount(
                device.path(),
                &self.dir,
                "xfs",
                MountFlags::NOATIME | MountFlags::NODEV | MountFlags::NOSUID,
                OsStr::new("nouuid"),
            )?;
        }
        // A server that died while it enlarged the image left the file larger than what is in it.
        self.use_whole_file()
    }

    /// Enlarges the image to a size.
    pub(super) fn grow(&self, size: u64) -> Result<(), HostStepError> {
        let image = OpenOptions::new().write(true).open(&self.file).step("open", &self.file)?;
        let before = self.size()?;
        let allocated = fallocate(&image, FallocateFlags::empty(), before, size - before)
            .step("allocate", &self.file);
        if allocated.is_err() {
            // Part of it may be allocated: give that back, the disk below is short.
            image.set_len(before).step("shorten", &self.file)?;
        }
        allocated?;
        self.use_whole_file()
    }

    fn use_whole_file(&self) -> Result<(), HostStepError> {
        let attached = loopdev::attached_beneath(&self.file)?;
        attached.iter().try_for_each(loopdev::AttachedLoop::refresh_capacity)?;
        tool::run("xfs_growfs", &[OsStr::new("-d"), self.dir.as_os_str()])
            .step("enlarge the file system of", &self.dir)
    }

    fn is_mounted(&self) -> Result<bool, HostStepError> {
        let mounted =
            mount::mounts_beneath(&self.dir)?.into_iter().find(|entry| entry.target == self.dir);
        let Some(entry) = mounted else { return Ok(false) };
        let device = PathBuf::from(&entry.source);
        let ours = loopdev::attached_beneath(&self.file)?.iter().any(|it| it.device == device);
        if ours && mount::is_on(&self.dir, XFS_MAGIC)? {
            return Ok(true);
        }
        // Something else lies over the pool: mounting over that would hide it, using it would
        // lose layers.
        Err(HostStepError::new("find the pool's image mounted on", &self.dir, Errno::BUSY))
    }
}

/// Returns what keeps this host from having an image, if anything does.
pub(super) fn obstacle() -> Option<String> {
    let missing = ["mkfs.xfs", "xfs_growfs"].into_iter().find(|it| !tool::is_installed(it));
    if let Some(program) = missing {
        return Some(format!("{program} is not installed"));
    }
    match loopdev::probe() {
        Ok(()) => None,
        Err(error) => Some(format!("loop devices cannot be used: {error}")),
    }
}

fn format(image: &Path, size: u64) -> Result<(), HostStepError> {
    let groups = format!("agcount={}", size.div_ceil(GROUP_BYTES).max(2));
    let arguments = [
        // -K: no discard, it would give the allocation back. Sectors of 4096 suit any disk below.
        "-q",
        "-f",
        "-K",
        "-m",
        "reflink=1,crc=1",
        "-s",
        "size=4096",
        "-d",
        &groups,
    ];
    let mut arguments: Vec<_> = arguments.iter().map(OsStr::new).collect();
    arguments.push(image.as_os_str());
    tool::run("mkfs.xfs", &arguments).step("format", image)
}
